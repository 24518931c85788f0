//! The real program under load: killed, out of disk, with damaged state, started twice.
//!
//! The number of kills is 40, or `TRAILPROOF_KILLS`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::server::{Home, until};
use crate::tmpfs::Tmpfs;
use crate::traffic::{Books, Known, Random, all_filed, breaches, filed, produce, trace};

#[path = "crash/server.rs"]
mod server;
#[path = "conformance/tmpfs.rs"]
mod tmpfs;
#[path = "crash/traffic.rs"]
mod traffic;

const KILLS: u64 = 40;
const PRODUCERS: usize = 2;
const FILED_WITHIN: Duration = Duration::from_secs(60);

/// Runs `middle` while producers send; their books.
fn under_load(home: &Home, folder: &Path, life: &str, middle: impl FnOnce()) -> Books {
    std::thread::scope(|scope| {
        let mut producers = Vec::new();
        for number in 0..PRODUCERS {
            let (stop, stopped) = channel();
            let name = format!("{life}-{number}");
            let journal = folder.join(format!("{name}.journal"));
            let handle = scope.spawn(move || produce(home, &name, &journal, &stopped));
            producers.push((stop, handle));
        }
        middle();
        let mut books = Books::new();
        for (stop, handle) in producers {
            drop(stop);
            books.extend(handle.join().unwrap());
        }
        books
    })
}

/// Waits until the files hold what was acknowledged, and audits files and view.
fn audit(home: &Home, books: &Books) {
    let objects = home.data.join("objects");
    until("every acknowledged trace is in a file", FILED_WITHIN, || {
        all_filed(books, &filed(&objects)).then_some(())
    });
    assert_eq!(breaches(books, &filed(&objects)), "", "in the files");
    let mut view: BTreeMap<String, u32> = BTreeMap::new();
    home.view().into_iter().for_each(|id| *view.entry(id).or_default() += 1);
    assert_eq!(breaches(books, &view), "", "in the view");
    assert!(books.len() > 100, "only {} traces were sent", books.len());
}

/// Waits, as a pause that is part of the plan.
fn pause(moment: Duration) {
    let (_keep, never) = channel::<()>();
    let _ = never.recv_timeout(moment);
}

#[test]
fn kill_9_loses_nothing_acknowledged_and_doubles_nothing() {
    let kills = std::env::var("TRAILPROOF_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path(), folder.path().join("data"));
    let mut server = Some(home.start().0);
    let mut random = Random::new(kills);
    let mut slowest = Duration::ZERO;
    let books = under_load(&home, folder.path(), "killed", || {
        for _ in 0..kills {
            pause(Duration::from_millis(50 + random.below(1_450)));
            server.take().unwrap().kill();
            let (next, took) = home.start();
            server = Some(next);
            slowest = slowest.max(took);
        }
    });
    audit(&home, &books);
    println!("{kills} kills, {} traces, slowest start {slowest:?}", books.len());
    let (holds, report) = home.verify();
    assert!(holds, "{report}");
    assert!(server.unwrap().stop(), "{}", home.said());
}

#[test]
fn a_second_process_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path(), folder.path().join("data"));
    let (server, _) = home.start();
    let (succeeded, said) = home.start_another();
    assert!(!succeeded, "{said}");
    assert!(said.contains(&home.data.display().to_string()), "{said}");
    assert_eq!(home.view(), Vec::<String>::new());
    assert!(server.stop());
}

#[test]
fn a_full_disk_refuses_traces_until_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(192) else { return };
    let home = Home::new(folder.path(), disk.path().join("data"));
    let (server, _) = home.start();
    let mut probes = Books::new();
    let mut books = under_load(&home, folder.path(), "full", || {
        for round in 0..2 {
            pause(Duration::from_millis(500));
            let ballast = disk.fill(round * 500_000);
            // More than what the log has reserved on the disk beforehand.
            let mut probe = |home: &Home| {
                let first = probes.len();
                let ids: Vec<String> = (first..first + 200).map(|n| format!("probe-{n}")).collect();
                let mut random = Random::new(first as u64);
                let batch: String = ids.iter().map(|id| trace(id, &mut random, 250)).collect();
                let answer = home.post(&batch);
                let known = if answer.is_ok() { Known::Acknowledged } else { Known::Unknown };
                probes.extend(ids.into_iter().map(|id| (id, known)));
                answer
            };
            let error = until("a refusal", Duration::from_secs(30), || probe(&home).err());
            assert!(error.starts_with("50"), "a clear answer: {error}");
            pause(Duration::from_millis(500));
            Tmpfs::free(&ballast);
            until("it takes traces again", Duration::from_secs(30), || probe(&home).ok());
        }
    });
    books.append(&mut probes);
    audit(&home, &books);
    assert!(server.stop(), "{}", home.said());
}

/// The files beneath a folder with this in their name, in order.
fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().contains(name))
        .collect();
    found.sort();
    found
}

fn flip_middle(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The largest file beneath a folder with this in its name.
fn largest(folder: &Path, name: &str) -> PathBuf {
    let bytes = |path: &PathBuf| path.metadata().unwrap().len();
    files(folder, name).into_iter().max_by_key(bytes).expect("state was flushed")
}

#[test]
fn damage_that_opening_does_not_see_is_found_and_mended_while_the_process_runs() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path(), folder.path().join("data"));
    let (server, _) = home.start();
    let books = under_load(&home, folder.path(), "scrub", || pause(Duration::from_secs(2)));
    assert!(server.stop(), "{}", home.said());
    flip_middle(&largest(&home.data.join("state/record-0"), ".sst"));
    let (server, _) = home.start();
    let aside = home.data.join("state/record-0.damaged-1");
    until("the state is set aside", FILED_WITHIN, || aside.exists().then_some(()));
    until("the state is rebuilt", FILED_WITHIN, || home.is_ready().then_some(()));
    audit(&home, &books);
    let (holds, report) = home.verify();
    assert!(holds, "{report}");
    assert!(server.stop(), "{}", home.said());
}

/// What is done to a folder of state.
type Damage<'a> = &'a dyn Fn(&Path);

#[test]
fn damaged_state_is_set_aside_and_rebuilt_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path(), folder.path().join("data"));
    let mut books = Books::new();
    let damages: [(&str, Damage<'_>); 5] = [
        ("a table is short", &|state| {
            let path = files(state, ".sst").pop().expect("state was flushed");
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("a table is missing", &|state| {
            fs::remove_file(files(state, ".sst").pop().expect("state was flushed")).unwrap();
        }),
        ("a bit of the manifest", &|state| {
            flip_middle(&files(state, "MANIFEST").pop().expect("there is a manifest"));
        }),
        ("CURRENT is missing", &|state| fs::remove_file(state.join("CURRENT")).unwrap()),
        ("all state is gone", &|state| {
            fs::remove_dir_all(state.parent().unwrap()).unwrap();
        }),
    ];
    for (number, (what, damage)) in damages.into_iter().enumerate() {
        let (server, _) = home.start();
        let name = format!("damage{number}");
        books.extend(under_load(&home, folder.path(), &name, || pause(Duration::from_secs(1))));
        assert!(server.stop(), "{}", home.said());
        let record = home.data.join("state/record-0");
        damage(&record);
        drop(home.start());
        let aside = home.data.join(format!("state/record-0.damaged-{}", number + 1));
        assert!(aside.exists() || what == "all state is gone", "{what}: {}", home.said());
    }
    let (server, _) = home.start();
    audit(&home, &books);
    let (holds, report) = home.verify();
    assert!(holds, "{report}");
    assert!(server.stop(), "{}", home.said());
}
