//! A small world: traces in open parts, closed chunks and runs, and a list of all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use trailproof_topology::attribute::{ATTRIBUTES, Attribute};
use trailproof_topology::chunk::{Chunk, Entry, Part, Span};
use trailproof_topology::columns::Columns;
use trailproof_topology::key::{self, SegmentId, Table, TrackerId};
use trailproof_topology::memory::Memory;
use trailproof_topology::parts::Parts;
use trailproof_topology::query::answer::{self, Answer, Row};
use trailproof_topology::query::fetch::Fetcher;
use trailproof_topology::query::search::search;
use trailproof_topology::query::source::Partition;
use trailproof_topology::query::{OpenSegment, OpenView, Query};
use trailproof_topology::run::{ChunkId, tier};
use trailproof_topology::state::Changes;
use trailproof_topology::trace;

/// SplitMix64: a generator of our own, so that a seed means the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

/// A trace as it was made: what a naive filter looks at.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) tracker: TrackerId,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) stream_time_ms: i64,
    pub(crate) time_ms: i64,
    pub(crate) values: [Option<String>; ATTRIBUTES],
    pub(crate) json: Vec<u8>,
}

#[derive(Default)]
struct Segment {
    number: u32,
    parts: Parts,
}

/// One partition.
#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) rows: Memory,
    open: BTreeMap<SegmentId, Segment>,
    pub(crate) next_offset: u64,
    pub(crate) stream_time_ms: i64,
}

/// Two partitions and everything that was ever put in.
pub(crate) struct World {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) made: Vec<Made>,
    pub(crate) cycle_ms: i64,
    /// Greatest pause between two traces.
    pub(crate) pace_ms: u64,
}

pub(crate) const TRACKERS: [TrackerId; 2] = [[1; 16], [2; 16]];

const NAMES: [&str; 7] =
    ["ann", "Bob", "zoë", "ΣΊΣΥΦΟΣ", "quo\"te", "new\nline", "a longer name, with words in it"];

/// A value as JSON text; sometimes with its first character escaped, though it need not be.
fn quoted(random: &mut Random, value: &str) -> String {
    let plain = serde_json::to_string(value).expect("text serialises");
    match value.chars().next() {
        Some(first) if first.is_ascii_alphabetic() && random.one_in(4) => {
            format!("\"\\u{:04x}{}", first as u32, &plain[2..])
        }
        _ => plain,
    }
}

impl World {
    pub(crate) fn new(start_ms: i64) -> Self {
        let lane = || Lane { stream_time_ms: start_ms, ..Lane::default() };
        Self { lanes: vec![lane(), lane()], made: Vec::new(), cycle_ms: 3_600_000, pace_ms: 8_000 }
    }

    fn values(random: &mut Random, unique: u64, spread: u64) -> [Option<String>; ATTRIBUTES] {
        let mut values: [Option<String>; ATTRIBUTES] = Default::default();
        let mut set = |attribute: Attribute, value: String| {
            values[attribute as usize] = Some(value);
        };
        set(Attribute::ServiceType, (*random.pick(&["ECS", "IAM", "OBS"])).to_owned());
        set(Attribute::ResourceType, format!("type{}", random.below(5)));
        set(Attribute::TraceName, format!("doThing{}", random.below(40)));
        set(Attribute::TraceRating, (*random.pick(&["normal", "warning", "incident"])).to_owned());
        set(Attribute::TraceType, "ApiCall".to_owned());
        if !random.one_in(5) {
            set(Attribute::User, (*random.pick(&NAMES)).to_owned());
        }
        if !random.one_in(3) {
            set(Attribute::ResourceName, format!("Server {}", random.below(spread)));
        }
        if random.one_in(2) {
            set(Attribute::ResourceId, format!("id-{}", random.below(spread * 4)));
        }
        if random.one_in(9) {
            set(Attribute::Code, (*random.pick(&["200", "404", "500"])).to_owned());
        }
        // Now and then an id comes twice.
        let id = if random.one_in(20) { random.below(unique.max(1)) } else { unique };
        set(Attribute::TraceId, format!("trace-{id}"));
        values
    }

