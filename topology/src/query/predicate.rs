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
    Contains(Texts),
}

/// Texts of which any is to be found in a value, whatever the case of letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    folded: Vec<String>,
    /// Bytes of the shortest.
    shortest: usize,
    /// By the byte of a value on which the shortest would end: how many bytes no text can begin
    /// in before it has moved on (Horspool 1980, for several texts).
    moves: Box<[u8; 256]>,
}

impl Texts {
    /// Texts to find, in any case.
    pub fn new<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        let folded: Vec<String> =
            texts.into_iter().map(|text| text.as_ref().to_lowercase()).collect();
        let shortest = folded.iter().map(String::len).min().unwrap_or(0);
        let most = u8::try_from(shortest).unwrap_or(u8::MAX);
        let mut moves = Box::new([most; 256]);
        for text in &folded {
            for (behind, byte) in (0..most).zip(text.as_bytes()[..shortest].iter().rev()) {
                for byte in [byte.to_ascii_lowercase(), byte.to_ascii_uppercase()] {
                    let known = &mut moves[usize::from(byte)];
                    *known = behind.min(*known);
                }
            }
        }
        Self { folded, shortest, moves }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.folded.len()
    }

    /// Whether there are none; then none is in any value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.folded.is_empty()
    }

    /// Whether `value` contains any of them.
    #[must_use]
    pub fn any_in(&self, value: &[u8]) -> bool {
        if !value.is_ascii() {
            let value = String::from_utf8_lossy(value).to_lowercase();
            return self.folded.iter().any(|text| value.contains(text));
        }
        if self.shortest == 0 {
            return !self.is_empty();
        }
        let mut end = self.shortest;
        while let Some(last) = end.checked_sub(1).and_then(|last| value.get(last)) {
            let moves = self.moves[usize::from(*last)];
            if moves == 0 {
                let rest = &value[end - self.shortest..];
                let begins = |text: &String| {
                    rest.get(..text.len())
                        .is_some_and(|own| own.eq_ignore_ascii_case(text.as_bytes()))
                };
                if self.folded.iter().any(begins) {
                    return true;
                }
            }
            end += usize::from(moves.max(1));
        }
        false
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
            Self::Contains(texts) => texts.any_in(value),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_wherever_they_are() {
        let values = [
            "",
            "a",
            "resource-name-4711",
            "Resource-NAME-47",
            "nana-nam-name",
            "straße",
            "ÄRGER mit NAME",
            "\u{212a}elvin",
        ];
        let long = "x".repeat(300);
        let lists: [&[&str]; 10] = [
            &[],
            &[""],
            &["name-4711"],
            &["NAME-4711", "me-47", "zzz"],
            &["am-name", "x"],
            &["ärger", "kelvin"],
            &["4", "name-4711-and-more"],
            &["SS", "Sse"],
            &[&long, "e"],
            // No move is over 255 bytes, however long the shortest text.
            &[&long],
        ];
        let ends = format!("ab{}yE", "X".repeat(300));
        let far = format!("{}{}a", "b".repeat(299), "x".repeat(300));
        let short = "x".repeat(299);
        for value in values.into_iter().chain([ends.as_str(), &far, &short]) {
            for list in lists {
                let folded = value.to_lowercase();
                let wanted = list.iter().any(|text| folded.contains(&text.to_lowercase()));
                let texts = Texts::new(list);
                assert_eq!(texts.any_in(value.as_bytes()), wanted, "{list:?} in {value:?}");
                assert_eq!(texts.len(), list.len());
            }
        }
    }
}
