//! The trace: a total parser over the bytes of a record.
//!
//! Any bytes go in. Out comes a [`Trace`] that borrows from them, or a [`Reject`] with a reason of
//! a closed set. One rule decides, whatever way the bytes came: a record is a trace if it is UTF-8
//! without a byte-order mark, one JSON object of at most [`TRACE_BYTES_MAX`] bytes nested at most
//! [`DEPTH_MAX`] deep, whose known members stand there once and have a known type, with the members
//! that CTS demands. Everything else is a dead letter.
//!
//! Unknown members are kept: the stored trace is the record's own bytes.
//!
//! Source: `schemas/trace.schema.json`; CTS "Trace structure".

use std::borrow::Cow;

use serde::Deserialize;

use crate::attribute::{ATTRIBUTES, Attribute};
use crate::input::Millis;

mod cursor;
mod members;
mod scan;
mod shape;
mod slots;
#[cfg(test)]
mod tests;

use members::{Maybe, Members, Text};
use shape::{Note, Shapes};
use slots::Slots;

/// Greatest size of a trace in bytes.
pub const TRACE_BYTES_MAX: usize = 1 << 20;

/// Greatest nesting of a trace; the outermost object counts one.
pub const DEPTH_MAX: usize = 127;

/// Last indexable event time: 9999-12-31T23:59:59.999Z.
pub const TIME_MAX_MS: Millis = 253_402_300_799_999;

/// Bytes of a value that are indexed; a longer value is found by its beginning.
pub const VALUE_BYTES_MAX: usize = 1024;

/// A parsed trace, borrowing from its record wherever a value is not escaped there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace<'a> {
    /// The event's own time, as given.
    pub time_ms: Millis,
    /// When it was recorded, where the producer said so.
    pub record_time_ms: Option<Millis>,
    /// Account: `domain_id`, else `user.domain.id`.
    pub account: Cow<'a, str>,
    /// `event_type`: `system` or `data`.
    pub event_type: Option<Cow<'a, str>>,
    /// `tracker_name`, as data events carry it.
    pub tracker_name: Option<Cow<'a, str>>,
    /// `api_version`, for rules.
    pub api_version: Option<Cow<'a, str>>,
    /// The indexed attributes by number.
    pub values: [Option<Cow<'a, str>>; ATTRIBUTES],
}

impl Trace<'_> {
    /// The value of an attribute.
    #[must_use]
    pub fn value(&self, attribute: Attribute) -> Option<&str> {
        self.values[attribute as usize].as_deref()
    }

    /// The event time as it is indexed: within the years 1970 to 9999.
    #[must_use]
    pub fn indexed_time_ms(&self) -> Millis {
        self.time_ms.clamp(0, TIME_MAX_MS)
    }
}

/// Why a record is no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Over [`TRACE_BYTES_MAX`].
    TooLarge,
    /// Not UTF-8.
    NotUtf8,
    /// Begins with a byte-order mark.
    ByteOrderMark,
    /// No JSON text.
    NotJson,
    /// JSON, but no object.
    NotAnObject,
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// A known member stands there twice.
    DuplicateMember,
    /// A known member has a type or value it cannot have.
    BadMember,
    /// A required member is missing or null.
    MissingMember,
    /// Names no account.
    NoAccount,
    /// Names an account the catalog does not have.
    UnknownAccount,
    /// The record's `trailproof` header has no meaning.
    UnknownHeader,
}

impl Reason {
    /// Every reason, in order of its number.
    pub const ALL: [Self; 12] = [
        Self::TooLarge,
        Self::NotUtf8,
        Self::ByteOrderMark,
        Self::NotJson,
        Self::NotAnObject,
        Self::TooDeep,
        Self::DuplicateMember,
        Self::BadMember,
        Self::MissingMember,
        Self::NoAccount,
        Self::UnknownAccount,
        Self::UnknownHeader,
    ];

    /// The reason in dead letters, answers and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::ByteOrderMark => "byte_order_mark",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::TooDeep => "too_deep",
            Self::DuplicateMember => "duplicate_member",
            Self::BadMember => "bad_member",
            Self::MissingMember => "missing_member",
            Self::NoAccount => "no_account",
            Self::UnknownAccount => "unknown_account",
            Self::UnknownHeader => "unknown_header",
        }
    }
}

