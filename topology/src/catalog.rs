//! The catalog: accounts, projects, trackers, rules, and the settings that shape bytes.
//!
//! A catalog is immutable and versioned. The whole of a version is one record of topic `catalog`;
//! a mark in a partition says from which offset on it holds there. Everything that can change a
//! byte that leaves is in here and not in the configuration, so a replay sees what the first run
//! saw.
//!
//! Source: `schemas/catalog.schema.json`.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::input::Millis;
use crate::key::TrackerId;
use crate::merkle::Hash;

/// What a catalog mark says: from here on the version holds whose record has this hash.
///
/// The hash makes a mark good for one record alone. Its record also holds a random number, so
/// nobody can write a mark for a version that does not exist yet: such a mark would be ignored by
/// the first reader and honoured by a later replay (I6).
///
/// Source: `docs/formats.md`, "Records".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogMark {
    /// The version.
    pub version: u64,
    /// SHA-256 of the value of the version's record in topic `catalog`.
    pub sha256: Hash,
}

impl CatalogMark {
    /// The mark of the version that a record of topic `catalog` holds.
    #[must_use]
    pub fn of(version: u64, record: &[u8]) -> Self {
        Self { version, sha256: Sha256::digest(record).into() }
    }

    /// Reads a mark's value; `None` where it is anything but what [`CatalogMark::encode`] writes.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (version, hash) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        let sha256 = data_encoding::HEXLOWER.decode(hash.as_bytes()).ok()?.try_into().ok()?;
        let mark = Self { version: version.parse().ok()?, sha256 };
        (mark.encode().as_bytes() == value).then_some(mark)
    }

    /// The mark's value: the version in digits, a blank, the hash in lower-case hex.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{} {}", self.version, data_encoding::HEXLOWER.encode(&self.sha256))
    }
}

/// One version of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// 1 for the first version.
    pub version: u64,
    /// Name of the installation; origin of its checkpoints.
    pub installation: String,
    /// Region, part of object keys: 1 to 64 letters, digits, `-`, `_`.
    pub region: String,
    /// Length of a transfer cycle, aligned to the epoch.
    pub cycle_ms: Millis,
    /// Length of a digest interval, a multiple of `cycle_ms`, aligned to the epoch.
    pub digest_interval_ms: Millis,
    /// Bound of a trace file's uncompressed bytes.
    pub file_bytes_max: u64,
    /// Traces of a partition in which a resend is recognised.
    pub dedup_window: u32,
    /// Partitions of topic `traces`.
    pub traces_partitions: u32,
    /// Partitions of topic `files`.
    pub files_partitions: u32,
    /// Accounts, in order of id.
    pub accounts: Vec<Account>,
}

/// An account (a domain of CTS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The id: 1 to 64 letters, digits, `-`, `_`.
    pub id: String,
    /// The name.
    pub name: String,
    /// Its projects; the first is the default one.
    pub projects: Vec<Project>,
    /// Its trackers, in order of name.
    pub trackers: Vec<Tracker>,
    /// Its key-event rules, in order of id.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// A project of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
}

/// Whether a tracker records management or data events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackerKind {
    /// Management events; one per account, named `system`.
    System,
    /// Data events of one bucket.
    Data,
}

/// How trace files are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Independent zstd frames with a seek table.
    #[default]
    Zstd,
    /// One gzip member.
    Gzip,
    /// Not compressed.
    Json,
}

impl Compression {
    /// Ends an object's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".json.zst",
            Self::Gzip => ".json.gz",
            Self::Json => ".json",
        }
    }
}

/// Kinds of data events a data tracker records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataEvent {
    /// Reads.
    Read,
    /// Writes.
    Write,
}

