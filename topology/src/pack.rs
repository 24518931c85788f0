//! Packed numbers: the two codecs that columns and runs are made of.
//!
//! *Codes* are small dictionary codes of one width for the whole list: 0, 1, 2, 4, 8 or 16 bits,
//! least significant first, so that a byte never holds a code in part. *Numbers* are groups of 128
//! integers, each the distance from the group's smallest, in as many bits as the greatest needs.
//!
//! Source: `docs/formats.md`, "Columns".

use crate::input::Offset;
use crate::varint;

/// Numbers of one group.
pub const GROUP: usize = 128;

/// The width in bits of codes up to `max`: a power of two, or 0 where every code is 0.
#[must_use]
pub fn width_of(max: u16) -> u8 {
    match max {
        0 => 0,
        1 => 1,
        2..=3 => 2,
        4..=15 => 4,
        16..=255 => 8,
        _ => 16,
    }
}

/// Bytes that `count` codes of `width` bits take.
#[must_use]
pub fn codes_len(count: usize, width: u8) -> usize {
    (count * usize::from(width)).div_ceil(8)
}

/// Appends codes, each less than `1 << width`.
pub fn put_codes(out: &mut Vec<u8>, codes: &[u16], width: u8) {
    match width {
        0 => {}
        1 => put_small::<8>(out, codes),
        2 => put_small::<4>(out, codes),
        4 => put_small::<2>(out, codes),
        8 => out.extend(codes.iter().map(|code| *code as u8)),
        _ => out.extend(codes.iter().flat_map(|code| code.to_le_bytes())),
    }
}

fn put_small<const PER: usize>(out: &mut Vec<u8>, codes: &[u16]) {
    let width = 8 / PER;
    out.extend(codes.chunks(PER).map(|group| {
        group.iter().rev().fold(0u8, |byte, code| {
            // The shift by a whole byte cannot happen: PER is at least 2.
            (byte << width) | *code as u8
        })
    }));
}

/// Appends `count` codes of `width` bits to `codes`; `None` where `bytes` has another length.
#[must_use]
pub fn take_codes(bytes: &[u8], count: usize, width: u8, codes: &mut Vec<u16>) -> Option<()> {
    if !matches!(width, 0 | 1 | 2 | 4 | 8 | 16) || bytes.len() != codes_len(count, width) {
        return None;
    }
    let end = codes.len() + count;
    match width {
        0 => codes.resize(end, 0),
        1 => take_small::<8>(bytes, codes),
        2 => take_small::<4>(bytes, codes),
        4 => take_small::<2>(bytes, codes),
        8 => codes.extend(bytes.iter().map(|byte| u16::from(*byte))),
        _ => codes.extend(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))),
    }
    codes.truncate(end);
    Some(())
}

fn take_small<const PER: usize>(bytes: &[u8], codes: &mut Vec<u16>) {
    let width = 8 / PER;
    let mask = (1u16 << width) - 1;
    codes.extend(
        bytes
            .iter()
            .flat_map(|byte| (0..PER).map(move |at| (u16::from(*byte) >> (at * width)) & mask)),
    );
}

/// Counts codes less than `CODES`, in several tables: one code often follows itself, and a count
/// that was just written cannot be read at once.
#[must_use]
pub fn count_few<const CODES: usize>(mut codes: impl Iterator<Item = usize>) -> [u32; CODES] {
    let mut tables = [[0u32; CODES]; 4];
    'codes: loop {
        for table in &mut tables {
            let Some(code) = codes.next() else { break 'codes };
            table[code % CODES] += 1;
        }
    }
    std::array::from_fn(|code| tables.iter().map(|table| table[code]).sum())
}

/// Appends numbers in groups: the smallest of the group as 8 bytes little-endian, a byte of width
/// (0 to 64), then the distances.
pub fn put_numbers(out: &mut Vec<u8>, numbers: &[i64]) {
    for group in numbers.chunks(GROUP) {
        let min = group.iter().copied().min().unwrap_or(0);
        let max = group.iter().copied().max().unwrap_or(0);
        let width = 64 - (max.wrapping_sub(min) as u64).leading_zeros();
        out.extend_from_slice(&min.to_le_bytes());
        out.push(width as u8);
        let (mut held, mut bits) = (0u128, 0u32);
        for number in group {
            held |= u128::from(number.wrapping_sub(min) as u64) << bits;
            bits += width;
            while bits >= 8 {
                out.push(held as u8);
                held >>= 8;
                bits -= 8;
            }
        }
        if bits > 0 {
            out.push(held as u8);
        }
    }
}

/// Offsets as numbers that pack well: each less its index, so that a list without gaps takes no
/// bits at all.
#[must_use]
pub fn spread(offsets: &[Offset]) -> Vec<i64> {
    offsets.iter().enumerate().map(|(at, offset)| offset.wrapping_sub(at as u64) as i64).collect()
}

