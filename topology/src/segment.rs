//! Segments: the traces of one tracker, service, cycle and input partition, in offset order.
//!
//! An open segment holds the Merkle frontier over all its traces and the parts of its open chunk.
//! Its row says how it stood when its last chunk closed; what came after is in the tail.
//!
//! **Invariant (I5):** offsets ascend, and the text never exceeds the catalog's `file_bytes_max`
//! unless a single trace does.
//!
//! Source: `docs/formats.md`, "Segments".

use std::sync::Arc;

use crate::chunk::{CHUNK_BYTES, CHUNK_ENTRIES, Chunk, FILE_END, Part, SEPARATOR_BYTES};
use crate::columns::ColumnsWriter;
use crate::input::{Millis, Offset};
use crate::key::{SegmentId, Table};
use crate::merkle::{Frontier, Hash};
use crate::parts::Parts;
use crate::pool::{self, Chain, Pool};
use crate::stage::Batch;
use crate::trace::Trace;
use crate::varint;
use crate::workbench::Workbench;

/// Level at which chunks are compressed.
pub const ZSTD_LEVEL: i32 = 1;

/// Text bytes of one batch from which on a segment has a part of its own.
const OWN_BYTES_MIN: usize = 16 * 1024;

/// A trace ready to be filed.
#[derive(Clone, Copy, Debug)]
pub struct Filing<'a> {
    /// Offset of its record.
    pub offset: Offset,
    /// Stream time at its record.
    pub stream_time_ms: Millis,
    /// The parsed trace.
    pub trace: &'a Trace<'a>,
    /// The record that the trace borrows from.
    pub record: &'a [u8],
    /// Members that the record lacks, to stand after its first bracket.
    pub added: &'a [u8],
    /// Hash of the stored trace as a leaf.
    pub leaf: &'a Hash,
    /// The derived trace id, where the record has none.
    pub trace_id: Option<&'a str>,
}

impl Filing<'_> {
    /// Bytes of the trace as stored.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.record.len() + self.added.len()
    }
}

/// Counts and hashes of a segment up to some trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The tree over its traces.
    pub frontier: Frontier,
    /// Text bytes, separators included.
    pub text_bytes: u64,
    /// Offset of the last trace.
    pub last_offset: Offset,
    /// Smallest event time.
    pub time_min_ms: Millis,
    /// Greatest event time.
    pub time_max_ms: Millis,
    /// Closed chunks.
    pub chunks: u32,
    /// Whether no trace will follow.
    pub sealed: bool,
}

impl Summary {
    fn add(&mut self, offset: Offset, time_ms: Millis, length: usize, leaf: Hash) {
        if self.frontier.size() == 0 {
            (self.time_min_ms, self.time_max_ms) = (time_ms, time_ms);
        }
        self.frontier.push(leaf);
        self.text_bytes += (SEPARATOR_BYTES + length) as u64;
        self.last_offset = offset;
        self.time_min_ms = self.time_min_ms.min(time_ms);
        self.time_max_ms = self.time_max_ms.max(time_ms);
    }

    /// Bytes of the file that the segment would make.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.text_bytes + FILE_END.len() as u64
    }

    /// Encodes a segment row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let frontier = self.frontier.encode();
        let mut row = Vec::with_capacity(64 + frontier.len());
        row.push(u8::from(self.sealed));
        for number in [self.text_bytes, self.last_offset, u64::from(self.chunks)] {
            varint::put(&mut row, number);
        }
        varint::put_signed(&mut row, self.time_min_ms);
        varint::put_signed(&mut row, self.time_max_ms);
        row.extend_from_slice(&frontier);
        row
    }

    /// Decodes a segment row; `None` where it is damaged.
    #[must_use]
    pub fn decode(row: &[u8]) -> Option<Self> {
        let (sealed, mut rest) = row.split_first()?;
        let text_bytes = varint::take(&mut rest)?;
        let last_offset = varint::take(&mut rest)?;
        let chunks = u32::try_from(varint::take(&mut rest)?).ok()?;
        let time_min_ms = varint::take_signed(&mut rest)?;
        let time_max_ms = varint::take_signed(&mut rest)?;
        let frontier = Frontier::decode(rest)?;
        let sealed = *sealed == 1;
        Some(Self { frontier, text_bytes, last_offset, time_min_ms, time_max_ms, chunks, sealed })
    }
}

