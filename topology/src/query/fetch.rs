//! Fetching stored traces out of closed chunks.

use std::sync::Arc;

use crate::chunk::{Chunk, Slot};
use crate::input::Offset;
use crate::key::Table;
use crate::parts::Linked;
use crate::query::answer::Hit;
use crate::query::source::Source;
use crate::run::place::Places;
use crate::run::{ChunkId, Read, Readable, whole};
use crate::stage::LoadError;

/// Chunks kept open, the last used ones.
const OPEN_MAX: usize = 24;

/// Where a trace is stored.
#[derive(Clone, Debug)]
pub enum Place {
    /// In an open part, by index of its entry.
    Open(Arc<Linked>, usize),
    /// In a closed chunk.
    Chunk(ChunkId),
}

/// Reads traces, opening at most so many chunks.
#[derive(Debug)]
pub struct Fetcher<'a, R> {
    rows: &'a R,
    opened: Vec<Opened>,
    /// Places of a run's block: the run's first offset and level, and the block.
    places: Option<((Offset, u8, usize), Places)>,
    chunks_left: usize,
}

#[derive(Debug)]
struct Opened {
    id: ChunkId,
    slots: Vec<Slot>,
    text: Vec<u8>,
}

impl<'a, R: Readable> Fetcher<'a, R> {
    /// A fetcher that opens at most `chunks_max` chunks.
    #[must_use]
    pub fn new(rows: &'a R, chunks_max: usize) -> Self {
        Self { rows, opened: Vec::new(), places: None, chunks_left: chunks_max }
    }

    /// The stored bytes of a hit; `None` where the bound is reached.
    ///
    /// # Errors
    /// The store's, or a damaged or missing chunk.
    pub fn hit(&mut self, hit: &Hit) -> Read<Option<Vec<u8>>, R> {
        match &hit.place {
            Place::Open(part, at) => {
                let entry = whole(part.entries.get(*at), "an open part is short")?;
                Ok(Some(part.trace(entry).to_vec()))
            }
            Place::Chunk(chunk) => Ok(self.stored(chunk, hit.offset)?.map(<[u8]>::to_vec)),
        }
    }

    /// The stored bytes of a trace in a closed chunk; `None` where the bound is reached.
    fn stored(&mut self, chunk: &ChunkId, offset: Offset) -> Read<Option<&[u8]>, R> {
        let Some(opened) = self.open(chunk)? else { return Ok(None) };
        let at = opened.slots.binary_search_by_key(&offset, |slot| slot.offset).ok();
        let trace = at.and_then(|at| {
            let slot = &opened.slots[at];
            opened.text.get(slot.start as usize..(slot.start + slot.length) as usize)
        });
        whole(trace.map(Some), "a chunk lacks a trace of its columns")
    }

    /// The stored bytes of a trace of a source that is no open part.
    pub(super) fn trace(
        &mut self,
        source: &Source<'a, R>,
        block: usize,
        at: usize,
    ) -> Read<Option<&[u8]>, R> {
        match source {
            Source::Part(_, part, _) => {
                // The part outlives this call, but not the fetcher's borrow: copy nothing.
                let entry = whole(part.entries.get(at), "an open part is short")?;
                Ok(Some(part.trace(entry)))
            }
            Source::Row(chunk, columns, _) => self.stored(chunk, columns.offsets[at]),
            Source::Run(run) => {
                let name = (run.header.id.first_offset, run.header.id.level, block);
                let places = match self.places.take() {
                    Some((known, places)) if known == name => places,
                    _ => run.places(block)?,
                };
                let chunk = places.chunks[usize::from(places.codes[at])].clone();
                let offset = places.offsets[at];
                self.places = Some((name, places));
                self.stored(&chunk, offset)
            }
        }
    }

    fn open(&mut self, id: &ChunkId) -> Read<Option<&Opened>, R> {
        if let Some(at) = self.opened.iter().position(|opened| opened.id == *id) {
            let opened = self.opened.remove(at);
            self.opened.push(opened);
            return Ok(self.opened.last());
        }
        if self.chunks_left == 0 {
            return Ok(None);
        }
        self.chunks_left -= 1;
        let row = self.rows.get(&id.key(Table::Chunk)).map_err(LoadError::Store)?;
        let row = whole(row, "a chunk is missing")?;
        let chunk = whole(Chunk::decode(&row), "a chunk does not decode")?;
        let text = whole(chunk.text(), "a chunk's frame does not decode")?;
        if self.opened.len() >= OPEN_MAX {
            self.opened.remove(0);
        }
        self.opened.push(Opened { id: id.clone(), slots: chunk.slots, text });
        Ok(self.opened.last())
    }
}
