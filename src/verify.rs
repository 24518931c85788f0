//! Verification of a folder of objects: offline, in parallel, without trust in what lies there.
//!
//! First the chains: every digest is read, its signature checked with the given keys, and the
//! digests of a tracker set in order; the files they list are hashed on all cores meanwhile. Then
//! everything in the folder that no digest names is looked at, and the chains are compared with
//! each other and with heads kept elsewhere.
//!
//! What the outbox leaves behind at any moment, and what it adds while it is looked at, raises no
//! alarm: an object is put after everything that it names, and what cannot be known is told as
//! such.
//!
//! **Invariants:** public keys come from the caller. Memory is bounded by one hash for each object,
//! the digests of one chain for each core, and the queue of files. Nothing is written.
//!
//! Read next: `chain.rs` for what holds a chain together, `sweep.rs` for what is in no digest.

mod chain;
mod disk;
mod extent;
mod file;
mod folder;
mod head;
mod name;
mod note;
mod queue;
mod read;
mod remote;
mod report;
mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use trailproof_topology::digest::{Digest, LogFile, note_object};
use trailproof_topology::input::Millis;

pub use folder::Target;
pub use head::Heads;
pub use report::{ChainReport, Finding, Report, Sums, Verdict};

use chain::Chain;
use extent::Extent;
use folder::{Folder, Met, Place};
use head::Head;
use name::{DigestName, Kind};
use queue::Queue;
use report::FINDINGS_MAX;

use crate::keys::public::PublicKeys;

/// What to verify, and how.
pub struct Options<'a> {
    /// Where the objects are.
    pub target: Target<'a>,
    /// The keys to trust.
    pub keys: &'a PublicKeys,
    /// Where they came from, for the report.
    pub keys_from: String,
    /// Whether to hash every trace again.
    pub deep: bool,
    /// Heads that must be in the chains.
    pub heads: Option<&'a Heads>,
    /// Threads to use, at least 1.
    pub threads: usize,
    /// Now: what claims to be of the future is not waited for.
    pub now_ms: Millis,
    /// Is told the bytes that were read.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// Verifies a folder.
///
/// # Errors
/// Something cannot be read at all; whatever is wrong with what can is in the report.
pub fn verify(options: &Options<'_>) -> io::Result<(Report, Heads)> {
    let mut folder = Folder::open(options.target)?;
    if folder.is_single() {
        let bucket = bucket_of(&folder)?;
        folder.rename(&bucket);
    }
    let run = Run { options, folder, state: Mutex::default() };
    let mut groups: BTreeMap<String, Vec<(Place, DigestName)>> = BTreeMap::new();
    run.folder.walk(&mut |met| {
        if let Met::Object(place) = met
            && let Kind::Digest(name) = name::kind(&place)
        {
            groups.entry(name.unique.clone()).or_default().push((place, name));
        }
    })?;
    let queue = Queue::new(groups.into_values().map(Job::Chain).collect());
    queue.run(options.threads, |job, queue| match job {
        Job::Chain(digests) => run.chain(digests, queue),
        Job::File(listed) => run.file(&listed),
    })?;
    run.finish()
}

/// The bucket that most digests of a folder say they are in.
fn bucket_of(folder: &Folder<'_>) -> io::Result<String> {
    let mut first = None;
    folder.walk(&mut |met| {
        if let (None, Met::Object(place)) = (&first, met)
            && matches!(name::kind(&place), Kind::Digest(_))
        {
            let stored = folder.small(&place).ok().flatten();
            let content = stored.and_then(|stored| folder::inflate(&stored.0));
            let digest = content.and_then(|json| serde_json::from_slice::<Digest>(&json).ok());
            // Only a name: whether the digest holds is seen later.
            first = digest
                .filter(|digest| digest.digest_object == place.object)
                .map(|digest| digest.digest_bucket);
        }
    })?;
    Ok(first.unwrap_or_else(|| "bucket".to_owned()))
}

/// Work for one thread.
enum Job {
    /// The digests of one tracker.
    Chain(Vec<(Place, DigestName)>),
    /// A file that a digest lists.
    File(Box<LogFile>),
}

/// A verification under way.
struct Run<'a> {
    options: &'a Options<'a>,
    folder: Folder<'a>,
    state: Mutex<State>,
}

/// What threads have found out.
#[derive(Default)]
struct State {
    findings: BTreeSet<Finding>,
    omitted: u64,
    report: Report,
    heads: Vec<Head>,
    /// Hashes of the objects that digests name.
    named: HashSet<u128>,
    extents: Vec<Extent>,
}

impl State {
    fn find(&mut self, verdict: Verdict, object: String, text: String) {
        let finding = Finding { verdict, object, text };
        if self.findings.len() < FINDINGS_MAX {
            self.findings.insert(finding);
        } else {
            self.omitted += 1;
        }
    }
}

/// A hash of bucket and key that nobody can make two of.
fn place_hash(bucket: &str, object: &str) -> u128 {
    let hash = Sha256::new().chain_update(bucket).chain_update([0]).chain_update(object).finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(half)
}

