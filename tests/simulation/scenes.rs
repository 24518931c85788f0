//! Scenarios: what a seed or a reader found once, step by step, so that it stays found.

use serde_json::Value;
use trailproof_topology::catalog::{Account, Catalog, Tracker};

use super::script::{self, Script};
use super::world::START_MS;

/// The midnight that every world begins just before.
const MIDNIGHT_MS: i64 = START_MS + 4_000;

/// One account, its system tracker, one partition of each topic; cycles of 10 s, intervals of 20 s.
fn one_tracker() -> Catalog {
    let mut catalog = script::catalog();
    (catalog.traces_partitions, catalog.files_partitions) = (1, 1);
    catalog.accounts.truncate(1);
    catalog.accounts[0].trackers.remove(0);
    tracker(&mut catalog).sort_by_service = true;
    catalog
}

fn tracker(catalog: &mut Catalog) -> &mut Tracker {
    let Account { trackers, .. } = &mut catalog.accounts[0];
    &mut trackers[0]
}

/// The digests of the tracker, oldest first.
fn digests(script: &Script) -> Vec<Value> {
    let contents = script.run.checker.contents.iter();
    let own = contents.filter(|((bucket, key), _)| {
        bucket == "cts-account-0" && key.contains("/Digest/") && key.ends_with(".json.gz")
    });
    let mut all: Vec<Value> =
        own.map(|(_, content)| serde_json::from_slice(content).unwrap()).collect();
    all.sort_by_key(|digest| digest["sequence"].as_u64());
    all
}

fn listed(digests: &[Value]) -> u64 {
    let files = digests.iter().flat_map(|own| own["log_files"].as_array().unwrap());
    files.map(|file| file["count"].as_u64().unwrap()).sum()
}

/// Found at seed 693: traces of a tracker that has no transfer for a while were counted as filed in
/// the digest of the interval, whose files did not have them.
#[test]
fn transfer_goes_off_and_on_in_mid_interval() {
    let mut script = Script::of(one_tracker(), &[]);
    script.announce();
    script.say(3, &["ECS"]);
    script.work().unwrap();
    script.change(|catalog| tracker(catalog).bucket.clear());
    script.say(2, &["ECS"]);
    script.change(|catalog| tracker(catalog).bucket = "cts-account-0".to_owned());
    script.say(4, &["ECS"]);
    script.settle().unwrap();
    script.end().unwrap();
    let digests = digests(&script);
    assert_eq!(listed(&digests), 7);
    let sum = |name: &str| -> u64 {
        digests.iter().map(|own| own["coverage"][0][name].as_u64().unwrap()).sum()
    };
    assert_eq!([sum("in"), sum("filed"), sum("unselected")], [9, 7, 2]);
}

/// The clock of the log was ahead and goes back; the tracker is removed. By the time of topic
/// `files` it ended long before its last file.
#[test]
fn the_last_files_of_a_removed_tracker_are_listed_though_the_clock_went_back() {
    let mut script = Script::of(one_tracker(), &[]);
    script.announce();
    script.settle().unwrap();
    script.pass(100_000);
    script.say(3, &["ECS"]);
    script.work().unwrap();
    script.pass(-95_000);
    script.change(|catalog| catalog.accounts[0].trackers.clear());
    script.settle().unwrap();
    script.pass(130_000);
    script.settle().unwrap();
    script.end().unwrap();
    let digests = digests(&script);
    assert_eq!(listed(&digests), 3);
    assert_eq!(digests.last().unwrap()["digest_end"], true);
}

/// The same in the other direction: topic `files` is ahead when a tracker comes, so that by its
/// time the tracker begins after its first file.
#[test]
fn the_first_files_of_a_new_tracker_are_listed_though_the_clock_went_back() {
    let mut without = one_tracker();
    let own = without.accounts[0].trackers.remove(0);
    let mut script = Script::of(without, &[]);
    script.announce();
    script.settle().unwrap();
    script.pass(100_000);
    script.say_files("{\"type\":\"?\"}");
    script.pass(-95_000);
    script.change(|catalog| catalog.accounts[0].trackers.push(own));
    script.say(3, &["ECS"]);
    script.settle().unwrap();
    script.pass(30_000);
    script.say(2, &["ECS"]);
    script.settle().unwrap();
    script.end().unwrap();
    assert_eq!(listed(&digests(&script)), 5);
}

/// The same for a tracker that goes on making files and is no longer verified.
#[test]
fn the_last_verified_files_of_a_tracker_are_listed_though_the_clock_went_back() {
    let mut script = Script::of(one_tracker(), &[]);
    script.announce();
    script.settle().unwrap();
    script.pass(100_000);
    script.say(3, &["ECS"]);
    script.work().unwrap();
    script.pass(-95_000);
    script.change(|catalog| tracker(catalog).verify = false);
    script.settle().unwrap();
    script.pass(130_000);
    script.say(2, &["ECS"]);
    script.settle().unwrap();
    script.end().unwrap();
    let digests = digests(&script);
    assert_eq!(listed(&digests), 3);
    assert_eq!(digests.last().unwrap()["digest_end"], true);
}

/// The same for a tracker that made files before it was verified.
#[test]
fn the_first_verified_files_of_a_tracker_are_listed_though_the_clock_went_back() {
    let mut unverified = one_tracker();
    tracker(&mut unverified).verify = false;
    let mut script = Script::of(unverified, &[]);
    script.announce();
    script.say(1, &["ECS"]);
    script.settle().unwrap();
    script.pass(100_000);
    script.say_files("{\"type\":\"?\"}");
    script.pass(-70_000);
    script.settle().unwrap();
    script.change(|catalog| tracker(catalog).verify = true);
    script.say(3, &["ECS"]);
    script.settle().unwrap();
    script.pass(30_000);
    script.say(2, &["ECS"]);
    script.settle().unwrap();
    script.end().unwrap();
    assert_eq!(listed(&digests(&script)), 5);
}

/// A run says from which cycle on columns rows may follow it. A longer cycle may begin before the
/// one that it replaces.
#[test]
fn a_longer_cycle_hides_no_columns_from_the_view() {
    let mut script = Script::of(one_tracker(), &[]);
    script.announce();
    script.go_to(MIDNIGHT_MS + 31_000);
    script.say(4, &["ECS", "IAM"]);
    script.work().unwrap();
    script.go_to(MIDNIGHT_MS + 41_000);
    script.settle().unwrap();
    while script.run.nodes[0].index().unwrap() {}
    script.change(|catalog| (catalog.cycle_ms, catalog.digest_interval_ms) = (60_000, 60_000));
    script.say(4, &["ECS", "IAM"]);
    script.settle().unwrap();
    script.go_to(MIDNIGHT_MS + 61_000);
    script.settle().unwrap();
    script.end().unwrap();
}
