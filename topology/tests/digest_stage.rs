//! The digest stage as a black box: `files` records in, digests and checkpoints out.

use std::collections::BTreeMap;
use std::sync::Arc;

use trailproof_topology::catalog::{Account, Catalog, Compression, Project, Tracker, TrackerKind};
use trailproof_topology::digest::{Coverage, Digest, Link, coverage_meets, files_in_order};
use trailproof_topology::digest_stage::{DigestSetup, DigestStage, Head};
use trailproof_topology::effect::{BytesObject, Effect};
use trailproof_topology::files::{AccountCounts, Closed, File, FilesRecord, TrackerCounts};
use trailproof_topology::input::{Body, Input, Millis};
use trailproof_topology::key;
use trailproof_topology::memory::Memory;
use trailproof_topology::merkle::{Frontier, leaf_hash};
use trailproof_topology::note::{Checkpoint, Note};
use trailproof_topology::sign::FakeSigner;
use trailproof_topology::stage::{Batch, Stage};
use trailproof_topology::state::Rows;

const CYCLE: Millis = 10_000;
const INTERVAL: Millis = 60_000;
const START: Millis = 1_763_683_200_000;

fn tracker(number: u32) -> Tracker {
    Tracker {
        id: format!("00000000-0000-4000-8000-{number:012x}"),
        name: format!("t{number}"),
        kind: TrackerKind::System,
        enabled: true,
        bucket: format!("cts-a{number}"),
        file_prefix: String::new(),
        compression: if number == 2 { Compression::Gzip } else { Compression::Zstd },
        sort_by_service: true,
        verify: true,
        exclude_services: Vec::new(),
        data_bucket: String::new(),
        data_events: Vec::new(),
    }
}

fn catalog(version: u64, trackers: u32) -> Catalog {
    let account = |number| Account {
        id: format!("a{number:05}"),
        name: format!("account {number}"),
        projects: vec![Project { id: format!("p{number}"), name: "project".to_owned() }],
        trackers: vec![tracker(number)],
        rules: Vec::new(),
    };
    Catalog {
        version,
        installation: "spoor.example".to_owned(),
        region: "local".to_owned(),
        cycle_ms: CYCLE,
        digest_interval_ms: INTERVAL,
        file_bytes_max: 1 << 20,
        dedup_window: 1 << 10,
        traces_partitions: 2,
        files_partitions: 1,
        accounts: (1..=trackers).map(account).collect(),
    }
}

/// A `files` log under construction, and the `traces` offsets it has told.
#[derive(Default)]
struct FilesLog {
    records: Vec<(Millis, Entry)>,
    next: BTreeMap<u32, u64>,
}

enum Entry {
    Mark(Arc<Catalog>),
    Data(Vec<u8>),
}

impl FilesLog {
    fn mark(&mut self, time_ms: Millis, catalog: Catalog) {
        self.records.push((time_ms, Entry::Mark(Arc::new(catalog))));
    }

    fn say(&mut self, time_ms: Millis, record: &FilesRecord) {
        self.records.push((time_ms, Entry::Data(record.encode())));
    }

    /// Whether the newest catalog has a tracker verified.
    fn verifies(&self, id: &str) -> bool {
        let newest = self.records.iter().rev().find_map(|(_, entry)| match entry {
            Entry::Mark(catalog) => Some(catalog),
            Entry::Data(_) => None,
        });
        let mut trackers =
            newest.iter().flat_map(|own| &own.accounts).flat_map(|own| &own.trackers);
        trackers.any(|own| own.id == id && own.verify)
    }

