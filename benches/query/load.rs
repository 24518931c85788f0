//! The load of the query bench: 790-byte traces of one tracker, put into stores as chunks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trailproof::indexer::{Backlog, Indexer};
use trailproof::store::StateStore;
use trailproof::store::rocks::RocksStore;
use trailproof_topology::attribute::{ATTRIBUTES, Attribute};
use trailproof_topology::chunk::{CHUNK_BYTES, Chunk, Entry, Part, Span};
use trailproof_topology::columns::Columns;
use trailproof_topology::key::{SegmentId, Table, TrackerId};
use trailproof_topology::run::ChunkId;
use trailproof_topology::state::Changes;

/// SplitMix64.
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
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Small numbers much more often than large ones.
    pub(crate) fn skewed(&mut self, bound: u64) -> u64 {
        let unit = self.next() as f64 / u64::MAX as f64;
        ((unit * unit * unit) * bound as f64) as u64
    }
}

pub(crate) const TRACKER: TrackerId = [7; 16];
pub(crate) const START_MS: i64 = 1_710_028_800_000;
const SERVICES: [&str; 12] =
    ["ECS", "IAM", "OBS", "EVS", "VPC", "RDS", "CTS", "SMN", "KMS", "DCS", "CCE", "ELB"];
const CYCLE_MS: i64 = 300_000;

/// Distinct values of the attributes that have many.
pub(crate) const USERS: u64 = 2_000;
pub(crate) const NAMES: u64 = 58_000;
pub(crate) const RESOURCES: u64 = 400_000;

/// What filling a partition cost, in time of the thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) indexer: Duration,
}

/// Time this thread has spent on a processor.
fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos)
}

fn field(
    part: &mut Part,
    trace: u32,
    spans: &mut [Span; ATTRIBUTES],
    attribute: Attribute,
    value: &str,
) {
    let name = attribute.name();
    part.text.extend_from_slice(b",\"");
    part.text.extend_from_slice(name.as_bytes());
    part.text.extend_from_slice(b"\":\"");
    part.text.extend_from_slice(value.as_bytes());
    spans[attribute as usize] = last(part, trace, value.len());
    part.text.push(b'"');
}

/// The last `length` bytes of a part, as a span of the trace that begins at `trace`.
fn last(part: &Part, trace: u32, length: usize) -> Span {
    let start = part.text.len() - length - trace as usize;
    Span::text(start, length).expect("these traces are small")
}

/// An entry whose values all stand in its text.
fn entry(
    offset: u64,
    (stream_time_ms, time_ms): (i64, i64),
    (start, length): (u32, u32),
    spans: [Span; ATTRIBUTES],
) -> Entry {
    let (side_start, side_length) = (0, 0);
    Entry { offset, stream_time_ms, time_ms, start, length, side_start, side_length, spans }
}

/// Appends one trace of about 790 bytes.
fn push(part: &mut Part, random: &mut Random, service: usize, offset: u64, stream_time_ms: i64) {
    let time_ms = stream_time_ms - random.below(4_000) as i64;
    part.text.extend_from_slice(b",\n");
    let start = part.text.len() as u32;
    part.text.extend_from_slice(
        format!("{{\"time\":{time_ms},\"record_time\":{stream_time_ms},\"domain_id\":\"d1\"")
            .as_bytes(),
    );
    let mut spans = [Span::ABSENT; ATTRIBUTES];
    let user = random.skewed(USERS);
    let mut set = |attribute, value: &str| field(part, start, &mut spans, attribute, value);
    set(Attribute::ServiceType, SERVICES[service]);
    set(Attribute::ResourceType, &format!("type{service}-{}", random.below(4)));
    set(Attribute::TraceName, &format!("operation{service}x{}", random.skewed(24)));
    let rating = ["normal", "warning", "incident"][(random.below(20) / 17) as usize];
    set(Attribute::TraceRating, rating);
    set(
        Attribute::TraceType,
        ["ApiCall", "ConsoleAction", "SystemAction"][random.skewed(3) as usize],
    );
    set(Attribute::SourceIp, &format!("10.{}.{}.9", random.below(80), random.skewed(250)));
    set(Attribute::ResourceName, &format!("resource-name-{}", random.skewed(NAMES)));
    let resource = random.below(RESOURCES).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    set(Attribute::ResourceId, &format!("{resource:016x}-5e1f-4c7b-0123456789ab"));
    let (high, low) = (random.next(), random.next());
    set(
        Attribute::TraceId,
        &format!(
            "{:08x}-{:04x}-11ee-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 16
        ),
    );
    let code = ["200", "201", "204", "400", "403", "404", "409", "500"][random.skewed(8) as usize];
    set(Attribute::Code, code);
    set(Attribute::EnterpriseProjectId, ["0", "ep-a", "ep-b", "ep-c"][random.skewed(4) as usize]);
    set(Attribute::ProjectId, "00000000000000000000000000000001");
    if random.below(3) == 0 {
        set(Attribute::ReadOnly, if user.is_multiple_of(2) { "true" } else { "false" });
    }
    part.text.extend_from_slice(b",\"account\":{\"x\":\"");
    part.text.truncate(part.text.len() - 16);
    part.text
        .extend_from_slice(b",\"user\":{\"domain\":{\"name\":\"dev\",\"id\":\"d1\"},\"name\":\"");
    let mut inside = |attribute: Attribute, value: String, then: &str| {
        part.text.extend_from_slice(value.as_bytes());
        spans[attribute as usize] = last(part, start, value.len());
        part.text.extend_from_slice(then.as_bytes());
    };
    inside(Attribute::User, format!("user-{user:04}"), "\",\"id\":\"");
    inside(Attribute::UserId, format!("{:032x}", user * 77_777), "\",\"access_key_id\":\"");
    let key = user + random.below(2) * 5_000;
    inside(Attribute::AccessKeyId, format!("HSTAK{key:015}"), "\"}");
    part.text
        .extend_from_slice(b",\"request\":\"{\\\"flavor\\\":\\\"s6.large.2\\\",\\\"count\\\":");
    part.text.extend_from_slice(random.below(1_000).to_string().as_bytes());
    part.text.extend_from_slice(b",\\\"note\\\":\\\"");
    let filled = part.text.len() - start as usize;
    part.text.resize(start as usize + filled.max(786), b'n');
    part.text.extend_from_slice(b"\\\"}\"}");
    let length = part.text.len() as u32 - start;
    let times = (stream_time_ms, time_ms);
    part.entries.push(entry(offset, times, (start, length), spans));
}

