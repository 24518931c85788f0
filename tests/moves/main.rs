//! Partitions move between two engines while traces flow: nothing is lost or doubled.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hub;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use trailproof::api::backend::Backend as _;
use trailproof::applied::Gap;
use trailproof::engine::Engine;
use trailproof::log::broker::{Broker, Owner};
use trailproof::metrics::{INPUT_LAG, Metrics};
use trailproof::object::{self, Metadata, ObjectStore, Put};
use trailproof_topology::effect::{LANES, Topic};
use world::{PARTITIONS, World, until, viewed};

/// Every input partition.
fn all() -> Vec<(Topic, u32)> {
    let traces = (0..PARTITIONS).map(|partition| (Topic::Traces, partition));
    traces.chain((0..2).map(|partition| (Topic::Files, partition))).collect()
}

fn settled(engine: &Engine) -> bool {
    engine.restoring().is_empty() && engine.problems().is_empty()
}

/// Waits until every trace is in a file, then checks that each is in one, and was told of once.
fn audit(world: &World, engines: &[&Engine]) {
    let made = world.made();
    world.pass_cycles(3);
    until("every trace is in a file", || {
        world.files().iter().map(|file| file.count).sum::<u64>() >= made
    });
    until("every trace is told of", || world.notified().len() as u64 >= made);
    let filed = world.filed();
    assert_eq!(filed.len() as u64, made);
    assert!(filed.values().all(|times| *times == 1), "{filed:?}");
    let notified = world.notified();
    assert_eq!(notified.len() as u64, made);
    assert!(notified.values().all(|times| *times == 1));
    let seen: u64 = engines.iter().map(|engine| viewed(engine)).sum();
    assert_eq!(seen, made);
}

#[test]
fn partitions_move_while_traces_flow() {
    let mut world = World::new();
    let engines = [world.start(0), world.start(1)];
    let mut at = vec![0; all().len()];
    world.hub.give(0, &all());
    for round in 0..60_usize {
        world.append(20);
        // Each input moves at its own pace; every third move is a loss.
        for (index, input) in all().into_iter().enumerate() {
            if round % (index + 2) == 0 {
                let lost = (round + index) % 3 == 0;
                let (from, to) = (at[index], 1 - at[index]);
                if lost {
                    // The other instance has it before this one knows.
                    world.hub.give(to, &[input]);
                    world.hub.take(from, &[input], true);
                } else {
                    world.hub.take(from, &[input], false);
                    world.hub.give(to, &[input]);
                }
                at[index] = to;
            }
        }
    }
    until("all is restored", || engines.iter().all(settled));
    let both = [&engines[0], &engines[1]];
    let (here, there): (Vec<u32>, Vec<u32>) =
        (0..PARTITIONS).partition(|own| at[*own as usize] == 0);
    assert_eq!((engines[1].coverage().missing, engines[0].coverage().missing), (here, there));
    audit(&world, &both);
    // Each folder is closed when its partition has gone: both instances can open all of them.
    let [first, second] = engines;
    first.stop().unwrap();
    second.stop().unwrap();
    for instance in 0..2 {
        let engine = world.start(instance);
        world.hub.give(instance, &all());
        until("all is restored", || settled(&engine));
        assert_eq!(viewed(&engine), world.made());
        assert_eq!(engine.coverage().missing, Vec::<u32>::new());
        engine.stop().unwrap();
    }
}

#[test]
fn a_catalog_that_another_instance_brings_into_force_holds_here_too() {
    let mut world = World::new();
    let first = world.start(0);
    world.hub.give(0, &all());
    world.append(2);
    until("the first traces", || settled(&first) && viewed(&first) == 8);
    world.catalog.region = "north".to_owned();
    let second = world.start(1);
    assert_eq!(second.catalog().version, 2);
    world.append(2);
    until("the new version", || first.catalog().version == 2 && viewed(&first) == 16);
    audit(&world, &[&first, &second]);
}

#[test]
fn a_lag_that_nobody_can_tell_stays_what_it_was() {
    let mut world = World::new();
    let engine = world.start(0);
    world.hub.give(0, &all());
    world.append(3);
    until("the traces", || settled(&engine) && viewed(&engine) == 12);
    let metrics = Metrics::new().unwrap();
    metrics.gauge(INPUT_LAG, &[("partition", "2")]).set(7.0);
    let lag = |line: &str| metrics.render().contains(&format!("\n{INPUT_LAG}{line}\n"));
    world.hub.away.store(true, Ordering::SeqCst);
    engine.measure(&metrics);
    assert!(lag("{partition=\"2\"} 7"));
    world.hub.away.store(false, Ordering::SeqCst);
    engine.measure(&metrics);
    assert!(lag("{partition=\"2\"} 0") && lag("{partition=\"0\"} 0"));
    engine.stop().unwrap();
}