    /// One cycle of a partition: `counts` traces of each account, in one file, and one tick.
    fn cycle(&mut self, partition: u32, cycle_start_ms: Millis, until_ms: Millis, counts: &[u64]) {
        let from = self.next.get(&partition).copied().unwrap_or(0);
        let mut to = from;
        let mut accounts = Vec::new();
        for (number, count) in (1..).zip(counts).filter(|(_, count)| **count > 0) {
            let own = tracker(number);
            let suffix = own.compression.suffix();
            let file = File {
                tracker: own.id.clone(),
                account: format!("a{number:05}"),
                bucket: own.bucket.clone(),
                object: format!("CloudTraces/local/{partition}/{to}{suffix}"),
                compression: own.compression,
                verify: self.verifies(&own.id),
                service: "ECS".to_owned(),
                cycle_start_ms,
                cycle_end_ms: cycle_start_ms + CYCLE,
                partition,
                first_offset: to,
                last_offset: to + count - 1,
                count: *count,
                raw_bytes: 100 * count,
                bytes: 10 * count,
                sha256: "ab".repeat(32),
                content_sha256: (own.compression == Compression::Gzip).then(|| "cd".repeat(32)),
                root: "ef".repeat(32),
                time_min_ms: cycle_start_ms,
                time_max_ms: cycle_start_ms + 1,
            };
            self.say(until_ms, &FilesRecord::File(file));
            to += count + 2;
            accounts.push(AccountCounts {
                id: format!("a{number:05}"),
                received: count + 2,
                duplicate: 1,
                dead_lettered: 0,
                conflicts: 0,
                trackers: vec![TrackerCounts { id: own.id, filed: *count, files: 1 }],
            });
        }
        to += 1;
        let closed = Closed {
            partition,
            from,
            to,
            cycle_start_ms,
            until_ms,
            ticks: 1,
            accounts,
            ..Closed::default()
        };
        for piece in closed.split() {
            self.say(until_ms, &FilesRecord::Closed(piece));
        }
        self.next.insert(partition, to);
    }

    /// Cycles of both partitions from one time to another.
    fn run(&mut self, from_ms: Millis, to_ms: Millis, counts: &[u64]) {
        let mut at_ms = from_ms;
        while at_ms < to_ms {
            self.cycle(0, at_ms, at_ms + CYCLE, counts);
            self.cycle(1, at_ms, at_ms + CYCLE, counts);
            at_ms += CYCLE;
        }
    }
}

struct Outcome {
    objects: Vec<BytesObject>,
    effects: Vec<Effect>,
    refused: u64,
    heads: Vec<Head>,
    /// Row changes of each batch.
    changes: Vec<usize>,
}

fn load(rows: &Memory) -> DigestStage {
    let setup = DigestSetup { partition: 0, signer: Arc::new(FakeSigner) };
    DigestStage::load(setup, rows).expect("rows that the stage wrote")
}

/// Feeds a log in batches of `batch_length`; the stage is loaded anew after every batch if
/// `restart`.
fn feed(log: &FilesLog, batch_length: usize, restart: bool) -> Outcome {
    let mut rows = Memory::default();
    let mut stage = load(&rows);
    let (mut refused, mut changes) = (0, Vec::new());
    for (at, records) in log.records.chunks(batch_length).enumerate() {
        let mut batch = Batch::new([0; 2]);
        for (index, (append_time_ms, entry)) in records.iter().enumerate() {
            let body = match entry {
                Entry::Mark(catalog) => Body::Catalog(catalog.version, Some(catalog)),
                Entry::Data(value) => Body::Data(value),
            };
            let offset = (at * batch_length + index) as u64;
            let input = Input { offset, append_time_ms: *append_time_ms, body };
            stage.apply(&input, &mut batch).expect("a stage that wants no rows");
        }
        stage.finish(&mut batch);
        changes.push(batch.changes.list.len());
        rows.commit(&batch.changes);
        refused += stage.take_counts().refused;
        if restart {
            stage = load(&rows);
        }
    }
    let mut effects = Vec::new();
    let (from, to) = key::whole(key::Table::Outbox);
    rows.scan(&from, &to, &mut |_, row| {
        effects.push(Effect::decode(row).expect("an effect"));
        true
    })
    .expect("memory does not fail");
    let objects = effects
        .iter()
        .filter_map(
            |effect| if let Effect::Objects(all) = effect { Some(all.clone()) } else { None },
        )
        .flatten()
        .collect();
    Outcome { objects, effects, refused, heads: stage.heads().collect(), changes }
}

