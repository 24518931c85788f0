//! Where in the window a mark may be: a hash table of four bytes a mark.
//!
//! An entry says in which *epoch* a mark came, not which mark it is: [`super::Window`] looks that
//! up. Epochs are stretches of the window of one length, numbered as they come. An entry whose
//! epoch has left the window is free, without anybody touching it; the sweep empties such slots
//! before their number comes again, or they would count as live and fill the table.
//!
//! **Invariant:** a bucket is one line of the cache, so a look and an insertion touch one, nearly
//! always. What finds its bucket full lies in a later one, and each bucket on the way says which is
//! the newest epoch that passed it by.

/// Slots of a bucket: with the epoch in which it was passed by they fill 64 bytes.
const SLOTS: usize = 15;

/// Marks of a bucket on average, at most: so few buckets are ever full.
const MARKS: usize = 10;

/// Buckets of a new table.
const BUCKETS_MIN: usize = 1 << 8;

/// How many times as many buckets as its marks need a new table has, if it may.
const ROOM: usize = 4;

/// Epochs that a full window has at most, or one more where the first has left in part.
const EPOCHS: u64 = 1 << 13;

/// Bits of an epoch's number in a slot: twice as many numbers as there are epochs, so those that
/// have left can be told from those that have not.
const EPOCH_BITS: u32 = 14;
const EPOCH_MASK: u32 = (1 << EPOCH_BITS) - 1;

/// Bits of a mark's hash in its slot.
const TAG_BITS: u32 = 16;

/// Where a slot's epoch begins: above tag and kind.
const EPOCH_AT: u32 = u32::BITS - EPOCH_BITS;

/// How many sweeps of a piece pass every bucket: fewer than there are numbers to spare.
const SWEEPS: usize = 1 << 12;

const _: () = assert!(EPOCHS + 2 + SWEEPS as u64 <= 1 << EPOCH_BITS);
const _: () = assert!(EPOCH_BITS + 2 + TAG_BITS == u32::BITS);

/// What an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The newest mark of an id, by the id.
    Newest = 1,
    /// A mark whose id has come again since, by its content.
    Earlier = 2,
}

impl Kind {
    /// What a slot of this kind and hash holds below its epoch. Never 0.
    fn pattern(self, hash: u64) -> u32 {
        (self as u32) << TAG_BITS | (hash as u32 & ((1 << TAG_BITS) - 1))
    }
}

/// The epochs that are in the window, the first perhaps in part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) oldest: u64,
    pub(super) newest: u64,
}

impl Live {
    /// How many epochs ago a number came, if it is one that has come.
    fn age(self, number: u32) -> u32 {
        (self.newest as u32).wrapping_sub(number) & EPOCH_MASK
    }

    fn has(self, number: u32) -> bool {
        u64::from(self.age(number)) <= self.newest - self.oldest
    }

    fn is_free(self, slot: u32) -> bool {
        slot == 0 || !self.has(slot >> EPOCH_AT)
    }
}

/// A piece of the table.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    /// Epoch (14 bits), kind (2), tag (16); 0 is free.
    slots: [u32; SLOTS],
    /// [`PASSED`] and the number of the newest epoch of which an entry lies in a later bucket
    /// because this one was full; 0 where there is none.
    passed: u32,
}

const PASSED: u32 = 1 << EPOCH_BITS;

impl Bucket {
    const EMPTY: Self = Self { slots: [0; SLOTS], passed: 0 };

    /// The slots that hold `pattern`, one bit each, whatever their epoch.
    fn matches(&self, pattern: u32) -> u32 {
        let same = |slot: u32| u32::from(slot << EPOCH_BITS == pattern << EPOCH_BITS);
        (0u32..).zip(self.slots).fold(0, |found, (at, slot)| found | same(slot) << at)
    }

    /// Says that an entry of the newest epoch lies in a later bucket.
    fn pass(&mut self, live: Live) {
        self.passed = PASSED | (live.newest as u32 & EPOCH_MASK);
    }

    fn is_passed(&self, live: Live) -> bool {
        self.passed != 0 && live.has(self.passed & EPOCH_MASK)
    }
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    bucket: u32,
    slot: u32,
}

/// The table of a window.
#[derive(Debug)]
pub(super) struct Table {
    /// Marks of an epoch, as a power of two.
    pub(super) span_bits: u32,
    /// Buckets that a full window's table has.
    buckets_max: usize,
    buckets: Vec<Bucket>,
    /// The next bucket to sweep.
    sweep: usize,
}

