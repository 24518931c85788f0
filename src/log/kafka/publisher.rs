//! The publisher of one owner: records, lane positions and the group's offset in one transaction.
//!
//! The lanes' positions are in the text of the group's offset. The transactional id belongs to the
//! owner, not to the process: whoever makes the next publisher fences this one and ends its open
//! transaction, and then reads what was committed.
//!
//! **Invariant:** the lanes that are answered are those of the last transaction that committed, and
//! its records can be read; after any doubt [`settle`](super::settle) makes sure of both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use trailproof_topology::effect::{LANES, OutRecord, Topic};
use trailproof_topology::input::Offset;

use super::Cluster;
use super::context::unavailable;
use super::said::{Said, encode};
use super::transaction::{Crash, Offsets, Transactional, Trouble, Work};
use crate::log::broker::Owner;
use crate::log::{Error, Publisher};
use crate::metrics;

/// How long what was committed may take to be readable. An open transaction of another owner holds
/// it up: one whose process was killed ends when its partition is taken over, or at its timeout.
const SHOWN_WAIT: Duration = Duration::from_secs(10);

/// The same for an owner without input, which has no offset to find its outcome by.
const SHOWN_WAIT_NO_INPUT: Duration = Duration::from_secs(30);

/// How often an offset alone is committed.
const SETTLED_EVERY: Duration = Duration::from_secs(5);

/// Publishes for one owner.
pub struct KafkaPublisher {
    pub(super) cluster: Arc<Cluster>,
    pub(super) owner: Owner,
    pub(super) id: String,
    producer: Option<Transactional>,
    /// Lanes and input offset of the last transaction; `None` while they are not known for certain.
    committed: Option<([u64; LANES], Offset)>,
    /// The input offset that was committed last, and when.
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
            committed: None,
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

    /// Makes a new producer where the last is of no use. One that was fenced is only replaced while
    /// the partition is ours: the coordinator also fences what was too slow.
    pub(super) fn ensure_producer(&mut self) -> Result<(), Error> {
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
        Ok(())
    }

    /// The producer that is there.
    pub(super) fn producer(&self) -> Result<&Transactional, Error> {
        self.producer
            .as_ref()
            .ok_or_else(|| Error::Unavailable(format!("kafka: {} has no producer", self.id)))
    }

    /// The group's offset, with lanes and records as its text; none for an owner without input.
    pub(super) fn offsets(
        &self,
        lanes: [u64; LANES],
        settled: Offset,
        said: &Said,
    ) -> Result<Option<Offsets>, Error> {
        let Some((topic, partition)) = self.owner.input() else { return Ok(None) };
        self.group_offset(topic, partition, settled, encode(lanes, said)).map(Some)
    }

    /// An offset of the group that nobody reads.
    pub(super) fn unused_offset(&self) -> Result<Offsets, Error> {
        self.group_offset(Topic::Catalog, 0, 0, String::new())
    }

    fn group_offset(
        &self,
        topic: Topic,
        partition: u32,
        offset: Offset,
        text: String,
    ) -> Result<Offsets, Error> {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let offset = rdkafka::Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        let mut list = TopicPartitionList::new();
        let mut entry = list.add_partition(self.cluster.names.of(topic), number);
        entry.set_offset(offset).map_err(|error| unavailable("naming an offset", &error))?;
        entry.set_metadata(text);
        let group = self.cluster.group_metadata();
        let group = group.ok_or_else(|| Error::Unavailable("kafka: in no group".to_owned()))?;
        Ok((list, group))
    }

    /// Lanes and input offset of the last transaction, settled where that is in doubt.
    fn known(&mut self) -> Result<([u64; LANES], Offset), Error> {
        if let Some(committed) = self.committed {
            return Ok(committed);
        }
        let committed = self.settle()?;
        self.committed = Some(committed);
        Ok(committed)
    }

    /// Makes sure that what was just committed can be read.
    fn confirm(&mut self, lanes: [u64; LANES], settled: Offset, said: &Said) -> Result<(), Error> {
        let has_input = self.owner.input().is_some();
        let wait = if has_input { SHOWN_WAIT } else { SHOWN_WAIT_NO_INPUT };
        if self.await_shown(said, wait).is_ok() {
            self.committed = Some((lanes, settled));
            return Ok(());
        }
        // A new producer's start ends when the coordinator has done all it will ever do.
        self.producer = None;
        let committed = self.committed()?;
        if if has_input { committed == lanes } else { self.are_readable(said)? } {
            return Ok(());
        }
        Err(Error::Unavailable(format!("kafka: {}: it was not published", self.owner.name())))
    }

    /// Notes what went wrong, and says what the caller may do.
    pub(super) fn failed(&mut self, trouble: Trouble) -> Error {
        self.committed = None;
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

impl Publisher for KafkaPublisher {
    fn committed(&mut self) -> Result<[u64; LANES], Error> {
        self.known().map(|(lanes, _)| lanes)
    }

    fn settled(&mut self) -> Result<Offset, Error> {
        self.known().map(|(_, settled)| settled)
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
        let placed = self.place(records)?;
        let offsets = |said: &Said| self.offsets(lanes, settled, said);
        let work = Work { records: &placed, offsets: &offsets, crash: self.crash.as_ref() };
        let began = Instant::now();
        let outcome = self.producer()?.run(&work);
        let seconds = self.cluster.metrics.histogram(metrics::KAFKA_TRANSACTION_SECONDS, &[]);
        seconds.record(began.elapsed().as_secs_f64());
        // Until it is confirmed only the log knows.
        self.committed = None;
        let said = outcome.map_err(|trouble| self.failed(trouble))?;
        self.settled = Some((settled, Instant::now()));
        self.confirm(lanes, settled, &said)
    }
}
