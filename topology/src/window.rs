//! The window of resends: the last traces of a partition, by id and content.
//!
//! A resend has the account, the id and the content of a trace in the window; it is stored once.
//! The same id with other content is another trace: kept, and counted as a conflict.
//!
//! The window is rows of the partition's state, so it depends on the log alone. Its memory is
//! fixed: under 19 bytes for each trace it can hold. So it compares the upper 48 bits of each hash:
//! with a million marks, one new trace in some 2^28 is counted as a conflict by mistake, and one in
//! 2^76 would be taken for a resend.
//!
//! **Invariant:** the table holds exactly the ring's entries. A bucket is one line of the cache, so
//! a look, an insertion and a removal each touch one, nearly always; what finds its bucket full
//! lies in the next one, and each bucket counts what passed it by. A slot has a piece of the mark's
//! id beside its place, so that foreign entries are passed without a look into the ring.

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

/// Bits of each hash that a window leaves out.
const LEFT_OUT: u32 = 16;

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

/// A mark in the ring: the upper 48 bits of id and content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed([u32; 3]);

impl Packed {
    fn of(mark: &Mark) -> Self {
        let (id, content) = (mark.id >> LEFT_OUT, mark.content >> LEFT_OUT);
        Self([id as u32, ((id >> 32 << 16) | (content >> 32)) as u32, content as u32])
    }

    fn mark(self) -> Mark {
        let [id, upper, content] = self.0.map(u64::from);
        let id = (upper >> 16 << 32) | id;
        let content = ((upper & 0xffff) << 32) | content;
        Mark { id: id << LEFT_OUT, content: content << LEFT_OUT }
    }

    fn same_id(self, other: Self) -> bool {
        self.0[0] == other.0[0] && self.tag() == other.tag()
    }

