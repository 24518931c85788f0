//! The log on Apache Kafka: topics of a cluster, shared out by a consumer group.
//!
//! | what | client |
//! | --- | --- |
//! | [`PartitionReader`](reader) | a plain consumer for each partition, placed from the state |
//! | [`publisher`], [`settle`] | a transactional producer for each owner |
//! | [`member`], [`rebalance`] | one consumer that only takes part in the group |
//! | [`appender`] | one idempotent producer: traces over HTTP, ticks |
//! | [`read`](mod@read) | consumers for operators and the catalog |
//! | [`topics`] | creates and checks the topics at the start |
//!
//! **Invariant:** positions come from the state, never from the group. Of two owners of a
//! partition, only the one that began last can publish.

mod appender;
mod block_on;
mod context;
mod instance;
mod member;
mod message;
mod murmur2;
mod options;
mod publisher;
mod read;
mod reader;
mod rebalance;
mod said;
mod settle;
mod time;
mod topics;
mod transaction;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;

pub use self::options::{OptionError, Options, is_secret};
pub use self::publisher::KafkaPublisher;
pub use self::rebalance::REVOKE_BUDGET;
pub use self::transaction::{Crash, Step};

use self::appender::Appender;
use self::context::{Health, Watch, unavailable};
use self::member::GroupMember;
use self::options::Names;
use self::read::{Readers, View};
use self::reader::PartitionReader;
use self::rebalance::{MemberConsumer, SharedStanding};
use self::said::Output;
use self::time::BrokerTime;
use self::topics::Layout;
use super::broker::{Broker, Membership, Owner, Partitions, ReadLimits, StoredRecord};
use super::{Error, Log, Publisher};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// How often a cluster that was away is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What all clients of a cluster share.
struct Cluster {
    options: Arc<Options>,
    names: Names,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    time: BrokerTime,
    layout: Layout,
    appender: Appender,
    readers: Readers,
    /// Sees what no reader of the log is to see.
    raw: Readers,
    /// Asks for the group's offsets; it is no member.
    group: BaseConsumer<Watch>,
    member: Mutex<Option<(Weak<MemberConsumer>, SharedStanding)>>,
}

impl Cluster {
    /// A consumer for one partition's worker.
    fn consumer(&self) -> Result<BaseConsumer<Watch>, Error> {
        self.options
            .reader()
            .create_with_context(Watch(Arc::clone(&self.health)))
            .map_err(|error| unavailable("making a reader", &error))
    }

    fn locked_member(&self) -> MutexGuard<'_, Option<(Weak<MemberConsumer>, SharedStanding)>> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn joined(&self, consumer: &Arc<MemberConsumer>, standing: &SharedStanding) {
        *self.locked_member() = Some((Arc::downgrade(consumer), Arc::clone(standing)));
    }

    fn left(&self) {
        *self.locked_member() = None;
    }

    /// Whether this instance takes part in the group, be it thrown out at the moment.
    fn is_member(&self) -> bool {
        self.locked_member().is_some()
    }

    /// Whether an input partition is this instance's.
    fn holds(&self, input: (Topic, u32)) -> bool {
        self.locked_member().as_ref().is_some_and(|(_, standing)| rebalance::holds(standing, input))
    }

    /// Who we are in the group: a member of this generation, or, outside it, nobody. `None` while
    /// we are thrown out.
    fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        let member = self.locked_member().as_ref().map(|(consumer, _)| consumer.upgrade());
        match member {
            Some(consumer) => consumer?.group_metadata(),
            None => self.group.group_metadata(),
        }
    }

    /// Whether a broker answers.
    fn probe(&self) -> bool {
        self.appender.probe(self.names.of(Topic::Traces), PROBE_EVERY)
    }

    /// Every partition of every topic.
    fn outputs(&self) -> Vec<Output> {
        let of = |topic| (0..self.layout.partitions(topic)).map(move |number| (topic, number));
        Topic::ALL.into_iter().flat_map(of).collect()
    }

    /// The partition that Kafka's own producers choose.
    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        murmur2::partition_of(key, self.layout.partitions(topic))
    }
}

/// Asks a cluster that was away whether it is back.
struct Pulse {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    fn start(cluster: &Arc<Cluster>) -> Result<Self, Error> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (cluster, stopped) = (Arc::downgrade(cluster), Arc::clone(&stop));
        let beat = move || {
            let (flag, wake) = &*stopped;
            let mut stop = flag.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stop {
                let waited = wake.wait_timeout(stop, PROBE_EVERY);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                let Some(cluster) = cluster.upgrade() else { return };
                if cluster.health.trouble().is_some() && cluster.probe() {
                    cluster.health.answered();
                }
                stop = flag.lock().unwrap_or_else(PoisonError::into_inner);
            }
        };
        let thread = std::thread::Builder::new()
            .name("kafka-pulse".to_owned())
            .spawn(beat)
            .map_err(|error| Error::Unavailable(format!("cannot start a thread: {error}")))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already said so.
            let _ = thread.join();
        }
    }
}

