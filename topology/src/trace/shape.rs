//! Shapes: what stands between the values of traces, learnt from those that came.
//!
//! Most producers write one trace like the other: the same members in the same order, with other
//! values. Once [`super::scan`] has read one, others like it are read by comparing what stands
//! between their values with what stood there before, which costs a third as much. Shapes with a
//! common beginning share it: they are a tree, each node of which is what leads to a value.
//!
//! **Invariant:** what [`Shapes::read`] reads, [`super::scan::read`] reads alike, whatever was
//! learnt. A way from the root is the text between the values of a trace that was scanned, and
//! values are read by the steps that the scan takes.

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
    /// `true`, which the lead ends with.
    True,
    /// `false`, which the lead ends with.
    False,
    /// Nothing: the lead goes on.
    More,
    /// Nothing: the text ends.
    End,
}

/// A value of a trace, as a scan found it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    /// Its first byte, in a string the one behind the quote.
    pub(super) start: usize,
    /// The byte behind it.
    pub(super) end: usize,
    pub(super) value: Value,
    pub(super) member: Member,
}

/// Bytes of a node's lead.
const LEAD_BYTES: usize = 32;

/// Most nodes of a tree, at 80 bytes. A shape has 20 to 40.
const NODES_MAX: usize = 2_048;

/// Most values of a trace whose shape is learnt.
const VALUES_MAX: usize = 128;

/// Most ways to go on from a node; a reader may have to try them all.
const WAYS_MAX: usize = 24;

/// After so many traces that a full tree did not know, it is begun anew: producers change.
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
        let words = |fill: &dyn Fn(&mut [u8])| {
            let mut bytes = [0; LEAD_BYTES];
            fill(&mut bytes[..lead.len()]);
            words(&bytes)
        };
        let length = lead.len() as u8;
        let (mask, lead) = (words(&|to| to.fill(0xff)), words(&|to| to.copy_from_slice(lead)));
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
    /// Traces that were not known since the tree was full.
    misses: u32,
}

impl Shapes {
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

    /// Learns the shape of a trace that was scanned: where its values stand.
    pub(super) fn learn(&mut self, text: &str, notes: &[Note]) {
        let leads = text.len() - notes.iter().map(|note| note.end - note.start).sum::<usize>();
        let most = 1 + notes.len() + leads / LEAD_BYTES;
        if notes.len() > VALUES_MAX || most > NODES_MAX / 4 {
            return;
        }
        if self.nodes.len() + most > NODES_MAX {
            self.misses += 1;
            if self.misses < MISSES_MAX {
                return;
            }
            self.nodes.clear();
        }
        if self.nodes.is_empty() {
            self.nodes.push(Node::new(&[], Value::More, slots::OTHER));
            self.misses = 0;
        }
        let (mut at, mut end, bytes) = (Some(0), 0, text.as_bytes());
        for note in notes {
            let to = match note.value {
                Value::True | Value::False => note.end,
                _ => note.start,
            };
            at = at.and_then(|at| self.add_lead(at, &bytes[end..to], note.value, note.member));
            end = note.end;
        }
        at.and_then(|at| self.add_lead(at, &bytes[end..], Value::End, slots::OTHER));
    }

    /// Finds or adds the nodes of a lead behind node `at`; the last of them. `None` where there are
    /// too many ways already.
    fn add_lead(
        &mut self,
        mut at: u16,
        mut lead: &[u8],
        value: Value,
        member: Member,
    ) -> Option<u16> {
        while let Some((piece, more)) = lead.split_at_checked(LEAD_BYTES)
            && !more.is_empty()
        {
            at = self.add(at, Node::new(piece, Value::More, slots::OTHER))?;
            lead = more;
        }
        self.add(at, Node::new(lead, value, member))
    }

    /// Finds or adds a node behind node `at`. Long leads stand before short ones, which they may
    /// begin with.
    fn add(&mut self, at: u16, mut node: Node) -> Option<u16> {
        let (mut ways, mut before) = (0, None);
        let mut next = self.nodes[usize::from(at)].child;
        while next != 0 {
            let other = &self.nodes[usize::from(next)];
            if (other.lead, other.length, other.value) == (node.lead, node.length, node.value) {
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
