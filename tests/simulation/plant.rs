//! Planted bugs: what the simulator must catch. They sit in the ports, and in a wrapper of stages.

use trailproof_topology::effect::{Effect, LANES};
use trailproof_topology::input::{Input, Millis, Position};
use trailproof_topology::key::{Table, single};
use trailproof_topology::stage::{Batch, LoadError, Stage, Wanted};
use trailproof_topology::state::{Change, Rows};

/// A bug, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Plant {
    #[default]
    None,
    /// A commit forgets one row of this table.
    DropRow(u8),
    /// A flush makes some tables durable and others not.
    TornFlush,
    /// A crash loses a commit in the middle.
    LostMiddle,
    /// A crash leaves commits behind the last savepoint.
    FlushAnywhere,
    /// Records are published and the lanes are not.
    PublishWithoutLanes,
    /// Half of the records of a failed publish are there.
    TornPublish,
    /// Lane positions read as zero now and then.
    ForgetLanes,
    /// An owner that was replaced can still publish.
    NoFence,
    /// A put says it is done before it is.
    PutLater,
    /// A put replaces what is there.
    Overwrite,
    /// Two effects of a lane change places.
    SwapEffects,
    /// Stream time as the last append, not the greatest.
    NoClamp,
    /// Records come again from before the position.
    Redeliver,
    /// A poll leaves a record out.
    PollHole,
    /// Append times are those of the poll.
    PollClock,
    /// A tick is answered and not appended.
    TickLies,
    /// Catalog versions are found late.
    LateCatalog,
    /// Marks count whatever their hash.
    TrustMarks,
    /// Object keys depend on where the batch began.
    KeyOfBatch,
    /// Files go to another account's bucket.
    OtherBucket,
    /// An outbox row goes missing at commit.
    DropEffect,
}

impl Plant {
    /// Every bug that must be caught.
    pub(crate) const ALL: [Self; 30] = [
        Self::DropRow(Table::Tail as u8),
        Self::DropRow(Table::Segment as u8),
        Self::DropRow(Table::Chunk as u8),
        Self::DropRow(Table::Window as u8),
        Self::DropRow(Table::Count as u8),
        Self::DropRow(Table::Sequence as u8),
        Self::DropRow(Table::Catalog as u8),
        Self::DropRow(Table::Chain as u8),
        Self::DropRow(Table::Pending as u8),
        Self::DropRow(Table::Boundary as u8),
        Self::TornFlush,
        Self::LostMiddle,
        Self::FlushAnywhere,
        Self::PublishWithoutLanes,
        Self::TornPublish,
        Self::ForgetLanes,
        Self::NoFence,
        Self::PutLater,
        Self::Overwrite,
        Self::SwapEffects,
        Self::NoClamp,
        Self::Redeliver,
        Self::PollHole,
        Self::PollClock,
        Self::TickLies,
        Self::LateCatalog,
        Self::TrustMarks,
        Self::KeyOfBatch,
        Self::OtherBucket,
        Self::DropEffect,
    ];
}

/// A stage with a bug planted around it, or none.
pub(crate) struct Planted<S> {
    pub(crate) inner: S,
    plant: Plant,
    batches: u64,
    last_ms: Millis,
    first: Option<u64>,
}

impl<S: Stage> Stage for Planted<S> {
    type Setup = (S::Setup, Plant);

    fn load<R: Rows>((setup, plant): Self::Setup, rows: &R) -> Result<Self, LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        let inner = S::load(setup, rows)?;
        Ok(Self { inner, plant, batches: 0, last_ms: 0, first: None })
    }

    fn apply(&mut self, input: &Input<'_>, batch: &mut Batch) -> Result<(), Wanted> {
        self.inner.apply(input, batch)?;
        self.last_ms = input.append_time_ms;
        self.first.get_or_insert(input.offset);
        Ok(())
    }

    fn read<R: Rows>(&mut self, rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        self.inner.read(rows)
    }

    fn finish(&mut self, batch: &mut Batch) {
        self.inner.finish(batch);
        self.batches += 1;
        let first = self.first.take().unwrap_or_default();
        match self.plant {
            Plant::DropRow(table) if self.batches.is_multiple_of(2) => drop_row(batch, table),
            Plant::DropEffect if self.batches.is_multiple_of(3) => {
                drop_row(batch, Table::Outbox as u8)
            }
            Plant::SwapEffects => swap_effects(batch),
            Plant::KeyOfBatch => rename(batch, &|file| file.object.push_str(&format!("-{first}"))),
            Plant::OtherBucket if self.batches.is_multiple_of(3) => {
                rename(batch, &|file| file.bucket = "cts-account-0".to_owned());
            }
            Plant::NoClamp => {
                let position = *self.inner.position();
                let torn = Position { stream_time_ms: self.last_ms, ..position };
                batch.changes.put(single(Table::Position), torn.encode());
            }
            _ => {}
        }
    }

    fn savepoint(&mut self, batch: &mut Batch) {
        self.inner.savepoint(batch);
        if let Plant::DropRow(table) = self.plant {
            drop_row(batch, table);
        }
    }

    fn position(&self) -> &Position {
        self.inner.position()
    }

    fn next_boundary_ms(&self) -> Option<Millis> {
        self.inner.next_boundary_ms()
    }
}

/// Leaves out the last row that the batch puts into a table.
fn drop_row(batch: &mut Batch, table: u8) {
    let of_table =
        |change: &Change| matches!(change, Change::Put(key, _) if key.first() == Some(&table));
    if let Some(at) = batch.changes.list.iter().rposition(of_table) {
        batch.changes.list.remove(at);
    }
}

/// The first two effects of a lane that the batch stores change places.
fn swap_effects(batch: &mut Batch) {
    let outbox = Table::Outbox as u8;
    let mut last: [Option<usize>; LANES] = [None; LANES];
    for at in 0..batch.changes.list.len() {
        let Change::Put(key, row) = &batch.changes.list[at] else { continue };
        if key.first() != Some(&outbox) {
            continue;
        }
        let (lane, row) = (usize::from(key[1]), row.clone());
        if let Some(before) = last[lane].take()
            && let Change::Put(_, other) = &mut batch.changes.list[before]
        {
            let other = std::mem::replace(other, row);
            if let Change::Put(_, own) = &mut batch.changes.list[at] {
                *own = other;
            }
            return;
        }
        last[lane] = Some(at);
    }
}

/// Changes the trace files that the batch sends on their way.
fn rename(batch: &mut Batch, change: &dyn Fn(&mut trailproof_topology::effect::SegmentFile)) {
    for put in &mut batch.changes.list {
        if let Change::Put(key, row) = put
            && key.first() == Some(&(Table::Outbox as u8))
            && let Some(Effect::Segment(mut file)) = Effect::decode(row)
        {
            change(&mut file);
            *row = Effect::Segment(file).encode();
        }
    }
}
