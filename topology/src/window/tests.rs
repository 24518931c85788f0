//! The window of resends against a plain list, over rows that are read, lost and loaded again.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;
use crate::memory::Memory;
use crate::stage::{Damage, LoadError};
use crate::state::Rows;

/// Numbers that repeat with their seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

/// Rows that count the reads, and refuse the one that ends `left`.
#[derive(Default)]
struct Counted {
    rows: Memory,
    reads: Cell<u64>,
    left: Cell<Option<u64>>,
}

impl Rows for Counted {
    type Error = Refused;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
        self.reads.set(self.reads.get() + 1);
        let left = self.left.take();
        self.left.set(left.and_then(|left| left.checked_sub(1)));
        if left == Some(0) {
            return Err(Refused);
        }
        Ok(self.rows.get(key).unwrap())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Refused> {
        self.rows.scan(from, to, visit).unwrap();
        Ok(())
    }

    fn scan_back(
        &self,
        _: &[u8],
        _: &[u8],
        _: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Refused> {
        unreachable!("a window reads forward")
    }
}

/// A window and its rows.
struct Kept {
    window: Window,
    rows: Counted,
    offset: Offset,
    batch_from: Offset,
}

impl Kept {
    fn new(capacity: u32) -> Self {
        let (rows, window) = (Counted::default(), Window::new(capacity));
        Self { window, rows, offset: 0, batch_from: 0 }
    }

    /// Looks a mark up, with what that must read; a read that is refused is made again.
    fn look(&mut self, mark: &Mark) -> Seen {
        loop {
            match self.window.look(mark) {
                Ok(seen) => return seen,
                Err(Wanted) => self.read(),
            }
        }
    }

    fn resize(&mut self, capacity: u32) {
        while self.window.ready(capacity).is_err() {
            self.read();
        }
    }

    fn read(&mut self) {
        let refuses = self.rows.left.get().is_some();
        if let Err(error) = self.window.read(&self.rows) {
            assert!(refuses && matches!(error, LoadError::Store(Refused)), "{error}");
        }
    }

    fn take(&mut self, mark: Mark) -> Seen {
        let seen = self.look(&mark);
        if seen != Seen::Resend {
            self.window.push(mark, &seen);
        }
        self.offset += 1;
        seen
    }

    fn finish(&mut self) {
        let mut batch = Batch::default();
        self.window.finish(self.batch_from, &mut batch);
        self.rows.rows.commit(&batch.changes);
        self.batch_from = self.offset;
    }

    fn load(&mut self, capacity: u32) {
        self.rows.left.set(None);
        self.window = Window::load(capacity, &self.rows).unwrap();
    }

    fn row_count(&self) -> usize {
        self.rows.rows.iter().count()
    }
}

/// A hash of a number.
fn hash(n: u64) -> u64 {
    xxh3_64_with_seed(&n.to_be_bytes(), 0)
}

/// The mark of a number.
fn mark(n: u64) -> Mark {
    Mark { id: hash(n), content: hash(!n) }
}

/// What the window should say.
fn expected(list: &[Mark], mark: &Mark) -> &'static str {
    if list.contains(mark) {
        "resend"
    } else if list.iter().any(|other| other.id == mark.id) {
        "conflict"
    } else {
        "new"
    }
}

fn said(seen: Seen) -> &'static str {
    match seen {
        Seen::Resend => "resend",
        Seen::Conflict(_) => "conflict",
        Seen::New => "new",
    }
}

