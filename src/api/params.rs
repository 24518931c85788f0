//! Query parameters: numbers, times, durations and cursors.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use trailproof_topology::input::Millis;
use trailproof_topology::query::{Cursor, Order};

use super::Partial;
use super::error::{ApiError, ApiResult};
use crate::config::units;

/// First byte of a cursor.
const CURSOR_FORMAT: u8 = 1;

/// Query parameters in the order they came, percent-decoded.
pub(super) type Params = Vec<(String, String)>;

/// The last value of `name` that is not empty.
pub(super) fn last<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params
        .iter()
        .rev()
        .find(|(own, value)| own == name && !value.is_empty())
        .map(|(_, value)| value.as_str())
}

/// A whole number from `min` to `max`.
pub(super) fn integer(name: &str, text: &str, min: u64, max: u64) -> ApiResult<u64> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        ApiError::bad_query(format!(
            "{name} takes a whole number from {min} to {max}, not {shown:?}"
        ))
    })
}

/// A time: milliseconds since 1970, or RFC 3339.
pub(super) fn time(name: &str, text: &str) -> ApiResult<Millis> {
    parse_time(text).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        ApiError::bad_query(format!(
            "{name} takes milliseconds since 1970 or a time as 2026-01-31T12:00:00Z, not {shown:?}"
        ))
    })
}

/// A time: milliseconds since 1970, or RFC 3339.
pub(crate) fn parse_time(text: &str) -> Option<Millis> {
    text.parse::<Millis>()
        .ok()
        .or_else(|| text.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond()))
}

/// A flag: `true`, `false`, `1`, `0`, or the name alone.
pub(super) fn flag(params: &Params, name: &str) -> ApiResult<bool> {
    match params.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.as_str()) {
        None | Some("false" | "0") => Ok(false),
        Some("" | "true" | "1") => Ok(true),
        Some(_) => Err(ApiError::bad_query(format!("{name} takes true or false"))),
    }
}

/// Whether the caller takes an answer without the partitions that are elsewhere: `partial`.
pub(super) fn partial(params: &Params) -> ApiResult<Partial> {
    Ok(if flag(params, "partial")? { Partial::Taken } else { Partial::Refused })
}

/// A duration of at least a millisecond.
pub(super) fn duration(name: &str, text: &str) -> ApiResult<Duration> {
    let length = units::duration(text)
        .map_err(|problem| ApiError::bad_query(format!("{name}: {problem}")))?;
    if length.is_zero() {
        return Err(ApiError::bad_query(format!("{name} is zero")));
    }
    Ok(length)
}

/// A place and its order as an opaque word.
pub(super) fn write_cursor(place: &Cursor, order: Order) -> String {
    let mut bytes = vec![CURSOR_FORMAT, u8::from(order == Order::Oldest)];
    bytes.extend_from_slice(&place.stream_time_ms.to_be_bytes());
    bytes.extend_from_slice(&place.partition.to_be_bytes());
    bytes.extend_from_slice(&place.offset.to_be_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// The place and order that [`write_cursor`] wrote; `None` for any other word.
pub(super) fn read_cursor(word: &str) -> Option<(Cursor, Order)> {
    let bytes = BASE64URL_NOPAD.decode(word.as_bytes()).ok()?;
    let (&[format, oldest], rest) = bytes.split_first_chunk::<2>()?;
    if format != CURSOR_FORMAT || oldest > 1 || rest.len() != 20 {
        return None;
    }
    let place = Cursor {
        stream_time_ms: Millis::from_be_bytes(rest[..8].try_into().ok()?),
        partition: u32::from_be_bytes(rest[8..12].try_into().ok()?),
        offset: u64::from_be_bytes(rest[12..].try_into().ok()?),
    };
    Some((place, if oldest == 1 { Order::Oldest } else { Order::Newest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_round_trip() {
        let place = Cursor { stream_time_ms: 1_700_000_000_000, partition: 3, offset: 42 };
        for order in [Order::Newest, Order::Oldest] {
            assert_eq!(read_cursor(&write_cursor(&place, order)), Some((place, order)));
        }
        for word in ["", "AAAA", "!", "AQIAAAGLz-VoAAAAAAMAAAAAAAAAKg"] {
            assert_eq!(read_cursor(word), None, "{word}");
        }
    }

    #[test]
    fn times_are_milliseconds_or_rfc_3339() {
        assert_eq!(parse_time("1700000000000"), Some(1_700_000_000_000));
        assert_eq!(parse_time("2023-11-14T22:13:20Z"), Some(1_700_000_000_000));
        assert_eq!(parse_time("2023-11-14T23:13:20.5+01:00"), Some(1_700_000_000_500));
        assert_eq!(parse_time("yesterday"), None);
    }
}
