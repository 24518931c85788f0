//! The pool: what the running batch filed, in the order it came.
//!
//! Traces of thousands of segments come mixed. They go into one buffer, and a [`Chain`] in each
//! segment says which are its own. When a chunk closes, or the batch ends, a chain becomes a
//! [`Part`] of exactly its size. A segment that takes much of a batch leaves the pool: it appends
//! to a part of its own, which needs no second copy.
//!
//! **Invariant:** a chain is valid in its own pool alone, until that is cleared; every chain is
//! taken before.

use crate::attribute::{ATTRIBUTES, Attribute};
use crate::chunk::{Entry, Part, SEPARATOR_BYTES, Span};
use crate::segment::{Filing, split_at_bracket};
use crate::trace::VALUE_BYTES_MAX;

/// Text whose memory a cleared pool keeps, and side text: more than the largest batch has whose
/// traces go to one tracker each. One of more is settled each time that it has filed as much.
const KEPT_BYTES: usize = 18 << 20;

/// The same of entries, where traces are of ordinary size.
const KEPT_ENTRIES: usize = 32 << 10;

/// Ends a chain.
const END: u32 = u32::MAX;

/// The traces of a running batch.
#[derive(Debug, Default)]
pub struct Pool {
    /// Text, side text and entries of all of them.
    all: Part,
    /// By entry: the next one of its chain.
    next: Vec<u32>,
}

/// The traces of one segment in a pool, in order.
#[derive(Debug)]
pub struct Chain {
    first: u32,
    last: u32,
    count: u32,
    text: u32,
    side: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { first: END, last: END, count: 0, text: 0, side: 0 }
    }
}

impl Chain {
    /// Whether it has no trace.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its traces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Text bytes of its traces.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.text as usize
    }
}

impl Pool {
    /// Adds a trace at the end of a chain, behind a separator.
    pub fn push(
        &mut self,
        chain: &mut Chain,
        separator: [u8; SEPARATOR_BYTES],
        filing: &Filing<'_>,
    ) {
        append(&mut self.all, separator, filing);
        let at = self.next.len() as u32;
        self.next.push(END);
        if chain.is_empty() {
            chain.first = at;
        } else {
            self.next[chain.last as usize] = at;
        }
        chain.last = at;
        chain.count += 1;
        let entry = &self.all.entries[at as usize];
        chain.text += SEPARATOR_BYTES as u32 + entry.length;
        chain.side += entry.side_length;
    }

    /// Copies a chain's traces to the end of `part`, and empties the chain.
    pub fn take(&mut self, chain: &mut Chain, part: &mut Part) {
        part.text.reserve_exact(chain.text as usize);
        part.side.reserve_exact(chain.side as usize);
        part.entries.reserve_exact(chain.count as usize);
        let mut at = chain.first;
        while at != END {
            let entry = &self.all.entries[at as usize];
            let (start, side) = (entry.start as usize, entry.side_start as usize);
            let text = &self.all.text[start - SEPARATOR_BYTES..start + entry.length as usize];
            let to = part.text.len() + SEPARATOR_BYTES;
            part.text.extend_from_slice(text);
            let mut moved =
                Entry { start: to as u32, side_start: part.side.len() as u32, ..entry.clone() };
            if moved.side_length > 0 {
                let side = &self.all.side[side..side + moved.side_length as usize];
                part.side.extend_from_slice(side);
            } else {
                moved.side_start = 0;
            }
            part.entries.push(moved);
            at = self.next[at as usize];
        }
        *chain = Chain::default();
    }

    /// Whether nothing was filed since it was cleared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    /// Whether it holds more text than it keeps memory for.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.all.text.len() > KEPT_BYTES
    }

    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.all.clear(KEPT_BYTES, KEPT_ENTRIES);
        self.next.clear();
        self.next.shrink_to(KEPT_ENTRIES);
    }
}

/// Adds a trace at the end of a part, behind a separator.
pub(crate) fn append(part: &mut Part, separator: [u8; SEPARATOR_BYTES], filing: &Filing<'_>) {
    part.text.extend_from_slice(&separator);
    let start = part.text.len();
    let (head, body) = split_at_bracket(filing.record, filing.added);
    part.text.extend_from_slice(head);
    part.text.extend_from_slice(filing.added);
    part.text.extend_from_slice(body);
    let length = part.text.len() - start;
    let side_start = part.side.len();
    let spans = spans(&mut part.side, filing);
    part.entries.push(Entry {
        offset: filing.offset,
        stream_time_ms: filing.stream_time_ms,
        time_ms: filing.trace.indexed_time_ms(),
        start: start as u32,
        length: length as u32,
        side_start: side_start as u32,
        side_length: (part.side.len() - side_start) as u32,
        spans,
    });
}

/// Finds where the indexed values stand in the stored trace.
fn spans(side: &mut Vec<u8>, filing: &Filing<'_>) -> [Span; ATTRIBUTES] {
    let origin = filing.record.as_ptr() as usize;
    let side_start = side.len();
    let mut aside = |value: &str| {
        let start = side.len() - side_start;
        side.extend_from_slice(value.as_bytes());
        Span::side(start, value.len()).expect("16 values of 1 KiB are within a span's reach")
    };
    let mut spans = [Span::ABSENT; ATTRIBUTES];
    for (span, value) in spans.iter_mut().zip(&filing.trace.values) {
        let Some(value) = value else { continue };
        let value = indexed(value);
        let at = (value.as_ptr() as usize).wrapping_sub(origin);
        let inside = at < filing.record.len() && at + value.len() <= filing.record.len();
        // Values stand behind the first bracket, so all of them move by what was added there.
        let within = inside.then(|| Span::text(filing.added.len() + at, value.len())).flatten();
        *span = within.unwrap_or_else(|| aside(value));
    }
    if let Some(trace_id) = filing.trace_id {
        spans[Attribute::TraceId as usize] = aside(trace_id);
    }
    spans
}

/// The part of a value that is indexed.
fn indexed(value: &str) -> &str {
    let mut end = value.len().min(VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}