/// A segment that still takes traces.
#[derive(Debug)]
pub struct OpenSegment {
    /// Its name, which queries share.
    pub id: Arc<SegmentId>,
    /// As of its last trace.
    pub summary: Summary,
    /// The open chunk's parts of earlier batches.
    pub parts: Parts,
    /// What the running batch added, in the pool.
    pub current: Chain,
    /// The same once that is much; then there is nothing in the pool.
    own: Option<Box<Part>>,
    /// Text bytes of the open chunk.
    pub open_bytes: usize,
}

impl OpenSegment {
    /// An empty segment.
    #[must_use]
    pub fn new(id: SegmentId) -> Self {
        Self::resume(id, Summary::default())
    }

    /// A segment as it stood when its last chunk closed.
    #[must_use]
    pub fn resume(id: SegmentId, summary: Summary) -> Self {
        let (id, parts, current) = (Arc::new(id), Parts::default(), Chain::default());
        Self { id, summary, parts, current, own: None, open_bytes: 0 }
    }

    /// Text bytes that a trace of `length` bytes adds.
    #[must_use]
    pub fn grows_by(length: usize) -> usize {
        SEPARATOR_BYTES + length
    }

    /// Whether the open chunk must close before a trace of `length` bytes goes in.
    #[must_use]
    pub fn chunk_is_full(&self, length: usize) -> bool {
        self.open_bytes > 0 && self.open_bytes + Self::grows_by(length) > CHUNK_BYTES
    }

    /// Whether the segment must be sealed before a trace of `length` bytes goes in.
    #[must_use]
    pub fn is_full(&self, length: usize, file_bytes_max: u64) -> bool {
        self.summary.frontier.size() > 0
            && self.summary.file_bytes() + Self::grows_by(length) as u64 > file_bytes_max
    }

    /// How much closing the open chunk is worth: its bytes, squared, over all of the segment's.
    /// Chunks that close at one weight are few for the memory that open ones take, because each is
    /// then as large as the root of the rate at which its segment grows.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let open = self.open_bytes as u64;
        let all = self.summary.text_bytes.max(1);
        u64::try_from((u128::from(open * open) << 16) / u128::from(all)).unwrap_or(u64::MAX)
    }

    /// Adds a trace to the open chunk.
    pub fn push(&mut self, pool: &mut Pool, filing: &Filing<'_>) {
        let first = self.summary.frontier.size() == 0;
        let separator = if first { *b"[\n" } else { *b",\n" };
        if let Some(part) = &mut self.own {
            pool::append(part, separator, filing);
        } else {
            pool.push(&mut self.current, separator, filing);
            if self.current.text_bytes() >= OWN_BYTES_MIN {
                let part = self.own.insert(Box::default());
                // As much as any chunk can take, as more than one may close in the batch: pages
                // that nobody writes are seldom in memory, and growing would copy.
                let bytes = self.current.text_bytes();
                let most = bytes + CHUNK_BYTES;
                let traces = most * self.current.len() / bytes;
                part.text.reserve_exact(most);
                part.entries.reserve_exact(traces + traces / 8);
                pool.take(&mut self.current, part);
            }
        }
        let length = filing.stored_bytes();
        self.open_bytes += Self::grows_by(length);
        let time_ms = filing.trace.indexed_time_ms();
        self.summary.add(filing.offset, time_ms, length, *filing.leaf);
    }

    /// Makes a part of what the running batch added and is still open.
    pub fn freeze(&mut self, pool: &mut Pool) {
        let mut part = Part::default();
        if let Some(own) = self.own.take() {
            part = *own;
            part.shrink_to_fit();
        } else {
            pool.take(&mut self.current, &mut part);
        }
        if !part.entries.is_empty() {
            self.parts.push(part);
        }
    }

    /// Closes the open chunk: its row, its columns and the segment's row. Returns the text bytes
    /// that are no longer open.
    pub fn close_chunk(&mut self, batch: &mut Batch) -> usize {
        let Batch { changes, workbench: Workbench { pool, scratch, .. }, .. } = batch;
        let mut parts = self.parts.in_order();
        let mut last = std::mem::take(&mut scratch.last);
        if let Some(own) = &self.own {
            parts.extend((!own.entries.is_empty()).then_some(&**own));
        } else if !self.current.is_empty() {
            pool.take(&mut self.current, &mut last);
            parts.push(&last);
        }
        if !parts.is_empty() {
            // In this order: compressing brings the text into the cache, one line after another.
            scratch.compress(&parts);
            let columns = scratch.columns.row(&parts);
            let number = self.summary.chunks;
            let key = |table| self.id.key(table).u32(number).done();
            changes.put(key(Table::Chunk), Chunk::encode(&parts, &scratch.frame));
            changes.put(key(Table::Columns), columns);
            self.summary.chunks += 1;
            changes.put(self.id.key(Table::Segment).done(), self.summary.encode());
        }
        scratch.keep(last);
        self.parts = Parts::default();
        if let Some(own) = &mut self.own {
            own.clear(2 * CHUNK_BYTES, CHUNK_ENTRIES);
        }
        std::mem::take(&mut self.open_bytes)
    }
}

