//! Membership: one consumer that only takes part in the group.
//!
//! It is polled by a thread of its own that does nothing else, so the group never waits for a
//! restore. What the group decides is followed in [`rebalance`](super::rebalance).
//!
//! A consumer that the group throws out for good is of no use any more: its partitions are given up
//! as lost, and after a while a new one joins. Mostly another process has joined under this
//! instance's name. While that one is a member this one stays away, or the two would throw each
//! other out in turn.
//!
//! **Invariant:** while no consumer is a member, no partition is this instance's, and
//! [`Membership::problem`] says why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use trailproof_topology::effect::Topic;

use super::Cluster;
use super::context::{Health, unavailable};
use super::rebalance::{
    MemberConsumer, Rebalances, SharedStanding, held, note_thrown_out, problem, tell_all,
};
use crate::log::Error;
use crate::log::broker::{Membership, Partitions};

/// How often the thread looks whether it should stop.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// Polls that leaving the group takes at most.
const LEAVE_POLLS: usize = 50;

/// Pauses before it joins again: the first, and the longest. Each is drawn from half of that on.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A membership that lasted this long was none that keeps failing.
const LASTED: Duration = Duration::from_secs(600);

/// How long the coordinator may take to say who is in the group.
const MEMBERS_WAIT: Duration = Duration::from_secs(5);

/// Bytes that a broker puts behind a static member's name to make its member id: `-` and a UUID.
const MEMBER_SUFFIX: usize = 37;

/// Membership in the group, for as long as it lives.
pub(super) struct GroupMember {
    cluster: Weak<Cluster>,
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
        let joining = Joining {
            cluster: Arc::clone(cluster),
            instance: instance.to_owned(),
            context,
            stop: Arc::default(),
        };
        let consumer = joining.join()?;
        let stop = Arc::clone(&joining.stop);
        let telling = spawn("kafka-partitions", move || tell_all(&told, &*partitions))?;
        let polling = spawn("kafka-member", move || joining.stay(consumer))?;
        Ok(Self {
            cluster: Arc::downgrade(cluster),
            standing,
            health: Arc::clone(&cluster.health),
            stop,
            polling: Some(polling),
            telling: Some(telling),
        })
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| Error::Unavailable(format!("cannot start a thread: {error}")))
}

/// What it takes to join, again and again.
struct Joining {
    cluster: Arc<Cluster>,
    instance: String,
    context: Rebalances,
    stop: Arc<AtomicBool>,
}

impl Joining {
    /// A new consumer that has asked for its share.
    fn join(&self) -> Result<Arc<MemberConsumer>, Error> {
        let consumer: Arc<MemberConsumer> = self
            .cluster
            .options
            .member(&self.instance)
            .create_with_context(self.context.clone())
            .map(Arc::new)
            .map_err(|error| Error::Refused(format!("kafka: the member's options: {error}")))?;
        consumer
            .subscribe(&[self.cluster.names.of(Topic::Traces), self.cluster.names.of(Topic::Files)])
            .map_err(|error| unavailable("joining the group", &error))?;
        self.cluster.joined(&consumer, &self.context.standing);
        Ok(consumer)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Is a member until it is told to stop.
    fn stay(self, consumer: Arc<MemberConsumer>) {
        let (mut consumer, mut pause) = (Some(consumer), PAUSE_MIN);
        while !self.is_stopped() {
            let Some(current) = consumer.take() else {
                consumer = self.join_again(&mut pause);
                continue;
            };
            let began = Instant::now();
            match self.poll(&current) {
                None => consumer = Some(current),
                Some(code) => {
                    if began.elapsed() >= LASTED {
                        pause = PAUSE_MIN;
                    }
                    self.note(&format!(
                        "thrown out of the group: {code}; it joins again by itself"
                    ));
                    self.context.give_up(held(&self.context.standing), true);
                    // Its callbacks are served once more; there is nothing left to give up.
                    drop(current);
                }
            }
        }
        self.context.give_up(held(&self.context.standing), false);
        if let Some(consumer) = consumer {
            leave(&consumer);
        }
    }

    /// Polls until it is told to stop, or thrown out; why.
    fn poll(&self, consumer: &BaseConsumer<Rebalances>) -> Option<Code> {
        while !self.is_stopped() {
            if let Some(Err(KafkaError::MessageConsumptionFatal(code))) = consumer.poll(POLL_EVERY)
            {
                return Some(code);
            }
        }
        None
    }

    /// Says why it is no member.
    fn note(&self, why: &str) {
        tracing::error!(instance = self.instance, "{why}");
        note_thrown_out(&self.context.standing, Some(format!("kafka: {why}")));
    }

    /// Joins after a pause, unless another process is there under this name.
    fn join_again(&self, pause: &mut Duration) -> Option<Arc<MemberConsumer>> {
        let until = Instant::now() + jittered(*pause);
        *pause = (*pause * 2).min(PAUSE_MAX);
        while Instant::now() < until && !self.is_stopped() {
            std::thread::sleep(POLL_EVERY);
        }
        if self.is_stopped() {
            return None;
        }
        if let Some(host) = self.namesake() {
            self.note(&format!(
                "thrown out of the group: another process is in it as instance {}, from {host}. \
                 End that one, or give one of the two another kafka.instance; this one joins once \
                 the name is free",
                self.instance
            ));
            return None;
        }
        note_thrown_out(&self.context.standing, None);
        match self.join() {
            Ok(consumer) => Some(consumer),
            Err(error) => {
                self.note(&error.to_string());
                None
            }
        }
    }

    /// Where a member comes from that has this instance's name; this one has none at the moment.
    fn namesake(&self) -> Option<String> {
        let group = self.cluster.options.group.as_str();
        // Where nobody can say, joining finds out.
        let groups = self.cluster.group.fetch_group_list(Some(group), MEMBERS_WAIT).ok()?;
        let mut members = groups.groups().iter().flat_map(|group| group.members());
        let other = members.find(|member| is_named(member.id(), &self.instance))?;
        Some(other.client_host().trim_start_matches('/').to_owned())
    }
}

/// Whether a member id is of the static member with this name.
fn is_named(member: &str, instance: &str) -> bool {
    let rest = member.strip_prefix(instance);
    rest.is_some_and(|rest| rest.len() == MEMBER_SUFFIX && rest.starts_with('-'))
}

/// From half of a pause to all of it: of two that wait for one thing, one comes first.
fn jittered(pause: Duration) -> Duration {
    let mut part = [0];
    aws_lc_rs::rand::fill(&mut part).unwrap_or_default();
    pause / 2 + pause / 2 * u32::from(part[0]) / 255
}

/// Leaves. A static member that only closes keeps its partitions until its session ends.
fn leave(consumer: &BaseConsumer<Rebalances>) {
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
        // A cluster that is away explains whatever else there is.
        self.health.trouble().or_else(|| problem(&self.standing))
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
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.left();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namesake_is_known_by_its_member_id() {
        let uuid = "-1f0e8c1d-58a2-4d0b-9a3e-7c1b2d3e4f50";
        assert!(is_named(&format!("i-1{uuid}"), "i-1"));
        assert!(!is_named(&format!("i-1-b{uuid}"), "i-1"));
        assert!(!is_named(&format!("i{uuid}"), "i-1"));
        assert!(!is_named("i-1", "i-1"));
    }

    #[test]
    fn pauses_are_drawn_from_their_second_half() {
        for _ in 0..100 {
            let pause = jittered(PAUSE_MAX);
            assert!((PAUSE_MAX / 2..=PAUSE_MAX).contains(&pause), "{pause:?}");
        }
    }
}