/// The digests by tracker name, each checked against the one before it and its note.
fn chains(objects: &[BytesObject]) -> BTreeMap<String, Vec<Digest>> {
    let mut chains: BTreeMap<String, Vec<Digest>> = BTreeMap::new();
    let mut links: BTreeMap<String, (Link, Frontier)> = BTreeMap::new();
    for object in objects.iter().filter(|object| object.object.contains("CloudTrace-Digest")) {
        if object.object.ends_with(".note") {
            let note = String::from_utf8(object.content.clone()).expect("text");
            let note = Note::parse(&note).expect("a note");
            let checkpoint = Checkpoint::parse(&note.text).expect("a checkpoint");
            let known = links.values().any(|(_, tree)| tree.root() == checkpoint.root);
            assert!(known, "the note's root is that of a chain");
            continue;
        }
        let digest: Digest = serde_json::from_slice(&object.content).expect("a digest");
        assert_eq!(digest.encode(), object.content);
        assert_eq!(digest.digest_object, object.object);
        assert!(digest.balances());
        let name = digest.chain.tracker_name.clone();
        let entry = links.get(&name);
        match entry {
            None => assert!(digest.begins()),
            Some((link, _)) => assert_eq!(digest.follows(link), Ok(())),
        }
        let chain = chains.entry(name.clone()).or_default();
        if let Some(last) = chain.last().filter(|last| !last.digest_end) {
            assert!(coverage_meets(&last.coverage, &digest.coverage));
        }
        let mut tree = entry.map(|(_, tree)| tree.clone()).unwrap_or_default();
        tree.push(leaf_hash(&object.content));
        let link = digest.link(&object.content, &object.metadata[0].1);
        links.insert(name, (link, tree));
        chain.push(digest);
    }
    chains
}

fn usual_log() -> FilesLog {
    let mut log = FilesLog::default();
    log.mark(START, catalog(1, 3));
    log.run(START, START + 2 * INTERVAL, &[3, 0, 5]);
    log.run(START + 2 * INTERVAL, START + 4 * INTERVAL, &[0, 2, 0]);
    log
}

#[test]
fn every_interval_has_a_digest_of_every_tracker_also_when_nothing_happened() {
    let outcome = feed(&usual_log(), 7, false);
    assert_eq!(outcome.refused, 0);
    let chains = chains(&outcome.objects);
    assert_eq!(chains.len(), 4);
    assert!(chains.values().all(|chain| chain.len() == 4));
    let files = |name: &str| -> Vec<usize> {
        chains[name].iter().map(|digest| digest.log_files.len()).collect()
    };
    assert_eq!(files("t1"), [12, 12, 0, 0]);
    assert_eq!(files("t2"), [0, 0, 12, 12]);
    assert_eq!(files("_ledger"), [0; 4]);
    assert!(chains["t1"].iter().all(|digest| files_in_order(&digest.log_files)));
    let compatible = |name: &str| chains[name].iter().all(|own| own.compatible_digest.is_some());
    assert!(compatible("t2") && !compatible("t1"));
    assert_eq!(outcome.heads.len(), 4);
    assert!(outcome.heads.iter().all(|head| head.sequence == 3));
}

#[test]
fn batches_and_restarts_change_no_byte() {
    let log = usual_log();
    let expected = feed(&log, log.records.len(), false).effects;
    for batch_length in [1, 2, 3, 11] {
        assert_eq!(feed(&log, batch_length, true).effects, expected, "{batch_length}");
        assert_eq!(feed(&log, batch_length, false).effects, expected, "{batch_length}");
    }
}

#[test]
fn a_tracker_that_stops_gets_an_ending_digest_and_goes_on_where_it_ended() {
    let mut log = FilesLog::default();
    log.mark(START, catalog(1, 2));
    log.run(START, START + INTERVAL, &[1, 1]);
    let mut without = catalog(2, 2);
    without.accounts[0].trackers[0].verify = false;
    log.mark(START + INTERVAL + 5_000, without);
    log.run(START + INTERVAL, START + 3 * INTERVAL, &[1, 1]);
    log.mark(START + 3 * INTERVAL + 1, catalog(3, 2));
    log.run(START + 3 * INTERVAL, START + 4 * INTERVAL, &[1, 1]);
    let chains = chains(&feed(&log, 5, true).objects);
    let ends = |name: &str| -> Vec<(bool, bool)> {
        let of = |digest: &Digest| (digest.previous_digest_end, digest.digest_end);
        chains[name].iter().map(of).collect()
    };
    assert_eq!(ends("t1"), [(false, false), (false, true), (true, false)]);
    assert_eq!(ends("t2"), [(false, false); 4]);
    assert_eq!(chains["t1"][2].interval_start_ms, START + 3 * INTERVAL);
}

