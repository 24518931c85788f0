//! Reading a run's rows.

use crate::attribute::Attribute;
use crate::pack;
use crate::run::place::Places;
use crate::run::{
    Header, NO_ATTRIBUTE, Read, Readable, RunId, SPREAD_MIN, Section, Shape, bucket_of, whole,
};
use crate::stage::LoadError;

/// A run and the rows it is read from.
#[derive(Debug)]
pub struct Run<'a, R> {
    /// Its header.
    pub header: Header,
    /// The rows.
    pub rows: &'a R,
}

impl<'a, R: Readable> Run<'a, R> {
    /// The runs of a tracker and day, in order of first offset.
    ///
    /// # Errors
    /// The store's, or a damaged header.
    pub fn all_of(rows: &'a R, day: u16, tracker: &[u8; 16]) -> Read<Vec<Self>, R> {
        let (from, to) = RunId::headers_of(day, tracker);
        let (mut runs, mut intact) = (Vec::new(), true);
        rows.scan(&from, &to, &mut |key, row| {
            match Header::decode(key, row) {
                Some(header) => runs.push(Self { header, rows }),
                None => intact = false,
            }
            intact
        })
        .map_err(LoadError::Store)?;
        whole(intact.then_some(runs), "a run's header does not decode")
    }

    /// How the run holds an attribute.
    #[must_use]
    pub fn shape(&self, attribute: Attribute) -> Shape {
        self.header.shapes[attribute as usize]
    }

    /// How many values the dictionary of an attribute has; 0 where there is none.
    #[must_use]
    pub fn values(&self, attribute: Attribute) -> usize {
        match self.shape(attribute) {
            Shape::Dictionary { values, .. } => usize::from(values),
            Shape::Absent | Shape::Hashes => 0,
        }
    }

    /// Appends the codes of a block of an attribute that is not hashed.
    ///
    /// # Errors
    /// The store's, or a damaged row.
    pub fn codes(&self, attribute: Attribute, block: usize, codes: &mut Vec<u16>) -> Read<(), R> {
        let count = self.header.block_len(block);
        match self.shape(attribute) {
            Shape::Dictionary { width: 0, .. } => codes.resize(codes.len() + count, 1),
            Shape::Dictionary { values, width } => {
                let (row, start) = (self.codes_row(attribute, block)?, codes.len());
                whole(pack::take_codes(&row, count, width, codes), "codes do not decode")?;
                let fit = codes[start..].iter().all(|code| *code <= values);
                whole(fit.then_some(()), "codes exceed their dictionary")?;
            }
            Shape::Absent | Shape::Hashes => codes.resize(codes.len() + count, 0),
        }
        Ok(())
    }

    /// The packed codes of a block of an attribute whose width is not 0.
    ///
    /// # Errors
    /// The store's, or no such row.
    pub fn codes_row(&self, attribute: Attribute, block: usize) -> Read<Vec<u8>, R> {
        self.row(self.header.id.section(Section::Codes, attribute as u8).u32(block as u32).done())
    }

    /// Visits the packed codes of the blocks from `first` to `last`, in order.
    ///
    /// # Errors
    /// The store's.
    pub fn visit_codes(
        &self,
        attribute: Attribute,
        first: usize,
        last: usize,
        visit: &mut dyn FnMut(usize, &[u8]) -> bool,
    ) -> Read<(), R> {
        let section = || self.header.id.section(Section::Codes, attribute as u8);
        let (from, to) =
            (section().u32(first as u32).done(), section().u32(last as u32 + 1).done());
        self.rows
            .scan(&from, &to, &mut |key, row| visit(block_of(key), row))
            .map_err(LoadError::Store)
    }

    /// The packed stream or event times of a block.
    ///
    /// # Errors
    /// The store's, or no such row.
    pub fn times_row(&self, section: Section, block: usize) -> Read<Vec<u8>, R> {
        self.row(self.header.id.section(section, NO_ATTRIBUTE).u32(block as u32).done())
    }