/// A partition being filled.
struct Filler {
    store: Arc<RocksStore>,
    backlog: Backlog,
    open: BTreeMap<usize, (u64, u32, Part)>,
    cycle_ms: i64,
    changes: Changes,
    cost: Cost,
}

impl Filler {
    fn close(&mut self, service: usize) {
        let Some((first, number, part)) = self.open.get_mut(&service) else { return };
        let part = std::mem::take(part);
        if part.entries.is_empty() {
            return;
        }
        let segment = SegmentId {
            tracker: TRACKER,
            cycle_ms: self.cycle_ms,
            service: SERVICES[service].to_owned(),
            part: *first,
        };
        let chunk = ChunkId { segment, number: *number };
        *number += 1;
        let frame = zstd::bulk::compress(&part.text, 1).expect("memory suffices");
        self.changes.put(chunk.key(Table::Chunk), Chunk::encode(&[&part], &frame));
        self.changes.put(chunk.key(Table::Columns), Columns::of_parts(&[&part]).encode());
    }

    fn commit(&mut self) {
        self.store.commit(&self.changes).expect("the disk has room");
        if self.store.wants_flush() {
            self.store.begin_flush().expect("the disk has room");
        }
        self.backlog.committed(&self.changes);
        self.changes.list.clear();
    }
}

/// What the columns of a chunk cost for each trace, in the best of many tries.
pub(crate) fn columns_cost() -> Duration {
    let random = &mut Random(5);
    let mut parts: Vec<Part> = Vec::new();
    for service in 0..SERVICES.len() {
        let mut part = Part::default();
        for offset in 0..330 {
            push(&mut part, random, service, offset, START_MS + offset as i64 * 7);
        }
        parts.push(part);
    }
    let tries = (0..50).flat_map(|_| &parts).map(|part| {
        let before = Instant::now();
        let row = Columns::of_parts(&[part]).encode();
        let taken = before.elapsed();
        assert!(!row.is_empty());
        taken / part.entries.len() as u32
    });
    tries.min().unwrap_or_default()
}

/// Fills a store with `traces` traces of a day, indexing on the way.
pub(crate) fn fill(store: &Arc<RocksStore>, traces: u64, seed: u64) -> Cost {
    let backlog = Backlog::default();
    let mut indexer = Indexer::new(store.clone(), backlog.clone());
    let mut filler = Filler {
        store: store.clone(),
        backlog,
        open: BTreeMap::new(),
        cycle_ms: START_MS,
        changes: Changes::default(),
        cost: Cost::default(),
    };
    let random = &mut Random(seed);
    for offset in 0..traces {
        let stream_time_ms =
            START_MS + (u128::from(offset) * 86_300_000 / u128::from(traces)) as i64;
        let cycle_ms = stream_time_ms.div_euclid(CYCLE_MS) * CYCLE_MS;
        if cycle_ms != filler.cycle_ms {
            (0..SERVICES.len()).for_each(|service| filler.close(service));
            filler.commit();
            filler.open.clear();
            filler.cycle_ms = cycle_ms;
        }
        let service = random.skewed(SERVICES.len() as u64) as usize;
        let (_, _, part) =
            filler.open.entry(service).or_insert_with(|| (offset, 0, Part::default()));
        push(part, random, service, offset, stream_time_ms);
        if part.text.len() >= CHUNK_BYTES {
            filler.close(service);
        }
        if offset % 20_000 == 19_999 {
            filler.commit();
            let before = thread_time();
            while indexer.step().expect("rows are intact") {}
            filler.cost.indexer += thread_time() - before;
        }
    }
    (0..SERVICES.len()).for_each(|service| filler.close(service));
    filler.commit();
    let before = thread_time();
    while indexer.step().expect("rows are intact") {}
    filler.cost.indexer += thread_time() - before;
    filler.cost
}
