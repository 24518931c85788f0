//! Columns: times and attribute values of the traces of one chunk or part.
//!
//! A closed chunk brings its columns as a row beside it until an index run takes them in.
//!
//! Source: `docs/formats.md`, "Columns".

use crate::attribute::ATTRIBUTES;
use crate::chunk::Part;
use crate::input::{Millis, Offset};

/// One attribute of a group of traces, dictionary-coded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// The distinct values, ascending.
    pub values: Vec<Box<[u8]>>,
    /// Per trace: 0 where the trace lacks the attribute, else one more than the value's index.
    pub codes: Vec<u16>,
}

/// The columns of a group of traces, in offset order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Offsets, ascending.
    pub offsets: Vec<Offset>,
    /// Stream times, never falling.
    pub stream_times_ms: Vec<Millis>,
    /// Event times.
    pub times_ms: Vec<Millis>,
    /// Attributes by number.
    pub attributes: [Column; ATTRIBUTES],
}

impl Columns {
    /// Makes the columns of parts that follow each other.
    #[must_use]
    pub fn of_parts(_parts: &[&Part]) -> Self {
        Self::default()
    }
}
