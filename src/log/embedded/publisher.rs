//! Publishing: what the engine says, with the lane positions that make it said once.

use std::collections::BTreeMap;

use trailproof_topology::effect::{LANES, OutRecord, Topic};

use trailproof_topology::input::Offset;

use super::database::OWNER_BYTES_MAX;
use super::writer::Work;
use super::{EmbeddedLog, PartitionAppend, RecordBatchBuilder, locked};
use crate::log::{Error, Publisher};

/// The publisher of one worker. One worker has one at a time; the lock of the data folder keeps
/// other processes away.
pub struct OwnedPublisher {
    log: EmbeddedLog,
    owner: String,
    builder: RecordBatchBuilder,
}

impl OwnedPublisher {
    pub(super) fn new(log: EmbeddedLog, owner: &str) -> Result<Self, Error> {
        if owner.is_empty() || owner.len() > OWNER_BYTES_MAX {
            return Err(Error::Refused(format!(
                "the name of a publisher has 1 to {OWNER_BYTES_MAX} bytes, not {}",
                owner.len()
            )));
        }
        Ok(Self { log, owner: owner.to_owned(), builder: RecordBatchBuilder::new() })
    }
}

impl Publisher for OwnedPublisher {
    fn committed(&mut self) -> Result<[u64; LANES], Error> {
        let durable = locked(&self.log.shared().durable);
        // After a failed write it is the reopened database that knows what was committed.
        match &durable.failed {
            Some(why) => Err(Error::Unavailable(why.clone())),
            None => Ok(durable.lanes.get(&self.owner).copied().unwrap_or_default()),
        }
    }

    fn publish(
        &mut self,
        records: &[OutRecord],
        lanes: [u64; LANES],
        _settled: Offset,
    ) -> Result<(), Error> {
        let mut by_partition: BTreeMap<(Topic, u32), Vec<&OutRecord>> = BTreeMap::new();
        for record in records {
            let partition = record
                .partition
                .unwrap_or_else(|| self.log.partition_of(record.topic, &record.key));
            by_partition.entry((record.topic, partition)).or_default().push(record);
        }
        let appends = by_partition
            .into_iter()
            .map(|((topic, partition), records)| {
                for record in records {
                    self.builder.push_record(&record.key, &record.headers, &record.value);
                }
                PartitionAppend { topic, partition, records: self.builder.finish() }
            })
            .collect();
        let lanes = Some((self.owner.clone(), lanes));
        self.log.submit(Work::Append { appends, lanes }).map(|_| ())
    }
}
