//! Masks: which traces of a block match, a bit each, and the tests that clear bits.

/// The matching traces of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u64>,
    count: usize,
}

impl Mask {
    /// All of `count` traces.
    #[must_use]
    pub fn full(count: usize) -> Self {
        let mut words = vec![u64::MAX; count.div_ceil(64)];
        if !count.is_multiple_of(64)
            && let Some(last) = words.last_mut()
        {
            *last = (1 << (count % 64)) - 1;
        }
        Self { words, count }
    }

    /// Traces in the block.
    #[must_use]
    pub fn block_len(&self) -> usize {
        self.count
    }

    /// Matching traces.
    #[must_use]
    pub fn ones(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether every trace matches.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ones() == self.count
    }

    /// Whether none matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether a trace matches.
    #[must_use]
    pub fn has(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 == 1
    }

    /// Clears a trace.
    pub fn clear(&mut self, at: usize) {
        self.words[at / 64] &= !(1 << (at % 64));
    }

    /// Clears all traces but those in `range`.
    pub fn keep_range(&mut self, range: std::ops::Range<usize>) {
        for (at, word) in self.words.iter_mut().enumerate() {
            let below = |end: usize| match end.saturating_sub(at * 64) {
                0 => 0,
                bits @ 1..64 => (1u64 << bits) - 1,
                _ => u64::MAX,
            };
            *word &= below(range.end) & !below(range.start);
        }
    }

    /// The matching traces, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let bit = left.trailing_zeros() as usize;
                    left &= left - 1;
                    at * 64 + bit
                })
            })
        })
    }

    /// The words, 64 traces each.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Clears the traces whose number `keep` refuses. `numbers` are those of the whole block.
    pub fn keep_numbers(&mut self, numbers: &[i64], keep: &std::ops::Range<i64>) {
        for (word, numbers) in self.words.iter_mut().zip(numbers.chunks(64)) {
            if *word != 0 {
                *word &= bits(numbers, |number| keep.contains(number));
            }
        }
    }

    /// Clears the traces whose code is not in `set`.
    pub fn keep_codes(&mut self, codes: &[u16], set: &CodeSet) {
        for (word, codes) in self.words.iter_mut().zip(codes.chunks(64)) {
            if *word != 0 {
                *word &= bits(codes, |code| set.has(*code));
            }
        }
    }

    /// Clears the traces whose packed code is not in `set`. `row` has the length that `width` and
    /// the block demand.
    pub fn keep_packed(&mut self, row: &[u8], width: u8, set: &CodeSet) {
        match width {
            1 | 2 | 4 | 8 => {
                let table = set.table(width);
                let step = 8 / usize::from(width);
                for (word, bytes) in self.words.iter_mut().zip(row.chunks(8 * usize::from(width))) {
                    if *word != 0 {
                        let mut found = 0;
                        for (at, byte) in bytes.iter().enumerate() {
                            found |= u64::from(table[usize::from(*byte)]) << (at * step);
                        }
                        *word &= found;
                    }
                }
            }
            _ => {
                let one = set.single();
                for (word, pairs) in self.words.iter_mut().zip(row.chunks(128)) {
                    if *word == 0 {
                        continue;
                    }
                    let pairs = pairs.as_chunks::<2>().0;
                    *word &= match one {
                        Some(one) => {
                            let one = one.to_le_bytes();
                            bits(pairs, |pair| *pair == one)
                        }
                        None => bits(pairs, |pair| set.has(u16::from_le_bytes(*pair))),
                    };
                }
            }
        }
    }

    /// The matching traces in a list, which is quicker to go through again and again.
    #[must_use]
    pub fn matches(&self) -> Matches {
        let ones = self.ones();
        // Eight places are written for each byte with a bit, as many kept as it has bits.
        let (mut list, mut end) = (vec![0; ones + 7], 0);
        'words: for (at, word) in self.words.iter().enumerate() {
            for (byte, start) in word.to_le_bytes().into_iter().zip((at as u16 * 64..).step_by(8)) {
                let places = &PLACES[usize::from(byte)];
                let Some(eight) = list.get_mut(end..end + 8) else { break 'words };
                for (one, place) in eight.iter_mut().zip(places) {
                    *one = start + u16::from(*place);
                }
                end += byte.count_ones() as usize;
            }
        }
        list.truncate(ones);
        Matches { list, count: self.count }
    }
}

/// For each byte of a mask: the places of its bits, ascending, before others.
const PLACES: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut found) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte][found] = bit as u8;
                found += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// The matching traces of a block, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matches {
    list: Vec<u16>,
    count: usize,
}

impl Matches {
    /// Counts the packed codes of the matching traces; `None` where `row` has another length than
    /// the block's or a code that `counts` has no place for.
    #[must_use]
    pub fn count_packed(&self, row: &[u8], width: u8, counts: &mut [u32]) -> Option<()> {
        if row.len() != crate::pack::codes_len(self.count, width) {
            return None;
        }
        let small = |at: usize| {
            let bit = at * usize::from(width);
            usize::from(row[bit / 8] >> (bit % 8)) & ((1 << width) - 1)
        };
        match width {
            8 => self.count_few::<256>(|at| usize::from(row[at]), counts),
            16 => {
                let pairs = row.as_chunks::<2>().0;
                self.iter().try_for_each(|at| {
                    *counts.get_mut(usize::from(u16::from_le_bytes(pairs[at])))? += 1;
                    Some(())
                })
            }
            _ => self.count_few::<16>(small, counts),
        }
    }

