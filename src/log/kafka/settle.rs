//! Makes sure how the last transaction of an owner ended, before it begins another.
//!
//! Kafka 4 loses the end of a transaction where a partition has no leader at the moment the
//! coordinator tells it (KAFKA-20734): a single broker that was killed does so at its next start.
//! The coordinator then takes the transaction for ended, but in that partition its records stay
//! open: no reader gets past them, and whatever the producer does there next decides on them too.
//! An aborted record would be shown by the next commit, a committed one lost by the next abort.
//!
//! So a publisher believes what it can read:
//!
//! 1. The group's offset says which lanes are committed, and where the records of that transaction
//!    are ([`said`](super::said)). Where the offset itself stays open, a transaction that only
//!    touches the group commits it: offsets are sent after the last record, so it was complete.
//! 2. Where records of this owner are open that are not committed, or are the first open ones, a
//!    transaction of one empty record is aborted, and they with it.
//! 3. Committed records that readers do not get are said again, as they were.
//!
//! Each step may be stopped and done again. After a commit the publisher waits until its records
//! can be read; so mostly there is nothing to do.
//!
//! **Invariant:** no transaction begins while records of an earlier one of this owner are open.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use trailproof_topology::effect::{LANES, OutRecord};
use trailproof_topology::input::Offset;

use super::context::unavailable;
use super::publisher::KafkaPublisher;
use super::read::ends;
use super::said::{Committed, Output, Said, decode, names};
use super::transaction::{PRODUCER, Placed, Work};
use crate::log::Error;
use crate::log::broker::{ReadLimits, StoredRecord};

/// How long the group may take to say its offsets, the second time.
const COMMITTED_WAIT: Duration = Duration::from_secs(15);

/// How long one question may take.
const COMMITTED_CALL: Duration = Duration::from_secs(5);

/// Pause before a question that failed is asked again.
const COMMITTED_PAUSE: Duration = Duration::from_millis(100);

/// How long transactions of others may hold up an answer before their records are looked at.
const OTHERS_WAIT: Duration = Duration::from_secs(1);

/// How long records may take to be readable, once all that could be done is done.
const SHOWN_WAIT: Duration = Duration::from_secs(5);

/// Pauses between two looks at the ends of partitions: the first, and the longest.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(100);

/// What is read at a time.
const READ: ReadLimits = ReadLimits { records: 4_096, bytes: 8 << 20 };

/// The header that tells the records of step 2.
const SWEEP: (&str, &str) = ("trailproof", "sweep");

impl KafkaPublisher {
    /// Takes the steps; the lanes and the offset that are committed, whose records can all be read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] (later, from the first step), [`Error::Refused`], [`Error::Fenced`].
    pub(super) fn settle(&mut self) -> Result<([u64; LANES], Offset), Error> {
        self.ensure_producer()?;
        let committed = self.read_group()?;
        self.sweep(&committed.said)?;
        self.say_again(&committed)?;
        Ok((committed.lanes, committed.offset))
    }

    /// What the group's offset says.
    fn read_group(&mut self) -> Result<Committed, Error> {
        let Some((topic, partition)) = self.owner.input() else { return Ok(Committed::default()) };
        let began = Instant::now();
        let mut closed = false;
        // The group may just be moving to another coordinator.
        let list = loop {
            let error = match self.ask() {
                Ok(list) => break list,
                Err(error) => error,
            };
            let waited = began.elapsed();
            if waited >= COMMITTED_WAIT {
                return Err(unavailable("reading the group's offsets", &error));
            }
            if waited >= COMMITTED_CALL && !closed {
                self.close_group()?;
                closed = true;
            }
            std::thread::sleep(COMMITTED_PAUSE);
        };
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let found = list.find_partition(self.cluster.names.of(topic), number);
        let offset = found.as_ref().and_then(|found| found.offset().to_raw());
        let (Some(found), Some(Ok(offset))) = (found, offset.map(Offset::try_from)) else {
            return Ok(Committed::default());
        };
        let Some((lanes, said)) = decode(found.metadata()) else {
            return Err(Error::Refused(format!(
                "the offset of {}/{partition} in group {} is not Trailproof's (its text is {:?}); \
                 set kafka.group to a group of its own",
                topic.name(),
                self.cluster.options.group,
                found.metadata()
            )));
        };
        Ok(Committed { offset, lanes, said })
    }

