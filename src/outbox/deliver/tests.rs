//! Which effects are delivered at one time, and which are not.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use trailproof_topology::chunk::Chunk;
use trailproof_topology::memory::Memory;
use trailproof_topology::state::Changes;

use super::*;

#[test]
fn digests_of_one_chain_are_never_put_at_the_same_time() {
    let digest = |chain: &str, end: &str| {
        Effect::Objects(vec![BytesObject {
            bucket: "b".to_owned(),
            object: format!("d/CloudTrace-Digest_local_{end}_{chain}.note"),
            content: Vec::new(),
            gzip: false,
            metadata: Vec::new(),
        }])
    };
    let record = || Effect::Records(Vec::new());
    let effects =
        [digest("aa", "1"), record(), digest("bb", "1"), record(), digest("aa", "2"), record()];
    let lengths = [0, 2, 4, 6].map(|from| stretch_len(&effects[from..]));
    assert_eq!(lengths, [4, 4, 2, 0]);
}

#[test]
fn nothing_is_begun_after_a_failure_or_once_it_is_to_stop() {
    let effects = vec![Effect::Records(Vec::new()); 64];
    let begun = AtomicUsize::new(0);
    let fails = |_: &Effect, _: &dyn Fn() -> bool| {
        if begun.fetch_add(1, Ordering::AcqRel) < 9 {
            return Some(Ok(Outcome::default()));
        }
        Some(Err(Error::Damaged("it".to_owned())))
    };
    let results = in_threads(4, &effects, &|| true, &fails);
    assert!((10..=13).contains(&results.len()), "{}", results.len());
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 9);
    let left = AtomicUsize::new(5);
    let go_on = || left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
    let done = |_: &Effect, _: &dyn Fn() -> bool| Some(Ok(Outcome::default()));
    assert_eq!(in_threads(3, &effects, &|| go_on().is_ok(), &done).len(), 5);
    assert_eq!(in_threads(3, &effects, &|| true, &done).len(), 64);
    let first = AtomicUsize::new(7);
    let out_of_turn = |_: &Effect, _: &dyn Fn() -> bool| {
        first
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1))
            .ok()
            .map(|_| Ok(Outcome::default()))
    };
    assert_eq!(in_threads(1, &effects, &|| true, &out_of_turn).len(), 7);
}

/// Effects that tell which they are by how many records they have.
fn numbered(count: usize) -> Vec<Effect> {
    let record = || OutRecord {
        topic: Topic::Files,
        partition: None,
        key: Vec::new(),
        headers: Vec::new(),
        value: Vec::new(),
    };
    (0..count).map(|number| Effect::Records((0..number).map(|_| record()).collect())).collect()
}

fn number(effect: &Effect) -> usize {
    if let Effect::Records(records) = effect { records.len() } else { usize::MAX }
}

fn wait_for(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to it");
        std::thread::yield_now();
    }
}

#[test]
fn what_lies_behind_one_that_was_not_begun_does_not_count() {
    let effects = numbered(8);
    let later = AtomicUsize::new(0);
    let one = |effect: &Effect, _: &dyn Fn() -> bool| match number(effect) {
        0 => Some(Ok(Outcome::default())),
        1 => {
            wait_for(|| later.load(Ordering::Acquire) > 0);
            None
        }
        _ => {
            later.fetch_add(1, Ordering::AcqRel);
            Some(Ok(Outcome::default()))
        }
    };
    assert_eq!(in_threads(2, &effects, &|| true, &one).len(), 1);
    // Nor does a failure there: it is met again.
    let fails = |effect: &Effect, _: &dyn Fn() -> bool| match number(effect) {
        2 => {
            later.store(1, Ordering::Release);
            Some(Err(Error::Damaged("it".to_owned())))
        }
        _ => one(effect, &|| true),
    };
    later.store(0, Ordering::Release);
    let results = in_threads(2, &effects, &|| true, &fails);
    assert!(results.len() == 1 && results[0].is_ok(), "{results:?}");
    assert_eq!(later.into_inner(), 1, "it did not fail");
}

fn file(raw_bytes: u64) -> Effect {
    Effect::Segment(Box::new(SegmentFile {
        tracker: String::new(),
        tracker_name: String::new(),
        account: String::new(),
        bucket: String::new(),
        object: String::new(),
        compression: Compression::Json,
        verify: true,
        service: String::new(),
        cycle_start_ms: 0,
        cycle_end_ms: 0,
        partition: 0,
        first_offset: 0,
        last_offset: 0,
        count: 0,
        chunks: 0,
        raw_bytes,
        time_min_ms: 0,
        time_max_ms: 0,
        root: String::new(),
        files_partition: 0,
    }))
}

