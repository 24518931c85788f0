//! The record stage: traces in; views, trace files, notifications and dead letters out.
//!
//! One record goes through here once: parse, find the account, recognise a resend, route to the
//! trackers, file into segments, evaluate rules. A record whose stream time lies past the end of
//! the running cycle first seals everything of that cycle.
//!
//! **Invariant (I6):** what leaves depends on the log alone. Batches may end anywhere.
//!
//! Read next: [`open`] for the segments, [`load`] for the way back from rows.

pub mod load;
mod messages;
pub mod open;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::count::Counts;
use crate::effect::{Effect, Lane, OutRecord, Topic};
use crate::files::FilesRecord;
use crate::input::{Body, Input, Millis, Position};
use crate::invariant;
use crate::key::{Key, Table, single};
use crate::merkle::{Hash, leaf_hash};
use crate::names::derived_trace_id;
use crate::query::OpenView;
use crate::route::Router;
use crate::segment::Filing;
use crate::stage::{Batch, LoadError, Stage, Wanted};
use crate::state::Rows;
use crate::trace::{self, Reason, Reject, Trace};
use crate::window::{Mark, Seen, Window};

use open::OpenSegments;

/// What a record stage is told once.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The partition of topic `traces` that it reads.
    pub partition: u32,
    /// Identity of the topic: part of derived trace ids, so that a new topic gives new ids.
    pub topic_id: Arc<str>,
    /// Text bytes in open chunks at most, [`open::OPEN_BYTES_MAX`] in a server: it shapes chunks,
    /// and nothing that leaves.
    pub open_bytes_max: usize,
}

/// Numbers of the records applied since the stage was loaded, for metrics alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records of every kind.
    pub records: u64,
    /// Traces filed, once per tracker.
    pub filed: u64,
    /// Resends.
    pub duplicates: u64,
    /// Known ids with other content.
    pub conflicts: u64,
    /// Traces that no tracker selected.
    pub unselected: u64,
    /// Dead letters by number of the reason.
    pub dead_letters: [u64; Reason::ALL.len()],
    /// Notifications.
    pub notifications: u64,
    /// Segments sealed.
    pub sealed: u64,
    /// Chunks closed early, for the bound of open text.
    pub closed_early: u64,
    /// Times that the tail was written anew.
    pub tails_rewritten: u64,
}

/// A trace of an account that the catalog has.
struct Known {
    account: u32,
    /// Its mark, and what the window knows of it; `None` for one without an id of its own, which is
    /// always new.
    seen: Option<(Mark, Seen)>,
}

/// The record stage of one partition.
#[derive(Debug)]
pub struct RecordStage {
    setup: Setup,
    position: Position,
    reader: trace::Reader,
    router: Option<Router>,
    open: OpenSegments,
    counts: Counts,
    /// Counting slots of the router's accounts in this stretch.
    slots: Vec<Option<usize>>,
    window: Window,
    sequences: BTreeMap<String, u64>,
    dirty_sequences: Vec<String>,
    /// First offset of the running batch.
    batch_from: Option<u64>,
    selected: Vec<u32>,
    added: Vec<u8>,
    tally: Tally,
}

impl Stage for RecordStage {
    type Setup = Setup;

    fn load<R: Rows>(setup: Setup, rows: &R) -> Result<Self, LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        load::stage(setup, rows)
    }

    fn apply(&mut self, input: &Input<'_>, batch: &mut Batch) -> Result<(), Wanted> {
        assert!(invariant::in_order(&self.position, input), "I2: records out of order");
        // What may want rows comes first, while nothing has changed.
        match input.body {
            Body::Data(record) => {
                let parsed = self.reader.parse(record);
                let known = match &parsed {
                    Ok(trace) => self.recognise(trace, record)?,
                    Err(_) => None,
                };
                self.begin(input, batch);
                match parsed {
                    Ok(trace) => self.trace(input, record, &trace, known, batch),
                    Err(reject) => self.reject(input, record, reject, batch),
                }
            }
            Body::Tick => {
                self.begin(input, batch);
                self.counts.ticks += 1;
            }
            Body::Catalog(version, catalog) => {
                let newer = catalog.filter(|_| version > self.position.catalog_version);
                if let Some(catalog) = newer {
                    self.window.ready(catalog.dedup_window)?;
                }
                self.begin(input, batch);
                self.counts.marks += 1;
                if let Some(catalog) = newer {
                    self.install(version, Arc::clone(catalog), batch);
                }
            }
            Body::Unknown(record) => {
                self.begin(input, batch);
                self.counts.dead_lettered += 1;
                let detail = "header trailproof is neither tick nor catalog".to_owned();
                let reject = Reject { reason: Reason::UnknownHeader, detail, account: None };
                self.dead_letter(input, record, &reject, batch);
            }
            Body::Gap { from } => {
                self.come_to(input);
                self.counts.lost += input.offset + 1 - from;
            }
        }
        Ok(())
    }

    fn read<R: Rows>(&mut self, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        self.window.read(rows)
    }

    fn finish(&mut self, batch: &mut Batch) {
        let Some(from) = self.batch_from.take() else { return };
        self.open.finish(batch);
        self.counts.finish(batch);
        self.window.finish(from, batch);
        for rule in self.dirty_sequences.drain(..) {
            let next = self.sequences.get(&rule).copied().unwrap_or_default();
            let key = Key::of(Table::Sequence).raw(rule.as_bytes()).done();
            batch.changes.put(key, next.to_be_bytes().to_vec());
        }
        batch.changes.put(single(Table::Position), self.position.encode());
    }

    fn savepoint(&mut self, batch: &mut Batch) {
        assert!(self.batch_from.is_none(), "I1: a savepoint in the midst of a batch");
        if self.position == Position::default() {
            return;
        }
        let next = self.position.next_offset;
        self.open.savepoint(next, batch);
        batch.changes.put(single(Table::Savepoint), next.to_be_bytes().to_vec());
    }

    fn position(&self) -> &Position {
        &self.position
    }

    fn next_boundary_ms(&self) -> Option<Millis> {
        self.open.cycle_end_ms()
    }
}

