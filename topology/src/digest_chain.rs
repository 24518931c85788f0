//! A chain: where the digests of one tracker stand, and how the next one is written.
//!
//! **Invariant:** a chain's row changes when it grows and when the catalog changes its tracker,
//! never because a file or a count came in: ten thousand quiet trackers cost nothing.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::catalog::{Account, Catalog, Compression, Tracker};
use crate::compatible::{self, About, Compatible, CompatibleLink};
use crate::digest::{
    ChainName, CompatibleDigest, Coverage, Digest, HASH_ALGORITHM, KeyIds, LEDGER_BUCKET, Link,
    LogFile, META_SIGNATURE, META_SIGNATURE_ALGORITHM, SIGNATURE_ALGORITHM, VERSION, file_name,
    hex_sha256, note_object, signing_text,
};
use crate::effect::{BytesObject, Effect, OutRecord, Topic};
use crate::input::Millis;
use crate::merkle::{Frontier, leaf_hash};
use crate::names::{day_folder, file_time};
use crate::note::{Checkpoint, key_name};
use crate::sign::Sign;

/// The row of a chain, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chain {
    /// Whose chain, as of the last catalog that had the tracker.
    pub(crate) name: ChainName,
    /// Where its digests go.
    pub(crate) target: Target,
    /// When digests began to be wanted; `None` after the ending digest.
    pub(crate) since_ms: Option<Millis>,
    /// When they ceased to be wanted: the digest of that interval is the ending one.
    pub(crate) ending_ms: Option<Millis>,
    /// The last digest.
    pub(crate) last: Option<Link>,
    /// The last compatible digest.
    pub(crate) compatible: Option<CompatibleLink>,
    /// The tree over the digests: [`Frontier::encode`] in hex.
    pub(crate) tree: String,
}

/// Where the digests of a chain go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) project: String,
    pub(crate) region: String,
    pub(crate) bucket: String,
    pub(crate) prefix: String,
    pub(crate) gzip: bool,
}

/// What the next digest of a chain says.
pub(crate) struct Facts {
    pub(crate) interval_ms: (Millis, Millis),
    pub(crate) coverage: Vec<Coverage>,
    pub(crate) files: Vec<LogFile>,
    /// In the ledger: as [`Digest::unverified`].
    pub(crate) unverified: Vec<String>,
}

/// A record of topic `checkpoints`: the head of a chain, for whoever keeps heads.
///
/// Source: `schemas/checkpoint.schema.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// `trailproof/checkpoint/v1`.
    pub version: String,
    /// The chain, as in the note.
    pub origin: String,
    /// The tracker's id; `_ledger` for the ledger.
    pub tracker: String,
    /// Place of the newest digest in the chain: one less than the size.
    pub sequence: u64,
    /// RFC 6962 root over the digests, lower-case hex.
    pub root: String,
    /// End of the newest digest's interval.
    pub interval_end_ms: Millis,
    /// Bucket of the newest digest.
    pub digest_bucket: String,
    /// Key of the newest digest.
    pub digest_object: String,
    /// SHA-256 of its uncompressed JSON, lower-case hex.
    pub digest_sha256: String,
    /// The signed note.
    pub note: String,
}

/// Member `version` of a [`CheckpointRecord`].
pub const CHECKPOINT_VERSION: &str = "trailproof/checkpoint/v1";

impl Target {
    /// Where the digests of a tracker go.
    pub(crate) fn of(catalog: &Catalog, account: &Account, tracker: &Tracker) -> Self {
        Self {
            project: account.projects.first().map(|own| own.id.clone()).unwrap_or_default(),
            region: catalog.region.clone(),
            bucket: tracker.bucket.clone(),
            prefix: tracker.file_prefix.clone(),
            gzip: tracker.compression == Compression::Gzip,
        }
    }

    /// Where the digests of the ledger go.
    pub(crate) fn ledger(catalog: &Catalog) -> Self {
        Self {
            project: String::new(),
            region: catalog.region.clone(),
            bucket: LEDGER_BUCKET.to_owned(),
            prefix: String::new(),
            gzip: false,
        }
    }
}

impl Chain {
    /// A chain before its first digest.
    pub(crate) fn new(name: ChainName, target: Target, since_ms: Millis) -> Self {
        let tree = HEXLOWER.encode(&Frontier::default().encode());
        let (since_ms, ending_ms, last, compatible) = (Some(since_ms), None, None, None);
        Self { name, target, since_ms, ending_ms, last, compatible, tree }
    }

