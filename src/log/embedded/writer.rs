//! The writer: one thread that turns queued work into synced groups.
//!
//! A group is all that waits when the writer is free, so nothing waits for a timer: while one group
//! is being synced the next one gathers.
//!
//! **Invariant:** after a failed write nothing is written until the database was reopened and the
//! ends of all partitions were read from it again.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{PoisonError, RwLockReadGuard};
use std::time::{Duration, Instant};

use rocksdb::{DB, WriteBatch};
use trailproof_topology::effect::{LANES, Topic};
use trailproof_topology::input::Offset;

use super::database::{self, Head, Lanes};
use super::{APPEND_BYTES_MAX, Layout, PartitionAppend, RECORD_BYTES_MAX, Shared, locked};
use crate::log::Error;

/// Bytes of a group; one piece of work may go beyond it.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// How often a failed log tries to recover.
const RECOVER_EVERY: Duration = Duration::from_millis(250);
/// Free space needed beyond a write buffer before a failed database is reopened.
const RECOVER_SPARE_BYTES: usize = 4 << 20;

/// The answer to one piece of work.
pub(super) type Outcome = Result<Vec<Range<Offset>>, Error>;

/// What the writer is asked to do.
pub(super) enum Work {
    Append { appends: Vec<PartitionAppend>, lanes: Option<(String, [u64; LANES])> },
    Trim { topic: Topic, partition: u32, before: Offset },
}

impl Work {
    /// Checks the work against the log's bounds; its size in bytes.
    pub(super) fn check(&self, layout: &Layout) -> Result<usize, Error> {
        let Self::Append { appends, .. } = self else { return Ok(0) };
        let mut bytes = 0;
        for append in appends {
            layout.index(append.topic, append.partition)?;
            bytes += append.records.bytes_len();
            if append.records.oversized() {
                return Err(Error::Refused(format!(
                    "a record for topic {} is over {RECORD_BYTES_MAX} bytes",
                    append.topic.name()
                )));
            }
        }
        if bytes > APPEND_BYTES_MAX {
            return Err(Error::Refused(format!(
                "an append has {bytes} bytes, the log takes {APPEND_BYTES_MAX}; send fewer records"
            )));
        }
        Ok(bytes)
    }
}

struct Job {
    work: Work,
    bytes: usize,
    reply: SyncSender<Outcome>,
}

/// Work that waits for the writer.
#[derive(Default)]
pub(super) struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    pub(super) closed: bool,
}

/// Queues work, once there is room for it.
pub(super) fn enqueue(
    shared: &Shared,
    work: Work,
    bytes: usize,
) -> Result<Receiver<Outcome>, Error> {
    let (reply, outcome) = sync_channel(1);
    let options = &shared.options;
    let mut queue = locked(&shared.queue);
    while !queue.closed
        && !queue.jobs.is_empty()
        && (queue.jobs.len() >= options.queue_appends_max
            || queue.bytes + bytes > options.queue_bytes_max)
    {
        queue = shared.drained.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
    if queue.closed {
        return Err(Error::Unavailable("the log is closing".to_owned()));
    }
    queue.bytes += bytes;
    queue.jobs.push_back(Job { work, bytes, reply });
    drop(queue);
    shared.filled.notify_one();
    Ok(outcome)
}

/// Takes a group off the queue. `None` once the queue is closed and empty; an empty group after
/// `patience`.
fn take_group(shared: &Shared, patience: Option<Duration>) -> Option<Vec<Job>> {
    let mut queue = locked(&shared.queue);
    while queue.jobs.is_empty() {
        if queue.closed {
            return None;
        }
        match patience {
            None => queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = shared.filled.wait_timeout(queue, patience);
                let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                queue = back;
                if timeout.timed_out() {
                    break;
                }
            }
        }
    }
    let mut group = Vec::new();
    let mut bytes = 0;
    while let Some(job) = queue.jobs.front() {
        if !group.is_empty() && bytes + job.bytes > GROUP_BYTES_MAX {
            break;
        }
        bytes += job.bytes;
        group.extend(queue.jobs.pop_front());
    }
    queue.bytes -= bytes;
    drop(queue);
    shared.drained.notify_all();
    Some(group)
}

