//! Archives to verify: folders with the objects of a story.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use data_encoding::HEXLOWER;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use tempfile::TempDir;
use trailproof::keys::public::{PublicKeys, ed25519_info};
use trailproof::object::directory::DirectoryStore;
use trailproof::signer::Signer;
use trailproof::verify::{Finding, Heads, Options, Report, Target, verify};
use trailproof_topology::digest::{Digest, note_object, signing_text};
use trailproof_topology::input::Millis;
use trailproof_topology::merkle::{Frontier, leaf_hash};
use trailproof_topology::note::{Checkpoint, key_name};
use trailproof_topology::sign::Sign as _;

use super::story::{Change, Plan, Put, Story};

pub(crate) const CYCLE: Millis = 20_000;
pub(crate) const INTERVAL: Millis = 60_000;
/// 23:58 UTC: the archives go over midnight.
pub(crate) const START: Millis = 1_763_769_480_000;

/// The installation's signer; making one takes a second.
pub(crate) fn signer() -> &'static Arc<Signer> {
    static SIGNER: OnceLock<Arc<Signer>> = OnceLock::new();
    SIGNER.get_or_init(|| Arc::new(Signer::generate().unwrap()))
}

/// Somebody else's.
pub(crate) fn stranger() -> &'static Arc<Signer> {
    static SIGNER: OnceLock<Arc<Signer>> = OnceLock::new();
    SIGNER.get_or_init(|| Arc::new(Signer::generate().unwrap()))
}

/// A small generator of numbers, the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A folder of objects, and who signed it.
pub(crate) struct Archive {
    folder: TempDir,
    /// Digests by tracker name, oldest first: bucket and key.
    pub(crate) digests: BTreeMap<String, Vec<(String, String)>>,
}

/// Whether the log of an archive has holes and an explicit gap in every cycle.
pub(crate) fn holes(seed: u64) -> bool {
    seed % 7 == 3
}

impl Archive {
    /// An archive of `intervals` intervals, and `tail` cycles without a digest yet. Where `stops`,
    /// tracker t2 loses verification in the second interval.
    pub(crate) fn new(seed: u64, intervals: i64, tail: i64, stops: bool) -> Self {
        let cycles = intervals * (INTERVAL / CYCLE) + tail;
        let stop: (i64, Change) = (INTERVAL / CYCLE, |catalog| {
            catalog.accounts[1].trackers[0].verify = false;
        });
        let changes = if stops { vec![stop] } else { Vec::new() };
        let story = Story::new(seed, &Plan { cycles, files_partitions: 1, changes });
        let mut archive = Self::empty();
        for step in story.steps {
            step.puts.iter().for_each(|put| archive.put_all_of(put));
            if let Some(digest) = step.digest {
                let chain = archive.digests.entry(digest.chain.tracker_name).or_default();
                chain.push((digest.digest_bucket, digest.digest_object));
            }
        }
        archive
    }

