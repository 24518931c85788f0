//! What a server puts, in order: made by the real digest stage and the real signer, from a seed.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use trailproof_topology::catalog::{Account, Catalog, Compression, Project, Tracker, TrackerKind};
use trailproof_topology::digest::{Digest, hex_sha256};
use trailproof_topology::digest_stage::{DigestSetup, DigestStage};
use trailproof_topology::effect::{BytesObject, Effect};
use trailproof_topology::files::{
    AccountCounts, Closed, File, FilesRecord, TrackerCounts, files_partition,
};
use trailproof_topology::input::{Body, Input, Millis};
use trailproof_topology::key::{self, SegmentId};
use trailproof_topology::memory::Memory;
use trailproof_topology::merkle::{Frontier, leaf_hash};
use trailproof_topology::names;
use trailproof_topology::sign::Sign;
use trailproof_topology::stage::{Batch, Stage};
use trailproof_topology::state::Rows;

use super::archive::{CYCLE, INTERVAL, Random, START, gzip, holes, signer};

/// A change of the catalog.
pub(crate) type Change = fn(&mut Catalog);

/// What happens.
pub(crate) struct Plan {
    pub(crate) cycles: i64,
    pub(crate) files_partitions: u32,
    /// Changes, each in the cycle of this number.
    pub(crate) changes: Vec<(i64, Change)>,
}

/// An object that is put.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) bucket: String,
    pub(crate) object: String,
    pub(crate) stored: Vec<u8>,
    pub(crate) metadata: Vec<(String, String)>,
}

/// What an outbox delivers as one: a trace file, or a digest with what lies beside it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The partition of topic `traces` whose outbox it is, or 2 and more for those of `files`.
    pub(crate) lane: usize,
    /// In order.
    pub(crate) puts: Vec<Put>,
    /// End of the cycle or interval.
    pub(crate) end_ms: Millis,
    pub(crate) digest: Option<Digest>,
}

/// What a server puts. The steps of a lane stand in its order; each digest stands behind every
/// file that must be there before it.
pub(crate) struct Story {
    pub(crate) steps: Vec<Step>,
}

fn catalog(random: &mut Random, files_partitions: u32) -> Catalog {
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
        files_partitions,
        accounts: vec![
            account(1, Compression::Zstd),
            account(2, Compression::Gzip),
            account(3, Compression::Json),
        ],
    }
}

/// Digest stages, one for each partition of topic `files`, and what came of them.
struct Feeder {
    catalog: Catalog,
    /// Whether the log that it tells of has offsets without record, and lost some records.
    holes: bool,
    stages: Vec<Feed>,
    steps: Vec<Step>,
}

struct Feed {
    stage: DigestStage,
    rows: Memory,
    offset: u64,
    effects: usize,
}

impl Feeder {
    fn new(catalog: Catalog, holes: bool) -> Self {
        let stage = |partition| {
            let setup = DigestSetup { partition, signer: Arc::clone(signer()) as Arc<dyn Sign> };
            let rows = Memory::default();
            Feed { stage: DigestStage::load(setup, &rows).unwrap(), rows, offset: 0, effects: 0 }
        };
        let stages = (0..catalog.files_partitions).map(stage).collect();
        Self { catalog, holes, stages, steps: Vec::new() }
    }

    fn feed(&mut self, partition: usize, time_ms: Millis, body: Body<'_>) {
        let Feed { stage, rows, offset, effects } = &mut self.stages[partition];
        let mut batch = Batch::new([0; 2]);
        stage.apply(&Input { offset: *offset, append_time_ms: time_ms, body }, &mut batch).unwrap();
        stage.finish(&mut batch);
        rows.commit(&batch.changes);
        *offset += 1;
        let (from, to) = key::whole(key::Table::Outbox);
        let mut at = 0;
        rows.scan(&from, &to, &mut |_, row| {
            at += 1;
            if at > *effects
                && let Some(Effect::Objects(objects)) = Effect::decode(row)
            {
                self.steps.push(digest_step(2 + partition, &objects));
            }
            true
        })
        .unwrap();
        *effects = at;
    }

