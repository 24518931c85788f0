//! The tests: many seeds, one seed, planted bugs.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::plant::Plant;
use super::run::{self, Run};

/// Seeds that `make test` runs.
pub(crate) const SEEDS: u64 = 20_000;

/// What must happen at least once in so many seeds; a world in which it never does tests less than
/// it says.
const SOMETIMES: [&str; 64] = [
    "a savepoint",
    "a commit fails",
    "a commit is to be made again",
    "a conflict stops the lane",
    "a crash that loses a suffix",
    "a crash that loses all unsynced",
    "a crash that loses nothing",
    "a crash with all synced",
    "a forged mark",
    "a flush fails",
    "a get fails",
    "a late publish is fenced",
    "a mark that is none",
    "a publish fails",
    "a publish happens and its answer is lost",
    "a publish is late",
    "a put fails",
    "a put finds the object",
    "a put happens and its answer is lost",
    "a read fails",
    "a state is saved",
    "a store is lost",
    "a strange header",
    "a stranger's object is found",
    "a tracker comes",
    "a tracker goes",
    "a tracker is switched",
    "a version is marked twice",
    "a zombie works",
    "an open chunk closes early",
    "an account comes",
    "an account goes",
    "an explicit gap",
    "an old owner is fenced",
    "another compressor's object is found",
    "batch full",
    "built elsewhere",
    "exactly a boundary",
    "garbage in files",
    "idle cycles",
    "idle intervals",
    "just before a boundary",
    "just behind a boundary",
    "offsets without record",
    "poll fails",
    "poll returns a part",
    "poll returns nothing",
    "reading the lanes fails",
    "records before the first catalog",
    "restored elsewhere",
    "saving fails",
    "sorting is switched",
    "the clock goes back",
    "the compression changes",
    "the cycle changes",
    "the file bound changes",
    "the indexer makes a run",
    "the interval changes",
    "the prefix changes",
    "the window changes",
    "the tail is written anew",
    "tick fails",
    "time clamped by the log",
    "verification is switched",
];

pub(crate) fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The commit that is tested, as far as git knows it.
pub(crate) fn commit() -> String {
    let git = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let text = git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Runs a seed; a panic of the product is a failure like any other.
fn judged(seed: u64, plant: Plant) -> Result<Vec<&'static str>, String> {
    let caught = catch_unwind(AssertUnwindSafe(|| run::seed(seed, plant)));
    caught
        .unwrap_or_else(|panic| Err(words(panic.as_ref())))
        .map(|marks| marks.into_iter().collect())
}

pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("panic: {}", text.unwrap_or_default())
}

#[test]
fn every_seed_keeps_every_invariant() {
    let seeds = from_env("TRAILPROOF_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut marks: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut failures = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            match judged(seed, Plant::None) {
                Ok(hit) => hit.into_iter().for_each(|mark| *marks.entry(mark).or_default() += 1),
                Err(reason) => {
                    failures.push((seed, reason));
                    failed.store(true, Ordering::Relaxed);
                }
            }
        }
        (marks, failures)
    };
    let (mut marks, mut failures) = (BTreeMap::<&str, u64>::new(), Vec::new());
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        for thread in threads {
            let (own, failed) = thread.join().unwrap();
            own.into_iter().for_each(|(mark, hits)| *marks.entry(mark).or_default() += hits);
            failures.extend(failed);
        }
    });
    if let Some((seed, reason)) = failures.first() {
        let commit = commit();
        panic!(
            "{reason}\nat commit {commit}; repeat: TRAILPROOF_SEED={seed} \
             cargo test --release --test simulation one_seed -- --nocapture"
        );
    }
    println!("{marks:#?}");
    let never: Vec<_> = SOMETIMES.iter().filter(|mark| !marks.contains_key(*mark)).collect();
    assert!(seeds < SEEDS || never.is_empty(), "never happened: {never:?}");
}

#[test]
fn one_seed_with_a_trace_of_its_steps() {
    let seed = from_env("TRAILPROOF_SEED").unwrap_or(0);
    let mut run = Run::new(seed, Plant::None);
    run.hub.lock().trace = Some(Vec::new());
    let outcome = catch_unwind(AssertUnwindSafe(|| run.whole()));
    let outcome = outcome.unwrap_or_else(|panic| Err(words(panic.as_ref())));
    for step in run.hub.lock().trace.iter().flatten() {
        println!("{step}");
    }
    assert_eq!(outcome, Ok(()), "TRAILPROOF_SEED={seed}");
}

#[test]
fn every_planted_bug_is_caught() {
    for plant in Plant::ALL {
        let caught = (0..SEEDS).find_map(|seed| {
            let reason = judged(seed, plant).err()?;
            Some((seed, reason))
        });
        let (seed, reason) = caught.unwrap_or_else(|| panic!("{plant:?} is not caught"));
        println!("{plant:?}: seed {seed}: {}", reason.lines().next().unwrap_or_default());
    }
}