/// Runs the writer until the queue is closed and empty.
pub(super) fn run(shared: &Shared) {
    let mut failed: Option<(Failure, Instant)> = None;
    loop {
        let patience = failed.as_ref().map(|_| RECOVER_EVERY);
        let Some(group) = take_group(shared, patience) else { return };
        if let Some((why, since)) = &mut failed
            && since.elapsed() >= RECOVER_EVERY
        {
            match recover(shared) {
                Ok(()) => failed = None,
                Err(error) => (*why, *since) = (Failure::of(error), Instant::now()),
            }
            locked(&shared.durable).failed = failed.as_ref().map(|(why, _)| why.text.clone());
        }
        if let Some((why, _)) = &failed {
            refuse(group, why);
        } else if !group.is_empty()
            && let Err(why) = commit(shared, group)
        {
            locked(&shared.durable).failed = Some(why.text.clone());
            failed = Some((why, Instant::now()));
        }
    }
}

/// Why the log takes nothing at the moment. It goes on by itself, whatever it was.
struct Failure {
    text: String,
    disk_full: bool,
}

impl Failure {
    fn of(error: Error) -> Self {
        let disk_full = matches!(error, Error::DiskFull(_));
        let text = match error {
            Error::Unavailable(text)
            | Error::DiskFull(text)
            | Error::Corrupt(text)
            | Error::Fenced(text) => text,
            other => other.to_string(),
        };
        Self { text, disk_full }
    }

    fn answer(&self) -> Error {
        let text = self.text.clone();
        if self.disk_full { Error::DiskFull(text) } else { Error::Unavailable(text) }
    }
}

fn refuse(group: Vec<Job>, why: &Failure) {
    for job in group {
        // Whoever asked may have gone; nobody else wants the answer.
        let _ = job.reply.send(Err(why.answer()));
    }
}

/// A group as it will be once it is written.
struct Draft {
    batch: WriteBatch,
    heads: Vec<Head>,
    lanes: Lanes,
    trimmed: Vec<(Topic, u32, Offset)>,
}

/// Writes and syncs a group and answers it. An error says why the log has failed.
fn commit(shared: &Shared, group: Vec<Job>) -> Result<(), Failure> {
    let guard = shared.db.read().unwrap_or_else(PoisonError::into_inner);
    let mut draft = Draft {
        batch: WriteBatch::default(),
        heads: locked(&shared.durable).heads.clone(),
        lanes: Lanes::new(),
        trimmed: Vec::new(),
    };
    let mut group = group;
    let done = build(shared, &guard, &mut group, &mut draft).and_then(|outcomes| {
        let db = database_of(&guard)?;
        let written = db.write(std::mem::take(&mut draft.batch)).and_then(|()| db.flush_wal(true));
        written.map_err(|error| database::classify(&shared.path, &error))?;
        Ok(outcomes)
    });
    let outcomes = match done {
        Ok(outcomes) => outcomes,
        Err(error) => {
            let why = Failure::of(error);
            refuse(group, &why);
            return Err(why);
        }
    };
    let mut durable = locked(&shared.durable);
    durable.heads = draft.heads;
    durable.lanes.append(&mut draft.lanes);
    drop(durable);
    shared.grown.notify_all();
    for (job, outcome) in group.into_iter().zip(outcomes) {
        let _ = job.reply.send(Ok(outcome));
    }
    drop_files(&guard, &draft.trimmed);
    Ok(())
}

pub(super) fn database_of<'a>(guard: &'a RwLockReadGuard<'_, Option<DB>>) -> Result<&'a DB, Error> {
    guard.as_ref().ok_or_else(|| Error::Unavailable("its database is being reopened".to_owned()))
}

