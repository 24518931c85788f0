//! The window of resends: the last traces of a partition, by id and content.
//!
//! A resend has the account, the id and the content of a trace in the window; it is stored once.
//! The same id with other content is another trace: kept, and counted as a conflict.
//!
//! The window is rows of the partition's state, so it depends on the log alone. A mark has sixteen
//! bytes, and there may be millions; so memory holds only where each may be, in under eight bytes
//! ([`table`]), and the newest. What a look needs beyond that is read from the rows first
//! ([`rows`]): for a new trace hardly ever, for traces that come again once for hundreds.
//!
//! **Invariant:** every mark in the window has one entry in the table, in the epoch in which it
//! came. The newest of an id is found by the id, and the others by their content. So a look meets
//! few entries, even where all traces have one id.

mod rows;
mod table;

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::input::Offset;
use crate::key::{self, Key};
use crate::stage::{Batch, Wanted};

use table::{At, Kind, Live, Table};

/// Bytes of a mark in a window row.
pub const MARK_BYTES: usize = 16;

/// Most marks of a window.
pub const CAPACITY_MAX: u32 = 1 << 24;

/// Marks of a row at most: 4 KiB, which is read to look one of them up.
const ROW_MARKS_MAX: usize = 256;

/// A row with fewer marks takes those of the next batch too: small batches must not make as many
/// rows as there are marks.
const ROW_MARKS_MIN: usize = 16;

/// How many reads are kept: resends come in the order of the first time, or in some such orders
/// mixed. One has 4 to 16 KiB, by the marks of an epoch.
const READ_MAX: usize = 16;

/// What identifies a trace in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Hash of account and trace id.
    pub id: u64,
    /// Hash of the record, seeded with `id`.
    pub content: u64,
}

impl Mark {
    /// The mark of a trace by its account, its id and its record's bytes.
    #[must_use]
    pub fn of(account: &str, trace_id: &str, record: &[u8]) -> Self {
        let seed = xxh3_64_with_seed(account.as_bytes(), 0);
        let id = xxh3_64_with_seed(trace_id.as_bytes(), seed);
        Self { id, content: xxh3_64_with_seed(record, id) }
    }

    /// The marks as a window row: of each id, then content, big-endian.
    #[must_use]
    pub fn encode_row(marks: &[Self]) -> Vec<u8> {
        let mut row = Vec::with_capacity(marks.len() * MARK_BYTES);
        for mark in marks {
            row.extend_from_slice(&mark.id.to_be_bytes());
            row.extend_from_slice(&mark.content.to_be_bytes());
        }
        row
    }

    /// Reads the marks of a window row; `None` where its length is wrong.
    #[must_use]
    pub fn decode_row(row: &[u8]) -> Option<Vec<Self>> {
        let (marks, rest) = row.as_chunks::<MARK_BYTES>();
        let both = marks.iter().map(|mark| u128::from_be_bytes(*mark));
        let marks = both.map(|both| Self { id: (both >> u64::BITS) as u64, content: both as u64 });
        rest.is_empty().then(|| marks.collect())
    }
}

/// What the window knows of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Neither id nor content.
    New,
    /// This id with this content.
    Resend,
    /// This id with other content only.
    Conflict(Newest),
}

/// The newest mark of an id, and its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    at: At,
    epoch: u64,
    mark: Mark,
}

/// The last `capacity` marks. They are numbered as they come, from when the window was loaded.
#[derive(Debug)]
pub struct Window {
    capacity: u64,
    /// The oldest mark in the window.
    start: u64,
    /// The next mark.
    next: u64,
    table: Table,
    /// Rows whose marks are in no other place, oldest first.
    rows: VecDeque<Row>,
    /// The first mark of `recent`.
    recent_from: u64,
    /// The newest marks: those of the open row, then those of no row yet.
    recent: Vec<Mark>,
    /// The row that `recent` begins with, where it has so few marks that it takes more.
    open: Option<RowKey>,
    /// Whether `recent` holds what no row does, or the open row what `recent` does not.
    unsaved: bool,
    /// The oldest row without the marks that have left the window, where it must be written anew.
    trimmed: Option<(RowKey, Vec<Mark>)>,
    /// Marks that were read, the last ones first.
    kept: VecDeque<Read>,
    /// How many of them the look that has no answer yet asked for.
    asked: usize,
    /// What [`Window::read`] must read.
    wanted: Option<Want>,
}

