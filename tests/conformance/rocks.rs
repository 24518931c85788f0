//! The RocksDB store: the suite of its port, and its own promises on a real disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use trailproof::memory_budget::MemoryBudget;
use trailproof::store::rocks::{Options, RocksStore};
use trailproof::store::{Error, StateStore};
use trailproof_topology::key::{Table, single};
use trailproof_topology::state::{Changes, Rows};

use crate::store::{Model, all, key, put, suite};
use crate::tmpfs::Tmpfs;

/// Commits of the store that is damaged.
const COMMITS: u32 = 300;

fn options() -> Options {
    Options::new(MemoryBudget::new(8 << 20, 4 << 20), 1)
}

fn open(path: &Path) -> Result<RocksStore, Error> {
    RocksStore::open(path, &options())
}

/// Bytes that do not compress.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

/// One commit that touches every family: its number can be read from each.
fn commit(store: &RocksStore, number: u32) -> Result<(), Error> {
    let mut changes = Changes::default();
    changes.put(single(Table::Position), number.to_be_bytes().to_vec());
    changes.put(key(Table::Segment, number), noise(number, 300));
    changes.put(key(Table::Chunk, number), noise(number, 28_000));
    changes.put(key(Table::Tail, number), noise(number, 2_000));
    changes.put(key(Table::Run, number), noise(number, 1_000));
    store.commit(&changes)
}

/// Checks that the rows are those of the first commits, and counts these.
fn commits(store: &RocksStore) -> u32 {
    let rows = all(&store.snapshot());
    let position = rows.get(&single(Table::Position));
    let count =
        position.map_or(0, |row| u32::from_be_bytes(row.as_slice().try_into().unwrap()) + 1);
    let mut expected = Model::new();
    for number in 0..count {
        expected.insert(single(Table::Position), number.to_be_bytes().to_vec());
        expected.insert(key(Table::Segment, number), noise(number, 300));
        expected.insert(key(Table::Chunk, number), noise(number, 28_000));
        expected.insert(key(Table::Tail, number), noise(number, 2_000));
        expected.insert(key(Table::Run, number), noise(number, 1_000));
    }
    assert!(rows == expected, "not the state after commit {count}");
    count
}

fn copy(from: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("state")).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // A file that RocksDB removes meanwhile is one it no longer needs.
        let _ = fs::copy(entry.path(), copy.path().join("state").join(entry.file_name()));
    }
    copy
}

fn files(path: &Path, end: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().contains(end))
        .collect();
    found.sort();
    found
}

#[test]
fn the_rocks_store_keeps_the_promises_of_its_port() {
    suite(|test: &dyn Fn(&RocksStore)| {
        let folder = tempfile::tempdir().unwrap();
        test(&open(&folder.path().join("state")).unwrap());
    });
}

#[test]
fn a_crash_leaves_what_was_flushed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let left = || commits(&open(&copy(folder.path()).path().join("state")).unwrap());
    (0..40).for_each(|number| commit(&store, number).unwrap());
    assert_eq!(left(), 0);
    store.flush().unwrap();
    (40..50).for_each(|number| commit(&store, number).unwrap());
    assert_eq!(left(), 40);
    // Far more than the write buffers: it asks, and does nothing by itself.
    assert!(!store.wants_flush());
    (50..1_000).for_each(|number| commit(&store, number).unwrap());
    assert!(store.wants_flush());
    assert_eq!(left(), 40);
    store.begin_flush().unwrap();
    assert!(!store.wants_flush());
    (1_000..1_010).for_each(|number| commit(&store, number).unwrap());
    // What was begun is waited for; the end may be on its way too.
    store.flush().unwrap();
    assert_eq!(left(), 1_010);
    commit(&store, 1_010).unwrap();
    drop(store);
    assert_eq!(commits(&open(folder.path()).unwrap()), 1_010, "closing flushed");
}

#[test]
fn a_flush_that_was_begun_is_the_state_after_one_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    (0..200).for_each(|number| commit(&store, number).unwrap());
    store.begin_flush().unwrap();
    // The next one waits for it, and may come to its end too.
    (200..300).for_each(|number| commit(&store, number).unwrap());
    store.begin_flush().unwrap();
    (300..400).for_each(|number| commit(&store, number).unwrap());
    // A copy that meets the end of a flush may lack a file; a crash does not copy.
    let found = (0..50).find_map(|_| {
        let copied = copy(folder.path());
        open(&copied.path().join("state")).ok().map(|store| commits(&store))
    });
    let found = found.expect("one of 50 copies is whole");
    assert!([200, 300].contains(&found), "{found} commits after a crash");
}