/// Verification goes off while topic `files` is behind the traces, and on while it is ahead: what
/// was filed under verification is listed all the same.
#[test]
fn what_was_filed_under_verification_is_listed_whatever_the_clock_of_the_log_says() {
    let with = |version, verify| {
        let mut own = catalog(version, 1);
        own.accounts[0].trackers[0].verify = verify;
        own
    };
    let mut log = FilesLog::default();
    log.mark(START, with(1, true));
    log.run(START, START + INTERVAL, &[1]);
    log.run(START + 3 * INTERVAL, START + 4 * INTERVAL, &[1]);
    for (time_ms, _) in log.records.iter_mut().skip(25) {
        *time_ms = START + INTERVAL + 1;
    }
    let behind = log.records.split_off(25);
    log.mark(START + INTERVAL + 1, with(2, false));
    log.records.extend(behind);
    log.run(START + 4 * INTERVAL, START + 5 * INTERVAL, &[2]);
    log.mark(START + 9 * INTERVAL, with(3, true));
    log.run(START + 5 * INTERVAL, START + 6 * INTERVAL, &[3]);
    let chains = chains(&feed(&log, 5, true).objects);
    let listed: Vec<(Millis, usize, bool)> = chains["t1"]
        .iter()
        .map(|own| (own.interval_end_ms - START, own.log_files.len(), own.digest_end))
        .collect();
    let interval = |number| number * INTERVAL;
    let expected = [
        (interval(1), 12, false),
        (interval(2), 0, true),
        (interval(4), 12, true),
        (interval(6), 12, false),
    ];
    assert_eq!(listed, expected);
    let ledger = &chains["_ledger"];
    let unverified: Vec<bool> = ledger.iter().map(|own| !own.unverified.is_empty()).collect();
    assert_eq!(unverified, [false, true, true, true, true, true]);
}

#[test]
fn missed_intervals_get_digests_of_their_own_up_to_the_bound() {
    let mut log = FilesLog::default();
    log.mark(START, catalog(1, 1));
    log.cycle(0, START, START + 5 * INTERVAL, &[1]);
    log.cycle(1, START, START + 3 * INTERVAL + CYCLE, &[1]);
    let first = chains(&feed(&log, 1, true).objects);
    let ends: Vec<Millis> = first["t1"].iter().map(|digest| digest.interval_end_ms).collect();
    assert_eq!(ends, [1, 2, 3].map(|count| START + count * INTERVAL));
    let counts: Vec<usize> = first["t1"].iter().map(|digest| digest.log_files.len()).collect();
    assert_eq!(counts, [2, 0, 0]);
    for partition in [0, 1] {
        log.cycle(partition, START + 5 * INTERVAL, START + 3_000 * INTERVAL, &[1]);
    }
    let all = chains(&feed(&log, 1, true).objects);
    assert_eq!(all["t1"].len(), 3 + 1_024);
    let spanning = &all["t1"][3];
    assert_eq!(spanning.interval_start_ms, START + 3 * INTERVAL);
    assert_eq!(spanning.interval_end_ms, START + (3_000 - 1_023) * INTERVAL);
    assert_eq!(spanning.log_files.len(), 2);
}

#[test]
fn ten_thousand_quiet_trackers_cost_no_rows() {
    let mut log = FilesLog::default();
    log.mark(START, catalog(1, 10_000));
    log.cycle(0, START, START + CYCLE, &[1]);
    let changes = feed(&log, 1, false).changes;
    assert!(changes[0] > 10_000, "a row for each new chain, once");
    assert_eq!(changes[1..], [3, 3], "a record, a boundary, the position");
}

