//! The short way through a trace: one pass over its bytes that knows what nearly every trace looks
//! like, and gives up on anything else.
//!
//! What it takes, [`crate::trace_members`] would take too, with the same values; what it gives up
//! on is left to that parser, which also knows what to say of a record that is no trace. So this
//! one needs no errors and no unescaping. It costs a third of the general parser.
//!
//! **Invariant:** what [`read`] reads is what serde makes of the same text, which passes the checks
//! before serde (its tests compare them over mutated traces).

use std::borrow::Cow;

use crate::trace_members::{AnyUser, Maybe, Members, Scalar, Text, Time, User};

/// Nesting of skipped values that is followed here; serde's own bound is a little higher.
const DEPTH_MAX: u32 = 100;

/// Nesting that is not counted: the objects of trace, user and domain around a skipped value, and
/// an empty bracket deepest in it.
const UNCOUNTED: u32 = 4;

// What is taken here is not looked at for its depth again.
const _: () = assert!((DEPTH_MAX + UNCOUNTED) as usize <= crate::trace::DEPTH_MAX);

/// Reads the members of a trace into `members`, which has none; `None` where the text has to be
/// read by the general parser, and `members` is of no use.
pub(crate) fn read<'a>(text: &'a str, members: &mut Members<'a>) -> Option<()> {
    let mut scan = Scan { text, bytes: text.as_bytes(), at: 0 };
    scan.trace(members)?;
    scan.space();
    (scan.at == scan.bytes.len()).then_some(())
}

/// Where a scan stands.
struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// Notes that a member was seen; `None` where it was seen before.
fn once(seen: &mut u32, member: u32) -> Option<()> {
    let bit = 1 << member;
    let first = *seen & bit == 0;
    *seen |= bit;
    first.then_some(())
}

impl<'a> Scan<'a> {
    fn trace(&mut self, members: &mut Members<'a>) -> Option<()> {
        let mut seen = 0;
        self.object(|scan, key| {
            let (member, slot) = match (key.len(), key) {
                (4, "code") => (0, Slot::Scalar(&mut members.code)),
                (4, "time") => (1, Slot::Time(&mut members.time)),
                (4, "user") => (2, Slot::User(&mut members.user)),
                (8, "trace_id") => (3, Slot::TraceId(&mut members.trace_id)),
                (9, "domain_id") => (4, Slot::Text(&mut members.domain_id)),
                (9, "read_only") => (5, Slot::Scalar(&mut members.read_only)),
                (9, "source_ip") => (6, Slot::Text(&mut members.source_ip)),
                (10, "event_type") => (7, Slot::Text(&mut members.event_type)),
                (10, "project_id") => (8, Slot::Text(&mut members.project_id)),
                (10, "trace_name") => (9, Slot::Text(&mut members.trace_name)),
                (10, "trace_type") => (10, Slot::Text(&mut members.trace_type)),
                (11, "api_version") => (11, Slot::Text(&mut members.api_version)),
                (11, "record_time") => (12, Slot::RecordTime(&mut members.record_time)),
                (11, "resource_id") => (13, Slot::Text(&mut members.resource_id)),
                (12, "service_type") => (14, Slot::Text(&mut members.service_type)),
                (12, "trace_rating") => (15, Slot::Text(&mut members.trace_rating)),
                (12, "trace_status") => (16, Slot::Text(&mut members.trace_status)),
                (12, "tracker_name") => (17, Slot::Text(&mut members.tracker_name)),
                (13, "resource_name") => (18, Slot::Text(&mut members.resource_name)),
                (13, "resource_type") => (19, Slot::Text(&mut members.resource_type)),
                (21, "enterprise_project_id") => {
                    (20, Slot::Text(&mut members.enterprise_project_id))
                }
                _ => return scan.skip_value(),
            };
            once(&mut seen, member)?;
            match slot {
                Slot::Text(text) => scan.text_or_null(text)?,
                Slot::Scalar(scalar) => *scalar = scan.scalar_or_null()?,
                Slot::Time(time) => *time = Some(scan.time()?),
                Slot::RecordTime(time) => *time = Maybe::Is(scan.time()?),
                Slot::TraceId(id) => *id = Maybe::Is(scan.plain_text()?),
                Slot::User(user) => scan.user_or_null(user)?,
            }
            Some(())
        })
    }

    fn user_or_null(&mut self, user: &mut Option<AnyUser<'a>>) -> Option<()> {
        if self.peek()? == b'n' {
            return self.literal("null");
        }
        let AnyUser(user) = user.insert(AnyUser(User::default()));
        let mut seen = 0;
        self.object(|scan, key| {
            let (member, text) = match (key.len(), key) {
                (2, "id") => (0, &mut user.id),
                (4, "name") => (1, &mut user.name),
                (6, "domain") => {
                    once(&mut seen, 2)?;
                    return scan.domain_or_null(&mut user.domain_id);
                }
                (9, "user_name") => (3, &mut user.other_name),
                (13, "access_key_id") => (4, &mut user.access_key_id),
                _ => return scan.skip_value(),
            };
            once(&mut seen, member)?;
            scan.text_or_null(text)
        })
    }

    /// The id of a domain, which may lack it.
    fn domain_or_null(&mut self, id: &mut Option<Text<'a>>) -> Option<()> {
        if self.peek()? == b'n' {
            return self.literal("null");
        }
        let mut seen = 0;
        self.object(|scan, key| {
            if key != "id" {
                return scan.skip_value();
            }
            once(&mut seen, 0)?;
            scan.text_or_null(id)
        })
    }

    /// Goes through an object; `member` takes the value of each key.
    #[inline(always)]
    fn object(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        let mut more = self.open_object()?;
        while more {
            let key = self.key()?;
            member(self, key)?;
            more = self.next_member()?;
        }
        Some(())
    }

