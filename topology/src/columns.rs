//! Columns: times and attribute values of the traces of one chunk or part.
//!
//! A closed chunk brings its columns as a row beside it until an index run takes them in; an open
//! part makes its own when a query first asks. Values are dictionary-coded in order of first
//! appearance: sorting waits until a run is made. Of a trace id only the hash is kept, because
//! nearly every one is new; a match is verified in the trace itself.
//!
//! **Invariant:** columns say nothing that the traces do not, so they may be made again at any
//! time.
//!
//! Source: `docs/formats.md`, "Columns".

use xxhash_rust::xxh3::xxh3_64;

use crate::attribute::{ATTRIBUTES, Attribute, Attributes};
use crate::chunk::Part;
use crate::input::{Millis, Offset};
use crate::{pack, varint};

/// Begins every row: the format's version.
const FORMAT: u8 = 1;

/// Most traces of one group of columns; codes are 16 bits wide. A chunk holds at most a few
/// thousand, because the smallest trace takes over a hundred bytes.
pub const TRACES_MAX: usize = 65_535;

/// The hash of an attribute's value, where the value itself is not kept: the upper half of its
/// XXH3, never 0.
#[must_use]
pub fn value_hash(value: &[u8]) -> u32 {
    ((xxh3_64(value) >> 32) as u32).max(1)
}

/// One attribute of a group of traces, dictionary-coded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// The distinct values, one after another, in order of first appearance.
    bytes: Vec<u8>,
    /// Where each value ends in `bytes`.
    ends: Vec<u32>,
    /// Per trace: 0 where the trace lacks the attribute, else one more than the value's index.
    pub codes: Vec<u16>,
}

impl Column {
    /// How many distinct values there are.
    #[must_use]
    pub fn values_len(&self) -> usize {
        self.ends.len()
    }

    /// The value of index `at`, which is less than [`Column::values_len`].
    #[must_use]
    pub fn value(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.bytes[start..self.ends[at] as usize]
    }

    /// The distinct values in order of first appearance.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.values_len()).map(|at| self.value(at))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.codes.clear();
    }

    fn push_value(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len() as u32);
    }

    fn encode(&self, row: &mut Vec<u8>) {
        varint::put(row, self.values_len() as u64);
        let mut start = 0;
        for end in &self.ends {
            varint::put(row, u64::from(end - start));
            start = *end;
        }
        row.extend_from_slice(&self.bytes);
        let max = self.codes.iter().copied().max().unwrap_or(0);
        let constant = max > 0 && self.codes.iter().all(|code| *code == max);
        // Where every trace has the one value there is, codes say nothing.
        let width = if constant && max == 1 { CONSTANT } else { pack::width_of(max) };
        row.push(width);
        if width != CONSTANT {
            pack::put_codes(row, &self.codes, width);
        }
    }

    /// Takes a column off the front; one that is not wanted is passed over, and empty.
    fn decode(row: &mut &[u8], count: usize, wanted: bool) -> Option<Self> {
        let values = usize::try_from(varint::take(row)?).ok()?;
        if values > count {
            return None;
        }
        let mut ends = Vec::with_capacity(if wanted { values } else { 0 });
        let mut end = 0u32;
        for _ in 0..values {
            end = end.checked_add(u32::try_from(varint::take(row)?).ok()?)?;
            if wanted {
                ends.push(end);
            }
        }
        let bytes = varint::take_bytes(row, end as usize)?;
        let width = varint::take_bytes(row, 1)?[0];
        let packed_len = if width == CONSTANT { 0 } else { pack::codes_len(count, width) };
        let packed = varint::take_bytes(row, packed_len)?;
        if !wanted {
            return Some(Self::default());
        }
        let mut codes = Vec::with_capacity(count + 8);
        if width == CONSTANT {
            codes.resize(count, 1);
        } else {
            pack::take_codes(packed, count, width, &mut codes)?;
        }
        codes.iter().all(|code| usize::from(*code) <= values).then_some(())?;
        Some(Self { bytes: bytes.to_vec(), ends, codes })
    }
}

