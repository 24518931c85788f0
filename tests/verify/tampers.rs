//! The tamper matrix: each kind of attack, and the exact names it gets.
//!
//! "Key holder" means somebody who can sign with the installation's own keys.

use std::fs;

use trailproof::verify::Verdict::{self, *};
use trailproof_topology::digest::{Coverage, Digest, KeyIds, LogFile, note_object};
use trailproof_topology::merkle::{Frontier, leaf_hash};
use trailproof_topology::names::file_time;
use trailproof_topology::sign::Sign as _;

use super::archive::{Archive, gzip, signer, stranger};
use super::check;
use super::tampered_files::FILES;

/// Intervals of an archive that is tampered with.
const INTERVALS: usize = 6;
pub(crate) const LAST: usize = INTERVALS - 1;

pub(crate) type Expected = Vec<(Verdict, String)>;
pub(crate) type Tamper = fn(&Archive) -> Expected;

pub(crate) fn digest(archive: &Archive, tracker: &str, index: usize) -> (String, String) {
    archive.digests[tracker][index].clone()
}

pub(crate) fn read(archive: &Archive, tracker: &str, index: usize) -> Digest {
    let (bucket, object) = digest(archive, tracker, index);
    archive.read(&bucket, &object)
}

/// Two files of one interval in the middle.
pub(crate) fn files(archive: &Archive) -> (usize, LogFile, LogFile) {
    (1..LAST)
        .find_map(|index| {
            let mut files = read(archive, "t1", index).log_files.into_iter();
            Some((index, files.next()?, files.next()?))
        })
        .expect("an interval with two files")
}

pub(crate) fn file(archive: &Archive) -> LogFile {
    files(archive).1
}