/// Gives offsets and times to a group; the offsets of each piece of work.
fn build(
    shared: &Shared,
    guard: &RwLockReadGuard<'_, Option<DB>>,
    group: &mut [Job],
    draft: &mut Draft,
) -> Result<Vec<Vec<Range<Offset>>>, Error> {
    let now_ms = (shared.options.clock)();
    let mut outcomes = Vec::with_capacity(group.len());
    for job in group {
        let mut given = Vec::new();
        match &mut job.work {
            Work::Append { appends, lanes } => {
                for append in appends {
                    let index = shared.layout.index(append.topic, append.partition)?;
                    let head = &mut draft.heads[index];
                    head.time_ms = head.time_ms.max(now_ms);
                    let first = head.end;
                    for row in &mut append.records.rows {
                        row.stamp(head.time_ms);
                        let key = database::row_key(append.topic, append.partition, head.end);
                        draft.batch.put(key, &row.value);
                        head.end += Offset::from(row.count);
                    }
                    given.push(first..head.end);
                }
                if let Some((owner, lanes)) = lanes.take() {
                    draft.batch.put(database::lanes_key(&owner), database::encode_words(&lanes));
                    draft.lanes.insert(owner, lanes);
                }
            }
            Work::Trim { topic, partition, before } => {
                trim(shared, database_of(guard)?, (*topic, *partition, *before), draft)?;
            }
        }
        outcomes.push(given);
    }
    Ok(outcomes)
}

/// Drafts the removal of whole rows before an offset.
fn trim(
    shared: &Shared,
    db: &DB,
    (topic, partition, before): (Topic, u32, Offset),
    draft: &mut Draft,
) -> Result<(), Error> {
    let head = &mut draft.heads[shared.layout.index(topic, partition)?];
    let durable_end = locked(&shared.durable).heads[shared.layout.index(topic, partition)?].end;
    if before <= head.start {
        return Ok(());
    }
    let start = if before >= durable_end {
        durable_end
    } else {
        let mut rows = db.raw_iterator();
        rows.seek_for_prev(database::row_key(topic, partition, before));
        rows.status().map_err(|error| database::classify(&shared.path, &error))?;
        rows.key().and_then(database::base_of).unwrap_or(head.start).max(head.start)
    };
    head.start = start;
    // Readers learn of the new start before the rows go.
    locked(&shared.durable).heads[shared.layout.index(topic, partition)?].start = start;
    let time = head.time_ms.cast_unsigned();
    let words = database::encode_words(&[start, time]);
    draft.batch.put(database::start_key(topic, partition), words);
    let (first, last) =
        (database::row_key(topic, partition, 0), database::row_key(topic, partition, start));
    draft.batch.delete_range(first, last);
    draft.trimmed.push((topic, partition, start));
    Ok(())
}

/// Gives whole files of trimmed rows back at once. What fails here a compaction does later.
fn drop_files(guard: &RwLockReadGuard<'_, Option<DB>>, trimmed: &[(Topic, u32, Offset)]) {
    for (topic, partition, start) in trimmed {
        if let (Some(db), Some(last)) = (guard.as_ref(), start.checked_sub(1)) {
            let first = database::row_key(*topic, *partition, 0);
            let _ = db.delete_file_in_range(first, database::row_key(*topic, *partition, last));
        }
    }
}

/// Reopens the database of a failed log, once the disk takes writes again.
fn recover(shared: &Shared) -> Result<(), Error> {
    let needed = shared.options.write_buffer_bytes + RECOVER_SPARE_BYTES;
    database::probe_space(&shared.path, needed).map_err(|error| {
        let text = format!(
            "the disk of {} takes no writes ({error}); the log goes on by itself when \
             {} MiB can be written",
            shared.path.display(),
            needed >> 20
        );
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull(text),
            _ => Error::Unavailable(text),
        }
    })?;
    let mut guard = shared.db.write().unwrap_or_else(PoisonError::into_inner);
    *guard = None;
    let db = database::open(&shared.path, &shared.options)?;
    let heads = database::heads(&shared.path, &db, &shared.layout)?;
    let lanes = database::lanes(&shared.path, &db)?;
    let mut durable = locked(&shared.durable);
    let lost = durable.heads.iter().zip(&heads).any(|(known, found)| found.end < known.end);
    if lost {
        return Err(Error::Corrupt(format!(
            "{}: the disk lost records that it had synced",
            shared.path.display()
        )));
    }
    durable.heads = heads;
    durable.lanes = lanes;
    *guard = Some(db);
    drop(durable);
    shared.grown.notify_all();
    Ok(())
}