    fn json(random: &mut Random, time_ms: i64, values: &[Option<String>; ATTRIBUTES]) -> Vec<u8> {
        let mut members = vec![format!("\"time\":{time_ms}"), "\"domain_id\":\"d\"".to_owned()];
        for attribute in Attribute::ALL {
            let Some(value) = &values[attribute as usize] else { continue };
            let text = quoted(random, value);
            members.push(match attribute {
                Attribute::User => format!("\"user\":{{\"name\":{text}}}"),
                _ => format!("\"{}\":{text}", attribute.name()),
            });
        }
        format!("{{{}}}", members.join(",")).into_bytes()
    }

    /// Puts a batch of traces into one partition, then perhaps closes chunks.
    pub(crate) fn feed(&mut self, random: &mut Random, traces: u64, spread: u64, close_in: u64) {
        let at = random.below(self.lanes.len() as u64) as usize;
        let mut batch: BTreeMap<SegmentId, Part> = BTreeMap::new();
        for _ in 0..traces {
            let pause_ms = random.below(self.pace_ms);
            let lane = &mut self.lanes[at];
            // Offsets have gaps where records are ticks or unselected.
            lane.next_offset += 1 + random.below(3) / 2;
            lane.stream_time_ms += pause_ms as i64;
            let (offset, stream_time_ms) = (lane.next_offset, lane.stream_time_ms);
            let time_ms = (stream_time_ms - random.below(900_000) as i64).max(0);
            let unique = self.made.len() as u64;
            let values = Self::values(random, unique, spread);
            let json = Self::json(random, time_ms, &values);
            let tracker = *random.pick(&TRACKERS);
            self.roll(at, stream_time_ms, &mut batch);
            let cycle_ms = stream_time_ms.div_euclid(self.cycle_ms) * self.cycle_ms;
            let service = values[0].clone().unwrap_or_default();
            let known = self.lanes[at]
                .open
                .keys()
                .chain(batch.keys())
                .find(|id| (id.tracker, id.cycle_ms, &id.service) == (tracker, cycle_ms, &service))
                .cloned();
            let segment = known.unwrap_or(SegmentId { tracker, cycle_ms, service, part: offset });
            push(batch.entry(segment).or_default(), offset, stream_time_ms, &json);
            let partition = at as u32;
            self.made.push(Made {
                tracker,
                partition,
                offset,
                stream_time_ms,
                time_ms,
                values,
                json,
            });
        }
        self.lanes[at].take(batch);
        self.lanes[at].close(&mut |_| random.one_in(close_in));
    }

    /// Seals the segments of cycles that have ended, as the record stage does.
    fn roll(&mut self, at: usize, now_ms: i64, batch: &mut BTreeMap<SegmentId, Part>) {
        let cycle_ms = now_ms.div_euclid(self.cycle_ms) * self.cycle_ms;
        let lane = &mut self.lanes[at];
        if lane.open.keys().chain(batch.keys()).any(|id| id.cycle_ms < cycle_ms) {
            lane.take(std::mem::take(batch));
            lane.close(&mut |id| id.cycle_ms < cycle_ms);
            lane.open.retain(|id, _| id.cycle_ms >= cycle_ms);
        }
    }

    /// Lets the indexer work, at most so many steps.
    pub(crate) fn index(&mut self, steps: usize, rows_min: usize) {
        for lane in &mut self.lanes {
            let groups: std::collections::BTreeSet<(u16, TrackerId)> = lane
                .rows
                .iter()
                .filter(|(key, _)| [Table::Columns as u8, Table::Run as u8].contains(&key[0]))
                .map(|(key, _)| {
                    let tracker = key[3..19].try_into().expect("16 bytes");
                    (u16::from_be_bytes([key[1], key[2]]), tracker)
                })
                .collect();
            for (day, tracker) in groups {
                for _ in 0..steps {
                    let snapshot = lane.rows.clone();
                    let rows = &mut lane.rows;
                    let tiers = tier::Tiers { rows_min, fan_in: 8 };
                    let worked = tier::step(&snapshot, day, &tracker, tiers, &mut |changes| {
                        rows.commit(&changes);
                        Ok(())
                    });
                    if !worked.expect("rows are intact") {
                        break;
                    }
                }
            }
        }
    }

