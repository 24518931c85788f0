//! The parts of an open chunk: a list that grows with each batch and that queries share.
//!
//! The newest part comes first and holds on to those before it. So adding a part, showing the list
//! to queries and letting an old version of it go each touch one part, however many there are.

use std::sync::Arc;

use crate::chunk::Part;
use crate::input::Offset;

/// The parts of an open chunk; a copy shares them all.
#[derive(Clone, Default)]
pub struct Parts(Option<Arc<Linked>>);

/// A part, and those before it.
pub struct Linked {
    part: Part,
    earlier: Parts,
}

impl std::ops::Deref for Linked {
    type Target = Part;

    fn deref(&self) -> &Part {
        &self.part
    }
}

impl Parts {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds a part, whose traces follow those that are there.
    pub fn push(&mut self, part: Part) {
        let earlier = std::mem::take(self);
        self.0 = Some(Arc::new(Linked { part, earlier }));
    }

    /// The parts, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<Linked>> {
        std::iter::successors(self.0.as_ref(), |linked| linked.earlier.0.as_ref())
    }

    /// The parts in order of offset.
    #[must_use]
    pub fn in_order(&self) -> Vec<&Part> {
        reversed(self.newest_first())
    }

    /// The parts that begin at `from` or behind it, in order of offset.
    #[must_use]
    pub fn since(&self, from: Offset) -> Vec<&Part> {
        reversed(self.newest_first().take_while(|part| part.first_offset() >= from))
    }
}

fn reversed<'a>(newest_first: impl Iterator<Item = &'a Arc<Linked>>) -> Vec<&'a Part> {
    let mut parts: Vec<&Part> = newest_first.map(|linked| &linked.part).collect();
    parts.reverse();
    parts
}

/// Without those before it.
impl std::fmt::Debug for Linked {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.part.fmt(formatter)
    }
}

/// One after another, as for dropping.
impl std::fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.in_order()).finish()
    }
}

/// One after another: a long list must not need a deep stack.
impl Drop for Parts {
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(linked) = next {
            next = Arc::into_inner(linked).and_then(|mut linked| linked.earlier.0.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str) -> Part {
        let mut part = Part::default();
        part.text.extend_from_slice(text.as_bytes());
        part
    }

    fn texts(parts: &Parts) -> Vec<&[u8]> {
        parts.in_order().iter().map(|part| part.text.as_slice()).collect()
    }

    #[test]
    fn a_copy_keeps_what_it_had_and_shares_it() {
        let mut parts = Parts::default();
        assert!(parts.is_empty() && parts.newest_first().next().is_none());
        parts.push(part("a"));
        parts.push(part("b"));
        let copy = parts.clone();
        parts.push(part("c"));
        assert_eq!(
            (texts(&copy), texts(&parts)),
            (vec![&b"a"[..], b"b"], vec![&b"a"[..], b"b", b"c"])
        );
        let back = |parts: &Parts, steps| {
            parts.newest_first().nth(steps).map(|part| std::ptr::from_ref::<Part>(part))
        };
        assert_eq!(back(&copy, 0), back(&parts, 1));
        drop(parts);
        assert_eq!(texts(&copy), [b"a", b"b"]);
    }

    #[test]
    fn a_long_list_goes_without_a_deep_stack() {
        let mut parts = Parts::default();
        (0..200_000).for_each(|_| parts.push(Part::default()));
        let work = move || (format!("{parts:?}").len(), drop(parts));
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(work);
        let (shown, ()) = thread.expect("a thread").join().expect("it does not overflow");
        assert!(shown > 200_000);
    }
}