/// In place of a width: every code is 1.
const CONSTANT: u8 = 255;

/// The columns of a group of traces, in offset order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Offsets, ascending.
    pub offsets: Vec<Offset>,
    /// Stream times, never falling.
    pub stream_times_ms: Vec<Millis>,
    /// Event times.
    pub times_ms: Vec<Millis>,
    /// [`value_hash`] of each trace id; 0 where a trace has none.
    pub trace_ids: Vec<u32>,
    /// Attributes by number. That of [`Attribute::TraceId`] is empty.
    pub attributes: [Column; ATTRIBUTES],
}

impl Columns {
    /// Makes the columns of parts that follow each other.
    ///
    /// # Panics
    /// Where the parts hold more than [`TRACES_MAX`] traces, which no chunk can.
    #[must_use]
    pub fn of_parts(parts: &[&Part]) -> Self {
        let mut columns = Self::default();
        columns.fill(parts, &mut Table::default());
        columns
    }

    fn fill(&mut self, parts: &[&Part], table: &mut Table) {
        let count: usize = parts.iter().map(|part| part.entries.len()).sum();
        assert!(count <= TRACES_MAX, "a chunk holds {count} traces, more than {TRACES_MAX}");
        self.offsets.clear();
        self.stream_times_ms.clear();
        self.times_ms.clear();
        self.trace_ids.clear();
        self.offsets.reserve_exact(count);
        self.stream_times_ms.reserve_exact(count);
        self.times_ms.reserve_exact(count);
        self.trace_ids.reserve_exact(count);
        for part in parts {
            for entry in &part.entries {
                self.offsets.push(entry.offset);
                self.stream_times_ms.push(entry.stream_time_ms);
                self.times_ms.push(entry.time_ms);
                let hash = part.value(entry, Attribute::TraceId).map_or(0, value_hash);
                self.trace_ids.push(hash);
            }
        }
        table.reserve(count);
        for (attribute, column) in Attribute::ALL.into_iter().zip(&mut self.attributes) {
            column.clear();
            if attribute != Attribute::TraceId {
                column.codes.reserve_exact(count);
                table.code(parts, attribute, column);
            }
        }
    }

    /// How many traces there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Encodes a row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let dictionaries: usize =
            self.attributes.iter().map(|column| column.bytes.len() + 2 * column.ends.len()).sum();
        let mut row = Vec::with_capacity(dictionaries + 32 * self.len() + 128);
        row.push(FORMAT);
        varint::put(&mut row, self.len() as u64);
        let spread = pack::spread(&self.offsets);
        pack::put_numbers(&mut row, &spread);
        pack::put_numbers(&mut row, &self.stream_times_ms);
        pack::put_numbers(&mut row, &self.times_ms);
        for hash in &self.trace_ids {
            row.extend_from_slice(&hash.to_le_bytes());
        }
        for (attribute, column) in Attribute::ALL.into_iter().zip(&self.attributes) {
            if attribute != Attribute::TraceId {
                column.encode(&mut row);
            }
        }
        row
    }

    /// Decodes a row; `None` where it is damaged or of another format.
    #[must_use]
    pub fn decode(row: &[u8]) -> Option<Self> {
        Self::decode_of(row, Attributes::ALL)
    }

    /// Decodes offsets, times and some attributes of a row; the columns of the others stay empty.
    /// `None` where what is decoded is damaged, or the row of another format.
    #[must_use]
    pub fn decode_of(mut row: &[u8], wanted: Attributes) -> Option<Self> {
        let row = &mut row;
        if varint::take_bytes(row, 1)? != [FORMAT] {
            return None;
        }
        let count = usize::try_from(varint::take(row)?).ok()?;
        if count > TRACES_MAX || count > row.len() {
            return None;
        }
        let mut columns = Self::default();
        let mut spread = Vec::with_capacity(count);
        pack::take_numbers(row, count, &mut spread)?;
        columns.offsets = pack::gathered(&spread);
        columns.stream_times_ms.reserve_exact(count);
        pack::take_numbers(row, count, &mut columns.stream_times_ms)?;
        columns.times_ms.reserve_exact(count);
        pack::take_numbers(row, count, &mut columns.times_ms)?;
        let hashes = varint::take_bytes(row, count * 4)?.as_chunks().0;
        if wanted.has(Attribute::TraceId) {
            columns.trace_ids = hashes.iter().copied().map(u32::from_le_bytes).collect();
        }
        for (attribute, column) in Attribute::ALL.into_iter().zip(&mut columns.attributes) {
            if attribute != Attribute::TraceId {
                *column = Column::decode(row, count, wanted.has(attribute))?;
            }
        }
        row.is_empty().then_some(columns)
    }
}

