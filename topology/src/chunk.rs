//! Chunks: the pieces of a segment, each compressed once.
//!
//! A chunk is 256 KiB of a segment's text (more where one trace is larger), cut by bytes alone.
//! While it is open it is a list of [`Part`]s, one for each batch that added to it; a part is
//! immutable and shared with the queries. When it closes, its text becomes one independent zstd
//! frame, which is a row of the view and, unchanged, a piece of the trace file.
//!
//! The text of a chunk is, for each trace, two bytes of separator and the trace as stored: `[\n`
//! before the first trace of a segment, `,\n` before any other. The file ends with `\n]\n`.
//!
//! Source: `docs/formats.md`, "Chunks".

use std::sync::OnceLock;

use crate::attribute::{ATTRIBUTES, Attribute};
use crate::columns::Columns;
use crate::input::{Millis, Offset};
use crate::trace::VALUE_BYTES_MAX;
use crate::varint;

/// Text bytes at which a chunk closes.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Traces for whose entries a buffer of a chunk keeps memory when it is emptied.
pub(crate) const CHUNK_ENTRIES: usize = 4 * 1024;

/// Bytes of separator before each trace.
pub const SEPARATOR_BYTES: usize = 2;

/// Ends a trace file.
pub const FILE_END: &[u8] = b"\n]\n";

/// Where an attribute's value lies, in one word: whether in the side text (1 bit), first byte
/// (20 bits) and bytes (11 bits). A value that would not fit lies in the side text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(u32);

impl Span {
    /// Says that a trace lacks the attribute.
    pub const ABSENT: Self = Self(u32::MAX);
    const SIDE: u32 = 1 << 31;
    const LENGTH_BITS: u32 = 11;
    const START_MAX: usize = (1 << 20) - 1;

    /// A value in the trace's own text, `start` bytes after its first one. `None` where a span
    /// cannot say so.
    #[must_use]
    pub fn text(start: usize, length: usize) -> Option<Self> {
        (start <= Self::START_MAX && length <= VALUE_BYTES_MAX)
            .then_some(Self(((start as u32) << Self::LENGTH_BITS) | length as u32))
    }

    /// A value in the trace's side text, as [`Span::text`].
    #[must_use]
    pub fn side(start: usize, length: usize) -> Option<Self> {
        Self::text(start, length).map(|span| Self(span.0 | Self::SIDE))
    }

    fn is_side(self) -> bool {
        self.0 & Self::SIDE != 0
    }

    fn range(self) -> std::ops::Range<usize> {
        let start = ((self.0 & !Self::SIDE) >> Self::LENGTH_BITS) as usize;
        start..start + (self.0 & ((1 << Self::LENGTH_BITS) - 1)) as usize
    }
}

/// One trace of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset of its record.
    pub offset: Offset,
    /// Stream time at its record: the time axis of the view.
    pub stream_time_ms: Millis,
    /// The trace's own `time`, clamped to the years 1970 to 9999.
    pub time_ms: Millis,
    /// First byte of the stored trace in the part's text, after the separator.
    pub start: u32,
    /// Bytes of the stored trace.
    pub length: u32,
    /// First byte of its side text in the part's.
    pub side_start: u32,
    /// Bytes of its side text.
    pub side_length: u32,
    /// Attribute values by [`Attribute`] number.
    pub spans: [Span; ATTRIBUTES],
}

/// What one batch added to an open chunk. Immutable once shared.
#[derive(Debug, Default)]
pub struct Part {
    /// Separators and stored traces.
    pub text: Vec<u8>,
    /// Values of attributes that do not stand in the text as they are: escaped ones, derived ids.
    pub side: Vec<u8>,
    /// The traces, in offset order.
    pub entries: Vec<Entry>,
    /// Columns, made when a query first asks; boxed, because most parts never have them.
    columns: OnceLock<Box<Columns>>,
}

