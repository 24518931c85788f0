//! The indexed attributes of a trace.
//!
//! **Invariant:** an attribute's number is part of stored formats and never changes; new attributes
//! are added at the end.

/// How many attributes are indexed.
pub const ATTRIBUTES: usize = 16;

/// An indexed attribute. Equality, prefix and text filters apply to each; times are indexed beside
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Attribute {
    /// Service acronym.
    ServiceType = 0,
    /// Type of the resource.
    ResourceType = 1,
    /// Operation name.
    TraceName = 2,
    /// `normal`, `warning` or `incident`; `trace_status` is its old name.
    TraceRating = 3,
    /// `ApiCall`, `ConsoleAction`, `SystemAction`, …: an open set.
    TraceType = 4,
    /// `user.name`, else `user.user_name`.
    User = 5,
    /// `user.id`.
    UserId = 6,
    /// `user.access_key_id`.
    AccessKeyId = 7,
    /// Source address.
    SourceIp = 8,
    /// Name of the resource.
    ResourceName = 9,
    /// Id of the resource.
    ResourceId = 10,
    /// Id of the trace; hashed in runs.
    TraceId = 11,
    /// Status code as text.
    Code = 12,
    /// Enterprise project.
    EnterpriseProjectId = 13,
    /// Project.
    ProjectId = 14,
    /// `true` or `false`.
    ReadOnly = 15,
}

impl Attribute {
    /// Every attribute, in order of its number.
    pub const ALL: [Self; ATTRIBUTES] = [
        Self::ServiceType,
        Self::ResourceType,
        Self::TraceName,
        Self::TraceRating,
        Self::TraceType,
        Self::User,
        Self::UserId,
        Self::AccessKeyId,
        Self::SourceIp,
        Self::ResourceName,
        Self::ResourceId,
        Self::TraceId,
        Self::Code,
        Self::EnterpriseProjectId,
        Self::ProjectId,
        Self::ReadOnly,
    ];

    /// The name in queries and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceType => "service_type",
            Self::ResourceType => "resource_type",
            Self::TraceName => "trace_name",
            Self::TraceRating => "trace_rating",
            Self::TraceType => "trace_type",
            Self::User => "user",
            Self::UserId => "user_id",
            Self::AccessKeyId => "access_key_id",
            Self::SourceIp => "source_ip",
            Self::ResourceName => "resource_name",
            Self::ResourceId => "resource_id",
            Self::TraceId => "trace_id",
            Self::Code => "code",
            Self::EnterpriseProjectId => "enterprise_project_id",
            Self::ProjectId => "project_id",
            Self::ReadOnly => "read_only",
        }
    }

    /// The attribute with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.name() == name)
    }
}

/// A set of attributes, a bit for each number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(u16);

impl Attributes {
    /// Every attribute.
    pub const ALL: Self = Self(u16::MAX);

    /// Whether the set has an attribute.
    #[must_use]
    pub fn has(self, attribute: Attribute) -> bool {
        self.0 >> attribute as u8 & 1 == 1
    }
}

impl FromIterator<Attribute> for Attributes {
    fn from_iter<I: IntoIterator<Item = Attribute>>(attributes: I) -> Self {
        Self(attributes.into_iter().fold(0, |set, attribute| set | 1 << attribute as u8))
    }
}

const _: () = assert!(ATTRIBUTES <= u16::BITS as usize);
