//! The digest: one signed document per tracker and interval, listing every file and every count.
//!
//! Members of CTS come first, with CTS's names and meanings; the others are our own. What makes a
//! chain of digests whole is said here once, as predicates: the stage asserts them when it writes
//! a digest, and `trailproof verify` checks them when it reads one (I7).
//!
//! **Invariant:** a digest depends on the `files` log alone; its bytes are written once.
//!
//! Source: CTS "Digest files"; `docs/formats.md`, "Digests"; `schemas/digest.schema.json`.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use crate::digest_coverage::{Coverage, LedgerCoverage, TrackerCoverage, coverage_meets};
use crate::files::File;
use crate::input::{Millis, Offset};
use crate::key::TrackerId;
use crate::names::file_time;

/// The format's name, member `version`.
pub const VERSION: &str = "trailproof/digest/v1";

/// Name of both signature algorithms fields.
pub const SIGNATURE_ALGORITHM: &str = "SHA256withRSA";

/// Name of the hash algorithm fields.
pub const HASH_ALGORITHM: &str = "SHA256";

/// Name of the hash algorithm in compatible digests.
pub const HASH_ALGORITHM_AWS: &str = "SHA-256";

/// Metadata name of a digest's RSA signature, lower-case hex.
pub const META_SIGNATURE: &str = "meta-signature";

/// Metadata name of the signature's algorithm.
pub const META_SIGNATURE_ALGORITHM: &str = "meta-signature-algorithm";

/// Stands for tracker and tracker name in the digests of the ledger chain.
pub const LEDGER: &str = "_ledger";

/// Bucket of the ledger chain.
pub const LEDGER_BUCKET: &str = "cts-ledger";

/// Key of the ledger's rows, in place of a tracker's.
pub const LEDGER_ID: TrackerId = [0; 16];

/// A digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// [`VERSION`].
    pub version: String,
    /// The account's default project; empty in the ledger.
    pub project_id: String,
    /// Start of the interval, as in `2017-03-28T01-09-17Z`.
    pub digest_start_time: String,
    /// End of the interval, in the same form.
    pub digest_end_time: String,
    /// Bucket of this digest.
    pub digest_bucket: String,
    /// Key of this digest inside the bucket.
    pub digest_object: String,
    /// [`SIGNATURE_ALGORITHM`].
    pub digest_signature_algorithm: String,
    /// Whether this is an ending digest: the tracker stopped, so silence follows.
    pub digest_end: bool,
    /// Bucket of the previous digest, empty in the first one of a chain, as the next four are.
    pub previous_digest_bucket: String,
    /// Key of the previous digest.
    pub previous_digest_object: String,
    /// SHA-256 of the previous digest's uncompressed JSON, lower-case hex.
    pub previous_digest_hash_value: String,
    /// [`HASH_ALGORITHM`].
    pub previous_digest_hash_algorithm: String,
    /// RSA signature of the previous digest, lower-case hex.
    pub previous_digest_signature: String,
    /// Whether the previous one was an ending digest.
    pub previous_digest_end: bool,
    /// Installation, account, tracker.
    #[serde(flatten)]
    pub chain: ChainName,
    /// Place in the chain, 0 for the first.
    pub sequence: u64,
    /// Whether this is the first digest of the chain.
    pub starting: bool,
    /// Start of the interval.
    pub interval_start_ms: Millis,
    /// End of the interval, exclusive.
    pub interval_end_ms: Millis,
    /// The keys that sign this digest and its checkpoint.
    pub key_ids: KeyIds,
    /// What became of the records of each `traces` partition, in order of partition.
    pub coverage: Vec<Coverage>,
    /// In the ledger: trackers that may have made files without verification in the interval, by
    /// [`unverified_id`], ascending. No digest lists those files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unverified: Vec<String>,
    /// The CloudTrail-compatible digest beside this one, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatible_digest: Option<CompatibleDigest>,
    /// The trace files of the interval, in order of partition, first offset and service.
    pub log_files: Vec<LogFile>,
}

/// Whose chain it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainName {
    /// The installation.
    pub installation: String,
    /// The account; empty in the ledger.
    pub account: String,
    /// The tracker, as a hyphenated lower-case UUID; [`LEDGER`] in the ledger.
    pub tracker: String,
    /// The tracker's name; [`LEDGER`] in the ledger.
    pub tracker_name: String,
}

