//! What a stage is fed: the records of one partition, in offset order.
//!
//! **Invariant:** an input carries all that a stage may know about it. The append time is the
//! log's, so time passes *in the log* and nowhere else.

use std::sync::Arc;

use crate::catalog::Catalog;

/// A position in a partition's log: 0 for its first record. An embedded log has no holes; Kafka
/// gives offsets to its own records too, which no reader sees.
pub type Offset = u64;

/// Milliseconds since 1970-01-01T00:00:00Z, UTC.
pub type Millis = i64;

/// One record of a partition as the log returned it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Its position in the partition.
    pub offset: Offset,
    /// When the log appended it (Kafka's `LogAppendTime`).
    pub append_time_ms: Millis,
    /// What it says.
    pub body: Body<'a>,
}

impl Input<'_> {
    /// The first offset that the input speaks of: its own, but for a gap.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        match self.body {
            Body::Gap { from } => from.min(self.offset),
            _ => self.offset,
        }
    }
}

/// The kinds of record, told apart by the header `trailproof`.
///
/// Source: `docs/formats.md`, "Records".
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// No header: a trace in `traces`, a files record in `files`.
    Data(&'a [u8]),
    /// Header `tick`: only its append time matters.
    Tick,
    /// Header `catalog`: from here on this version holds. `None` where the catalog topic has no
    /// such version with the mark's hash, which a forged mark can cause: it is counted and ignored.
    /// All stages that are fed it share it.
    Catalog(u64, Option<&'a Arc<Catalog>>),
    /// Any other header: kept as a dead letter.
    Unknown(&'a [u8]),
    /// No record, but the operator's word that the records from here up to and with this offset are
    /// gone unread and will not be waited for. Its append time means nothing: time stands still.
    /// The offsets are told in the ledger as lost.
    Gap {
        /// The first offset that is gone; the input's own is the last.
        from: Offset,
    },
}

/// Where a stage stands after a batch. The row `position` of its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Offset of the next record to apply.
    pub next_offset: Offset,
    /// Running maximum of the append times seen. Never falls (I2).
    pub stream_time_ms: Millis,
    /// Version of the catalog in force, 0 before the first mark.
    pub catalog_version: u64,
    /// Next sequence number of each outbox lane, by [`crate::effect::Lane`].
    pub lane_next: [u64; crate::effect::LANES],
}

impl Position {
    /// Encodes as five to seven big-endian 64-bit integers in field order.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        out.extend_from_slice(&self.next_offset.to_be_bytes());
        out.extend_from_slice(&self.stream_time_ms.to_be_bytes());
        out.extend_from_slice(&self.catalog_version.to_be_bytes());
        for next in self.lane_next {
            out.extend_from_slice(&next.to_be_bytes());
        }
        out
    }

    /// Whether the state behind this position knows of everything that was `delivered`. Where it
    /// does not, the records behind it are needed to find the way back, and a gap that begins here
    /// must not be accepted: what they had brought would be told twice.
    #[must_use]
    pub fn knows(&self, delivered: [u64; crate::effect::LANES]) -> bool {
        self.lane_next.iter().zip(delivered).all(|(own, lane)| *own >= lane)
    }

    /// Decodes a row; `None` where its length is wrong.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let words: Vec<[u8; 8]> =
            bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok()).collect();
        if bytes.len() != 8 * (3 + crate::effect::LANES) {
            return None;
        }
        let mut lane_next = [0; crate::effect::LANES];
        for (next, word) in lane_next.iter_mut().zip(&words[3..]) {
            *next = u64::from_be_bytes(*word);
        }
        Some(Self {
            next_offset: u64::from_be_bytes(words[0]),
            stream_time_ms: i64::from_be_bytes(words[1]),
            catalog_version: u64::from_be_bytes(words[2]),
            lane_next,
        })
    }
}