/// What names a row: the first offset of the batch that began it, and its number in that batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RowKey {
    from: Offset,
    piece: u32,
}

impl RowKey {
    /// The first row of a batch has no number: there was only one once.
    fn key(self) -> Vec<u8> {
        let key = Key::of(key::Table::Window).u64(self.from);
        if self.piece == 0 { key.done() } else { key.u32(self.piece).done() }
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let (from, piece) = key.get(1..)?.split_first_chunk()?;
        let from = Offset::from_be_bytes(*from);
        let piece = if piece.is_empty() { 0 } else { u32::from_be_bytes(piece.try_into().ok()?) };
        Some(Self { from, piece })
    }
}

/// A row: its marks end where the next one's begin.
#[derive(Clone, Copy, Debug)]
struct Row {
    key: RowKey,
    first: u64,
}

/// Marks of rows one after another.
#[derive(Debug)]
struct Read {
    first: u64,
    marks: Vec<Mark>,
}

/// What is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// The marks of an epoch.
    Epoch(u64),
    /// All of them, for a table of this capacity.
    All(u64),
}

fn bounded(capacity: u32) -> u64 {
    u64::from(capacity.clamp(1, CAPACITY_MAX))
}

impl Window {
    /// An empty window of `capacity` marks, 1 to [`CAPACITY_MAX`]. Early catalogs may say 0; it was
    /// always taken as 1, and logs of that time must give the same files.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let capacity = bounded(capacity);
        Self {
            capacity,
            start: 0,
            next: 0,
            table: Table::new(capacity, 0),
            rows: VecDeque::new(),
            recent_from: 0,
            recent: Vec::new(),
            open: None,
            unsaved: false,
            trimmed: None,
            kept: VecDeque::new(),
            asked: 0,
            wanted: None,
        }
    }

    /// Makes sure that the window has this capacity, before the catalog that says so comes into
    /// force.
    ///
    /// # Errors
    /// [`Wanted`]: it has another, and will have this one once it has read its rows.
    pub fn ready(&mut self, capacity: u32) -> Result<(), Wanted> {
        let capacity = bounded(capacity);
        if capacity == self.capacity { Ok(()) } else { Err(self.want(Want::All(capacity))) }
    }

    /// Looks a mark up.
    ///
    /// # Errors
    /// [`Wanted`]: not without its rows.
    pub fn look(&mut self, mark: &Mark) -> Result<Seen, Wanted> {
        if self.table.is_crowded(self.next - self.start) {
            return Err(self.want(Want::All(self.capacity)));
        }
        self.answer(mark).map_err(|epoch| self.want(Want::Epoch(epoch)))
    }

    /// Looks a mark up; what was read for it need not be kept once it is found.
    fn answer(&mut self, mark: &Mark) -> Result<Seen, u64> {
        let seen = self.find(mark)?;
        self.asked = 0;
        Ok(seen)
    }

    /// Takes in a mark that is no resend; the oldest one leaves where the window is full. `seen` is
    /// what the last look said of it: nothing was taken in or read since.
    pub fn push(&mut self, mark: Mark, seen: &Seen) {
        self.recent.push(mark);
        self.unsaved = true;
        self.enter(&mark, seen);
    }

    fn want(&mut self, want: Want) -> Wanted {
        self.wanted = Some(want);
        Wanted
    }

    fn live(&self) -> Live {
        let bits = self.table.span_bits;
        Live { oldest: self.start >> bits, newest: self.next >> bits }
    }

    /// The first mark of an epoch, and that of the next one.
    fn bounds(&self, epoch: u64) -> (u64, u64) {
        (epoch << self.table.span_bits, (epoch + 1) << self.table.span_bits)
    }

    /// Looks a mark up; fails with the epoch whose marks are not here.
    fn find(&self, mark: &Mark) -> Result<Seen, u64> {
        let live = self.live();
        let mut newest: Option<Newest> = None;
        for (at, epoch) in self.table.candidates(Kind::Newest, mark.id, live) {
            // Another id's entry may name an epoch in which an older mark of this one is.
            if newest.is_some_and(|newest| newest.epoch >= epoch) {
                continue;
            }
            let (stored, recent) = self.of_epoch(epoch)?;
            let mut same_id = stored.iter().chain(recent).filter(|other| other.id == mark.id);
            if same_id.clone().any(|other| other == mark) {
                return Ok(Seen::Resend);
            }
            if let Some(other) = same_id.next_back() {
                newest = Some(Newest { at, epoch, mark: *other });
            }
        }
        let Some(newest) = newest else { return Ok(Seen::New) };
        for (_, epoch) in self.table.candidates(Kind::Earlier, mark.content, live) {
            let (stored, recent) = self.of_epoch(epoch)?;
            if stored.iter().chain(recent).any(|other| other == mark) {
                return Ok(Seen::Resend);
            }
        }
        Ok(Seen::Conflict(newest))
    }

    /// The marks of an epoch that are in the window: those of rows, and recent ones. Fails with
    /// the epoch where the former were not read.
    fn of_epoch(&self, epoch: u64) -> Result<(&[Mark], &[Mark]), u64> {
        let (from, to) = self.bounds(epoch);
        let (from, to) = (from.max(self.start), to.min(self.next));
        let stored_to = to.min(self.recent_from);
        let stored = if from < stored_to {
            let has = |read: &&Read| {
                read.first <= from && read.first + read.marks.len() as u64 >= stored_to
            };
            let read = self.kept.iter().find(has).ok_or(epoch)?;
            &read.marks[(from - read.first) as usize..(stored_to - read.first) as usize]
        } else {
            &[]
        };
        let recent_from = from.max(self.recent_from);
        let recent = if recent_from < to {
            let at = |number: u64| (number - self.recent_from) as usize;
            &self.recent[at(recent_from)..at(to)]
        } else {
            &[]
        };
        Ok((stored, recent))
    }

    /// Gives the next mark its entry.
    fn enter(&mut self, mark: &Mark, seen: &Seen) {
        let live = self.live();
        match seen {
            Seen::Conflict(Newest { at, epoch, mark: before }) => {
                self.table.insert(Kind::Earlier, before.content, *epoch, live);
                self.table.renew(*at, mark.id, live);
            }
            _ => self.table.insert(Kind::Newest, mark.id, live.newest, live),
        }
        self.next += 1;
        self.start = self.start.max(self.next.saturating_sub(self.capacity));
        if self.next.is_multiple_of(1 << self.table.span_bits) {
            self.table.sweep(self.live());
        }
    }

    /// Writes the marks that are in no row, and drops rows of which no mark is in the window any
    /// more. `from` is the first offset of the batch that ends.
    pub fn finish(&mut self, from: Offset, batch: &mut Batch) {
        if let Some((key, marks)) = self.trimmed.take() {
            batch.changes.put(key.key(), Mark::encode_row(&marks));
        }
        if std::mem::take(&mut self.unsaved) {
            let open = self.open.take();
            let new = (0..).map(|piece| RowKey { from, piece });
            let mut full = 0;
            for (key, marks) in open.into_iter().chain(new).zip(self.recent.chunks(ROW_MARKS_MAX)) {
                batch.changes.put(key.key(), Mark::encode_row(marks));
                if marks.len() < ROW_MARKS_MIN {
                    self.open = Some(key);
                } else {
                    self.rows.push_back(Row { key, first: self.recent_from + full as u64 });
                    full += marks.len();
                }
            }
            self.recent.drain(..full);
            self.recent_from += full as u64;
        }
        while let Some(row) = self.rows.front().copied()
            && self.row_end(0) <= self.start
        {
            // Each by itself: ranges that overlap cost a store the square of their number.
            batch.changes.delete(row.key.key());
            self.rows.pop_front();
        }
    }

    /// Where a row's marks end.
    fn row_end(&self, at: usize) -> u64 {
        self.rows.get(at + 1).map_or(self.recent_from, |next| next.first)
    }
}

#[cfg(test)]
mod tests;
