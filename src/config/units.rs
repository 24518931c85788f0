//! Durations, sizes and other small notations of settings and flags.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// Reads a duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// What is wrong and how to write it.
///
/// ```
/// use trailproof::config::units::duration;
/// assert_eq!(duration("5m"), Ok(std::time::Duration::from_secs(300)));
/// assert!(duration("5").is_err());
/// ```
pub fn duration(text: &str) -> Result<Duration, String> {
    split(text.trim())
        .and_then(|(count, unit)| {
            let (_, millis) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
            count.checked_mul(*millis).map(Duration::from_millis)
        })
        .ok_or_else(|| {
            format!("{text:?} is no duration: write a number and ms, s, m, h or d, as in 5m")
        })
}

/// Reads a size in bytes: a whole number and `B`, `KiB`, `MiB` or `GiB`, or a bare number.
///
/// # Errors
/// What is wrong and how to write it.
pub fn size(text: &str) -> Result<u64, String> {
    split(text.trim())
        .and_then(|(count, unit)| {
            let unit = if unit.is_empty() { "B" } else { unit };
            let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
            count.checked_mul(*bytes)
        })
        .ok_or_else(|| {
            format!("{text:?} is no size: write a number and B, KiB, MiB or GiB, as in 64MiB")
        })
}

/// Writes a duration in its greatest whole unit, as [`duration`] reads it.
#[must_use]
pub fn duration_text(length: Duration) -> String {
    let millis = length.as_millis() as u64;
    let whole =
        DURATIONS.iter().rev().find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit));
    let (name, unit) = whole.unwrap_or(&("ms", 1));
    format!("{}{name}", millis / unit)
}

/// Writes a size in its greatest whole unit, as [`size`] reads it.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    for (name, unit) in SIZES[..3].iter().rev() {
        if bytes >= *unit && bytes.is_multiple_of(*unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// A length of time as people say it: `10 s`, `5 min`, `2 h`.
#[must_use]
pub fn spoken(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        _ if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) && seconds > 60 => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

/// Undoes `%xx`; `None` where an escape is cut short or the result is not UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next()?, bytes.next()?];
            let pair = std::str::from_utf8(&pair).ok()?;
            out.push(u8::from_str_radix(pair, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// The URL without the password it may hold.
#[must_use]
pub fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_survive_a_round_trip() {
        for text in ["1ms", "5s", "90s", "5m", "1h", "7d"] {
            let read = duration(text).unwrap();
            assert_eq!(duration(&duration_text(read)), Ok(read), "{text}");
        }
        for text in ["0B", "1KiB", "64MiB", "1000B", "3GiB"] {
            assert_eq!(size_text(size(text).unwrap()), text);
        }
    }

    #[test]
    fn wrong_units_are_refused_with_an_example() {
        for text in ["", "5", "5 parsecs", "-5s", "s", "99999999999999999999s", "5M"] {
            let problem = duration(text).unwrap_err();
            assert!(problem.ends_with("as in 5m"), "{problem}");
        }
        for text in ["", "64MB", "1.5GiB", "99999999999GiB"] {
            let problem = size(text).unwrap_err();
            assert!(problem.ends_with("as in 64MiB"), "{problem}");
        }
    }

    #[test]
    fn a_url_shows_no_password() {
        assert_eq!(mask_url("s3://me:secret@host/b"), "s3://***@host/b");
        assert_eq!(mask_url("file:///a@b"), "file:///a@b");
    }
}
