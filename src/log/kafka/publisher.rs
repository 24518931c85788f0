//! The publisher of one owner: records, lane positions and the group's offset in one transaction.
//!
//! The lanes' positions are the text of the group's offset: `v1 LANE0 LANE1`. The transactional id
//! belongs to the owner, not to the process: whoever makes the next publisher fences this one and
//! ends its open transaction, and then reads what was committed.
//!
//! **Invariant:** the lanes that are answered are those of the last transaction that committed;
//! after any doubt they are read from the group again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use trailproof_topology::effect::{LANES, OutRecord};
use trailproof_topology::input::Offset;

use super::Cluster;
use super::context::unavailable;
use super::transaction::{Crash, Transactional, Trouble, Work};
use crate::log::broker::Owner;
use crate::log::{Error, Publisher};
use crate::metrics;

/// How long the group may take to say its offsets; an open transaction holds them back.
const COMMITTED_WAIT: Duration = Duration::from_secs(15);

/// How long one question may take.
const COMMITTED_CALL: Duration = Duration::from_secs(5);

/// Pause before a question that failed is asked again.
const COMMITTED_PAUSE: Duration = Duration::from_millis(100);

/// How often an offset alone is committed.
const SETTLED_EVERY: Duration = Duration::from_secs(5);

/// The first word of an offset's text.
const FORMAT: &str = "v1";

/// Publishes for one owner.
pub struct KafkaPublisher {
    cluster: Arc<Cluster>,
    owner: Owner,
    id: String,
    producer: Option<Transactional>,
    lanes: Option<[u64; LANES]>,
    settled: Option<(Offset, Instant)>,
    fenced: bool,
    crash: Option<Crash>,
}

impl KafkaPublisher {
    /// Takes the owner's id over.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Refused`].
    pub(super) fn new(cluster: Arc<Cluster>, owner: Owner) -> Result<Self, Error> {
        if let Some((topic, partition)) = owner.input() {
            cluster.layout.check(topic, partition)?;
        }
        let id = format!("{}/{}", cluster.options.group, owner.name());
        let mut own = Self {
            cluster,
            owner,
            id,
            producer: None,
            lanes: None,
            settled: None,
            fenced: false,
            crash: None,
        };
        own.producer = Some(own.take_over()?);
        Ok(own)
    }

    /// Has transactions stop after a step, as a crash would. For tests.
    #[must_use]
    pub fn crashing(mut self, crash: Crash) -> Self {
        self.crash = Some(crash);
        self
    }

    fn take_over(&self) -> Result<Transactional, Error> {
        Transactional::take_over(&self.cluster.options, &self.id, &self.cluster.health)
    }

    /// Whether the owner's partition is this instance's, as far as it knows.
    fn is_ours(&self) -> bool {
        self.owner.input().is_some_and(|input| self.cluster.holds(input))
    }

    /// The producer; a new one where the last is of no use. One that was fenced is only replaced
    /// while the partition is ours: the coordinator also fences what was too slow.
    fn producer(&mut self) -> Result<&Transactional, Error> {
        if self.fenced && !self.is_ours() {
            return Err(Error::Fenced(self.id.clone()));
        }
        if self.producer.is_none() {
            if self.cluster.is_member() && self.owner.input().is_some() && !self.is_ours() {
                let why = format!("{} is not this instance's at the moment", self.owner.name());
                return Err(Error::Unavailable(why));
            }
            self.producer = Some(self.take_over()?);
            self.fenced = false;
        }
        self.producer
            .as_ref()
            .ok_or_else(|| Error::Unavailable(format!("kafka: {} has no producer", self.id)))
    }