/// A record that is no trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: Reason,
    /// What exactly, in words, without the record's content beyond member names.
    pub detail: String,
    /// The account it names all the same, so that it counts there.
    pub account: Option<String>,
}

impl Reject {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), account: None }
    }

    /// The same, with the account that `text` names.
    fn naming_account(self, text: &str) -> Self {
        Self { account: named_account(text), ..self }
    }
}

/// Parses the value of a record. Linear in its length.
///
/// # Errors
/// The reason why it is a dead letter.
///
/// ```
/// use trailproof_topology::trace::{Reason, parse};
/// assert_eq!(parse(b"[]").unwrap_err().reason, Reason::NotAnObject);
/// ```
pub fn parse(record: &[u8]) -> Result<Trace<'_>, Reject> {
    check_size(record)?;
    parse_stored(record)
}

/// Parses a stored trace: as [`parse`], without the bound, which derived members may exceed.
///
/// # Errors
/// As [`parse`].
pub fn parse_stored(record: &[u8]) -> Result<Trace<'_>, Reject> {
    let text = utf8(record)?;
    let mut slots = Slots::default();
    if scan::read(text, &mut slots, None).is_none() {
        slots = general(text)?;
    }
    fields(text, slots)
}

/// Parses the values of one record after another, as [`parse`] does, and ever faster where they
/// look alike. What it answers does not depend on what came before.
#[derive(Debug, Default)]
pub struct Reader {
    shapes: Shapes,
    /// Where the values of the running record stand.
    notes: Vec<Note>,
}

impl Reader {
    /// Parses the value of a record.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn parse<'a>(&mut self, record: &'a [u8]) -> Result<Trace<'a>, Reject> {
        check_size(record)?;
        let text = utf8(record)?;
        let mut slots = Slots::default();
        if self.shapes.read(text, &mut slots).is_some() {
            return fields(text, slots);
        }
        slots = Slots::default();
        self.notes.clear();
        if scan::read(text, &mut slots, Some(&mut self.notes)).is_none() {
            return fields(text, general(text)?);
        }
        let trace = fields(text, slots)?;
        self.shapes.learn(text, &self.notes);
        Ok(trace)
    }
}

fn check_size(record: &[u8]) -> Result<(), Reject> {
    if record.len() > TRACE_BYTES_MAX {
        let detail = format!("{} bytes, the limit is {TRACE_BYTES_MAX}", record.len());
        return Err(Reject::new(Reason::TooLarge, detail));
    }
    Ok(())
}

fn utf8(record: &[u8]) -> Result<&str, Reject> {
    std::str::from_utf8(record).map_err(|error| {
        Reject::new(Reason::NotUtf8, format!("byte {} is not UTF-8", error.valid_up_to()))
    })
}

/// Reads any text at all, at three times the cost of [`scan::read`].
#[cold]
fn general(text: &str) -> Result<Slots<'_>, Reject> {
    check_object(text)?;
    let members: Members<'_> =
        serde_json::from_str(text).map_err(|error| not_members(&error).naming_account(text))?;
    Ok(Slots::from(members))
}

/// The checks before the general parser: byte-order mark, object, depth. What the short way takes
/// has passed them all.
fn check_object(text: &str) -> Result<(), Reject> {
    if text.starts_with('\u{feff}') {
        return Err(Reject::new(Reason::ByteOrderMark, "remove the byte-order mark"));
    }
    match text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
        Some(b'{') => {}
        Some(b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9')
            if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() =>
        {
            return Err(Reject::new(Reason::NotAnObject, "a trace is a JSON object"));
        }
        Some(_) => return Err(Reject::new(Reason::NotJson, "a trace begins with {")),
        None => return Err(Reject::new(Reason::NotJson, "the record is empty")),
    }
    if too_deep(text.as_bytes()) {
        let detail = format!("nested deeper than {DEPTH_MAX}");
        return Err(Reject::new(Reason::TooDeep, detail));
    }
    Ok(())
}

