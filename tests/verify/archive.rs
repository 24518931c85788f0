//! Archives to verify: made by the real digest stage and the real signer, from a seed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use data_encoding::HEXLOWER;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use trailproof::keys::public::{PublicKeys, ed25519_info};
use trailproof::object::directory::DirectoryStore;
use trailproof::signer::Signer;
use trailproof::verify::{Finding, Heads, Options, Report, Target, verify};
use trailproof_topology::catalog::{Account, Catalog, Compression, Project, Tracker, TrackerKind};
use trailproof_topology::digest::{Digest, hex_sha256, note_object, signing_text};
use trailproof_topology::digest_stage::{DigestSetup, DigestStage};
use trailproof_topology::effect::{BytesObject, Effect};
use trailproof_topology::files::{AccountCounts, Closed, File, FilesRecord, TrackerCounts};
use trailproof_topology::input::{Body, Input, Millis};
use trailproof_topology::key::{self, SegmentId};
use trailproof_topology::memory::Memory;
use trailproof_topology::merkle::{Frontier, leaf_hash};
use trailproof_topology::names;
use trailproof_topology::note::{Checkpoint, key_name};
use trailproof_topology::sign::Sign;
use trailproof_topology::stage::{Batch, Stage};
use trailproof_topology::state::Rows;

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
    pub(crate) catalog: Catalog,
    /// Digests by tracker name, oldest first: bucket and key.
    pub(crate) digests: BTreeMap<String, Vec<(String, String)>>,
}

fn catalog(random: &mut Random) -> Catalog {
    let mut account = |number: u32, compression| Account {
        id: format!("a{number}"),
        name: format!("account {number}"),
        projects: vec![Project { id: format!("p{number}"), name: "project".to_owned() }],
        trackers: vec![Tracker {
            id: format!("00000000-0000-4000-8000-{:012x}", random.below(1 << 40)),
            name: format!("t{number}"),
            kind: TrackerKind::System,
            enabled: true,
            bucket: if number == 3 { "cts-a2".to_owned() } else { format!("cts-a{number}") },
            file_prefix: if number == 1 { "pre_fix".to_owned() } else { String::new() },
            compression,
            sort_by_service: number != 3,
            verify: true,
            exclude_services: Vec::new(),
            data_bucket: String::new(),
            data_events: Vec::new(),
        }],
        rules: Vec::new(),
    };
    Catalog {
        version: 1,
        installation: "spoor.example".to_owned(),
        region: "local".to_owned(),
        cycle_ms: CYCLE,
        digest_interval_ms: INTERVAL,
        file_bytes_max: 1 << 20,
        dedup_window: 1 << 10,
        traces_partitions: 2,
        files_partitions: 1,
        accounts: vec![
            account(1, Compression::Zstd),
            account(2, Compression::Gzip),
            account(3, Compression::Json),
        ],
    }
}

/// Whether the log of an archive has holes and an explicit gap in every cycle.
pub(crate) fn holes(seed: u64) -> bool {
    seed % 7 == 3
}

/// Feeds the digest stage.
struct Feeder {
    /// Whether the log that it tells of has offsets without record, and lost some records.
    holes: bool,
    stage: DigestStage,
    rows: Memory,
    offset: u64,
}

impl Feeder {
    fn feed(&mut self, time_ms: Millis, body: Body<'_>) {
        let mut batch = Batch::new([0; 2]);
        let input = Input { offset: self.offset, append_time_ms: time_ms, body };
        self.stage.apply(&input, &mut batch);
        self.stage.finish(&mut batch);
        self.rows.commit(&batch.changes);
        self.offset += 1;
    }

    fn say(&mut self, time_ms: Millis, record: &FilesRecord) {
        self.feed(time_ms, Body::Data(&record.encode()));
    }
}