pub(crate) fn change(archive: &Archive, bucket: &str, object: &str, how: impl Fn(&mut Vec<u8>)) {
    let path = archive.path(bucket, object);
    let mut bytes = fs::read(&path).unwrap();
    how(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes a metadata value of an object in its last letter.
pub(crate) fn change_metadata(archive: &Archive, bucket: &str, object: &str, name: &str) {
    let path = archive.side(bucket, object);
    let text = fs::read(&path).unwrap();
    let mut values: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&text).unwrap();
    let value = values[name].as_str().unwrap();
    let last = if value.ends_with('0') { "1" } else { "0" };
    let value = format!("{}{last}", &value[..value.len() - 1]);
    values.insert(name.to_owned(), value.into());
    fs::write(path, serde_json::to_vec(&values).unwrap()).unwrap();
}

/// Changes a digest, signs it as the key holder, and writes its note.
fn re_sign(archive: &Archive, index: usize, how: impl Fn(&mut Digest)) -> Expected {
    let mut digest = read(archive, "t1", index);
    how(&mut digest);
    archive.sign(&digest, signer());
    archive.note("t1", index);
    Vec::new()
}

pub(crate) fn one(verdict: Verdict, object: impl Into<String>) -> Expected {
    vec![(verdict, object.into())]
}

fn at(verdict: Verdict, archive: &Archive, index: usize) -> Expected {
    one(verdict, digest(archive, "t1", index).1)
}

/// Changes the first coverage of a tracker's digest.
fn first(digest: &mut Digest, how: impl Fn(&mut trailproof_topology::digest::TrackerCoverage)) {
    match &mut digest.coverage[0] {
        Coverage::Tracker(counts) => how(counts),
        Coverage::Ledger(_) => panic!("a tracker's digest"),
    }
}

/// Lists no files, and says that nothing was selected.
fn empty(digest: &mut Digest) {
    digest.log_files.clear();
    for coverage in &mut digest.coverage {
        if let Coverage::Tracker(counts) = coverage {
            counts.unselected += std::mem::take(&mut counts.filed);
        }
    }
}

const DIGESTS: &[(&str, Tamper)] = &[
    ("delete a digest", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        archive.remove(&bucket, &object);
        one(Missing, object)
    }),
    ("delete a digest and change a file that it lists", |archive| {
        let (index, file, _) = files(archive);
        change(archive, &file.bucket, &file.object, |bytes| bytes[9] ^= 1);
        archive.remove_digest(&digest(archive, "t1", index));
        vec![(Missing, digest(archive, "t1", index).1), (Changed, file.object)]
    }),
    ("delete two digests in a row", |archive| {
        let gone = [2, 3].map(|index| digest(archive, "t1", index));
        gone.iter().for_each(|own| archive.remove_digest(own));
        gone.into_iter().map(|(_, object)| (Missing, object)).collect()
    }),
    ("delete the first digest", |archive| {
        archive.remove_digest(&digest(archive, "t1", 0));
        at(Missing, archive, 0)
    }),
    ("delete the newest digest, leave its note", |archive| {
        let (bucket, object) = digest(archive, "t1", LAST);
        archive.remove(&bucket, &object);
        one(TruncatedTail, "spoor.example/a1/t1")
    }),
    ("delete the newest three digests", |archive| {
        (3..=LAST).for_each(|index| archive.remove_digest(&digest(archive, "t1", index)));
        one(TruncatedTail, "spoor.example/a1/t1")
    }),
    ("delete the newest three digests and all their files", |archive| {
        for index in 3..=LAST {
            for file in read(archive, "t1", index).log_files {
                archive.remove(&file.bucket, &file.object);
            }
            archive.remove_digest(&digest(archive, "t1", index));
        }
        one(TruncatedTail, "spoor.example/a1/t1")
    }),
    ("delete all digests of a tracker", |archive| {
        archive.digests["t1"].iter().for_each(|own| archive.remove_digest(own));
        one(WipedChain, "cts-a1, tracker t1")
    }),
    ("replay an old digest over a newer one", |archive| {
        let (bucket, old) = digest(archive, "t1", 1);
        let (_, new) = digest(archive, "t1", 3);
        fs::copy(archive.path(&bucket, &old), archive.path(&bucket, &new)).unwrap();
        fs::copy(archive.side(&bucket, &old), archive.side(&bucket, &new)).unwrap();
        one(WrongLocation, new)
    }),
    ("move a digest to another bucket", |archive| {
        let (bucket, object) = digest(archive, "t1", 3);
        let (note, to) = (note_object(&object), "cts-a2");
        let folder = archive.path(to, &object);
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        for key in [&object, &note] {
            fs::rename(archive.path(&bucket, key), archive.path(to, key)).unwrap();
            fs::rename(archive.side(&bucket, key), archive.side(to, key)).unwrap();
        }
        vec![(WrongLocation, format!("cts-a2/{object}")), (Missing, format!("cts-a1/{object}"))]
    }),
    ("flip a byte of a digest", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        change(archive, &bucket, &object, |bytes| bytes[40] ^= 1);
        one(Changed, object)
    }),
    ("append to a digest", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        change(archive, &bucket, &object, |bytes| bytes.extend_from_slice(&gzip(b"more")));
        one(Changed, object)
    }),
    ("rewrite a digest", |archive| rewrite(archive, 2)),
    ("rewrite the newest digest", |archive| rewrite(archive, LAST)),
    ("change a digest's signature", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        change_metadata(archive, &bucket, &object, "meta-signature");
        one(BadSignature, object)
    }),
    ("change the newest digest's signature", |archive| {
        let (bucket, object) = digest(archive, "t1", LAST);
        change_metadata(archive, &bucket, &object, "meta-signature");
        one(BadSignature, object)
    }),
    ("change a digest's signature algorithm", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        change_metadata(archive, &bucket, &object, "meta-signature-algorithm");
        one(Changed, object)
    }),
    ("delete a digest's metadata", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        fs::remove_file(archive.side(&bucket, &object)).unwrap();
        one(Missing, object)
    }),
    ("delete the newest digest's metadata", |archive| {
        let (bucket, object) = digest(archive, "t1", LAST);
        fs::remove_file(archive.side(&bucket, &object)).unwrap();
        one(Missing, object)
    }),
    ("sign a digest with another key", |archive| {
        archive.sign(&read(archive, "t1", 2), stranger());
        at(BadSignature, archive, 2)
    }),
    ("sign the newest digest with another key, and say so", |archive| {
        let mut digest = read(archive, "t1", LAST);
        let (rsa, ed25519) = (stranger().rsa_key_id(), stranger().ed25519_key_id());
        digest.key_ids = KeyIds { rsa: rsa.to_owned(), ed25519: ed25519.to_owned() };
        archive.sign(&digest, stranger());
        at(UnknownKey, archive, LAST)
    }),
    ("plant something that is called like a digest", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        let planted = object.replace("pre_fix_", "other_");
        archive.put(&bucket, &planted, b"no digest", &[]);
        one(Unlisted, planted)
    }),
];

