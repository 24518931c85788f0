//! Dictionaries: the sorted values of an attribute, in pieces that one seek finds.
//!
//! A piece is a row whose key ends with its last value. It holds the code of its first value, then
//! for each value its length, how many traces have it, the blocks they are in, and its bytes.

use crate::attribute::Attribute;
use crate::run::reader::Run;
use crate::run::{BLOCKS_MAX, Read, Readable, RunId, Section, whole};
use crate::state::Changes;
use crate::varint;

/// Bytes at which a piece is full.
const PIECE_BYTES: usize = 16 * 1024;

const ALL_BLOCKS: u8 = 255;
const MASK_BLOCKS: u8 = 254;
/// Up to this many blocks are listed one by one.
const LISTED_MAX: u32 = 12;

/// One value of a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Its code: one more than its rank.
    pub code: u16,
    /// Traces that have it.
    pub count: u32,
    /// The blocks in which they are.
    pub blocks: Blocks<'a>,
    /// The value.
    pub bytes: &'a [u8],
}

/// The bits of a run's blocks.
#[must_use]
pub fn all_blocks(blocks: usize) -> u128 {
    if blocks >= BLOCKS_MAX { u128::MAX } else { (1 << blocks) - 1 }
}

/// Writes a dictionary piece by piece.
pub struct Writer<'a> {
    run: RunId,
    attribute: u8,
    all: u128,
    changes: &'a mut Changes,
    piece: Vec<u8>,
    /// Bytes of the last value, which ends the piece.
    last_length: usize,
    next: u16,
}

impl<'a> Writer<'a> {
    /// Begins the dictionary of an attribute of a run with so many blocks.
    pub fn new(run: RunId, attribute: u8, blocks: usize, changes: &'a mut Changes) -> Self {
        let all = all_blocks(blocks);
        Self { run, attribute, all, changes, piece: Vec::new(), last_length: 0, next: 1 }
    }

    /// Adds the next value; values ascend.
    pub fn push(&mut self, bytes: &[u8], count: u32, blocks: u128) {
        if self.piece.is_empty() {
            self.piece.extend_from_slice(&self.next.to_le_bytes());
        }
        varint::put(&mut self.piece, bytes.len() as u64);
        varint::put(&mut self.piece, u64::from(count));
        put_blocks(&mut self.piece, blocks, self.all);
        self.piece.extend_from_slice(bytes);
        self.last_length = bytes.len();
        self.next = self.next.wrapping_add(1);
        if self.piece.len() >= PIECE_BYTES {
            self.finish();
        }
    }

    /// Ends the dictionary.
    pub fn finish(&mut self) {
        if !self.piece.is_empty() {
            let last = &self.piece[self.piece.len() - self.last_length..];
            let key = self.run.section(Section::Dictionary, self.attribute).raw(last);
            self.changes.put(key.done(), std::mem::take(&mut self.piece));
        }
    }
}

fn put_blocks(out: &mut Vec<u8>, blocks: u128, all: u128) {
    if blocks == all {
        out.push(ALL_BLOCKS);
    } else if blocks.count_ones() <= LISTED_MAX {
        out.push(blocks.count_ones() as u8);
        let mut left = blocks;
        while left != 0 {
            out.push(left.trailing_zeros() as u8);
            left &= left - 1;
        }
    } else {
        out.push(MASK_BLOCKS);
        out.extend_from_slice(&blocks.to_le_bytes());
    }
}

/// The blocks in which a value occurs, as they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks<'a> {
    /// All of the run.
    All,
    /// A bit each, little-endian.
    Mask(&'a [u8; 16]),
    /// One by one, below [`BLOCKS_MAX`].
    Listed(&'a [u8]),
}

impl<'a> Blocks<'a> {
    fn take(piece: &mut &'a [u8]) -> Option<Self> {
        match varint::take_bytes(piece, 1)?[0] {
            ALL_BLOCKS => Some(Self::All),
            MASK_BLOCKS => Some(Self::Mask(varint::take_bytes(piece, 16)?.try_into().ok()?)),
            listed => {
                let listed = varint::take_bytes(piece, usize::from(listed))?;
                let known = listed.iter().all(|at| usize::from(*at) < BLOCKS_MAX);
                known.then_some(Self::Listed(listed))
            }
        }
    }

    /// A bit for each block of a run with so many.
    #[must_use]
    pub fn bits(self, blocks: usize) -> u128 {
        match self {
            Self::All => all_blocks(blocks),
            Self::Mask(bits) => u128::from_le_bytes(*bits) & all_blocks(blocks),
            Self::Listed(listed) => listed.iter().fold(0, |bits, at| bits | 1 << at),
        }
    }
}

/// The values of a piece, in order.
#[derive(Debug)]
pub struct Values<'a> {
    left: &'a [u8],
    code: u16,
    intact: bool,
}

