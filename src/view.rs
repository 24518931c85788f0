//! The view: queries over all partitions.
//!
//! Each partition's worker publishes its open chunks after a commit; a query pairs them with a
//! snapshot of the store as of the same commit, so that a trace that moves from an open chunk into
//! a closed one is seen once. Partitions are searched in parallel, their answers merged, and only
//! the rows of the answer are read.

pub mod visible;

use std::sync::{Arc, PoisonError, RwLock};

use trailproof_topology::input::Position;
use trailproof_topology::invariant;
use trailproof_topology::key::{self, Table};
use trailproof_topology::query::answer::{self, Answer, Found, Hit, Row};
use trailproof_topology::query::fetch::Fetcher;
use trailproof_topology::query::search::search;
use trailproof_topology::query::source::Partition;
use trailproof_topology::query::{Cursor, OpenView, Query};
use trailproof_topology::stage::{Damage, LoadError};
use trailproof_topology::state::Rows;

use crate::store::{self, StateStore};

use visible::{Pass, Visible};

/// Tries to find a snapshot and open chunks of the same commit. Commits are milliseconds apart and
/// publishing follows at once, so the second try nearly always succeeds.
const TRIES_MAX: usize = 10_000;

/// What went wrong with a query.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The query itself is out of bounds.
    #[error("{0}")]
    Refused(String),
    /// A partition has committed but not published for too long.
    #[error("partition {0} is between two commits; ask again")]
    Busy(u32),
    /// The rows could not be read.
    #[error("cannot read partition {partition}")]
    Read {
        /// The partition.
        partition: u32,
        /// Why.
        #[source]
        source: LoadError<store::Error>,
    },
}

/// The open chunks a worker last published, and the days that may be read. Shared by a worker, the
/// retention and the queries.
#[derive(Clone, Debug, Default)]
pub struct Published {
    open: Arc<RwLock<Arc<OpenView>>>,
    /// The days that queries may read.
    pub visible: Visible,
}

impl Published {
    /// Publishes the open chunks as of a commit, right after it.
    pub fn publish(&self, open: OpenView) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(open);
    }

    /// What was last published.
    #[must_use]
    pub fn latest(&self) -> Arc<OpenView> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One partition as queries see it.
#[derive(Debug)]
pub struct Viewed<S> {
    /// Its number.
    pub partition: u32,
    /// Its rows.
    pub store: Arc<S>,
    /// Its open chunks.
    pub published: Published,
}

/// The view over the partitions of topic `traces` that are here, in order of number.
#[derive(Debug)]
pub struct View<S> {
    partitions: RwLock<Partitions<S>>,
}

#[derive(Debug)]
struct Partitions<S> {
    list: Vec<Arc<Viewed<S>>>,
    /// Grows when the list changes.
    changes: u64,
}

/// A partition pinned for one query.
struct Pinned<'a, S: StateStore + 'a> {
    number: u32,
    rows: S::Snapshot<'a>,
    open: Arc<OpenView>,
    pass: Pass,
}

impl<S: StateStore> Viewed<S> {
    /// A snapshot and open chunks of one commit.
    fn pin(&self) -> Result<Pinned<'_, S>, Error> {
        // Before the snapshot: what it shows must not be dropped while this query runs.
        let pass = self.published.visible.enter();
        for _ in 0..TRIES_MAX {
            let open = self.published.latest();
            let rows = self.store.snapshot();
            let row = rows
                .get(&key::single(Table::Position))
                .map_err(|error| self.failed(LoadError::Store(error)))?;
            let position = row.map_or(Some(Position::default()), |row| Position::decode(&row));
            let Some(position) = position else {
                let reason = "it does not decode".to_owned();
                return Err(self.failed(Damage { table: "position", reason }.into()));
            };
            if invariant::position_matches(&position, &open.position) {
                return Ok(Pinned { number: self.partition, rows, open, pass });
            }
            std::thread::yield_now();
        }
        Err(Error::Busy(self.partition))
    }

    fn failed(&self, source: LoadError<store::Error>) -> Error {
        Error::Read { partition: self.partition, source }
    }
}