/// The log on a Kafka cluster. Readers, publishers and the membership keep what they need of it.
pub struct KafkaLog {
    cluster: Arc<Cluster>,
    joined: AtomicBool,
    _pulse: Pulse,
}

impl KafkaLog {
    /// Connects; creates the topics that are missing and checks all of them.
    ///
    /// # Errors
    /// [`Error::Refused`]: options or topics are wrong, and what to do. [`Error::Unavailable`]: no
    /// broker answers (later).
    pub fn connect(options: Options, clock: Clock, metrics: Arc<Metrics>) -> Result<Self, Error> {
        if let Err(wrong) = options.check() {
            let texts: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            return Err(Error::Refused(texts.join("; ")));
        }
        let health = Arc::new(Health::default());
        let group: BaseConsumer<Watch> = options
            .reader()
            .create_with_context(Watch(Arc::clone(&health)))
            .map_err(|error| Error::Refused(format!("kafka: the options: {error}")))?;
        let layout = topics::prepare(&options, &health, &group)?;
        let options = Arc::new(options);
        let cluster = Arc::new(Cluster {
            time: BrokerTime::new(clock),
            appender: Appender::new(&options, Arc::clone(&health))?,
            readers: Readers::new(&options, &health, View::Committed),
            raw: Readers::new(&options, &health, View::Raw),
            group,
            member: Mutex::new(None),
            names: Names::new(&options),
            options,
            health,
            metrics,
            layout,
        });
        let pulse = Pulse::start(&cluster)?;
        Ok(Self { cluster, joined: AtomicBool::new(false), _pulse: pulse })
    }

    /// The publisher of `owner`, by its own type. For tests.
    ///
    /// # Errors
    /// As [`Broker::publisher`].
    pub fn kafka_publisher(&self, owner: Owner) -> Result<KafkaPublisher, Error> {
        KafkaPublisher::new(Arc::clone(&self.cluster), owner)
    }
}

impl Broker for KafkaLog {
    fn description(&self) -> String {
        format!("kafka at {}", self.cluster.options.brokers)
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.cluster.layout.partitions(topic)
    }

    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        self.cluster.partition_of(topic, key)
    }

    fn bounds(&self, topic: Topic, partition: u32) -> Result<Range<Offset>, Error> {
        self.cluster.layout.check(topic, partition)?;
        self.cluster.readers.bounds(topic, partition)
    }

    fn ends(&self, topic: Topic, partitions: &[u32]) -> Result<Vec<Offset>, Error> {
        let outputs: Vec<Output> = partitions.iter().map(|one| (topic, *one)).collect();
        outputs.iter().try_for_each(|(topic, one)| self.cluster.layout.check(*topic, *one))?;
        // One question for all of them: a metric must not wait for each in turn.
        let found = self.cluster.readers.ends(&outputs)?;
        let unknown = || Error::Unavailable(format!("kafka: no end of {}", topic.name()));
        outputs.iter().map(|output| found.get(output).copied().ok_or_else(unknown)).collect()
    }

    fn read(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<StoredRecord>, Error> {
        self.cluster.layout.check(topic, partition)?;
        self.cluster.readers.read((topic, partition), from, limits)
    }

    fn record_bytes_max(&self) -> usize {
        self.cluster.layout.record_bytes_max
    }

    fn append(&self, traces: &[(u32, Vec<&[u8]>)]) -> Result<(), Error> {
        let most = self.record_bytes_max();
        for (partition, values) in traces {
            self.cluster.layout.check(Topic::Traces, *partition)?;
            if let Some(value) = values.iter().find(|value| value.len() > most) {
                return Err(Error::Refused(format!(
                    "a record has {} bytes, and topic {} takes {most}: raise its \
                     max.message.bytes, or kafka.message.max.bytes where that is less",
                    value.len(),
                    self.cluster.names.of(Topic::Traces)
                )));
            }
        }
        self.cluster.appender.append(self.cluster.names.of(Topic::Traces), traces)
    }

    fn failure(&self) -> Option<String> {
        self.cluster.health.trouble()
    }

    fn reader(&self, topic: Topic, partition: u32) -> Result<Box<dyn Log + Send>, Error> {
        self.cluster.layout.check(topic, partition)?;
        Ok(Box::new(PartitionReader::new(Arc::clone(&self.cluster), topic, partition)?))
    }

    fn publisher(&self, owner: Owner) -> Result<Box<dyn Publisher + Send>, Error> {
        Ok(Box::new(self.kafka_publisher(owner)?))
    }

    fn join(&self, partitions: Arc<dyn Partitions>) -> Result<Box<dyn Membership>, Error> {
        if self.joined.swap(true, Ordering::AcqRel) && self.cluster.is_member() {
            return Err(Error::Refused("this instance is in the group already".to_owned()));
        }
        let options = &self.cluster.options;
        let instance = match options.instance.as_str() {
            "" => instance::name(&options.data)?,
            name => name.to_owned(),
        };
        Ok(Box::new(GroupMember::join(&self.cluster, &instance, partitions)?))
    }
}
