//! The open segments of a partition: filing, closing chunks early, sealing.
//!
//! **Invariant (I10):** open text never exceeds [`OPEN_BYTES_MAX`]; past it the open chunks of the
//! greatest [`OpenSegment::weight`] close, ties by tracker number and service: a rule of the log
//! alone. A load under a smaller bound meets it with the end of its first batch.

mod tail;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::count::Counts;
use crate::effect::{Effect, Lane, SegmentFile};
use crate::files::files_partition;
use crate::input::{Millis, Offset, Position};
use crate::invariant;
use crate::key::{SegmentId, Table, TrackerId, whole};
use crate::names::trace_file;
use crate::query;
use crate::record::Setup;
use crate::route::Router;
use crate::segment::{Filing, OpenSegment};
use crate::stage::Batch;

/// Text bytes in open chunks of one partition at most.
pub const OPEN_BYTES_MAX: usize = 56 << 20;

/// Segments of one tracker that still take traces, by service.
#[derive(Debug, Default)]
pub struct OpenTracker {
    /// By number of the service.
    segments: BTreeMap<u32, Box<OpenSegment>>,
    /// Changed since the last batch ended.
    dirty: bool,
    /// Changed since the view was last published.
    unpublished: bool,
    /// Changed since the last savepoint.
    unsaved: bool,
}

/// What filing needs to know beside the trace.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The catalog in force.
    pub router: &'a Router,
    /// The stage's setup.
    pub setup: &'a Setup,
    /// Counting slot of the account.
    pub slot: usize,
}

/// Open parts by tracker, as queries see them.
type OpenTrackers = Arc<BTreeMap<TrackerId, Arc<Vec<query::OpenSegment>>>>;

/// The open segments of a partition.
#[derive(Debug, Default)]
pub struct OpenSegments {
    /// Start and end of the running cycle.
    cycle: Option<(Millis, Millis)>,
    /// No cycle under the catalog in force begins before this one's start: a longer cycle begins
    /// where the shorter one did that it replaces, so starts never go back.
    not_before: Option<Millis>,
    trackers: Vec<OpenTracker>,
    /// Numbers of the services that segments are open of, given as they come.
    services: BTreeMap<Box<str>, u32>,
    open_bytes: usize,
    open_bytes_max: usize,
    dirty: Vec<u32>,
    unpublished: Vec<u32>,
    /// Trackers that the catalog no longer has, whose open parts must leave the published view.
    retired: Vec<TrackerId>,
    /// Whether this stage has published; what another one did may be of other rows.
    published: bool,
    /// First offset of each savepoint that has tail rows, and their bytes unpacked.
    tail_rows: VecDeque<(Offset, usize)>,
    /// What is open from this offset on is in no tail row yet.
    saved: Offset,
    sealed: u64,
    closed_early: u64,
    tails_rewritten: u64,
}

impl OpenSegments {
    /// None open yet; at most `open_bytes_max` of text ever.
    pub(super) fn bounded(open_bytes_max: usize) -> Self {
        Self { open_bytes_max, ..Self::default() }
    }

    /// Chunks closed early, and tails rewritten, since the stage was loaded.
    pub(super) fn relieved(&self) -> (u64, u64) {
        (self.closed_early, self.tails_rewritten)
    }

    /// Start of the running cycle; `None` before the first catalog.
    #[must_use]
    pub fn cycle_ms(&self) -> Option<Millis> {
        self.cycle.map(|(start, _)| start)
    }

    /// End of the running cycle; `None` before the first catalog.
    #[must_use]
    pub fn cycle_end_ms(&self) -> Option<Millis> {
        self.cycle.map(|(_, end)| end)
    }

    /// Begins the cycle of length `cycle_ms` that a stream time lies in.
    pub fn begin(&mut self, stream_time_ms: Millis, cycle_ms: Millis) {
        let start = stream_time_ms.div_euclid(cycle_ms) * cycle_ms;
        let not_before = self.not_before.unwrap_or(start);
        self.cycle = Some((start.max(not_before), start + cycle_ms));
    }

