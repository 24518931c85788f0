//! CloudTrail records as traces.
//!
//! The mapping is a function of the record and the target account alone: the same file sent twice
//! gives the same bytes, so the window of resends recognises it.
//!
//! What a trace has no member for (user agent, TLS details, region, …) is kept in the member
//! `cloudtrail`. CloudTrail has no status code, so `code` is derived from `errorCode`.

mod record;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use record::{Identity, Record};

/// Whose traces they become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The account.
    pub account: String,
    /// Its default project; empty: none is named.
    pub project: String,
    /// Data trackers: name and the bucket they watch.
    pub data_trackers: Vec<(String, String)>,
}

/// Request parameters that name a resource, the type they mean, and whether it is an id.
const RESOURCES: [(&str, &str, bool); 24] = [
    ("bucketName", "bucket", false),
    ("instanceId", "instance", true),
    ("functionName", "function", false),
    ("secretId", "secret", true),
    ("keyId", "key", true),
    ("roleName", "role", false),
    ("roleArn", "role", true),
    ("userName", "user", false),
    ("groupName", "group", false),
    ("policyArn", "policy", true),
    ("instanceProfileName", "instance-profile", false),
    ("dBInstanceIdentifier", "db-instance", true),
    ("dBClusterIdentifier", "db-cluster", true),
    ("subnetId", "subnet", true),
    ("routeTableId", "route-table", true),
    ("groupId", "security-group", true),
    ("volumeId", "volume", true),
    ("snapshotId", "snapshot", true),
    ("vpcId", "vpc", true),
    ("tableName", "table", false),
    ("queueUrl", "queue", true),
    ("topicArn", "topic", true),
    ("resourceId", "resource", true),
    ("name", "", false),
];

/// The records of a file: `{"Records": […]}`, as CloudTrail writes it.
///
/// # Errors
/// The text is no such file.
pub fn records(text: &str) -> Result<Vec<&RawValue>, serde_json::Error> {
    #[derive(Deserialize)]
    struct File<'a> {
        #[serde(rename = "Records", borrow)]
        records: Vec<&'a RawValue>,
    }
    serde_json::from_str::<File<'_>>(text).map(|file| file.records)
}

/// The trace of a record, as JSON text.
///
/// # Errors
/// What a trace needs and the record lacks.
pub fn to_trace(record: &str, target: &Target) -> Result<String, String> {
    let record: Record<'_> =
        serde_json::from_str(record).map_err(|error| format!("no CloudTrail record: {error}"))?;
    let time = record.event_time.as_deref().ok_or("it has no eventTime")?;
    let time_ms = millis(time).ok_or("its eventTime is no RFC 3339 time")?;
    let source = record.event_source.as_deref().ok_or("it has no eventSource")?;
    let name = record.event_name.as_deref().ok_or("it has no eventName")?;
    let service = name_of(&source.split('.').next().unwrap_or_default().to_ascii_uppercase());
    let mut trace = Map::new();
    set(&mut trace, "trace_id", record.event_id.as_deref());
    trace.insert("trace_name".to_owned(), json!(name_of(name)));
    trace.insert("trace_rating".to_owned(), json!(rating(record.error_code.as_deref())));
    trace.insert("trace_type".to_owned(), json!(trace_type(&record)));
    trace.insert("time".to_owned(), json!(time_ms));
    trace.insert("domain_id".to_owned(), json!(target.account));
    set(&mut trace, "project_id", Some(target.project.as_str()));
    set(&mut trace, "service_type", Some(service.as_str()));
    let parameters = object(record.request_parameters);
    add_resource(&mut trace, &record, &parameters, &service);
    add_tracker(&mut trace, &record, &parameters, target);
    let address = record.source_ip_address.as_deref().unwrap_or_default();
    let numeric = address.parse::<IpAddr>().is_ok();
    trace.insert("source_ip".to_owned(), json!(if numeric { address } else { "" }));
    trace.insert("user".to_owned(), user(&record, if numeric { "" } else { address }));
    trace.insert("code".to_owned(), json!(code(record.error_code.as_deref())));
    for (member, raw) in
        [("request", record.request_parameters), ("response", record.response_elements)]
    {
        let text = raw.filter(|raw| raw.get() != "null").map(RawValue::get);
        trace.insert(member.to_owned(), json!(text));
    }
    set(&mut trace, "message", message(&record).as_deref());
    set(&mut trace, "location_info", location(&record).as_deref());
    set(&mut trace, "api_version", record.api_version.as_deref());
    set(&mut trace, "request_id", record.request_id.as_deref());
    set(&mut trace, "operation_id", record.shared_event_id.as_deref());
    if let Some(flag) = record.read_only.as_ref().and_then(truth) {
        trace.insert("read_only".to_owned(), json!(flag));
    }
    let caller = record.user_identity.as_ref().and_then(|own| own.account_id.as_deref());
    let recipient = record.recipient_account_id.as_deref().filter(|own| Some(*own) != caller);
    set(&mut trace, "resource_account_id", recipient);
    trace.insert("cloudtrail".to_owned(), kept_beside(&record, name));
    Ok(Value::Object(trace).to_string())
}

