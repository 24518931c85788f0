//! The record stage: the same log gives the same effects and files, wherever batches end and
//! however often the stage is loaded again from its rows.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use support::{Random, catalog, record};
use trailproof_topology::chunk::Chunk;
use trailproof_topology::effect::{Effect, SegmentFile, Topic};
use trailproof_topology::files::FilesRecord;
use trailproof_topology::input::{Body, Input};
use trailproof_topology::key::{SegmentId, Table, whole};
use trailproof_topology::memory::Memory;
use trailproof_topology::merkle::{Frontier, leaf_hash};
use trailproof_topology::record::{RecordStage, Setup};
use trailproof_topology::stage::{Batch, Stage};
use trailproof_topology::state::Rows;
use trailproof_topology::trace::TRACE_BYTES_MAX;
use trailproof_topology::workbench::Workbench;

enum Said {
    Trace(Vec<u8>),
    Tick,
    Catalog(u64),
}

struct Log {
    records: Vec<(i64, Said)>,
    catalogs: BTreeMap<u64, Arc<trailproof_topology::catalog::Catalog>>,
    /// So little that chunks close early.
    open_bytes_max: usize,
}

/// A log around cycle boundaries, with a catalog change in the middle.
fn log(seed: u64, length: usize) -> Log {
    let mut random = Random(seed);
    let mut second = catalog(3);
    second.version = 2;
    second.accounts[0].trackers[1].enabled = random.one_in(2);
    second.cycle_ms = if random.one_in(2) { 10_000 } else { 5_000 };
    second.dedup_window = if random.one_in(2) { 32 } else { 200 };
    second.accounts.truncate(2 + random.below(2) as usize);
    let catalogs = BTreeMap::from([(1, Arc::new(catalog(3))), (2, Arc::new(second))]);
    let mut now = 1_700_000_000_000i64;
    let mut sent = Vec::new();
    let mut records = vec![(now, Said::Catalog(1))];
    let change = random.below(length as u64) as usize;
    for at in 0..length {
        now += match random.below(40) {
            0 => 9_999,
            1 => 35_000,
            2 => -3_000,
            _ => random.below(150) as i64,
        };
        records.push(match random.below(30) {
            0 => (now, Said::Tick),
            _ => (now, Said::Trace(record(&mut random, 3, &mut sent))),
        });
        if at == change {
            records.push((now, Said::Catalog(2)));
        }
    }
    records.push((now + 40_000, Said::Tick));
    Log { records, catalogs, open_bytes_max: 20_000 }
}

/// Runs a log with batches of at most `batch_max` records; `reload` loads the stage again after
/// each batch.
fn run(log: &Log, seed: u64, batch_max: u64, reload: bool) -> Memory {
    run_reloading(log, seed, batch_max, u64::from(reload))
}

/// As [`run`], with one load in `batches` batches; 0: none.
fn run_reloading(log: &Log, seed: u64, batch_max: u64, batches: u64) -> Memory {
    let mut random = Random(seed);
    let mut rows = Memory::default();
    let mut stage = load(log.open_bytes_max, &rows);
    let mut at = 0;
    while at < log.records.len() {
        let end = (at + 1 + random.below(batch_max) as usize).min(log.records.len());
        apply(log, &mut stage, &mut rows, at..end);
        at = end;
        if batches > 0 && random.one_in(batches) {
            savepoint(&mut stage, &mut rows);
            stage = load(log.open_bytes_max, &rows);
        } else if random.one_in(3) {
            savepoint(&mut stage, &mut rows);
        }
    }
    rows
}

fn load(open_bytes_max: usize, rows: &Memory) -> RecordStage {
    let setup = Setup { partition: 3, topic_id: "topic".into(), open_bytes_max };
    RecordStage::load(setup, rows).unwrap()
}

/// Writes what only the stage holds.
fn savepoint(stage: &mut RecordStage, rows: &mut Memory) {
    savepoint_at(&mut Workbench::default(), stage, rows);
}

fn savepoint_at(workbench: &mut Workbench, stage: &mut RecordStage, rows: &mut Memory) {
    let mut batch = Batch { workbench: std::mem::take(workbench), ..Batch::default() };
    stage.savepoint(&mut batch);
    rows.commit(&batch.changes);
    *workbench = batch.workbench;
}

/// Applies a batch and commits it.
fn apply(log: &Log, stage: &mut RecordStage, rows: &mut Memory, offsets: Range<usize>) {
    apply_at(&mut Workbench::default(), log, stage, rows, offsets);
}