/// The keys of a digest, by [`crate::sign::key_id`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyIds {
    /// Signs the digest.
    pub rsa: String,
    /// Signs the checkpoint.
    pub ed25519: String,
}

/// A listed trace file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// Bucket of the file.
    pub bucket: String,
    /// Key of the file inside the bucket.
    pub object: String,
    /// SHA-256 of the stored bytes, lower-case hex.
    pub log_hash_value: String,
    /// [`HASH_ALGORITHM`].
    pub log_hash_algorithm: String,
    /// RFC 6962 root over the traces, lower-case hex.
    pub root: String,
    /// Traces in the file.
    pub count: u64,
    /// Partition of topic `traces`.
    pub partition: u32,
    /// Offset of the first trace.
    pub first_offset: Offset,
    /// Offset of the last trace.
    pub last_offset: Offset,
    /// Stored bytes.
    pub bytes: u64,
    /// Uncompressed bytes.
    pub raw_bytes: u64,
    /// Smallest event time.
    pub time_min_ms: Millis,
    /// Greatest event time.
    pub time_max_ms: Millis,
    /// SHA-256 of the inflated bytes, lower-case hex; of gzip files alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_sha256: Option<String>,
}

/// The CloudTrail-compatible digest of the same interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompatibleDigest {
    /// Its bucket.
    pub bucket: String,
    /// Its key inside the bucket.
    pub object: String,
    /// SHA-256 of its uncompressed JSON, lower-case hex.
    pub content_sha256: String,
    /// Its RSA signature, lower-case hex.
    pub signature: String,
}

/// What the next digest says of this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Bucket of the digest.
    pub bucket: String,
    /// Key of the digest.
    pub object: String,
    /// SHA-256 of its uncompressed JSON, lower-case hex.
    pub hash: String,
    /// Its RSA signature, lower-case hex.
    pub signature: String,
    /// Its place in the chain.
    pub sequence: u64,
    /// End of its interval.
    pub end_ms: Millis,
    /// Whether it is an ending digest.
    pub ended: bool,
}

impl ChainName {
    /// The name of the ledger chain.
    #[must_use]
    pub fn ledger(installation: &str) -> Self {
        Self {
            installation: installation.to_owned(),
            account: String::new(),
            tracker: LEDGER.to_owned(),
            tracker_name: LEDGER.to_owned(),
        }
    }

    /// Whether it is the ledger's.
    #[must_use]
    pub fn is_ledger(&self) -> bool {
        self.tracker == LEDGER
    }

    /// The first line of the chain's checkpoints.
    #[must_use]
    pub fn origin(&self) -> String {
        let installation = crate::note::key_name(&self.installation);
        if self.is_ledger() {
            format!("{installation}/{LEDGER}")
        } else {
            format!("{installation}/{}/{}", self.account, self.tracker_name)
        }
    }
}

