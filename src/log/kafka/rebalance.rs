//! What the group decides, and how this instance follows.
//!
//! The member's partitions are paused at once and assigned at their end: what slips through is
//! ignored, because records are read by each partition's own reader. Who runs the partitions is
//! told on another thread, in order; stopping may take [`REVOKE_BUDGET`], then the partition is
//! given up all the same: what the late one still publishes is refused, for its transactional id is
//! taken over.
//!
//! **Invariant:** a partition is in [`Standing`] from its assignment until its revocation.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use trailproof_topology::effect::Topic;

use super::context::{Health, log_line};
use super::options::Names;
use super::said::{Output, names};
use crate::log::broker::Partitions;
use crate::metrics::{self, Metrics};

/// How long stopping revoked partitions may hold up the group.
pub const REVOKE_BUDGET: Duration = Duration::from_secs(30);

/// What this instance is in the group.
#[derive(Debug, Default)]
pub(super) struct Standing {
    assigned: BTreeSet<Output>,
    joined: bool,
    /// Why it was thrown out and has not joined again; no partition is its own then.
    thrown_out: Option<String>,
}

/// A lock on what this instance is in the group.
pub(super) type SharedStanding = Arc<Mutex<Standing>>;

fn locked(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a partition is this instance's.
pub(super) fn holds(standing: &Mutex<Standing>, partition: Output) -> bool {
    let standing = locked(standing);
    standing.thrown_out.is_none() && standing.assigned.contains(&partition)
}

/// All partitions that are this instance's.
pub(super) fn held(standing: &Mutex<Standing>) -> Vec<Output> {
    locked(standing).assigned.iter().copied().collect()
}

/// Notes why it is thrown out, or that it joins anew.
pub(super) fn note_thrown_out(standing: &Mutex<Standing>, why: Option<String>) {
    let mut standing = locked(standing);
    standing.joined &= why.is_some();
    standing.thrown_out = why;
}

/// Why it is no member in good standing, as far as the group goes.
pub(super) fn problem(standing: &Mutex<Standing>) -> Option<String> {
    let standing = locked(standing);
    let waiting = (!standing.joined).then(|| "kafka: not yet a member of the group".to_owned());
    standing.thrown_out.clone().or(waiting)
}

/// What the telling thread is to tell.
pub(super) enum Tell {
    Assigned(Vec<Output>),
    Revoked(Vec<Output>, bool, SyncSender<()>),
}

/// The callbacks of the member's consumer.
#[derive(Clone)]
pub(super) struct Rebalances {
    pub(super) standing: SharedStanding,
    pub(super) tell: Sender<Tell>,
    pub(super) names: Names,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
}

/// The member's consumer.
pub(super) type MemberConsumer = BaseConsumer<Rebalances>;

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.failed(&error, reason);
    }
}

impl ConsumerContext for Rebalances {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        self.metrics.counter(metrics::KAFKA_REBALANCES, &[]).increment(1);
        self.health.answered();
        let done = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, list)
        } else {
            self.revoke(consumer, list)
        };
        if let Err(error) = done {
            tracing::error!(%error, "the group's decision could not be followed");
        }
    }
}

impl Rebalances {
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &mut TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let partitions = self.inputs(list);
        list.set_all_offsets(Offset::End)?;
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list)?,
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(list)?,
        }
        if list.count() > 0 {
            consumer.pause(list)?;
        }
        let mut standing = locked(&self.standing);
        let first = !standing.joined;
        standing.joined = true;
        standing.assigned.extend(partitions.iter().copied());
        drop(standing);
        if first || !partitions.is_empty() {
            tracing::info!(partitions = %names(&partitions), "assigned");
            let _ = self.tell.send(Tell::Assigned(partitions));
        }
        Ok(())
    }

    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let lost = consumer.assignment_lost();
        self.give_up(self.inputs(list), lost);
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
        }
    }

    /// The input partitions of a list.
    fn inputs(&self, list: &TopicPartitionList) -> Vec<Output> {
        let topics = [Topic::Traces, Topic::Files];
        let one = |name: &str, partition: i32| {
            let topic = topics.into_iter().find(|topic| self.names.of(*topic) == name)?;
            Some((topic, u32::try_from(partition).ok()?))
        };
        list.elements().iter().filter_map(|each| one(each.topic(), each.partition())).collect()
    }

    /// Has partitions stopped, within the budget.
    pub(super) fn give_up(&self, partitions: Vec<Output>, lost: bool) {
        let forget = |partitions: &[Output]| {
            let mut standing = locked(&self.standing);
            partitions.iter().for_each(|one| _ = standing.assigned.remove(one));
        };
        let held: Vec<_> = {
            let standing = locked(&self.standing);
            partitions.into_iter().filter(|one| standing.assigned.contains(one)).collect()
        };
        if held.is_empty() {
            return;
        }
        tracing::info!(partitions = %names(&held), lost, "revoked");
        if lost {
            forget(&held);
        }
        let (done, stopped) = sync_channel(1);
        if self.tell.send(Tell::Revoked(held.clone(), lost, done)).is_ok()
            && stopped.recv_timeout(REVOKE_BUDGET).is_err()
        {
            tracing::error!(partitions = %names(&held), "did not stop in time; given up anyway");
        }
        forget(&held);
    }
}

/// Tells of each change, in order.
pub(super) fn tell_all(told: &Receiver<Tell>, partitions: &dyn Partitions) {
    for change in told {
        match change {
            Tell::Assigned(list) => partitions.assigned(&list),
            Tell::Revoked(list, lost, done) => {
                partitions.revoked(&list, lost);
                // Whoever waited may have given up.
                let _ = done.send(());
            }
        }
    }
}
