//! The file's mirror: it only parses.
//!
//! **Invariant:** every field stands in the compiled `trailproof.toml`, and no other key does; a
//! test holds it.

use serde::Deserialize;
use trailproof_topology::catalog::{
    Compression, DataEvent, Filter, Operation, Project, TrackerKind,
};

/// A setting before its type is checked: every layer may write it as text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

impl Scalar {
    /// The setting as text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) listen: Scalar,
    pub(super) data: Scalar,
    pub(super) log: Scalar,
    pub(super) partitions: Scalar,
    pub(super) installation: Scalar,
    pub(super) region: Scalar,
    pub(super) cycle: Scalar,
    pub(super) digest_interval: Scalar,
    pub(super) file_bytes_max: Scalar,
    pub(super) dedup_window: Scalar,
    pub(super) view_days: Scalar,
    pub(super) kafka: RawKafka,
    pub(super) objects: RawObjects,
    pub(super) keys: RawKeys,
    pub(super) memory: RawMemory,
    pub(super) http: RawHttp,
    #[serde(default)]
    pub(super) accounts: Vec<RawAccount>,
}

/// The keys of table `kafka` that are our own; all others are librdkafka's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKafka {
    pub(super) brokers: Scalar,
    pub(super) group: Scalar,
    pub(super) prefix: Scalar,
    pub(super) instance: Scalar,
    pub(super) replication: Scalar,
    pub(super) downtime: Scalar,
    pub(super) files_partitions: Scalar,
    pub(super) accept_gap: Scalar,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawObjects {
    pub(super) url: Scalar,
    pub(super) endpoint: Scalar,
    pub(super) region: Scalar,
    pub(super) path_style: Scalar,
    pub(super) timeout: Scalar,
    pub(super) sse: Scalar,
    pub(super) sse_kms_key: Scalar,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeys {
    pub(super) dir: Scalar,
    pub(super) passphrase_file: Scalar,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMemory {
    pub(super) block_cache: Scalar,
    pub(super) write_buffers: Scalar,
    pub(super) ingest: Scalar,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) connections_max: Scalar,
    pub(super) queries_max: Scalar,
    pub(super) request_timeout: Scalar,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccount {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) projects: Vec<Project>,
    #[serde(default)]
    pub(super) trackers: Vec<RawTracker>,
    #[serde(default)]
    pub(super) rules: Vec<RawRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTracker {
    #[serde(default)]
    pub(super) id: Option<String>,
    pub(super) name: String,
    #[serde(default)]
    pub(super) kind: Option<TrackerKind>,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    #[serde(default = "yes")]
    pub(super) transfer: bool,
    #[serde(default)]
    pub(super) bucket: String,
    #[serde(default)]
    pub(super) file_prefix: String,
    #[serde(default)]
    pub(super) compression: Compression,
    #[serde(default = "yes")]
    pub(super) sort_by_service: bool,
    #[serde(default = "yes")]
    pub(super) verify: bool,
    #[serde(default)]
    pub(super) exclude_services: Vec<String>,
    #[serde(default)]
    pub(super) data_bucket: String,
    #[serde(default)]
    pub(super) data_events: Vec<DataEvent>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    #[serde(default)]
    pub(super) id: Option<String>,
    pub(super) name: String,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    #[serde(default)]
    pub(super) all_operations: bool,
    #[serde(default)]
    pub(super) operations: Vec<Operation>,
    #[serde(default)]
    pub(super) users: Vec<String>,
    #[serde(default)]
    pub(super) filter: Option<Filter>,
    #[serde(default)]
    pub(super) topic_urn: String,
}

fn yes() -> bool {
    true
}

/// The keys a table inside `accounts` may have; `None` where the path names no such table.
pub(super) fn account_keys(path: &[&str]) -> Option<&'static [&'static str]> {
    Some(match path {
        [] => &["id", "name", "projects", "trackers", "rules"],
        ["projects"] => &["id", "name"],
        ["trackers"] => &[
            "id",
            "name",
            "kind",
            "enabled",
            "transfer",
            "bucket",
            "file_prefix",
            "compression",
            "sort_by_service",
            "verify",
            "exclude_services",
            "data_bucket",
            "data_events",
        ],
        ["rules"] => &[
            "id",
            "name",
            "enabled",
            "all_operations",
            "operations",
            "users",
            "filter",
            "topic_urn",
        ],
        ["rules", "operations"] => &["service_type", "resource_type", "trace_names"],
        ["rules", "filter"] => &["all", "conditions"],
        ["rules", "filter", "conditions"] => &["field", "equal", "value"],
        _ => return None,
    })
}
