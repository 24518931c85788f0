//! Predicates: conditions on one attribute.

use crate::attribute::Attribute;
use crate::trace::VALUE_BYTES_MAX;

/// A condition on one attribute: everything that is given must hold.
///
/// A trace that lacks the attribute meets only a predicate that names no value it must have, that
/// is, `none_of` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicate {
    /// The attribute.
    pub attribute: Attribute,
    /// Empty, or the value is one of these.
    pub any_of: Vec<String>,
    /// The value is none of these.
    pub none_of: Vec<String>,
    /// Empty, or the value begins with this.
    pub prefix: String,
    /// Empty, or the value contains this text, whatever the case of its letters.
    pub contains: Text,
}

/// Text to be found in values.
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

    /// Whether there is nothing to find.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.folded.is_empty()
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

impl Predicate {
    /// A predicate without a condition.
    #[must_use]
    pub fn on(attribute: Attribute) -> Self {
        Self {
            attribute,
            any_of: Vec::new(),
            none_of: Vec::new(),
            prefix: String::new(),
            contains: Text::default(),
        }
    }

    /// The value is this one.
    #[must_use]
    pub fn is(attribute: Attribute, value: &str) -> Self {
        Self { any_of: vec![value.to_owned()], ..Self::on(attribute) }
    }

    /// Whether a value, as it is indexed, or its absence meets the predicate.
    #[must_use]
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return self.takes_absent() };
        (self.any_of.is_empty() || self.any_of.iter().any(|one| indexed(one) == value))
            && self.matches_rest(value)
    }

    /// Whether a trace that lacks the attribute meets the predicate.
    #[must_use]
    pub fn takes_absent(&self) -> bool {
        self.any_of.is_empty() && self.prefix.is_empty() && self.contains.is_empty()
    }

    /// Whether a value meets all but `any_of`.
    pub(super) fn matches_rest(&self, value: &[u8]) -> bool {
        // Comparing with nothing is not free: an empty text points nowhere, and masked loads from
        // there take a slow path of the processor.
        (self.prefix.is_empty() || value.starts_with(self.prefix.as_bytes()))
            && self.contains.is_in(value)
            && !self.none_of.iter().any(|one| indexed(one) == value)
    }
}

/// The bytes of a value that are indexed: at most [`VALUE_BYTES_MAX`], whole characters.
#[must_use]
pub fn indexed(value: &str) -> &[u8] {
    &value.as_bytes()[..value.floor_char_boundary(VALUE_BYTES_MAX)]
}
