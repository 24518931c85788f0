//! The end of a run: against an undisturbed run of the same log.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trailproof_topology::effect::OutRecord;
use trailproof_topology::key::{Table, whole};
use trailproof_topology::memory::Memory;
use trailproof_topology::state::Rows;

use super::checks::Checker;
use super::compare::{files_log, number};
use super::hub::{Faults, Hub, Inner, Rates};
use super::logs::Logs;
use super::node::{Checked, Node};
use super::objects::Objects;
use super::plant::Plant;
use super::random::Random;
use super::run::{Run, nodes};

/// Runs the same log without disturbance and compares rows, files, digests and what left.
pub(crate) fn undisturbed(run: &mut Run) -> Checked {
    let quiet = quiet(&run.hub);
    let nodes = nodes(&run.world, &quiet, 1 << 20);
    let (mut records, mut digests): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| !node.is_digest());
    let mut checker = Checker::default();
    drain(&mut records, &quiet, &mut checker)?;
    for (own, other) in run.nodes.iter().zip(&records) {
        same_rows(&own.store().rows(), &other.store().rows())?;
    }
    same_files_records(&run.hub, &quiet)?;
    let files = {
        let inner = run.hub.lock();
        inner.logs.files.clone()
    };
    quiet.lock().logs.files = files;
    let mut checker_of_digests = Checker::default();
    std::mem::swap(&mut checker.contents, &mut checker_of_digests.contents);
    drain_unchecked(&mut digests, &quiet)?;
    let mut quiet = quiet.lock();
    for place in std::mem::take(&mut quiet.objects.touched) {
        let object = &quiet.objects.all[&place];
        let compression = super::objects::compression(&place.1);
        let content = trailproof::codec::decode(compression, &object.bytes, 1 << 24)
            .map_err(|error| error.to_string())?;
        checker_of_digests.contents.insert(place, content);
    }
    let (own, other) = (&run.checker.contents, &checker_of_digests.contents);
    if own != other {
        let odd = own.iter().find(|(place, content)| other.get(*place) != Some(content));
        let lost = other.keys().find(|place| !own.contains_key(*place));
        return Err(format!("I6: objects differ: {:?}, {lost:?}", odd.map(|own| own.0)));
    }
    let sorted = |out: &[OutRecord]| {
        let mut all: Vec<String> = out.iter().map(|record| format!("{record:?}")).collect();
        all.sort();
        all
    };
    let disturbed = run.hub.lock();
    if sorted(&disturbed.logs.out) != sorted(&quiet.logs.out) {
        return Err("I6: what left differs".to_owned());
    }
    Ok(())
}

/// The same traces, and no disturbance.
fn quiet(hub: &Hub) -> std::sync::Arc<Hub> {
    let inner = hub.lock();
    let mut logs = Logs::new(0, inner.logs.files.len() as u32);
    logs.traces = inner.logs.traces.clone();
    let faults = Faults {
        random: Random(0),
        rates: Rates::default(),
        on: false,
        calls: 0,
        crash_at: Vec::new(),
        crashed: false,
    };
    Hub::new(Inner {
        // Before everything: nobody ticks.
        now_ms: 0,
        clamped: false,
        holes: false,
        open_bytes_max: inner.open_bytes_max,
        commits_per_flush: usize::MAX,
        logs,
        objects: Objects::default(),
        faults,
        catalogs: inner.catalogs.clone(),
        marks: BTreeSet::new(),
        plant: Plant::None,
        trace: None,
    })
}

fn drain(nodes: &mut [Box<dyn Node>], hub: &Hub, checker: &mut Checker) -> Checked {
    drain_unchecked(nodes, hub)?;
    checker.step(hub)
}

fn drain_unchecked(nodes: &mut [Box<dyn Node>], _hub: &Hub) -> Checked {
    for _ in 0..2_000 {
        let mut happened = false;
        for node in nodes.iter_mut() {
            happened |= node.work()?;
            for lane in trailproof_topology::effect::Lane::ALL {
                happened |= node.deliver(lane)?;
            }
        }
        if !happened {
            return Ok(());
        }
    }
    Err("the undisturbed run does not end".to_owned())
}

/// Rows that do not depend on where batches end.
pub(crate) fn kept_rows(memory: &Memory) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    for table in [Table::Segment, Table::Chunk, Table::Count, Table::Sequence, Table::Catalog] {
        let (from, to) = whole(table);
        let Ok(()) = memory.scan(&from, &to, &mut |key, row| {
            rows.insert(key.to_vec(), row.to_vec());
            true
        });
    }
    rows
}

/// I6: rows of chunks and segments are the same.
fn same_rows(own: &Memory, other: &Memory) -> Checked {
    let (own, other) = (kept_rows(own), kept_rows(other));
    match own.iter().find(|(key, row)| other.get(*key) != Some(row)) {
        None if own.len() == other.len() => Ok(()),
        odd => Err(format!("I6: rows differ, such as {:?}", odd.map(|(key, _)| key))),
    }
}

/// I6: the records of topic `files` are the same, but for what another compressor stored.
fn same_files_records(own: &Hub, other: &Hub) -> Checked {
    if files_by_source(own) == files_by_source(other) {
        return Ok(());
    }
    Err("I6: topic files differs".to_owned())
}

/// The records of topic `files` by its partition and the partition of `traces` they tell of,
/// without what is learnt at delivery.
pub(crate) fn files_by_source(hub: &Hub) -> BTreeMap<(usize, u64), Vec<Value>> {
    let mut sources: BTreeMap<(usize, u64), Vec<Value>> = BTreeMap::new();
    for (at, log) in files_log(hub).into_iter().enumerate() {
        for mut record in log.into_iter().filter(|record| record["partition"].is_u64()) {
            record["bytes"] = Value::Null;
            record["sha256"] = Value::Null;
            let source = number(&record, "partition");
            sources.entry((at, source)).or_default().push(record);
        }
    }
    sources
}
