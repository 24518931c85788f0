//! Shapes: what stands between the values of traces, learnt from those that came.
//!
//! Most producers write one trace like the other: the same members in the same order, with other
//! values. Once [`super::scan`] has read one, others like it are read by comparing what stands
//! between their values with what stood there before, which costs a third less. Shapes with a
//! common beginning share it: they are a tree, each node of which is what leads to a value.
//!
//! **Invariant:** what [`Shapes::read`] reads, [`super::scan::read`] reads alike, whatever was
//! learnt. A way from the root to an end is the text between the values of a trace that was
//! scanned. The values are read by the steps that the scan takes, and what a scan does next depends
//! on nothing but the text between values before, and on what kind these were of.

use super::cursor::Cursor;
use super::slots::{self, Member, Slots};

/// What is read of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A string without escapes, up to its quote.
    Text,
    /// Any string, up to and with its quote. Nobody looks at it.
    String,
    /// An integer that stands as it would be written.
    Integer,
    /// Any number. Nobody looks at it.
    Number,
    /// Nothing: the lead ends with `true`.
    True,
    /// Nothing: the lead ends with `false`.
    False,
    /// Nothing: the lead goes on.
    More,
    /// Nothing: the text ends.
    End,
}

/// A value of a trace, as a scan found it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    /// Where reading it begins, in a string behind its quote.
    pub(super) start: usize,
    /// Where that ends.
    pub(super) end: usize,
    pub(super) value: Value,
    pub(super) member: Member,
}

/// Bytes of a node's lead.
const LEAD_BYTES: usize = 32;

/// Most nodes of a tree, at 80 bytes. A shape has 20 to 40.
const NODES_MAX: usize = 2_048;

/// Most nodes of one shape.
const SHAPE_NODES_MAX: usize = NODES_MAX / 8;

/// Most values of a trace whose shape is learnt.
pub(super) const VALUES_MAX: usize = 128;

/// Most ways to go on from a node; a reader may have to try them all.
const WAYS_MAX: usize = 24;

/// After so many traces for which a tree had no room, it is begun anew: producers change.
const MISSES_MAX: u32 = 1 << 16;

/// What leads to a value.
#[derive(Clone, Debug)]
struct Node {
    /// The lead as two little-endian words, padded with zeros.
    lead: [u128; 2],
    /// Ones where the lead is.
    mask: [u128; 2],
    /// Bytes of the lead.
    length: u8,
    value: Value,
    member: Member,
    /// The first node that may follow; 0 where there is none.
    child: u16,
    /// The next one that may stand here instead; 0 where there is none.
    sibling: u16,
}

impl Node {
    /// A node whose lead has at most [`LEAD_BYTES`].
    fn new(lead: &[u8], value: Value, member: Member) -> Self {
        let (mut bytes, mut ones) = ([0; LEAD_BYTES], [0; LEAD_BYTES]);
        bytes[..lead.len()].copy_from_slice(lead);
        ones[..lead.len()].fill(0xff);
        let (length, lead, mask) = (lead.len() as u8, words(&bytes), words(&ones));
        Self { lead, mask, length, value, member, child: 0, sibling: 0 }
    }

    /// Whether `rest` begins with the lead.
    #[inline(always)]
    fn leads(&self, rest: &[u8]) -> bool {
        let differs = |word: u128, at: usize| (word ^ self.lead[at]) & self.mask[at];
        if let Some(window) = rest.first_chunk() {
            let [first, second] = words(window);
            return differs(first, 0) | differs(second, 1) == 0;
        }
        let lead = self.lead.map(u128::to_le_bytes);
        rest.starts_with(&lead.as_flattened()[..usize::from(self.length)])
    }
}

#[inline(always)]
fn words(bytes: &[u8; LEAD_BYTES]) -> [u128; 2] {
    let (halves, _) = bytes.as_chunks::<16>();
    [u128::from_le_bytes(halves[0]), u128::from_le_bytes(halves[1])]
}

/// The shapes that were learnt.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    /// The first one is the root, which has no lead.
    nodes: Vec<Node>,
    /// Traces for which there was no room.
    misses: u32,
}