impl Part {
    /// Offset of the first trace; 0 where there is none.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.entries.first().map_or(0, |entry| entry.offset)
    }

    /// The stored bytes of a trace.
    #[must_use]
    pub fn trace(&self, entry: &Entry) -> &[u8] {
        &self.text[entry.start as usize..(entry.start + entry.length) as usize]
    }

    /// The value of an attribute; `None` where the trace lacks it.
    #[must_use]
    pub fn value(&self, entry: &Entry, attribute: Attribute) -> Option<&[u8]> {
        let span = entry.spans[attribute as usize];
        if span == Span::ABSENT {
            return None;
        }
        let (source, start, length) = if span.is_side() {
            (&self.side, entry.side_start as usize, entry.side_length as usize)
        } else {
            (&self.text, entry.start as usize, entry.length as usize)
        };
        source.get(start..start + length)?.get(span.range())
    }

    /// Forgets the traces, and keeps memory for others: of text and of side text `bytes_max` at
    /// most, and of entries `entries_max`.
    pub(crate) fn clear(&mut self, bytes_max: usize, entries_max: usize) {
        // Huge traces, and many, must not keep their memory for ever.
        self.text.clear();
        self.text.shrink_to(bytes_max);
        self.side.clear();
        self.side.shrink_to(bytes_max);
        self.entries.clear();
        self.entries.shrink_to(entries_max);
        self.columns.take();
    }

    /// Gives back memory that holds nothing, before the part is shared.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.text.shrink_to_fit();
        self.side.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// The part's columns, made on first use.
    pub fn columns(&self) -> &Columns {
        self.columns.get_or_init(|| Box::new(Columns::of_parts(&[self])))
    }
}

/// One trace in a closed chunk's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Offset of its record.
    pub offset: Offset,
    /// Stream time at its record.
    pub stream_time_ms: Millis,
    /// First byte of the stored trace in the chunk's text.
    pub start: u32,
    /// Bytes of the stored trace.
    pub length: u32,
}

/// A closed chunk's row: which traces it holds and where, then the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The traces, in offset order.
    pub slots: Vec<Slot>,
    /// The zstd frame of the text.
    pub frame: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Encodes a row: count, then per trace the growth of offset and stream time and the length, as
    /// varints; then the frame.
    #[must_use]
    pub fn encode(parts: &[&Part], frame: &[u8]) -> Vec<u8> {
        let count: usize = parts.iter().map(|part| part.entries.len()).sum();
        let mut row = Vec::with_capacity(frame.len() + 8 * count + 16);
        varint::put(&mut row, count as u64);
        let (mut offset, mut stream_time_ms) = (0, 0);
        for entry in parts.iter().flat_map(|part| &part.entries) {
            varint::put(&mut row, entry.offset.wrapping_sub(offset));
            varint::put_signed(&mut row, entry.stream_time_ms.wrapping_sub(stream_time_ms));
            varint::put(&mut row, u64::from(entry.length));
            (offset, stream_time_ms) = (entry.offset, entry.stream_time_ms);
        }
        row.extend_from_slice(frame);
        row
    }

    /// Decodes a row; `None` where it is damaged.
    #[must_use]
    pub fn decode(mut row: &'a [u8]) -> Option<Self> {
        let count = usize::try_from(varint::take(&mut row)?).ok()?;
        if count > row.len() {
            return None;
        }
        let mut slots = Vec::with_capacity(count);
        let (mut offset, mut stream_time_ms, mut start) = (0u64, 0i64, 0u32);
        for _ in 0..count {
            offset = offset.wrapping_add(varint::take(&mut row)?);
            stream_time_ms = stream_time_ms.wrapping_add(varint::take_signed(&mut row)?);
            let length = u32::try_from(varint::take(&mut row)?).ok()?;
            start = start.checked_add(SEPARATOR_BYTES as u32)?;
            slots.push(Slot { offset, stream_time_ms, start, length });
            start = start.checked_add(length)?;
        }
        Some(Self { slots, frame: row })
    }

    /// The chunk's text; `None` where the frame is damaged or its length is wrong.
    #[must_use]
    pub fn text(&self) -> Option<Vec<u8>> {
        let length = self.slots.last().map_or(0, |slot| (slot.start + slot.length) as usize);
        let text = zstd::bulk::decompress(self.frame, length).ok()?;
        (text.len() == length).then_some(text)
    }
}
