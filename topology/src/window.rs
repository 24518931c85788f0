//! The window of resends: the last traces of a partition, by id and content.
//!
//! A resend has the account, the id and the content of a trace in the window; it is stored once.
//! The same id with other content is another trace: kept, and counted as a conflict.
//!
//! The window is rows of the partition's state, so it depends on the log alone. Its memory is
//! fixed: under 18 bytes for each trace it can hold, once full. So it compares the upper 48 bits of
//! the id's hash and the upper 47 of the content's: with a million marks, one new trace in some
//! 2^28 is counted as a conflict by mistake, and one in 2^75 would be taken for a resend; of traces
//! that repeat an id of the window with other content one in 2^47, for each mark of that id.
//!
//! **Invariant:** the table holds exactly the ring's entries. A bucket is one line of the cache, so
//! a look, an insertion and a removal each touch one, nearly always; what finds its bucket full
//! lies in the next one, and each bucket counts what passed it by. A slot has a piece of the mark's
//! id beside its place, so that foreign entries are passed without a look into the ring, which
//! holds the rest of the mark.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of a mark in a window row.
pub const MARK_BYTES: usize = 16;

/// Most marks of a window.
pub const CAPACITY_MAX: u32 = 1 << 24;

/// Slots of a bucket: with the count they fill 64 bytes.
const SLOTS: usize = 15;

/// Marks of a bucket on average, at most: so few buckets are ever full.
const MARKS: usize = 10;

/// Buckets of a new window.
const BUCKETS_MIN: usize = 1 << 8;

/// Places of a new ring.
const PLACES_MIN: usize = BUCKETS_MIN * MARKS;

/// Bits that a window leaves out of an id's hash, and of a content's.
const ID_LEFT_OUT: u32 = 16;
const CONTENT_LEFT_OUT: u32 = 17;

/// Bits of a content's hash that it keeps.
const CONTENT_BITS: u32 = u64::BITS - CONTENT_LEFT_OUT;

/// Bytes of a mark in the ring, and where its home begins.
const PACKED_BYTES: usize = 11;
const HOME_AT: usize = 7;

/// Bits of an id that are in every slot: the largest place needs the other 25.
const SLOT_BITS: u32 = 7;

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

    /// Appends the mark to a window row: id, then content, big-endian.
    pub fn encode(&self, row: &mut Vec<u8>) {
        row.extend_from_slice(&self.id.to_be_bytes());
        row.extend_from_slice(&self.content.to_be_bytes());
    }

    /// Reads the marks of a window row; `None` where its length is wrong.
    #[must_use]
    pub fn decode_row(row: &[u8]) -> Option<Vec<Self>> {
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        let (marks, rest) = row.as_chunks::<MARK_BYTES>();
        rest.is_empty().then_some(())?;
        marks
            .iter()
            .map(|mark| Some(Self { id: word(&mark[..8])?, content: word(&mark[8..])? }))
            .collect()
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
    Conflict,
}

/// A mark as a window knows it: of the id 32 bits that decide its bucket and above them 16, its
/// tag; of the content 47 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    home: u32,
    tag: u32,
    content: u64,
}

impl Known {
    fn of(mark: &Mark) -> Self {
        let id = mark.id >> ID_LEFT_OUT;
        Self { home: id as u32, tag: (id >> 32) as u32, content: mark.content >> CONTENT_LEFT_OUT }
    }

    fn mark(self) -> Mark {
        let id = (u64::from(self.tag) << 32) | u64::from(self.home);
        Mark { id: id << ID_LEFT_OUT, content: self.content << CONTENT_LEFT_OUT }
    }

    /// What of it goes into the ring: the rest of the tag is in its slot.
    fn packed(self) -> Packed {
        let rest = (u64::from(self.tag >> SLOT_BITS) << CONTENT_BITS) | self.content;
        let mut packed = [0; PACKED_BYTES];
        packed[..HOME_AT].copy_from_slice(&rest.to_le_bytes()[..HOME_AT]);
        packed[HOME_AT..].copy_from_slice(&self.home.to_le_bytes());
        Packed(packed)
    }
}

/// A mark in the ring: content (47 bits), tag without its lowest [`SLOT_BITS`] (9), home (32), all
/// little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed([u8; PACKED_BYTES]);

impl Packed {
    fn home(self) -> u32 {
        let [.., a, b, c, d] = self.0;
        u32::from_le_bytes([a, b, c, d])
    }

    fn rest(self) -> u64 {
        let [a, b, c, d, e, f, g, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, 0])
    }

    /// What of the tag is not in every slot.
    fn upper_tag(self) -> u32 {
        (self.rest() >> CONTENT_BITS) as u32
    }

    /// The mark, whose slot begins its tag like this.
    fn known(self, slot_tag: u32) -> Known {
        let tag = (self.upper_tag() << SLOT_BITS) | (slot_tag & ((1 << SLOT_BITS) - 1));
        Known { home: self.home(), tag, content: self.rest() & ((1 << CONTENT_BITS) - 1) }
    }

    /// Whether the ids are the same, as far as the ring has them.
    fn same_id(self, other: Self) -> bool {
        self.home() == other.home() && self.upper_tag() == other.upper_tag()
    }
}

/// A piece of the table.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    /// A ring place plus one, and above it bits of the id; 0 is free.
    slots: [u32; SLOTS],
    /// Entries that lie in a later bucket because this one was full.
    passed: u32,
}

impl Bucket {
    const EMPTY: Self = Self { slots: [0; SLOTS], passed: 0 };
}