impl Shapes {
    /// Whether nothing was learnt.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Reads the members of a trace into `slots`, which are empty. `None` where it is not known,
    /// and `slots` are of no use.
    pub(super) fn read<'a>(&self, text: &'a str, slots: &mut Slots<'a>) -> Option<()> {
        let mut cursor = Cursor::new(text);
        let mut node = self.nodes.first()?;
        loop {
            node = self.next(node, cursor.rest())?;
            cursor.at += usize::from(node.length);
            match node.value {
                Value::Text => slots.text(node.member, cursor.plain()?),
                Value::String => cursor.skip_string()?,
                Value::Integer => slots.integer(node.member, cursor.integer()?)?,
                Value::Number => cursor.skip_number()?,
                Value::True => slots.text(node.member, "true"),
                Value::False => slots.text(node.member, "false"),
                Value::More => {}
                Value::End => return cursor.is_at_end().then_some(()),
            }
        }
    }

    /// The node after `node` whose lead follows.
    #[inline(always)]
    fn next(&self, node: &Node, rest: &[u8]) -> Option<&Node> {
        let mut at = node.child;
        while at != 0 {
            let node = &self.nodes[usize::from(at)];
            if node.leads(rest) {
                return Some(node);
            }
            at = node.sibling;
        }
        None
    }

    /// Learns the shape of a trace that was scanned: where its values stand. Whether it is known
    /// now.
    pub(super) fn learn(&mut self, text: &str, notes: &[Note]) -> bool {
        let values: usize = notes.iter().map(|note| note.end - note.start).sum();
        let most = 1 + notes.len() + (text.len() - values) / LEAD_BYTES;
        if notes.len() > VALUES_MAX || most > SHAPE_NODES_MAX {
            return false;
        }
        if self.misses == MISSES_MAX {
            (self.nodes, self.misses) = (Vec::new(), 0);
        }
        if self.nodes.is_empty() {
            self.nodes.push(Node::new(&[], Value::More, slots::OTHER));
        }
        let room = self.nodes.len() + most <= NODES_MAX;
        let known = room && self.add_all(text.as_bytes(), notes).is_some();
        self.misses += u32::from(!known);
        known
    }

    /// Finds or adds all nodes of a shape; `None` where there are too many ways somewhere.
    fn add_all(&mut self, text: &[u8], notes: &[Note]) -> Option<()> {
        let (mut at, mut end) = (0, 0);
        for note in notes {
            at = self.add_lead(at, &text[end..note.start], note.value, note.member)?;
            end = note.end;
        }
        self.add_lead(at, &text[end..], Value::End, slots::OTHER).map(drop)
    }

    /// Finds or adds the nodes of a lead behind node `at`; the last of them. A lead that fills its
    /// nodes has an empty one behind them: so no two nodes of one lead differ in whether it goes
    /// on.
    fn add_lead(
        &mut self,
        mut at: u16,
        mut lead: &[u8],
        value: Value,
        member: Member,
    ) -> Option<u16> {
        while let Some((piece, more)) = lead.split_at_checked(LEAD_BYTES) {
            at = self.add(at, Node::new(piece, Value::More, slots::OTHER))?;
            lead = more;
        }
        self.add(at, Node::new(lead, value, member))
    }

    /// Finds or adds a node behind node `at`. Long leads stand before short ones, which they may
    /// begin with; what the one leads to cannot follow the other.
    fn add(&mut self, at: u16, mut node: Node) -> Option<u16> {
        let (mut ways, mut before) = (0, None);
        let mut next = self.nodes[usize::from(at)].child;
        while next != 0 {
            let other = &self.nodes[usize::from(next)];
            if (other.lead, other.length) == (node.lead, node.length) {
                let same = (other.value, other.member) == (node.value, node.member);
                debug_assert!(same, "one place, two kinds of value: {other:?} {node:?}");
                return Some(next);
            }
            if other.length >= node.length {
                before = Some(next);
            }
            next = other.sibling;
            ways += 1;
        }
        let new = u16::try_from(self.nodes.len()).ok().filter(|_| ways < WAYS_MAX)?;
        let link = match before {
            Some(before) => &mut self.nodes[usize::from(before)].sibling,
            None => &mut self.nodes[usize::from(at)].child,
        };
        node.sibling = std::mem::replace(link, new);
        self.nodes.push(node);
        Some(new)
    }
}

#[cfg(test)]
#[path = "shape_test.rs"]
mod tests;
