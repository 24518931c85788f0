//! The union of the dictionaries of a run's sources.

use std::cmp::Ordering;

use crate::run::VALUES_MAX;

/// Collects values of many sources and gives equal ones the same code, in order of value.
#[derive(Debug, Default)]
pub(super) struct Union {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    source: u16,
    /// What is sorted, small so that it moves fast: eight bytes of the value behind what all values
    /// begin with, which decide most comparisons, and the entry.
    order: Vec<(u64, u32)>,
    /// Where in `order` each distinct value begins.
    firsts: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    length: u32,
    source: u16,
    code: u16,
}

/// The new code of each source's codes.
#[derive(Debug)]
pub(super) struct Remap {
    starts: Vec<u32>,
    codes: Vec<u16>,
}

impl Remap {
    #[inline]
    pub(super) fn code(&self, source: usize, local: u16) -> u16 {
        self.codes[self.starts[source] as usize + usize::from(local)]
    }
}

impl Union {
    /// The values to come are of this source.
    pub(super) fn begin(&mut self, source: usize) {
        self.source = source as u16;
    }

    /// Adds the value that `code` means in the source.
    pub(super) fn push(&mut self, code: u16, value: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        let (length, source) = (value.len() as u32, self.source);
        self.entries.push(Entry { start, length, source, code });
    }

    /// Sorts; false where there are more distinct values than a dictionary may have.
    pub(super) fn sort(&mut self) -> bool {
        let shared = self.shared();
        let lead = |entry: &Entry| {
            let value = value_of(&self.bytes, entry);
            let rest = &value[shared.min(value.len())..];
            rest.first_chunk().map_or_else(
                || {
                    let mut padded = [0; 8];
                    padded[..rest.len()].copy_from_slice(rest);
                    u64::from_be_bytes(padded)
                },
                |eight| u64::from_be_bytes(*eight),
            )
        };
        let mut order: Vec<(u64, u32)> = self.entries.iter().map(lead).zip(0..).collect();
        // Stable, because the dictionaries of runs come sorted.
        order.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| self.compare(a.1, b.1)));
        for (at, pair) in (0u32..).zip(&order) {
            let fresh = at == 0 || {
                let before = order[at as usize - 1];
                before.0 != pair.0 || self.compare(before.1, pair.1) != Ordering::Equal
            };
            if fresh {
                self.firsts.push(at);
            }
        }
        self.order = order;
        self.firsts.len() <= VALUES_MAX
    }

    fn compare(&self, a: u32, b: u32) -> Ordering {
        let value = |at: u32| value_of(&self.bytes, &self.entries[at as usize]);
        value(a).cmp(value(b))
    }

    /// Distinct values.
    pub(super) fn len(&self) -> usize {
        self.firsts.len()
    }

    /// The distinct values, ascending.
    pub(super) fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.firsts.iter().map(|at| {
            let (_, entry) = self.order[*at as usize];
            value_of(&self.bytes, &self.entries[entry as usize])
        })
    }

    /// New codes for the codes of so many sources.
    pub(super) fn remap(&self, sources: usize) -> Remap {
        let mut lengths = vec![1u32; sources];
        for entry in &self.entries {
            lengths[usize::from(entry.source)] += 1;
        }
        let mut next = 0;
        let starts: Vec<u32> = lengths
            .iter()
            .map(|length| {
                next += length;
                next - length
            })
            .collect();
        let mut codes = vec![0; next as usize];
        for (rank, first) in self.firsts.iter().enumerate() {
            let end = self.firsts.get(rank + 1).map_or(self.order.len(), |end| *end as usize);
            for (_, at) in &self.order[*first as usize..end] {
                let entry = &self.entries[*at as usize];
                let to = starts[usize::from(entry.source)] + u32::from(entry.code);
                codes[to as usize] = rank as u16 + 1;
            }
        }
        Remap { starts, codes }
    }

    /// Bytes that all values begin with.
    fn shared(&self) -> usize {
        let Some(first) = self.entries.first() else { return 0 };
        let first = value_of(&self.bytes, first);
        self.entries.iter().fold(first.len(), |shared, entry| {
            let value = value_of(&self.bytes, entry);
            if value.len() >= shared && value[..shared] == first[..shared] {
                return shared;
            }
            value.iter().zip(&first[..shared]).take_while(|(a, b)| a == b).count()
        })
    }
}

fn value_of<'a>(bytes: &'a [u8], entry: &Entry) -> &'a [u8] {
    &bytes[entry.start as usize..(entry.start + entry.length) as usize]
}
