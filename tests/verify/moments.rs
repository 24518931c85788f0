//! `verify` at any moment: on what a crash or a snapshot left between two puts, on a store that
//! grows meanwhile, and on a copy that took its time. None of them raises an alarm, and none hides
//! a tamper.

use std::collections::BTreeMap;
use std::fs;

use trailproof::verify::{Report, Target, Verdict};
use trailproof_topology::digest::Digest;
use trailproof_topology::input::Millis;

use super::archive::{Archive, INTERVAL, Random, START, verify_target};
use super::check;
use super::schedule::{Moment, PLAIN, SHORTENED, SWITCHED, in_order, moments};
use super::shelf::{Coming, Shelf};
use super::story::{Change, Put};

/// Puts one object after another and verifies what is there each time.
fn grow(seed: u64, changes: &[(i64, Change)]) -> Report {
    let random = &mut Random::new(seed);
    let shelf = Shelf::default();
    let mut digests: Vec<Digest> = Vec::new();
    let mut last = shelf.verify();
    for (at, moment) in moments(seed, changes).into_iter().enumerate() {
        let name = format!("seed {seed}, put {at}, {}", moment.put.object);
        shelf.add(&moment.put);
        last = shelf.verify();
        check(&name, &last, &[]);
        digests.extend(moment.digest);
        if random.below(2) == 0 && !digests.is_empty() {
            tamper(&name, &shelf, &digests, random);
        }
    }
    last
}

/// Tampers with something that is proven by now; it must be named.
fn tamper(name: &str, shelf: &Shelf, digests: &[Digest], random: &mut Random) {
    let digest = &digests[random.below(digests.len() as u64) as usize];
    let place = |object: &str| (digest.digest_bucket.clone(), object.to_owned());
    let changed = |object: &str| {
        shelf.tampered(|objects| {
            let bytes = &mut objects.get_mut(&place(object)).unwrap().bytes;
            // In a gzip the checksum: elsewhere a bit may say nothing about the content.
            let at = bytes.len() - 6;
            bytes[at] ^= 1;
        })
    };
    let without = |object: &str| shelf.tampered(|objects| drop(objects.remove(&place(object))));
    let file = digest.log_files.first();
    let (what, report, object) = match (random.below(5), file) {
        (0, _) => ("changed", changed(&digest.digest_object), digest.digest_object.clone()),
        (1, _) => ("lost", without(&digest.digest_object), digest.digest_object.clone()),
        (2, Some(file)) => ("a file changed", changed(&file.object), file.object.clone()),
        (3, Some(file)) => ("a file lost", without(&file.object), file.object.clone()),
        (4, Some(file)) => {
            // Into the past, with the metadata of another one.
            let forged = file.object.replacen("CloudTrace_", "x_CloudTrace_", 1);
            let report = shelf.tampered(|objects| {
                let copy = objects[&place(&file.object)].clone();
                objects.insert(place(&forged), copy);
            });
            ("a file added", report, forged)
        }
        _ => return,
    };
    // Of a newest digest there is nothing left but its note.
    let whose = digest.chain.origin();
    let tracker = format!(", tracker {}", digest.chain.tracker_name);
    let names = |own: &str| {
        own.contains(&object) || (what == "lost" && (own == whose || own.ends_with(&tracker)))
    };
    let named = report.findings.iter().any(|finding| names(&finding.object));
    assert!(named && !report.ok, "{name}: {what}: {object}: {:#?}", report.findings);
}

#[test]
fn no_moment_raises_an_alarm_and_none_hides_a_tamper() {
    for seed in 0..10 {
        let last = grow(seed, PLAIN);
        assert_eq!(last.chains.len(), 4);
        assert!(last.pending > 0 && last.notes.is_empty(), "{:?}", last.notes);
    }
}

#[test]
fn files_of_times_without_verification_are_counted_and_no_alarm() {
    for seed in 0..6 {
        let last = grow(seed, SWITCHED);
        assert!(last.uncovered > 0);
        assert!(last.chains.iter().all(|chain| !chain.ended), "they have come back");
    }
}

#[test]
fn an_interval_that_gets_shorter_raises_no_alarm() {
    (0..6).for_each(|seed| drop(grow(seed, SHORTENED)));
}

/// A folder has metadata before their object.
#[test]
fn no_moment_of_a_folder_raises_an_alarm() {
    let archive = Archive::empty();
    let verify = || verify_target(Target::Folder(archive.root()), false, None).unwrap().0;
    for (at, Moment { put, .. }) in moments(1, PLAIN).into_iter().enumerate() {
        archive.put_all_of(&put);
        if at % 5 == 0 {
            let path = archive.path(&put.bucket, &put.object);
            fs::remove_file(&path).unwrap();
            check(&format!("{at}, metadata alone"), &verify(), &[]);
            fs::write(path, &put.stored).unwrap();
            check(&format!("{at}"), &verify(), &[]);
        }
    }
}