/// The slots of a table that are not free.
fn filled(table: &[Bucket]) -> impl Iterator<Item = u32> {
    table.iter().flat_map(|bucket| bucket.slots).filter(|slot| *slot != 0)
}

/// The last `capacity` marks.
#[derive(Clone, Debug)]
pub struct Window {
    ring: Vec<Packed>,
    /// Place of the oldest mark: 0 until the ring is full.
    next: usize,
    capacity: usize,
    /// Doubled as the ring fills, up to one for every [`MARKS`] marks it can hold.
    table: Vec<Bucket>,
    /// Bits of a slot that hold a place of the ring plus one.
    place_bits: u32,
}

impl Window {
    /// An empty window of `capacity` marks, 1 to [`CAPACITY_MAX`]. Early catalogs may say 0; it was
    /// always taken as 1, and logs of that time must give the same files.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let capacity = capacity.clamp(1, CAPACITY_MAX);
        let place_bits = u32::BITS - capacity.leading_zeros();
        let capacity = capacity as usize;
        let buckets = capacity.div_ceil(MARKS).min(BUCKETS_MIN);
        Self {
            ring: Vec::new(),
            next: 0,
            capacity,
            table: vec![Bucket::EMPTY; buckets],
            place_bits,
        }
    }

    /// Marks in the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// How many marks it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The marks, oldest first, as far as the window knows them: what was left out is 0.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        let mut tags = vec![0; self.ring.len()];
        for slot in filled(&self.table) {
            tags[self.place(slot)] = slot >> self.place_bits;
        }
        let mut marks: Vec<Mark> =
            self.ring.iter().zip(tags).map(|(packed, tag)| packed.known(tag).mark()).collect();
        marks.rotate_left(self.next);
        marks
    }

    /// Looks a mark up.
    #[must_use]
    pub fn look(&self, mark: &Mark) -> Seen {
        let mut seen = Seen::New;
        let known = Known::of(mark);
        let (packed, tag) = (known.packed(), self.slot_tag(known));
        let mut at = self.bucket(known.home);
        // Each bucket may have been passed by at once.
        for _ in 0..self.table.len() {
            let bucket = &self.table[at];
            for slot in bucket.slots {
                if slot == 0 || slot >> self.place_bits != tag {
                    continue;
                }
                let other = self.ring[self.place(slot)];
                if other == packed {
                    return Seen::Resend;
                }
                if other.same_id(packed) {
                    seen = Seen::Conflict;
                }
            }
            if bucket.passed == 0 {
                break;
            }
            at = self.after(at);
        }
        seen
    }

    /// Takes a mark in; the oldest one leaves where the window is full.
    pub fn push(&mut self, mark: Mark) {
        let known = Known::of(&mark);
        let place = if self.ring.len() < self.capacity {
            self.ring_grows();
            self.ring.push(known.packed());
            if self.ring.len() > self.table.len() * MARKS {
                self.table_grows();
            }
            self.ring.len() - 1
        } else {
            let place = self.next;
            self.remove(place);
            self.ring[place] = known.packed();
            self.next = (place + 1) % self.capacity;
            place
        };
        let slot = (self.slot_tag(known) << self.place_bits) | (place as u32 + 1);
        self.insert(slot, known.home);
    }

    /// The bucket of an id.
    fn bucket(&self, home: u32) -> usize {
        ((u64::from(home) * self.table.len() as u64) >> 32) as usize
    }

    fn after(&self, bucket: usize) -> usize {
        let next = bucket + 1;
        if next == self.table.len() { 0 } else { next }
    }

    /// As much of a mark's tag as there is room for beside a place.
    fn slot_tag(&self, known: Known) -> u32 {
        known.tag << self.place_bits >> self.place_bits
    }

    /// The bits of a slot that hold its place plus one.
    fn place_mask(&self) -> u32 {
        (1 << self.place_bits) - 1
    }

    /// The place of a slot that is not free.
    fn place(&self, slot: u32) -> usize {
        (slot & self.place_mask()) as usize - 1
    }

    fn insert(&mut self, slot: u32, home: u32) {
        let mut at = self.bucket(home);
        loop {
            if let Some(free) = self.table[at].slots.iter_mut().find(|slot| **slot == 0) {
                *free = slot;
                return;
            }
            self.table[at].passed += 1;
            at = self.after(at);
        }
    }

    fn remove(&mut self, place: usize) {
        let mut at = self.bucket(self.ring[place].home());
        let (mask, own) = (self.place_mask(), place as u32 + 1);
        loop {
            if let Some(slot) = self.table[at].slots.iter_mut().find(|slot| **slot & mask == own) {
                *slot = 0;
                return;
            }
            self.table[at].passed -= 1;
            at = self.after(at);
        }
    }

    /// Makes room for another mark: for twice as many, and never for more than there may be.
    fn ring_grows(&mut self) {
        let length = self.ring.len();
        if length == self.ring.capacity() {
            self.ring.reserve_exact(length.max(PLACES_MIN).min(self.capacity - length));
        }
    }

    fn table_grows(&mut self) {
        let buckets = (self.table.len() * 2).min(self.capacity.div_ceil(MARKS));
        let old = std::mem::replace(&mut self.table, vec![Bucket::EMPTY; buckets]);
        for slot in filled(&old) {
            let home = self.ring[self.place(slot)].home();
            self.insert(slot, home);
        }
    }
}

#[cfg(test)]
#[path = "window_test.rs"]
mod tests;