fn apply_at(
    workbench: &mut Workbench,
    log: &Log,
    stage: &mut RecordStage,
    rows: &mut Memory,
    offsets: Range<usize>,
) {
    let mut batch = Batch { workbench: std::mem::take(workbench), ..Batch::default() };
    feed(log, stage, rows, offsets, &mut batch);
    stage.finish(&mut batch);
    assert!(batch.workbench.is_clear(), "something is left on the workbench");
    rows.commit(&batch.changes);
    *workbench = batch.workbench;
}

/// Applies records, and does not end the batch.
fn feed(
    log: &Log,
    stage: &mut RecordStage,
    rows: &Memory,
    offsets: Range<usize>,
    batch: &mut Batch,
) {
    for (offset, (time, said)) in offsets.clone().zip(&log.records[offsets]) {
        let body = match said {
            Said::Trace(bytes) => Body::Data(bytes),
            Said::Tick => Body::Tick,
            Said::Catalog(version) => Body::Catalog(*version, log.catalogs.get(version)),
        };
        let input = Input { offset: offset as u64, append_time_ms: *time, body };
        stage.apply_reading(&input, || rows.clone(), batch).unwrap();
    }
}

fn effects(rows: &Memory) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (from, to) = whole(Table::Outbox);
    rows_between(rows, &from, &to)
}

fn rows_between(rows: &Memory, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut between = Vec::new();
    rows.scan(from, to, &mut |key, row| {
        between.push((key.to_vec(), row.to_vec()));
        true
    })
    .unwrap();
    between
}

/// Text of each segment.
fn segments(rows: &Memory) -> BTreeMap<SegmentId, Vec<u8>> {
    let (from, to) = whole(Table::Chunk);
    let mut segments: BTreeMap<SegmentId, Vec<u8>> = BTreeMap::new();
    rows.scan(&from, &to, &mut |key, row| {
        let (id, _) = SegmentId::parse(key).unwrap();
        segments.entry(id).or_default().extend(Chunk::decode(row).unwrap().text().unwrap());
        true
    })
    .unwrap();
    segments
}

/// Compares two runs and shows where they part.
fn same<K: std::fmt::Debug + PartialEq>(
    label: &str,
    run: Vec<(K, Vec<u8>)>,
    expected: &[(K, Vec<u8>)],
) {
    for (own, other) in run.iter().zip(expected) {
        let (text, other_text) =
            (String::from_utf8_lossy(&own.1), String::from_utf8_lossy(&other.1));
        assert!(own == other, "{label}: {:?} {text}\nbut {:?} {other_text}", own.0, other.0);
    }
    assert_eq!(run.len(), expected.len(), "{label}: one run says more");
}

#[test]
fn batches_and_restarts_change_nothing_that_leaves() {
    for seed in 0..60 {
        let log = log(seed, 400);
        let whole_run = run(&log, seed, 10_000, false);
        let texts: Vec<_> = segments(&whole_run).into_iter().collect();
        let expected = (effects(&whole_run), texts);
        assert!(expected.0.len() > 20, "seed {seed}: the log makes nothing leave");
        for (batch_max, reload) in [(1, true), (7, true), (90, true), (23, false)] {
            let rows = run(&log, seed + 1, batch_max, reload);
            let label = format!("seed {seed}, batches to {batch_max}");
            same(&label, effects(&rows), &expected.0);
            same(&label, segments(&rows).into_iter().collect(), &expected.1);
        }
    }
}

/// The largest record grows by the members that are derived for it, and must still be read back.
#[test]
fn the_largest_trace_survives_a_restart() {
    let head = b"{\"time\":1,\"service_type\":\"ECS\",\"resource_type\":\"ecs\",\
        \"trace_name\":\"do\",\"trace_rating\":\"normal\",\"trace_type\":\"ApiCall\",\
        \"domain_id\":\"account-000\",\"request\":\"";
    let mut largest = head.to_vec();
    largest.resize(TRACE_BYTES_MAX - 2, b'x');
    largest.extend_from_slice(b"\"}");
    let start = 1_700_000_000_000;
    let records = vec![
        (start, Said::Catalog(1)),
        (start + 1, Said::Trace(largest.clone())),
        (start + 2, Said::Tick),
        (start + 40_000, Said::Tick),
    ];
    let catalogs = BTreeMap::from([(1, Arc::new(catalog(1)))]);
    let log = Log { records, catalogs, open_bytes_max: 20_000 };
    let expected = segments(&run(&log, 0, 10_000, false));
    assert_eq!(segments(&run(&log, 0, 1, true)), expected);
    let stored = expected.values().next().unwrap();
    assert!(stored.len() > largest.len(), "nothing was derived");
}

