//! The tail of the open segments: written at the end of a batch, read back by a restart.
//!
//! **Invariant:** the tail's rows, in order of their keys, have each segment's open traces in
//! order of offset.

use crate::input::Offset;
use crate::invariant;
use crate::key::{Key, SegmentId, Table};
use crate::record::open::OpenSegments;
use crate::segment::{Filing, OpenSegment};
use crate::stage::Batch;

/// Tail rows, unpacked, of so many times the bound of open text: past that the older half of them
/// becomes one row with what is still open.
const TAIL_FACTOR: usize = 4;

impl OpenSegments {
    /// Ends a batch: what it left open goes into the tail.
    pub fn finish(&mut self, from: Offset, batch: &mut Batch) {
        // A load under a smaller bound puts back more than that, and the batch may file nothing.
        if self.open_bytes > self.open_bytes_max {
            self.close_largest(batch);
        }
        let bounded = invariant::within(self.open_bytes as u64, self.open_bytes_max as u64);
        assert!(bounded, "I10: more text is open than may be");
        // Where most of the batch is open, its text becomes the row's as it is.
        let whole = !self.settled && self.pool.held() * 2 > self.pool.text().len();
        let mut places = Vec::new();
        for number in std::mem::take(&mut self.dirty) {
            let tracker = &mut self.trackers[number as usize];
            tracker.dirty = false;
            for segment in tracker.segments.values_mut() {
                places.clear();
                places.extend(self.pool.places(&segment.current).filter(|_| whole));
                let fresh = segment.freeze(&mut self.pool);
                if whole && let Some(part) = segment.parts.newest().filter(|_| fresh) {
                    if places.is_empty() {
                        places.extend(self.pool.append_text(part));
                    }
                    self.tail.add_places(&segment.id, part, places.iter().copied());
                } else {
                    let mut parts: Vec<_> = segment
                        .parts
                        .newest_first()
                        .take_while(|part| part.first_offset() >= from)
                        .collect();
                    parts.reverse();
                    parts.into_iter().for_each(|part| self.tail.add(&segment.id, part));
                }
            }
        }
        if !self.tail.is_empty() {
            let (row, bytes) =
                if whole { self.tail.row_of(self.pool.text_mut()) } else { self.tail.row() };
            self.tail_rows.push_back((from, bytes));
            batch.changes.put(tail_key(from), row);
            self.carry_tail(batch);
        }
        self.pool.clear();
        self.settled = false;
    }

    /// Moves what the pool holds to where it belongs, in the midst of a batch that files more than
    /// its own size, because many trackers take each trace.
    pub(super) fn settle(&mut self) {
        for number in &self.dirty {
            for segment in self.trackers[*number as usize].segments.values_mut() {
                segment.freeze(&mut self.pool);
            }
        }
        self.pool.clear();
        self.settled = true;
    }

    /// Keeps the tail within its bound: the older half of its rows becomes one, with what of them
    /// is still open.
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
        for segment in self.trackers.iter().flat_map(|tracker| tracker.segments.values()) {
            let parts = segment.parts.in_order().into_iter();
            parts
                .take_while(|part| part.first_offset() < end)
                .for_each(|part| self.tail.add(&segment.id, part));
        }
        if !self.tail.is_empty() {
            // Under the first key: a load must meet each segment's traces in order.
            let (row, bytes) = self.tail.row();
            self.tail_rows.push_front((first, bytes));
            batch.changes.put(tail_key(first), row);
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
    pub(in crate::record) fn refill(&mut self, number: u32, id: &SegmentId, filing: &Filing<'_>) {
        self.touch(number);
        let service = self.service(&id.service);
        let segments = &mut self.trackers[number as usize].segments;
        let segment =
            segments.entry(service).or_insert_with(|| Box::new(OpenSegment::new(id.clone())));
        segment.push(&mut self.pool, filing);
        self.open_bytes += OpenSegment::grows_by(filing.stored_bytes());
    }

    /// Notes a tail row that was read back, and shares what it put back.
    pub(in crate::record) fn refilled(&mut self, from: Offset, bytes: usize) {
        self.tail_rows.push_back((from, bytes));
        self.settle();
        self.settled = false;
        for number in std::mem::take(&mut self.dirty) {
            self.trackers[number as usize].dirty = false;
        }
    }
}

/// The key of a tail row.
fn tail_key(from: Offset) -> Vec<u8> {
    Key::of(Table::Tail).u64(from).done()
}