    /// What a query answers.
    pub(crate) fn ask(&self, query: &Query) -> Answer {
        query.check().expect("the query is within bounds");
        let views: Vec<OpenView> = self.lanes.iter().map(Lane::view).collect();
        let found = self
            .lanes
            .iter()
            .zip(&views)
            .zip(0..)
            .map(|((lane, open), number)| {
                let partition = Partition { number, rows: &lane.rows, open, days_from: 0 };
                (number, search(query, partition).expect("rows are intact"))
            })
            .collect();
        let (mut answer, hits) = answer::merge(query, found);
        for (cursor, hit) in hits {
            let rows = &self.lanes[cursor.partition as usize].rows;
            let trace = Fetcher::new(rows, 1).hit(&hit).expect("rows are intact");
            let trace = trace.expect("within the bound");
            answer.rows.push(Row { cursor, segment: hit.segment, trace });
        }
        answer
    }
}

impl Lane {
    fn take(&mut self, batch: BTreeMap<SegmentId, Part>) {
        for (id, part) in batch {
            self.open.entry(id).or_default().parts.push(part);
        }
    }

    fn close(&mut self, which: &mut dyn FnMut(&SegmentId) -> bool) {
        let mut changes = Changes::default();
        for (id, segment) in &mut self.open {
            if segment.parts.is_empty() || !which(id) {
                continue;
            }
            let chunk = ChunkId { segment: id.clone(), number: segment.number };
            let parts = segment.parts.in_order();
            let text: Vec<u8> = parts.iter().flat_map(|part| part.text.clone()).collect();
            let frame = zstd::bulk::compress(&text, 1).expect("memory suffices");
            changes.put(chunk.key(Table::Chunk), Chunk::encode(&parts, &frame));
            changes.put(chunk.key(Table::Columns), Columns::of_parts(&parts).encode());
            segment.number += 1;
            segment.parts = Parts::default();
        }
        self.rows.commit(&changes);
    }

    fn view(&self) -> OpenView {
        let mut trackers: BTreeMap<TrackerId, Vec<OpenSegment>> = BTreeMap::new();
        for (id, segment) in self.open.iter().filter(|(_, segment)| !segment.parts.is_empty()) {
            trackers
                .entry(id.tracker)
                .or_default()
                .push(OpenSegment { segment: Arc::new(id.clone()), parts: segment.parts.clone() });
        }
        let trackers = trackers.into_iter().map(|(id, open)| (id, Arc::new(open))).collect();
        OpenView { trackers: Arc::new(trackers), ..OpenView::default() }
    }

    /// Rows of a table.
    pub(crate) fn rows_of(&self, table: Table) -> usize {
        let (from, to) = key::whole(table);
        self.rows.iter().filter(|(key, _)| *key >= &from[..] && *key < &to[..]).count()
    }
}

/// Adds a trace to a part, its values where they stand, or in the side text where escaped.
fn push(part: &mut Part, offset: u64, stream_time_ms: i64, json: &[u8]) {
    part.text.extend_from_slice(b",\n");
    let (start, side_start) = (part.text.len() as u32, part.side.len() as u32);
    let parsed = trace::parse(json).expect("the trace is one");
    let mut spans = [Span::ABSENT; ATTRIBUTES];
    for (span, value) in spans.iter_mut().zip(&parsed.values) {
        let Some(value) = value else { continue };
        let length = value.len();
        let inside = json.windows(value.len().max(1)).position(|found| found == value.as_bytes());
        *span = match inside {
            Some(at) if !value.is_empty() => Span::text(at, length),
            _ => {
                let at = part.side.len() - side_start as usize;
                part.side.extend_from_slice(value.as_bytes());
                Span::side(at, length)
            }
        }
        .expect("the values are short");
    }
    part.text.extend_from_slice(json);
    let (length, time_ms) = (json.len() as u32, parsed.indexed_time_ms());
    let side_length = part.side.len() as u32 - side_start;
    part.entries.push(Entry {
        offset,
        stream_time_ms,
        time_ms,
        start,
        length,
        side_start,
        side_length,
        spans,
    });
}