#[test]
fn files_hold_what_their_effects_say_and_closed_records_count_it() {
    for seed in 100..130 {
        let log = log(seed, 600);
        let rows = run(&log, seed, 50, false);
        let texts = segments(&rows);
        let (mut filed, mut counted, mut next) = (0, 0, 0);
        for (_, row) in effects(&rows) {
            match Effect::decode(&row).unwrap() {
                Effect::Segment(file) => {
                    let (_, text) = texts
                        .iter()
                        .find(|(id, _)| {
                            id.part == file.first_offset
                                && id.service == file.service
                                && trailproof_topology::catalog::tracker_text(&id.tracker)
                                    == file.tracker
                        })
                        .unwrap();
                    let whole = [text.as_slice(), b"\n]\n"].concat();
                    assert_eq!(whole.len() as u64, file.raw_bytes);
                    let traces: Vec<Box<serde_json::value::RawValue>> =
                        serde_json::from_slice(&whole).unwrap();
                    let mut tree = Frontier::default();
                    // A stored trace keeps its leading space; the parser gives it without.
                    for trace in &traces {
                        let at = whole
                            .windows(trace.get().len())
                            .position(|window| window == trace.get().as_bytes())
                            .unwrap();
                        let lead = usize::from(whole[at - 1] == b' ');
                        tree.push(leaf_hash(&whole[at - lead..at + trace.get().len()]));
                    }
                    assert_eq!(data_encoding::HEXLOWER.encode(&tree.root()), file.root);
                    assert_eq!(traces.len() as u64, file.count);
                    filed += file.count;
                }
                Effect::Records(records) if records[0].topic == Topic::Files => {
                    let Ok(FilesRecord::Closed(closed)) = FilesRecord::decode(&records[0].value)
                    else {
                        panic!("the record stage publishes closed records alone");
                    };
                    assert_eq!(closed.from, next, "I7: stretches meet");
                    next = closed.to;
                    let accounted: u64 = closed.accounts.iter().map(|one| one.received).sum();
                    let own = closed.ticks + closed.marks + closed.dead_lettered;
                    assert_eq!(closed.to - closed.from, own + accounted, "I3");
                    counted += closed
                        .accounts
                        .iter()
                        .flat_map(|one| &one.trackers)
                        .map(|tracker| tracker.filed)
                        .sum::<u64>();
                }
                Effect::Records(_) | Effect::Objects(_) => {}
            }
        }
        assert_eq!(filed, counted, "seed {seed}");
        assert_eq!(next, log.records.len() as u64 - 1, "the last tick is in the next stretch");
    }
}

/// Text for more segments than may be open at full size, in one cycle.
fn wide_log() -> Log {
    let mut random = Random(11);
    let mut catalog = catalog(1);
    (catalog.cycle_ms, catalog.file_bytes_max) = (60_000, 64 << 20);
    let now = 1_700_000_040_000i64;
    let mut records = vec![(now, Said::Catalog(1))];
    let padding = "x".repeat(4_000);
    for at in 0..8_000 {
        let service = random.below(150) * random.below(150) / 150;
        let text = format!(
            "{{\"time\":{now},\"service_type\":\"S{service}\",\"resource_type\":\"r\",\
             \"trace_name\":\"n\",\"trace_type\":\"t\",\"trace_rating\":\"normal\",\
             \"domain_id\":\"account-000\",\"trace_id\":\"{at}\",\
             \"record_time\":1,\"request\":\"{padding}\"}}"
        );
        records.push((now, Said::Trace(text.into_bytes())));
    }
    records.push((now + 60_000, Said::Tick));
    Log { records, catalogs: BTreeMap::from([(1, Arc::new(catalog))]), open_bytes_max: 4 << 20 }
}

/// The bound of open bytes is reached and the tail outgrows its own; neither batches nor loads
/// show in a byte.
#[test]
fn chunks_that_close_early_do_so_by_the_log_alone() {
    let log = wide_log();
    let chunks = |rows: &Memory| {
        let (from, to) = whole(Table::Chunk);
        let mut chunks = Vec::new();
        rows.scan(&from, &to, &mut |key, row| {
            chunks.push((key.to_vec(), row.to_vec()));
            true
        })
        .unwrap();
        chunks
    };
    let plain = run(&log, 0, 100, false);
    let (expected, said) = (chunks(&plain), effects(&plain));
    let segment = |key: &[u8]| SegmentId::parse(key).unwrap().0;
    let early = expected.windows(2).any(|pair| {
        let text = Chunk::decode(&pair[0].1).unwrap().text().unwrap();
        segment(&pair[0].0) == segment(&pair[1].0) && text.len() < 128 << 10
    });
    assert!(early, "the bound was not reached");
    let reloaded = run_reloading(&log, 5, 900, 3);
    assert!(chunks(&reloaded) == expected, "the chunks are others");
    assert!(effects(&reloaded) == said, "the effects are others");
}

