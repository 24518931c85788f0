//! `verify` against archives that somebody tampered with, each in one way.
//!
//! An expectation is the whole list of findings: verdict, and what the object's name contains.
//! Anything more or less is a failure.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archive;
mod moments;
mod schedule;
mod shelf;
mod story;
mod tampered_files;
mod tampers;

use archive::{Archive, INTERVAL, START, holes, verify_at};
use trailproof::verify::{Report, Verdict};

/// Checks that a report has exactly these findings.
fn check(name: &str, report: &Report, expected: &[(Verdict, &str)]) {
    let mut left: Vec<&(Verdict, &str)> = expected.iter().collect();
    for finding in &report.findings {
        let at = left.iter().position(|(verdict, part)| {
            *verdict == finding.verdict && finding.object.contains(part)
        });
        match at {
            Some(at) => {
                left.remove(at);
            }
            None => panic!("{name}: {finding:?} was not expected; all: {:#?}", report.findings),
        }
    }
    assert!(left.is_empty(), "{name}: {left:?} were not found among {:#?}", report.findings);
    assert_eq!(report.ok, expected.is_empty(), "{name}");
}

#[test]
fn clean_archives_raise_no_alarm() {
    for seed in 0..60 {
        let intervals = 1 + (seed % 4) as i64;
        let (tail, stops) = ((seed % 3) as i64, seed % 5 == 0);
        let archive = Archive::new(seed, intervals, tail, stops);
        let (report, heads) = archive.verify(seed % 2 == 0, None);
        check(&format!("seed {seed}"), &report, &[]);
        assert_eq!(report.chains.len(), 4);
        assert!(report.chains.iter().all(|chain| !chain.root.is_empty()));
        let waiting = report.pending + report.uncovered;
        assert!(tail > 0 || stops || waiting == 0, "seed {seed}: {waiting} objects wait");
        assert_eq!(report.unproven, 0);
        let ledger = report.chains.iter().find(|chain| chain.tracker == "_ledger").unwrap();
        let sums = &ledger.sums;
        let records = sums.received + sums.dead_lettered + sums.ticks + sums.marks;
        assert_eq!(sums.offsets, records + sums.absent + sums.lost);
        gaps_are_named(seed, &report);
        let (again, _) = archive.verify(false, Some(&heads));
        check(&format!("seed {seed} with its heads"), &again, &[]);
    }
}

/// An explicit gap is no finding, but the first thing that the report says.
fn gaps_are_named(seed: u64, report: &Report) {
    let mut text = Vec::new();
    report.write(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let gaps = report.chains.iter().flat_map(|chain| &chain.explicit_gaps);
    let lost: u64 = gaps.map(|gap| gap.lost).sum();
    assert_eq!(lost > 0, holes(seed), "seed {seed}");
    assert_eq!(text.starts_with("explicit-gap "), holes(seed), "{text}");
    let last = text.lines().last().unwrap();
    assert_eq!(last.contains(&format!("but for {lost} records")), holes(seed), "{last}");
}

#[test]
fn a_copy_of_one_bucket_verifies_under_any_name() {
    let archive = Archive::new(7, 3, 1, false);
    let copy = tempfile::tempdir().unwrap();
    let to = copy.path().join("renamed");
    std::fs::rename(archive.root().join("cts-a2"), &to).unwrap();
    let (report, _) = verify_at(&to, true, None);
    check("one bucket", &report, &[]);
    assert_eq!(report.chains.len(), 2);
    assert_eq!(report.chains[0].until_ms, START + 3 * INTERVAL);
}

#[test]
fn an_older_copy_verifies_and_a_newer_head_convicts_it() {
    let older = Archive::new(11, 2, 0, false);
    let newer = Archive::new(11, 4, 0, false);
    let (report, old_heads) = older.verify(false, None);
    check("older", &report, &[]);
    let (report, new_heads) = newer.verify(false, Some(&old_heads));
    check("newer", &report, &[]);
    let (report, _) = older.verify(false, Some(&new_heads));
    let tails = ["/t1", "/t2", "/t3", "/_ledger"].map(|chain| (Verdict::TruncatedTail, chain));
    check("rolled back", &report, &tails);
    let other = Archive::new(12, 4, 0, false);
    let (report, _) = other.verify(false, Some(&new_heads));
    let forks = ["/t1", "/t2", "/t3", "/_ledger"].map(|chain| (Verdict::Fork, chain));
    check("another history", &report, &forks);
}

#[test]
fn a_damaged_file_is_named_even_while_no_digest_proves_it() {
    let archive = Archive::new(8, 3, 2, false);
    let (report, _) = archive.verify(false, None);
    check("clean", &report, &[]);
    assert!(report.pending > 0);
    let folder = archive.path("cts-a1", "CloudTraces/local/2025/11/22/t1/ECS");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json.zst"))
        .collect();
    names.sort();
    let newest = names.pop().unwrap();
    std::fs::write(folder.join(&newest), b"changed").unwrap();
    let (report, _) = archive.verify(false, None);
    check("pending", &report, &[(Verdict::Changed, &newest)]);
}