/// A tracker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracker {
    /// The id: a hyphenated lower-case UUID.
    pub id: String,
    /// The name: 1 to 32 letters, digits, `-`, `_`.
    pub name: String,
    /// Management or data.
    pub kind: TrackerKind,
    /// Whether it records.
    pub enabled: bool,
    /// Bucket that trace files go to; empty: no transfer.
    pub bucket: String,
    /// Begins the names of its files: 0 to 64 letters, digits, `-`, `_`, `.`.
    #[serde(default)]
    pub file_prefix: String,
    /// How its files are stored.
    #[serde(default)]
    pub compression: Compression,
    /// Whether each service has files of its own.
    #[serde(default = "yes")]
    pub sort_by_service: bool,
    /// Whether its files are listed in signed digests.
    #[serde(default = "yes")]
    pub verify: bool,
    /// Services whose `createDatakey` is not recorded (only `KMS` is known).
    #[serde(default)]
    pub exclude_services: Vec<String>,
    /// The bucket a data tracker watches.
    #[serde(default)]
    pub data_bucket: String,
    /// The kinds of data event it records.
    #[serde(default)]
    pub data_events: Vec<DataEvent>,
}

fn yes() -> bool {
    true
}

impl Tracker {
    /// The id's 16 bytes; the catalog's check refuses an id that has none.
    #[must_use]
    pub fn key(&self) -> Option<TrackerId> {
        tracker_key(&self.id)
    }

    /// Whether its traces become files.
    #[must_use]
    pub fn transfers(&self) -> bool {
        !self.bucket.is_empty()
    }
}

/// The 16 bytes of a hyphenated lower-case UUID.
#[must_use]
pub fn tracker_key(id: &str) -> Option<TrackerId> {
    let compact: String = id.chars().filter(|letter| *letter != '-').collect();
    let bytes = data_encoding::HEXLOWER.decode(compact.as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// The hyphenated lower-case UUID of 16 bytes.
#[must_use]
pub fn tracker_text(id: &TrackerId) -> String {
    let hex = data_encoding::HEXLOWER.encode(id);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A key-event rule (a notification of CTS).
///
/// Source: CTS API v3, CreateNotification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The id: a hyphenated lower-case UUID.
    pub id: String,
    /// The name.
    pub name: String,
    /// Whether it notifies.
    pub enabled: bool,
    /// `true`: every operation; `false`: those of `operations`.
    pub all_operations: bool,
    /// Operations that it names.
    #[serde(default)]
    pub operations: Vec<Operation>,
    /// Names of the users whose operations count; empty: everybody.
    #[serde(default)]
    pub users: Vec<String>,
    /// Conditions on the trace.
    #[serde(default)]
    pub filter: Option<Filter>,
    /// URN of the topic or function to tell.
    #[serde(default)]
    pub topic_urn: String,
}

/// Operations of one resource type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Service, as in the trace.
    pub service_type: String,
    /// Resource type, as in the trace.
    pub resource_type: String,
    /// Operation names.
    pub trace_names: Vec<String>,
}

/// Conditions of a rule, at most six.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Whether all must hold (`AND`) or one (`OR`).
    pub all: bool,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// One comparison of a field with a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `api_version`, `code`, `trace_rating`, `trace_type`, `resource_id` or `resource_name`.
    pub field: String,
    /// `true` for `=`, `false` for `!=`.
    pub equal: bool,
    /// The value compared with.
    pub value: String,
}

impl Catalog {
    /// The account with `id`.
    #[must_use]
    pub fn account(&self, id: &str) -> Option<&Account> {
        self.accounts
            .binary_search_by(|account| account.id.as_str().cmp(id))
            .ok()
            .map(|at| &self.accounts[at])
    }

    /// The account that has `project`.
    #[must_use]
    pub fn account_of_project(&self, project: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.projects.iter().any(|own| own.id == project))
    }
}

#[cfg(test)]
mod tests {
    use super::CatalogMark;

    #[test]
    fn a_mark_survives_encoding_and_nothing_else_is_one() {
        let mark = CatalogMark::of(12, b"{}");
        assert_eq!(CatalogMark::parse(mark.encode().as_bytes()), Some(mark));
        let hash = data_encoding::HEXLOWER.encode(&mark.sha256);
        let twins = [
            "12".to_owned(),
            format!("+12 {hash}"),
            format!("012 {hash}"),
            format!("12  {hash}"),
            format!("12 {hash} "),
            format!("12 {}", hash.to_uppercase()),
            format!("12 {}", &hash[2..]),
            format!("99999999999999999999 {hash}"),
        ];
        for twin in twins {
            assert_eq!(CatalogMark::parse(twin.as_bytes()), None, "{twin:?}");
        }
        assert_eq!(CatalogMark::parse(b"\xff"), None);
    }
}
