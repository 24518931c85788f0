//! Delivering effects: building files, putting objects, telling what became of them.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use trailproof_topology::catalog::{Compression, tracker_key};
use trailproof_topology::digest::hex_sha256;
use trailproof_topology::effect::{BytesObject, Effect, OutRecord, SegmentFile, Topic};
use trailproof_topology::files::{File, FilesRecord};
use trailproof_topology::invariant;
use trailproof_topology::key::{SegmentId, Table};
use trailproof_topology::state::Rows;

use super::{Delivered, Error};
use crate::codec::{self, Encoder};
use crate::object::{self, Metadata, ObjectStore, Put};
use crate::store::StateStore;
use crate::turns::{Turn, Turns};

/// What to do about an object with other content.
const ADVICE: &str = "Move it away if somebody planted it; if this installation's log was \
                      replaced, give it buckets of its own";

/// Bytes of a file on its way for which it takes a turn.
const TURN_BYTES: u64 = 512 << 10;

/// By how much an ordinary text shrinks when it is compressed, more or less.
const COMPRESSED: u64 = 5;

/// What became of one effect.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Records to publish.
    pub(super) records: Vec<OutRecord>,
    /// What is new in the store.
    pub(super) delivered: Delivered,
}

/// Delivers effects in order; the outcomes of those before the first failure, and the failure.
/// Up to `puts` effects are delivered at the same time, trace files when it is their turn; none is
/// begun once `go_on` says no.
pub(super) fn deliver<T: StateStore + ?Sized>(
    store: &T,
    objects: &dyn ObjectStore,
    effects: &[Effect],
    (puts, turns): (usize, Option<&Turns>),
    go_on: &(dyn Fn() -> bool + Sync),
) -> (Vec<Outcome>, Option<Error>) {
    let mut outcomes = Vec::with_capacity(effects.len());
    let snapshot = store.snapshot();
    let mut left = effects;
    while !left.is_empty() {
        let (stretch, behind) = left.split_at(stretch_len(left));
        left = behind;
        let heavy = |effect: &&Effect| !matches!(effect, Effect::Records(_));
        // One at a time stops at the first failure, as a crash would.
        let threads = stretch.iter().filter(heavy).count().min(puts).max(1);
        let results = in_threads(threads, stretch, go_on, &|effect, go_on| {
            // Held until the file is put, or is not.
            let _turn = turn_of(effect, turns, go_on)?;
            Some(one(&snapshot, objects, effect))
        });
        let begun = results.len();
        for result in results {
            match result {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => return (outcomes, Some(error)),
            }
        }
        if begun < stretch.len() {
            break;
        }
    }
    (outcomes, None)
}

/// How many of these effects may be delivered at the same time: never two of one chain. Each digest
/// names the one before it, so one that is there must find that one there.
fn stretch_len(effects: &[Effect]) -> usize {
    let mut chains = BTreeSet::new();
    for (at, effect) in effects.iter().enumerate() {
        let Effect::Objects(list) = effect else { continue };
        // The names of a digest and of its note end with what tells its chain.
        if !chains.insert(list.last().and_then(|last| last.object.rsplit('_').next())) {
            return at;
        }
    }
    effects.len()
}

/// The turn of an effect, by its size; `None` where it is not to be begun any more.
fn turn_of<'a>(
    effect: &Effect,
    turns: Option<&'a Turns>,
    go_on: &dyn Fn() -> bool,
) -> Option<Option<Turn<'a>>> {
    let (Some(turns), Effect::Segment(file)) = (turns, effect) else { return Some(None) };
    let bytes = stored_bytes_about(file, file.compression);
    turns.take_many(bytes.div_ceil(TURN_BYTES) as usize, go_on).map(Some)
}

/// The bytes that a trace file will have when stored, more or less.
fn stored_bytes_about(file: &SegmentFile, compression: Compression) -> u64 {
    match compression {
        Compression::Json => file.raw_bytes,
        Compression::Zstd | Compression::Gzip => file.raw_bytes / COMPRESSED,
    }
}

/// Delivers one effect while the function it is given says so; `None` where it did not begin.
type DeliverOne<'a> =
    dyn Fn(&Effect, &dyn Fn() -> bool) -> Option<Result<Outcome, Error>> + Sync + 'a;

/// What became of the effects that were begun, in order: none is begun after a failure, or after
/// `one` said that it did not begin another. `one` is told when to give up what it has not begun:
/// not because of one behind it, whose failure would then be met by nobody.
fn in_threads(
    threads: usize,
    effects: &[Effect],
    go_on: &(dyn Fn() -> bool + Sync),
    one: &DeliverOne,
) -> Vec<Result<Outcome, Error>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let work = || {
        let mut results = Vec::new();
        while failed.load(Ordering::Acquire) == usize::MAX && go_on() {
            let at = next.fetch_add(1, Ordering::AcqRel);
            let Some(effect) = effects.get(at) else { break };
            let result = one(effect, &|| at < failed.load(Ordering::Acquire) && go_on());
            if !matches!(result, Some(Ok(_))) {
                failed.fetch_min(at, Ordering::AcqRel);
            }
            results.push((at, result));
        }
        results
    };
    let mut results = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut results = work();
        for other in others {
            results.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    });
    results.sort_unstable_by_key(|(at, _)| *at);
    // What lies behind one that was not begun is made again.
    results.into_iter().map_while(|(_, result)| result).collect()
}