impl Table {
    /// An empty table for a window of `capacity` marks, with room for `marks` and more.
    pub(super) fn new(capacity: u64, marks: u64) -> Self {
        let needed = |marks: u64| usize::try_from(marks).unwrap_or(usize::MAX).div_ceil(MARKS);
        let buckets_max = needed(capacity);
        let buckets = (needed(marks) * ROOM).max(BUCKETS_MIN).min(buckets_max);
        let span_bits = capacity.div_ceil(EPOCHS).next_power_of_two().trailing_zeros();
        Self { span_bits, buckets_max, buckets: vec![Bucket::EMPTY; buckets], sweep: 0 }
    }

    /// Whether there should be a larger table before another mark comes to so many.
    pub(super) fn is_crowded(&self, marks: u64) -> bool {
        self.buckets.len() < self.buckets_max && marks >= (self.buckets.len() * MARKS) as u64
    }

    /// The entries of a kind that may be those of a hash: where they lie, and their epoch.
    pub(super) fn candidates(&self, kind: Kind, hash: u64, live: Live) -> Candidates<'_> {
        let bucket = self.home(hash);
        let pattern = kind.pattern(hash);
        let matches = self.buckets[bucket].matches(pattern);
        Candidates { table: self, live, pattern, bucket, matches, left: self.buckets.len() - 1 }
    }

    /// Adds an entry of an epoch that is live.
    pub(super) fn insert(&mut self, kind: Kind, hash: u64, epoch: u64, live: Live) {
        let entry = (epoch as u32) << EPOCH_AT | kind.pattern(hash);
        let mut at = self.home(hash);
        // There are half as many slots again as marks, so one is free.
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(free) = bucket.slots.iter_mut().find(|slot| live.is_free(**slot)) {
                *free = entry;
                return;
            }
            bucket.pass(live);
            at = self.after(at);
        }
    }

    /// Says that what an entry of a hash stands for came again in the newest epoch.
    pub(super) fn renew(&mut self, at: At, hash: u64, live: Live) {
        let mut passed = self.home(hash);
        while passed != at.bucket as usize {
            self.buckets[passed].pass(live);
            passed = self.after(passed);
        }
        let slot = &mut self.buckets[at.bucket as usize].slots[at.slot as usize];
        *slot = (live.newest as u32) << EPOCH_AT | (*slot << EPOCH_BITS >> EPOCH_BITS);
    }

    /// Empties what has left the window in the next buckets: called once in each epoch.
    pub(super) fn sweep(&mut self, live: Live) {
        for _ in 0..self.buckets.len().div_ceil(SWEEPS) {
            let bucket = &mut self.buckets[self.sweep];
            for slot in bucket.slots.iter_mut().filter(|slot| live.is_free(**slot)) {
                *slot = 0;
            }
            if !bucket.is_passed(live) {
                bucket.passed = 0;
            }
            self.sweep = self.after(self.sweep);
        }
    }

    /// Slots that hold something, live or not, and buckets.
    #[cfg(test)]
    pub(super) fn filled(&self) -> (usize, usize) {
        let slots = self.buckets.iter().flat_map(|bucket| bucket.slots);
        (slots.filter(|slot| *slot != 0).count(), self.buckets.len())
    }

    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.buckets.len() as u128) >> u64::BITS) as usize
    }

    fn after(&self, bucket: usize) -> usize {
        let next = bucket + 1;
        if next == self.buckets.len() { 0 } else { next }
    }
}

/// See [`Table::candidates`].
pub(super) struct Candidates<'a> {
    table: &'a Table,
    live: Live,
    pattern: u32,
    bucket: usize,
    /// Slots of the bucket that are still to be looked at.
    matches: u32,
    /// Buckets that may still follow: each may have been passed by at once.
    left: usize,
}

impl Iterator for Candidates<'_> {
    type Item = (At, u64);

    fn next(&mut self) -> Option<(At, u64)> {
        loop {
            let bucket = &self.table.buckets[self.bucket];
            while self.matches != 0 {
                let slot = self.matches.trailing_zeros();
                self.matches &= self.matches - 1;
                let number = bucket.slots[slot as usize] >> EPOCH_AT;
                if self.live.has(number) {
                    let epoch = self.live.newest - u64::from(self.live.age(number));
                    return Some((At { bucket: self.bucket as u32, slot }, epoch));
                }
            }
            if self.left == 0 || !bucket.is_passed(self.live) {
                return None;
            }
            self.left -= 1;
            self.bucket = self.table.after(self.bucket);
            self.matches = self.table.buckets[self.bucket].matches(self.pattern);
        }
    }
}
