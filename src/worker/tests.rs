//! The worker's order of commits, savepoints and flushes, over a store that says what was asked.

use std::cell::{Cell, RefCell};

use trailproof_topology::input::Position;
use trailproof_topology::stage::Wanted;
use trailproof_topology::state::Rows;

use super::*;

/// A stage that counts records, and puts the count into a row at a savepoint alone. The record at
/// offset 8 wants a row.
struct Counter {
    position: Position,
    counted: u8,
    read: bool,
}

impl Stage for Counter {
    type Setup = ();

    fn load<R: Rows>((): (), _: &R) -> Result<Self, LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        Ok(Self { position: Position::default(), counted: 0, read: false })
    }

    fn apply(&mut self, input: &Input<'_>, _: &mut Batch) -> Result<(), Wanted> {
        if input.offset == WANTS && !std::mem::take(&mut self.read) {
            return Err(Wanted);
        }
        self.position.next_offset = input.offset + 1;
        self.counted += 1;
        Ok(())
    }

    fn read<R: Rows>(&mut self, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        rows.get(b"wanted").map_err(LoadError::Store)?;
        self.read = true;
        Ok(())
    }

    fn finish(&mut self, batch: &mut Batch) {
        batch.changes.put(b"batch".to_vec(), vec![self.counted]);
    }

    fn savepoint(&mut self, batch: &mut Batch) {
        batch.changes.put(b"saved".to_vec(), vec![self.counted]);
    }

    fn position(&self) -> &Position {
        &self.position
    }

    fn next_boundary_ms(&self) -> Option<Millis> {
        None
    }
}

/// The offset whose record wants a row.
const WANTS: Offset = 8;

/// One record a poll, and from offset 6 on three; a gap in place of the third.
struct Records {
    end: Offset,
    now_ms: Millis,
}

impl Log for Records {
    fn poll(&mut self, from: Offset, _: usize, batch: &mut RecordBatch) -> Result<(), log::Error> {
        batch.clear();
        if from == 2 {
            batch.push_gap(2, 3);
        } else if from < self.end {
            let end = if from < 6 { from + 1 } else { (from + 3).min(self.end) };
            (from..end).for_each(|offset| batch.push(offset, 0, Kind::Data, b"{}"));
        }
        Ok(())
    }

    fn wait(&mut self, _: Offset, _: Duration) {}

    fn now_ms(&self) -> Millis {
        self.now_ms
    }

    fn tick(&mut self) -> Result<(), log::Error> {
        Ok(())
    }
}

/// Says what was asked of it, and refuses so many of the next calls.
#[derive(Default)]
struct Asked {
    said: RefCell<Vec<String>>,
    refuse: Cell<usize>,
    refuse_flush: Cell<bool>,
    refuse_reads: Cell<bool>,
    wants: Cell<bool>,
}

impl Asked {
    fn say(&self, what: String) -> Result<(), store::Error> {
        if let Some(left) = self.refuse.get().checked_sub(1) {
            self.refuse.set(left);
            self.said.borrow_mut().push(format!("no {what}"));
            return Err(store::Error::Unavailable("refused".to_owned()));
        }
        self.said.borrow_mut().push(what);
        Ok(())
    }

    fn said(&self) -> String {
        std::mem::take(&mut *self.said.borrow_mut()).join(", ")
    }
}

/// No rows, or none that can be read.
struct Nothing {
    readable: bool,
}

type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

impl Rows for Nothing {
    type Error = store::Error;

    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, store::Error> {
        let refused = || store::Error::Unavailable("refused".to_owned());
        if self.readable { Ok(None) } else { Err(refused()) }
    }

    fn scan(&self, _: &[u8], _: &[u8], _: &mut Visit<'_>) -> Result<(), store::Error> {
        Ok(())
    }

    fn scan_back(&self, _: &[u8], _: &[u8], _: &mut Visit<'_>) -> Result<(), store::Error> {
        Ok(())
    }
}

impl StateStore for Asked {
    type Snapshot<'a> = Nothing;

    fn snapshot(&self) -> Nothing {
        Nothing { readable: !self.refuse_reads.get() }
    }

    fn commit(&self, changes: &Changes) -> Result<(), store::Error> {
        let first = match changes.list.first() {
            Some(trailproof_topology::state::Change::Put(key, row)) => {
                format!("{} {}", String::from_utf8_lossy(key), row[0])
            }
            _ => "nothing".to_owned(),
        };
        self.say(first)
    }

    fn wants_flush(&self) -> bool {
        self.wants.get()
    }

    fn begin_flush(&self) -> Result<(), store::Error> {
        if self.refuse_flush.get() {
            self.refuse.set(1);
        }
        self.say("begin".to_owned())
    }

    fn flush(&self) -> Result<(), store::Error> {
        self.say("flush".to_owned())
    }

    fn expire(&self, _: &[u8], _: &[u8]) -> Result<(), store::Error> {
        Ok(())
    }
}

fn worker(store: &Asked, end: Offset) -> Worker<Counter, Records, &Asked> {
    let catalogs: Catalogs = Arc::new(|_| Ok(None));
    let log = Records { end, now_ms: 5 };
    Worker::new((), log, store, catalogs, Arc::default()).with_batch_bytes(1)
}

