//! The short way through a trace: one pass over its bytes that knows what nearly every trace looks
//! like, and gives up on anything else.
//!
//! What it takes, [`super::members`] would take too, with the same values; what it gives up on is
//! left to that parser, which also knows what to say of a record that is no trace. So this one
//! needs no errors and no unescaping. It costs a third of the general parser.
//!
//! **Invariant:** what [`read`] reads is what serde makes of the same text, which passes the checks
//! before serde (its tests compare them over mutated traces).

use crate::attribute::Attribute;

use super::cursor::Cursor;
use super::shape::{Note, VALUES_MAX, Value};
use super::slots::{self, Member, Slots};

/// Nesting of skipped values that is followed here; serde's own bound is a little higher.
const DEPTH_MAX: u32 = 100;

/// Nesting that is not counted: the objects of trace, user and domain around a skipped value, and
/// an empty bracket deepest in it.
const UNCOUNTED: u32 = 4;

// What is taken here is not looked at for its depth again.
const _: () = assert!((DEPTH_MAX + UNCOUNTED) as usize <= super::DEPTH_MAX);

/// Reads the members of a trace into `slots`, which are empty, and notes where its values stand if
/// it is told where to. `None` where the text has to be read by the general parser, and `slots` and
/// `notes` are of no use.
pub(super) fn read<'a>(
    text: &'a str,
    slots: &mut Slots<'a>,
    notes: Option<&mut Vec<Note>>,
) -> Option<()> {
    let mut scan = Scan { cursor: Cursor::new(text), slots, notes };
    scan.trace()?;
    scan.cursor.space();
    scan.cursor.is_at_end().then_some(())
}

/// A running scan.
struct Scan<'a, 's> {
    cursor: Cursor<'a>,
    slots: &'s mut Slots<'a>,
    notes: Option<&'s mut Vec<Note>>,
}

/// What a member's value may be; texts, scalars and users may be null as well.
enum Kind {
    Text,
    Scalar,
    TraceId,
    Time,
    User,
}

/// Notes that a member was seen; `None` where it was seen before.
fn once(seen: &mut u32, member: Member) -> Option<()> {
    let bit = 1 << member;
    let first = *seen & bit == 0;
    *seen |= bit;
    first.then_some(())
}

/// The member of a trace with this name.
fn member_of(key: &str) -> Option<(Member, Kind)> {
    let attribute = |attribute: Attribute| Some((attribute as Member, Kind::Text));
    match (key.len(), key) {
        (4, "code") => Some((Attribute::Code as Member, Kind::Scalar)),
        (4, "time") => Some((slots::TIME, Kind::Time)),
        (4, "user") => Some((slots::USER, Kind::User)),
        (8, "trace_id") => Some((Attribute::TraceId as Member, Kind::TraceId)),
        (9, "domain_id") => Some((slots::DOMAIN_ID, Kind::Text)),
        (9, "read_only") => Some((Attribute::ReadOnly as Member, Kind::Scalar)),
        (9, "source_ip") => attribute(Attribute::SourceIp),
        (10, "event_type") => Some((slots::EVENT_TYPE, Kind::Text)),
        (10, "project_id") => attribute(Attribute::ProjectId),
        (10, "trace_name") => attribute(Attribute::TraceName),
        (10, "trace_type") => attribute(Attribute::TraceType),
        (11, "api_version") => Some((slots::API_VERSION, Kind::Text)),
        (11, "record_time") => Some((slots::RECORD_TIME, Kind::Time)),
        (11, "resource_id") => attribute(Attribute::ResourceId),
        (12, "service_type") => attribute(Attribute::ServiceType),
        (12, "trace_rating") => attribute(Attribute::TraceRating),
        (12, "trace_status") => Some((slots::TRACE_STATUS, Kind::Text)),
        (12, "tracker_name") => Some((slots::TRACKER_NAME, Kind::Text)),
        (13, "resource_name") => attribute(Attribute::ResourceName),
        (13, "resource_type") => attribute(Attribute::ResourceType),
        (21, "enterprise_project_id") => attribute(Attribute::EnterpriseProjectId),
        _ => None,
    }
}

