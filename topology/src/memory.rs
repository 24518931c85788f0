//! Rows in memory: the twin of the RocksDB store, for the simulator and for tests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;

use crate::state::{Change, Changes, Rows};

/// An ordered map of rows.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Memory {
    /// Applies the changes of a batch, in order.
    pub fn commit(&mut self, changes: &Changes) {
        for change in &changes.list {
            match change {
                Change::Put(key, value) => {
                    self.rows.insert(key.clone(), value.clone());
                }
                Change::Delete(key) => {
                    self.rows.remove(key);
                }
                Change::DeleteRange(from, to) => {
                    let doomed: Vec<Vec<u8>> = self
                        .rows
                        .range::<[u8], _>((
                            Bound::Included(from.as_slice()),
                            Bound::Excluded(to.as_slice()),
                        ))
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in doomed {
                        self.rows.remove(&key);
                    }
                }
            }
        }
    }

    /// All rows, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

impl Rows for Memory {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Infallible> {
        if from < to {
            for (key, value) in
                self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
            {
                if !visit(key, value) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Infallible> {
        if from < to {
            for (key, value) in
                self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).rev()
            {
                if !visit(key, value) {
                    break;
                }
            }
        }
        Ok(())
    }
}
