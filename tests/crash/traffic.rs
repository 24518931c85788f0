//! Producers that keep books, and the books' audit against the trace files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::server::Home;

/// A small generator: the sequence is that of its seed.
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

/// What is known of a trace that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    /// No answer, or an error: in the files at most once.
    Unknown,
    /// Acknowledged: in the files exactly once.
    Acknowledged,
}

pub(crate) type Books = BTreeMap<String, Known>;

/// A trace of the development account, as a line; its request is `words` random numbers.
pub(crate) fn trace(id: &str, random: &mut Random, words: usize) -> String {
    let services = ["ECS", "IAM", "OBS", "VPC", "EVS", "RDS"];
    let service = services[random.below(6) as usize];
    let mut line = format!(
        "{{\"trace_id\":\"{id}\",\"time\":{},\"service_type\":\"{service}\",\
         \"resource_type\":\"thing\",\"trace_name\":\"act{}\",\"trace_rating\":\"normal\",\
         \"trace_type\":\"ApiCall\",\"domain_id\":\"00000000000000000000000000000002\",\
         \"request\":\"",
        1_700_000_000_000 + random.below(1_000_000),
        random.below(40),
    );
    for _ in 0..words {
        let _ = write!(line, "{:x}", random.below(u64::MAX));
    }
    line.push_str("\"}\n");
    line
}

/// Sends batches until told to stop. Each is in the journal, on disk, before it is sent; one
/// whose fate is unknown is sent again, with the same bytes, every other time.
pub(crate) fn produce(home: &Home, name: &str, journal: &Path, stop: &Receiver<()>) -> Books {
    let mut random = Random::new(name.bytes().map(u64::from).product());
    let mut journal = File::create(journal).unwrap();
    let (mut books, mut batch, mut number) = (Books::new(), String::new(), 0u64);
    let mut ids: Vec<String> = Vec::new();
    let mut pace = Duration::ZERO;
    while stop.recv_timeout(pace) == Err(RecvTimeoutError::Timeout) {
        if batch.is_empty() {
            let most = if random.below(8) == 0 { 400 } else { 20 };
            let count = 1 + random.below(most);
            for _ in 0..count {
                let id = format!("{name}-{number}");
                number += 1;
                batch.push_str(&trace(&id, &mut random, 1));
                writeln!(journal, "{id}").unwrap();
                ids.push(id);
            }
            journal.sync_data().unwrap();
            books.extend(ids.iter().map(|id| (id.clone(), Known::Unknown)));
        }
        let answered = home.post(&batch);
        if answered.is_ok() {
            books.extend(ids.iter().map(|id| (id.clone(), Known::Acknowledged)));
        }
        if answered.is_ok() || random.below(2) == 0 {
            batch.clear();
            ids.clear();
        }
        pace = Duration::from_millis(if answered.is_ok() { random.below(12) } else { 30 });
    }
    books
}

/// Every trace file beneath a folder.
fn trace_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            trace_files(&path, found);
        } else if path.to_string_lossy().ends_with(".json.zst") {
            found.push(path);
        }
    }
}

/// How often each trace is in the trace files, by its id. Reads them with nothing of Trailproof.
pub(crate) fn filed(objects: &Path) -> BTreeMap<String, u32> {
    let (mut files, mut counts) = (Vec::new(), BTreeMap::new());
    trace_files(objects, &mut files);
    for path in files {
        let text = zstd::decode_all(File::open(&path).unwrap()).expect("a trace file is zstd");
        let traces: Vec<serde_json::Value> =
            serde_json::from_slice(&text).expect("a trace file is a JSON array");
        assert!(!traces.is_empty(), "{} is empty", path.display());
        for trace in traces {
            let id = trace["trace_id"].as_str().expect("each trace has its id").to_owned();
            *counts.entry(id).or_default() += 1;
        }
    }
    counts
}

/// Whether every acknowledged trace is in the files.
pub(crate) fn all_filed(books: &Books, filed: &BTreeMap<String, u32>) -> bool {
    books.iter().all(|(id, known)| *known == Known::Unknown || filed.contains_key(id))
}

/// What is wrong: the first few breaches, empty where the books balance.
pub(crate) fn breaches(books: &Books, found: &BTreeMap<String, u32>) -> String {
    let mut text = String::new();
    for (id, count) in found.iter().filter(|(_, count)| **count > 1).take(5) {
        let _ = writeln!(text, "{id} is there {count} times");
    }
    for id in found.keys().filter(|id| !books.contains_key(*id)).take(5) {
        let _ = writeln!(text, "{id} was never sent");
    }
    let acknowledged = books.iter().filter(|(_, known)| **known == Known::Acknowledged);
    for (id, _) in acknowledged.filter(|(id, _)| !found.contains_key(*id)).take(5) {
        let _ = writeln!(text, "{id} was acknowledged and is gone");
    }
    text
}

#[test]
fn the_audit_finds_each_kind_of_breach() {
    let books = Books::from(
        [("a", Known::Acknowledged), ("b", Known::Unknown), ("c", Known::Acknowledged)]
            .map(|(id, known)| (id.to_owned(), known)),
    );
    let found = |ids: &[(&str, u32)]| -> BTreeMap<String, u32> {
        ids.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect()
    };
    assert_eq!(breaches(&books, &found(&[("a", 1), ("c", 1)])), "");
    assert_eq!(breaches(&books, &found(&[("a", 1), ("b", 1), ("c", 1)])), "");
    assert_eq!(breaches(&books, &found(&[("a", 1)])), "c was acknowledged and is gone\n");
    assert_eq!(breaches(&books, &found(&[("a", 1), ("b", 2), ("c", 1)])), "b is there 2 times\n");
    assert_eq!(breaches(&books, &found(&[("a", 1), ("c", 1), ("d", 1)])), "d was never sent\n");
    assert!(all_filed(&books, &found(&[("a", 1), ("c", 1)])));
    assert!(!all_filed(&books, &found(&[("a", 1)])));
}