fn one<R: Rows<Error = crate::store::Error>>(
    rows: &R,
    objects: &dyn ObjectStore,
    effect: &Effect,
) -> Result<Outcome, Error> {
    match effect {
        Effect::Records(records) => Ok(Outcome { records: records.clone(), ..Outcome::default() }),
        Effect::Segment(file) => segment(rows, objects, file),
        Effect::Objects(list) => {
            let mut outcome = Outcome::default();
            for object in list {
                if put(objects, object, &stored_bytes(object)?)? == Put::Created {
                    outcome.delivered.digests = 1;
                }
            }
            Ok(outcome)
        }
    }
}

fn stored_bytes(object: &BytesObject) -> Result<Vec<u8>, Error> {
    if object.gzip { Ok(codec::gzip(&object.content)?) } else { Ok(object.content.clone()) }
}

/// Puts an object whose content is known; one that exists must have the same.
fn put(objects: &dyn ObjectStore, object: &BytesObject, bytes: &[u8]) -> Result<Put, Error> {
    let answer = objects.put(&object.bucket, &object.object, bytes, &object.metadata)?;
    if answer == Put::Exists {
        let compression = if object.gzip { Compression::Gzip } else { Compression::Json };
        let found = existing(objects, &object.bucket, &object.object)?;
        let content = codec::decode(compression, &found.bytes, object.content.len() as u64);
        let same = content.is_ok_and(|own| invariant::same_content(&own, &object.content))
            && found.metadata == object.metadata;
        if !same {
            return Err(conflict(&object.bucket, &object.object));
        }
    }
    Ok(answer)
}

fn existing(objects: &dyn ObjectStore, bucket: &str, key: &str) -> Result<object::Object, Error> {
    objects.get(bucket, key)?.ok_or_else(|| {
        let text = format!("{bucket}/{key} exists for a put and not for a get");
        object::Error::Unavailable(text).into()
    })
}

fn conflict(bucket: &str, object: &str) -> Error {
    Error::Conflict { bucket: bucket.to_owned(), object: object.to_owned(), advice: ADVICE }
}

/// Builds and puts a trace file, and completes its `files` record.
fn segment<R: Rows<Error = crate::store::Error>>(
    rows: &R,
    objects: &dyn ObjectStore,
    file: &SegmentFile,
) -> Result<Outcome, Error> {
    let encoded = encode(rows, file, file.compression)?;
    let sha256 = hex_sha256(&encoded.bytes);
    let metadata = metadata(file, &sha256);
    let bytes = encoded.bytes.len() as u64;
    let (record, created) =
        match objects.put(&file.bucket, &file.object, &encoded.bytes, &metadata)? {
            Put::Created => (File::delivered(file, bytes, sha256, encoded.content_sha256), true),
            Put::Exists => {
                let found = existing(objects, &file.bucket, &file.object)?.bytes;
                if found != encoded.bytes {
                    same_content(rows, file, &found)?;
                }
                let found_sha256 = hex_sha256(&found);
                let length = found.len() as u64;
                (File::delivered(file, length, found_sha256, encoded.content_sha256), false)
            }
        };
    let record = OutRecord {
        topic: Topic::Files,
        partition: Some(file.files_partition),
        key: file.tracker.clone().into_bytes(),
        headers: Vec::new(),
        value: FilesRecord::File(record).encode(),
    };
    let mut delivered = Delivered::default();
    if created {
        (delivered.files, delivered.stored_bytes) = (1, bytes);
        delivered.raw_bytes = file.raw_bytes;
    }
    Ok(Outcome { records: vec![record], delivered })
}

/// Other bytes under our key are fine if they say the same, as another compressor's would.
fn same_content<R: Rows<Error = crate::store::Error>>(
    rows: &R,
    file: &SegmentFile,
    found: &[u8],
) -> Result<(), Error> {
    let content = codec::decode(file.compression, found, file.raw_bytes);
    let own = encode(rows, file, Compression::Json)?.bytes;
    if content.is_ok_and(|content| content == own) {
        return Ok(());
    }
    Err(conflict(&file.bucket, &file.object))
}

fn encode<R: Rows>(
    rows: &R,
    file: &SegmentFile,
    compression: Compression,
) -> Result<codec::Encoded, Error>
where
    Error: From<R::Error>,
{
    let tracker = tracker_key(&file.tracker)
        .ok_or_else(|| Error::Damaged(format!("tracker id {} is no UUID", file.tracker)))?;
    let id = SegmentId {
        tracker,
        cycle_ms: file.cycle_start_ms,
        service: file.service.clone(),
        part: file.first_offset,
    };
    let mut encoder = Encoder::new(compression, stored_bytes_about(file, compression));
    let (mut next, mut outcome) = (0, Ok(()));
    let (from, to) = id.key(Table::Chunk).range();
    rows.scan(&from, &to, &mut |key, row| {
        if next == file.chunks || key[from.len()..] != next.to_be_bytes() {
            return false;
        }
        next += 1;
        outcome = encoder.chunk(row);
        outcome.is_ok()
    })?;
    outcome?;
    if next < file.chunks {
        return Err(Error::Damaged(format!("chunk {next} of {} is gone", file.object)));
    }
    Ok(encoder.finish()?)
}

fn metadata(file: &SegmentFile, sha256: &str) -> Metadata {
    let entries = [
        ("count", file.count.to_string()),
        ("first-offset", file.first_offset.to_string()),
        ("format", "trailproof/file/v1".to_owned()),
        ("last-offset", file.last_offset.to_string()),
        ("merkle-root", file.root.clone()),
        ("partition", file.partition.to_string()),
        ("sha256", sha256.to_owned()),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests;
