//! Reading a partition: whole rows for a worker, single records for an operator.
//!
//! **Invariant:** a reader sees durable records only, each once, in offset order, without a hole.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rocksdb::ReadOptions;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::{Millis, Offset};

use super::database::{self, Head};
use super::row::{RecordView, RowView};
use super::writer::database_of;
use super::{EmbeddedLog, PartitionAppend, RecordBatchBuilder, locked};
use crate::log::broker::StoredRecord;
use crate::log::{Error, Log, RecordBatch};

/// Records of one poll; the bytes are the caller's bound.
const POLL_RECORDS_MAX: usize = 1 << 18;

/// Visits a row, given the first offset wanted of it, its base, itself and its bytes. Answers
/// whether to go on; `None` for damage.
type VisitRow<'a> = dyn FnMut(Offset, Offset, &RowView<'_>, &[u8]) -> Option<bool> + 'a;

/// A reader of one partition.
pub struct PartitionLog {
    log: EmbeddedLog,
    topic: Topic,
    partition: u32,
    index: usize,
    decompressor: zstd::bulk::Decompressor<'static>,
    scratch: Vec<u8>,
}

impl EmbeddedLog {
    /// Reads records of any topic from offset `from` on: at most `records_max`, and no more once
    /// `bytes_max` of values are passed.
    ///
    /// # Errors
    /// As [`Log::poll`]; [`Error::Refused`]: no such partition.
    pub fn read(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        let mut records = Vec::new();
        let mut bytes = 0;
        if records_max == 0 {
            return Ok(records);
        }
        self.reader(topic, partition)?.visit(from, &mut |offset, time, record| {
            bytes += record.value.len();
            let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
            records.push(StoredRecord {
                offset,
                append_time_ms: time,
                key: record.key.to_vec(),
                headers: record.headers.iter().map(owned).collect(),
                value: record.value.to_vec(),
            });
            records.len() < records_max && bytes < bytes_max
        })?;
        Ok(records)
    }
}

impl PartitionLog {
    pub(super) fn new(log: EmbeddedLog, topic: Topic, partition: u32) -> Result<Self, Error> {
        let index = log.shared().layout.index(topic, partition)?;
        let decompressor = zstd::bulk::Decompressor::new()
            .map_err(|error| Error::Unavailable(format!("zstd: {error}")))?;
        Ok(Self { log, topic, partition, index, decompressor, scratch: Vec::new() })
    }

    fn head(&self) -> Head {
        locked(&self.log.shared().durable).heads[self.index]
    }

    fn damaged(&self, at: Offset) -> Error {
        Error::Corrupt(format!(
            "{}/{} at offset {at} in {}; restore the folder from a backup",
            self.topic.name(),
            self.partition,
            self.log.shared().path.display()
        ))
    }

    /// Visits records from `from` on until `visit` returns false or the durable end is reached.
    fn visit(
        &mut self,
        from: Offset,
        visit: &mut dyn FnMut(Offset, Millis, &RecordView<'_>) -> bool,
    ) -> Result<(), Error> {
        self.visit_rows(from, &mut |from, base, row, mut raw| {
            for offset in base..base + Offset::from(row.count) {
                let record = RecordView::take(&mut raw)?;
                if offset >= from && !visit(offset, row.append_time_ms, &record) {
                    return Some(false);
                }
            }
            raw.is_empty().then_some(true)
        })
    }

    /// Visits the rows that hold records from `from` on.
    fn visit_rows(&mut self, from: Offset, visit: &mut VisitRow<'_>) -> Result<(), Error> {
        let head = self.head();
        if from < head.start || from > head.end {
            return Err(self.out_of_range(from, head));
        }
        if from == head.end {
            return Ok(());
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let log = self.log.clone();
        let shared = log.shared();
        let guard = shared.db.read().unwrap_or_else(PoisonError::into_inner);
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_iterate_upper_bound(database::row_key(self.topic, self.partition, head.end));
        let mut rows = database_of(&guard)?.raw_iterator_opt(options);
        rows.seek_for_prev(database::row_key(self.topic, self.partition, from));
        let mut next = from;
        while next < head.end {
            let (Some(key), Some(value)) = (rows.key(), rows.value()) else { break };
            let base = database::base_of(key)
                .filter(|_| key[..5] == database::row_key(self.topic, self.partition, 0)[..5]);
            let (Some(base), Some(row)) = (base, RowView::parse(value)) else { break };
            let end = base + Offset::from(row.count);
            if base > next || end <= next || end > head.end || (base < next && next != from) {
                break;
            }
            let more = row
                .raw(&mut self.decompressor, &mut scratch)
                .and_then(|raw| visit(next, base, &row, raw));
            match more {
                None => return Err(self.damaged(base)),
                Some(false) => next = head.end,
                Some(true) => next = end,
            }
            rows.next();
        }
        rows.status().map_err(|error| database::classify(&shared.path, &error))?;
        self.scratch = scratch;
        if next < head.end {
            // Not reached although it is below the durable end: trimmed meanwhile, or a hole.
            let head = self.head();
            let trimmed = next < head.start;
            return Err(if trimmed { self.out_of_range(from, head) } else { self.damaged(next) });
        }
        Ok(())
    }

    fn out_of_range(&self, wanted: Offset, head: Head) -> Error {
        Error::OutOfRange {
            topic: self.topic.name(),
            partition: self.partition,
            wanted,
            start: head.start,
            end: head.end,
        }
    }
}

impl Log for PartitionLog {
    fn poll(
        &mut self,
        from: Offset,
        bytes_max: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        batch.clear();
        let result = self.visit_rows(from, &mut |from, base, row, mut raw| {
            for offset in base..base + Offset::from(row.count) {
                let record = RecordView::take(&mut raw)?;
                if offset >= from {
                    batch.push(offset, row.append_time_ms, record.kind(), record.value);
                }
            }
            let full = batch.bytes_len() >= bytes_max || batch.len() >= POLL_RECORDS_MAX;
            raw.is_empty().then_some(!full)
        });
        if result.is_err() {
            batch.clear();
        }
        result
    }

    fn wait(&mut self, from: Offset, timeout: Duration) {
        let shared = self.log.shared();
        let until = Instant::now() + timeout;
        let mut durable = locked(&shared.durable);
        while durable.heads[self.index].end <= from {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = shared.grown.wait_timeout(durable, left);
            durable = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn now_ms(&self) -> Millis {
        (self.log.shared().options.clock)().max(self.head().time_ms)
    }

    fn tick(&mut self) -> Result<(), Error> {
        let mut records = RecordBatchBuilder::new();
        records.push_record(b"", &[("trailproof".to_owned(), "tick".to_owned())], b"");
        let append = PartitionAppend {
            topic: self.topic,
            partition: self.partition,
            records: records.finish(),
        };
        self.log.append(vec![append]).map(|_| ())
    }
}
