//! The simulator's ports under the suites that every adapter passes: a fake that promised more or
//! less than the real ones would make the simulator prove nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use trailproof_topology::effect::Topic;

use super::hub::{Faults, Hub, Inner, Rates};
use super::logs::{Logs, Reader, SimPublisher};
use super::objects::{Objects, SimObjects};
use super::plant::Plant;
use super::random::Random;
use super::store::SimStore;
use super::{log_suite, object_suite, store_suite};

/// A world in which nothing fails.
fn hub() -> Arc<Hub> {
    let faults = Faults {
        random: Random(0),
        rates: Rates::default(),
        on: false,
        calls: 0,
        crash_at: Vec::new(),
        crashed: false,
    };
    Hub::new(Inner {
        now_ms: 1,
        clamped: true,
        open_bytes_max: 0,
        commits_per_flush: usize::MAX,
        holes: false,
        logs: Logs::with_notifications(2, 0, 3),
        objects: Objects::default(),
        faults,
        catalogs: BTreeMap::new(),
        marks: Default::default(),
        plant: Plant::None,
        trace: None,
    })
}

struct SimLog(Arc<Hub>);

impl log_suite::Factory for SimLog {
    type Reader = Reader;
    type Publisher = SimPublisher;

    fn reader(&self, topic: Topic, partition: u32) -> Reader {
        let (hub, name) = (Arc::clone(&self.0), "suite".to_owned());
        Reader { hub, topic, partition, name }
    }

    fn publisher(&self, owner: &str) -> SimPublisher {
        SimPublisher::new(&self.0, owner)
    }

    fn end(&self, partition: u32) -> u64 {
        self.0.lock().logs.partition(Topic::Traces, partition).end()
    }

    fn set_clock(&self, now_ms: i64) -> bool {
        self.0.lock().now_ms = now_ms;
        true
    }
}

#[test]
fn the_log_keeps_the_promises_of_its_port() {
    log_suite::suite(|| SimLog(hub()));
}

#[test]
fn the_store_keeps_the_promises_of_its_port() {
    store_suite::suite::<SimStore>(|test| test(&SimStore::new(&hub())));
}

#[test]
fn the_objects_keep_the_promises_of_their_port() {
    object_suite::suite::<SimObjects>(|test| test(&SimObjects(hub())));
}