    /// The group's offset of a partition.
    fn ask(
        &self,
        topic: &str,
        partition: i32,
        timeout: Duration,
    ) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let list = self.cluster.group.committed_offsets(list, timeout.min(COMMITTED_CALL))?;
        list.elements().first().map_or(Ok(()), |found| found.error())?;
        Ok(list)
    }

    /// Reads the lanes from the group's offset.
    fn read(&self) -> Result<[u64; LANES], Error> {
        let Some((topic, partition)) = self.owner.input() else { return Ok([0; LANES]) };
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let name = self.cluster.names.of(topic);
        let until = Instant::now() + COMMITTED_WAIT;
        // The group may just be moving to another coordinator.
        let list = loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.ask(name, number, left) {
                Ok(list) => break list,
                Err(error) if left.is_zero() => {
                    return Err(unavailable("reading the group's offsets", &error));
                }
                Err(_) => std::thread::sleep(COMMITTED_PAUSE),
            }
        };
        let found = list.find_partition(name, number);
        let Some(found) = found else { return Ok([0; LANES]) };
        if found.offset().to_raw().is_none_or(|raw| raw < 0) {
            return Ok([0; LANES]);
        }
        decode(found.metadata()).ok_or_else(|| {
            Error::Refused(format!(
                "the offset of {}/{partition} in group {} is not Trailproof's (its text is {:?}); \
                 set kafka.group to a group of its own",
                topic.name(),
                self.cluster.options.group,
                found.metadata()
            ))
        })
    }

    fn offsets(
        &self,
        lanes: [u64; LANES],
        settled: Offset,
    ) -> Result<Option<(TopicPartitionList, ConsumerGroupMetadata)>, Error> {
        let Some((topic, partition)) = self.owner.input() else { return Ok(None) };
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let offset = rdkafka::Offset::Offset(i64::try_from(settled).unwrap_or(i64::MAX));
        let mut list = TopicPartitionList::new();
        let mut entry = list.add_partition(self.cluster.names.of(topic), number);
        entry.set_offset(offset).map_err(|error| unavailable("naming an offset", &error))?;
        entry.set_metadata(encode(lanes));
        let group = self.cluster.group_metadata();
        let group = group.ok_or_else(|| Error::Unavailable("kafka: no group".to_owned()))?;
        Ok(Some((list, group)))
    }

    /// Notes what went wrong, and says what the caller may do.
    fn failed(&mut self, trouble: Trouble) -> Error {
        self.lanes = None;
        let name = self.owner.name();
        match trouble {
            Trouble::Aborted(why) => Error::Unavailable(format!("kafka: {name}: aborted: {why}")),
            Trouble::Refused(why) => Error::Refused(format!("{name}: {why}")),
            Trouble::Broken(why) => {
                self.producer = None;
                Error::Unavailable(format!("kafka: {name}: {why}"))
            }
            Trouble::Fenced(why) => {
                self.producer = None;
                self.fenced = true;
                if self.is_ours() {
                    return Error::Unavailable(format!("kafka: {name}: {why}"));
                }
                Error::Fenced(self.id.clone())
            }
        }
    }
}

fn encode(lanes: [u64; LANES]) -> String {
    lanes.iter().fold(FORMAT.to_owned(), |text, lane| format!("{text} {lane}"))
}

fn decode(text: &str) -> Option<[u64; LANES]> {
    let mut words = text.split(' ');
    let mut lanes = [0; LANES];
    if words.next() != Some(FORMAT) {
        return None;
    }
    for lane in &mut lanes {
        *lane = words.next()?.parse().ok()?;
    }
    words.next().is_none().then_some(lanes)
}

impl Publisher for KafkaPublisher {
    fn committed(&mut self) -> Result<[u64; LANES], Error> {
        if let Some(lanes) = self.lanes {
            return Ok(lanes);
        }
        self.producer()?;
        let lanes = self.read()?;
        self.lanes = Some(lanes);
        Ok(lanes)
    }

    fn publish(
        &mut self,
        records: &[OutRecord],
        lanes: [u64; LANES],
        settled: Offset,
    ) -> Result<(), Error> {
        let before = self.committed()?;
        let idle = records.is_empty() && before == lanes;
        let told = self
            .settled
            .is_some_and(|(offset, at)| offset == settled || at.elapsed() < SETTLED_EVERY);
        if idle && (told || self.owner.input().is_none()) {
            return Ok(());
        }
        let cluster = Arc::clone(&self.cluster);
        let names = &cluster.names;
        let mut placed = Vec::with_capacity(records.len());
        for record in records {
            let partition = record
                .partition
                .unwrap_or_else(|| self.cluster.partition_of(record.topic, &record.key));
            self.cluster.layout.check(record.topic, partition)?;
            placed.push((names.of(record.topic), partition, record));
        }
        let offsets = self.offsets(lanes, settled)?;
        let crash = self.crash.clone();
        let work = Work { records: &placed, offsets, crash: crash.as_ref() };
        let began = Instant::now();
        let outcome = self.producer()?.run(&work);
        let seconds = self.cluster.metrics.histogram(metrics::KAFKA_TRANSACTION_SECONDS, &[]);
        seconds.record(began.elapsed().as_secs_f64());
        match outcome {
            Ok(()) => {
                (self.lanes, self.settled) = (Some(lanes), Some((settled, Instant::now())));
                Ok(())
            }
            Err(trouble) => Err(self.failed(trouble)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lanes_are_the_text_of_an_offset() {
        assert_eq!(encode([3, 70]), "v1 3 70");
        assert_eq!(decode("v1 3 70"), Some([3, 70]));
        for text in ["", "v1", "v1 3", "v1 3 70 9", "v2 3 70", "v1 3 x", "v1 3  70"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
