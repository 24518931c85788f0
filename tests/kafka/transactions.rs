//! Said once, whatever happens between the steps of a transaction.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use trailproof::log::broker::{Broker, Owner, ReadLimits};
use trailproof::log::kafka::{Crash, KafkaLog, Options, Step};
use trailproof::log::{Error, Publisher};
use trailproof_topology::effect::{OutRecord, Topic};

use crate::log::record;
use crate::support::{DEADLINE, alone, collect, connect, options, shared, until};

pub(crate) const OWNER: Owner = Owner::Record(0);

pub(crate) fn said(value: &str) -> [OutRecord; 1] {
    [record(Topic::Notifications, Some(0), "key", value)]
}

/// All notifications that a reader of committed records sees.
pub(crate) fn heard(log: &KafkaLog) -> Vec<String> {
    let limits = ReadLimits { records: 1_000, bytes: 1 << 20 };
    let records = until("answer to a read", || log.read(Topic::Notifications, 0, 0, limits).ok());
    records.into_iter().map(|one| String::from_utf8(one.value).unwrap()).collect()
}

/// Waits for a transaction's marker, which the broker writes after its answer.
pub(crate) fn await_heard(log: &KafkaLog, count: usize) -> Vec<String> {
    until("committed records", || Some(heard(log)).filter(|all| all.len() >= count))
}