/// The record's bytes before and after the place for added members; nothing before it where there
/// are none to add.
pub(crate) fn split_at_bracket<'a>(record: &'a [u8], added: &[u8]) -> (&'a [u8], &'a [u8]) {
    if added.is_empty() {
        return (&[], record);
    }
    let bracket = record.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    record.split_at(bracket)
}

/// Longer matches than the level's own 5 or 6 bytes: of JSON that makes frames of full chunks
/// smaller by 3 of a hundred bytes, and 5 of a hundred cheaper.
const MATCH_BYTES_MIN: u32 = 7;

fn compressor() -> std::io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    compressor.set_parameter(zstd::zstd_safe::CParameter::MinMatch(MATCH_BYTES_MIN))?;
    Ok(compressor)
}

/// Buffers for closing chunks, kept between them.
#[derive(Default)]
pub struct Scratch {
    /// What the running batch added to the chunk.
    last: Part,
    text: Vec<u8>,
    frame: Vec<u8>,
    columns: ColumnsWriter,
    /// Made when it is needed first.
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Scratch").field("text", &self.text.len()).finish_non_exhaustive()
    }
}

impl Scratch {
    /// Makes the frame of the parts' text.
    fn compress(&mut self, parts: &[&Part]) {
        self.text.clear();
        // One huge trace must not keep its memory for ever.
        self.text.shrink_to(4 * CHUNK_BYTES);
        let text = match parts {
            [part] => part.text.as_slice(),
            _ => {
                parts.iter().for_each(|part| self.text.extend_from_slice(&part.text));
                self.text.as_slice()
            }
        };
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(text.len()));
        self.compressor
            .get_or_insert_with(|| {
                compressor().expect("a zstd context of level 1 needs 1 MiB, which there is")
            })
            .compress_to_buffer(text, &mut self.frame)
            .expect("the buffer holds the worst case");
    }

    /// Whether no trace is left in it.
    pub(crate) fn is_clear(&self) -> bool {
        self.last.entries.is_empty() && self.last.text.is_empty()
    }

    /// Takes a part's buffers back, emptied.
    fn keep(&mut self, mut part: Part) {
        part.clear(4 * CHUNK_BYTES, CHUNK_ENTRIES);
        self.last = part;
    }
}
