//! The union of the dictionaries of a run's sources.
//!
//! Sources repeat each other's values, so each value is found by its hash and kept once, and only
//! distinct values are sorted.

use xxhash_rust::xxh3::xxh3_64;

use crate::run::VALUES_MAX;

/// Slots of a new table.
const SLOTS_MIN: usize = 1024;

/// Collects values of many sources and gives equal ones the same code, in order of value.
#[derive(Debug)]
pub(super) struct Union {
    /// The distinct values, as they came.
    bytes: Vec<u8>,
    /// Where each of them ends in `bytes`.
    ends: Vec<u32>,
    /// Per slot the upper half of the value's hash, then one more than its number; 0 is free. A
    /// power of two, at least twice the distinct values.
    table: Vec<u64>,
    /// The number that is compared with the next value first: sources are sorted, and alike.
    next: u32,
    /// By source and code: the number of the value.
    numbers: Vec<u32>,
    /// Where each source begins in `numbers`.
    starts: Vec<u32>,
    /// Numbers in order of value.
    order: Vec<u32>,
}

/// The new code of each source's codes.
#[derive(Debug)]
pub(super) struct Remap {
    starts: Vec<u32>,
    codes: Vec<u16>,
}

impl Remap {
    /// By code of a source.
    pub(super) fn of(&self, source: usize) -> &[u16] {
        let end = self.starts.get(source + 1).map_or(self.codes.len(), |end| *end as usize);
        &self.codes[self.starts[source] as usize..end]
    }
}

impl Default for Union {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            table: vec![0; SLOTS_MIN],
            next: 0,
            numbers: Vec::new(),
            starts: Vec::new(),
            order: Vec::new(),
        }
    }
}

impl Union {
    /// The values to come are of the next source.
    pub(super) fn begin(&mut self) {
        self.starts.push(self.numbers.len() as u32);
        // Code 0 says that there is no value.
        self.numbers.push(0);
        self.next = 0;
    }

    /// Adds the value of the source's next code; codes begin with 1. False where there are more
    /// distinct values than a dictionary may have: the union is of no use then.
    pub(super) fn push(&mut self, value: &[u8]) -> bool {
        if self.len() > VALUES_MAX {
            return false;
        }
        let expected = (self.next as usize) < self.len() && self.value(self.next) == value;
        let number = if expected { self.next } else { self.find(value) };
        self.next = number + 1;
        self.numbers.push(number);
        self.len() <= VALUES_MAX
    }

    /// The number of a value, which is kept where it is new.
    fn find(&mut self, value: &[u8]) -> u32 {
        let hash = xxh3_64(value) >> 32;
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        while self.table[at] != 0 {
            let slot = self.table[at];
            let number = slot as u32 - 1;
            if slot >> 32 == hash && self.value(number) == value {
                return number;
            }
            at = (at + 1) & mask;
        }
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len() as u32);
        let number = self.len() as u32 - 1;
        self.table[at] = (hash << 32) | u64::from(number + 1);
        if self.len() * 2 > self.table.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let mut table = vec![0; 2 * self.table.len()];
        let mask = table.len() - 1;
        for slot in self.table.iter().filter(|slot| **slot != 0) {
            let mut at = (slot >> 32) as usize & mask;
            while table[at] != 0 {
                at = (at + 1) & mask;
            }
            table[at] = *slot;
        }
        self.table = table;
    }

    /// Puts the distinct values in order.
    pub(super) fn sort(&mut self) {
        let shared = self.shared();
        // What is sorted is small, so that it moves fast: eight bytes behind what all values begin
        // with, which decide most comparisons, and the number.
        let lead = |number: u32| {
            let rest = &self.value(number)[shared..];
            let mut eight = [0; 8];
            let length = rest.len().min(8);
            eight[..length].copy_from_slice(&rest[..length]);
            u64::from_be_bytes(eight)
        };
        let mut order: Vec<_> =
            (0..self.len() as u32).map(|number| (lead(number), number)).collect();
        // Stable, because it profits from the sources being sorted.
        order.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| self.value(a.1).cmp(self.value(b.1))));
        self.order = order.into_iter().map(|(_, number)| number).collect();
    }

    /// Distinct values.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The distinct values, ascending, once they are sorted.
    pub(super) fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.order.iter().map(|number| self.value(*number))
    }

    /// New codes for the sources' codes, once the values are sorted.
    pub(super) fn remap(&self) -> Remap {
        let mut ranks = vec![0u16; self.len()];
        for (rank, number) in (1..).zip(&self.order) {
            ranks[*number as usize] = rank;
        }
        let mut codes: Vec<u16> = self
            .numbers
            .iter()
            .map(|number| ranks.get(*number as usize).map_or(0, |r| *r))
            .collect();
        self.starts.iter().for_each(|start| codes[*start as usize] = 0);
        Remap { starts: self.starts.clone(), codes }
    }

    fn value(&self, number: u32) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        &self.bytes[start as usize..self.ends[number as usize] as usize]
    }

    /// Bytes that all values begin with.
    fn shared(&self) -> usize {
        if self.ends.is_empty() {
            return 0;
        }
        let first = self.value(0);
        (1..self.len() as u32).fold(first.len(), |shared, number| {
            let value = self.value(number);
            if value.len() >= shared && value[..shared] == first[..shared] {
                return shared;
            }
            value.iter().zip(&first[..shared]).take_while(|(a, b)| a == b).count()
        })
    }
}
