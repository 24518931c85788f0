//! The end of a run: against the oracle.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trailproof_topology::catalog::tracker_key;
use trailproof_topology::effect::{OutRecord, Topic};
use trailproof_topology::input::Millis;
use trailproof_topology::invariant;
use trailproof_topology::key::TrackerId;

use super::hub::Hub;
use super::node::Checked;
use super::objects::Place;
use super::oracle::{Filed, Oracle, Outcome, root};
use super::replay;
use super::run::Run;
use super::view::{self, Shown};

/// The files that there must be, by place, with their partition.
type Expected<'a> = BTreeMap<Place, (u64, &'a Filed)>;

/// Compares everything.
pub(crate) fn all(run: &mut Run, until_ms: Millis) -> Checked {
    let oracles: Vec<Oracle> = {
        let inner = run.hub.lock();
        let logs = (0..).zip(&inner.logs.traces);
        logs.map(|(at, log)| Oracle::of(at, &log.records, &inner.catalogs)).collect()
    };
    let files = files_log(&run.hub);
    reached(run, &files, until_ms)?;
    stretches(&files, &oracles)?;
    let expected = delivered(run, &files, &oracles)?;
    leaving(&run.hub, &oracles)?;
    digests(run, &oracles, &expected)?;
    seen(run, &oracles)?;
    for node in &mut run.nodes {
        // Whatever can become a run does; the view shows the same.
        while node.index()? {}
    }
    seen(run, &oracles)?;
    replay::undisturbed(run)
}

/// The records of topic `files`, by partition.
pub(crate) fn files_log(hub: &Hub) -> Vec<Vec<Value>> {
    let inner = hub.lock();
    let parse = |value: &[u8]| serde_json::from_slice::<Value>(value).unwrap_or(Value::Null);
    let logs = inner.logs.files.iter();
    logs.map(|log| log.records.iter().map(|record| parse(&record.value)).collect()).collect()
}

pub(crate) fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(u64::MAX)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Liveness: all partitions are closed, and all digests written, up to the boundary.
fn reached(run: &Run, files: &[Vec<Value>], until_ms: Millis) -> Checked {
    for log in files {
        for partition in 0..run.world.catalog.traces_partitions {
            let last = log
                .iter()
                .rev()
                .find(|record| record["type"] == "closed" && record["partition"] == partition);
            if last.is_none_or(|last| last["until_ms"].as_i64() < Some(until_ms)) {
                return Err(format!("no progress: {partition} closed {last:?} of {until_ms}"));
            }
        }
    }
    for node in run.nodes.iter().filter(|node| node.is_digest()) {
        if node.digested_until_ms() < Some(until_ms) {
            let digested = node.digested_until_ms();
            return Err(format!("no progress: digests to {digested:?} of {until_ms}"));
        }
    }
    Ok(())
}

/// The closed records are the oracle's stretches, with its counts.
fn stretches(files: &[Vec<Value>], oracles: &[Oracle]) -> Checked {
    for log in files {
        for (partition, oracle) in oracles.iter().enumerate() {
            let closed: Vec<&Value> = log
                .iter()
                .filter(|own| own["type"] == "closed" && own["partition"] == partition)
                .collect();
            if closed.len() != oracle.stretches.len() {
                let (own, other) = (closed.len(), oracle.stretches.len());
                return Err(format!("I3: {own} stretches of {partition}, not {other}"));
            }
            for (closed, stretch) in closed.into_iter().zip(&oracle.stretches) {
                let place = (number(closed, "from"), number(closed, "to"));
                let until_ms = closed["until_ms"].as_i64();
                if place != (stretch.from, stretch.to) || until_ms != Some(stretch.until_ms) {
                    return Err(format!("I3: {closed} is not {stretch:?}"));
                }
                counted(closed, &oracle.outcomes[stretch.from as usize..stretch.to as usize])?;
            }
        }
    }
    Ok(())
}

/// What a ledger counts beside the records of accounts, and what the oracle calls it.
const LEDGER: [&str; 5] = ["ticks", "marks", "dead_lettered", "absent", "lost"];
const OUTCOMES: [Outcome; 5] =
    [Outcome::Tick, Outcome::Mark, Outcome::Dead(None), Outcome::Absent, Outcome::Lost];