/// Drops a file from a digest, and leaves its signature.
fn rewrite(archive: &Archive, index: usize) -> Expected {
    let mut digest = read(archive, "t1", index);
    empty(&mut digest);
    let (bucket, object) = (digest.digest_bucket.clone(), digest.digest_object.clone());
    fs::write(archive.path(&bucket, &object), gzip(&digest.encode())).unwrap();
    one(Changed, object)
}

const NOTES: &[(&str, Tamper)] = &[
    ("delete a note", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        archive.remove(&bucket, &note_object(&object));
        one(Missing, note_object(&object))
    }),
    ("change a note", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        change(archive, &bucket, &note_object(&object), |bytes| {
            let at = bytes.iter().position(|byte| *byte == b'3').unwrap();
            bytes[at] = b'9';
        });
        one(Changed, note_object(&object))
    }),
    ("change a note's signature", |archive| {
        let (bucket, object) = digest(archive, "t1", 2);
        change(archive, &bucket, &note_object(&object), |bytes| {
            let at = bytes.len() - 20;
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        });
        one(BadSignature, note_object(&object))
    }),
    ("replay an old note", |archive| {
        let (bucket, old) = digest(archive, "t1", 1);
        let (_, new) = digest(archive, "t1", 4);
        let path = |object: &str| archive.path(&bucket, &note_object(object));
        fs::copy(path(&old), path(&new)).unwrap();
        one(Changed, note_object(&new))
    }),
    ("sign a note with another key", |archive| {
        let digest = read(archive, "t1", 2);
        let content = fs::read(archive.path("cts-a1", &note_object(&digest.digest_object)));
        let text = String::from_utf8(content.unwrap()).unwrap();
        let (text, _) = text.split_once("\n\n").unwrap();
        let head = trailproof_topology::note::Checkpoint::parse(&format!("{text}\n")).unwrap();
        let note = head.sign("spoor.example", stranger().as_ref());
        archive.put("cts-a1", &note_object(&digest.digest_object), note.as_bytes(), &[]);
        one(UnknownKey, note_object(&digest.digest_object))
    }),
    ("change a compatible digest", |archive| {
        let named = read(archive, "t2", 2).compatible_digest.unwrap();
        fs::write(archive.path(&named.bucket, &named.object), gzip(b"{}")).unwrap();
        one(Changed, named.object)
    }),
    ("delete a compatible digest", |archive| {
        let named = read(archive, "t2", 2).compatible_digest.unwrap();
        archive.remove(&named.bucket, &named.object);
        one(Missing, named.object)
    }),
    ("change a compatible digest's signature", |archive| {
        let named = read(archive, "t2", 2).compatible_digest.unwrap();
        change_metadata(archive, &named.bucket, &named.object, "signature");
        one(BadSignature, named.object)
    }),
];