    /// Decodes a row; `None` where it is damaged.
    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let chain: Self = serde_json::from_slice(row).ok()?;
        let size = chain.frontier()?.size();
        (size == chain.last.as_ref().map_or(0, |last| last.sequence + 1)).then_some(chain)
    }

    /// Encodes a row.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a chain has string keys, so it always serialises")
    }

    pub(crate) fn frontier(&self) -> Option<Frontier> {
        Frontier::decode(&HEXLOWER.decode(self.tree.as_bytes()).ok()?)
    }

    /// Whether the interval that ends at `end_ms` gets a digest.
    pub(crate) fn wants(&self, end_ms: Millis) -> bool {
        self.since_ms.is_some_and(|since_ms| since_ms < end_ms)
    }

    /// Takes in files of the interval that begins at `start_ms`, which were made while the tracker
    /// was verified, though by its times the chain does not list them: times are those of topic
    /// `files`, and where a clock went back one topic is ahead of another.
    pub(crate) fn admit(&mut self, start_ms: Millis) {
        if self.since_ms.is_none() {
            // It has ended: another ending digest follows.
            self.ending_ms = Some(start_ms);
        }
        self.since_ms = Some(start_ms);
    }

    /// Follows the catalog, in which the tracker wants digests as `wanted` says, or wants none.
    /// Whether that changed the chain.
    pub(crate) fn want(&mut self, wanted: Option<(ChainName, Target)>, now_ms: Millis) -> bool {
        let before = self.clone();
        match wanted {
            Some((name, target)) => {
                (self.name, self.target) = (name, target);
                self.since_ms = self.since_ms.or(Some(now_ms));
                self.ending_ms = None;
            }
            None if self.since_ms.is_some() => {
                self.ending_ms = self.ending_ms.or(Some(now_ms));
            }
            None => {}
        }
        *self != before
    }

    /// Writes the next digest: its objects, its checkpoint, and the chain itself.
    pub(crate) fn grow(&mut self, facts: Facts, signer: &dyn Sign) -> [Effect; 2] {
        let (start_ms, end_ms) = facts.interval_ms;
        let compatible = self.grow_compatible(&facts, signer);
        let ending = self.ending_ms.is_some_and(|at_ms| at_ms < end_ms);
        let last = self.last.as_ref();
        let text = |of: fn(&Link) -> &String| last.map(of).cloned().unwrap_or_default();
        let digest = Digest {
            version: VERSION.to_owned(),
            project_id: self.target.project.clone(),
            digest_start_time: file_time(start_ms),
            digest_end_time: file_time(end_ms),
            digest_bucket: self.target.bucket.clone(),
            digest_object: self.object(facts.interval_ms),
            digest_signature_algorithm: SIGNATURE_ALGORITHM.to_owned(),
            digest_end: ending,
            previous_digest_bucket: text(|link| &link.bucket),
            previous_digest_object: text(|link| &link.object),
            previous_digest_hash_value: text(|link| &link.hash),
            previous_digest_hash_algorithm: last.map(|_| HASH_ALGORITHM).unwrap_or("").to_owned(),
            previous_digest_signature: text(|link| &link.signature),
            previous_digest_end: last.is_some_and(|link| link.ended),
            chain: self.name.clone(),
            sequence: last.map_or(0, |link| link.sequence + 1),
            starting: last.is_none(),
            interval_start_ms: start_ms,
            interval_end_ms: end_ms,
            key_ids: KeyIds {
                rsa: signer.rsa_key_id().to_owned(),
                ed25519: signer.ed25519_key_id().to_owned(),
            },
            coverage: facts.coverage,
            unverified: facts.unverified,
            compatible_digest: compatible.as_ref().map(|(_, named)| named.clone()),
            log_files: facts.files,
        };
        match &self.last {
            None => assert!(digest.begins(), "I7: a chain begins with a starting digest"),
            Some(last) => assert_eq!(digest.follows(last), Ok(()), "I7: a digest names the last"),
        }
        if ending {
            (self.since_ms, self.ending_ms) = (None, None);
        }
        self.finish(&digest, compatible.map(|(object, _)| object), signer)
    }

    /// Signs the digest and moves the chain on to it.
    fn finish(
        &mut self,
        digest: &Digest,
        compatible: Option<BytesObject>,
        signer: &dyn Sign,
    ) -> [Effect; 2] {
        let content = digest.encode();
        let text = signing_text(digest, &content);
        let signature = HEXLOWER.encode(&signer.sign_rsa(text.as_bytes()));
        let mut tree = self.frontier().unwrap_or_default();
        tree.push(leaf_hash(&content));
        let checkpoint =
            Checkpoint { origin: self.name.origin(), size: tree.size(), root: tree.root() };
        let note = checkpoint.sign(&key_name(&self.name.installation), signer);
        let link = digest.link(&content, &signature);
        let record = CheckpointRecord {
            version: CHECKPOINT_VERSION.to_owned(),
            origin: checkpoint.origin,
            tracker: self.name.tracker.clone(),
            sequence: digest.sequence,
            root: HEXLOWER.encode(&checkpoint.root),
            interval_end_ms: digest.interval_end_ms,
            digest_bucket: link.bucket.clone(),
            digest_object: link.object.clone(),
            digest_sha256: link.hash.clone(),
            note: note.clone(),
        };
        // The note is last: where there is one, its digest must be there too.
        let mut objects: Vec<BytesObject> = compatible.into_iter().collect();
        objects.push(BytesObject {
            bucket: link.bucket.clone(),
            object: link.object.clone(),
            content,
            gzip: true,
            metadata: vec![
                (META_SIGNATURE.to_owned(), signature),
                (META_SIGNATURE_ALGORITHM.to_owned(), SIGNATURE_ALGORITHM.to_owned()),
            ],
        });
        objects.push(BytesObject {
            bucket: link.bucket.clone(),
            object: note_object(&link.object),
            content: note.into_bytes(),
            gzip: false,
            metadata: Vec::new(),
        });
        self.tree = HEXLOWER.encode(&tree.encode());
        self.last = Some(link);
        [Effect::Objects(objects), Effect::Records(vec![record.publish()])]
    }

    fn grow_compatible(
        &mut self,
        facts: &Facts,
        signer: &dyn Sign,
    ) -> Option<(BytesObject, CompatibleDigest)> {
        if !self.target.gzip {
            return None;
        }
        let about = About {
            account: &self.name.account,
            region: &self.target.region,
            tracker_name: &self.name.tracker_name,
            bucket: &self.target.bucket,
            key_id: signer.rsa_key_id(),
            interval_ms: facts.interval_ms,
            previous: self.compatible.as_ref(),
        };
        let digest = Compatible::new(&about, &facts.files);
        let content = digest.encode();
        let text = digest.signing_text(&content);
        let signature = HEXLOWER.encode(&signer.sign_rsa(text.as_bytes()));
        let named = CompatibleDigest {
            bucket: digest.digest_s3_bucket,
            object: digest.digest_s3_object,
            content_sha256: hex_sha256(&content),
            signature: signature.clone(),
        };
        self.compatible = Some(CompatibleLink {
            bucket: named.bucket.clone(),
            object: named.object.clone(),
            hash: named.content_sha256.clone(),
            signature: signature.clone(),
        });
        let object = BytesObject {
            bucket: named.bucket.clone(),
            object: named.object.clone(),
            content,
            gzip: true,
            metadata: vec![
                (compatible::META_SIGNATURE.to_owned(), signature),
                (compatible::META_SIGNATURE_ALGORITHM.to_owned(), SIGNATURE_ALGORITHM.to_owned()),
            ],
        };
        Some((object, named))
    }

    /// The key of the digest of an interval; its day is the one of the interval's start.
    fn object(&self, (start_ms, end_ms): (Millis, Millis)) -> String {
        let Target { region, prefix, .. } = &self.target;
        let folder = day_folder(region, &self.name.tracker_name, start_ms);
        let name = file_name(prefix, region, end_ms, &self.name.tracker);
        format!("{folder}/Digest/{name}")
    }
}

impl CheckpointRecord {
    fn publish(self) -> OutRecord {
        let value = serde_json::to_vec(&self)
            .expect("a checkpoint has string keys, so it always serialises");
        OutRecord {
            topic: Topic::Checkpoints,
            partition: None,
            key: self.tracker.into_bytes(),
            headers: Vec::new(),
            value,
        }
    }
}