    fn mark(&mut self, time_ms: Millis) {
        let catalog = Arc::new(self.catalog.clone());
        for partition in 0..self.stages.len() {
            self.feed(partition, time_ms, Body::Catalog(catalog.version, Some(&catalog)));
        }
    }

    /// One cycle of a partition: files of random accounts, a tick, and the closing word.
    fn cycle(
        &mut self,
        random: &mut Random,
        partition: u32,
        cycle_start_ms: Millis,
        next: &mut u64,
    ) {
        let from = *next;
        let until_ms = cycle_start_ms + CYCLE;
        let mut accounts = Vec::new();
        for account in self.catalog.accounts.clone() {
            let count = random.below(5);
            if count == 0 {
                continue;
            }
            let tracker = &account.trackers[0];
            let (file, put) =
                file(&self.catalog, &account, partition, cycle_start_ms, (*next, count));
            let (lane, end_ms) = (partition as usize, until_ms);
            self.steps.push(Step { lane, puts: vec![put], end_ms, digest: None });
            let of = files_partition(&tracker.key().unwrap(), self.catalog.files_partitions);
            let record = FilesRecord::File(file).encode();
            self.feed(of as usize, until_ms, Body::Data(&record));
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
        let (ticks, absent) = (1, if self.holes { 2 } else { 0 });
        let lost = if self.holes && partition == 1 { 3 } else { 0 };
        *next += ticks + absent + lost;
        let to = *next;
        let closed = Closed { ticks, absent, lost, accounts, ..Closed::default() };
        let closed = Closed { partition, from, to, cycle_start_ms, until_ms, ..closed };
        let record = FilesRecord::Closed(closed).encode();
        for partition in 0..self.stages.len() {
            self.feed(partition, until_ms, Body::Data(&record));
        }
    }
}

impl Story {
    /// A story of three accounts with a tracker each, in two partitions of `traces`.
    pub(crate) fn new(seed: u64, plan: &Plan) -> Self {
        let mut random = Random::new(seed);
        let catalog = catalog(&mut random, plan.files_partitions);
        let mut feeder = Feeder::new(catalog, holes(seed));
        feeder.mark(START);
        let mut next = [0; 2];
        for cycle in 0..plan.cycles {
            let cycle_start_ms = START + cycle * CYCLE;
            for (_, change) in plan.changes.iter().filter(|(at, _)| *at == cycle) {
                feeder.catalog.version += 1;
                change(&mut feeder.catalog);
                feeder.mark(cycle_start_ms + 1);
            }
            for partition in 0..2 {
                let from = &mut next[partition as usize];
                feeder.cycle(&mut random, partition, cycle_start_ms, from);
            }
        }
        for feed in &mut feeder.stages {
            let counts = feed.stage.take_counts();
            assert_eq!(counts.refused, 0, "{:?}", counts.refusal);
        }
        Self { steps: feeder.steps }
    }
}

/// The objects of one digest.
fn digest_step(lane: usize, objects: &[BytesObject]) -> Step {
    let put = |own: &BytesObject| Put {
        bucket: own.bucket.clone(),
        object: own.object.clone(),
        stored: if own.gzip { gzip(&own.content) } else { own.content.clone() },
        metadata: own.metadata.clone(),
    };
    let digest = objects.iter().find(|own| own.object.contains("CloudTrace-Digest")).unwrap();
    let digest: Digest = serde_json::from_slice(&digest.content).unwrap();
    let (puts, end_ms) = (objects.iter().map(put).collect(), digest.interval_end_ms);
    Step { lane, puts, end_ms, digest: Some(digest) }
}

/// A trace file.
fn file(
    catalog: &Catalog,
    account: &Account,
    partition: u32,
    cycle_ms: Millis,
    (first_offset, count): (u64, u64),
) -> (File, Put) {
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
    let object = names::trace_file(catalog, tracker, &segment, end_ms, partition);
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
    let file = File {
        tracker: tracker.id.clone(),
        account: account.id.clone(),
        bucket: tracker.bucket.clone(),
        object: object.clone(),
        compression: tracker.compression,
        verify: tracker.verify,
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
    };
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value)).to_vec();
    (file, Put { bucket: tracker.bucket.clone(), object, stored, metadata })
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