impl<'a> Values<'a> {
    /// Reads a piece.
    #[must_use]
    pub fn of(mut piece: &'a [u8]) -> Self {
        let code = varint::take_bytes(&mut piece, 2).and_then(|code| code.try_into().ok());
        let intact = code.is_some();
        Self { left: piece, code: code.map_or(0, u16::from_le_bytes), intact }
    }

    /// Whether everything that was read so far decoded.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.intact
    }

    fn take(&mut self) -> Option<Value<'a>> {
        let length = usize::try_from(varint::take(&mut self.left)?).ok()?;
        let count = u32::try_from(varint::take(&mut self.left)?).ok()?;
        let blocks = Blocks::take(&mut self.left)?;
        let bytes = varint::take_bytes(&mut self.left, length)?;
        let code = self.code;
        self.code = code.wrapping_add(1);
        Some(Value { code, count, blocks, bytes })
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        if !self.intact || self.left.is_empty() {
            return None;
        }
        let value = self.take();
        self.intact = value.is_some();
        value
    }
}

/// Visits the values of a dictionary that are not less than `from`, in order, until `visit`
/// returns false.
///
/// # Errors
/// The store's, or a piece that is damaged or missing; not noticed is one that had `from` itself.
pub fn visit_from<R: Readable>(
    run: &Run<'_, R>,
    attribute: Attribute,
    from: &[u8],
    visit: &mut dyn FnMut(Value<'_>) -> bool,
) -> Read<(), R> {
    let mut before = !from.is_empty();
    visit_pieces(run, attribute, from, &mut |values| {
        values.all(|value| {
            before = before && value.bytes < from;
            before || visit(value)
        })
    })
}

/// Visits the pieces of a dictionary from the one that has `from` on, until `visit` returns false.
///
/// # Errors
/// As [`visit_from`].
pub fn visit_pieces<R: Readable>(
    run: &Run<'_, R>,
    attribute: Attribute,
    from: &[u8],
    visit: &mut dyn FnMut(&mut Values<'_>) -> bool,
) -> Read<(), R> {
    let section = || run.header.id.section(Section::Dictionary, attribute as u8);
    let (start, (_, end)) = (section().raw(from).done(), section().range());
    // Codes ascend by one, from 1 on: so no piece is missing between two others, nor at an end.
    let mut next = from.is_empty().then_some(1);
    let (mut intact, mut gap, mut stopped) = (true, false, false);
    run.rows
        .scan(&start, &end, &mut |_, piece| {
            let mut values = Values::of(piece);
            gap = values.code == 0 || next.is_some_and(|next| next != values.code);
            stopped = gap || !visit(&mut values);
            (intact, next) = (values.is_intact(), Some(values.code));
            intact && !stopped
        })
        .map_err(crate::stage::LoadError::Store)?;
    whole(intact.then_some(()), "a dictionary piece does not decode")?;
    let last = next.map(|next| usize::from(next.wrapping_sub(1)));
    let whole_list = stopped || last.is_none_or(|last| last == run.values(attribute));
    whole((whole_list && !gap).then_some(()), "a dictionary lacks pieces, or has too many")
}

/// Finds one value.
///
/// # Errors
/// As [`visit_from`].
pub fn find<R: Readable>(
    run: &Run<'_, R>,
    attribute: Attribute,
    wanted: &[u8],
) -> Read<Option<(u16, u32, u128)>, R> {
    let (mut found, blocks) = (None, run.header.zones.len());
    visit_from(run, attribute, wanted, &mut |value| {
        if value.bytes == wanted {
            found = Some((value.code, value.count, value.blocks.bits(blocks)));
        }
        false
    })?;
    Ok(found)
}