#[test]
fn what_comes_while_it_is_verified_raises_no_alarm_and_hides_no_tamper() {
    for seed in 0..150 {
        let random = &mut Random::new(seed);
        let changes = [PLAIN, SWITCHED, SHORTENED][seed as usize % 3];
        let mut moments = moments(seed % 12, changes);
        // All buckets are there.
        let begun = moments.iter().position(|one| one.end_ms > START + INTERVAL).unwrap();
        let left = (moments.len() - begun) as u64;
        let later = moments.split_off(begun + random.below(left) as usize);
        let shelf = Shelf::default();
        moments.iter().for_each(|moment| shelf.add(&moment.put));
        let listed = moments.iter().filter_map(|moment| moment.digest.as_ref());
        let listed = listed.flat_map(|digest| &digest.log_files).next();
        let tampered = listed.filter(|_| seed % 2 == 1);
        if let Some(file) = tampered {
            let place = (file.bucket.clone(), file.object.clone());
            shelf.objects().get_mut(&place).unwrap().bytes = b"tampered".to_vec();
        }
        shelf.let_come(Coming {
            puts: later.into_iter().map(|moment| moment.put).collect(),
            every: 1 + random.below(100),
            at_once: 1 + random.below(30) as usize,
            calls: 0,
        });
        let expected = tampered.map(|file| (Verdict::Changed, file.object.as_str()));
        let expected: Vec<(Verdict, &str)> = expected.into_iter().collect();
        check(&format!("seed {seed}"), &shelf.verify(), &expected);
    }
}

/// What is in a copy that took an object if it was there at a moment of its own.
fn copy(moments: &[Moment], is_in: impl Fn(usize, &Put) -> bool) -> Shelf {
    let shelf = Shelf::default();
    let put = |(at, moment): (usize, &Moment)| {
        if is_in(at, &moment.put) {
            shelf.add(&moment.put);
        }
    };
    moments.iter().enumerate().for_each(put);
    shelf
}

#[test]
fn a_copy_that_takes_digests_first_raises_no_alarm() {
    for seed in 0..40 {
        let random = &mut Random::new(seed);
        let moments = moments(seed % 8, PLAIN);
        let first = random.below(moments.len() as u64) as usize;
        let is_digest = |put: &Put| put.object.contains("CloudTrace-Digest_");
        // In between, the rest comes within an interval.
        let until_ms =
            moments[..=first].iter().map(|one| one.end_ms).min_by(|one, other| other.cmp(one));
        let until_ms = until_ms.unwrap() + INTERVAL;
        let oldest = moments[..=first].iter().filter_map(|one| one.digest.as_ref());
        let mut ends: BTreeMap<&str, Millis> = BTreeMap::new();
        for digest in oldest {
            ends.insert(&digest.chain.tracker, digest.interval_end_ms);
        }
        let oldest_ms = if ends.len() < 4 { START } else { *ends.values().min().unwrap() };
        let until_ms = until_ms.min(oldest_ms + 2 * INTERVAL);
        let last = moments.iter().position(|one| one.end_ms > until_ms).unwrap_or(moments.len());
        let shelf = copy(&moments, |at, put| at <= first || (at < last && !is_digest(put)));
        check(&format!("seed {seed}"), &shelf.verify(), &[]);
    }
}

/// A copy in order of names may lack what a digest names, and nobody can tell that from a deletion.
#[test]
fn a_copy_in_order_of_names_lacks_nothing_but_what_came_meanwhile() {
    let mut lacking = 0;
    for seed in 0..60 {
        let random = &mut Random::new(seed);
        let moments = in_order(seed % 8);
        let first = random.below(moments.len() as u64) as usize;
        // It takes less than an interval.
        let ahead_ms = moments[first].end_ms + INTERVAL;
        let much_later = moments.iter().position(|one| one.end_ms >= ahead_ms);
        let last = much_later.unwrap_or(moments.len()).min(first + 1 + random.below(40) as usize);
        let mut names: Vec<(&str, &str)> =
            moments.iter().map(|one| (one.put.bucket.as_str(), one.put.object.as_str())).collect();
        names.sort_unstable();
        let taken_at = |put: &Put| {
            let place = names.binary_search(&(put.bucket.as_str(), put.object.as_str())).unwrap();
            first + (last - first) * place / names.len()
        };
        let shelf = copy(&moments, |at, put| at <= taken_at(put));
        for finding in shelf.verify().findings {
            let came = moments[first..last]
                .iter()
                .any(|one| finding.object == format!("{}/{}", one.put.bucket, one.put.object));
            assert!(came && finding.verdict == Verdict::Missing, "seed {seed}: {finding:?}");
            lacking += 1;
        }
    }
    assert!(lacking > 0);
}