/// Whether brackets outside of strings nest deeper than allowed. A count of opening brackets, which
/// the compiler vectorises, settles nearly every one.
fn too_deep(record: &[u8]) -> bool {
    // The two brackets differ in one bit alone. A byte-wide sum keeps the loop in vector registers.
    let opening: usize = record
        .chunks(128)
        .map(|piece| {
            let count = |sum: u8, byte: &u8| sum.wrapping_add(u8::from(byte & 0xdf == b'['));
            usize::from(piece.iter().fold(0, count))
        })
        .sum();
    if opening <= DEPTH_MAX {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in record {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (false, _) => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// Sorts a parser's error into a reason.
fn not_members(error: &serde_json::Error) -> Reject {
    let detail = error.to_string();
    if !error.is_data() {
        return Reject::new(Reason::NotJson, detail);
    }
    if detail.starts_with("duplicate field") {
        return Reject::new(Reason::DuplicateMember, detail);
    }
    Reject::new(Reason::BadMember, detail)
}

fn missing(member: &str) -> Reject {
    Reject::new(Reason::MissingMember, format!("member {member} is required"))
}

fn unusable(what: &str) -> Reject {
    Reject::new(Reason::BadMember, format!("{what}; leave it out and it is derived"))
}

/// Makes a trace of what was found in `text`.
fn fields<'a>(text: &str, slots: Slots<'a>) -> Result<Trace<'a>, Reject> {
    checked(slots).map_err(|reject| reject.naming_account(text))
}

/// Checks what is required.
fn checked(mut slots: Slots<'_>) -> Result<Trace<'_>, Reject> {
    let time_ms = slots.time.ok_or_else(|| missing("time"))?;
    let values = slots.attributes();
    let value = |attribute: Attribute| values[attribute as usize].as_deref();
    let service = value(Attribute::ServiceType).ok_or_else(|| missing("service_type"))?;
    for required in [Attribute::ResourceType, Attribute::TraceName, Attribute::TraceType] {
        value(required).ok_or_else(|| missing(required.name()))?;
    }
    value(Attribute::TraceRating).ok_or_else(|| missing("trace_rating (or trace_status)"))?;
    if !is_name(service) {
        let detail = "service_type takes 1 to 64 letters, digits, `-`, `_`, `.`";
        return Err(Reject::new(Reason::BadMember, detail));
    }
    let account = slots
        .take(slots::DOMAIN_ID)
        .filter(|id| !id.is_empty())
        .or_else(|| slots.take(slots::USER_DOMAIN_ID))
        .ok_or_else(|| {
            Reject::new(Reason::NoAccount, "neither domain_id nor user.domain.id names an account")
        })?;
    if slots.null_trace_id || value(Attribute::TraceId).is_some_and(str::is_empty) {
        return Err(unusable("trace_id is null or empty"));
    }
    let record_time_ms = match slots.record_time {
        Maybe::Absent => None,
        Maybe::Is(time_ms) => Some(time_ms),
        Maybe::Null => return Err(unusable("record_time is null")),
    };
    Ok(Trace {
        time_ms,
        record_time_ms,
        account,
        event_type: slots.take(slots::EVENT_TYPE),
        tracker_name: slots.take(slots::TRACKER_NAME),
        api_version: slots.take(slots::API_VERSION),
        values,
    })
}

/// Whether a text can be part of an object key: 1 to 64 of letters, digits, `-`, `_`, `.`, and not
/// a relative path.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !text.bytes().all(|byte| byte == b'.')
}

/// The account that a rejected record names, read as leniently as possible.
fn named_account(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Lenient<'a> {
        #[serde(borrow, default)]
        domain_id: Option<Text<'a>>,
        #[serde(borrow, default)]
        user: Option<LenientUser<'a>>,
    }
    #[derive(Deserialize)]
    struct LenientUser<'a> {
        #[serde(borrow, default)]
        domain: Option<LenientDomain<'a>>,
    }
    #[derive(Deserialize)]
    struct LenientDomain<'a> {
        #[serde(borrow, default)]
        id: Option<Text<'a>>,
    }
    let lenient: Lenient<'_> = serde_json::from_str(text).ok()?;
    lenient
        .domain_id
        .filter(|id| !id.0.is_empty())
        .or_else(|| lenient.user?.domain?.id)
        .map(|id| id.0.into_owned())
}