/// A store whose puts wait until they are let through.
struct Slow {
    inner: Arc<dyn ObjectStore>,
    open: std::sync::Mutex<bool>,
    opened: std::sync::Condvar,
}

impl ObjectStore for Slow {
    fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        metadata: &Metadata,
    ) -> Result<Put, object::Error> {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        self.inner.put(bucket, key, bytes, metadata)
    }

    fn get(&self, bucket: &str, key: &str) -> Result<Option<object::Object>, object::Error> {
        self.inner.get(bucket, key)
    }

    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<(), object::Error> {
        self.inner.list(bucket, prefix, visit)
    }

    fn buckets(&self) -> Result<Vec<String>, object::Error> {
        self.inner.buckets()
    }
}

#[test]
fn what_is_lost_publishes_nothing_more() {
    let mut world = World::new();
    let slow = Arc::new(Slow {
        inner: Arc::clone(&world.objects),
        open: std::sync::Mutex::new(false),
        opened: std::sync::Condvar::new(),
    });
    world.objects = Arc::clone(&slow) as Arc<dyn ObjectStore>;
    let engine = world.start(0);
    let traces = [(Topic::Traces, 0)];
    world.hub.give(0, &traces);
    world.append(5);
    // No file can be put, so all that is published so far is notifications.
    until("notifications", || world.notified().len() == 5);
    world.pass_cycles(2);
    until("a sealed cycle", || world.hub.log.bounds(Topic::Traces, 0).unwrap().end > 6);
    let before = world.hub.publishes(0);
    std::thread::scope(|scope| {
        scope.spawn(|| world.hub.take(0, &traces, true));
        // The put in hand ends only after the loss; its record must not be published.
        until("the loss", || engine.coverage().missing.len() == PARTITIONS as usize);
        *slow.open.lock().unwrap() = true;
        slow.opened.notify_all();
    });
    assert_eq!(world.hub.publishes(0), before);
    assert!(world.files().is_empty());
    // Another instance finds the object and publishes.
    let other = world.start(1);
    world.hub.give(1, &traces);
    until("the file", || world.files().iter().map(|file| file.count).sum::<u64>() == 5);
    assert_eq!(world.notified().len(), 5);
    drop((engine, other));
}

#[test]
fn a_partition_that_cannot_start_holds_up_no_other() {
    let mut world = World::new();
    // A file where the folder should be.
    let state = world.folder.path().join("state-0");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("record-1"), "in the way").unwrap();
    let engine = world.start(0);
    world.hub.give(0, &all());
    world.append(3);
    until("the others", || engine.coverage().missing == [1] && viewed(&engine) == 9);
    let problems = engine.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].0, "record-1");
    assert!(engine.ready().iter().any(|check| !check.ok));
    std::fs::remove_file(state.join("record-1")).unwrap();
    until("all", || settled(&engine) && viewed(&engine) == 12);
    engine.stop().unwrap();
}

/// Copies a folder of state.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The only problem of an engine, once there is one.
fn problem(engine: &Engine) -> String {
    until("a problem", || !engine.problems().is_empty());
    engine.problems()[0].1.clone()
}

#[test]
fn a_log_that_is_another_one_stops_its_partition() {
    let (mut world, mut other) = (World::new(), World::new());
    let traces = [(Topic::Traces, 2)];
    for (world, each) in [(&mut world, 10), (&mut other, 4)] {
        let engine = world.start(0);
        world.hub.give(0, &traces);
        world.append(each);
        until("the traces", || settled(&engine) && viewed(&engine) == each);
        engine.stop().unwrap();
    }
    let state = |world: &World, instance: usize| {
        world.folder.path().join(format!("state-{instance}")).join("record-2")
    };
    copy(&state(&world, 0), &state(&other, 1));
    let engine = other.start(1);
    other.hub.give(1, &traces);
    let text = problem(&engine);
    assert!(text.contains("it ends at offset 5, and 11 were applied"), "{text}");
    drop(engine);
    // Long enough, with other records.
    other.append(20);
    let engine = other.start(1);
    other.hub.give(1, &traces);
    let text = problem(&engine);
    assert!(text.contains("offset 10 holds another record than was applied"), "{text}");
    assert!(text.contains("new buckets"), "{text}");
}