    /// Says how early cycles may begin, when the stage is loaded.
    pub(super) fn set_not_before(&mut self, not_before: Option<Millis>) {
        self.not_before = not_before;
    }

    /// How early cycles may begin; `None` where nothing bounds them.
    pub(super) fn not_before(&self) -> Option<Millis> {
        self.not_before
    }

    /// Segments sealed since the stage was loaded.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.sealed
    }

    /// Text bytes in open chunks.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Whether no segment is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trackers.iter().all(|tracker| tracker.segments.is_empty())
    }

    /// Files a trace with a tracker.
    pub fn file(
        &mut self,
        number: u32,
        filing: &Filing<'_>,
        context: &Context<'_>,
        counts: &mut Counts,
        position: &mut Position,
        batch: &mut Batch,
    ) {
        let length = filing.stored_bytes();
        let catalog = context.router.catalog();
        let tracker = context.router.tracker_at(number);
        let id = context.router.trackers()[number as usize].id;
        let named = if tracker.sort_by_service {
            filing.trace.value(crate::attribute::Attribute::ServiceType).unwrap_or_default()
        } else {
            ""
        };
        self.touch(number);
        let service = self.service(named);
        let segments = &mut self.trackers[number as usize].segments;
        let file_bytes_max = catalog.file_bytes_max;
        if segments.get(&service).is_some_and(|open| open.is_full(length, file_bytes_max))
            && let Some(segment) = segments.remove(&service)
        {
            self.seal(*segment, number, context, counts, position, batch);
        }
        let segments = &mut self.trackers[number as usize].segments;
        let segment = segments.entry(service).or_insert_with(|| {
            let (cycle_ms, part) = (self.cycle.map_or(0, |(start, _)| start), filing.offset);
            let service = named.to_owned();
            Box::new(OpenSegment::new(SegmentId { tracker: id, cycle_ms, service, part }))
        });
        assert!(
            invariant::well_formed(segment, filing.offset, length, file_bytes_max),
            "I5: a trace does not fit its segment"
        );
        if segment.chunk_is_full(length) {
            self.open_bytes -= segment.close_chunk(batch);
        }
        segment.push(&mut batch.workbench.pool, filing);
        self.open_bytes += OpenSegment::grows_by(length);
        if batch.workbench.pool.is_full() {
            self.settle(&mut batch.workbench.pool);
        }
        // A digest's count of filed traces is that of its files; a tracker may begin or cease to
        // have files in the midst of an interval.
        if tracker.transfers() {
            counts.filed(context.slot, &id);
        }
        if self.open_bytes > self.open_bytes_max {
            self.close_largest(batch);
        }
    }

    fn touch(&mut self, number: u32) {
        let tracker = &mut self.trackers[number as usize];
        tracker.unsaved = true;
        if !tracker.dirty {
            tracker.dirty = true;
            self.dirty.push(number);
        }
        if !tracker.unpublished {
            tracker.unpublished = true;
            self.unpublished.push(number);
        }
    }

    /// The number of a service. Numbers begin anew with each cycle, so there are no more of them
    /// than there were open segments.
    fn service(&mut self, name: &str) -> u32 {
        if let Some(number) = self.services.get(name) {
            return *number;
        }
        let number = self.services.len() as u32;
        self.services.insert(name.into(), number);
        number
    }

    /// Closes open chunks until a quarter of the bound is free, those first that are largest for
    /// how fast their segment grows: so the fewest chunks are made within the bound.
    fn close_largest(&mut self, batch: &mut Batch) {
        let mut ranks = vec![0u32; self.services.len()];
        (0..).zip(self.services.values()).for_each(|(rank, number)| ranks[*number as usize] = rank);
        let mut order = Vec::new();
        for (number, tracker) in (0u32..).zip(&self.trackers) {
            for (service, segment) in &tracker.segments {
                let weight = Reverse(segment.weight());
                order.push((weight, number, ranks[*service as usize], *service));
            }
        }
        order.sort_unstable();
        for (_, number, _, service) in order {
            if self.open_bytes <= self.open_bytes_max / 4 * 3 {
                break;
            }
            self.closed_early += 1;
            self.touch(number);
            if let Some(segment) = self.trackers[number as usize].segments.get_mut(&service) {
                self.open_bytes -= segment.close_chunk(batch);
            }
        }
    }

    /// Seals a segment: no trace will follow, and its file is on its way.
    fn seal(
        &mut self,
        mut segment: OpenSegment,
        number: u32,
        context: &Context<'_>,
        counts: &mut Counts,
        position: &mut Position,
        batch: &mut Batch,
    ) {
        let Context { router, setup, slot } = *context;
        self.open_bytes -= segment.close_chunk(batch);
        segment.summary.sealed = true;
        let row = segment.summary.encode();
        batch.changes.put(segment.id.key(Table::Segment).done(), row);
        self.sealed += 1;
        let tracker = router.tracker_at(number);
        if !tracker.transfers() {
            return;
        }
        counts.sealed(slot, &segment.id.tracker);
        let catalog = router.catalog();
        let account = &router.account_at(router.trackers()[number as usize].account).id;
        let cycle_end_ms = self.cycle_end_ms().unwrap_or(segment.id.cycle_ms);
        let summary = &segment.summary;
        let effect = Effect::Segment(Box::new(SegmentFile {
            tracker: tracker.id.clone(),
            tracker_name: tracker.name.clone(),
            account: account.clone(),
            bucket: tracker.bucket.clone(),
            object: trace_file(catalog, tracker, &segment.id, cycle_end_ms, setup.partition),
            compression: tracker.compression,
            verify: tracker.verify,
            service: segment.id.service.clone(),
            cycle_start_ms: segment.id.cycle_ms,
            cycle_end_ms,
            partition: setup.partition,
            first_offset: segment.id.part,
            last_offset: summary.last_offset,
            count: summary.frontier.size(),
            chunks: summary.chunks,
            raw_bytes: summary.file_bytes(),
            time_min_ms: summary.time_min_ms,
            time_max_ms: summary.time_max_ms,
            root: data_encoding::HEXLOWER.encode(&summary.frontier.root()),
            files_partition: files_partition(&segment.id.tracker, catalog.files_partitions),
        }));
        batch.effect(position, Lane::Objects, &effect);
    }

    /// Seals every segment, in order of tracker number and service, and forgets the tail.
    pub fn seal_all(
        &mut self,
        router: &Router,
        setup: &Setup,
        counts: &mut Counts,
        position: &mut Position,
        batch: &mut Batch,
    ) {
        for number in 0..self.trackers.len() as u32 {
            self.seal_tracker(number, router, setup, counts, position, batch);
        }
        let (from, to) = whole(Table::Tail);
        batch.changes.delete_range(from, to);
        self.tail_rows.clear();
        self.services.clear();
    }

    fn seal_tracker(
        &mut self,
        number: u32,
        router: &Router,
        setup: &Setup,
        counts: &mut Counts,
        position: &mut Position,
        batch: &mut Batch,
    ) {
        let segments = std::mem::take(&mut self.trackers[number as usize].segments);
        if segments.is_empty() {
            return;
        }
        self.touch(number);
        let account = router.trackers()[number as usize].account;
        let slot = counts.slot(&router.account_at(account).id);
        let context = Context { router, setup, slot };
        let mut segments: Vec<_> = segments.into_values().collect();
        segments.sort_unstable_by(|one, other| one.id.service.cmp(&other.id.service));
        for segment in segments {
            self.seal(*segment, number, &context, counts, position, batch);
        }
    }

    /// Takes a catalog: seals what changed under the old one, renumbers what stays.
    pub fn install(
        &mut self,
        router: &Router,
        old: Option<&Router>,
        setup: &Setup,
        counts: &mut Counts,
        position: &mut Position,
        batch: &mut Batch,
    ) {
        let Some(old) = old else {
            self.begin(position.stream_time_ms, router.catalog().cycle_ms);
            self.resize(router.trackers().len());
            return;
        };
        let kept = kept_trackers(old, router);
        self.not_before = self.cycle_ms();
        self.begin(position.stream_time_ms, router.catalog().cycle_ms);
        for number in 0..old.trackers().len() as u32 {
            if !kept.contains_key(&old.trackers()[number as usize].id) {
                self.seal_tracker(number, old, setup, counts, position, batch);
            }
        }
        // What is marked keeps its marks under its new number.
        let mut moved: Vec<OpenTracker> = Vec::new();
        moved.resize_with(router.trackers().len(), OpenTracker::default);
        let places: BTreeMap<TrackerId, u32> = router
            .trackers()
            .iter()
            .zip(0..)
            .map(|(tracker, number)| (tracker.id, number))
            .collect();
        let (mut dirty, mut unpublished) = (Vec::new(), Vec::new());
        for (tracker, routed) in std::mem::take(&mut self.trackers).into_iter().zip(old.trackers())
        {
            match places.get(&routed.id) {
                Some(number) => {
                    dirty.extend(tracker.dirty.then_some(*number));
                    unpublished.extend(tracker.unpublished.then_some(*number));
                    moved[*number as usize] = tracker;
                }
                None => self.retired.push(routed.id),
            }
        }
        (self.trackers, self.dirty, self.unpublished) = (moved, dirty, unpublished);
    }

    /// The open parts of every tracker: those that changed since the last call, the rest shared
    /// with `previous`.
    pub fn publish(&mut self, router: &Router, previous: &OpenTrackers) -> OpenTrackers {
        let first = !std::mem::replace(&mut self.published, true);
        if self.unpublished.is_empty() && self.retired.is_empty() && !first {
            return Arc::clone(previous);
        }
        let mut trackers = if first { BTreeMap::new() } else { BTreeMap::clone(previous) };
        for id in self.retired.drain(..) {
            trackers.remove(&id);
        }
        for number in std::mem::take(&mut self.unpublished) {
            let tracker = &mut self.trackers[number as usize];
            tracker.unpublished = false;
            let segments: Vec<query::OpenSegment> = tracker
                .segments
                .values()
                .filter(|segment| !segment.parts.is_empty())
                .map(|segment| query::OpenSegment {
                    segment: Arc::clone(&segment.id),
                    parts: segment.parts.clone(),
                })
                .collect();
            let id = router.trackers()[number as usize].id;
            if segments.is_empty() {
                trackers.remove(&id);
            } else {
                trackers.insert(id, Arc::new(segments));
            }
        }
        Arc::new(trackers)
    }

    /// Makes room for the catalog's trackers, when the stage is loaded.
    pub(super) fn resize(&mut self, trackers: usize) {
        self.trackers.resize_with(trackers, OpenTracker::default);
    }
}

/// The trackers that a new catalog leaves as they are.
fn kept_trackers(old: &Router, new: &Router) -> BTreeMap<TrackerId, ()> {
    let (before, after) = (old.catalog(), new.catalog());
    let shape = |catalog: &crate::catalog::Catalog| {
        (catalog.cycle_ms, catalog.region.clone(), catalog.files_partitions, catalog.file_bytes_max)
    };
    if shape(before) != shape(after) {
        return BTreeMap::new();
    }
    let place = |router: &Router, number: u32| {
        let routed = router.trackers()[number as usize];
        (router.account_at(routed.account).id.clone(), router.tracker_at(number).clone())
    };
    let known: BTreeMap<TrackerId, (String, crate::catalog::Tracker)> =
        (0..).zip(new.trackers()).map(|(number, routed)| (routed.id, place(new, number))).collect();
    (0..)
        .zip(old.trackers())
        .filter(|(number, routed)| known.get(&routed.id) == Some(&place(old, *number)))
        .map(|(_, routed)| (routed.id, ()))
        .collect()
}