/// Few ids, of few homes and tags, with few contents; windows that go round; batches of any length,
/// capacities that change, reads that fail, and loads.
#[test]
fn agrees_with_a_list_of_the_last_marks() {
    for (seed, capacities) in
        [(1, [1u32, 2, 7]), (2, [64, 20, 65]), (3, [3_000, 700, 5_000]), (4, [9_000, 1, 300])]
    {
        let mut random = Random(seed);
        let mut capacity = capacities[0];
        let mut kept = Kept::new(capacity);
        let mut list: Vec<Mark> = Vec::new();
        let ids = u64::from(capacity).max(40);
        for _ in 0..40_000 {
            match random.below(2_000) {
                0..200 => kept.finish(),
                200..202 => {
                    kept.finish();
                    kept.load(capacity);
                }
                210 => {
                    capacity = capacities[random.below(3) as usize];
                    kept.resize(capacity);
                    list.drain(..list.len().saturating_sub(capacity as usize));
                }
                211..250 => kept.rows.left.set(Some(random.below(4))),
                _ => {}
            }
            // Some of one home, and all of few tags.
            let id = hash(random.below(ids)) & !0xffff | random.below(64);
            let id = if random.below(8) == 0 { random.below(6) } else { id };
            let mark = Mark { id, content: hash(id ^ random.below(3)) & !0xffc0 };
            assert_eq!(said(kept.look(&mark)), expected(&list, &mark));
            if said(kept.take(mark)) != "resend" {
                list.push(mark);
                list.drain(..list.len().saturating_sub(capacity as usize));
            }
            assert_eq!(kept.window.next - kept.window.start, list.len() as u64);
        }
        kept.finish();
        let marks: usize = kept.rows.rows.iter().map(|(_, row)| row.len() / MARK_BYTES).sum();
        assert!((list.len()..=list.len() + ROW_MARKS_MAX).contains(&marks), "rows of {marks}");
    }
}

/// Ids that share home and tag, in epochs of several marks whose numbers come again.
#[test]
fn ids_that_look_alike_are_told_apart() {
    for (capacity, length) in [(20_000, 60_000), (9_000, 120_000)] {
        let mut random = Random(u64::from(capacity));
        let mut kept = Kept::new(capacity);
        let (mut ids, mut whole) = (BTreeMap::new(), BTreeMap::new());
        let mut others = 0;
        while kept.window.next < length {
            let other = random.below(20) != 0;
            others += u64::from(other);
            let alike = random.below(3) << 62 | random.below(12) << 20;
            let alike = Mark { id: alike, content: hash(alike ^ random.below(4)) };
            let mark = if other { mark(others) } else { alike };
            let number = kept.window.next;
            let is_live =
                |at: Option<&u64>| at.is_some_and(|at| at + u64::from(capacity) >= number);
            let expected =
                match (is_live(whole.get(&(mark.id, mark.content))), is_live(ids.get(&mark.id))) {
                    (true, _) => "resend",
                    (false, true) => "conflict",
                    (false, false) => "new",
                };
            assert_eq!(said(kept.take(mark)), expected, "mark {number}");
            if expected != "resend" {
                ids.insert(mark.id, number);
                whole.insert((mark.id, mark.content), number);
            }
            if random.below(300) == 0 {
                kept.finish();
            }
        }
    }
}

/// What another id's entry names may hold an older mark of this one: not its newest.
#[test]
fn the_newest_mark_of_an_id_is_not_taken_for_that_of_another() {
    let mut kept = Kept::new(1 << 20);
    let alike = |id: u64, content: u64| Mark { id: id << 20, content: hash(content) };
    let (a0, a1, a2) = (alike(1, 0), alike(1, 1), alike(1, 2));
    let (b0, y0, y1) = (alike(2, 3), alike(3, 4), alike(3, 5));
    let mut filler = 0;
    for epoch in [vec![a0, b0], vec![a1, y0], vec![y1, a2]] {
        epoch.into_iter().for_each(|mark| assert_ne!(kept.take(mark), Seen::Resend));
        while !kept.window.next.is_multiple_of(128) {
            filler += 1;
            kept.take(mark(filler));
        }
    }
    for mark in [a0, a1, a2, b0, y0, y1] {
        assert_eq!(kept.look(&mark), Seen::Resend);
    }
}