const KEY_HOLDER: &[(&str, Tamper)] = &[
    ("sign a past interval anew, without its files", |archive| {
        for file in read(archive, "t1", 2).log_files {
            archive.remove(&file.bucket, &file.object);
        }
        re_sign(archive, 2, empty);
        at(ReSignedPast, archive, 2)
    }),
    ("drop an interval and start the chain again", |archive| {
        for file in read(archive, "t1", 2).log_files {
            archive.remove(&file.bucket, &file.object);
        }
        archive.remove_digest(&digest(archive, "t1", 2));
        let mut before: Option<Digest> = None;
        let mut tree = Frontier::default();
        for index in 3..=LAST {
            let mut digest = read(archive, "t1", index);
            digest.sequence = index as u64 - 3;
            digest.starting = index == 3;
            let (hash, signature) = before.as_ref().map_or_else(Default::default, |before| {
                let content = before.encode();
                let text = trailproof_topology::digest::signing_text(before, &content);
                let signature = signer().sign_rsa(text.as_bytes());
                let hash = trailproof_topology::digest::hex_sha256(&content);
                (hash, data_encoding::HEXLOWER.encode(&signature))
            });
            digest.previous_digest_hash_value = hash;
            digest.previous_digest_signature = signature;
            if before.is_none() {
                digest.previous_digest_bucket.clear();
                digest.previous_digest_object.clear();
                digest.previous_digest_hash_algorithm.clear();
            }
            tree.push(leaf_hash(&digest.encode()));
            archive.sign(&digest, signer());
            archive.note_of(&digest, &tree);
            before = Some(digest);
        }
        at(ReStartedChain, archive, 3)
    }),
    ("continue the chain twice", |archive| {
        let mut other = read(archive, "t1", 4);
        let object = other.digest_object.replace("pre_fix_", "other_");
        other.digest_object.clone_from(&object);
        empty(&mut other);
        let mut tree = Frontier::default();
        for (bucket, object) in &archive.digests["t1"][..4] {
            tree.push(leaf_hash(&archive.content(bucket, object)));
        }
        tree.push(leaf_hash(&other.encode()));
        archive.sign(&other, signer());
        archive.note_of(&other, &tree);
        at(Fork, archive, 4)
    }),
    ("sign another head for an old digest", |archive| {
        let digest = read(archive, "t1", 2);
        let mut tree = Frontier::default();
        (0..3).for_each(|_| tree.push(leaf_hash(b"other")));
        archive.note_of(&digest, &tree);
        one(Fork, note_object(&digest.digest_object))
    }),
    ("overlap the offsets of the digest before", |archive| {
        re_sign(archive, LAST, |digest| first(digest, |counts| counts.from -= 1));
        at(CoverageGap, archive, LAST)
    }),
    ("leave out a partition", |archive| {
        re_sign(archive, LAST, |digest| {
            let partition = digest.coverage.pop().unwrap().partition();
            digest.log_files.retain(|file| file.partition != partition);
        });
        let left = read(archive, "t1", LAST).log_files;
        let mut expected = at(CoverageGap, archive, LAST);
        expected.extend(unlisted_but(archive, &left));
        expected
    }),
    ("leave a gap in time", |archive| {
        re_sign(archive, LAST, |digest| digest.interval_start_ms += 1);
        at(CoverageGap, archive, LAST)
    }),
    ("go back in time", |archive| {
        re_sign(archive, LAST, |digest| digest.interval_start_ms -= 1);
        at(ClockRegression, archive, LAST)
    }),
    ("count one too many", |archive| {
        re_sign(archive, LAST, |digest| first(digest, |counts| counts.filed += 1));
        at(Unbalanced, archive, LAST)
    }),
    ("hide a record", |archive| {
        re_sign(archive, LAST, |digest| first(digest, |counts| counts.received += 1));
        at(Unbalanced, archive, LAST)
    }),
];