/// Makes columns rows of one chunk after another, in memory that is kept: most chunks are small.
#[derive(Debug, Default)]
pub struct ColumnsWriter {
    columns: Columns,
    table: Table,
}

impl ColumnsWriter {
    /// The row of parts that follow each other, as [`Columns::of_parts`] would encode it.
    ///
    /// # Panics
    /// As [`Columns::of_parts`].
    pub fn row(&mut self, parts: &[&Part]) -> Vec<u8> {
        self.columns.fill(parts, &mut self.table);
        self.columns.encode()
    }
}

/// Most rounds of a [`Table`] between two times that it is cleared.
const ROUND_MAX: u64 = u8::MAX as u64;

/// A hash table from value to code, used for one attribute after another.
#[derive(Debug, Default)]
struct Table {
    /// Per slot: round it was filled in (8 bits), hash (40 bits), code (16 bits).
    slots: Vec<u64>,
    /// Slots in use less one.
    mask: usize,
    /// Marks the slots of the running attribute, so that none need be cleared. 0 marks free ones.
    round: u64,
}

impl Table {
    /// Makes room for so many values of each attribute of a chunk.
    fn reserve(&mut self, count: usize) {
        let wanted = (2 * count).next_power_of_two().max(16);
        self.mask = wanted - 1;
        if self.slots.len() < wanted || self.round + ATTRIBUTES as u64 > ROUND_MAX {
            self.slots.clear();
            self.slots.resize(wanted, 0);
            self.round = 0;
        }
    }

    /// Fills a column, whose dictionary is still empty, with the values of one attribute.
    fn code(&mut self, parts: &[&Part], attribute: Attribute, column: &mut Column) {
        self.round += 1;
        let (mut last, mut last_code): (&[u8], u16) = (&[], 0);
        for part in parts {
            for entry in &part.entries {
                let code = match part.value(entry, attribute) {
                    None => 0,
                    // Neighbours often agree.
                    Some(value) if last_code > 0 && equal(value, last) => last_code,
                    Some(value) => {
                        last = value;
                        last_code = self.find(value, column);
                        last_code
                    }
                };
                column.codes.push(code);
            }
        }
    }

    fn find(&mut self, value: &[u8], column: &mut Column) -> u16 {
        let hash = xxh3_64(value) >> 24;
        let tag = (self.round << 56) | (hash << 16);
        let mask = self.mask;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot >> 56 != self.round {
                column.push_value(value);
                let code = column.values_len() as u16;
                self.slots[at] = tag | u64::from(code);
                return code;
            }
            let code = slot as u16;
            if slot & !0xffff == tag && column.value(usize::from(code) - 1) == value {
                return code;
            }
            at = (at + 1) & mask;
        }
    }
}

/// Whether two values are equal. Most are short, and a call costs more than to compare them.
#[inline(always)]
fn equal(a: &[u8], b: &[u8]) -> bool {
    let ends = || a.first_chunk::<8>() == b.first_chunk() && a.last_chunk::<8>() == b.last_chunk();
    match a.len() {
        length if length != b.len() => false,
        0..8 => a.iter().eq(b),
        8..=16 => ends(),
        _ => ends() && a == b,
    }
}

#[cfg(test)]
#[path = "columns_test.rs"]
mod tests;