/// For as long as it takes until numbers of epochs come again, and longer.
#[test]
fn the_sweep_empties_what_has_left() {
    for capacity in [20, 8_193, 16_384] {
        let mut kept = Kept::new(capacity);
        for n in 0..70_000 {
            kept.take(mark(n));
            if n % 1_000 == 0 {
                kept.finish();
            }
        }
        let (filled, buckets) = kept.window.table.filled();
        // Each bucket fills up, and is emptied once in a pass.
        let most = (capacity as usize + 4_096 * 2).min(buckets * 15 - 1);
        assert!(filled <= most, "{filled} of {capacity}");
    }
}

/// A producer that gives every trace the same id, or a few.
#[test]
fn marks_of_one_id_are_found_without_a_look_at_all_of_them() {
    for ids in [1, 3] {
        let mut kept = Kept::new(1 << 14);
        for n in 0..40_000u64 {
            let mark = Mark { id: n % ids, content: hash(n) };
            let known = said(kept.take(mark));
            assert_eq!(known, if n < ids { "new" } else { "conflict" });
            if n % 500 == 499 {
                kept.finish();
                assert_eq!(said(kept.take(mark)), "resend");
            }
        }
        let live = kept.window.live();
        let of_id = kept.window.table.candidates(Kind::Newest, 0, live).count();
        assert_eq!(of_id, 1);
        // One for each id and batch, and some for each row when the table grows.
        let reads = kept.rows.reads.get();
        assert!(reads < 2_000, "{reads} reads");
    }
}

/// More of them than reads are kept.
#[test]
fn a_look_that_may_mean_many_marks_ends() {
    let mut kept = Kept::new(1 << 20);
    let alike = |n: u64| Mark { id: n << 20, content: n };
    for n in 0..15_000 {
        let mark = if n % 400 == 0 { alike(n / 400) } else { mark(n) };
        assert_eq!(kept.take(mark), Seen::New);
    }
    kept.finish();
    kept.load(1 << 20);
    kept.rows.reads.set(0);
    assert_eq!(kept.look(&alike(100)), Seen::New);
    assert!(kept.rows.reads.get() > READ_MAX as u64);
    assert!((0..37).all(|n| kept.look(&alike(n)) == Seen::Resend));
    assert_eq!(kept.look(&mark(1)), Seen::Resend);
    kept.look(&mark(5_000));
    assert_eq!(kept.window.kept.len(), READ_MAX);
}

/// Twenty marks of one home, which is a bucket of fifteen.
#[test]
fn a_look_goes_on_where_a_bucket_was_passed_by() {
    let mut kept = Kept::new(20);
    let mark = |n: u64| Mark { id: n, content: hash(n) };
    (0..20).for_each(|n| assert_eq!(kept.take(mark(n)), Seen::New));
    assert!((0..20).all(|n| kept.look(&mark(n)) == Seen::Resend));
    assert_eq!(kept.look(&mark(20)), Seen::New);
    (20..40).for_each(|n| assert_eq!(kept.take(mark(n)), Seen::New));
    assert!((0..20).all(|n| kept.look(&mark(n)) == Seen::New));
}

#[test]
fn a_mark_is_known_by_all_bits_of_its_id_and_its_content() {
    let mark = Mark { id: 0x0123_4567_89ab_cdef, content: 0xfedc_ba98_7654_3210 };
    for capacity in [1, CAPACITY_MAX] {
        let mut kept = Kept::new(capacity);
        kept.take(mark);
        kept.finish();
        for bit in 0..u64::BITS {
            let id = Mark { id: mark.id ^ 1 << bit, ..mark };
            assert_eq!(said(kept.look(&id)), "new", "bit {bit} of the id");
            let content = Mark { content: mark.content ^ 1 << bit, ..mark };
            assert_eq!(said(kept.look(&content)), "conflict", "bit {bit} of the content");
        }
    }
}

