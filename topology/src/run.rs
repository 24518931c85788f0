//! Runs: the index over up to a million traces of one tracker, day and partition.
//!
//! A run numbers its traces by *ordinals* in offset order, whatever segments they are in, and cuts
//! them into blocks of [`BLOCK`] ordinals. For each attribute it has a sorted dictionary, whose
//! values say how often and in which blocks they occur, and one code per ordinal; where nearly
//! every trace has its own value, hashes with ordinals instead. Filters become masks over blocks,
//! facets come out of dictionaries.
//!
//! **Invariant:** a trace of a closed chunk is either in one columns row or in one run. Runs are a
//! cache made from columns; nothing that leaves depends on their shape.
//!
//! Source: `docs/formats.md`, "Runs".

use crate::attribute::ATTRIBUTES;
use crate::input::{Millis, Offset};
use crate::key::{self, Key, SegmentId, Table, TrackerId};
use crate::stage::{Damage, LoadError};
use crate::state::Rows;
use crate::{pack, varint};

pub mod dictionary;
pub mod merge;
pub mod place;
pub mod reader;
pub mod tier;
mod union;
mod uses;

/// Ordinals of one block.
pub const BLOCK: usize = 8192;

/// Most blocks of a run: a dictionary value marks its blocks in 128 bits.
pub const BLOCKS_MAX: usize = 128;

/// Most traces of a run.
pub const TRACES_MAX: usize = BLOCK * BLOCKS_MAX;

/// Most distinct values of an attribute that has a dictionary; codes are 16 bits wide.
pub const VALUES_MAX: usize = 65_535;

/// From this many traces on, hashes are spread over 256 rows; below, they are one row.
pub const SPREAD_MIN: usize = 16_384;

const FORMAT: u8 = 1;

/// Rows that can be read by a query or the indexer.
pub trait Readable: Rows<Error: std::error::Error + 'static> {}

impl<R: Rows<Error: std::error::Error + 'static>> Readable for R {}

/// What reading rows gives.
pub type Read<T, R> = Result<T, LoadError<<R as Rows>::Error>>;

/// Turns a failed decoding into an error.
///
/// # Errors
/// [`LoadError::Damage`] where there is no value.
pub fn whole<T, E: std::error::Error + 'static>(
    value: Option<T>,
    reason: &'static str,
) -> Result<T, LoadError<E>> {
    value.ok_or_else(|| LoadError::Damage(Damage::new("run or columns", reason)))
}

/// The kinds of row a run consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Section {
    /// Pieces of an attribute's dictionary, keyed by their last value.
    Dictionary = 0,
    /// Codes of an attribute, by block.
    Codes = 1,
    /// Hashes of an attribute with their ordinals, by upper byte of the hash.
    Hashes = 2,
    /// Offsets and chunks, by block. The attribute is [`NO_ATTRIBUTE`].
    Places = 3,
    /// Stream times, by block.
    StreamTimes = 4,
    /// Event times, by block.
    Times = 5,
}

/// Stands for the attribute in keys of rows that are about none.
pub const NO_ATTRIBUTE: u8 = 255;

/// What names a run. A trace is in one run, so no two runs share first offset and level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// Day of the cycles of its traces.
    pub day: u16,
    /// The tracker.
    pub tracker: TrackerId,
    /// Offset of its first trace.
    pub first_offset: Offset,
    /// 0 where it was made from columns, else one more than that of the runs it was merged from.
    pub level: u8,
}

impl RunId {
    /// The key of the header.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        self.key(Table::RunHeader).done()
    }

    /// The range of all rows but the header.
    #[must_use]
    pub fn data(&self) -> (Vec<u8>, Vec<u8>) {
        self.key(Table::Run).range()
    }

    /// The key of a section of an attribute, to which block, bucket or last value is appended.
    #[must_use]
    pub fn section(&self, section: Section, attribute: u8) -> Key {
        self.key(Table::Run).u8(attribute).u8(section as u8)
    }

    /// The range of the headers of a tracker's runs of one day, in order of first offset.
    #[must_use]
    pub fn headers_of(day: u16, tracker: &TrackerId) -> (Vec<u8>, Vec<u8>) {
        key::tracker_day(Table::RunHeader, day, tracker)
    }

    fn key(&self, table: Table) -> Key {
        Key::of(table).u16(self.day).raw(&self.tracker).u64(self.first_offset).u8(self.level)
    }

    fn parse_header(key: &[u8]) -> Option<Self> {
        let day = u16::from_be_bytes(key.get(1..3)?.try_into().ok()?);
        let tracker = key.get(3..19)?.try_into().ok()?;
        let first_offset = u64::from_be_bytes(key.get(19..27)?.try_into().ok()?);
        let level = *key.get(27)?;
        (key.len() == 28 && key[0] == Table::RunHeader as u8).then_some(Self {
            day,
            tracker,
            first_offset,
            level,
        })
    }
}

/// How an attribute is held in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// No trace has it.
    #[default]
    Absent,
    /// Dictionary and codes; with width 0 every trace has the one value, and there are no codes.
    Dictionary {
        /// Distinct values, at most [`VALUES_MAX`].
        values: u16,
        /// Bits of a code.
        width: u8,
    },
    /// Hashes with ordinals.
    Hashes,
}

/// What is known of a block without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Offset of its first trace.
    pub first_offset: Offset,
    /// Stream time of its first trace.
    pub stream_min_ms: Millis,
    /// Smallest event time.
    pub time_min_ms: Millis,
    /// Greatest event time.
    pub time_max_ms: Millis,
}

