//! Membership: one consumer that only takes part in the group.
//!
//! It is polled by a thread of its own that does nothing else, so the group never waits for a
//! restore. Its partitions are paused at once and assigned at their end: what slips through is
//! ignored, because records are read by each partition's own reader. Who runs the partitions is
//! told on another thread, in order; stopping may take [`REVOKE_BUDGET`], then the partition is
//! given up all the same: what the late one still publishes is refused, for its transactional id is
//! taken over.
//!
//! **Invariant:** a partition is in [`Standing`] from its assignment until its revocation.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use trailproof_topology::effect::Topic;

use super::Cluster;
use super::context::{Health, log_line, unavailable};
use super::options::Names;
use crate::log::Error;
use crate::log::broker::{Membership, Partitions};
use crate::metrics::{self, Metrics};

/// How long stopping revoked partitions may hold up the group.
pub const REVOKE_BUDGET: Duration = Duration::from_secs(30);

/// How often the thread looks whether it should stop.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// Polls that leaving the group takes at most.
const LEAVE_POLLS: usize = 50;

/// What this instance is in the group.
#[derive(Debug, Default)]
pub(super) struct Standing {
    assigned: BTreeSet<(Topic, u32)>,
    joined: bool,
    /// Set once and for good: another process took this one's name.
    fatal: Option<String>,
}

/// A lock on what this instance is in the group.
pub(super) type SharedStanding = Arc<Mutex<Standing>>;

fn locked(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a partition is this instance's.
pub(super) fn holds(standing: &Mutex<Standing>, partition: (Topic, u32)) -> bool {
    let standing = locked(standing);
    standing.fatal.is_none() && standing.assigned.contains(&partition)
}

/// What the telling thread is to tell.
enum Tell {
    Assigned(Vec<(Topic, u32)>),
    Revoked(Vec<(Topic, u32)>, bool, SyncSender<()>),
}

/// The callbacks of the member's consumer.
pub(super) struct Rebalances {
    standing: SharedStanding,
    tell: Sender<Tell>,
    names: Names,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
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
    fn inputs(&self, list: &TopicPartitionList) -> Vec<(Topic, u32)> {
        let topics = [Topic::Traces, Topic::Files];
        let one = |name: &str, partition: i32| {
            let topic = topics.into_iter().find(|topic| self.names.of(*topic) == name)?;
            Some((topic, u32::try_from(partition).ok()?))
        };
        list.elements().iter().filter_map(|each| one(each.topic(), each.partition())).collect()
    }

    /// Has partitions stopped, within the budget.
    fn give_up(&self, partitions: Vec<(Topic, u32)>, lost: bool) {
        let forget = |partitions: &[(Topic, u32)]| {
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

fn names(partitions: &[(Topic, u32)]) -> String {
    let names: Vec<String> =
        partitions.iter().map(|(topic, number)| format!("{}/{number}", topic.name())).collect();
    names.join(" ")
}

/// Membership in the group, for as long as it lives.
pub(super) struct GroupMember {
    standing: SharedStanding,
    health: Arc<Health>,
    stop: Arc<AtomicBool>,
    polling: Option<JoinHandle<()>>,
    telling: Option<JoinHandle<()>>,
}

impl GroupMember {
    /// Joins; the first assignment comes later.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unavailable`].
    pub(super) fn join(
        cluster: &Arc<Cluster>,
        instance: &str,
        partitions: Arc<dyn Partitions>,
    ) -> Result<Self, Error> {
        let standing = SharedStanding::default();
        let (tell, told) = channel();
        let context = Rebalances {
            standing: Arc::clone(&standing),
            tell,
            names: cluster.names.clone(),
            health: Arc::clone(&cluster.health),
            metrics: Arc::clone(&cluster.metrics),
        };
        let consumer: Arc<MemberConsumer> = cluster
            .options
            .member(instance)
            .create_with_context(context)
            .map(Arc::new)
            .map_err(|error| Error::Refused(format!("kafka: the member's options: {error}")))?;
        consumer
            .subscribe(&[cluster.names.of(Topic::Traces), cluster.names.of(Topic::Files)])
            .map_err(|error| unavailable("joining the group", &error))?;
        cluster.joined(&consumer, &standing);
        let stop = Arc::new(AtomicBool::new(false));
        let telling = spawn("kafka-partitions", move || tell_all(&told, &*partitions))?;
        let polling = spawn("kafka-member", {
            let (standing, stop) = (Arc::clone(&standing), Arc::clone(&stop));
            move || poll_all(consumer, &standing, &stop)
        })?;
        let health = Arc::clone(&cluster.health);
        Ok(Self { standing, health, stop, polling: Some(polling), telling: Some(telling) })
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| Error::Unavailable(format!("cannot start a thread: {error}")))
}

/// Tells of each change, in order.
fn tell_all(told: &Receiver<Tell>, partitions: &dyn Partitions) {
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

fn poll_all(consumer: Arc<MemberConsumer>, standing: &Mutex<Standing>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        if let Some(Err(KafkaError::MessageConsumptionFatal(code))) = consumer.poll(POLL_EVERY) {
            let why = format!("kafka: {code}; is kafka.instance another process's too?");
            tracing::error!(error = %why, "no member of the group any more; restart this process");
            let held: Vec<_> = locked(standing).assigned.iter().copied().collect();
            locked(standing).fatal = Some(why);
            consumer.context().give_up(held, true);
        }
    }
    let held: Vec<_> = locked(standing).assigned.iter().copied().collect();
    consumer.context().give_up(held, false);
    // A static member that only closes keeps its partitions until its session ends.
    consumer.unsubscribe();
    for _ in 0..LEAVE_POLLS {
        if consumer.assignment().is_ok_and(|list| list.count() == 0) {
            break;
        }
        consumer.poll(POLL_EVERY);
    }
}

impl Membership for GroupMember {
    fn problem(&self) -> Option<String> {
        let standing = locked(&self.standing);
        let waiting = (!standing.joined).then(|| "kafka: not yet a member of the group".to_owned());
        standing.fatal.clone().or_else(|| self.health.trouble()).or(waiting)
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The polling thread owns the last sender of the telling thread's channel.
        for thread in [self.polling.take(), self.telling.take()].into_iter().flatten() {
            // A thread that panicked has already said so.
            let _ = thread.join();
        }
    }
}