    /// Appends the stream or event times of a block.
    ///
    /// # Errors
    /// The store's, or a damaged row.
    pub fn times(&self, section: Section, block: usize, numbers: &mut Vec<i64>) -> Read<(), R> {
        let row = self.times_row(section, block)?;
        let (mut rest, count) = (row.as_slice(), self.header.block_len(block));
        whole(pack::take_numbers(&mut rest, count, numbers), "times do not decode")
    }

    /// The places of a block.
    ///
    /// # Errors
    /// The store's, or a damaged row.
    pub fn places(&self, block: usize) -> Read<Places, R> {
        let key = self.header.id.section(Section::Places, NO_ATTRIBUTE).u32(block as u32).done();
        let row = self.row(key)?;
        let places = Places::decode(&row, self.header.block_len(block), &self.header.id.tracker);
        whole(places, "places do not decode")
    }

    /// Visits hashes and ordinals of an attribute, in order of hash.
    ///
    /// # Errors
    /// The store's, or a damaged row.
    pub fn visit_hashes(
        &self,
        attribute: Attribute,
        visit: &mut dyn FnMut(u32, u32),
    ) -> Read<(), R> {
        let (from, to) = self.header.id.section(Section::Hashes, attribute as u8).range();
        let (mut intact, count) = (true, self.header.count);
        self.rows
            .scan(&from, &to, &mut |key, row| {
                intact = visit_bucket(row, block_of(key) as u32, count, visit).is_some();
                intact
            })
            .map_err(LoadError::Store)?;
        whole(intact.then_some(()), "a hash bucket does not decode")
    }

    /// The ordinals of an attribute's values that have this hash, ascending.
    ///
    /// # Errors
    /// The store's, or a damaged row.
    pub fn ordinals(&self, attribute: Attribute, hash: u32) -> Read<Vec<u32>, R> {
        let (count, mut ordinals) = (self.header.count, Vec::new());
        let bucket = bucket_of(hash, count);
        let key = self.header.id.section(Section::Hashes, attribute as u8).u32(bucket).done();
        let Some(row) = self.rows.get(&key).map_err(LoadError::Store)? else {
            return Ok(ordinals);
        };
        let visited = visit_bucket(&row, bucket, count, &mut |found, ordinal| {
            if found == hash {
                ordinals.push(ordinal);
            }
        });
        whole(visited, "a hash bucket does not decode")?;
        Ok(ordinals)
    }

    fn row(&self, key: Vec<u8>) -> Read<Vec<u8>, R> {
        whole(self.rows.get(&key).map_err(LoadError::Store)?, "a row is missing")
    }
}

/// The block or bucket that ends a key.
fn block_of(key: &[u8]) -> usize {
    key.last_chunk().map_or(usize::MAX, |last| u32::from_be_bytes(*last) as usize)
}

/// Encodes a bucket of hashes with ordinals in order; the upper byte of a spread hash is its key's.
#[must_use]
pub fn encode_bucket(entries: &[u64], traces: usize) -> Vec<u8> {
    let hash_bytes = if traces >= SPREAD_MIN { 3 } else { 4 };
    let mut row = Vec::with_capacity(entries.len() * (hash_bytes + 3));
    for entry in entries {
        row.extend_from_slice(&((entry >> 32) as u32).to_le_bytes()[..hash_bytes]);
        row.extend_from_slice(&(*entry as u32).to_le_bytes()[..3]);
    }
    row
}

fn visit_bucket(
    row: &[u8],
    bucket: u32,
    traces: usize,
    visit: &mut dyn FnMut(u32, u32),
) -> Option<()> {
    let ordinal = |at: &[u8]| u32::from_le_bytes([at[0], at[1], at[2], 0]);
    let spread = traces >= SPREAD_MIN;
    let entries = row.chunks_exact(if spread { 6 } else { 7 });
    entries.remainder().is_empty().then_some(())?;
    for entry in entries {
        let (hash, at) = if spread {
            (u32::from_le_bytes([entry[0], entry[1], entry[2], bucket as u8]), ordinal(&entry[3..]))
        } else {
            (u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]), ordinal(&entry[4..]))
        };
        ((at as usize) < traces).then_some(())?;
        visit(hash, at);
    }
    Some(())
}
