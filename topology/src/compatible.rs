//! The digest that the AWS command line can check: the same gzip files, in CloudTrail's words.
//!
//! **Invariant:** the signed text, member names and object names are exactly what
//! `aws cloudtrail validate-logs` reads; nothing else in Trailproof depends on them.
//!
//! Source: AWS "CloudTrail digest file structure"; `docs/formats.md`, "Compatible digests".

use serde::{Deserialize, Serialize};

use crate::digest::{HASH_ALGORITHM_AWS, LogFile, SIGNATURE_ALGORITHM, hex_sha256};
use crate::input::Millis;
use crate::names::{Civil, rfc3339};

/// Metadata name of the signature, lower-case hex.
pub const META_SIGNATURE: &str = "signature";

/// Metadata name of the signature's algorithm.
pub const META_SIGNATURE_ALGORITHM: &str = "signature-algorithm";

/// A compatible digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compatible {
    /// The account.
    pub aws_account_id: String,
    /// Start of the interval, RFC 3339 to the second.
    pub digest_start_time: String,
    /// End of the interval.
    pub digest_end_time: String,
    /// Bucket of this digest.
    pub digest_s3_bucket: String,
    /// Key of this digest.
    pub digest_s3_object: String,
    /// Id of the RSA key.
    pub digest_public_key_fingerprint: String,
    /// `SHA256withRSA`.
    pub digest_signature_algorithm: String,
    /// Greatest event time of the files; null where there is none.
    pub newest_event_time: Option<String>,
    /// Smallest event time of the files.
    pub oldest_event_time: Option<String>,
    /// Bucket of the digest before; null in the first one, as the next four are.
    pub previous_digest_s3_bucket: Option<String>,
    /// Key of the digest before.
    pub previous_digest_s3_object: Option<String>,
    /// SHA-256 of its uncompressed JSON, lower-case hex.
    pub previous_digest_hash_value: Option<String>,
    /// `SHA-256`.
    pub previous_digest_hash_algorithm: Option<String>,
    /// Its signature, lower-case hex.
    pub previous_digest_signature: Option<String>,
    /// The gzip files of the interval.
    pub log_files: Vec<CompatibleFile>,
}

/// A file in a compatible digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompatibleFile {
    /// Bucket of the file.
    pub s3_bucket: String,
    /// Key of the file.
    pub s3_object: String,
    /// SHA-256 of the inflated bytes, lower-case hex.
    pub hash_value: String,
    /// `SHA-256`.
    pub hash_algorithm: String,
    /// Greatest event time.
    pub newest_event_time: String,
    /// Smallest event time.
    pub oldest_event_time: String,
}

/// The last compatible digest of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompatibleLink {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub object: String,
    /// SHA-256 of its uncompressed JSON, lower-case hex.
    pub hash: String,
    /// Its signature, lower-case hex.
    pub signature: String,
}

/// What a compatible digest is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The account.
    pub account: &'a str,
    /// The region.
    pub region: &'a str,
    /// Name of the tracker, as the trail's.
    pub tracker_name: &'a str,
    /// Bucket it goes to.
    pub bucket: &'a str,
    /// Id of the RSA key.
    pub key_id: &'a str,
    /// The interval.
    pub interval_ms: (Millis, Millis),
    /// The compatible digest before it.
    pub previous: Option<&'a CompatibleLink>,
}

impl Compatible {
    /// Writes down the gzip files among `files`.
    #[must_use]
    pub fn new(about: &About<'_>, files: &[LogFile]) -> Self {
        let gzip = || files.iter().filter(|file| file.content_sha256.is_some());
        let newest = gzip().map(|file| file.time_max_ms).max();
        let oldest = gzip().map(|file| file.time_min_ms).min();
        let previous = about.previous;
        Self {
            aws_account_id: about.account.to_owned(),
            digest_start_time: seconds(about.interval_ms.0),
            digest_end_time: seconds(about.interval_ms.1),
            digest_s3_bucket: about.bucket.to_owned(),
            digest_s3_object: object(about),
            digest_public_key_fingerprint: about.key_id.to_owned(),
            digest_signature_algorithm: SIGNATURE_ALGORITHM.to_owned(),
            newest_event_time: newest.map(seconds),
            oldest_event_time: oldest.map(seconds),
            previous_digest_s3_bucket: previous.map(|link| link.bucket.clone()),
            previous_digest_s3_object: previous.map(|link| link.object.clone()),
            previous_digest_hash_value: previous.map(|link| link.hash.clone()),
            previous_digest_hash_algorithm: previous.map(|_| HASH_ALGORITHM_AWS.to_owned()),
            previous_digest_signature: previous.map(|link| link.signature.clone()),
            log_files: gzip().map(CompatibleFile::new).collect(),
        }
    }

    /// The uncompressed JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a digest has string keys, so it always serialises")
    }

    /// What is signed: four lines, the last one not ended; `null` where nothing came before.
    #[must_use]
    pub fn signing_text(&self, content: &[u8]) -> String {
        format!(
            "{}\n{}/{}\n{}\n{}",
            self.digest_end_time,
            self.digest_s3_bucket,
            self.digest_s3_object,
            hex_sha256(content),
            self.previous_digest_signature.as_deref().unwrap_or("null")
        )
    }
}

impl CompatibleFile {
    fn new(file: &LogFile) -> Self {
        Self {
            s3_bucket: file.bucket.clone(),
            s3_object: file.object.clone(),
            hash_value: file.content_sha256.clone().unwrap_or_default(),
            hash_algorithm: HASH_ALGORITHM_AWS.to_owned(),
            newest_event_time: seconds(file.time_max_ms),
            oldest_event_time: seconds(file.time_min_ms),
        }
    }
}

/// The key of a compatible digest; its day is the one of its end.
fn object(about: &About<'_>) -> String {
    let About { account, region, tracker_name, .. } = about;
    let end = Civil::of(about.interval_ms.1);
    let stamp: String = seconds(about.interval_ms.1).replace(['-', ':'], "");
    format!(
        "AWSLogs/{account}/CloudTrail-Digest/{region}/{:04}/{:02}/{:02}/\
         {account}_CloudTrail-Digest_{region}_{tracker_name}_{region}_{stamp}.json.gz",
        end.year, end.month, end.day
    )
}

/// RFC 3339 to the second.
fn seconds(time_ms: Millis) -> String {
    let text = rfc3339(time_ms);
    format!("{}Z", text.split('.').next().unwrap_or_default())
}