fn set(trace: &mut Map<String, Value>, member: &str, value: Option<&str>) {
    if let Some(text) = value.filter(|text| !text.is_empty()) {
        trace.insert(member.to_owned(), json!(text));
    }
}

fn millis(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond())
}

/// At most 64 letters, digits, `-`, `_`, `.`; anything else becomes `_`.
fn name_of(text: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let name: String = text.chars().take(64).map(|own| if fits(own) { own } else { '_' }).collect();
    if name.trim_matches('.').is_empty() { "unknown".to_owned() } else { name }
}

fn truth(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| value.as_str()?.parse().ok())
}

fn object(raw: Option<&RawValue>) -> BTreeMap<String, &RawValue> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

fn last_part(arn: &str) -> &str {
    arn.rsplit(['/', ':']).next().unwrap_or(arn)
}

fn trace_type(record: &Record<'_>) -> &'static str {
    let is = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
    let identity = record.user_identity.as_ref();
    let console = record.session_credential_from_console.as_ref().and_then(truth);
    if is(&record.event_category, "Data") {
        let agent = record.user_agent.as_deref().unwrap_or_default().to_ascii_lowercase();
        let sdk = ["sdk", "cli", "boto"].iter().any(|word| agent.contains(word));
        return if sdk { "ObsSDK" } else { "ObsAPI" };
    }
    let service = identity.is_some_and(|own| is(&own.r#type, "AWSService"));
    if is(&record.event_type, "AwsServiceEvent") || service {
        return "SystemAction";
    }
    let sign_in = is(&record.event_type, "AwsConsoleSignIn");
    if sign_in || is(&record.event_type, "AwsConsoleAction") || console == Some(true) {
        return "ConsoleAction";
    }
    "ApiCall"
}

fn is_server_side(error: &str) -> bool {
    ["Internal", "ServiceUnavailable", "ServiceFailure", "ServerException", "Unavailable"]
        .iter()
        .any(|word| error.contains(word))
}

fn rating(error: Option<&str>) -> &'static str {
    match error {
        None => "normal",
        Some(error) if is_server_side(error) => "incident",
        Some(_) => "warning",
    }
}

/// The status that the error would have had: derived, as CloudTrail records none.
fn code(error: Option<&str>) -> &'static str {
    let Some(error) = error else { return "200" };
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if has(&["AccessDenied", "Unauthorized", "Forbidden", "AuthFailure"]) {
        "403"
    } else if has(&["NoSuch", "NotFound", "DoesNotExist"]) {
        "404"
    } else if has(&["Throttl", "TooManyRequests", "LimitExceeded", "SlowDown"]) {
        "429"
    } else if is_server_side(error) {
        "500"
    } else {
        "400"
    }
}

fn add_resource(
    trace: &mut Map<String, Value>,
    record: &Record<'_>,
    parameters: &BTreeMap<String, &RawValue>,
    service: &str,
) {
    let lower = service.to_ascii_lowercase();
    let named = RESOURCES.iter().find_map(|(parameter, kind, is_id)| {
        let value: String = serde_json::from_str(parameters.get(*parameter)?.get()).ok()?;
        (!value.is_empty()).then_some((*kind, *is_id, value))
    });
    let kind_of = |kind: &str| if kind.is_empty() { lower.clone() } else { kind.to_owned() };
    let first = record.resources.as_ref().and_then(|list| list.first());
    if let Some(arn) = first.and_then(|own| own.arn.as_deref()) {
        let guessed = || named.as_ref().map_or_else(|| lower.clone(), |own| kind_of(own.0));
        let kind = first.and_then(|own| own.r#type.clone()).unwrap_or_else(guessed);
        trace.insert("resource_type".to_owned(), json!(kind));
        set(trace, "resource_id", Some(arn));
        set(trace, "resource_name", Some(last_part(arn)));
        return;
    }
    let Some((kind, is_id, value)) = named else {
        trace.insert("resource_type".to_owned(), json!(lower));
        return;
    };
    trace.insert("resource_type".to_owned(), json!(kind_of(kind)));
    if is_id {
        set(trace, "resource_id", Some(&value));
    }
    set(trace, "resource_name", Some(last_part(&value)));
}

/// A data event belongs to the data tracker of its bucket, where there is one; all else to
/// `system`.
fn add_tracker(
    trace: &mut Map<String, Value>,
    record: &Record<'_>,
    parameters: &BTreeMap<String, &RawValue>,
    target: &Target,
) {
    let data = record.event_category.as_deref() == Some("Data");
    let bucket: Option<String> =
        parameters.get("bucketName").and_then(|raw| serde_json::from_str(raw.get()).ok());
    let tracker = target.data_trackers.iter().find(|(_, own)| Some(own) == bucket.as_ref());
    let (kind, name) = match tracker.filter(|_| data) {
        Some((name, _)) => ("data", name.as_str()),
        None => ("system", "system"),
    };
    trace.insert("event_type".to_owned(), json!(kind));
    trace.insert("tracker_name".to_owned(), json!(name));
}

fn user(record: &Record<'_>, invoked_from: &str) -> Value {
    let nobody = Identity::default();
    let identity = record.user_identity.as_ref().unwrap_or(&nobody);
    let session = identity.session_context.as_ref();
    let issuer = session.and_then(|own| own.session_issuer.as_ref());
    let name = identity
        .user_name
        .as_deref()
        .or(issuer.and_then(|own| own.user_name.as_deref()))
        .or(identity.arn.as_deref().map(last_part))
        .or(identity.invoked_by.as_deref());
    let mut user = Map::new();
    set(&mut user, "id", identity.principal_id.as_deref());
    set(&mut user, "name", name);
    set(&mut user, "user_name", name);
    set(&mut user, "account_id", identity.account_id.as_deref());
    set(&mut user, "access_key_id", identity.access_key_id.as_deref());
    set(&mut user, "type", identity.r#type.as_deref());
    set(&mut user, "principal_id", identity.principal_id.as_deref());
    set(&mut user, "principal_urn", identity.arn.as_deref());
    if let Some(id) = identity.account_id.as_deref() {
        user.insert("domain".to_owned(), json!({ "id": id }));
    }
    let root = identity.r#type.as_deref() == Some("Root");
    user.insert("principal_is_root_user".to_owned(), json!(root.to_string()));
    let mut invoked_by: Vec<&str> = identity.invoked_by.as_deref().into_iter().collect();
    if !invoked_from.is_empty() && !invoked_by.contains(&invoked_from) {
        invoked_by.push(invoked_from);
    }
    if !invoked_by.is_empty() {
        user.insert("invoked_by".to_owned(), json!(invoked_by));
    }
    if let Some(attributes) = session.and_then(|own| own.attributes.as_ref()) {
        let created = attributes.creation_date.as_deref().and_then(millis);
        let mfa = attributes.mfa_authenticated.as_ref().and_then(truth);
        let mut own = Map::new();
        set(&mut own, "created_at", created.map(|time| time.to_string()).as_deref());
        set(&mut own, "mfa_authenticated", mfa.map(|flag| flag.to_string()).as_deref());
        user.insert("session_context".to_owned(), json!({ "attributes": own }));
    }
    Value::Object(user)
}

fn message(record: &Record<'_>) -> Option<String> {
    let parts = [
        ("additionalEventData", record.additional_event_data),
        ("serviceEventDetails", record.service_event_details),
        ("addendum", record.addendum),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter_map(|(name, raw)| raw.map(|raw| format!("\"{name}\":{}", raw.get())))
        .collect();
    (!parts.is_empty()).then(|| format!("{{{}}}", parts.join(",")))
}

fn location(record: &Record<'_>) -> Option<String> {
    let code = record.error_code.as_deref()?;
    Some(match record.error_message.as_deref() {
        Some(message) => format!("{code}: {message}"),
        None => code.to_owned(),
    })
}

fn kept_beside(record: &Record<'_>, name: &str) -> Value {
    let mut kept = Map::new();
    set(&mut kept, "userAgent", record.user_agent.as_deref());
    set(&mut kept, "awsRegion", record.aws_region.as_deref());
    set(&mut kept, "eventVersion", record.event_version.as_deref());
    set(&mut kept, "eventSource", record.event_source.as_deref());
    set(&mut kept, "eventType", record.event_type.as_deref());
    set(&mut kept, "eventCategory", record.event_category.as_deref());
    set(&mut kept, "vpcEndpointId", record.vpc_endpoint_id.as_deref());
    set(&mut kept, "errorCode", record.error_code.as_deref());
    if let Some(details) = &record.tls_details {
        kept.insert("tlsDetails".to_owned(), details.clone());
    }
    if name_of(name) != name {
        set(&mut kept, "eventName", Some(name));
    }
    kept.insert("derived".to_owned(), json!(["code"]));
    Value::Object(kept)
}

#[cfg(test)]
#[path = "cloudtrail_test.rs"]
mod tests;
