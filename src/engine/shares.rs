//! What each partition may hold in memory, so that all of an instance stay within one bound.
//!
//! **Invariant (I10):** batches and open chunks of a process together have a bound that does not
//! grow with the number of partitions, up to the point where a partition could not work with less.

use trailproof_topology::record::open::OPEN_BYTES_MAX;

use crate::worker::BATCH_BYTES_MAX;

/// Bytes of records in the batches of all partitions of a topic.
const BATCHES_BYTES: usize = 2 * BATCH_BYTES_MAX;

/// A batch is allowed this much, however many partitions there are.
const BATCH_BYTES_MIN: usize = 2 << 20;

/// Text bytes in the open chunks of all partitions.
const OPEN_BYTES: usize = 72 << 20;

/// A partition's open chunks are allowed this much, however many partitions there are.
const OPEN_BYTES_MIN: usize = 8 << 20;

/// The part of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Bytes of records that its batch takes at most, beyond its last append.
    pub batch_bytes_max: usize,
    /// Text bytes in its open chunks at most.
    pub open_bytes_max: usize,
}

impl Shares {
    /// The part of one of `partitions` partitions of `traces`. It depends on the topic alone, so
    /// that every instance closes a partition's chunks at the same offsets.
    #[must_use]
    pub fn of(partitions: u32) -> Self {
        let partitions = partitions.max(1) as usize;
        Self {
            batch_bytes_max: (BATCHES_BYTES / partitions).clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX),
            open_bytes_max: (OPEN_BYTES / partitions).clamp(OPEN_BYTES_MIN, OPEN_BYTES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_share_one_bound_and_none_gets_too_little() {
        for partitions in 1..=64 {
            let Shares { batch_bytes_max, open_bytes_max } = Shares::of(partitions);
            assert!((BATCH_BYTES_MIN..=BATCH_BYTES_MAX).contains(&batch_bytes_max));
            assert!((OPEN_BYTES_MIN..=OPEN_BYTES_MAX).contains(&open_bytes_max));
            let all = |share| partitions as usize * share;
            assert!(all(batch_bytes_max) <= BATCHES_BYTES || batch_bytes_max == BATCH_BYTES_MIN);
            assert!(all(open_bytes_max) <= OPEN_BYTES || open_bytes_max == OPEN_BYTES_MIN);
        }
        assert_eq!(Shares::of(1).open_bytes_max, OPEN_BYTES_MAX);
        assert_eq!(Shares::of(2).batch_bytes_max, BATCH_BYTES_MAX);
    }
}
