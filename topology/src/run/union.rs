//! The union of the dictionaries of a run's sources.

use crate::run::VALUES_MAX;

/// Collects values of many sources and gives equal ones the same code, in order of value.
#[derive(Debug, Default)]
pub(super) struct Union {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    source: u32,
    /// The first entry of each distinct value, after sorting.
    firsts: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Eight bytes of the value behind what all values begin with: most comparisons end here.
    lead: u64,
    start: u32,
    length: u32,
    source: u32,
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
        self.source = source as u32;
    }

    /// Adds the value that `code` means in the source.
    pub(super) fn push(&mut self, code: u16, value: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        let (length, source) = (value.len() as u32, self.source);
        self.entries.push(Entry { lead: 0, start, length, source, code });
    }

    /// Sorts; false where there are more distinct values than a dictionary may have.
    pub(super) fn sort(&mut self) -> bool {
        let shared = self.shared();
        let (bytes, entries) = (&self.bytes, &mut self.entries);
        for entry in entries.iter_mut() {
            let value = value_of(bytes, entry);
            let rest = &value[shared.min(value.len())..];
            let mut lead = [0; 8];
            let length = rest.len().min(8);
            lead[..length].copy_from_slice(&rest[..length]);
            entry.lead = u64::from_be_bytes(lead);
        }
        // Stable, because the dictionaries of runs come sorted.
        entries.sort_by(|a, b| {
            a.lead.cmp(&b.lead).then_with(|| value_of(bytes, a).cmp(value_of(bytes, b)))
        });
        let mut last: Option<&[u8]> = None;
        for (at, entry) in (0u32..).zip(entries.iter()) {
            let value = value_of(bytes, entry);
            if last != Some(value) {
                self.firsts.push(at);
                last = Some(value);
            }
        }
        self.firsts.len() <= VALUES_MAX
    }

    /// Distinct values.
    pub(super) fn len(&self) -> usize {
        self.firsts.len()
    }

    /// The distinct values, ascending.
    pub(super) fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.firsts.iter().map(|at| value_of(&self.bytes, &self.entries[*at as usize]))
    }

    /// New codes for the codes of so many sources.
    pub(super) fn remap(&self, sources: usize) -> Remap {
        let mut lengths = vec![1u32; sources];
        for entry in &self.entries {
            lengths[entry.source as usize] += 1;
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
            let end = self.firsts.get(rank + 1).map_or(self.entries.len(), |end| *end as usize);
            for entry in &self.entries[*first as usize..end] {
                let at = starts[entry.source as usize] + u32::from(entry.code);
                codes[at as usize] = rank as u16 + 1;
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
            value.iter().zip(&first[..shared]).take_while(|(a, b)| a == b).count()
        })
    }
}

fn value_of<'a>(bytes: &'a [u8], entry: &Entry) -> &'a [u8] {
    &bytes[entry.start as usize..(entry.start + entry.length) as usize]
}
