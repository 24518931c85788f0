//! Accounts, projects, trackers and rules of the configuration, checked and made part of a catalog.

use sha2::{Digest as _, Sha256};
use trailproof_topology::catalog::{
    Account, Project, Rule, Tracker, TrackerKind, tracker_key, tracker_text,
};

use super::layers::Reader;
use super::raw::{RawAccount, RawRule, RawTracker};
use super::{DEV_ACCOUNT, DEV_PROJECT};

/// Rules of an account at most, as in CTS.
const RULES_MAX: usize = 100;

/// Data trackers of an account at most, as in CTS.
const DATA_TRACKERS_MAX: usize = 100;

/// Fields that a rule's condition may name.
const FILTER_FIELDS: [&str; 6] =
    ["api_version", "code", "trace_rating", "trace_type", "resource_id", "resource_name"];

/// Whether a text is 1 to `max` letters, digits, `-` and `_`.
pub(super) fn is_name(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// The accounts of a catalog, in order of id.
pub(super) fn build(reader: &mut Reader, raw: &[RawAccount], dev: bool) -> Vec<Account> {
    let mut accounts: Vec<Account> = raw
        .iter()
        .enumerate()
        .map(|(at, account)| build_account(reader, &format!("accounts[{at}]"), account))
        .collect();
    let missing = accounts.iter().all(|account| account.id != DEV_ACCOUNT);
    if accounts.is_empty() || (dev && missing) {
        accounts.push(default_account(if dev { "dev" } else { "default" }));
    }
    accounts.sort_by(|left, right| left.id.cmp(&right.id));
    for pair in accounts.windows(2) {
        if pair[0].id == pair[1].id {
            reader.problem("accounts", format!("two accounts have the id {}", pair[0].id));
        }
    }
    let mut projects: Vec<&str> =
        accounts.iter().flat_map(|account| &account.projects).map(|own| own.id.as_str()).collect();
    projects.sort_unstable();
    for pair in projects.windows(2) {
        if pair[0] == pair[1] {
            reader.problem("accounts", format!("two projects have the id {}", pair[0]));
        }
    }
    accounts
}

fn default_account(name: &str) -> Account {
    Account {
        id: DEV_ACCOUNT.to_owned(),
        name: name.to_owned(),
        projects: vec![Project { id: DEV_PROJECT.to_owned(), name: "local".to_owned() }],
        trackers: vec![default_tracker(DEV_ACCOUNT)],
        rules: vec![],
    }
}

fn default_tracker(account: &str) -> Tracker {
    Tracker {
        id: derived_id(account, "system"),
        name: "system".to_owned(),
        kind: TrackerKind::System,
        enabled: true,
        bucket: default_bucket(account),
        file_prefix: String::new(),
        compression: trailproof_topology::catalog::Compression::Zstd,
        sort_by_service: true,
        verify: true,
        exclude_services: vec![],
        data_bucket: String::new(),
        data_events: vec![],
    }
}

fn default_bucket(account: &str) -> String {
    format!("cts-{account}")
}

/// A UUID from the first 16 bytes of SHA-256(`account/name`), marked as version 8.
///
/// A tracker that is not given an id so keeps the same one on every machine.
fn derived_id(account: &str, name: &str) -> String {
    let hash = Sha256::digest(format!("{account}/{name}"));
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id[6] = (id[6] & 0x0f) | 0x80;
    id[8] = (id[8] & 0x3f) | 0x80;
    tracker_text(&id)
}

fn build_account(reader: &mut Reader, path: &str, raw: &RawAccount) -> Account {
    check(reader, &format!("{path}.id"), &raw.id, is_name(&raw.id, 64), NAME_64);
    if raw.projects.is_empty() {
        reader.problem(&format!("{path}.projects"), "an account needs at least one project");
    }
    for project in &raw.projects {
        check(reader, &format!("{path}.projects"), &project.id, is_name(&project.id, 64), NAME_64);
    }
    let mut trackers: Vec<Tracker> = raw
        .trackers
        .iter()
        .enumerate()
        .map(|(at, tracker)| {
            build_tracker(reader, &format!("{path}.trackers[{at}]"), &raw.id, tracker)
        })
        .collect();
    if trackers.is_empty() {
        trackers.push(default_tracker(&raw.id));
    }
    trackers.sort_by(|left, right| left.name.cmp(&right.name));
    let key = format!("{path}.trackers");
    for pair in trackers.windows(2) {
        if pair[0].name == pair[1].name {
            reader.problem(&key, format!("two trackers have the name {}", pair[0].name));
        }
    }
    let data = trackers.iter().filter(|tracker| tracker.kind == TrackerKind::Data).count();
    if data > DATA_TRACKERS_MAX {
        reader.problem(&key, format!("{data} data trackers: at most {DATA_TRACKERS_MAX}"));
    }
    if raw.rules.len() > RULES_MAX {
        let text = format!("{} rules: at most {RULES_MAX}", raw.rules.len());
        reader.problem(&format!("{path}.rules"), text);
    }
    let mut rules: Vec<Rule> = raw
        .rules
        .iter()
        .enumerate()
        .map(|(at, rule)| build_rule(reader, &format!("{path}.rules[{at}]"), &raw.id, rule))
        .collect();
    rules.sort_by(|left, right| left.id.cmp(&right.id));
    if let Some(pair) = rules.windows(2).find(|pair| pair[0].id == pair[1].id) {
        reader.problem(&format!("{path}.rules"), format!("two rules are {}", pair[0].name));
    }
    Account {
        id: raw.id.clone(),
        name: if raw.name.is_empty() { raw.id.clone() } else { raw.name.clone() },
        projects: raw.projects.clone(),
        trackers,
        rules,
    }
}

const NAME_64: &str = "is not 1 to 64 letters, digits, - and _";

fn check(reader: &mut Reader, key: &str, value: &str, holds: bool, otherwise: &str) {
    if !holds {
        reader.problem(key, format!("{value:?} {otherwise}"));
    }
}

fn build_tracker(reader: &mut Reader, path: &str, account: &str, raw: &RawTracker) -> Tracker {
    let at = |name: &str| format!("{path}.{name}");
    let starts_well = raw.name.starts_with(|first: char| first.is_ascii_alphanumeric());
    check(
        reader,
        &at("name"),
        &raw.name,
        is_name(&raw.name, 32) && starts_well,
        "is not 1 to 32 letters, digits, - and _, the first a letter or digit",
    );
    let system = raw.name == "system";
    let kind = raw.kind.unwrap_or(if system { TrackerKind::System } else { TrackerKind::Data });
    match kind {
        TrackerKind::System => {
            check(reader, &at("name"), &raw.name, system, "must be system for kind system");
            if !raw.data_bucket.is_empty() || !raw.data_events.is_empty() {
                reader.problem(&at("data_bucket"), "belongs to kind data");
            }
        }
        TrackerKind::Data => {
            let own = !system && raw.name != "system-trace";
            check(reader, &at("name"), &raw.name, own, "is kept for management traces");
            if raw.data_bucket.is_empty() {
                reader.problem(&at("data_bucket"), "is missing: name the bucket to record");
            }
            if raw.data_events.is_empty() {
                reader.problem(&at("data_events"), "is empty: write [\"READ\", \"WRITE\"]");
            }
        }
    }
    for service in &raw.exclude_services {
        check(reader, &at("exclude_services"), service, service == "KMS", "is not KMS");
    }
    let prefix_letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let prefix_fits = raw.file_prefix.len() <= 64 && raw.file_prefix.bytes().all(prefix_letters);
    let otherwise = "is not 0 to 64 letters, digits, -, _ and .";
    check(reader, &at("file_prefix"), &raw.file_prefix, prefix_fits, otherwise);
    let bucket = match (raw.transfer, raw.bucket.as_str()) {
        (false, _) => String::new(),
        (true, "") => default_bucket(account),
        (true, named) => {
            check(reader, &at("bucket"), named, is_bucket(named), BUCKET);
            named.to_owned()
        }
    };
    if let Some(id) = raw.id.as_deref() {
        let well = tracker_key(id).is_some_and(|key| tracker_text(&key) == id);
        check(reader, &at("id"), id, well, "is no hyphenated lower-case UUID");
    }
    Tracker {
        id: raw.id.clone().unwrap_or_else(|| derived_id(account, &raw.name)),
        name: raw.name.clone(),
        kind,
        enabled: raw.enabled,
        bucket,
        file_prefix: raw.file_prefix.clone(),
        compression: raw.compression,
        sort_by_service: raw.sort_by_service,
        verify: raw.verify,
        exclude_services: raw.exclude_services.clone(),
        data_bucket: raw.data_bucket.clone(),
        data_events: raw.data_events.clone(),
    }
}

const BUCKET: &str = "is not 3 to 63 lower-case letters, digits, - and ., ends a letter or digit";

fn is_bucket(name: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().copied().all(inner)
        && ends(bytes.first())
        && ends(bytes.last())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

fn build_rule(reader: &mut Reader, path: &str, account: &str, raw: &RawRule) -> Rule {
    let at = |name: &str| format!("{path}.{name}");
    let named = !raw.name.is_empty() && raw.name.chars().count() <= 64;
    check(reader, &at("name"), &raw.name, named, "is not 1 to 64 letters");
    if !raw.all_operations && raw.operations.is_empty() {
        let text = "is empty: list operations, or set all_operations = true";
        reader.problem(&at("operations"), text);
    }
    if raw.all_operations && !raw.operations.is_empty() {
        reader.warn(format!("{}: not looked at, as all_operations is true", at("operations")));
    }
    let operations: usize = raw.operations.iter().map(|own| own.trace_names.len()).sum();
    if operations > 1_000 || raw.users.len() > 50 {
        reader.problem(path, "has more than 1000 operations or more than 50 users");
    }
    if let Some(filter) = &raw.filter {
        if filter.conditions.len() > 6 {
            reader.problem(&at("filter"), "has more than 6 conditions");
        }
        for condition in &filter.conditions {
            let known = FILTER_FIELDS.contains(&condition.field.as_str());
            let otherwise = "cannot be filtered on";
            check(reader, &at("filter"), &condition.field, known, otherwise);
        }
    }
    if let Some(id) = raw.id.as_deref() {
        check(reader, &at("id"), id, tracker_key(id).is_some(), "is no hyphenated UUID");
    }
    Rule {
        id: raw.id.clone().unwrap_or_else(|| derived_id(account, &format!("rule/{}", raw.name))),
        name: raw.name.clone(),
        enabled: raw.enabled,
        all_operations: raw.all_operations,
        operations: raw.operations.clone(),
        users: raw.users.clone(),
        filter: raw.filter.clone(),
        topic_urn: raw.topic_urn.clone(),
    }
}
