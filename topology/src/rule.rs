//! Key-event rules: which traces notify, and what is said.
//!
//! A notification is a CloudEvent 1.0 in Kafka's binary mode: attributes as headers `ce_…`, the
//! stored trace as data. Its id derives from rule and trace, so a consumer can drop repeats; its
//! `sequence` has no gap per rule and input partition, so a consumer can see a missing one.
//!
//! Source: CTS CreateNotification; CloudEvents 1.0, Kafka binding; `docs/formats.md`.

use crate::attribute::Attribute;
use crate::catalog::{Filter, Rule};
use crate::effect::{OutRecord, Topic};
use crate::input::{Millis, Offset};
use crate::names::rfc3339;
use crate::trace::Trace;

/// Whether a rule wants to notify of a trace.
#[must_use]
pub fn matches(rule: &Rule, trace: &Trace<'_>) -> bool {
    rule.enabled
        && (rule.all_operations || names_operation(rule, trace))
        && (rule.users.is_empty()
            || trace
                .value(Attribute::User)
                .is_some_and(|user| rule.users.iter().any(|name| name == user)))
        && rule.filter.as_ref().is_none_or(|filter| holds(filter, trace))
}

fn names_operation(rule: &Rule, trace: &Trace<'_>) -> bool {
    let is = |attribute, wanted: &str| trace.value(attribute) == Some(wanted);
    rule.operations.iter().any(|operation| {
        is(Attribute::ServiceType, &operation.service_type)
            && is(Attribute::ResourceType, &operation.resource_type)
            && operation.trace_names.iter().any(|name| is(Attribute::TraceName, name))
    })
}

/// A missing value is unequal to everything.
fn holds(filter: &Filter, trace: &Trace<'_>) -> bool {
    let one = |condition: &crate::catalog::Condition| {
        let value = match condition.field.as_str() {
            "api_version" => trace.api_version.as_deref(),
            field => Attribute::named(field).and_then(|attribute| trace.value(attribute)),
        };
        (value == Some(condition.value.as_str())) == condition.equal
    };
    if filter.all { filter.conditions.iter().all(one) } else { filter.conditions.iter().any(one) }
}

/// What a notification is about, beside the trace itself.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// Region of the catalog.
    pub region: &'a str,
    /// The account.
    pub account: &'a str,
    /// The project: the trace's own, else the account's default one.
    pub project: &'a str,
    /// Name of the tracker that recorded the trace.
    pub tracker: &'a str,
    /// Input partition.
    pub partition: u32,
    /// Offset of the trace.
    pub offset: Offset,
    /// When it was recorded.
    pub record_time_ms: Millis,
    /// The trace's id, derived where it had none.
    pub trace_id: &'a str,
    /// Whether the window of resends held this id with other content.
    pub conflict: bool,
    /// Sequence of this rule in this partition, from 0.
    pub sequence: u64,
    /// The trace as stored.
    pub stored: &'a [u8],
}

/// The record of topic `notifications` that says that `rule` matched.
#[must_use]
pub fn notification(rule: &Rule, trace: &Trace<'_>, about: &Occasion<'_>) -> OutRecord {
    let value = |attribute| trace.value(attribute).unwrap_or_default();
    let resource = match value(Attribute::ResourceId) {
        "" => value(Attribute::ResourceName),
        id => id,
    };
    let (severity, number) = match value(Attribute::TraceRating) {
        "incident" => ("ERROR", "17"),
        "warning" => ("WARN", "13"),
        _ => ("INFO", "9"),
    };
    let mut id = format!("{}:{}", rule.id, about.trace_id);
    if about.conflict {
        id.push_str(&format!(":{}-{}", about.partition, about.offset));
    }
    let user = value(Attribute::UserId);
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", id),
        (
            "ce_source",
            format!("/trailproof/{}/{}/trackers/{}", about.region, about.project, about.tracker),
        ),
        ("ce_type", "io.trailproof.trace.keyevent.v1".to_owned()),
        (
            "ce_subject",
            format!(
                "{}/{}/{resource}",
                value(Attribute::ServiceType),
                value(Attribute::ResourceType)
            ),
        ),
        ("ce_time", rfc3339(trace.indexed_time_ms())),
        ("ce_dataschema", "urn:trailproof:schema:trace:v1".to_owned()),
        ("ce_recordedtime", rfc3339(about.record_time_ms)),
        ("ce_sequence", format!("{:020}", about.sequence)),
        ("ce_sequencepartition", about.partition.to_string()),
        ("ce_partitionkey", about.account.to_owned()),
        ("ce_severitytext", severity.to_owned()),
        ("ce_severitynumber", number.to_owned()),
        ("ce_authtype", if user.is_empty() { "system" } else { "user" }.to_owned()),
        ("ce_ruleid", rule.id.clone()),
    ];
    if !user.is_empty() {
        headers.push(("ce_authid", user.to_owned()));
    }
    OutRecord {
        topic: Topic::Notifications,
        partition: None,
        key: about.account.as_bytes().to_vec(),
        headers: headers.into_iter().map(|(name, text)| (name.to_owned(), header(text))).collect(),
        value: about.stored.to_vec(),
    }
}

/// Header text: control characters cannot forge a line, and a value is bounded.
pub(crate) fn header(text: String) -> String {
    if text.len() <= 1024 && !text.chars().any(char::is_control) {
        return text;
    }
    text.chars().filter(|letter| !letter.is_control()).take(1024).collect()
}
