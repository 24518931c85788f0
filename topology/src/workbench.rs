//! The workbench: buffers and compressors that a running batch works with.
//!
//! They take some MiB and hold nothing between two batches, so one workbench serves batch after
//! batch, of whatever partition: its memory stays in place, and warm.
//!
//! **Invariant:** no batch can tell what a workbench was used for before.

use crate::pool::Pool;
use crate::segment::Scratch;
use crate::tail::TailWriter;

/// What a batch works with. A new one is empty and cheap; it grows as it is used.
#[derive(Debug, Default)]
pub struct Workbench {
    /// What the batch filed and is in no segment yet.
    pub(crate) pool: Pool,
    /// For closing chunks.
    pub(crate) scratch: Scratch,
    /// For the tail of a savepoint.
    pub(crate) tail: TailWriter,
}

impl Workbench {
    /// Whether nothing of a batch lies on it.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.pool.is_empty() && self.scratch.is_clear() && self.tail.is_empty()
    }
}
