//! The tail: traces that are in open chunks, kept in one row per batch.
//!
//! A restart reads the rows in order and fills the open chunks again. A trace whose chunk has
//! closed since is recognised by its segment's last offset and passed over.
//!
//! Source: `docs/formats.md`, "Tail".

use crate::chunk::{Part, SEPARATOR_BYTES};
use crate::input::{Millis, Offset};
use crate::key::SegmentId;
use crate::varint;

/// Level at which tail rows are compressed: they live for one cycle, so speed counts.
const ZSTD_LEVEL: i32 = -5;

/// Greatest text of one tail row once unpacked: the bound of open bytes, twice over.
const ROW_BYTES_MAX: usize = 256 << 20;

/// A tail row under construction.
#[derive(Default)]
pub struct TailWriter {
    plain: Vec<u8>,
    /// Kept between rows: a new one costs more than a small row.
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for TailWriter {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("TailWriter").field("bytes", &self.plain.len()).finish_non_exhaustive()
    }
}

impl TailWriter {
    /// Adds a part of a segment's open chunk.
    pub fn add(&mut self, id: &SegmentId, part: &Part) {
        let out = &mut self.plain;
        out.extend_from_slice(&id.tracker);
        varint::put_signed(out, id.cycle_ms);
        varint::put_bytes(out, id.service.as_bytes());
        varint::put(out, id.part);
        varint::put(out, part.entries.len() as u64);
        for entry in &part.entries {
            varint::put(out, entry.offset);
            varint::put_signed(out, entry.stream_time_ms);
            varint::put(out, u64::from(entry.length));
        }
        out.extend_from_slice(&part.text);
    }

    /// Text and headers so far, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.plain.len()
    }

    /// Forgets what was added.
    pub fn clear(&mut self) {
        self.plain.clear();
    }

    /// The row, compressed; the writer is empty again.
    ///
    /// # Panics
    /// Never in practice: the compressor needs a megabyte and its buffer grows as it must.
    pub fn row(&mut self) -> Vec<u8> {
        let mut row = (self.plain.len() as u64).to_be_bytes().to_vec();
        let packed = self
            .compressor
            .get_or_insert_with(|| {
                zstd::bulk::Compressor::new(ZSTD_LEVEL)
                    .expect("a small zstd context, which there is")
            })
            .compress(&self.plain)
            .expect("compression into a growing buffer has no way to fail");
        row.extend_from_slice(&packed);
        self.plain.clear();
        self.plain.shrink_to(1 << 20);
        row
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
pub fn visit(mut plain: &[u8], group: &mut dyn FnMut(SegmentId, Vec<TailTrace<'_>>)) -> Option<()> {
    while !plain.is_empty() {
        let rest = &mut plain;
        let tracker = varint::take_bytes(rest, 16)?.try_into().ok()?;
        let cycle_ms = varint::take_signed(rest)?;
        let service = std::str::from_utf8(varint::take_prefixed(rest)?).ok()?.to_owned();
        let part = varint::take(rest)?;
        let count = usize::try_from(varint::take(rest)?).ok()?;
        let mut heads = Vec::with_capacity(count.min(rest.len()));
        for _ in 0..count {
            let offset = varint::take(rest)?;
            let stream_time_ms = varint::take_signed(rest)?;
            heads.push((offset, stream_time_ms, usize::try_from(varint::take(rest)?).ok()?));
        }
        let mut traces = Vec::with_capacity(heads.len());
        for (offset, stream_time_ms, length) in heads {
            varint::take_bytes(rest, SEPARATOR_BYTES)?;
            let stored = varint::take_bytes(rest, length)?;
            traces.push(TailTrace { offset, stream_time_ms, stored });
        }
        group(SegmentId { tracker, cycle_ms, service, part }, traces);
    }
    Some(())
}
