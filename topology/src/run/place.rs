//! Places: for each ordinal of a block, the trace's offset and the chunk that holds it.
//!
//! A block lists its chunks and gives each ordinal an index into that list, which is short: few
//! chunks are filled at the same time.

use crate::input::Offset;
use crate::key::SegmentId;
use crate::run::ChunkId;
use crate::{pack, varint};

/// The places of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Offsets, ascending.
    pub offsets: Vec<Offset>,
    /// The chunks.
    pub chunks: Vec<ChunkId>,
    /// Per ordinal: index of its chunk.
    pub codes: Vec<u16>,
}

impl Places {
    /// Encodes the row. The tracker is not in it: the key has it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(self.offsets.len() * 2 + self.chunks.len() * 16 + 16);
        varint::put(&mut row, self.chunks.len() as u64);
        for chunk in &self.chunks {
            varint::put_signed(&mut row, chunk.segment.cycle_ms);
            varint::put_bytes(&mut row, chunk.segment.service.as_bytes());
            varint::put(&mut row, chunk.segment.part);
            varint::put(&mut row, u64::from(chunk.number));
        }
        let width = pack::width_of(self.chunks.len().saturating_sub(1) as u16);
        pack::put_codes(&mut row, &self.codes, width);
        pack::put_numbers(&mut row, &pack::spread(&self.offsets));
        row
    }

    /// Decodes a row of `count` ordinals; `None` where it is damaged.
    #[must_use]
    pub fn decode(mut row: &[u8], count: usize, tracker: &[u8; 16]) -> Option<Self> {
        let row = &mut row;
        let listed = usize::try_from(varint::take(row)?).ok()?;
        if listed == 0 || listed > count {
            return None;
        }
        let chunks = (0..listed)
            .map(|_| {
                let cycle_ms = varint::take_signed(row)?;
                let service = std::str::from_utf8(varint::take_prefixed(row)?).ok()?.to_owned();
                let part = varint::take(row)?;
                let number = u32::try_from(varint::take(row)?).ok()?;
                let segment = SegmentId { tracker: *tracker, cycle_ms, service, part };
                Some(ChunkId { segment, number })
            })
            .collect::<Option<Vec<_>>>()?;
        let width = pack::width_of(u16::try_from(listed - 1).ok()?);
        let mut codes = Vec::with_capacity(count + 8);
        let packed = varint::take_bytes(row, pack::codes_len(count, width))?;
        pack::take_codes(packed, count, width, &mut codes)?;
        codes.iter().all(|code| usize::from(*code) < listed).then_some(())?;
        let mut spread = Vec::with_capacity(count);
        pack::take_numbers(row, count, &mut spread)?;
        row.is_empty().then_some(())?;
        Some(Self { offsets: pack::gathered(&spread), chunks, codes })
    }
}
