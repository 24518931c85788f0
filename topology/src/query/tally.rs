//! Tallies: how often each value occurs.

use std::cmp::Ordering;

use xxhash_rust::xxh3::xxh3_64;

/// Most distinct values a tally takes.
pub const VALUES_MAX: usize = 1_000_000;

/// Most entries that are passed over for one value.
const STEPS_MAX: usize = 8;

/// Counts by value. Values that come after [`VALUES_MAX`] distinct ones are not counted, and the
/// tally says so.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Per slot: one more than an entry's index, and the upper half of its hash.
    slots: Vec<u64>,
    /// The entry that is compared with the next value first.
    next: usize,
    /// The first entry that may be of an ascending list: those before it are of open chunks.
    ordered_from: Option<usize>,
    overflow: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    start: u32,
    length: u32,
    count: u64,
}

impl Tally {
    /// Makes room for so many more values.
    pub fn reserve(&mut self, values: usize) {
        let wanted = self.entries.len() + values.min(VALUES_MAX);
        if wanted * 2 >= self.slots.len() {
            self.grow(wanted);
            self.entries.reserve(values.min(VALUES_MAX));
        }
    }

    /// Says that the next values come from a list of their own, in ascending order.
    pub fn rewind(&mut self) {
        self.next = *self.ordered_from.get_or_insert(self.entries.len());
    }