/// Files of the last interval in the folder that a digest does not list any more.
fn unlisted_but(archive: &Archive, listed: &[LogFile]) -> Expected {
    let mut found = Vec::new();
    let interval = read(archive, "t1", LAST);
    let folder = archive.path("cts-a1", "CloudTraces/local/2025/11/22/t1/ECS");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let ends = (1..=3).map(|cycle| interval.interval_start_ms + cycle * super::archive::CYCLE);
        let own = ends.map(file_time).any(|end| name.contains(&end));
        let known = listed.iter().any(|file| file.object.ends_with(&name));
        if own && !known && !name.ends_with(".meta.json") {
            found.push((Unlisted, name));
        }
    }
    found
}

fn matrix(tampers: &[(&str, Tamper)]) {
    for (seed, (name, tamper)) in (1..).zip(tampers) {
        let archive = Archive::new(seed, INTERVALS as i64, 0, false);
        let expected = tamper(&archive);
        let expected: Vec<(Verdict, &str)> =
            expected.iter().map(|(verdict, object)| (*verdict, object.as_str())).collect();
        let (report, _) = archive.verify(seed % 2 == 0, None);
        check(&format!("{name}, seed {seed}"), &report, &expected);
    }
}

#[test]
fn tampered_files_are_named() {
    matrix(FILES);
}

#[test]
fn tampered_digests_are_named() {
    matrix(DIGESTS);
}

#[test]
fn tampered_notes_and_compatible_digests_are_named() {
    matrix(NOTES);
}

#[test]
fn what_a_key_holder_does_is_named() {
    matrix(KEY_HOLDER);
}

/// What only somebody who kept a head can see.
#[test]
fn a_head_convicts_what_the_folder_alone_cannot_show() {
    let check_with = |name: &str, tamper: &dyn Fn(&Archive), expected: &[(Verdict, &str)]| {
        let archive = Archive::new(5, INTERVALS as i64, 0, false);
        let (_, heads) = archive.verify(false, None);
        tamper(&archive);
        let (alone, _) = archive.verify(false, None);
        check(name, &alone, &[]);
        let (report, _) = archive.verify(false, Some(&heads));
        check(name, &report, expected);
    };
    let newest = |archive: &Archive| archive.remove_digest(&digest(archive, "t1", LAST));
    check_with("delete the newest digest", &newest, &[(TruncatedTail, "spoor.example/a1/t1")]);
    let day = |archive: &Archive| {
        for chain in archive.digests.values() {
            for own in &chain[2..] {
                for file in archive.read(&own.0, &own.1).log_files {
                    archive.remove(&file.bucket, &file.object);
                }
                archive.remove_digest(own);
            }
        }
    };
    let tails = ["a1/t1", "a2/t2", "a3/t3", "_ledger"].map(|chain| (TruncatedTail, chain));
    check_with("delete the whole last day", &day, &tails);
    let bucket = |archive: &Archive| fs::remove_dir_all(archive.root().join("cts-a1")).unwrap();
    check_with("delete a bucket", &bucket, &[(WipedChain, "spoor.example/a1/t1")]);
}

#[test]
fn a_root_that_the_key_holder_made_up_is_found_by_deep_checks() {
    let archive = Archive::new(3, INTERVALS as i64, 0, false);
    let place = |archive: &Archive| read(archive, "t1", LAST).log_files[0].object.clone();
    let object = place(&archive);
    re_sign(&archive, LAST, |digest| digest.log_files[0].root = "00".repeat(32));
    let path = archive.side("cts-a1", &object);
    let text = fs::read_to_string(&path).unwrap();
    let mut values: serde_json::Value = serde_json::from_str(&text).unwrap();
    values["merkle-root"] = "00".repeat(32).into();
    fs::write(path, values.to_string()).unwrap();
    let (report, _) = archive.verify(false, None);
    check("shallow", &report, &[]);
    let (report, _) = archive.verify(true, None);
    check("deep", &report, &[(Changed, &object)]);
}
