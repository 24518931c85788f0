//! Metadata as S3 takes it: headers of printable ASCII.
//!
//! Names are lower case letters, digits and `-`. A value that is no plain header value is written
//! as one encoded word of RFC 2047 (`=?UTF-8?B?…?=`), as S3 itself shows such values; one that
//! looks like an encoded word is encoded too, so every value comes back as it was.

use data_encoding::BASE64;
use object_store::{Attribute, AttributeValue, Attributes};

use super::super::{Error, Metadata};

/// Bytes of all names and values, as S3 has it.
const BYTES_MAX: usize = 2_048;

const OPEN: &str = "=?UTF-8?B?";
const CLOSE: &str = "?=";

/// The attributes of a new object.
pub(super) fn attributes(key: &str, metadata: &Metadata) -> Result<Attributes, Error> {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, content_type(key).into());
    let mut bytes = 0;
    for (name, value) in metadata {
        let fits =
            |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        if name.is_empty() || !name.bytes().all(fits) {
            let text = format!("{name:?} is no name of metadata: a to z, 0 to 9 and - only");
            return Err(Error::Refused(text));
        }
        let value = encode(value);
        bytes += name.len() + value.len();
        attributes.insert(Attribute::Metadata(name.clone().into()), AttributeValue::from(value));
    }
    if bytes > BYTES_MAX {
        let text = format!("{bytes} bytes of metadata for {key:?}, {BYTES_MAX} fit");
        return Err(Error::Refused(text));
    }
    Ok(attributes)
}

/// The metadata among an object's attributes, in order of name.
pub(super) fn of(attributes: &Attributes) -> Metadata {
    let own = attributes.iter().filter_map(|(attribute, value)| match attribute {
        Attribute::Metadata(name) => Some((name.to_string(), decode(value))),
        _ => None,
    });
    let mut metadata: Metadata = own.collect();
    metadata.sort();
    metadata
}

/// What a browser is told. Never a content encoding: clients would undo it, and hashes differ.
fn content_type(key: &str) -> &'static str {
    match key.rsplit('.').next() {
        Some("zst") => "application/zstd",
        Some("gz") => "application/gzip",
        Some("json") => "application/json",
        Some("note") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn encode(value: &str) -> String {
    let plain = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let kept = value.trim_matches(' ') == value && !value.is_empty();
    if plain && kept && !value.starts_with("=?") {
        return value.to_owned();
    }
    format!("{OPEN}{}{CLOSE}", BASE64.encode(value.as_bytes()))
}

fn decode(value: &str) -> String {
    let word = value.strip_prefix(OPEN).and_then(|rest| rest.strip_suffix(CLOSE));
    let bytes = word.and_then(|word| BASE64.decode(word.as_bytes()).ok());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        let long = "é".repeat(300);
        for value in ["", " ", "plain", "a b", " a", "a ", "é\n\0\"", "=?UTF-8?B?YQ==?=", &long] {
            let word = encode(value);
            assert!(word.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{word}");
            assert_eq!(decode(&word), value);
        }
        assert_eq!(encode("ab12"), "ab12");
    }

    #[test]
    fn what_no_header_can_carry_is_refused() {
        let long = "v".repeat(BYTES_MAX);
        for (name, value) in [("Count", "1"), ("", "1"), ("a_b", "1"), ("a", &long)] {
            let metadata = vec![(name.to_owned(), value.to_owned())];
            assert!(matches!(attributes("k", &metadata), Err(Error::Refused(_))), "{name}");
        }
    }
}