    /// The matching traces.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.list.iter().map(|at| usize::from(*at))
    }

    /// Counts codes of up to 8 bits.
    fn count_few<const CODES: usize>(
        &self,
        code: impl Fn(usize) -> usize,
        counts: &mut [u32],
    ) -> Option<()> {
        let sums = crate::pack::count_few::<CODES>(self.iter().map(code));
        sums.iter().enumerate().filter(|(_, sum)| **sum > 0).try_for_each(|(code, sum)| {
            *counts.get_mut(code)? += sum;
            Some(())
        })
    }
}

fn bits<T>(items: &[T], test: impl Fn(&T) -> bool) -> u64 {
    items.iter().enumerate().fold(0, |bits, (at, item)| bits | (u64::from(test(item)) << at))
}

/// A set of dictionary codes.
#[derive(Clone, Debug)]
pub struct CodeSet {
    /// The listed codes, ascending.
    codes: Vec<u16>,
    /// Whether the set is all codes but the listed ones.
    inverted: bool,
    /// A bit per code.
    bitmap: Box<[u64]>,
}

impl CodeSet {
    /// The listed codes, or all others.
    #[must_use]
    pub fn new(mut codes: Vec<u16>, inverted: bool) -> Self {
        codes.sort_unstable();
        codes.dedup();
        let mut bitmap = vec![if inverted { u64::MAX } else { 0 }; 1024].into_boxed_slice();
        for code in &codes {
            bitmap[usize::from(*code) / 64] ^= 1 << (code % 64);
        }
        Self { codes, inverted, bitmap }
    }

    /// Whether the set has a code.
    #[inline]
    #[must_use]
    pub fn has(&self, code: u16) -> bool {
        self.bitmap[usize::from(code >> 6)] >> (code & 63) & 1 == 1
    }

    /// Whether the set has no code.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty() && !self.inverted
    }

    /// The one code of the set; `None` where it has none or several.
    #[must_use]
    pub fn single(&self) -> Option<u16> {
        match (self.inverted, self.codes.as_slice()) {
            (false, [one]) => Some(*one),
            _ => None,
        }
    }

    /// For each byte of packed codes: which of its codes are in the set.
    fn table(&self, width: u8) -> [u8; 256] {
        let mask = if width == 8 { 0xff } else { (1u16 << width) - 1 };
        std::array::from_fn(|byte| {
            (0..8 / width).fold(0, |bits, at| {
                let code = (byte as u16) >> (at * width) & mask;
                bits | (u8::from(self.has(code)) << at)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack;

    #[test]
    fn packed_and_plain_codes_agree() {
        for max in [1u16, 3, 15, 255, u16::MAX] {
            for count in [1usize, 63, 64, 65, 1000] {
                let codes: Vec<u16> =
                    (0..count).map(|at| (at as u16).wrapping_mul(40_503) & max).collect();
                let mut row = Vec::new();
                let width = pack::width_of(max);
                pack::put_codes(&mut row, &codes, width);
                for set in [
                    CodeSet::new(vec![1], false),
                    CodeSet::new(vec![0, 1, 2], false),
                    CodeSet::new(vec![0, codes[count / 2]], true),
                    CodeSet::new(vec![], true),
                ] {
                    let (mut packed, mut plain) = (Mask::full(count), Mask::full(count));
                    packed.keep_packed(&row, width, &set);
                    plain.keep_codes(&codes, &set);
                    assert_eq!(packed, plain);
                    let wanted: Vec<usize> = (0..count).filter(|at| set.has(codes[*at])).collect();
                    assert_eq!(packed.iter().collect::<Vec<_>>(), wanted);
                    assert_eq!(packed.ones(), wanted.len());
                    let mut counts = vec![0; usize::from(max) + 1];
                    packed.matches().count_packed(&row, width, &mut counts).unwrap();
                    for at in wanted {
                        counts[usize::from(codes[at])] -= 1;
                    }
                    assert!(counts.iter().all(|count| *count == 0));
                }
            }
        }
    }

    #[test]
    fn matches_are_the_bits_of_a_mask() {
        for count in [0usize, 1, 7, 8, 64, 8_192, 65_535] {
            for step in [1usize, 2, 9, 1_000, 70_000] {
                let mut mask = Mask::full(count);
                (0..count).filter(|at| at % step != step / 2).for_each(|at| mask.clear(at));
                let matches = mask.matches();
                assert!(matches.iter().eq(mask.iter()), "{count} by {step}");
                assert_eq!(matches.iter().count(), mask.ones());
            }
        }
    }

    #[test]
    fn codes_that_nobody_counts_are_refused() {
        for (width, row) in [(2u8, vec![3u8; 2]), (8, vec![9; 8]), (16, vec![9; 16])] {
            let matches = Mask::full(8).matches();
            let code = usize::from(row[0]);
            let count = |row: &[u8], counts: usize| {
                let code = matches.count_packed(row, width, &mut vec![0; counts]);
                code.is_some()
            };
            let most = if width == 16 { code * 257 } else { code };
            assert!(count(&row, most + 1) && !count(&row, most) && !count(&row[1..], most + 1));
        }
    }

    #[test]
    fn ranges_keep_what_is_inside() {
        for count in [1usize, 64, 130] {
            for range in [0..0, 0..1, 5..64, 63..65, 64..130, 0..200] {
                let mut mask = Mask::full(count);
                mask.keep_range(range.clone());
                let wanted: Vec<usize> = (0..count).filter(|at| range.contains(at)).collect();
                assert_eq!(mask.iter().collect::<Vec<_>>(), wanted, "{count} {range:?}");
            }
        }
    }
}
