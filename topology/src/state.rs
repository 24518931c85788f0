//! Rows: what a stage keeps between batches, behind one small port.
//!
//! A stage reads its rows when it is loaded. From then on it writes, and reads no more than a
//! record of the past needs now and then ([`crate::stage`]). The rows, the effects and the position
//! of a batch are one [`Changes`], committed together or not at all (I1).

/// One change to a table row. Keys come from [`crate::key`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a row.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a row.
    Delete(Vec<u8>),
    /// Removes every row with `from <= key < to`.
    DeleteRange(Vec<u8>, Vec<u8>),
}

/// The changes of one batch, applied in order.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// In the order they hold.
    pub list: Vec<Change>,
}

impl Changes {
    /// Adds a row.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.list.push(Change::Put(key, value));
    }

    /// Removes a row.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.list.push(Change::Delete(key));
    }

    /// Removes the rows with `from <= key < to`.
    pub fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        self.list.push(Change::DeleteRange(from, to));
    }
}

/// A readable, consistent set of rows: a store, or a snapshot of one.
pub trait Rows {
    /// Why a read failed. In memory: never.
    type Error;

    /// Reads one row.
    ///
    /// # Errors
    /// The store's own.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Visits the rows with `from <= key < to` in key order until `visit` returns false.
    ///
    /// # Errors
    /// The store's own.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Self::Error>;

    /// Visits the rows with `from <= key < to` in *descending* key order until `visit` returns
    /// false.
    ///
    /// # Errors
    /// The store's own.
    fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Self::Error>;
}
