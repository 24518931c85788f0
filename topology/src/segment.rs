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

use crate::attribute::{ATTRIBUTES, Attribute};
use crate::chunk::{CHUNK_BYTES, Chunk, Entry, FILE_END, Part, SEPARATOR_BYTES, Span};
use crate::columns::Columns;
use crate::input::{Millis, Offset};
use crate::key::{SegmentId, Table};
use crate::merkle::{Frontier, Hash};
use crate::state::Changes;
use crate::trace::{Trace, VALUE_BYTES_MAX};
use crate::varint;

/// Level at which chunks are compressed.
pub const ZSTD_LEVEL: i32 = 1;

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
        let mut row = vec![u8::from(self.sealed)];
        for number in [self.text_bytes, self.last_offset, u64::from(self.chunks)] {
            varint::put(&mut row, number);
        }
        varint::put_signed(&mut row, self.time_min_ms);
        varint::put_signed(&mut row, self.time_max_ms);
        row.extend_from_slice(&self.frontier.encode());
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
    /// Its name.
    pub id: SegmentId,
    /// As of its last trace.
    pub summary: Summary,
    /// The open chunk's parts of earlier batches.
    pub parts: Vec<Arc<Part>>,
    /// What the running batch added.
    current: Part,
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
        Self { id, summary, parts: Vec::new(), current: Part::default(), open_bytes: 0 }
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

    /// Whether the running batch added to the open chunk.
    #[must_use]
    pub fn touched(&self) -> bool {
        !self.current.entries.is_empty()
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
    pub fn push(&mut self, filing: &Filing<'_>) {
        let first = self.summary.frontier.size() == 0;
        let part = &mut self.current;
        part.text.extend_from_slice(if first { b"[\n" } else { b",\n" });
        let start = part.text.len();
        let (head, body) = split_at_bracket(filing.record, filing.added);
        part.text.extend_from_slice(head);
        part.text.extend_from_slice(filing.added);
        part.text.extend_from_slice(body);
        let length = part.text.len() - start;
        let spans = spans(part, filing, start);
        let time_ms = filing.trace.indexed_time_ms();
        part.entries.push(Entry {
            offset: filing.offset,
            stream_time_ms: filing.stream_time_ms,
            time_ms,
            start: start as u32,
            length: length as u32,
            spans,
        });
        self.open_bytes += Self::grows_by(length);
        self.summary.add(filing.offset, time_ms, length, *filing.leaf);
    }

    /// Shares what the running batch added; `None` where it added nothing that is still open.
    pub fn freeze(&mut self) -> Option<Arc<Part>> {
        if self.current.entries.is_empty() {
            return None;
        }
        let mut part = std::mem::take(&mut self.current);
        part.text.shrink_to_fit();
        part.entries.shrink_to_fit();
        let part = Arc::new(part);
        self.parts.push(Arc::clone(&part));
        Some(part)
    }

    /// Closes the open chunk: its row, its columns and the segment's row. Returns the text bytes
    /// that are no longer open.
    pub fn close_chunk(&mut self, scratch: &mut Scratch, changes: &mut Changes) -> usize {
        let mut parts: Vec<&Part> = self.parts.iter().map(AsRef::as_ref).collect();
        if !self.current.entries.is_empty() {
            parts.push(&self.current);
        }
        if parts.is_empty() {
            return 0;
        }
        let frame = scratch.compress(&parts);
        let number = self.summary.chunks;
        let key = |table| self.id.key(table).u32(number).done();
        changes.put(key(Table::Chunk), Chunk::encode(&parts, frame));
        changes.put(key(Table::Columns), Columns::of_parts(&parts).encode());
        self.summary.chunks += 1;
        changes.put(self.id.key(Table::Segment).done(), self.summary.encode());
        self.parts.clear();
        self.current = Part::default();
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

/// Finds where the indexed values stand in the part's text.
fn spans(part: &mut Part, filing: &Filing<'_>, start: usize) -> [Span; ATTRIBUTES] {
    let origin = filing.record.as_ptr() as usize;
    // Values stand behind the first bracket, so all of them move by what was added there.
    let base = start + filing.added.len();
    let mut spans = [Span::ABSENT; ATTRIBUTES];
    for (span, value) in spans.iter_mut().zip(&filing.trace.values) {
        let Some(value) = value else { continue };
        let value = indexed(value);
        let at = (value.as_ptr() as usize).wrapping_sub(origin);
        let inside = at < filing.record.len() && at + value.len() <= filing.record.len();
        *span = if inside {
            Span { start: (base + at) as u32, length: value.len() as u32 }
        } else {
            aside(&mut part.side, value)
        };
    }
    if let Some(trace_id) = filing.trace_id {
        spans[Attribute::TraceId as usize] = aside(&mut part.side, trace_id);
    }
    spans
}

fn aside(side: &mut Vec<u8>, value: &str) -> Span {
    let start = side.len() as u32 | Span::SIDE;
    side.extend_from_slice(value.as_bytes());
    Span { start, length: value.len() as u32 }
}

/// The part of a value that is indexed.
fn indexed(value: &str) -> &str {
    let mut end = value.len().min(VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// Buffers for closing chunks, kept between them.
pub struct Scratch {
    text: Vec<u8>,
    frame: Vec<u8>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Scratch").field("text", &self.text.len()).finish_non_exhaustive()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        let compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        Self { text: Vec::new(), frame: Vec::new(), compressor }
    }
}

impl Scratch {
    /// The frame of the parts' text.
    fn compress(&mut self, parts: &[&Part]) -> &[u8] {
        self.text.clear();
        for part in parts {
            self.text.extend_from_slice(&part.text);
        }
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(self.text.len()));
        self.compressor
            .as_mut()
            .expect("a zstd context of level 1 needs 1 MiB, which there is")
            .compress_to_buffer(&self.text, &mut self.frame)
            .expect("the buffer holds the worst case");
        // One huge trace must not keep its memory for ever.
        self.text.shrink_to(4 * CHUNK_BYTES);
        &self.frame
    }
}