/// The offsets that [`spread`] was given.
#[must_use]
pub fn gathered(numbers: &[i64]) -> Vec<Offset> {
    numbers
        .iter()
        .enumerate()
        .map(|(at, number)| (*number as u64).wrapping_add(at as u64))
        .collect()
}

/// One group of numbers, still packed.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// The smallest number.
    pub min: i64,
    /// Bits of each distance, at most 64.
    pub width: u8,
    /// Numbers in the group, at most [`GROUP`].
    pub count: usize,
    bytes: &'a [u8],
}

impl Group<'_> {
    /// No number of the group is greater.
    #[must_use]
    pub fn bound(&self) -> i64 {
        let reach = if self.width >= 64 { u64::MAX } else { (1u64 << self.width) - 1 };
        self.min.checked_add_unsigned(reach).unwrap_or(i64::MAX)
    }

    /// The numbers, in order.
    pub fn unpack(&self, numbers: &mut [i64; GROUP]) {
        let width = usize::from(self.width);
        let (min, count) = (self.min, self.count);
        if width == 0 {
            numbers[..count].fill(min);
            return;
        }
        let mask = if width >= 64 { u64::MAX } else { (1u64 << width) - 1 };
        // A fixed copy of the bytes, so that eight of them can always be read at once.
        let mut padded = [0u8; GROUP * 8 + 16];
        padded[..self.bytes.len()].copy_from_slice(self.bytes);
        for (at, number) in numbers[..count].iter_mut().enumerate() {
            let bit = at * width;
            let from = bit / 8;
            let low = word(&padded, from) >> (bit % 8);
            let high = if width > 56 && bit % 8 > 0 {
                word(&padded, from + 8) << (64 - bit % 8)
            } else {
                0
            };
            *number = min.wrapping_add(((low | high) & mask) as i64);
        }
    }
}

fn word(bytes: &[u8; GROUP * 8 + 16], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Takes the next group of a list of which `left` numbers remain.
#[must_use]
pub fn take_group<'a>(bytes: &mut &'a [u8], left: usize) -> Option<Group<'a>> {
    let min = i64::from_le_bytes(varint::take_bytes(bytes, 8)?.try_into().ok()?);
    let width = varint::take_bytes(bytes, 1)?[0];
    let count = left.min(GROUP);
    if width > 64 {
        return None;
    }
    let packed = varint::take_bytes(bytes, (count * usize::from(width)).div_ceil(8))?;
    Some(Group { min, width, count, bytes: packed })
}

/// Takes `count` numbers and appends them to `numbers`.
#[must_use]
pub fn take_numbers(bytes: &mut &[u8], count: usize, numbers: &mut Vec<i64>) -> Option<()> {
    let mut buffer = [0; GROUP];
    let mut left = count;
    while left > 0 {
        let group = take_group(bytes, left)?;
        group.unpack(&mut buffer);
        numbers.extend_from_slice(&buffer[..group.count]);
        left -= group.count;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_at_every_width() {
        for max in [0u16, 1, 3, 15, 255, u16::MAX] {
            for count in [0usize, 1, 7, 8, 9, 1000] {
                let codes: Vec<u16> =
                    (0..count).map(|at| (at as u16).wrapping_mul(7919) & max).collect();
                let (mut bytes, mut back) = (Vec::new(), vec![9]);
                put_codes(&mut bytes, &codes, width_of(max));
                assert_eq!(bytes.len(), codes_len(count, width_of(max)));
                take_codes(&bytes, count, width_of(max), &mut back).unwrap();
                assert_eq!(back[1..], codes);
                bytes.push(0);
                assert!(take_codes(&bytes, count, width_of(max), &mut back).is_none());
            }
        }
    }

    #[test]
    fn numbers_come_back_at_every_width() {
        for width in 0..=64u32 {
            let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
            let numbers: Vec<i64> = (0..300u64)
                .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask) as i64)
                .collect();
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            put_numbers(&mut bytes, &numbers);
            let mut rest = bytes.as_slice();
            take_numbers(&mut rest, numbers.len(), &mut back).unwrap();
            assert!(rest.is_empty());
            assert_eq!(back, numbers, "width {width}");
            let group = take_group(&mut bytes.as_slice(), 300).unwrap();
            assert!(numbers[..GROUP].iter().all(|one| (group.min..=group.bound()).contains(one)));
        }
        let extremes = [i64::MIN, i64::MAX, 0, -1];
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        put_numbers(&mut bytes, &extremes);
        take_numbers(&mut bytes.as_slice(), 4, &mut back).unwrap();
        assert_eq!(back, extremes);
    }
}