/// Does what an outbox does: asks what is committed, then says what is not, until all is.
pub(crate) fn say(log: &KafkaLog, publisher: &mut dyn Publisher, values: &[&str]) {
    let began = Instant::now();
    let mut fresh: Option<Box<dyn Publisher + Send>> = None;
    loop {
        let publisher = fresh.as_deref_mut().map_or(&mut *publisher, |one| one as _);
        let next = publisher.committed().map(|lanes| usize::try_from(lanes[1]).unwrap());
        let done = next.and_then(|next| match values.get(next) {
            None => Ok(true),
            Some(value) => {
                let lanes = [0, next as u64 + 1];
                publisher.publish(&said(value), lanes, next as u64).map(|()| false)
            }
        });
        match done {
            Ok(true) => return,
            Ok(false) => {}
            Err(Error::Unavailable(why)) => {
                assert!(began.elapsed() < 2 * DEADLINE, "still not said: {why}");
            }
            Err(Error::Fenced(_)) => fresh = log.publisher(OWNER).ok(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Stops after a step, once.
pub(crate) fn once_after(
    step: Step,
    then: impl Fn() + Send + Sync + 'static,
    crash: bool,
) -> Crash {
    let armed = AtomicBool::new(true);
    Arc::new(move |now| {
        let hit = now == step && armed.swap(false, Ordering::SeqCst);
        if hit {
            then();
        }
        hit && crash
    })
}

#[test]
fn a_crash_after_any_step_says_everything_once() {
    let (server, _guard) = shared();
    for step in [Step::Begun, Step::Produced, Step::Flushed, Step::OffsetsSent, Step::Committed] {
        let options = options(server);
        let log = connect(&options);
        let mut first = log.publisher(OWNER).unwrap();
        first.publish(&said("one"), [0, 1], 1).unwrap();
        drop(first);
        let crash = once_after(step, || (), true);
        let mut doomed = log.kafka_publisher(OWNER).unwrap().crashing(crash);
        assert_eq!(doomed.committed().unwrap(), [0, 1]);
        doomed.publish(&said("two"), [0, 2], 2).unwrap_err();
        // The process is gone; another instance goes on.
        let mut heir = log.publisher(OWNER).unwrap();
        let lanes = heir.committed().unwrap();
        assert_eq!(lanes, [0, if step == Step::Committed { 2 } else { 1 }], "after {step:?}");
        say(&log, &mut *heir, &["one", "two", "three"]);
        assert_eq!(await_heard(&log, 3), ["one", "two", "three"], "after {step:?}");
        // What is left of the first process can say nothing more.
        let late = doomed.publish(&said("late"), [0, 9], 9);
        assert!(late.is_err() || heir.committed().is_ok(), "{late:?}");
    }
}

#[test]
fn the_last_publisher_of_an_owner_fences_the_others() {
    let (server, _guard) = shared();
    let log = connect(&options(server));
    let mut first = log.publisher(OWNER).unwrap();
    first.publish(&said("one"), [0, 1], 1).unwrap();
    let mut second = log.publisher(OWNER).unwrap();
    assert_eq!(second.committed().unwrap(), [0, 1]);
    assert_eq!(second.settled().unwrap(), 1, "the input offset that was committed with them");
    let fenced = first.publish(&said("lost"), [0, 2], 2).unwrap_err();
    assert!(matches!(fenced, Error::Fenced(_)), "{fenced}");
    let still = first.committed().unwrap_err();
    assert!(matches!(still, Error::Fenced(_)), "{still}");
    second.publish(&said("two"), [0, 2], 2).unwrap();
    assert_eq!(second.settled().unwrap(), 2);
    assert_eq!(await_heard(&log, 2), ["one", "two"]);
    let mut other = log.publisher(Owner::Record(1)).unwrap();
    assert_eq!(other.committed().unwrap(), [0, 0], "owners are strangers to each other");
    assert_eq!(other.settled().unwrap(), 0);
}

#[test]
fn a_transaction_that_outlives_its_timeout_leaves_nothing() {
    let (server, _guard) = shared();
    let mut options: Options = options(server);
    options.passed.insert("transaction.timeout.ms".to_owned(), "1500".to_owned());
    let log = Arc::new(connect(&options));
    let watched = Arc::clone(&log);
    let hold = move || {
        // The coordinator ends it: then the last stable offset passes its record and marker.
        until("end of the transaction", || {
            let Range { end, .. } = watched.bounds(Topic::Notifications, 0).ok()?;
            (end >= 2).then_some(())
        });
    };
    let crash = once_after(Step::Flushed, hold, false);
    let mut slow = log.kafka_publisher(OWNER).unwrap().crashing(crash);
    let error = slow.publish(&said("one"), [0, 1], 1).unwrap_err();
    assert!(matches!(error, Error::Fenced(_) | Error::Unavailable(_)), "{error}");
    say(&log, &mut slow, &["one", "two"]);
    assert_eq!(await_heard(&log, 2), ["one", "two"]);
}

#[test]
fn an_answer_to_a_commit_that_is_late_is_waited_for() {
    let (server, _guard) = alone();
    let log = connect(&options(server));
    let (stop, stopped) = std::sync::mpsc::channel();
    let crash = once_after(
        Step::OffsetsSent,
        move || {
            server.signal("-STOP");
            stop.send(Instant::now()).unwrap();
        },
        false,
    );
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let since = stopped.recv().unwrap();
            // Longer than one call waits for its answer.
            until("end of the pause", || (since.elapsed().as_secs() >= 7).then_some(()));
            server.signal("-CONT");
        });
        let mut publisher = log.kafka_publisher(OWNER).unwrap().crashing(crash);
        say(&log, &mut publisher, &["one", "two"]);
    });
    assert_eq!(await_heard(&log, 2), ["one", "two"]);
}

#[test]
fn a_broker_that_is_away_is_told_of_and_comes_back() {
    let (server, _guard) = alone();
    let log = connect(&options(server));
    log.append(&[(0, vec![b"before"])]).unwrap();
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    assert_eq!(collect(&mut *reader, 0, 1).len(), 1);
    server.kill();
    until("failure", || log.failure());
    let mut batch = trailproof::log::RecordBatch::default();
    let error = until("trouble", || reader.poll(1, 100, &mut batch).err());
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    server.restart();
    until("recovery", || log.failure().is_none().then_some(()));
    until("append", || log.append(&[(0, vec![b"after"])]).ok());
    let after = collect(&mut *reader, 1, 1);
    assert_eq!(after[0], (1, "after".to_owned()));
    reader.wait(2, Duration::from_millis(1));
}