fn counted(closed: &Value, outcomes: &[Outcome]) -> Checked {
    let count = |wanted: Outcome| outcomes.iter().filter(|own| **own == wanted).count() as u64;
    let own = LEDGER.map(|name| closed[name].as_u64().unwrap_or(0));
    if own != OUTCOMES.map(count) {
        return Err(format!("I3: ticks, marks, dead letters, absent or lost of {closed}"));
    }
    let accounts = closed["accounts"].as_array().cloned().unwrap_or_default();
    let named: u64 = accounts.iter().map(|own| number(own, "in")).sum();
    if named + own.iter().sum::<u64>() != outcomes.len() as u64 {
        return Err(format!("I3: {closed} does not add up"));
    }
    for account in accounts {
        let sums = Sums::of(text(&account, "id"), outcomes);
        let names = ["in", "duplicate", "dead_lettered", "conflicts"];
        let own = names.map(|name| number(&account, name));
        if own != [sums.received, sums.duplicate, sums.dead, sums.conflicts] {
            return Err(format!("I3: {account} is not {sums:?}"));
        }
        for tracker in account["trackers"].as_array().into_iter().flatten() {
            let filed = sums.filed.get(text(tracker, "id")).copied().unwrap_or(0);
            if number(tracker, "filed") != filed {
                return Err(format!("I3: {tracker} filed {filed}"));
            }
        }
    }
    Ok(())
}

/// Counts of an account.
#[derive(Debug, Default)]
struct Sums {
    received: u64,
    duplicate: u64,
    dead: u64,
    conflicts: u64,
    filed: BTreeMap<String, u64>,
}

impl Sums {
    fn of(account: &str, outcomes: &[Outcome]) -> Self {
        let mut sums = Self::default();
        for outcome in outcomes {
            match outcome {
                Outcome::Dead(Some(id)) if id == account => sums.dead += 1,
                Outcome::Resend(id) if id == account => sums.duplicate += 1,
                Outcome::Trace(id, conflict, trackers) if id == account => {
                    sums.conflicts += u64::from(*conflict);
                    for tracker in trackers {
                        *sums.filed.entry(tracker.clone()).or_default() += 1;
                    }
                }
                _ => continue,
            }
            sums.received += 1;
        }
        sums
    }
}

/// Every sealed file is told once, is in the store, and holds what the oracle filed.
fn delivered<'a>(
    run: &Run,
    files: &[Vec<Value>],
    oracles: &'a [Oracle],
) -> Result<Expected<'a>, String> {
    let mut told: BTreeMap<(u64, String, u64), Vec<&Value>> = BTreeMap::new();
    for record in files.iter().flatten().filter(|record| record["type"] == "file") {
        let first = number(record, "first_offset");
        let key = (number(record, "partition"), text(record, "tracker").to_owned(), first);
        told.entry(key).or_default().push(record);
    }
    let mut expected = BTreeMap::new();
    for (partition, oracle) in oracles.iter().enumerate() {
        for filed in &oracle.files {
            let partition = partition as u64;
            let key = (partition, filed.tracker.id.clone(), filed.offsets[0]);
            let records = told.remove(&key).unwrap_or_default();
            let selected = filed.sealed && !filed.tracker.bucket.is_empty();
            if !invariant::filed_once(selected, records.len()) {
                return Err(format!("I4: {key:?} is told {} times", records.len()));
            }
            for record in records {
                same_file(run, record, filed)?;
                let bucket = text(record, "bucket").to_owned();
                expected.insert((bucket, text(record, "object").to_owned()), (partition, filed));
            }
        }
    }
    match told.first_key_value() {
        Some((key, _)) => Err(format!("I4: nobody filed {key:?}")),
        None => Ok(expected),
    }
}

fn same_file(run: &Run, record: &Value, filed: &Filed) -> Checked {
    let place = (text(record, "bucket").to_owned(), text(record, "object").to_owned());
    let content = run.checker.contents.get(&place).ok_or("I4: a file is nowhere")?;
    if *content != filed.content() {
        let (own, other) = (String::from_utf8_lossy(content), filed.content());
        return Err(format!("I4: {place:?} {own}\nis not\n{}", String::from_utf8_lossy(&other)));
    }
    let hash = data_encoding::HEXLOWER.encode(&root(&filed.texts));
    let says = [text(record, "root"), text(record, "service"), text(record, "account")];
    let last = filed.offsets.last().copied().unwrap_or_default();
    let numbers = (number(record, "last_offset"), number(record, "count"));
    if says != [hash.as_str(), &filed.service, &filed.account]
        || numbers != (last, filed.offsets.len() as u64)
        || record["cycle_start_ms"].as_i64() != Some(filed.cycle_ms)
        || place.0 != filed.tracker.bucket
    {
        return Err(format!("I5: {record} is not {filed:?}"));
    }
    Ok(())
}