/// Of rows in memory.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[test]
fn a_file_has_every_chunk_in_order_or_is_not_made() {
    let Effect::Segment(mut file) = file(64) else { unreachable!("it is one") };
    file.tracker = "00000000-0000-4000-8000-000000000001".to_owned();
    let tracker = tracker_key(&file.tracker).expect("a UUID");
    let id = |part| SegmentId { tracker, cycle_ms: 0, service: String::new(), part };
    let frame = |number: u32| vec![number as u8; 3];
    let damaged = Cell::new(u32::MAX);
    let encoded = |numbers: &[u32], chunks| {
        let mut changes = Changes::default();
        for number in numbers {
            let key = id(0).key(Table::Chunk).u32(*number).done();
            let whole = Chunk::encode(&[], &frame(*number));
            // Says that it has more traces than bytes.
            changes.put(key, if *number == damaged.get() { vec![9] } else { whole });
        }
        // The next segment's are another file's.
        let key = id(1).key(Table::Chunk).u32(chunks).done();
        changes.put(key, Chunk::encode(&[], &frame(9)));
        let mut rows = Memory::default();
        rows.commit(&changes);
        let file = SegmentFile { chunks, ..(*file).clone() };
        encode(&rows, &file, Compression::Zstd).map(|encoded| encoded.bytes)
    };
    let whole = encoded(&[0, 1, 2], 3).expect("all are there");
    assert!(whole.starts_with(&[0, 0, 0, 1, 1, 1, 2, 2, 2]), "{whole:?}");
    assert_eq!(encoded(&[0, 1, 2, 3], 3).expect("one is too many"), whole);
    for (numbers, gone) in [(&[1, 2][..], 0), (&[0, 2], 1), (&[0, 1], 2), (&[], 0)] {
        let error = encoded(numbers, 3).expect_err("one is gone").to_string();
        assert!(error.contains(&format!("chunk {gone} of")), "{error}");
    }
    for number in 0..3 {
        damaged.set(number);
        let error = encoded(&[0, 1, 2], 3).expect_err("one is damaged").to_string();
        assert!(error.contains("a chunk cannot be read"), "{error}");
    }
}

#[test]
fn files_wait_for_turns_by_their_size() {
    let turns = Turns::new(4);
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let meeting = [AtomicBool::new(false), AtomicBool::new(false)];
    let effects: Vec<Effect> = (0..40).map(|at| file(TURN_BYTES * (1 + at % 3))).collect();
    let one = |effect: &Effect, go_on: &dyn Fn() -> bool| {
        let _turn = turn_of(effect, Some(&turns), go_on)?;
        let Effect::Segment(file) = effect else { return None };
        let count = (file.raw_bytes / TURN_BYTES) as usize;
        most.fetch_max(running.fetch_add(count, Ordering::SeqCst) + count, Ordering::SeqCst);
        // The first two have room beside each other: each waits for the other, turn in hand.
        let at = effects.iter().position(|other| std::ptr::eq(other, effect));
        if let Some(own) = at.and_then(|at| meeting.get(at)) {
            own.store(true, Ordering::Release);
            wait_for(|| meeting.iter().all(|one| one.load(Ordering::Acquire)));
        }
        running.fetch_sub(count, Ordering::SeqCst);
        Some(Ok(Outcome::default()))
    };
    assert_eq!(in_threads(4, &effects, &|| true, &one).len(), 40);
    assert!((3..=4).contains(&most.into_inner()));
}

#[test]
fn who_waits_for_a_turn_gives_up_when_another_fails_or_it_is_to_end() {
    let turns = Turns::new(2);
    let other = turns.take(&|| true).expect("it is free");
    let effects = [file(TURN_BYTES), file(2 * TURN_BYTES), file(TURN_BYTES)];
    let (begun, ending) = (AtomicUsize::new(0), AtomicBool::new(false));
    let waits = |fails: bool| {
        let waiting = AtomicBool::new(false);
        let one = |effect: &Effect, go_on: &dyn Fn() -> bool| {
            if !std::ptr::eq(effect, &raw const effects[0]) {
                waiting.store(true, Ordering::Release);
                let _turn = turn_of(effect, Some(&turns), go_on)?;
                begun.fetch_add(1, Ordering::AcqRel);
                return Some(Ok(Outcome::default()));
            }
            wait_for(|| waiting.load(Ordering::Acquire));
            ending.store(!fails, Ordering::Release);
            let failure = Error::Damaged("it".to_owned());
            Some(if fails { Err(failure) } else { Ok(Outcome::default()) })
        };
        in_threads(2, &effects, &|| !ending.load(Ordering::Acquire), &one)
    };
    let failed = waits(true);
    assert!(failed.len() == 1 && failed[0].is_err(), "{failed:?}");
    let ended = waits(false);
    assert!(ended.len() == 1 && ended[0].is_ok(), "{ended:?}");
    assert_eq!(begun.into_inner(), 0);
    drop(other);
    wait_for(|| turns.take_many(2, &|| true).is_some());
}

#[test]
fn who_waits_for_a_turn_goes_on_when_one_behind_it_fails() {
    let turns = Turns::new(2);
    let other = turns.take(&|| true).expect("it is free");
    let effects = [file(2 * TURN_BYTES), file(0)];
    let waiting = AtomicBool::new(false);
    let one = |effect: &Effect, go_on: &dyn Fn() -> bool| {
        if std::ptr::eq(effect, &raw const effects[0]) {
            // Asked once it has its place among those who wait.
            let go_on = || {
                waiting.store(true, Ordering::Release);
                go_on()
            };
            let _turn = turn_of(effect, Some(&turns), &go_on)?;
            return Some(Ok(Outcome::default()));
        }
        wait_for(|| waiting.load(Ordering::Acquire));
        Some(Err(Error::Damaged("it".to_owned())))
    };
    let results = std::thread::scope(|scope| {
        let results = scope.spawn(|| in_threads(2, &effects, &|| true, &one));
        wait_for(|| waiting.load(Ordering::Acquire));
        // Some looks later it waits still, whatever became of the other one.
        (0..3).for_each(|_| assert!(turns.take(&looks(2)).is_none(), "it gave up its place"));
        drop(other);
        results.join().expect("it does not panic")
    });
    assert!(results.len() == 2 && results[0].is_ok() && results[1].is_err(), "{results:?}");
}

/// Says yes so many times, then no.
fn looks(count: usize) -> impl Fn() -> bool {
    let left = Cell::new(count);
    move || left.replace(left.get().saturating_sub(1)) > 0
}