    /// The group's offset of the owner's partition; an open transaction holds the answer back.
    fn ask(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        if let Some((topic, partition)) = self.owner.input() {
            let number = i32::try_from(partition).unwrap_or(i32::MAX);
            list.add_partition(self.cluster.names.of(topic), number);
        }
        let list = self.cluster.group.committed_offsets(list, COMMITTED_CALL)?;
        list.elements().first().map_or(Ok(()), |found| found.error())?;
        Ok(list)
    }

    /// Commits the offset that a transaction left open, by one that sends another offset.
    fn close_group(&mut self) -> Result<(), Error> {
        tracing::warn!(producer = self.id, "the group's offset is open; it is committed");
        let offsets = |_: &Said| self.unused_offset().map(Some);
        let work = Work { records: &[], offsets: &offsets, crash: None };
        let done = self.producer()?.run(&work).map(|_| ());
        done.map_err(|trouble| self.failed(trouble))
    }

    /// Aborts what is open of this owner, except what is committed and only waits for others.
    fn sweep(&mut self, said: &Said) -> Result<(), Error> {
        let heads = self.cluster.raw.ends(&self.cluster.outputs())?;
        let before = |(output, head): (&Output, &Offset)| (*output, head.saturating_sub(1));
        let all: BTreeMap<Output, Offset> =
            heads.iter().filter(|(_, head)| **head > 0).map(before).collect();
        let mut ours = Vec::new();
        for (output, shown) in self.wait_shown(&all, OTHERS_WAIT)? {
            let last = said.get(&output).map(|(_, last)| *last);
            if self.has_open(output, shown, all.get(&output).copied().unwrap_or(shown), last)? {
                ours.push(output);
            }
        }
        if ours.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            producer = self.id,
            partitions = names(&ours),
            "a transaction that was ended is open here; it is aborted"
        );
        let record = |output: &Output| OutRecord {
            topic: output.0,
            partition: Some(output.1),
            key: Vec::new(),
            headers: vec![(SWEEP.0.to_owned(), SWEEP.1.to_owned())],
            value: Vec::new(),
        };
        let records: Vec<OutRecord> = ours.iter().map(record).collect();
        let placed = self.place(&records)?;
        let written = self.producer()?.run_aborted(&placed);
        let written = written.map_err(|trouble| self.failed(trouble))?;
        self.await_shown(&written, SHOWN_WAIT)
    }

    /// Whether a partition, from the first open record on, has records of this owner that must not
    /// stay open: any behind `committed`, and any that is itself the first open one.
    fn has_open(
        &self,
        (topic, partition): Output,
        open: Offset,
        last: Offset,
        committed: Option<Offset>,
    ) -> Result<bool, Error> {
        let mut next = open;
        while next <= last {
            let records = self.cluster.raw.read((topic, partition), next, READ)?;
            let Some(end) = records.last().map(|record| record.offset + 1) else { break };
            let stays = |record: &StoredRecord| {
                record.offset != open && committed.is_some_and(|last| record.offset <= last)
            };
            if records.iter().any(|record| self.wrote(record) && !stays(record)) {
                return Ok(true);
            }
            next = end;
        }
        Ok(false)
    }

    /// Says the committed records again that readers do not get.
    fn say_again(&mut self, committed: &Committed) -> Result<(), Error> {
        self.await_shown(&committed.said, SHOWN_WAIT)?;
        let mut records = Vec::new();
        for (output, (first, last)) in &committed.said {
            if !self.is_readable(*output, *last)? {
                self.copy(*output, *first..=*last, &mut records)?;
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            producer = self.id,
            records = records.len(),
            "what was committed cannot be read; it is published again"
        );
        let placed = self.place(&records)?;
        let offsets = |said: &Said| self.offsets(committed.lanes, committed.offset, said);
        let work = Work { records: &placed, offsets: &offsets, crash: None };
        let written = self.producer()?.run(&work);
        let written = written.map_err(|trouble| self.failed(trouble))?;
        self.await_shown(&written, SHOWN_WAIT)
    }

    /// Whether readers get the last record in each partition, and so all of them.
    pub(super) fn are_readable(&self, said: &Said) -> Result<bool, Error> {
        for (output, (_, last)) in said {
            if !self.is_readable(*output, *last)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether readers get the record at an offset. What retention took is counted as read.
    fn is_readable(&self, (topic, partition): Output, offset: Offset) -> Result<bool, Error> {
        let limits = ReadLimits { records: 1, bytes: 1 };
        match self.cluster.readers.read((topic, partition), offset, limits) {
            Ok(records) => Ok(records.first().is_some_and(|record| record.offset == offset)),
            Err(Error::OutOfRange { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The records of this owner between two offsets, whatever became of them.
    fn copy(
        &self,
        output: Output,
        offsets: RangeInclusive<Offset>,
        copies: &mut Vec<OutRecord>,
    ) -> Result<(), Error> {
        let mut next = *offsets.start();
        while next <= *offsets.end() {
            let records = self.cluster.raw.read(output, next, READ)?;
            let Some(end) = records.last().map(|record| record.offset + 1) else { break };
            let own = records.into_iter().filter(|record| self.wrote(record));
            for mut record in own.filter(|record| offsets.contains(&record.offset)) {
                record.headers.retain(|(name, _)| name != PRODUCER);
                copies.push(OutRecord {
                    topic: output.0,
                    partition: Some(output.1),
                    key: record.key,
                    headers: record.headers,
                    value: record.value,
                });
            }
            next = end;
        }
        Ok(())
    }

    fn wrote(&self, record: &StoredRecord) -> bool {
        record.headers.iter().any(|(name, text)| name == PRODUCER && *text == self.id)
    }

    /// Records with the names of their topics, and their partitions.
    ///
    /// # Errors
    /// [`Error::Refused`]: there is no such partition.
    pub(super) fn place<'a>(&self, records: &'a [OutRecord]) -> Result<Vec<Placed<'a>>, Error> {
        let one = |record: &'a OutRecord| {
            let chosen = || self.cluster.partition_of(record.topic, &record.key);
            let output = (record.topic, record.partition.unwrap_or_else(chosen));
            self.cluster.layout.check(output.0, output.1)?;
            Ok(Placed { output, record })
        };
        records.iter().map(one).collect()
    }

    /// Waits until readers are past the records of a transaction.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: they are not.
    pub(super) fn await_shown(&self, said: &Said, wait: Duration) -> Result<(), Error> {
        let lasts = said.iter().map(|(output, (_, last))| (*output, *last)).collect();
        let mut hidden = self.wait_shown(&lasts, wait)?;
        if hidden.is_empty() {
            return Ok(());
        }
        // A topic that was made anew has none of them, and never will.
        let heads = self.cluster.raw.ends(hidden.keys())?;
        hidden.retain(|output, _| heads.get(output) > lasts.get(output));
        let Some((output, shown)) = hidden.first_key_value() else { return Ok(()) };
        let topic = self.cluster.names.of(output.0);
        Err(Error::Unavailable(format!(
            "kafka: {}: readers of {} do not get past offset {shown}: a transaction there does not \
             end. If this lasts, see `kafka-transactions.sh --bootstrap-server {} find-hanging \
             --topic {topic} --partition {}`",
            self.owner.name(),
            names([output]),
            self.cluster.options.brokers,
            output.1
        )))
    }

    /// Waits until readers are past an offset in each partition, at the longest `wait`. Where they
    /// are not: where they stand.
    fn wait_shown(
        &self,
        lasts: &BTreeMap<Output, Offset>,
        wait: Duration,
    ) -> Result<BTreeMap<Output, Offset>, Error> {
        let (until, mut pause) = (Instant::now() + wait, LOOK);
        let mut hidden: BTreeMap<Output, Offset> = lasts.clone();
        while !hidden.is_empty() {
            match ends(&self.cluster.group, &self.cluster.names, hidden.keys()) {
                Ok(shown) => hidden = shown,
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => {}
            }
            hidden.retain(|output, shown| lasts.get(output).is_some_and(|last| last >= shown));
            if Instant::now() >= until {
                break;
            }
            if !hidden.is_empty() {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LOOK_MAX);
            }
        }
        Ok(hidden)
    }
}