#[test]
fn stores_that_fill_their_memory_together_want_to_be_flushed_sooner() {
    let folder = tempfile::tempdir().unwrap();
    // Each alone may have 3 MiB, all together 4 MiB.
    let options = Options::new(MemoryBudget::new(8 << 20, 4 << 20), 2);
    let store = |name: &str| RocksStore::open(&folder.path().join(name), &options).unwrap();
    let stores = ["a", "b", "c", "d"].map(store);
    let fill = |store: &RocksStore| (0..36).for_each(|number| commit(store, number).unwrap());
    stores[..3].iter().for_each(fill);
    assert!(stores.iter().all(|store| !store.wants_flush()));
    fill(&stores[3]);
    // A store counts from when it looks, so the one that has grown looks first.
    assert!(stores.iter().rev().all(StateStore::wants_flush));
    stores.iter().for_each(|store| store.flush().unwrap());
    assert!(stores.iter().all(|store| !store.wants_flush()));
}

#[test]
fn a_second_owner_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(folder.path()).unwrap();
    let error = RocksStore::open_or_set_aside(folder.path(), &options()).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Locked(_)), "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
}

#[test]
fn rows_of_another_format_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let store = open(&path).unwrap();
    put(&store, &[(single(Table::Format), vec![99])]);
    store.flush().unwrap();
    drop(store);
    let (store, aside) = RocksStore::open_or_set_aside(&path, &options()).unwrap();
    assert_eq!(aside.unwrap(), folder.path().join("state.damaged-1"));
    assert_eq!(commits(&store), 0);
}

/// Reads everything, by scans and by key. An error if damage was found; rows are always right.
fn checked(path: &Path) -> Result<(), Error> {
    let store = open(path)?;
    store.scrub(&|| true)?;
    assert_eq!(commits(&store), COMMITS);
    let snapshot = store.snapshot();
    for number in 0..COMMITS {
        let found = snapshot.get(&key(Table::Segment, number))?;
        assert!(found == Some(noise(number, 300)), "a wrong row");
        let found = snapshot.get(&key(Table::Chunk, number))?;
        assert!(found == Some(noise(number, 28_000)), "a wrong row");
    }
    Ok(())
}

/// Damages one of the files with this name, the first, the middle and the last; how often it was
/// found. A flipped bit that no read depends on need not be.
fn damaged(made: &Path, name: &str, damage: &dyn Fn(&Path)) -> usize {
    let mut found = 0;
    for which in 0..3 {
        let copied = copy(made);
        let path = copied.path().join("state");
        let files = files(&path, name);
        damage(&files[which * (files.len() - 1) / 2]);
        let Err(error) = checked(&path) else { continue };
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
        found += 1;
        let (store, aside) = RocksStore::open_or_set_aside(&path, &options()).unwrap();
        assert_eq!(aside, Some(copied.path().join("state.damaged-1")));
        assert_eq!(commits(&store), 0);
        commit(&store, 0).unwrap();
    }
    found
}

#[test]
fn damage_is_found_and_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    for number in 0..COMMITS {
        commit(&store, number).unwrap();
        if number % 60 == 59 {
            store.flush().unwrap();
        }
    }
    drop(store);
    let made = folder.path();
    checked(made).unwrap();
    let cut = |path: &Path, keep: &dyn Fn(u64) -> u64| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(keep(file.metadata().unwrap().len())).unwrap();
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    for name in [".sst", ".blob"] {
        let short = damaged(made, name, &|path| cut(path, &|length| length.saturating_sub(4_096)));
        let empty = damaged(made, name, &|path| cut(path, &|_| 0));
        let missing = damaged(made, name, &|path| fs::remove_file(path).unwrap());
        assert_eq!((short, empty, missing), (3, 3, 3), "{name} cut, emptied, removed");
    }
    assert_eq!(damaged(made, ".blob", &flip), 3);
    assert!(damaged(made, ".sst", &flip) > 0);
    assert_eq!(damaged(made, "MANIFEST", &flip), 3);
    assert_eq!(damaged(made, "CURRENT", &|path| fs::remove_file(path).unwrap()), 3);
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    let Some(disk) = Tmpfs::mount(48) else { return };
    let path = disk.path().join("state");
    let store = open(&path).unwrap();
    (0..100).for_each(|number| commit(&store, number).unwrap());
    store.flush().unwrap();
    let ballast = disk.fill(200_000);
    let mut next = 100;
    let error = loop {
        match commit(&store, next).and_then(|()| store.flush()) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
        assert!(next < 2_000, "the disk does not fill");
    };
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("full"), "{error}");
    assert!(store.snapshot().get(&key(Table::Chunk, 7)).unwrap().is_some());
    Tmpfs::free(&ballast);
    let began = Instant::now();
    while let Err(error) = store.flush() {
        assert!(began.elapsed() < Duration::from_secs(30), "{error}");
        std::thread::sleep(Duration::from_millis(100)); // between polls
    }
    // The commit before the failed flush may have been applied, and is then applied again.
    let reached = commits(&store);
    assert!(reached == next || reached == next + 1, "{reached} after {next}");
    commit(&store, next).unwrap();
    commit(&store, next + 1).unwrap();
    store.flush().unwrap();
    drop(store);
    assert_eq!(commits(&open(&path).unwrap()), next + 2);
}