/// Notifications and dead letters, each once, in order.
fn leaving(hub: &Hub, oracles: &[Oracle]) -> Checked {
    let inner = hub.lock();
    let header = |record: &OutRecord, name: &str| {
        let found = record.headers.iter().find(|own| own.0 == name);
        found.map(|own| own.1.clone()).unwrap_or_default()
    };
    for (partition, oracle) in oracles.iter().enumerate() {
        let partition = partition.to_string();
        let of = |topic, name: &'static str| {
            let records = inner.logs.out.iter().filter(move |record| record.topic == topic);
            records.filter(|record| header(record, name) == partition).collect::<Vec<_>>()
        };
        let notes: Vec<(String, String)> = of(Topic::Notifications, "ce_sequencepartition")
            .into_iter()
            .map(|record| (header(record, "ce_ruleid"), header(record, "ce_id")))
            .collect();
        let wanted: Vec<(String, String)> =
            oracle.notes.iter().map(|(rule, id, _)| (rule.clone(), id.clone())).collect();
        if notes != wanted {
            return Err(format!("I6: notifications {notes:?}\nare not\n{wanted:?}"));
        }
        let letters: Vec<String> = of(Topic::DeadLetters, "partition")
            .into_iter()
            .map(|record| header(record, "offset"))
            .collect();
        let wanted: Vec<String> = oracle.letters.iter().map(u64::to_string).collect();
        if letters != wanted {
            return Err(format!("I3: dead letters {letters:?}\nare not\n{wanted:?}"));
        }
    }
    Ok(())
}

/// Digests count what the oracle counts, and list every file of a verified tracker once.
fn digests(run: &Run, oracles: &[Oracle], expected: &Expected<'_>) -> Checked {
    let mut listed = BTreeSet::new();
    for ((_, key), content) in &run.checker.contents {
        if !key.contains("/Digest/") || !key.ends_with(".json.gz") {
            continue;
        }
        let digest: Value = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        for file in digest["log_files"].as_array().into_iter().flatten() {
            let place = (text(file, "bucket").to_owned(), text(file, "object").to_owned());
            let (_, filed) = expected.get(&place).ok_or("I7: a listed file is nobody's")?;
            if filed.tracker.id != text(&digest, "tracker") {
                return Err(format!("I11: {key} lists {place:?}"));
            }
            listed.insert(place);
        }
        for coverage in digest["coverage"].as_array().into_iter().flatten() {
            let oracle = &oracles[number(coverage, "partition") as usize];
            let range = number(coverage, "from") as usize..number(coverage, "to") as usize;
            covered(&digest, coverage, &oracle.outcomes[range])?;
        }
    }
    for (place, (_, filed)) in expected {
        if filed.tracker.verify && !listed.contains(place) {
            return Err(format!("I7: no digest lists {place:?}"));
        }
    }
    Ok(())
}

fn covered(digest: &Value, coverage: &Value, outcomes: &[Outcome]) -> Checked {
    let account = text(digest, "account");
    let count = |wanted: Outcome| outcomes.iter().filter(|own| **own == wanted).count() as u64;
    if account.is_empty() {
        let own = LEDGER.map(|name| coverage[name].as_u64().unwrap_or(0));
        let other = OUTCOMES.map(count);
        let rest = outcomes.len() as u64 - other.iter().sum::<u64>();
        if own == other && number(coverage, "accounts_in") == rest {
            return Ok(());
        }
        return Err(format!("I3: the ledger's {coverage} is not {other:?} and {rest}"));
    }
    let sums = Sums::of(account, outcomes);
    let filed = sums.filed.get(text(digest, "tracker")).copied().unwrap_or(0);
    let unselected = sums.received - filed - sums.duplicate - sums.dead;
    let names = ["in", "filed", "duplicate", "unselected", "dead_lettered", "conflicts"];
    let own = names.map(|name| number(coverage, name));
    let other = [sums.received, filed, sums.duplicate, unselected, sums.dead, sums.conflicts];
    if own == other { Ok(()) } else { Err(format!("I3: {coverage} is not {sums:?}")) }
}

/// I4: the view shows what was filed, newest first.
fn seen(run: &Run, oracles: &[Oracle]) -> Checked {
    for node in run.nodes.iter().filter(|node| !node.is_digest()) {
        let oracle = &oracles[node.partition() as usize];
        let mut wanted: Vec<Shown> = Vec::new();
        let mut trackers: BTreeSet<TrackerId> = BTreeSet::new();
        for filed in &oracle.files {
            let id = tracker_key(&filed.tracker.id).ok_or("a tracker without id")?;
            trackers.insert(id);
            for ((offset, time_ms), text) in
                filed.offsets.iter().zip(&filed.times).zip(&filed.texts)
            {
                wanted.push((id, filed.service.clone(), *offset, *time_ms, text.clone()));
            }
        }
        let trackers: Vec<TrackerId> = trackers.into_iter().collect();
        let mut shown = if trackers.is_empty() {
            Vec::new()
        } else {
            view::shown(node.as_ref(), &trackers, 50)?
        };
        wanted.sort();
        shown.sort();
        if wanted != shown {
            let lost = wanted.iter().find(|one| !shown.contains(one)).map(|one| (one.2, one.0));
            let odd = shown.iter().find(|one| !wanted.contains(one)).map(|one| (one.2, one.0));
            return Err(format!("I4: the view lacks {lost:?} and shows {odd:?}"));
        }
    }
    Ok(())
}
