//! The tail: traces that are in open chunks, kept in rows that a savepoint writes.
//!
//! A restart reads the rows in order and fills the open chunks again. A trace whose chunk has
//! closed since is recognised by its segment's last offset and passed over.
//!
//! Source: `docs/formats.md`, "Tail".

use std::io::Cursor;

use crate::chunk::Part;
use crate::input::{Millis, Offset};
use crate::key::SegmentId;
use crate::varint;

/// Level at which tail rows are compressed: they live for one cycle, so speed counts.
const ZSTD_LEVEL: i32 = -5;

/// Text bytes at which a row is full. A part is never cut, so one row may hold more.
const ROW_BYTES: usize = 2 << 20;

/// Greatest text of one tail row once unpacked: what is full, and the largest part behind it.
const ROW_BYTES_MAX: usize = 16 << 20;

/// A tail row under construction: the text of traces, and heads that say what they are.
#[derive(Default)]
pub struct TailWriter {
    text: Vec<u8>,
    heads: Vec<u8>,
    /// Kept between rows: a new one costs more than a small row.
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for TailWriter {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("TailWriter").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

impl TailWriter {
    /// Adds a part of a segment's open chunk.
    pub fn add(&mut self, id: &SegmentId, part: &Part) {
        if self.text.capacity() == 0 {
            // What is never written takes no memory; growing would copy, time and again.
            self.text.reserve_exact(2 * ROW_BYTES);
        }
        let base = self.text.len() as u64;
        self.text.extend_from_slice(&part.text);
        let out = &mut self.heads;
        out.extend_from_slice(&id.tracker);
        varint::put_signed(out, id.cycle_ms);
        varint::put_bytes(out, id.service.as_bytes());
        varint::put(out, id.part);
        varint::put(out, part.entries.len() as u64);
        let (mut offset, mut stream_time_ms, mut end) = (0, 0, 0);
        for entry in &part.entries {
            let start = base + u64::from(entry.start);
            varint::put(out, entry.offset.wrapping_sub(offset));
            varint::put_signed(out, entry.stream_time_ms.wrapping_sub(stream_time_ms));
            varint::put(out, start - end);
            varint::put(out, u64::from(entry.length));
            (offset, stream_time_ms) = (entry.offset, entry.stream_time_ms);
            end = start + u64::from(entry.length);
        }
    }

    /// Whether nothing was added since the last row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Whether what was added fills a row.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.text.len() >= ROW_BYTES
    }

    /// The row with what was added, and its bytes unpacked; the writer is empty again. The heads
    /// are put behind the text.
    ///
    /// # Panics
    /// Never in practice: the compressor needs a megabyte, and the row has room for the worst case.
    pub fn row(&mut self) -> (Vec<u8>, usize) {
        let heads = (self.heads.len() as u64).to_be_bytes();
        self.text.append(&mut self.heads);
        self.text.extend_from_slice(&heads);
        let length = (self.text.len() as u64).to_be_bytes();
        let bound = zstd::zstd_safe::compress_bound(self.text.len());
        let mut row = Vec::with_capacity(length.len() + bound);
        row.extend_from_slice(&length);
        let mut behind = Cursor::new(row);
        behind.set_position(length.len() as u64);
        self.compressor
            .get_or_insert_with(|| {
                zstd::bulk::Compressor::new(ZSTD_LEVEL)
                    .expect("a small zstd context, which there is")
            })
            .compress_to_buffer(self.text.as_slice(), &mut behind)
            .expect("the row has room for the worst case");
        let bytes = self.text.len();
        self.text.clear();
        let mut row = behind.into_inner();
        row.shrink_to_fit();
        (row, bytes)
    }

    /// Gives back the memory that a huge part took.
    pub fn rest(&mut self) {
        self.text.shrink_to(2 * ROW_BYTES);
        self.heads.shrink_to(ROW_BYTES);
    }
}

/// A trace of the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailTrace<'a> {
    /// Offset of its record.
    pub offset: Offset,
    /// Stream time at its record.
    pub stream_time_ms: Millis,
    /// The trace as stored.
    pub stored: &'a [u8],
}

/// Unpacks a tail row; `None` where it is damaged or over its bound.
#[must_use]
pub fn unpack(row: &[u8]) -> Option<Vec<u8>> {
    let (length, packed) = row.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    if length > ROW_BYTES_MAX {
        return None;
    }
    zstd::bulk::decompress(packed, length).ok().filter(|plain| plain.len() == length)
}

/// Visits the groups of an unpacked row: a segment and its traces, in the order they were added.
/// `None` where the row is damaged.
#[must_use]
pub fn visit(plain: &[u8], group: &mut dyn FnMut(SegmentId, Vec<TailTrace<'_>>)) -> Option<()> {
    let (rest, length) = plain.split_last_chunk::<8>()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (text, mut heads) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
    while !heads.is_empty() {
        let rest = &mut heads;
        let tracker = varint::take_bytes(rest, 16)?.try_into().ok()?;
        let cycle_ms = varint::take_signed(rest)?;
        let service = std::str::from_utf8(varint::take_prefixed(rest)?).ok()?.to_owned();
        let part = varint::take(rest)?;
        let count = usize::try_from(varint::take(rest)?).ok()?;
        let mut traces = Vec::with_capacity(count.min(rest.len()));
        let (mut offset, mut stream_time_ms, mut end) = (0u64, 0i64, 0usize);
        for _ in 0..count {
            offset = offset.wrapping_add(varint::take(rest)?);
            stream_time_ms = stream_time_ms.wrapping_add(varint::take_signed(rest)?);
            let start = end.checked_add(usize::try_from(varint::take(rest)?).ok()?)?;
            end = start.checked_add(usize::try_from(varint::take(rest)?).ok()?)?;
            traces.push(TailTrace { offset, stream_time_ms, stored: text.get(start..end)? });
        }
        group(SegmentId { tracker, cycle_ms, service, part }, traces);
    }
    Some(())
}