/// The rows are new here: only the group knows that the log was longer. What comes now would be
/// taken for what was published from the records that are gone.
#[test]
fn a_log_shorter_than_the_group_knows_stops_an_instance_without_rows() {
    let mut world = World::new();
    let traces = [(Topic::Traces, 0)];
    let engine = world.start(0);
    world.hub.give(0, &traces);
    world.append(5);
    until("the notifications", || world.notified().len() == 5);
    engine.stop().unwrap();
    let broker = world.hub.broker(1);
    let mut publisher = broker.publisher(Owner::Record(0)).unwrap();
    let lanes = publisher.committed().unwrap();
    assert_eq!(publisher.settled().unwrap(), 6, "it tells how far the input was read");
    publisher.publish(&[], lanes, 1_000).unwrap();
    let engine = world.start(1);
    world.hub.give(1, &traces);
    let text = problem(&engine);
    assert!(text.contains("it ends at offset 6, and 1000 were applied"), "{text}");
    assert!(text.contains("new kafka.group"), "{text}");
}

/// The reader says so once, and in the midst of a batch: what it would read next may be other
/// records than those that were to come.
#[test]
fn a_log_that_changes_under_its_reader_is_compared_again() {
    let mut world = World::new();
    let traces = [(Topic::Traces, 0)];
    let engine = world.start(0);
    world.append(4_000);
    world.hub.change.store(true, Ordering::SeqCst);
    world.hub.give(0, &traces);
    until("a new reader", || world.hub.readers.load(Ordering::SeqCst) == 2);
    until("all is restored", || settled(&engine) && viewed(&engine) == 4_000);
    until("every trace is told of", || world.notified().len() == 4_000);
    assert!(world.notified().values().all(|times| *times == 1));
    engine.stop().unwrap();
}

#[test]
fn records_gone_before_they_were_applied_stop_their_partition() {
    let mut world = World::new();
    let traces = [(Topic::Traces, 0)];
    let engine = world.start(0);
    world.hub.give(0, &traces);
    world.append(5);
    until("the notifications", || world.notified().len() == 5);
    engine.stop().unwrap();
    world.append(10);
    world.append(10);
    world.hub.log.trim(Topic::Traces, 0, 16).unwrap();
    let start = world.hub.log.bounds(Topic::Traces, 0).unwrap().start;
    assert!(start > 6, "{start}");
    let engine = world.start(0);
    world.hub.give(0, &traces);
    let text = problem(&engine);
    let gap = text.split('"').nth(1).unwrap().to_owned();
    assert_eq!(gap, format!("traces/0@6..{start}"));
    drop(engine);
    // Without any state it cannot be rebuilt, whatever is accepted.
    world.accept_gaps = vec![Gap::parse(&format!("traces/0@0..{start}")).unwrap()];
    let engine = world.start(1);
    world.hub.give(1, &traces);
    let text = problem(&engine);
    assert!(text.contains("is behind what was published from it, and cannot be"), "{text}");
    drop(engine);
    // Accepted, it goes on, and says how many were lost.
    world.accept_gaps = vec![Gap::parse(&gap).unwrap()];
    let engine = world.start(0);
    world.hub.give(0, &traces);
    until("it goes on", || settled(&engine) && viewed(&engine) == 5 + 26 - start);
    world.pass_cycles(3);
    until("the loss is told", || world.lost() == start - 6);
    engine.stop().unwrap();
}

#[test]
fn a_group_that_forgot_what_was_published_stops_its_partition() {
    let mut world = World::new();
    let traces = [(Topic::Traces, 0)];
    let engine = world.start(0);
    world.hub.give(0, &traces);
    world.append(5);
    until("the notifications", || world.notified().len() == 5);
    engine.stop().unwrap();
    let mut publisher = Broker::publisher(&world.hub.log, Owner::Record(0)).unwrap();
    publisher.publish(&[], [0; LANES], 0).unwrap();
    let engine = world.start(0);
    world.hub.give(0, &traces);
    let text = problem(&engine);
    assert!(text.contains("0 effects of lane Notify were published"), "{text}");
    assert!(text.contains("kafka.group"), "{text}");
    drop(engine);
    assert_eq!(world.notified().values().sum::<u32>(), 5, "nothing is said again");
}
