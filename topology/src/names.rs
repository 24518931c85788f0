//! Names that derive from the log: times, object keys, ids.
//!
//! **Invariant:** the same log gives the same names, whoever asks and whenever.
//!
//! Source: CTS "Trace files" for paths and names; `docs/formats.md`.

use sha2::{Digest as _, Sha256};

use crate::catalog::{Catalog, Tracker};
use crate::input::{Millis, Offset};
use crate::key::{DAY_MS, SegmentId};

/// A UTC calendar date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year, 1970 or later.
    pub year: i64,
    /// Month, 1 to 12.
    pub month: u32,
    /// Day of the month, 1 to 31.
    pub day: u32,
    /// Milliseconds since midnight.
    pub day_ms: Millis,
}

impl Civil {
    /// The date of a time; earlier than 1970 counts as 1970.
    #[must_use]
    pub fn of(time_ms: Millis) -> Self {
        let time_ms = time_ms.max(0);
        let days = time_ms / DAY_MS;
        // Days since 0000-03-01 in the proleptic Gregorian calendar, in eras of 400 years.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { year, month, day, day_ms: time_ms % DAY_MS }
    }

    fn clock(&self) -> (Millis, Millis, Millis) {
        let seconds = self.day_ms / 1000;
        (seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

/// `2026-11-22T15:04:05.678Z`.
#[must_use]
pub fn rfc3339(time_ms: Millis) -> String {
    let civil = Civil::of(time_ms);
    let (hour, minute, second) = civil.clock();
    format!(
        "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        civil.year,
        civil.month,
        civil.day,
        civil.day_ms % 1000
    )
}

/// `2026-11-22T15-04-05Z`, the form of CTS's file names.
#[must_use]
pub fn file_time(time_ms: Millis) -> String {
    let civil = Civil::of(time_ms);
    let (hour, minute, second) = civil.clock();
    format!(
        "{:04}-{:02}-{:02}T{hour:02}-{minute:02}-{second:02}Z",
        civil.year, civil.month, civil.day
    )
}

/// `CloudTraces/<region>/<year>/<month>/<day>/<tracker>`, month and day without zeros.
#[must_use]
pub fn day_folder(region: &str, tracker_name: &str, time_ms: Millis) -> String {
    let civil = Civil::of(time_ms);
    format!("CloudTraces/{region}/{}/{}/{}/{tracker_name}", civil.year, civil.month, civil.day)
}

/// The key of a segment's trace file.
#[must_use]
pub fn trace_file(
    catalog: &Catalog,
    tracker: &Tracker,
    segment: &SegmentId,
    cycle_end_ms: Millis,
    partition: u32,
) -> String {
    let mut key = day_folder(&catalog.region, &tracker.name, segment.cycle_ms);
    if !segment.service.is_empty() {
        key.push('/');
        key.push_str(&segment.service);
    }
    key.push('/');
    if !tracker.file_prefix.is_empty() {
        key.push_str(&tracker.file_prefix);
        key.push('_');
    }
    let unique = Sha256::digest(format!("trailproof/file/v1\n{partition}/{}", segment.part));
    key.push_str(&format!(
        "CloudTrace_{}_{}_{}{}",
        catalog.region,
        file_time(cycle_end_ms),
        data_encoding::HEXLOWER.encode(&unique[..8]),
        tracker.compression.suffix()
    ));
    key
}

/// The id of a trace that came without one: a UUID of its place in the log.
#[must_use]
pub fn derived_trace_id(installation: &str, partition: u32, offset: Offset) -> String {
    let text = format!("trailproof/trace/v1\n{installation}\n{partition}/{offset}");
    let hash = Sha256::digest(text);
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    // Version 8 (free form), variant of RFC 9562.
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    crate::catalog::tracker_text(&id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (time_ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-5, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_704_164_645_001, "2024-01-02T03:04:05.001Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(time_ms), expected);
        }
        assert_eq!(file_time(1_490_663_357_000), "2017-03-28T01-09-17Z");
        assert_eq!(day_folder("r", "system", 1_463_653_080_000), "CloudTraces/r/2016/5/19/system");
    }
}