    /// The bits of the id that do not decide its bucket.
    fn tag(self) -> u32 {
        self.0[1] >> 16
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

/// The last `capacity` marks.
#[derive(Clone, Debug)]
pub struct Window {
    ring: Vec<Packed>,
    /// Place of the oldest mark once the ring is full, else of the next one.
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
        let (newer, older) = self.ring.split_at(self.next.min(self.ring.len()));
        older.iter().chain(newer).map(|packed| packed.mark()).collect()
    }

    /// Looks a mark up.
    #[must_use]
    pub fn look(&self, mark: &Mark) -> Seen {
        let mut seen = Seen::New;
        let packed = Packed::of(mark);
        let tag = self.slot_tag(packed);
        let mut at = self.home(packed);
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
        let mark = Packed::of(&mark);
        if self.ring.len() < self.capacity {
            self.ring.push(mark);
            if self.ring.len() > self.table.len() * MARKS {
                self.grow();
            } else {
                self.insert(self.ring.len() - 1);
            }
        } else {
            self.remove(self.next);
            self.ring[self.next] = mark;
            self.insert(self.next);
            self.next = (self.next + 1) % self.capacity;
        }
    }

    fn home(&self, mark: Packed) -> usize {
        ((u64::from(mark.0[0]) * self.table.len() as u64) >> 32) as usize
    }

    fn after(&self, bucket: usize) -> usize {
        let next = bucket + 1;
        if next == self.table.len() { 0 } else { next }
    }

    /// As much of a mark's tag as there is room for beside a place.
    fn slot_tag(&self, mark: Packed) -> u32 {
        mark.tag() << self.place_bits >> self.place_bits
    }

    /// The slot of the mark at a place: its tag, and the place.
    fn slot(&self, place: usize) -> u32 {
        (self.ring[place].tag() << self.place_bits) | (place as u32 + 1)
    }

    /// The place of a slot that is not free.
    fn place(&self, slot: u32) -> usize {
        (slot & ((1 << self.place_bits) - 1)) as usize - 1
    }

    fn insert(&mut self, place: usize) {
        let slot = self.slot(place);
        let mut at = self.home(self.ring[place]);
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
        let slot = self.slot(place);
        let mut at = self.home(self.ring[place]);
        loop {
            if let Some(own) = self.table[at].slots.iter_mut().find(|own| **own == slot) {
                *own = 0;
                return;
            }
            self.table[at].passed -= 1;
            at = self.after(at);
        }
    }

    fn grow(&mut self) {
        let buckets = (self.table.len() * 2).min(self.capacity.div_ceil(MARKS));
        self.table = vec![Bucket::EMPTY; buckets];
        for place in 0..self.ring.len() {
            self.insert(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window against a plain list, with ids that collide in the table.
    #[test]
    fn agrees_with_a_list_of_the_last_marks() {
        for capacity in [1u32, 2, 7, 64, 3000] {
            let mut window = Window::new(capacity);
            let mut list: Vec<Mark> = Vec::new();
            let mut seed = 1u64;
            for _ in 0..9_000 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let id = (seed >> 40) & 0xff | 0xf00 | (seed >> 48 << 47);
                let content = (seed >> 33) & 3;
                let mark = Mark { id: id << LEFT_OUT, content: content << LEFT_OUT };
                let known: Vec<&Mark> = list.iter().rev().take(capacity as usize).collect();
                let expected = if known.contains(&&mark) {
                    Seen::Resend
                } else if known.iter().any(|other| other.id == mark.id) {
                    Seen::Conflict
                } else {
                    Seen::New
                };
                assert_eq!(window.look(&mark), expected);
                if expected != Seen::Resend {
                    window.push(mark);
                    list.push(mark);
                }
            }
            assert_eq!(window.len(), list.len().min(capacity as usize));
            let newest = list.split_off(list.len() - window.len());
            assert_eq!(window.marks(), newest);
        }
    }

    /// Twenty marks of the first of two buckets, then eleven of the second: five passed the first
    /// one by, and one the second.
    #[test]
    fn a_look_ends_where_every_bucket_was_passed_by() {
        let of_bucket = |bucket: u64, n: u64| Mark { id: bucket << 63 >> 16 | n << 50, content: n };
        let mut window = Window::new(20);
        (0..20).for_each(|n| window.push(of_bucket(0, n)));
        (0..11).for_each(|n| window.push(of_bucket(1, n)));
        assert!(window.table.len() == 2 && window.table.iter().all(|bucket| bucket.passed > 0));
        let other = |bucket| window.look(&of_bucket(bucket, 99));
        assert_eq!((other(0), other(1)), (Seen::New, Seen::New));
        let known = |bucket, n| window.look(&of_bucket(bucket, n)) == Seen::Resend;
        assert!((0..20).all(|n| known(0, n) == (n >= 11)) && (0..11).all(|n| known(1, n)));
    }

    #[test]
    fn a_mark_is_known_by_48_bits_of_each_hash() {
        let mark = Mark { id: 0x0123_4567_89ab_cdef, content: 0xfedc_ba98_7654_3210 };
        let packed = Packed::of(&mark);
        let known = Mark { id: 0x0123_4567_89ab_0000, content: 0xfedc_ba98_7654_0000 };
        assert_eq!((packed.mark(), Packed::of(&known)), (known, packed));
        for bit in LEFT_OUT..u64::BITS {
            let id = Mark { id: mark.id ^ 1 << bit, ..mark };
            assert!(!Packed::of(&id).same_id(packed));
            let content = Mark { content: mark.content ^ 1 << bit, ..mark };
            assert!(Packed::of(&content) != packed && Packed::of(&content).same_id(packed));
        }
    }

    #[test]
    fn rows_of_marks_read_back() {
        let marks = [Mark { id: 1, content: u64::MAX }, Mark { id: 7, content: 0 }];
        let mut row = Vec::new();
        marks.iter().for_each(|mark| mark.encode(&mut row));
        assert_eq!(Mark::decode_row(&row).as_deref(), Some(&marks[..]));
        assert_eq!(Mark::decode_row(&row[1..]), None);
    }
}