/// A run's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The run.
    pub id: RunId,
    /// Traces, 1 to [`TRACES_MAX`].
    pub count: usize,
    /// Offset of the last trace.
    pub last_offset: Offset,
    /// Stream time of the last trace.
    pub stream_max_ms: Millis,
    /// Start of the earliest cycle that may still have had columns rows when the run was made.
    pub columns_from_ms: Millis,
    /// How each attribute is held.
    pub shapes: [Shape; ATTRIBUTES],
    /// The blocks.
    pub zones: Vec<Zone>,
}

impl Header {
    /// Traces of a block.
    #[must_use]
    pub fn block_len(&self, block: usize) -> usize {
        (self.count - block * BLOCK).min(BLOCK)
    }

    /// Greatest stream time of a block, or a little more.
    #[must_use]
    pub fn stream_bound_ms(&self, block: usize) -> Millis {
        self.zones.get(block + 1).map_or(self.stream_max_ms, |next| next.stream_min_ms)
    }

    /// Greatest offset of a block, or more.
    #[must_use]
    pub fn offset_bound(&self, block: usize) -> Offset {
        self.zones.get(block + 1).map_or(self.last_offset, |next| next.first_offset - 1)
    }

    /// Encodes the row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut row = vec![FORMAT];
        varint::put(&mut row, self.count as u64);
        varint::put(&mut row, self.last_offset - self.id.first_offset);
        varint::put_signed(&mut row, self.stream_max_ms);
        varint::put_signed(&mut row, self.columns_from_ms);
        for shape in self.shapes {
            match shape {
                Shape::Absent => row.push(0),
                Shape::Hashes => row.push(1),
                Shape::Dictionary { values, width } => {
                    row.extend_from_slice(&[2, width]);
                    varint::put(&mut row, u64::from(values));
                }
            }
        }
        let (mut offset, mut stream) = (self.id.first_offset, self.stream_max_ms);
        for zone in &self.zones {
            varint::put(&mut row, zone.first_offset - offset);
            varint::put_signed(&mut row, zone.stream_min_ms.wrapping_sub(stream));
            varint::put_signed(&mut row, zone.time_min_ms.wrapping_sub(zone.stream_min_ms));
            varint::put(&mut row, zone.time_max_ms.wrapping_sub(zone.time_min_ms) as u64);
            (offset, stream) = (zone.first_offset, zone.stream_min_ms);
        }
        row
    }

    /// Decodes a row; `None` where key or value is damaged.
    #[must_use]
    pub fn decode(key: &[u8], mut row: &[u8]) -> Option<Self> {
        let (id, row) = (RunId::parse_header(key)?, &mut row);
        if varint::take_bytes(row, 1)? != [FORMAT] {
            return None;
        }
        let count = usize::try_from(varint::take(row)?).ok()?;
        if count == 0 || count > TRACES_MAX {
            return None;
        }
        let last_offset = id.first_offset.checked_add(varint::take(row)?)?;
        let stream_max_ms = varint::take_signed(row)?;
        let columns_from_ms = varint::take_signed(row)?;
        let mut shapes = [Shape::Absent; ATTRIBUTES];
        for shape in &mut shapes {
            *shape = match varint::take_bytes(row, 1)?[0] {
                0 => Shape::Absent,
                1 => Shape::Hashes,
                2 => {
                    let width = varint::take_bytes(row, 1)?[0];
                    let values = u16::try_from(varint::take(row)?).ok()?;
                    let fits = width == pack::width_of(values) || (width, values) == (0, 1);
                    fits.then_some(())?;
                    Shape::Dictionary { values, width }
                }
                _ => return None,
            };
        }
        let (mut offset, mut stream) = (id.first_offset, stream_max_ms);
        let mut zones = Vec::with_capacity(count.div_ceil(BLOCK));
        for _ in 0..count.div_ceil(BLOCK) {
            let growth = varint::take(row)?;
            (growth > 0 || zones.is_empty()).then_some(())?;
            offset = offset.checked_add(growth)?;
            stream = stream.wrapping_add(varint::take_signed(row)?);
            let time_min_ms = stream.wrapping_add(varint::take_signed(row)?);
            let time_max_ms = time_min_ms.wrapping_add(varint::take(row)? as i64);
            zones.push(Zone {
                first_offset: offset,
                stream_min_ms: stream,
                time_min_ms,
                time_max_ms,
            });
        }
        row.is_empty().then_some(())?;
        Some(Self { id, count, last_offset, stream_max_ms, columns_from_ms, shapes, zones })
    }
}

/// What names a closed chunk: its segment and its number there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkId {
    /// The segment.
    pub segment: SegmentId,
    /// The number, 0 for the first.
    pub number: u32,
}

impl ChunkId {
    /// The key of this chunk's row in `table`, one of chunk and columns.
    #[must_use]
    pub fn key(&self, table: Table) -> Vec<u8> {
        self.segment.key(table).u32(self.number).done()
    }

    /// Reads the chunk out of a key of chunk or columns.
    #[must_use]
    pub fn parse(key: &[u8]) -> Option<Self> {
        let (segment, rest) = SegmentId::parse(key)?;
        Some(Self { segment, number: u32::from_be_bytes(rest.try_into().ok()?) })
    }
}

/// The row of a hash: its upper byte where hashes are spread, else 0.
#[must_use]
pub fn bucket_of(hash: u32, traces: usize) -> u32 {
    if traces >= SPREAD_MIN { hash >> 24 } else { 0 }
}
