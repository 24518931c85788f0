//! Predicates: conditions on one attribute.

use crate::attribute::Attribute;
use crate::trace::VALUE_BYTES_MAX;

/// A condition on one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicate {
    /// The attribute.
    pub attribute: Attribute,
    /// What a value must pass.
    pub test: Test,
    /// Whether the traces are meant that do *not* pass, those that lack the attribute among them.
    pub negate: bool,
}

/// How a value is compared, with any of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It is one of these.
    Equals(Vec<String>),
    /// It begins with one of these.
    Begins(Vec<String>),
    /// It contains one of these.
    Contains(Vec<Text>),
}

/// Text to be found in values, whatever the case of its letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    folded: String,
}

impl Text {
    /// Text to find, in any case.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { folded: text.to_lowercase() }
    }

    /// Whether `value` contains the text.
    #[must_use]
    pub fn is_in(&self, value: &[u8]) -> bool {
        let folded = self.folded.as_bytes();
        let (Some(first), Some(last)) = (folded.first(), folded.last()) else { return true };
        if !value.is_ascii() {
            return String::from_utf8_lossy(value).to_lowercase().contains(&self.folded);
        }
        // Both ends must agree before the rest is compared: most places fail at once.
        value.windows(folded.len()).any(|window| {
            window[window.len() - 1].to_ascii_lowercase() == *last
                && window[0].to_ascii_lowercase() == *first
                && window.eq_ignore_ascii_case(folded)
        })
    }
}

impl Test {
    /// With how many it compares.
    #[must_use]
    pub fn values(&self) -> usize {
        match self {
            Self::Equals(values) | Self::Begins(values) => values.len(),
            Self::Contains(texts) => texts.len(),
        }
    }

    /// Whether a value, as it is indexed, passes.
    #[must_use]
    pub fn passes(&self, value: &[u8]) -> bool {
        match self {
            Self::Equals(values) => values.iter().any(|one| indexed(one) == value),
            Self::Begins(values) => values.iter().any(|one| value.starts_with(one.as_bytes())),
            Self::Contains(texts) => texts.iter().any(|text| text.is_in(value)),
        }
    }
}

impl Predicate {
    /// The value passes the test.
    #[must_use]
    pub fn new(attribute: Attribute, test: Test) -> Self {
        Self { attribute, test, negate: false }
    }

    /// The value is this one.
    #[must_use]
    pub fn is(attribute: Attribute, value: &str) -> Self {
        Self::new(attribute, Test::Equals(vec![value.to_owned()]))
    }

    /// Whether a value, as it is indexed, or its absence meets the predicate.
    #[must_use]
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        value.is_some_and(|value| self.test.passes(value)) != self.negate
    }
}

/// The opposite.
impl std::ops::Not for Predicate {
    type Output = Self;

    fn not(self) -> Self {
        Self { negate: !self.negate, ..self }
    }
}

/// The bytes of a value that are indexed: at most [`VALUE_BYTES_MAX`], whole characters.
#[must_use]
pub fn indexed(value: &str) -> &[u8] {
    &value.as_bytes()[..value.floor_char_boundary(VALUE_BYTES_MAX)]
}