impl<S: StateStore + Send + Sync> View<S>
where
    for<'a> S::Snapshot<'a>: Send + Sync,
{
    /// A view over these partitions.
    #[must_use]
    pub fn new(partitions: Vec<Viewed<S>>) -> Self {
        let list = partitions.into_iter().map(Arc::new).collect();
        Self { partitions: RwLock::new(Partitions { list, changes: 0 }) }
    }

    /// Lets queries see a partition, in place of what they saw under its number.
    pub fn insert(&self, viewed: Viewed<S>) {
        self.change(viewed.partition, Some(viewed));
    }

    /// Queries that begin from now on do not see the partition.
    pub fn remove(&self, partition: u32) {
        self.change(partition, None);
    }

    fn change(&self, partition: u32, viewed: Option<Viewed<S>>) {
        let mut partitions = self.partitions.write().unwrap_or_else(PoisonError::into_inner);
        partitions.list.retain(|own| own.partition != partition);
        partitions.list.extend(viewed.map(Arc::new));
        partitions.list.sort_by_key(|own| own.partition);
        partitions.changes += 1;
    }

    /// The partitions that queries see, and a number that grows when they change: an answer is
    /// about these partitions where the number is the same before and after.
    #[must_use]
    pub fn coverage(&self) -> (Vec<u32>, u64) {
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        (partitions.list.iter().map(|own| own.partition).collect(), partitions.changes)
    }

    /// Answers a query. Blocks; call it off the server's threads.
    ///
    /// # Errors
    /// [`Error::Refused`] (never), [`Error::Busy`] (later), [`Error::Read`] (as the store says).
    pub fn query(&self, query: &Query) -> Result<Answer, Error> {
        query.check().map_err(Error::Refused)?;
        let here = self.partitions.read().unwrap_or_else(PoisonError::into_inner).list.clone();
        let pinned: Vec<_> = here.iter().map(|one| one.pin()).collect::<Result<_, _>>()?;
        let found: Vec<(u32, Found)> = in_parallel(&pinned, |one| {
            let (number, days_from) = (one.number, one.pass.from);
            let partition = Partition { number, rows: &one.rows, open: &one.open, days_from };
            let found = search(query, partition);
            found.map(|found| (one.number, found)).map_err(|source| read_error(one, source))
        })?;
        let (mut answer, hits) = answer::merge(query, found);
        let rows = in_parallel(&pinned, |one| fetch(one, &hits))?;
        let wanted = hits.len();
        let mut rows: Vec<(usize, Row)> = rows.into_iter().flatten().collect();
        rows.sort_unstable_by_key(|(at, _)| *at);
        answer.bounds.unfetched += (wanted - rows.len()) as u64;
        answer.rows = rows.into_iter().map(|(_, row)| row).collect();
        Ok(answer)
    }
}

/// Reads the rows of one partition; each with its place in the answer.
fn fetch<S: StateStore>(
    one: &Pinned<'_, S>,
    hits: &[(Cursor, Hit)],
) -> Result<Vec<(usize, Row)>, Error> {
    let mut fetcher = Fetcher::new(&one.rows, hits.len());
    let mut rows = Vec::new();
    for (at, (cursor, hit)) in hits.iter().enumerate() {
        if cursor.partition != one.number {
            continue;
        }
        let trace = fetcher.hit(hit).map_err(|source| read_error(one, source))?;
        if let Some(trace) = trace {
            rows.push((at, Row { cursor: *cursor, segment: hit.segment.clone(), trace }));
        }
    }
    Ok(rows)
}

fn read_error<S: StateStore>(one: &Pinned<'_, S>, source: LoadError<store::Error>) -> Error {
    Error::Read { partition: one.number, source }
}

/// Does the same for every partition, each on a thread of its own but the first.
fn in_parallel<P: Sync, T: Send>(
    partitions: &[P],
    work: impl Fn(&P) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let Some((first, rest)) = partitions.split_first() else { return Ok(Vec::new()) };
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = rest.iter().map(|one| scope.spawn(move || work(one))).collect();
        let mut done = vec![work(first)?];
        for other in others {
            done.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(done)
    })
}