#[test]
fn what_cannot_be_true_is_counted_and_left_out() {
    let mut log = usual_log();
    let at = 20;
    let good = match &log.records[at].1 {
        Entry::Data(value) => FilesRecord::decode(value).expect("a record"),
        Entry::Mark(_) => panic!("not a record"),
    };
    let mut bad: Vec<Vec<u8>> =
        vec![Vec::new(), b"\xff\xfe".to_vec(), b"{}".to_vec(), b"{\"type\":\"file\"}".to_vec()];
    let closed = |from, to, received, tracker: &[&str]| {
        let trackers = tracker
            .iter()
            .map(|id| TrackerCounts { id: (*id).to_owned(), filed: 1, files: 1 })
            .collect();
        let account =
            AccountCounts { id: "a".to_owned(), received, trackers, ..Default::default() };
        let accounts = vec![account];
        FilesRecord::Closed(Closed { from, to, until_ms: i64::MAX, accounts, ..Closed::default() })
    };
    bad.push(closed(0, u64::MAX, u64::MAX, &[]).encode());
    bad.push(closed(7_000, 8_000, 1_000, &[]).encode());
    bad.push(closed(8, 7, 1, &[]).encode());
    let id = "00000000-0000-4000-8000-000000000001";
    bad.push(closed(0, 1, 1, &[id, id]).encode());
    bad.push(closed(0, 1, 1, &["no id"]).encode());
    if let FilesRecord::File(file) = good {
        let change = |change: &dyn Fn(&mut File)| {
            let mut file = file.clone();
            change(&mut file);
            FilesRecord::File(file).encode()
        };
        bad.push(change(&|file| file.tracker = "x".to_owned()));
        bad.push(change(&|file| file.sha256 = "AB".repeat(32)));
        bad.push(change(&|file| file.partition = 9));
        bad.push(change(&|file| file.first_offset = 0));
        bad.push(change(&|file| file.count = u64::MAX));
    }
    let count = bad.len() as u64;
    let expected = chains(&feed(&log, 3, false).objects);
    for value in bad {
        log.records.insert(at, (START + 2 * CYCLE, Entry::Data(value)));
    }
    let outcome = feed(&log, 3, true);
    assert_eq!(outcome.refused, count);
    assert_eq!(chains(&outcome.objects), expected);
}

#[test]
fn a_stretch_in_pieces_closes_with_the_last_one() {
    let mut log = FilesLog::default();
    log.mark(START, catalog(1, 1));
    let counts: Vec<u64> = vec![1; 4_500];
    log.cycle(0, START, START + INTERVAL, &counts);
    log.cycle(1, START, START + INTERVAL, &[1]);
    let outcome = feed(&log, 100, true);
    assert_eq!(outcome.refused, 0);
    let chains = chains(&outcome.objects);
    let ledger = &chains["_ledger"][0].coverage[0];
    assert!(matches!(ledger, Coverage::Ledger(counts) if counts.accounts_in == 4_500 * 3));
}

/// Bytes that left once must leave the same for ever: a change here is a change of format.
#[test]
fn what_leaves_is_as_the_golden_files_have_it() {
    let log = usual_log();
    let outcome = feed(&log, 7, false);
    let object = |part: &str, end: &str| -> &[u8] {
        let of = |own: &&BytesObject| own.object.contains(part) && own.object.ends_with(end);
        &outcome.objects.iter().filter(of).nth(1).expect("the second one").content
    };
    let checkpoint = outcome.effects.iter().find_map(|effect| match effect {
        Effect::Records(records) => Some(records[0].value.clone()),
        _ => None,
    });
    let record = |at: usize| match &log.records[at].1 {
        Entry::Data(value) => value.as_slice(),
        Entry::Mark(_) => b"",
    };
    for (name, found, expected) in [
        (
            "digest.json",
            object("/t1/Digest/", ".json.gz"),
            &include_bytes!("golden/digest.json")[..],
        ),
        ("digest.note", object("/t1/Digest/", ".note"), include_bytes!("golden/digest.note")),
        ("ledger.json", object("/_ledger/", ".json.gz"), include_bytes!("golden/ledger.json")),
        ("compatible.json", object("AWSLogs", ""), include_bytes!("golden/compatible.json")),
        (
            "checkpoint.json",
            &checkpoint.expect("a checkpoint"),
            include_bytes!("golden/checkpoint.json"),
        ),
        ("file.json", record(1), include_bytes!("golden/file.json")),
        ("closed.json", record(3), include_bytes!("golden/closed.json")),
    ] {
        let (found, expected) = (String::from_utf8_lossy(found), String::from_utf8_lossy(expected));
        assert_eq!(found, expected, "{name}");
    }
}