impl Archive {
    /// An archive of `intervals` intervals, and `tail` cycles without a digest yet. Where `stops`,
    /// tracker t2 loses verification in the second interval.
    pub(crate) fn new(seed: u64, intervals: i64, tail: i64, stops: bool) -> Self {
        let mut random = Random::new(seed);
        let catalog = catalog(&mut random);
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Self { folder, catalog, digests: BTreeMap::new() };
        let setup = DigestSetup { partition: 0, signer: Arc::clone(signer()) as Arc<dyn Sign> };
        let rows = Memory::default();
        let stage = DigestStage::load(setup, &rows).unwrap();
        let mut feeder = Feeder { holes: holes(seed), stage, rows, offset: 0 };
        let mut catalog = archive.catalog.clone();
        feeder.feed(START, Body::Catalog(1, Some(&catalog)));
        let mut next = [0; 2];
        for cycle in 0..intervals * (INTERVAL / CYCLE) + tail {
            let cycle_start_ms = START + cycle * CYCLE;
            if stops && cycle == INTERVAL / CYCLE {
                catalog.version = 2;
                catalog.accounts[1].trackers[0].verify = false;
                feeder.feed(cycle_start_ms + 1, Body::Catalog(2, Some(&catalog)));
            }
            for partition in 0..2 {
                let from = &mut next[partition as usize];
                archive.cycle(&mut feeder, &mut random, partition, cycle_start_ms, from);
            }
        }
        assert_eq!(feeder.stage.take_counts().refused, 0);
        archive.deliver(&feeder.rows);
        archive
    }

    /// One cycle of a partition: files of random accounts, a tick, and the closing word.
    fn cycle(
        &self,
        feeder: &mut Feeder,
        random: &mut Random,
        partition: u32,
        cycle_start_ms: Millis,
        next: &mut u64,
    ) {
        let from = *next;
        let until_ms = cycle_start_ms + CYCLE;
        let mut accounts = Vec::new();
        for account in &self.catalog.accounts {
            let count = random.below(5);
            if count == 0 {
                continue;
            }
            let tracker = &account.trackers[0];
            let file = self.file(account, partition, cycle_start_ms, (*next, count));
            feeder.say(until_ms, &FilesRecord::File(file));
            let lost = random.below(3);
            *next += count + lost;
            accounts.push(AccountCounts {
                id: account.id.clone(),
                received: count + lost,
                duplicate: lost.min(1),
                dead_lettered: 0,
                conflicts: 0,
                trackers: vec![TrackerCounts { id: tracker.id.clone(), filed: count, files: 1 }],
            });
        }
        let (ticks, absent) = (1, if feeder.holes { 2 } else { 0 });
        let lost = if feeder.holes && partition == 1 { 3 } else { 0 };
        *next += ticks + absent + lost;
        let to = *next;
        let closed = Closed { ticks, absent, lost, accounts, ..Closed::default() };
        let closed = Closed { partition, from, to, cycle_start_ms, until_ms, ..closed };
        feeder.say(until_ms, &FilesRecord::Closed(closed));
    }