impl Digest {
    /// The uncompressed JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a digest has string keys, so it always serialises")
    }

    /// Whether this digest names `previous` as its predecessor and follows it in time (I7).
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn follows(&self, previous: &Link) -> Result<(), Break> {
        let names = (&self.previous_digest_bucket, &self.previous_digest_object)
            == (&previous.bucket, &previous.object);
        if self.starting || !names || self.sequence != previous.sequence + 1 {
            return Err(Break::Order);
        }
        if self.previous_digest_hash_value != previous.hash
            || self.previous_digest_signature != previous.signature
            || self.previous_digest_end != previous.ended
        {
            return Err(Break::Content);
        }
        if self.interval_start_ms < previous.end_ms {
            return Err(Break::Clock);
        }
        if self.interval_start_ms > previous.end_ms && !previous.ended {
            return Err(Break::Gap);
        }
        Ok(())
    }

    /// Whether this is how a chain begins: nothing before it.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.starting
            && self.sequence == 0
            && !self.previous_digest_end
            && [
                &self.previous_digest_bucket,
                &self.previous_digest_object,
                &self.previous_digest_hash_value,
                &self.previous_digest_hash_algorithm,
                &self.previous_digest_signature,
            ]
            .iter()
            .all(|member| member.is_empty())
    }

    /// Whether every count of the digest adds up, and agrees with the files it lists (I3, I7).
    #[must_use]
    pub fn balances(&self) -> bool {
        let ordered =
            self.coverage.windows(2).all(|pair| pair[0].partition() < pair[1].partition());
        let filed = |partition| -> u64 {
            let listed = self.log_files.iter().filter(|file| file.partition == partition);
            listed.fold(0, |sum, file| sum.saturating_add(file.count))
        };
        ordered
            && self.coverage.iter().all(|coverage| match coverage {
                Coverage::Tracker(counts) => {
                    counts.balances() && counts.filed == filed(counts.partition)
                }
                Coverage::Ledger(counts) => counts.balances(),
            })
            && self.log_files.iter().all(|file| {
                self.coverage.iter().any(|coverage| {
                    coverage.partition() == file.partition
                        && coverage.from() <= file.first_offset
                        && file.last_offset < coverage.to()
                })
            })
    }

    /// What the next digest says of this one.
    #[must_use]
    pub fn link(&self, content: &[u8], signature: &str) -> Link {
        Link {
            bucket: self.digest_bucket.clone(),
            object: self.digest_object.clone(),
            hash: hex_sha256(content),
            signature: signature.to_owned(),
            sequence: self.sequence,
            end_ms: self.interval_end_ms,
            ended: self.digest_end,
        }
    }
}

/// How two digests fail to be neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Another predecessor is named, or another place in the chain.
    Order,
    /// The predecessor is named, with another hash or signature than it has.
    Content,
    /// The interval begins before the predecessor's ended.
    Clock,
    /// The interval begins after the predecessor's ended, and that was no ending digest.
    Gap,
}

impl From<File> for LogFile {
    fn from(file: File) -> Self {
        Self {
            bucket: file.bucket,
            object: file.object,
            log_hash_value: file.sha256,
            log_hash_algorithm: HASH_ALGORITHM.to_owned(),
            root: file.root,
            count: file.count,
            partition: file.partition,
            first_offset: file.first_offset,
            last_offset: file.last_offset,
            bytes: file.bytes,
            raw_bytes: file.raw_bytes,
            time_min_ms: file.time_min_ms,
            time_max_ms: file.time_max_ms,
            content_sha256: file.content_sha256,
        }
    }
}

/// What the RSA signature of a digest is over: four lines, none of them ended.
#[must_use]
pub fn signing_text(digest: &Digest, content: &[u8]) -> String {
    format!(
        "{}\n{}/{}\n{}\n{}",
        digest.digest_end_time,
        digest.digest_bucket,
        digest.digest_object,
        hex_sha256(content),
        digest.previous_digest_signature
    )
}

/// The end of a digest's name: first four bytes of SHA-256 of the tracker's id, hex.
#[must_use]
pub fn unique(tracker: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(tracker)[..4])
}

/// How the ledger names a tracker that is not verified: the first 16 bytes, in hex, of SHA-256 of
/// its bucket, a newline and its name. Whoever has its files can tell, and it shows no account's
/// names.
#[must_use]
pub fn unverified_id(bucket: &str, tracker_name: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(format!("{bucket}\n{tracker_name}"))[..16])
}

/// The name of a digest inside its folder.
#[must_use]
pub fn file_name(prefix: &str, region: &str, end_ms: Millis, tracker: &str) -> String {
    let separator = if prefix.is_empty() { "" } else { "_" };
    let (time, unique) = (file_time(end_ms), unique(tracker));
    format!("{prefix}{separator}CloudTrace-Digest_{region}_{time}_{unique}.json.gz")
}

/// The key of the note beside a digest.
#[must_use]
pub fn note_object(digest_object: &str) -> String {
    format!("{}.note", digest_object.strip_suffix(".json.gz").unwrap_or(digest_object))
}

/// The lower-case hex of a SHA-256.
#[must_use]
pub fn hex_sha256(content: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(content))
}

/// Whether listed files stand in the order that digests have: partition, then offset.
#[must_use]
pub fn files_in_order(files: &[LogFile]) -> bool {
    let key = |file: &LogFile| (file.partition, file.first_offset);
    files.windows(2).all(|pair| key(&pair[0]) <= key(&pair[1]))
}
