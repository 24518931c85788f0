//! The embedded log as a broker: every partition belongs to this process.
//!
//! **Invariant:** a member has all partitions from joining to leaving.

use std::ops::Range;
use std::sync::Arc;

use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;

use super::{EmbeddedLog, PartitionAppend, RECORD_BYTES_MAX, RecordBatchBuilder};
use crate::log::broker::{Broker, Membership, Owner, Partitions, ReadLimits, StoredRecord};
use crate::log::{Error, Log, Publisher};

impl Broker for EmbeddedLog {
    fn description(&self) -> String {
        "embedded".to_owned()
    }

    fn partitions(&self, topic: Topic) -> u32 {
        EmbeddedLog::partitions(self, topic)
    }

    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        EmbeddedLog::partition_of(self, topic, key)
    }

    fn bounds(&self, topic: Topic, partition: u32) -> Result<Range<Offset>, Error> {
        EmbeddedLog::bounds(self, topic, partition)
    }

    fn read(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<StoredRecord>, Error> {
        EmbeddedLog::read(self, topic, partition, from, limits.records, limits.bytes)
    }

    fn record_bytes_max(&self) -> usize {
        RECORD_BYTES_MAX
    }

    fn append(&self, traces: &[(u32, Vec<&[u8]>)]) -> Result<(), Error> {
        // Packed and compressed here, on the producer's thread.
        let mut builder = RecordBatchBuilder::new();
        let appends = traces
            .iter()
            .map(|(partition, values)| {
                values.iter().for_each(|value| builder.push(value));
                let records = builder.finish();
                PartitionAppend { topic: Topic::Traces, partition: *partition, records }
            })
            .collect();
        EmbeddedLog::append(self, appends).map(|_| ())
    }

    fn failure(&self) -> Option<String> {
        EmbeddedLog::failure(self)
    }

    fn reader(&self, topic: Topic, partition: u32) -> Result<Box<dyn Log + Send>, Error> {
        Ok(Box::new(EmbeddedLog::reader(self, topic, partition)?))
    }

    fn publisher(&self, owner: Owner) -> Result<Box<dyn Publisher + Send>, Error> {
        Ok(Box::new(EmbeddedLog::publisher(self, &owner.name())?))
    }

    fn join(&self, partitions: Arc<dyn Partitions>) -> Result<Box<dyn Membership>, Error> {
        let all: Vec<(Topic, u32)> = [Topic::Traces, Topic::Files]
            .into_iter()
            .flat_map(|topic| {
                (0..EmbeddedLog::partitions(self, topic)).map(move |one| (topic, one))
            })
            .collect();
        partitions.assigned(&all);
        Ok(Box::new(Sole { partitions, all }))
    }
}

/// The only member there is.
struct Sole {
    partitions: Arc<dyn Partitions>,
    all: Vec<(Topic, u32)>,
}

impl Membership for Sole {
    fn problem(&self) -> Option<String> {
        None
    }
}

impl Drop for Sole {
    fn drop(&mut self) {
        self.partitions.revoked(&self.all, false);
    }
}