impl RecordStage {
    /// What happened since the stage was loaded.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let (closed_early, tails_rewritten) = self.open.relieved();
        Tally { sealed: self.open.sealed(), closed_early, tails_rewritten, ..self.tally }
    }

    /// What queries see of the open chunks, as of the batch that was committed last. Shares with
    /// `previous` what did not change.
    pub fn publish(&mut self, previous: &OpenView) -> OpenView {
        let trackers = match &self.router {
            Some(router) => self.open.publish(router, &previous.trackers),
            None => Arc::default(),
        };
        OpenView { position: self.position, trackers }
    }

    /// The catalog in force; `None` before the first mark.
    #[must_use]
    pub fn catalog(&self) -> Option<&Arc<Catalog>> {
        self.router.as_ref().map(Router::catalog)
    }

    /// Moves the position behind a record, or a gap.
    fn come_to(&mut self, input: &Input<'_>) {
        let from = input.first_offset();
        if self.batch_from.is_none() {
            self.batch_from = Some(from);
        }
        if self.position == Position::default() {
            self.counts.from = from;
        } else {
            // Offsets that hold no record: they belong to the stretch that was running.
            self.counts.absent += from - self.position.next_offset;
        }
        self.position.next_offset = input.offset + 1;
    }

    /// Begins with a record: moves position and stream time, and counts it.
    fn begin(&mut self, input: &Input<'_>, batch: &mut Batch) {
        let clear = self.batch_from.is_some() || batch.workbench.is_clear();
        assert!(clear, "I1: what another batch filed is on this one's workbench");
        self.come_to(input);
        self.advance(input.append_time_ms, input.offset, batch);
        self.counts.records += 1;
        self.tally.records += 1;
    }

    /// Moves stream time, and seals what has ended by it.
    fn advance(&mut self, append_time_ms: Millis, offset: u64, batch: &mut Batch) {
        let stream_time_ms = self.position.stream_time_ms.max(append_time_ms);
        self.position.stream_time_ms = stream_time_ms;
        let Some(router) = &self.router else { return };
        let cycle_ms = router.catalog().cycle_ms;
        let Some((start, end)) = self.open.cycle_ms().zip(self.open.cycle_end_ms()) else {
            return;
        };
        if stream_time_ms < end {
            return;
        }
        let (setup, counts) = (&self.setup, &mut self.counts);
        self.open.seal_all(router, setup, counts, &mut self.position, batch);
        self.open.begin(stream_time_ms, cycle_ms);
        let until_ms = self.open.cycle_ms().unwrap_or(end);
        self.close(offset, start, until_ms, batch);
    }

    /// Says in topic `files` that the stretch up to `to` is finished.
    fn close(&mut self, to: u64, cycle_start_ms: Millis, until_ms: Millis, batch: &mut Batch) {
        let balanced = invariant::balanced(&self.counts, to);
        assert!(balanced, "I3: the counts of a stretch do not balance");
        let partition = self.setup.partition;
        let closed = self.counts.close(partition, to, cycle_start_ms, until_ms, batch);
        self.slots.fill(None);
        let partitions =
            self.router.as_ref().map_or(1, |router| router.catalog().files_partitions.max(1));
        for piece in closed.split() {
            let value = FilesRecord::Closed(piece).encode();
            let records = (0..partitions)
                .map(|partition| OutRecord {
                    topic: Topic::Files,
                    partition: Some(partition),
                    key: Vec::new(),
                    headers: Vec::new(),
                    value: value.clone(),
                })
                .collect();
            batch.effect(&mut self.position, Lane::Objects, &Effect::Records(records));
        }
    }

    /// Takes a new catalog version into force: segments of trackers that changed are sealed.
    fn install(&mut self, version: u64, catalog: Arc<Catalog>, batch: &mut Batch) {
        let row = serde_json::to_vec(&*catalog)
            .expect("a catalog has string keys, so it always serialises");
        batch.changes.put(single(Table::Catalog), row);
        self.position.catalog_version = version;
        let router = Router::new(catalog);
        self.open.install(
            &router,
            self.router.as_ref(),
            &self.setup,
            &mut self.counts,
            &mut self.position,
            batch,
        );
        if let Some(not_before) = self.open.not_before() {
            batch.changes.put(load::not_before_key(), not_before.to_be_bytes().to_vec());
        }
        self.slots = vec![None; router.catalog().accounts.len()];
        self.router = Some(router);
    }

    /// Files a trace of a known account, unless it is a resend.
    fn trace(
        &mut self,
        input: &Input<'_>,
        record: &[u8],
        trace: &Trace<'_>,
        known: Option<Known>,
        batch: &mut Batch,
    ) {
        let Some(Known { account, seen }) = known else {
            let detail = "the catalog has no such account".to_owned();
            let reject = Reject { reason: Reason::UnknownAccount, detail, account: None };
            return self.reject(input, record, reject, batch);
        };
        let slot = self.slot(account);
        self.counts.account(slot).received += 1;
        if matches!(seen, Some((_, Seen::Resend))) {
            self.counts.account(slot).duplicate += 1;
            self.tally.duplicates += 1;
            return;
        }
        let derived = self.complete(trace, input);
        let trace_id = derived
            .as_deref()
            .or_else(|| trace.values[crate::attribute::Attribute::TraceId as usize].as_deref());
        let leaf = self.leaf(record);
        if let Some((mark, seen)) = &seen {
            self.window.push(*mark, seen);
        }
        let conflict = matches!(seen, Some((_, Seen::Conflict(_))));
        if conflict {
            self.counts.account(slot).conflicts += 1;
            self.tally.conflicts += 1;
        }
        let added = std::mem::take(&mut self.added);
        let filing = Filing {
            offset: input.offset,
            stream_time_ms: self.position.stream_time_ms,
            trace,
            record,
            added: &added,
            leaf: &leaf,
            trace_id: derived.as_deref(),
        };
        if self.file(account, slot, &filing, batch) {
            self.notify(account, input, &filing, trace_id.unwrap_or_default(), conflict, batch);
        } else {
            self.tally.unselected += 1;
        }
        self.added = added;
    }

    /// The counting slot of an account in the running stretch.
    fn slot(&mut self, account: u32) -> usize {
        if let Some(slot) = self.slots[account as usize] {
            return slot;
        }
        let id = self.router.as_ref().map_or("", |router| &router.account_at(account).id);
        let slot = self.counts.slot(id);
        self.slots[account as usize] = Some(slot);
        slot
    }

    /// Prepares the members that a trace lacks; the derived trace id where it is one of them.
    fn complete(&mut self, trace: &Trace<'_>, input: &Input<'_>) -> Option<String> {
        self.added.clear();
        let has_id = trace.value(crate::attribute::Attribute::TraceId).is_some();
        let derived = (!has_id)
            .then(|| derived_trace_id(&self.setup.topic_id, self.setup.partition, input.offset));
        if let Some(id) = &derived {
            self.added.extend_from_slice(b"\"trace_id\":\"");
            self.added.extend_from_slice(id.as_bytes());
            self.added.extend_from_slice(b"\",");
        }
        if trace.record_time_ms.is_none() {
            self.added.extend_from_slice(b"\"record_time\":");
            self.added.extend_from_slice(input.append_time_ms.to_string().as_bytes());
            self.added.push(b',');
        }
        derived
    }

    /// The leaf hash of the trace as it will be stored.
    fn leaf(&self, record: &[u8]) -> Hash {
        if self.added.is_empty() {
            return leaf_hash(record);
        }
        let (head, body) = crate::segment::split_at_bracket(record, &self.added);
        crate::merkle::leaf_hash_of(&[head, &self.added, body])
    }

    /// Finds a trace's account, and looks the trace up in the window of resends. `None` where the
    /// catalog has no such account.
    fn recognise(&mut self, trace: &Trace<'_>, record: &[u8]) -> Result<Option<Known>, Wanted> {
        let account = self.router.as_ref().and_then(|router| router.account(&trace.account));
        let Some(account) = account else { return Ok(None) };
        let trace_id = trace.value(crate::attribute::Attribute::TraceId);
        let seen = match trace_id.map(|id| Mark::of(&trace.account, id, record)) {
            Some(mark) => Some((mark, self.window.look(&mark)?)),
            None => None,
        };
        Ok(Some(Known { account, seen }))
    }

    /// Files a trace with every tracker that selects it; whether there was one.
    fn file(&mut self, account: u32, slot: usize, filing: &Filing<'_>, batch: &mut Batch) -> bool {
        let Some(router) = &self.router else { return false };
        router.select(account, filing.trace, &mut self.selected);
        for number in &self.selected {
            let context = open::Context { router, setup: &self.setup, slot };
            let lane = &mut self.position;
            self.open.file(*number, filing, &context, &mut self.counts, lane, batch);
            self.tally.filed += 1;
        }
        !self.selected.is_empty()
    }
}