    fn text_or_null(&mut self, text: &mut Option<Text<'a>>) -> Option<()> {
        if self.peek()? == b'n' {
            return self.literal("null");
        }
        *text = Some(self.plain_text()?);
        Some(())
    }

    fn scalar_or_null(&mut self) -> Option<Option<Scalar<'a>>> {
        let text = match self.peek()? {
            b'"' => self.plain_text()?,
            b'n' => return self.literal("null").map(|()| None),
            b't' => self.literal("true").map(|()| Text(Cow::Borrowed("true")))?,
            b'f' => self.literal("false").map(|()| Text(Cow::Borrowed("false")))?,
            _ => Text(Cow::Borrowed(self.integer()?)),
        };
        Some(Some(Scalar(text)))
    }

    fn time(&mut self) -> Option<Time> {
        self.integer()?.parse().ok().map(Time)
    }

    /// An integer without sign, of at most 18 digits, that stands as it would be written.
    fn integer(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.digits()?;
        let digits = &self.text[start..self.at];
        let exact = digits.len() <= 18 && (digits.len() == 1 || !digits.starts_with('0'));
        let ends = !matches!(self.bytes.get(self.at), Some(b'.' | b'e' | b'E'));
        (exact && ends).then_some(digits)
    }

    /// Goes into an object, up to its first key; false where it is empty.
    fn open_object(&mut self) -> Option<bool> {
        self.space();
        self.take(b'{')?;
        self.space();
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(false);
        }
        Some(true)
    }

    /// A key without escapes, and on to its value.
    fn key(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let key = self.plain()?;
        self.space();
        self.take(b':')?;
        self.space();
        Some(key)
    }

    /// Behind a value: on to the next key, or out of the object (false).
    fn next_member(&mut self) -> Option<bool> {
        self.space();
        let more = match self.peek()? {
            b',' => true,
            b'}' => false,
            _ => return None,
        };
        self.at += 1;
        if more {
            self.space();
        }
        Some(more)
    }

    /// Passes over any value.
    fn skip_value(&mut self) -> Option<()> {
        // A bit for each bracket that is open: set for an object.
        let (mut objects, mut depth) = (0u128, 0);
        loop {
            match self.peek()? {
                opening @ (b'{' | b'[') => {
                    self.at += 1;
                    self.space();
                    let closing = opening + 2;
                    if self.peek()? == closing {
                        self.at += 1;
                    } else {
                        depth += 1;
                        if depth > DEPTH_MAX {
                            return None;
                        }
                        objects = (objects << 1) | u128::from(opening == b'{');
                        if opening == b'{' {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    self.at += 1;
                    self.skip_string()?;
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                _ => self.skip_number()?,
            }
            // Behind a value: close what ends here.
            loop {
                if depth == 0 {
                    return Some(());
                }
                self.space();
                let (byte, object) = (self.peek()?, objects & 1 == 1);
                self.at += 1;
                match byte {
                    b',' => {
                        self.space();
                        if object {
                            self.skip_key()?;
                        }
                        break;
                    }
                    b'}' if object => {}
                    b']' if !object => {}
                    _ => return None,
                }
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    fn skip_key(&mut self) -> Option<()> {
        self.take(b'"')?;
        self.skip_string()?;
        self.space();
        self.take(b':')?;
        self.space();
        Some(())
    }

    /// Passes over the rest of a string, escapes and all.
    fn skip_string(&mut self) -> Option<()> {
        loop {
            self.at += plain_len(&self.bytes[self.at..]);
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(()),
                b'\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let code = self.bytes.get(self.at..self.at + 4)?;
                            code.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                            self.at += 4;
                        }
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
    }

    fn skip_number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn plain_text(&mut self) -> Option<Text<'a>> {
        self.take(b'"')?;
        Some(Text(Cow::Borrowed(self.plain()?)))
    }

    /// The rest of a string that has no escapes.
    #[inline(always)]
    fn plain(&mut self) -> Option<&'a str> {
        let start = self.at;
        let end = start + plain_len(&self.bytes[start..]);
        (self.bytes.get(end) == Some(&b'"')).then_some(())?;
        self.at = end + 1;
        self.text.get(start..end)
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        let end = self.at + word.len();
        (self.bytes.get(self.at..end)? == word.as_bytes()).then_some(())?;
        self.at = end;
        Some(())
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then_some(())?;
        self.at += 1;
        Some(())
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }
}

/// Where the value of a member goes.
enum Slot<'m, 'a> {
    Text(&'m mut Option<Text<'a>>),
    Scalar(&'m mut Option<Scalar<'a>>),
    Time(&'m mut Option<Time>),
    RecordTime(&'m mut Maybe<Time>),
    TraceId(&'m mut Maybe<Text<'a>>),
    User(&'m mut Option<AnyUser<'a>>),
}

/// Bytes up to the first that ends a plain string, or may not stand in one: a quote, a backslash, a
/// control character.
fn plain_len(bytes: &[u8]) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = EACH << 7;
    // The top bit of each byte that is zero; exact up to the first one.
    let zero = |word: u64| word.wrapping_sub(EACH) & !word & TOP;
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*eight);
        let control = word.wrapping_sub(EACH * 0x20) & !word & TOP;
        let quote = zero(word ^ (EACH * u64::from(b'"')));
        let found = control | quote | zero(word ^ (EACH * u64::from(b'\\')));
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let ends = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    bytes[at..].iter().position(ends).map_or(bytes.len(), |rest| at + rest)
}

#[cfg(test)]
#[path = "trace_scan_test.rs"]
mod tests;
