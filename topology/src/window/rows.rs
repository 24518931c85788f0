//! What a window reads from its rows: all of them when it is loaded or its table must be another,
//! and those of one epoch when a look asks for it.

use super::table::Table;
use super::{
    MARK_BYTES, Mark, READ_MAX, ROW_MARKS_MAX, ROW_MARKS_MIN, Read, Row, RowKey, Want, Window,
};
use crate::key::{self, whole};
use crate::stage::{Damage, LoadError};
use crate::state::Rows;

/// The name of the table, where its rows are damaged.
const WINDOW: &str = "window";

impl Window {
    /// Loads a window of `capacity` marks: the newest of those in the rows.
    ///
    /// # Errors
    /// The store's, or damaged rows.
    pub fn load<R: Rows>(capacity: u32, rows: &R) -> Result<Self, LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        let mut window = Self::new(capacity);
        let mut intact = true;
        let (from, to) = whole(key::Table::Window);
        rows.scan(&from, &to, &mut |key, row| {
            let (marks, rest) = row.as_chunks::<MARK_BYTES>();
            match RowKey::parse(key) {
                Some(key) if rest.is_empty() && !marks.is_empty() => {
                    window.rows.push_back(Row { key, first: window.next });
                    window.next += marks.len() as u64;
                }
                _ => intact = false,
            }
            intact
        })
        .map_err(LoadError::Store)?;
        if !intact {
            return Err(Damage::new(WINDOW, "not whole marks").into());
        }
        window.recent_from = window.next;
        if let Some(row) = window.rows.back().copied()
            && window.next - row.first < ROW_MARKS_MIN as u64
        {
            (window.recent_from, window.recent) = window.row(window.rows.len() - 1, rows)?;
            window.open = Some(row.key);
            window.rows.pop_back();
        }
        window.start = window.next.saturating_sub(window.capacity);
        window.rebuild(window.capacity, rows)?;
        Ok(window)
    }

    /// Reads what the last look, or a new capacity, wants.
    ///
    /// # Errors
    /// The store's, or damaged rows. The window is as it was.
    pub fn read<R: Rows>(&mut self, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        match self.wanted {
            None => Ok(()),
            Some(Want::Epoch(epoch)) => self.read_epoch(epoch, rows),
            Some(Want::All(capacity)) => self.resize(capacity, rows),
        }?;
        self.wanted = None;
        Ok(())
    }

    /// Takes another capacity, or a table with more room.
    fn resize<R: Rows>(&mut self, capacity: u64, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        if capacity > self.capacity {
            self.trim(rows)?;
        }
        self.rebuild(capacity, rows)
    }

    /// Makes the table anew, of the newest marks that fit a capacity. Where that fails, it is as it
    /// was.
    fn rebuild<R: Rows>(&mut self, capacity: u64, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        let (end, before) = (self.next, (self.capacity, self.start));
        let start = self.start.max(end.saturating_sub(capacity));
        let table = std::mem::replace(&mut self.table, Table::new(capacity, end - start));
        (self.capacity, self.start) = (capacity, start);
        // Epochs are others now.
        self.kept.clear();
        self.next = start;
        let outcome = self.enter_all(end, rows);
        self.next = end;
        if outcome.is_err() {
            self.kept.clear();
            self.table = table;
            (self.capacity, self.start) = before;
        }
        outcome
    }

    fn enter_all<R: Rows>(&mut self, end: u64, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        for at in 0..self.rows.len() {
            if self.row_end(at) > self.next {
                let (first, marks) = self.row(at, rows)?;
                self.keep(Read { first, marks: marks.clone() });
                for mark in &marks[(self.next - first) as usize..] {
                    self.enter_known(mark, rows)?;
                }
            }
        }
        while self.next < end {
            let mark = self.recent[(self.next - self.recent_from) as usize];
            self.enter_known(&mark, rows)?;
        }
        Ok(())
    }

    /// Enters a mark that the window holds.
    fn enter_known<R: Rows>(&mut self, mark: &Mark, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        loop {
            match self.answer(mark) {
                Ok(seen) => {
                    self.enter(mark, &seen);
                    return Ok(());
                }
                Err(epoch) => self.read_epoch(epoch, rows)?,
            }
        }
    }

    /// Lets go of marks in rows that have left the window: a larger one must not have them back
    /// when it is loaded.
    fn trim<R: Rows>(&mut self, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        if self.start > self.recent_from {
            self.recent.drain(..(self.start - self.recent_from) as usize);
            (self.recent_from, self.unsaved, self.trimmed) = (self.start, true, None);
        } else if let Some(at) = self.rows.iter().rposition(|row| row.first < self.start)
            && self.row_end(at) > self.start
        {
            let (first, mut marks) = self.row(at, rows)?;
            let row = &mut self.rows[at];
            marks.drain(..(self.start - first) as usize);
            row.first = self.start;
            self.trimmed = Some((row.key, marks));
        }
        Ok(())
    }

    /// Reads the rows that hold marks of an epoch.
    fn read_epoch<R: Rows>(&mut self, epoch: u64, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        let (from, to) = self.bounds(epoch);
        let (from, to) = (from.max(self.start), to.min(self.recent_from));
        let begin = self.rows.partition_point(|row| row.first <= from).saturating_sub(1);
        let mut read = Read { first: from, marks: Vec::new() };
        for at in begin..self.rows.len() {
            let (first, mut marks) = self.row(at, rows)?;
            let long = marks.len() > ROW_MARKS_MAX;
            if long {
                // Of an early version; its other marks are of many epochs.
                marks.truncate((to - first) as usize);
            }
            if at == begin {
                marks.drain(..if long { (from - first) as usize } else { 0 });
                read.first = if long { from } else { first };
            }
            read.marks.append(&mut marks);
            if self.row_end(at) >= to {
                break;
            }
        }
        self.keep(read);
        Ok(())
    }

    /// Keeps what was read; all of it until the look that needs it has its answer.
    fn keep(&mut self, read: Read) {
        self.kept.truncate(self.asked.max(READ_MAX - 1));
        self.kept.push_front(read);
        self.asked += 1;
    }

    /// A row's first mark, and its marks: others before them in the row have left the window.
    fn row<R: Rows>(&self, at: usize, rows: &R) -> Result<(u64, Vec<Mark>), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        let Row { key, first } = self.rows[at];
        let length = (self.row_end(at) - first) as usize;
        let row = rows.get(&key.key()).map_err(LoadError::Store)?;
        let row = row.ok_or_else(|| Damage::new(WINDOW, "a row is missing"))?;
        let mut marks =
            Mark::decode_row(&row).ok_or_else(|| Damage::new(WINDOW, "not whole marks"))?;
        let skipped = marks.len().checked_sub(length);
        let skipped =
            skipped.ok_or_else(|| Damage::new(WINDOW, "a row has fewer marks than it had"))?;
        marks.drain(..skipped);
        Ok((first, marks))
    }
}
