//! Dictionaries: the sorted values of an attribute, in pieces that one seek finds.
//!
//! A piece is a row whose key ends with its last value. It holds the code of its first value, then
//! for each value its length, how many traces have it, the blocks they are in, and its bytes.

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
    /// The blocks in which they are, a bit each.
    pub blocks: u128,
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

fn take_blocks(piece: &mut &[u8], all: u128) -> Option<u128> {
    match varint::take_bytes(piece, 1)?[0] {
        ALL_BLOCKS => Some(all),
        MASK_BLOCKS => {
            Some(u128::from_le_bytes(varint::take_bytes(piece, 16)?.try_into().ok()?) & all)
        }
        listed => varint::take_bytes(piece, usize::from(listed))?
            .iter()
            .try_fold(0, |blocks, at| Some(blocks | 1u128.checked_shl(u32::from(*at))?)),
    }
}

/// Visits the values of a piece in order until `visit` returns false. `Some(false)` says that it
/// did; `None` that the piece is damaged.
pub fn visit_piece(
    mut piece: &[u8],
    blocks: usize,
    visit: &mut dyn FnMut(Value<'_>) -> bool,
) -> Option<bool> {
    let all = all_blocks(blocks);
    let piece = &mut piece;
    let mut code = u16::from_le_bytes(varint::take_bytes(piece, 2)?.try_into().ok()?);
    while !piece.is_empty() {
        let length = usize::try_from(varint::take(piece)?).ok()?;
        let count = u32::try_from(varint::take(piece)?).ok()?;
        let blocks = take_blocks(piece, all)?;
        let bytes = varint::take_bytes(piece, length)?;
        if !visit(Value { code, count, blocks, bytes }) {
            return Some(false);
        }
        code = code.wrapping_add(1);
    }
    Some(true)
}

/// Visits the values of a dictionary that are not less than `from`, in order, until `visit`
/// returns false.
///
/// # Errors
/// The store's, or a damaged piece.
pub fn visit_from<R: Readable>(
    rows: &R,
    run: &RunId,
    attribute: u8,
    blocks: usize,
    from: &[u8],
    visit: &mut dyn FnMut(Value<'_>) -> bool,
) -> Read<(), R> {
    let start = run.section(Section::Dictionary, attribute).raw(from).done();
    let (_, end) = run.section(Section::Dictionary, attribute).range();
    let (mut intact, mut before) = (Some(true), !from.is_empty());
    rows.scan(&start, &end, &mut |_, piece| {
        intact = visit_piece(piece, blocks, &mut |value| {
            before = before && value.bytes < from;
            before || visit(value)
        });
        intact == Some(true)
    })
    .map_err(crate::stage::LoadError::Store)?;
    whole(intact.map(|_| ()), "a dictionary piece does not decode")
}

/// Visits the pieces of a whole dictionary, each as a list of values, until `visit` returns false.
///
/// # Errors
/// As [`visit_from`].
pub fn visit_pieces<R: Readable>(
    rows: &R,
    run: &RunId,
    attribute: u8,
    visit: &mut dyn FnMut(&[Value<'_>]) -> bool,
) -> Read<(), R> {
    let (start, end) = run.section(Section::Dictionary, attribute).range();
    let mut intact = true;
    rows.scan(&start, &end, &mut |_, piece| {
        let values = values_of(piece);
        intact = values.is_some();
        values.is_some_and(|values| visit(&values))
    })
    .map_err(crate::stage::LoadError::Store)?;
    whole(intact.then_some(()), "a dictionary piece does not decode")
}

/// The values of a piece; their blocks are not read.
fn values_of(mut piece: &[u8]) -> Option<Vec<Value<'_>>> {
    let piece = &mut piece;
    let mut code = u16::from_le_bytes(varint::take_bytes(piece, 2)?.try_into().ok()?);
    let mut values = Vec::with_capacity(piece.len() / 16);
    while !piece.is_empty() {
        let length = usize::try_from(varint::take(piece)?).ok()?;
        let count = u32::try_from(varint::take(piece)?).ok()?;
        take_blocks(piece, 0)?;
        let bytes = varint::take_bytes(piece, length)?;
        values.push(Value { code, count, blocks: 0, bytes });
        code = code.wrapping_add(1);
    }
    Some(values)
}

/// Finds one value.
///
/// # Errors
/// As [`visit_from`].
pub fn find<R: Readable>(
    rows: &R,
    run: &RunId,
    attribute: u8,
    blocks: usize,
    wanted: &[u8],
) -> Read<Option<(u16, u32, u128)>, R> {
    let mut found = None;
    visit_from(rows, run, attribute, blocks, wanted, &mut |value| {
        if value.bytes == wanted {
            found = Some((value.code, value.count, value.blocks));
        }
        false
    })?;
    Ok(found)
}