    /// Adds occurrences of many values, in ascending order since [`Tally::rewind`]; in another
    /// order they count as well, and take longer.
    ///
    /// One dictionary is much like another. So the tally is walked beside the values as far as
    /// both ascend together, and only what is not met there is looked up by its hash.
    pub fn add_all<'v>(&mut self, values: impl Iterator<Item = (&'v [u8], u64)>) {
        let mut missed = Vec::new();
        for (value, count) in values {
            if !self.add_met(value, count) {
                missed.push((value, count));
            }
        }
        if !missed.is_empty() {
            self.add_missed(&missed);
        }
    }

    /// Adds to the next entry that is not less than `value`, where that is its own and near.
    #[inline]
    fn add_met(&mut self, value: &[u8], count: u64) -> bool {
        for _ in 0..STEPS_MAX {
            let Some(entry) = self.entries.get_mut(self.next) else { return false };
            let known = &self.bytes[entry.start as usize..][..entry.length as usize];
            match known.cmp(value) {
                Ordering::Less => self.next += 1,
                Ordering::Equal => {
                    entry.count += count;
                    self.next += 1;
                    return true;
                }
                Ordering::Greater => return false,
            }
        }
        false
    }

    /// A large tally does not fit the processor's caches. So the memory that a batch needs is
    /// touched first, for all its values at once, and the waits overlap.
    fn add_missed(&mut self, values: &[(&[u8], u64)]) {
        let at_end = self.next == self.entries.len();
        self.reserve(values.len());
        let mask = self.slots.len() - 1;
        let hashes: Vec<u64> = values.iter().map(|(value, _)| xxh3_64(value)).collect();
        let slots: Vec<u64> = hashes.iter().map(|hash| self.slots[*hash as usize & mask]).collect();
        let starts: Vec<u32> = slots
            .iter()
            .map(|slot| {
                (*slot as u32).checked_sub(1).map_or(0, |at| self.entries[at as usize].start)
            })
            .collect();
        let touched = starts
            .iter()
            .fold(0u8, |sum, start| sum ^ self.bytes.get(*start as usize).copied().unwrap_or(0));
        std::hint::black_box(touched);
        for ((value, count), hash) in values.iter().zip(hashes) {
            self.add_hashed(value, *count, hash);
        }
        if at_end {
            self.next = self.entries.len();
        }
    }

    /// Adds `count` occurrences of a value.
    pub fn add(&mut self, value: &[u8], count: u64) {
        self.reserve(1);
        self.add_hashed(value, count, xxh3_64(value));
    }

    fn add_hashed(&mut self, value: &[u8], count: u64, hash: u64) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            if slot >> 32 == hash >> 32 {
                let entry = &mut self.entries[(slot as u32 - 1) as usize];
                let known = &self.bytes[entry.start as usize..][..entry.length as usize];
                if known == value {
                    entry.count += count;
                    return;
                }
            }
            at = (at + 1) & mask;
        }
        if self.entries.len() >= VALUES_MAX || self.bytes.len() + value.len() > u32::MAX as usize {
            self.overflow = true;
            return;
        }
        let (start, length) = (self.bytes.len() as u32, value.len() as u32);
        self.bytes.extend_from_slice(value);
        self.entries.push(Entry { hash, start, length, count });
        self.slots[at] = (hash >> 32 << 32) | self.entries.len() as u64;
    }

    /// Adds all of another tally.
    pub fn merge(&mut self, other: &Self) {
        self.reserve(other.entries.len());
        let pair = |entry| (other.value(entry), entry.count);
        let (loose, ordered) = other.entries.split_at(other.ordered_from.unwrap_or(0));
        for (value, count) in loose.iter().map(pair) {
            self.add(value, count);
        }
        self.rewind();
        for entries in ordered.chunks(256) {
            self.add_all(entries.iter().map(pair));
        }
        self.overflow |= other.overflow;
    }

    /// Distinct values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Occurrences of all values.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.count).sum()
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether values were left out.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.overflow
    }

    /// The most frequent values, at most `wanted`; equally frequent ones in order of value.
    #[must_use]
    pub fn top(&self, wanted: usize) -> Vec<(Vec<u8>, u64)> {
        let mut ranked: Vec<&Entry> = self.entries.iter().collect();
        let order = |a: &&Entry, b: &&Entry| {
            b.count.cmp(&a.count).then_with(|| self.value(a).cmp(self.value(b)))
        };
        if wanted < ranked.len() && wanted > 0 {
            ranked.select_nth_unstable_by(wanted - 1, order);
        }
        ranked.truncate(wanted);
        ranked.sort_unstable_by(order);
        ranked.into_iter().map(|entry| (self.value(entry).to_vec(), entry.count)).collect()
    }

    fn value(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.start as usize..][..entry.length as usize]
    }

    fn grow(&mut self, values: usize) {
        let size = (values * 3).next_power_of_two().max(64);
        self.slots = vec![0; size];
        for (entry, number) in self.entries.iter().zip(1u64..) {
            let mut at = entry.hash as usize & (size - 1);
            while self.slots[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = (entry.hash >> 32 << 32) | number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_the_most_frequent_come_first() {
        let mut tally = Tally::default();
        for at in 0..5_000u32 {
            tally.add(format!("value {}", at % 700).as_bytes(), u64::from(at % 3));
        }
        let mut twice = tally.clone();
        twice.merge(&tally);
        assert_eq!(tally.len(), 700);
        let (once, all) = (tally.top(10), twice.top(1_000));
        assert_eq!(all.len(), 700);
        assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 2 * 4_999);
        for (one, two) in once.iter().zip(&all) {
            assert_eq!((&one.0, one.1 * 2), (&two.0, two.1));
        }
        assert!(all.windows(2).all(|w| (w[1].1, &w[0].0) < (w[0].1, &w[1].0)));
        assert!(tally.top(0).is_empty() && !tally.is_cut());
    }

    #[test]
    fn dictionaries_that_differ_add_up() {
        let mut tally = Tally::default();
        let mut wanted = std::collections::BTreeMap::<Vec<u8>, u64>::new();
        // Each list has other gaps, some wider than what is passed over for one value.
        for (step, from) in [(3u32, 0), (1, 40), (50, 7), (2, 0), (1, 0), (7, 900)] {
            let values: Vec<Vec<u8>> = (from..1_000)
                .step_by(step as usize)
                .map(|at| format!("value {at:04}").into_bytes())
                .collect();
            tally.rewind();
            for piece in values.chunks(64) {
                tally.add_all(piece.iter().map(|value| (value.as_slice(), u64::from(step))));
            }
            for value in values {
                *wanted.entry(value).or_default() += u64::from(step);
            }
        }
        let mut found = tally.top(usize::MAX);
        found.sort_unstable();
        assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_dictionary_is_met_whatever_open_chunks_had() {
        let values: Vec<String> = (0..500).map(|at| format!("value {at:03}")).collect();
        let all = || values.iter().map(|value| (value.as_bytes(), 1));
        let mut tally = Tally::default();
        for loose in ["zzz", "value 250", "a", "value 002"] {
            tally.add(loose.as_bytes(), 1);
        }
        for _ in 0..2 {
            tally.rewind();
            tally.add_all(all());
        }
        // Also where it comes from another partition.
        let mut merged = Tally::default();
        merged.add(b"value 499", 1);
        merged.merge(&tally);
        for tally in [&mut tally, &mut merged] {
            tally.rewind();
            let met = all().filter(|(value, count)| tally.add_met(value, *count)).count();
            assert!(met > 490, "{met}");
        }
        assert_eq!((tally.total(), merged.total()), (4 + 1_000 + 498, 5 + 1_000 + 497));
    }
}