/// Steps `steps` times; what was asked of the store, and how often a batch was told.
fn steps(worker: &mut Worker<Counter, Records, &Asked>, steps: usize) -> (String, usize) {
    let mut told = 0;
    for _ in 0..steps {
        let _refused = worker.step(&mut |_, changes| told += usize::from(!changes.list.is_empty()));
    }
    (worker.store.said(), told)
}

#[test]
fn a_commit_that_fails_is_made_again_and_a_savepoint_follows() {
    let store = Asked::default();
    let mut worker = worker(&store, 2);
    store.refuse.set(2);
    let expected = "no batch 1, no batch 1, batch 1, saved 1, begin, batch 2";
    assert_eq!(steps(&mut worker, 4), (expected.to_owned(), 2));
}

#[test]
fn a_savepoint_that_fails_is_made_again_whole() {
    let store = Asked::default();
    let mut worker = worker(&store, 1);
    assert_eq!(steps(&mut worker, 1).0, "batch 1");
    store.wants.set(true);
    store.refuse.set(1);
    assert_eq!(steps(&mut worker, 1).0, "no saved 1");
    store.wants.set(false);
    assert_eq!(steps(&mut worker, 2).0, "saved 1, begin");
}

#[test]
fn a_flush_that_does_not_begin_is_asked_for_again() {
    let store = Asked::default();
    let mut worker = worker(&store, 1);
    assert_eq!(steps(&mut worker, 1).0, "batch 1");
    store.wants.set(true);
    store.refuse_flush.set(true);
    assert_eq!(steps(&mut worker, 1).0, "saved 1, no begin");
    store.wants.set(false);
    store.refuse_flush.set(false);
    assert_eq!(steps(&mut worker, 1).0, "saved 1, begin");
    assert_eq!(steps(&mut worker, 1).0, "");
}

#[test]
fn a_savepoint_follows_a_gap_and_a_long_time() {
    let store = Asked::default();
    let mut worker = worker(&store, 5);
    assert_eq!(steps(&mut worker, 3).0, "batch 1, batch 2, batch 3");
    assert_eq!(steps(&mut worker, 3).0, "saved 3, begin, batch 4, batch 5");
    worker.log.now_ms += SAVEPOINT_MS - 1;
    assert_eq!(steps(&mut worker, 1).0, "");
    worker.log.now_ms += 1;
    assert_eq!(steps(&mut worker, 2).0, "saved 5, begin");
    // Nothing new was applied.
    worker.log.now_ms += SAVEPOINT_MS;
    assert_eq!(steps(&mut worker, 1).0, "");
}

#[test]
fn the_end_flushes_once_and_waits() {
    let store = Asked::default();
    let mut worker = worker(&store, 2);
    assert_eq!(steps(&mut worker, 1).0, "batch 1");
    store.refuse.set(1);
    assert_eq!(steps(&mut worker, 1).0, "no batch 2");
    worker.save(&mut |_, _| {}).unwrap();
    assert_eq!(store.said(), "batch 2, saved 2, flush");
}

#[test]
fn a_read_that_fails_ends_the_batch_before_its_record() {
    let store = Asked::default();
    let mut worker = worker(&store, 10).with_batch_bytes(6);
    assert_eq!(
        steps(&mut worker, 6).0,
        "batch 1, batch 2, batch 3, saved 3, begin, batch 4, batch 5, batch 6"
    );
    store.refuse_reads.set(true);
    // Of three records that were polled two are applied.
    let applied = |records, bytes| Step::Applied { records, bytes };
    assert_eq!(worker.step(&mut |_, _| {}).unwrap(), applied(2, 4));
    assert_eq!((worker.next_offset(), store.said().as_str()), (WANTS, "batch 8"));
    for _ in 0..2 {
        let error = worker.step(&mut |_, _| {}).unwrap_err();
        assert_eq!((error.retry(), error.is_damage()), (log::Retry::Later, false));
        assert_eq!((worker.next_offset(), store.said().as_str()), (WANTS, ""));
    }
    store.refuse_reads.set(false);
    assert_eq!(worker.step(&mut |_, _| {}).unwrap(), applied(2, 4));
    assert_eq!((worker.next_offset(), store.said().as_str()), (10, "batch 10"));
}

#[test]
fn a_workbench_comes_back_from_batches_savepoints_and_failures() {
    let store = Asked::default();
    let benches = Arc::new(Workbenches::new(2));
    let mut worker = worker(&store, 10).with_workbenches(Arc::clone(&benches));
    // Steps that apply, save, fail to read and fail to commit.
    steps(&mut worker, 4);
    store.refuse_reads.set(true);
    for _ in 0..12 {
        let _ = worker.step(&mut |_, _| {});
    }
    assert_eq!((worker.next_offset(), benches.idle_len()), (WANTS, 1));
    store.refuse_reads.set(false);
    store.refuse.set(2);
    for _ in 0..4 {
        let _ = worker.step(&mut |_, _| {});
    }
    assert_eq!((worker.next_offset(), benches.idle_len()), (10, 1));
    let (one, other) = (benches.take(), benches.take());
    assert_eq!(benches.idle_len(), 0);
    for (turn, bench) in [one, other] {
        benches.give(bench);
        drop(turn);
    }
    assert_eq!(benches.idle_len(), 2);
}