    /// Writes a trace file.
    fn file(
        &self,
        account: &Account,
        partition: u32,
        cycle_ms: Millis,
        (first_offset, count): (u64, u64),
    ) -> File {
        let tracker = &account.trackers[0];
        let service = if tracker.sort_by_service { "ECS" } else { "" };
        let traces: Vec<String> = (0..count)
            .map(|index| {
                let place = first_offset + index;
                format!("{{\"account\":\"{}\",\"at\":{place},\"p\":{partition}}}", account.id)
            })
            .collect();
        let content = format!("[\n{}\n]\n", traces.join(",\n")).into_bytes();
        let mut tree = Frontier::default();
        for trace in &traces {
            tree.push(leaf_hash(trace.as_bytes()));
        }
        let root = HEXLOWER.encode(&tree.root());
        let stored = compress(tracker.compression, &content);
        let service = service.to_owned();
        let segment =
            SegmentId { tracker: tracker.key().unwrap(), cycle_ms, service, part: first_offset };
        let end_ms = cycle_ms + CYCLE;
        let object = names::trace_file(&self.catalog, tracker, &segment, end_ms, partition);
        let last_offset = first_offset + count - 1;
        let metadata = [
            ("count", count.to_string()),
            ("first-offset", first_offset.to_string()),
            ("format", "trailproof/file/v1".to_owned()),
            ("last-offset", last_offset.to_string()),
            ("merkle-root", root.clone()),
            ("partition", partition.to_string()),
            ("sha256", hex_sha256(&stored)),
        ];
        self.put(&tracker.bucket, &object, &stored, &metadata);
        File {
            tracker: tracker.id.clone(),
            account: account.id.clone(),
            bucket: tracker.bucket.clone(),
            object,
            compression: tracker.compression,
            service: segment.service,
            cycle_start_ms: cycle_ms,
            cycle_end_ms: end_ms,
            partition,
            first_offset,
            last_offset,
            count,
            raw_bytes: content.len() as u64,
            bytes: stored.len() as u64,
            sha256: hex_sha256(&stored),
            content_sha256: (tracker.compression == Compression::Gzip)
                .then(|| HEXLOWER.encode(&Sha256::digest(&content))),
            root,
            time_min_ms: cycle_ms,
            time_max_ms: cycle_ms + 1,
        }
    }

    /// Puts the objects that the stage wants put.
    fn deliver(&mut self, rows: &Memory) {
        let (from, to) = key::whole(key::Table::Outbox);
        let mut objects = Vec::new();
        rows.scan(&from, &to, &mut |_, row| {
            if let Some(Effect::Objects(own)) = Effect::decode(row) {
                objects.extend(own);
            }
            true
        })
        .unwrap();
        for object in objects {
            self.put_bytes(&object);
            if object.object.contains("CloudTrace-Digest") && object.gzip {
                let digest: Digest = serde_json::from_slice(&object.content).unwrap();
                let chain = self.digests.entry(digest.chain.tracker_name).or_default();
                chain.push((object.bucket, object.object));
            }
        }
    }

    fn put_bytes(&self, object: &BytesObject) {
        let BytesObject { bucket, object: key, content, gzip: zipped, metadata } = object;
        let stored = if *zipped { gzip(content) } else { content.clone() };
        let metadata: Vec<(&str, String)> =
            metadata.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        self.put(bucket, key, &stored, &metadata);
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
    let mut keys = PublicKeys::default();
    assert!(keys.add_der(signer().rsa_info()));
    assert!(keys.add_der(&ed25519_info(&signer().ed25519_public())));
    let by_port = DirectoryStore::read(root).unwrap();
    let name = root.display().to_string();
    let through_the_port = Target::Store { name: &name, objects: &by_port };
    let report = |target| {
        let options = Options {
            target,
            keys: &keys,
            keys_from: "the test".to_owned(),
            deep,
            heads,
            threads: 2,
            now_ms: START + 100 * INTERVAL,
            progress: &|_| (),
        };
        verify(&options)
    };
    let on_disk = report(Target::Folder(root)).unwrap();
    // What a bucket would show is what the folder shows, but for what no bucket can hold.
    let foreign = |finding: &&Finding| finding.text.contains("nothing that belongs");
    let links: Vec<&String> =
        on_disk.0.findings.iter().filter(foreign).map(|finding| &finding.object).collect();
    if deep && let Ok((seen, _)) = report(through_the_port) {
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

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn compress(compression: Compression, content: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => gzip(content),
        Compression::Json => content.to_vec(),
        Compression::Zstd => {
            // Frames one after another and a skippable frame, as the seekable format has it.
            let (one, other) = content.split_at(content.len() / 2);
            let mut stored = zstd::encode_all(one, 1).unwrap();
            stored.extend(zstd::encode_all(other, 1).unwrap());
            stored.extend([0x5e, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2]);
            stored
        }
    }
}
