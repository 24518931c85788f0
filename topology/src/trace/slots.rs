//! The members of a trace by number, whatever way they were read.

use std::borrow::Cow;

use crate::attribute::{ATTRIBUTES, Attribute};
use crate::input::Millis;

use super::members::{Maybe, Members, Text};

/// A member that is looked at: an attribute's number, or one of those below.
pub(super) type Member = u8;

/// `trace_status`, the old name of the rating.
pub(super) const TRACE_STATUS: Member = 16;
/// `user.user_name`, the old place of the user's name.
pub(super) const OTHER_NAME: Member = 17;
/// `domain_id`.
pub(super) const DOMAIN_ID: Member = 18;
/// `user.domain.id`.
pub(super) const USER_DOMAIN_ID: Member = 19;
/// `event_type`.
pub(super) const EVENT_TYPE: Member = 20;
/// `tracker_name`.
pub(super) const TRACKER_NAME: Member = 21;
/// `api_version`.
pub(super) const API_VERSION: Member = 22;

/// Members that are texts.
const TEXTS: usize = 23;
const _: () = assert!(TRACE_STATUS as usize == ATTRIBUTES && API_VERSION as usize + 1 == TEXTS);

/// `time`, a number.
pub(super) const TIME: Member = 23;
/// `record_time`, a number.
pub(super) const RECORD_TIME: Member = 24;
/// `user`, an object.
pub(super) const USER: Member = 25;
/// Any member that is not looked at.
pub(super) const OTHER: Member = 26;

/// What was found of a trace's members.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Slots<'a> {
    /// By [`Member`]: its text, borrowed wherever it is not escaped.
    texts: [Option<Cow<'a, str>>; TEXTS],
    pub(super) time: Option<Millis>,
    pub(super) record_time: Maybe<Millis>,
    /// Whether `trace_id` is there, and null.
    pub(super) null_trace_id: bool,
}

impl<'a> Slots<'a> {
    /// Fills the slot of a text, which `member` has to be.
    pub(super) fn text(&mut self, member: Member, text: &'a str) {
        debug_assert!(usize::from(member) < TEXTS, "member {member} is no text");
        if let Some(slot) = self.texts.get_mut(usize::from(member)) {
            *slot = Some(Cow::Borrowed(text));
        }
    }

    /// Fills the slot of a member that is an integer, of which `digits` is one; `None` where it has
    /// too many of them for a time.
    pub(super) fn integer(&mut self, member: Member, digits: &'a str) -> Option<()> {
        match member {
            TIME => self.time = Some(digits.parse().ok()?),
            RECORD_TIME => self.record_time = Maybe::Is(digits.parse().ok()?),
            _ => self.text(member, digits),
        }
        Some(())
    }

    /// Takes a text out of its slot.
    pub(super) fn take(&mut self, member: Member) -> Option<Cow<'a, str>> {
        self.texts.get_mut(usize::from(member))?.take()
    }

    /// Takes the attributes out of their slots; one that is missing has the text of another member,
    /// where it has another name.
    pub(super) fn attributes(&mut self) -> [Option<Cow<'a, str>>; ATTRIBUTES] {
        for (attribute, other) in
            [(Attribute::TraceRating, TRACE_STATUS), (Attribute::User, OTHER_NAME)]
        {
            if self.texts[attribute as usize].is_none() {
                self.texts[attribute as usize] = self.take(other);
            }
        }
        self.texts.first_chunk_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl<'a> From<Members<'a>> for Slots<'a> {
    fn from(members: Members<'a>) -> Self {
        fn text(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
            text.map(|text| text.0)
        }
        let user = members.user.map(|user| user.0).unwrap_or_default();
        let (trace_id, null_trace_id) = match members.trace_id {
            Maybe::Absent => (None, false),
            Maybe::Null => (None, true),
            Maybe::Is(id) => (Some(id), false),
        };
        let texts = [
            text(members.service_type),
            text(members.resource_type),
            text(members.trace_name),
            text(members.trace_rating),
            text(members.trace_type),
            text(user.name),
            text(user.id),
            text(user.access_key_id),
            text(members.source_ip),
            text(members.resource_name),
            text(members.resource_id),
            text(trace_id),
            members.code.map(|code| code.0.0),
            text(members.enterprise_project_id),
            text(members.project_id),
            members.read_only.map(|flag| flag.0.0),
            text(members.trace_status),
            text(user.other_name),
            text(members.domain_id),
            text(user.domain_id),
            text(members.event_type),
            text(members.tracker_name),
            text(members.api_version),
        ];
        let record_time = match members.record_time {
            Maybe::Absent => Maybe::Absent,
            Maybe::Null => Maybe::Null,
            Maybe::Is(time) => Maybe::Is(time.0),
        };
        let time = members.time.map(|time| time.0);
        Self { texts, time, record_time, null_trace_id }
    }
}
