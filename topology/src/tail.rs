//! The tail: traces that are in open chunks, kept in one row per batch.
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

/// Greatest text of one tail row once unpacked: more than twice that of a batch, and than what is
/// open.
const ROW_BYTES_MAX: usize = 256 << 20;

/// Bytes of a buffer that are kept between rows: with many partitions, what each keeps adds up.
const KEPT_BYTES: usize = 1 << 20;

/// A tail row under construction: traces, and heads that say what they are.
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
    /// Adds a part of a segment's open chunk, with its text.
    pub fn add(&mut self, id: &SegmentId, part: &Part) {
        let base = self.text.len() as u32;
        self.add_places(id, part, part.entries.iter().map(|entry| base + entry.start));
        self.text.extend_from_slice(&part.text);
    }

    /// Adds a part of a segment's open chunk whose traces stand at `places` of a text that
    /// [`TailWriter::row_of`] will be given.
    pub fn add_places(&mut self, id: &SegmentId, part: &Part, places: impl Iterator<Item = u32>) {
        let out = &mut self.heads;
        out.extend_from_slice(&id.tracker);
        varint::put_signed(out, id.cycle_ms);
        varint::put_bytes(out, id.service.as_bytes());
        varint::put(out, id.part);
        varint::put(out, part.entries.len() as u64);
        let (mut offset, mut stream_time_ms, mut end) = (0, 0, 0);
        for (entry, start) in part.entries.iter().zip(places) {
            varint::put(out, entry.offset.wrapping_sub(offset));
            varint::put_signed(out, entry.stream_time_ms.wrapping_sub(stream_time_ms));
            varint::put(out, u64::from(start) - end);
            varint::put(out, u64::from(entry.length));
            (offset, stream_time_ms) = (entry.offset, entry.stream_time_ms);
            end = u64::from(start + entry.length);
        }
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The row with the text that was added, and its bytes unpacked; the writer is empty again.
    pub fn row(&mut self) -> (Vec<u8>, usize) {
        let mut text = std::mem::take(&mut self.text);
        let row = self.row_of(&mut text);
        text.clear();
        text.shrink_to(KEPT_BYTES);
        self.text = text;
        row
    }

    /// The row with this text, and its bytes unpacked; the writer is empty again. The heads are
    /// put behind the text.
    ///
    /// # Panics
    /// Never in practice: the compressor needs a megabyte, and the row has room for the worst case.
    pub fn row_of(&mut self, text: &mut Vec<u8>) -> (Vec<u8>, usize) {
        let heads = (self.heads.len() as u64).to_be_bytes();
        text.append(&mut self.heads);
        self.heads.shrink_to(KEPT_BYTES);
        text.extend_from_slice(&heads);
        let length = (text.len() as u64).to_be_bytes();
        let bound = zstd::zstd_safe::compress_bound(text.len());
        let mut row = Vec::with_capacity(length.len() + bound);
        row.extend_from_slice(&length);
        let mut behind = Cursor::new(row);
        behind.set_position(length.len() as u64);
        self.compressor
            .get_or_insert_with(|| {
                zstd::bulk::Compressor::new(ZSTD_LEVEL)
                    .expect("a small zstd context, which there is")
            })
            .compress_to_buffer(text.as_slice(), &mut behind)
            .expect("the row has room for the worst case");
        let mut row = behind.into_inner();
        row.shrink_to_fit();
        (row, text.len())
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