    /// An archive without objects.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), digests: BTreeMap::new() }
    }

    /// Writes an object and its metadata.
    pub(crate) fn put_all_of(&self, put: &Put) {
        let metadata: Vec<(&str, String)> =
            put.metadata.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        self.put(&put.bucket, &put.object, &put.stored, &metadata);
    }

    /// Writes an object and its metadata, over what there is.
    pub(crate) fn put(
        &self,
        bucket: &str,
        object: &str,
        stored: &[u8],
        metadata: &[(&str, String)],
    ) {
        let path = self.path(bucket, object);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, stored).unwrap();
        let metadata: BTreeMap<&str, &str> =
            metadata.iter().map(|(name, value)| (*name, value.as_str())).collect();
        fs::write(self.side(bucket, object), serde_json::to_vec(&metadata).unwrap()).unwrap();
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, bucket: &str, object: &str) -> PathBuf {
        self.root().join(bucket).join(object)
    }

    /// The metadata file of an object.
    pub(crate) fn side(&self, bucket: &str, object: &str) -> PathBuf {
        self.path(bucket, &format!("{object}.meta.json"))
    }

    /// Removes an object with its metadata.
    pub(crate) fn remove(&self, bucket: &str, object: &str) {
        fs::remove_file(self.path(bucket, object)).unwrap();
        fs::remove_file(self.side(bucket, object)).unwrap();
    }

    /// Removes a digest, its note, and its compatible digest.
    pub(crate) fn remove_digest(&self, (bucket, object): &(String, String)) {
        if let Some(compatible) = self.read(bucket, object).compatible_digest {
            self.remove(&compatible.bucket, &compatible.object);
        }
        self.remove(bucket, object);
        self.remove(bucket, &note_object(object));
    }

    /// Reads a digest.
    pub(crate) fn read(&self, bucket: &str, object: &str) -> Digest {
        serde_json::from_slice(&self.content(bucket, object)).unwrap()
    }

    /// The uncompressed JSON of a digest.
    pub(crate) fn content(&self, bucket: &str, object: &str) -> Vec<u8> {
        let stored = fs::read(self.path(bucket, object)).unwrap();
        let mut content = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(stored.as_slice());
        std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
        content
    }

    /// Writes a digest where it says it belongs, signed by `signer`.
    pub(crate) fn sign(&self, digest: &Digest, signer: &Signer) {
        let content = digest.encode();
        let signature = signer.sign_rsa(signing_text(digest, &content).as_bytes());
        let metadata = [
            ("meta-signature", HEXLOWER.encode(&signature)),
            ("meta-signature-algorithm", "SHA256withRSA".to_owned()),
        ];
        self.put(&digest.digest_bucket, &digest.digest_object, &gzip(&content), &metadata);
    }

    /// Writes the note of the digest at `index` of a chain, as its signer would.
    pub(crate) fn note(&self, tracker: &str, index: usize) {
        let chain = &self.digests[tracker];
        let mut tree = Frontier::default();
        for (bucket, object) in &chain[..=index] {
            tree.push(leaf_hash(&self.content(bucket, object)));
        }
        let (bucket, object) = &chain[index];
        self.note_of(&self.read(bucket, object), &tree);
    }

    /// Writes the note that says a chain has this tree.
    pub(crate) fn note_of(&self, digest: &Digest, tree: &Frontier) {
        let origin = digest.chain.origin();
        let checkpoint = Checkpoint { origin, size: tree.size(), root: tree.root() };
        let note = checkpoint.sign(&key_name("spoor.example"), signer().as_ref());
        let object = note_object(&digest.digest_object);
        self.put(&digest.digest_bucket, &object, note.as_bytes(), &[]);
    }

    /// Verifies with the signer's keys.
    pub(crate) fn verify(&self, deep: bool, heads: Option<&Heads>) -> (Report, Heads) {
        verify_at(self.root(), deep, heads)
    }
}

/// Verifies a folder with the signer's keys.
pub(crate) fn verify_at(root: &Path, deep: bool, heads: Option<&Heads>) -> (Report, Heads) {
    let by_port = DirectoryStore::read(root).unwrap();
    let name = root.display().to_string();
    let through_the_port = Target::Store { name: &name, objects: &by_port };
    let on_disk = verify_target(Target::Folder(root), deep, heads).unwrap();
    // What a bucket would show is what the folder shows, but for what no bucket can hold.
    let foreign = |finding: &&Finding| finding.text.contains("nothing that belongs");
    let links: Vec<&String> =
        on_disk.0.findings.iter().filter(foreign).map(|finding| &finding.object).collect();
    if deep && let Ok((seen, _)) = verify_target(through_the_port, deep, heads) {
        let own = |report: &Report| {
            let all = report.findings.iter();
            let all = all.filter(|finding| !links.contains(&&finding.object));
            all.map(|finding| format!("{finding:?}")).collect::<Vec<_>>()
        };
        assert_eq!(own(&seen), own(&on_disk.0));
        assert_eq!((seen.files, seen.traces), (on_disk.0.files, on_disk.0.traces));
    }
    on_disk
}

/// Verifies objects with the signer's keys.
pub(crate) fn verify_target(
    target: Target<'_>,
    deep: bool,
    heads: Option<&Heads>,
) -> std::io::Result<(Report, Heads)> {
    let mut keys = PublicKeys::default();
    assert!(keys.add_der(signer().rsa_info()));
    assert!(keys.add_der(&ed25519_info(&signer().ed25519_public())));
    verify(&Options {
        target,
        keys: &keys,
        keys_from: "the test".to_owned(),
        deep,
        heads,
        threads: 2,
        now_ms: START + 100 * INTERVAL,
        progress: &|_| (),
    })
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
