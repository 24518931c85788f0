//! The partitions that this instance runs, as the broker assigns and revokes them.
//!
//! **Invariant:** a revoked partition is no longer run when [`Partitions::revoked`] returns, or, if
//! a step outlasts the budget, publishes nothing more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;

use super::slot::{Context, Input, Restoring, Slot};
use crate::log::broker::Partitions;

/// How long partitions may take to stop before the broker goes on without waiting.
const REVOKE_BUDGET: Duration = Duration::from_secs(10);

/// The partitions of this instance.
pub(super) struct Assignment {
    context: Arc<Context>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    assigned: BTreeMap<Input, Arc<Slot>>,
    /// Revoked, and not done when last looked at.
    leaving: Vec<Arc<Slot>>,
}

impl Assignment {
    /// None yet.
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context, slots: Mutex::default() }
    }

    fn locked(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The assigned partitions' slots.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.locked().assigned.values().cloned().collect()
    }

    /// What does not work, by name of the job.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        self.slots().iter().flat_map(|slot| slot.problems()).collect()
    }

    /// The partitions that are not restored yet.
    pub(super) fn restoring(&self) -> Vec<Restoring> {
        self.slots().iter().filter_map(|slot| slot.restoring()).collect()
    }

    /// The assigned partitions of `traces` and how far each is applied.
    pub(super) fn applied(&self) -> Vec<(u32, Offset)> {
        let slots = self.slots();
        let traces = slots.iter().filter(|slot| slot.input.0 == Topic::Traces);
        traces.map(|slot| (slot.input.1, slot.applied())).collect()
    }

    /// The number of assigned partitions of a topic.
    pub(super) fn count(&self, topic: Topic) -> usize {
        self.locked().assigned.keys().filter(|(own, _)| *own == topic).count()
    }

    /// Waits until every partition is restored or has a problem, at the longest `timeout`.
    pub(super) fn wait_settled(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        self.slots().iter().for_each(|slot| slot.wait_settled(until));
    }

    /// Stops every partition, and waits for it at the longest `timeout`; whether all have stopped.
    pub(super) fn end(&self, timeout: Duration) -> bool {
        let mut slots = self.locked();
        let mut all = std::mem::take(&mut slots.leaving);
        all.extend(std::mem::take(&mut slots.assigned).into_values());
        drop(slots);
        all.iter().for_each(|slot| slot.ask_to_stop(false));
        let until = Instant::now() + timeout;
        all.iter().filter(|slot| !slot.wait_done(until)).count() == 0
    }
}

impl Partitions for Assignment {
    fn assigned(&self, partitions: &[(Topic, u32)]) {
        let mut slots = self.locked();
        slots.leaving.retain(|slot| !slot.wait_done(Instant::now()));
        for input in partitions {
            if slots.assigned.contains_key(input) {
                continue;
            }
            let before = slots.leaving.iter().rev().find(|slot| slot.input == *input).cloned();
            let slot = Slot::start(&self.context, *input, before);
            slots.assigned.insert(*input, slot);
        }
    }

    fn revoked(&self, partitions: &[(Topic, u32)], lost: bool) {
        let mut slots = self.locked();
        let gone: Vec<Arc<Slot>> =
            partitions.iter().filter_map(|input| slots.assigned.remove(input)).collect();
        slots.leaving.extend(gone.iter().cloned());
        drop(slots);
        gone.iter().for_each(|slot| slot.ask_to_stop(lost));
        let until = Instant::now() + REVOKE_BUDGET;
        for slot in &gone {
            if !slot.wait_done(until) {
                tracing::warn!(job = slot.name, "the step in hand goes on after the revocation");
                // It may be long: whoever runs the partition next must not meet its outcome.
                slot.ask_to_stop(true);
            }
        }
        self.locked().leaving.retain(|slot| !slot.wait_done(Instant::now()));
    }
}