impl<'a> Scan<'a, '_> {
    fn trace(&mut self) -> Option<()> {
        let mut seen = 0;
        self.object(|scan, key| {
            let Some((member, kind)) = member_of(key) else { return scan.skip_value() };
            once(&mut seen, member)?;
            match kind {
                Kind::Text => scan.text_or_null(member),
                Kind::Scalar => scan.scalar_or_null(member),
                Kind::TraceId => scan.text(member),
                Kind::Time => scan.integer(member),
                Kind::User => scan.user_or_null(),
            }
        })
    }

    fn user_or_null(&mut self) -> Option<()> {
        if self.cursor.peek()? == b'n' {
            return self.cursor.literal("null");
        }
        let mut seen = 0;
        self.object(|scan, key| {
            let member = match key {
                "id" => Attribute::UserId as Member,
                "name" => Attribute::User as Member,
                "domain" => {
                    once(&mut seen, slots::USER)?;
                    return scan.domain_or_null();
                }
                "user_name" => slots::OTHER_NAME,
                "access_key_id" => Attribute::AccessKeyId as Member,
                _ => return scan.skip_value(),
            };
            once(&mut seen, member)?;
            scan.text_or_null(member)
        })
    }

    /// The id of a domain, which may lack it.
    fn domain_or_null(&mut self) -> Option<()> {
        if self.cursor.peek()? == b'n' {
            return self.cursor.literal("null");
        }
        let mut seen = 0;
        self.object(|scan, key| {
            if key != "id" {
                return scan.skip_value();
            }
            once(&mut seen, slots::USER_DOMAIN_ID)?;
            scan.text_or_null(slots::USER_DOMAIN_ID)
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

    /// Notes a value that began at `start` and ends here.
    fn note(&mut self, start: usize, value: Value, member: Member) {
        let end = self.cursor.at;
        // One more than may be learnt says that there are too many.
        if let Some(notes) = &mut self.notes
            && notes.len() <= VALUES_MAX
        {
            notes.push(Note { start, end, value, member });
        }
    }

    fn text_or_null(&mut self, member: Member) -> Option<()> {
        if self.cursor.peek()? == b'n' {
            return self.cursor.literal("null");
        }
        self.text(member)
    }

    fn text(&mut self, member: Member) -> Option<()> {
        self.cursor.take(b'"')?;
        let start = self.cursor.at;
        let text = self.cursor.plain()?;
        self.slots.text(member, text);
        self.note(start, Value::Text, member);
        self.cursor.take(b'"')
    }

    fn scalar_or_null(&mut self, member: Member) -> Option<()> {
        match self.cursor.peek()? {
            b'"' => self.text(member),
            b'n' => self.cursor.literal("null"),
            b't' => self.word(member, "true", Value::True),
            b'f' => self.word(member, "false", Value::False),
            _ => self.integer(member),
        }
    }

    fn word(&mut self, member: Member, word: &'static str, value: Value) -> Option<()> {
        self.cursor.literal(word)?;
        self.slots.text(member, word);
        self.note(self.cursor.at, value, member);
        Some(())
    }

    fn integer(&mut self, member: Member) -> Option<()> {
        let start = self.cursor.at;
        let digits = self.cursor.integer()?;
        self.slots.integer(member, digits)?;
        self.note(start, Value::Integer, member);
        Some(())
    }

    /// Goes into an object, up to its first key; false where it is empty.
    fn open_object(&mut self) -> Option<bool> {
        self.cursor.space();
        self.cursor.take(b'{')?;
        self.cursor.space();
        if self.cursor.peek()? == b'}' {
            self.cursor.at += 1;
            return Some(false);
        }
        Some(true)
    }

    /// A key without escapes, and on to its value.
    fn key(&mut self) -> Option<&'a str> {
        self.cursor.take(b'"')?;
        let key = self.cursor.plain()?;
        self.cursor.take(b'"')?;
        self.colon()?;
        Some(key)
    }

    fn colon(&mut self) -> Option<()> {
        self.cursor.space();
        self.cursor.take(b':')?;
        self.cursor.space();
        Some(())
    }

    /// Behind a value: on to the next key, or out of the object (false).
    fn next_member(&mut self) -> Option<bool> {
        self.cursor.space();
        let more = match self.cursor.peek()? {
            b',' => true,
            b'}' => false,
            _ => return None,
        };
        self.cursor.at += 1;
        if more {
            self.cursor.space();
        }
        Some(more)
    }

    /// Passes over any value.
    fn skip_value(&mut self) -> Option<()> {
        // A bit for each bracket that is open: set for an object.
        let (mut objects, mut depth) = (0u128, 0);
        loop {
            match self.cursor.peek()? {
                opening @ (b'{' | b'[') => {
                    self.cursor.at += 1;
                    self.cursor.space();
                    let closing = opening + 2;
                    if self.cursor.peek()? == closing {
                        self.cursor.at += 1;
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
                _ => self.skip_scalar()?,
            }
            // Behind a value: close what ends here.
            loop {
                if depth == 0 {
                    return Some(());
                }
                self.cursor.space();
                let (byte, object) = (self.cursor.peek()?, objects & 1 == 1);
                self.cursor.at += 1;
                match byte {
                    b',' => {
                        self.cursor.space();
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

    /// Passes over a value without brackets.
    fn skip_scalar(&mut self) -> Option<()> {
        let start = self.cursor.at;
        match self.cursor.peek()? {
            b'"' => {
                self.cursor.at += 1;
                self.cursor.skip_string()?;
                self.note(start + 1, Value::String, slots::OTHER);
            }
            b't' => self.cursor.literal("true")?,
            b'f' => self.cursor.literal("false")?,
            b'n' => self.cursor.literal("null")?,
            _ => {
                self.cursor.skip_number()?;
                self.note(start, Value::Number, slots::OTHER);
            }
        }
        Some(())
    }

    fn skip_key(&mut self) -> Option<()> {
        self.cursor.take(b'"')?;
        self.cursor.skip_string()?;
        self.colon()
    }
}

#[cfg(test)]
#[path = "scan_test.rs"]
mod tests;