/// An instance with more partitions has less for each: what was open must fit, also where the first
/// batch files nothing that would make room.
#[test]
fn a_restart_with_a_smaller_bound_closes_chunks_and_changes_no_file() {
    // In how many rows a file lies until it is delivered is no matter of what leaves.
    let leaving = |rows: &Memory| {
        let decoded = effects(rows).into_iter().map(|(key, row)| match Effect::decode(&row) {
            Some(Effect::Segment(file)) => {
                (key, Effect::Segment(Box::new(SegmentFile { chunks: 0, ..*file })))
            }
            other => (key, other.unwrap()),
        });
        decoded.collect::<Vec<_>>()
    };
    let mut log = wide_log();
    let (now, middle) = (log.records[0].0, 4_000);
    for files_nothing in [Said::Trace(b"[1]".to_vec()), Said::Tick] {
        log.records.insert(middle, (now, files_nothing));
    }
    let plain = run(&log, 0, 100, false);
    let mut rows = Memory::default();
    let mut stage = load(log.open_bytes_max, &rows);
    apply(&log, &mut stage, &mut rows, 0..middle);
    for (open_bytes_max, offsets) in
        [(500_000, middle..middle + 1), (60_000, middle + 1..middle + 2)]
    {
        savepoint(&mut stage, &mut rows);
        stage = load(open_bytes_max, &rows);
        apply(&log, &mut stage, &mut rows, offsets);
        assert!(stage.tally().closed_early > 0, "all fits in {open_bytes_max} bytes");
    }
    apply(&log, &mut stage, &mut rows, middle + 2..log.records.len());
    assert!(leaving(&rows) == leaving(&plain), "the effects are others");
    assert!(segments(&rows) == segments(&plain), "the files are others");
}

#[test]
fn a_workbench_that_served_other_partitions_is_as_good_as_a_new_one() {
    let logs = [log(5, 900), wide_log(), log(6, 700)];
    // Each partition's batches; every fourth is followed by a savepoint.
    let rows_of = |shared: bool| {
        let mut bench = Workbench::default();
        let mut all: Vec<(Memory, RecordStage)> = logs
            .iter()
            .map(|log| (Memory::default(), load(log.open_bytes_max, &Memory::default())))
            .collect();
        for turn in 0..logs.iter().map(|log| log.records.len()).max().unwrap() {
            for ((log, step), (rows, stage)) in logs.iter().zip([37, 911, 53]).zip(&mut all) {
                let offsets = turn * step..((turn + 1) * step).min(log.records.len());
                if offsets.is_empty() {
                    continue;
                }
                if !shared {
                    bench = Workbench::default();
                }
                apply_at(&mut bench, log, stage, rows, offsets);
                if turn % 4 == 3 {
                    savepoint_at(&mut bench, stage, rows);
                }
            }
        }
        all.iter().map(|(rows, _)| rows_between(rows, &[], &[0xff])).collect::<Vec<_>>()
    };
    for (shared, own) in rows_of(true).into_iter().zip(rows_of(false)) {
        assert!(own.len() > 100, "{} rows", own.len());
        same("on a shared workbench", shared, &own);
    }
}

#[test]
fn a_workbench_with_something_on_it_serves_no_other_batch() {
    let log = log(5, 60);
    let file = |batch: &mut Batch| {
        let rows = Memory::default();
        let mut stage = load(log.open_bytes_max, &rows);
        feed(&log, &mut stage, &rows, 0..log.records.len(), batch);
    };
    let mut batch = Batch::default();
    file(&mut batch);
    assert!(!batch.workbench.is_clear(), "nothing was filed");
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| file(&mut batch)));
    let panic = again.expect_err("another stage filed into the same batch");
    let text = panic.downcast_ref::<&str>().copied().unwrap_or_default();
    assert!(text.contains("is on this one's workbench"), "{text}");
}

/// Early configurations could say 0. Their logs were filed with a window of one trace.
#[test]
fn a_catalog_without_a_window_gives_what_it_gave() {
    let with_window = |traces| {
        let mut log = log(7, 400);
        let catalogs = log.catalogs.values_mut();
        catalogs.for_each(|catalog| Arc::make_mut(catalog).dedup_window = traces);
        run(&log, 7, 23, true)
    };
    let (none, one) = (with_window(0), with_window(1));
    same("a window of 0", effects(&none), &effects(&one));
    assert_eq!(segments(&none), segments(&one));
}