/// A batch each, and then all in one.
#[test]
fn rows_are_neither_small_nor_large() {
    let mut kept = Kept::new(1 << 20);
    for n in 0..5_000 {
        kept.take(mark(n));
        kept.finish();
    }
    assert_eq!(kept.row_count(), 5_000usize.div_ceil(ROW_MARKS_MIN));
    (5_000..15_000).for_each(|n| assert_eq!(kept.take(mark(n)), Seen::New));
    kept.finish();
    assert!(kept.rows.rows.iter().all(|(_, row)| row.len() <= ROW_MARKS_MAX * MARK_BYTES));
    kept.load(1 << 20);
    assert!((0..15_000).all(|n| kept.look(&mark(n)) == Seen::Resend));
}

/// Resends in the order of the first time read each row a few times at most.
#[test]
fn resends_in_order_are_read_together() {
    for capacity in [1_000, 65_536, 1 << 20] {
        let mut kept = Kept::new(capacity);
        let length = u64::from(capacity).min(100_000);
        (0..length).for_each(|n| assert_eq!(kept.take(mark(n)), Seen::New));
        kept.finish();
        kept.rows.reads.set(0);
        assert!((0..length).all(|n| kept.look(&mark(n)) == Seen::Resend));
        let (reads, rows) = (kept.rows.reads.get(), kept.row_count() as u64);
        assert!(reads <= 2 * rows, "{reads} reads of {rows} rows");
    }
}

/// The rows of early versions: one a batch, however long.
#[test]
fn a_batch_in_one_row_is_loaded() {
    let marks: Vec<Mark> = (0..3_000).map(mark).collect();
    let mut kept = Kept::new(1);
    let mut batch = Batch::default();
    let key = |from| RowKey { from, piece: 0 }.key();
    batch.changes.put(key(0), Mark::encode_row(&marks[..2_990]));
    batch.changes.put(key(2_990), Mark::encode_row(&marks[2_990..]));
    kept.rows.rows.commit(&batch.changes);
    kept.load(2_000);
    for (n, mark) in (0..).zip(&marks) {
        assert_eq!(said(kept.look(mark)), if n < 1_000 { "new" } else { "resend" });
    }
}

#[test]
fn a_row_that_is_missing_or_cut_is_damage() {
    let key = RowKey { from: 0, piece: 1 }.key();
    let short = Mark::encode_row(&[mark(0)]);
    for row in [None, Some(short), Some(vec![1; MARK_BYTES - 1])] {
        let mut kept = Kept::new(1 << 12);
        (0..1_000).for_each(|n| assert_eq!(kept.take(mark(n)), Seen::New));
        kept.finish();
        let mut batch = Batch::default();
        match row {
            None => batch.changes.delete(key.clone()),
            Some(row) => batch.changes.put(key.clone(), row),
        }
        kept.rows.rows.commit(&batch.changes);
        assert_eq!(kept.window.look(&mark(300)), Err(Wanted));
        let read = kept.window.read(&kept.rows);
        assert!(matches!(read, Err(LoadError::Damage(Damage { table: "window", .. }))));
        assert_eq!(kept.look(&mark(900)), Seen::Resend);
    }
}

#[test]
fn rows_of_marks_and_their_keys_read_back() {
    let marks = [Mark { id: 1, content: u64::MAX }, Mark { id: 7, content: 0 }];
    let row = Mark::encode_row(&marks);
    assert_eq!(Mark::decode_row(&row).as_deref(), Some(&marks[..]));
    assert_eq!(Mark::decode_row(&row[1..]), None);
    let keys = [(5, 0), (5, 1), (5, 256), (6, 0)].map(|(from, piece)| RowKey { from, piece });
    assert!(keys.windows(2).all(|pair| pair[0].key() < pair[1].key()));
    assert!(keys.iter().all(|key| RowKey::parse(&key.key()) == Some(*key)));
    assert_eq!(RowKey::parse(&keys[0].key()[1..]), None);
}
