//! The invariants, each one predicate: asserted in production, checked by the simulator.
//!
//! | id | statement | where |
//! | --- | --- | --- |
//! | I1 | position, rows, effects of a batch visible together or not | [`position_matches`] |
//! | I2 | stream time never falls; an offset is applied once, in order | [`in_order`] |
//! | I3 | every record is counted once; the counts balance | [`balanced`] |
//! | I4 | a selected trace is in one file and in the view | [`filed_once`] |
//! | I5 | one tracker, service, cycle, partition a file; ascending; bounded | [`well_formed`] |
//! | I6 | what leaves depends on the log alone | [`same_content`] |
//! | I7 | coverage of a chain has no gap and no overlap | [`meets`] |
//! | I8 | a digest comes after every file it lists | [`delivered_before`] |
//! | I9 | one key, one content | [`same_content`] |
//! | I10 | at a bound the worker stops polling | [`within`] |
//! | I11 | one account's data never shows to another | [`own`] |

use crate::chunk::SEPARATOR_BYTES;
use crate::count::Counts;
use crate::input::{Input, Offset, Position};
use crate::segment::OpenSegment;

/// The ids of all invariants, as the texts of failed assertions begin with them.
pub const ID_ALL: [&str; 11] = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11"];

/// I1: a snapshot's position row and the published position are of the same commit.
#[must_use]
pub fn position_matches(row: &Position, published: &Position) -> bool {
    row == published
}

/// I2: the record is the next one, or a later one where the log has holes (Kafka's own records).
#[must_use]
pub fn in_order(position: &Position, input: &Input<'_>) -> bool {
    input.first_offset() >= position.next_offset
}

/// I3: each record of the stretch that ends at `to` is a tick, a mark, a dead letter or an
/// account's, and each offset is a record's, absent or lost.
#[must_use]
pub fn balanced(counts: &Counts, to: Offset) -> bool {
    counts.balance(to)
}

/// I3 for one tracker: what came in is filed, a duplicate, a dead letter or not selected.
#[must_use]
pub fn tracker_balanced(received: u64, filed: u64, duplicate: u64, dead_lettered: u64) -> bool {
    filed.saturating_add(duplicate).saturating_add(dead_lettered) <= received
}

/// I4: places of a trace among all files: one if it was selected, else none.
#[must_use]
pub fn filed_once(selected: bool, places: usize) -> bool {
    places == usize::from(selected)
}

/// I5: a trace may follow the segment's last one and fits its bound.
#[must_use]
pub fn well_formed(segment: &OpenSegment, offset: Offset, length: usize, bytes_max: u64) -> bool {
    let first = segment.summary.frontier.size() == 0;
    let grown = segment.summary.file_bytes() + (SEPARATOR_BYTES + length) as u64;
    first || (segment.summary.last_offset < offset && grown <= bytes_max)
}

/// I6 and I9: two deliveries under one key have the same identity.
#[must_use]
pub fn same_content(one: &[u8], other: &[u8]) -> bool {
    one == other
}

/// I7: a stretch begins where the one before ended.
#[must_use]
pub fn meets(previous_to: Offset, from: Offset) -> bool {
    previous_to == from
}

/// I8: every listed object is in the store.
#[must_use]
pub fn delivered_before<'a>(
    mut listed: impl Iterator<Item = &'a str>,
    stored: impl Fn(&str) -> bool,
) -> bool {
    listed.all(stored)
}

/// I10: a measure is within its bound.
#[must_use]
pub fn within(measure: u64, bound: u64) -> bool {
    measure <= bound
}

/// I11: the account of a thing is the account it is shown to.
#[must_use]
pub fn own(of: &str, shown_to: &str) -> bool {
    of == shown_to
}