impl Run<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked ends the whole run; what it held is not looked at.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Verifies the digests of one tracker, and queues the files they list.
    fn chain(&self, digests: Vec<(Place, DigestName)>, queue: &Queue<Job>) -> io::Result<()> {
        let keys = self.options.keys;
        let mut named: Vec<u128> = Vec::new();
        let mut found = Vec::new();
        let mut known: BTreeSet<Place> = digests.iter().map(|(place, _)| place.clone()).collect();
        let mut digests = digests;
        while let Some((place, name)) = digests.pop() {
            named.push(place_hash(&place.bucket, &place.object));
            named.push(place_hash(&place.bucket, &note_object(&place.object)));
            let mut one = read::read(&self.folder, keys, place, name)?;
            if let Some(body) = &mut one.body
                && body.signed == read::Signed::Good
                && body.is_at(&one.place)
            {
                self.queue_files(&mut body.digest, queue)?;
                digests.extend(self.unseen(&body.digest, &mut known)?);
            }
            found.push(one);
        }
        let buckets = found.iter().map(|one| (one.place.bucket.clone(), one.name.tracker.clone()));
        let buckets: BTreeSet<(String, String)> = buckets.collect();
        let noted = |place: &Place| note::root_beside(&self.folder, keys, place);
        let mut chain = Chain::new(found, keys, &noted);
        let roots = note::check(&self.folder, keys, &mut chain)?;
        for (_, body) in &mut chain.digests {
            self.queue_files(&mut body.digest, queue)?;
            let Some(compatible) = &body.digest.compatible_digest else { continue };
            named.push(place_hash(&compatible.bucket, &compatible.object));
            if let Some((verdict, text)) = read::compatible(&self.folder, compatible)? {
                let object = format!("{}/{}", compatible.bucket, compatible.object);
                chain.wrong.push((verdict, object, text.to_owned()));
            }
        }
        let mut state = self.state();
        state.named.extend(named);
        for (verdict, object, text) in std::mem::take(&mut chain.wrong) {
            state.find(verdict, object, text);
        }
        if let Some(mut report) = chain.report() {
            report.root = note::newest(&roots, &chain);
            head::check_heads(&mut state, self.options.heads, &report, &chain, &roots);
            state.heads.push(Head {
                origin: report.origin.clone(),
                sequence: report.sequence,
                root: report.root.clone(),
                interval_end_ms: Some(report.until_ms),
            });
            state.report.digests += report.digests;
            state.report.chains.push(report);
        }
        state.extents.push(Extent::of(&chain, buckets));
        Ok(())
    }

    /// The digest before one, where it is there and was not listed: it came while the folder was.
    fn unseen(
        &self,
        digest: &Digest,
        known: &mut BTreeSet<Place>,
    ) -> io::Result<Option<(Place, DigestName)>> {
        let place = Place::new(&digest.previous_digest_bucket, &digest.previous_digest_object);
        if digest.starting || !known.insert(place.clone()) {
            return Ok(None);
        }
        let Kind::Digest(name) = name::kind(&place) else { return Ok(None) };
        Ok(self.folder.small(&place)?.map(|_| (place, name)))
    }

    /// Queues the files of a digest that holds; their list is not needed afterwards.
    fn queue_files(&self, digest: &mut Digest, queue: &Queue<Job>) -> io::Result<()> {
        let files = std::mem::take(&mut digest.log_files);
        let hashes = files.iter().map(|file| place_hash(&file.bucket, &file.object));
        let hashes: Vec<u128> = hashes.collect();
        let mut twice = Vec::new();
        let mut state = self.state();
        for (hash, file) in hashes.into_iter().zip(&files) {
            if !state.named.insert(hash) {
                twice.push(format!("{}/{}", file.bucket, file.object));
            }
        }
        for object in twice {
            state.find(Verdict::Unbalanced, object, "is listed twice".to_owned());
        }
        drop(state);
        queue.add(files.into_iter().map(|file| Job::File(Box::new(file))), |job| match job {
            Job::File(listed) => self.file(&listed),
            Job::Chain(_) => Ok(()),
        })
    }

    fn file(&self, listed: &LogFile) -> io::Result<()> {
        let Options { deep, progress, .. } = self.options;
        let wrong = file::check(&self.folder, listed, *deep, *progress)?;
        let mut state = self.state();
        state.report.files += 1;
        state.report.bytes += listed.bytes;
        state.report.traces += listed.count;
        for (verdict, text) in wrong {
            state.find(verdict, format!("{}/{}", listed.bucket, listed.object), text);
        }
        Ok(())
    }

    /// Looks at what no digest names, and writes the report.
    fn finish(self) -> io::Result<(Report, Heads)> {
        let Options { target, keys, keys_from, deep, heads, now_ms, .. } = self.options;
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        sweep::sweep(&self.folder, &mut state, *now_ms)?;
        head::check_lost(&mut state, *heads);
        let State { findings, omitted, mut report, heads: seen, .. } = state;
        report.chains.sort_by(|one, other| one.origin.cmp(&other.origin));
        report.ok = findings.is_empty() && omitted == 0;
        report.findings = findings.into_iter().collect();
        report.findings_omitted = omitted;
        report.folder = target.to_string();
        report.keys.clone_from(keys_from);
        report.key_ids = keys.ids().map(str::to_owned).collect();
        report.deep = *deep;
        if keys.ed25519().next().is_none() {
            let note = "no Ed25519 key was given: signatures of checkpoints were not checked";
            report.notes.push(note.to_owned());
        }
        Ok((report, Heads::new(seen)))
    }
}
