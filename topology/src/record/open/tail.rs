//! The tail of the open segments: written by a savepoint, read back by a restart.
//!
//! **Invariant:** the tail's rows, in order of their keys, have each segment's open traces in
//! order of offset.

use crate::chunk::Part;
use crate::input::Offset;
use crate::invariant;
use crate::key::{Key, SegmentId, Table};
use crate::pool::Pool;
use crate::record::open::OpenSegments;
use crate::segment::{Filing, OpenSegment};
use crate::stage::Batch;

/// Tail rows, unpacked, of so many times the bound of open text: past that the older half of them
/// is written anew, with what is still open.
const TAIL_FACTOR: usize = 4;

impl OpenSegments {
    /// Ends a batch: what it filed moves from the pool to where it belongs.
    pub fn finish(&mut self, batch: &mut Batch) {
        // A load under a smaller bound puts back more than that, and the batch may file nothing.
        if self.open_bytes > self.open_bytes_max {
            self.close_largest(batch);
        }
        let bounded = invariant::within(self.open_bytes as u64, self.open_bytes_max as u64);
        assert!(bounded, "I10: more text is open than may be");
        self.settle_all(&mut batch.workbench.pool);
    }

    /// Moves what the pool holds to where it belongs, and begins with no tracker changed.
    fn settle_all(&mut self, pool: &mut Pool) {
        self.settle(pool);
        for number in std::mem::take(&mut self.dirty) {
            self.trackers[number as usize].dirty = false;
        }
    }

    /// Moves what the pool holds to where it belongs; also in the midst of a batch that files more
    /// than its own size, because many trackers take each trace.
    pub(super) fn settle(&mut self, pool: &mut Pool) {
        for number in &self.dirty {
            for segment in self.trackers[*number as usize].segments.values_mut() {
                segment.freeze(pool);
            }
        }
        pool.clear();
    }

    /// Writes what is open and in no tail row yet. `next` is the offset behind the last batch.
    pub fn savepoint(&mut self, next: Offset, batch: &mut Batch) {
        let from = std::mem::replace(&mut self.saved, next);
        let mut rows = TailRows::under(from);
        for tracker in &mut self.trackers {
            if !std::mem::take(&mut tracker.unsaved) {
                continue;
            }
            for segment in tracker.segments.values() {
                for part in segment.parts.since(from) {
                    rows.add(&segment.id, part, batch);
                }
            }
        }
        let bytes = rows.end(batch);
        if bytes > 0 {
            self.tail_rows.push_back((from, bytes));
            self.carry_tail(batch);
        }
        batch.workbench.tail.rest();
    }

    /// Keeps the tail within its bound: the older half of its rows is written anew, with what of
    /// them is still open.
    fn carry_tail(&mut self, batch: &mut Batch) {
        let mut kept: usize = self.tail_rows.iter().map(|(_, bytes)| bytes).sum();
        let bytes_max = TAIL_FACTOR * self.open_bytes_max;
        if kept <= bytes_max {
            return;
        }
        let Some((first, _)) = self.tail_rows.front().copied() else { return };
        self.tails_rewritten += 1;
        while kept > bytes_max / 2
            && let Some((_, bytes)) = self.tail_rows.pop_front()
        {
            kept -= bytes;
        }
        let end = self.tail_rows.front().map_or(Offset::MAX, |(from, _)| *from);
        batch.changes.delete_range(tail_key(first), tail_key(end));
        // Under the first key: a load must meet each segment's traces in order.
        let mut rows = TailRows::under(first);
        for segment in self.trackers.iter().flat_map(|tracker| tracker.segments.values()) {
            let parts = segment.parts.in_order().into_iter();
            for part in parts.take_while(|part| part.first_offset() < end) {
                rows.add(&segment.id, part, batch);
            }
        }
        let bytes = rows.end(batch);
        if bytes > 0 {
            self.tail_rows.push_front((first, bytes));
        }
    }

    /// Puts back a segment of which rows tell, when the stage is loaded.
    pub(in crate::record) fn restore(&mut self, number: u32, segment: OpenSegment) {
        let service = self.service(&segment.id.service);
        self.trackers[number as usize].segments.insert(service, Box::new(segment));
    }

    /// Whether a trace of the tail is in a chunk that has closed since, or its segment is another
    /// one by now.
    pub(in crate::record) fn is_closed(&self, number: u32, id: &SegmentId, offset: Offset) -> bool {
        let service = self.services.get(id.service.as_str());
        let segments = &self.trackers[number as usize].segments;
        service.and_then(|service| segments.get(service)).is_some_and(|segment| {
            let summary = &segment.summary;
            *segment.id != *id || (summary.frontier.size() > 0 && offset <= summary.last_offset)
        })
    }

    /// Puts back a trace of the tail that is not closed. The segment is made where it had no
    /// closed chunk.
    pub(in crate::record) fn refill(
        &mut self,
        number: u32,
        id: &SegmentId,
        filing: &Filing<'_>,
        pool: &mut Pool,
    ) {
        self.touch(number);
        let service = self.service(&id.service);
        let segments = &mut self.trackers[number as usize].segments;
        let segment =
            segments.entry(service).or_insert_with(|| Box::new(OpenSegment::new(id.clone())));
        segment.push(pool, filing);
        self.open_bytes += OpenSegment::grows_by(filing.stored_bytes());
    }

    /// Notes a tail row that was read back, and shares what it put back.
    pub(in crate::record) fn refilled(&mut self, from: Offset, bytes: usize, pool: &mut Pool) {
        match self.tail_rows.back_mut().filter(|(last, _)| *last == from) {
            Some((_, kept)) => *kept += bytes,
            None => self.tail_rows.push_back((from, bytes)),
        }
        self.settle_all(pool);
    }

    /// Notes that the rows, as of offset `next`, have all that is open.
    pub(in crate::record) fn loaded(&mut self, next: Offset) {
        self.saved = next;
    }
}

/// The rows of one savepoint, written one after another.
struct TailRows {
    from: Offset,
    count: u32,
    bytes: usize,
}

impl TailRows {
    /// Rows whose keys begin with `from`.
    fn under(from: Offset) -> Self {
        Self { from, count: 0, bytes: 0 }
    }

    fn add(&mut self, id: &SegmentId, part: &Part, batch: &mut Batch) {
        batch.workbench.tail.add(id, part);
        if batch.workbench.tail.is_full() {
            self.put(batch);
        }
    }

    fn put(&mut self, batch: &mut Batch) {
        let (row, bytes) = batch.workbench.tail.row();
        batch.changes.put(Key::of(Table::Tail).u64(self.from).u32(self.count).done(), row);
        self.count += 1;
        self.bytes += bytes;
    }

    /// Writes what is left; bytes of all rows, unpacked.
    fn end(mut self, batch: &mut Batch) -> usize {
        if !batch.workbench.tail.is_empty() {
            self.put(batch);
        }
        self.bytes
    }
}

/// What the keys of a savepoint's tail rows begin with.
fn tail_key(from: Offset) -> Vec<u8> {
    Key::of(Table::Tail).u64(from).done()
}
