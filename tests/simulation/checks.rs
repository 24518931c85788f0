//! What must hold after every step, over what has left so far.

use std::collections::{BTreeMap, BTreeSet};

use trailproof::codec;
use trailproof_topology::digest::{Digest, Link, META_SIGNATURE, coverage_meets};
use trailproof_topology::effect::Topic;
use trailproof_topology::files::FilesRecord;
use trailproof_topology::invariant;

use super::hub::{Hub, Inner};
use super::node::Checked;
use super::objects::{Place, compression};

/// Uncompressed bytes of an object of the simulator at most.
const CONTENT_MAX: u64 = 1 << 24;

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Checker {
    /// Uncompressed content of every object, as first seen.
    pub(crate) contents: BTreeMap<Place, Vec<u8>>,
    files_seen: Vec<usize>,
    out_seen: usize,
    /// By partition of `files` and of `traces`: where the finished stretches end.
    closed_to: BTreeMap<(usize, u32), u64>,
    /// Objects of which a `files` record tells.
    told: BTreeSet<Place>,
    /// By chain: its head.
    heads: BTreeMap<String, (Link, Digest)>,
    listed: BTreeSet<Place>,
    notified: BTreeSet<(String, String)>,
}

impl Checker {
    /// Checks what is new since the last call.
    pub(crate) fn step(&mut self, hub: &Hub) -> Checked {
        let mut hub = hub.lock();
        let inner = &mut *hub;
        for place in std::mem::take(&mut inner.objects.touched) {
            self.object(inner, &place)?;
        }
        for partition in 0..inner.logs.files.len() {
            self.files_seen.resize(inner.logs.files.len(), 0);
            let from = self.files_seen[partition];
            self.files_seen[partition] = inner.logs.files[partition].records.len();
            for at in from..inner.logs.files[partition].records.len() {
                let value = inner.logs.files[partition].records[at].value.clone();
                if let Ok(record) = FilesRecord::decode(&value) {
                    self.files_record(inner, partition, record)?;
                }
            }
        }
        let from = self.out_seen;
        self.out_seen = inner.logs.out.len();
        for at in from..inner.logs.out.len() {
            self.leaving(inner, at)?;
        }
        Ok(())
    }

    /// I9 and I11: what lies under a key stays, and is its account's alone.
    fn object(&mut self, inner: &Inner, place: &Place) -> Checked {
        let Some(object) = inner.objects.all.get(place) else { return Ok(()) };
        let (bucket, key) = place;
        let content = codec::decode(compression(key), &object.bytes, CONTENT_MAX)
            .map_err(|error| format!("{bucket}/{key} {error}"))?;
        if let Some(before) = self.contents.get(place) {
            if !invariant::same_content(before, &content) {
                return Err(format!("I9: {bucket}/{key} was overwritten"));
            }
            return Err(format!("I9: {bucket}/{key} was written twice"));
        }
        let account = bucket.strip_prefix("cts-").unwrap_or_default();
        own(&content, account).map_err(|other| format!("I11: {bucket}/{key} shows {other}"))?;
        if key.contains("/Digest/") && key.ends_with(".json.gz") {
            let signature =
                object.metadata.iter().find(|(name, _)| name == META_SIGNATURE).map(|own| &own.1);
            let signature = signature.ok_or("a digest without signature")?;
            self.digest(inner, &content, signature)?;
        }
        self.contents.insert(place.clone(), content);
        Ok(())
    }

    /// I3, I7, I8 of a digest that has just been put.
    fn digest(&mut self, inner: &Inner, content: &[u8], signature: &str) -> Checked {
        let digest: Digest =
            serde_json::from_slice(content).map_err(|error| format!("digest: {error}"))?;
        let chain = digest.chain.tracker.clone();
        if !digest.balances() {
            return Err(format!("I3: does not balance: {}", String::from_utf8_lossy(content)));
        }
        let wall = |bucket: &str| invariant::own(bucket, &digest.digest_bucket);
        if !digest.log_files.iter().all(|file| wall(&file.bucket)) {
            return Err(format!("I11: {} lists another bucket", digest.digest_object));
        }
        let stored = |place: &Place| inner.objects.all.contains_key(place);
        for file in &digest.log_files {
            let place = (file.bucket.clone(), file.object.clone());
            if !stored(&place) || !self.told.contains(&place) {
                return Err(format!("I8: {} lists {place:?} too early", digest.digest_object));
            }
            if !self.listed.insert(place) {
                return Err(format!("I7: {} is listed twice", file.object));
            }
        }
        match self.heads.get(&chain) {
            None if !digest.begins() => return Err(format!("I7: {chain} has no beginning")),
            None => {}
            Some((link, before)) => {
                digest.follows(link).map_err(|error| format!("I7: {chain}: {error:?}"))?;
                if !before.digest_end && !coverage_meets(&before.coverage, &digest.coverage) {
                    return Err(format!("I7: {}: a gap in coverage", digest.digest_object));
                }
            }
        }
        let link = digest.link(content, signature);
        self.heads.insert(chain, (link, digest));
        Ok(())
    }

    /// I3, I5, I7, I8 of a record of topic `files`.
    fn files_record(&mut self, inner: &Inner, at: usize, record: FilesRecord) -> Checked {
        match record {
            FilesRecord::File(file) => {
                let place = (file.bucket.clone(), file.object.clone());
                let Some(content) = self.contents.get(&place) else {
                    return Err(format!("I8: {} is told and not stored", file.object));
                };
                let object = inner.objects.all.get(&place).ok_or("an object went away")?;
                let hash = trailproof_topology::digest::hex_sha256(&object.bytes);
                let sizes = (file.bytes, file.raw_bytes);
                if hash != file.sha256 || sizes != (object.bytes.len() as u64, content.len() as u64)
                {
                    return Err(format!("I4: {} is not what is told", file.object));
                }
                let account = file.bucket.strip_prefix("cts-").unwrap_or_default();
                if !invariant::own(&file.account, account) {
                    return Err(format!("I11: {} is in {}", file.object, file.bucket));
                }
                let closed_to = self.closed_to.get(&(at, file.partition)).copied().unwrap_or(0);
                if file.first_offset < closed_to {
                    return Err(format!("I8: {} comes after its stretch", file.object));
                }
                if !self.told.insert(place) {
                    return Err(format!("I4: {} is told twice", file.object));
                }
                Ok(())
            }
            FilesRecord::Closed(closed) => {
                let before = self.closed_to.entry((at, closed.partition)).or_default();
                if !invariant::meets(*before, closed.from) {
                    return Err(format!("I7: {} after {before}: {closed:?}", closed.from));
                }
                if !closed.more {
                    *before = closed.to;
                }
                for account in &closed.accounts {
                    for tracker in &account.trackers {
                        if !invariant::tracker_balanced(
                            account.received,
                            tracker.filed,
                            account.duplicate,
                            account.dead_lettered,
                        ) {
                            return Err(format!("I3: {closed:?}"));
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// I6 and I11 of a record that leaves for good.
    fn leaving(&mut self, inner: &Inner, at: usize) -> Checked {
        let record = &inner.logs.out[at];
        let header =
            |name: &str| record.headers.iter().find(|own| own.0 == name).map(|own| own.1.clone());
        if record.topic == Topic::Notifications {
            let account = String::from_utf8_lossy(&record.key);
            own(&record.value, &account).map_err(|other| format!("I11: a note shows {other}"))?;
            let rule = header("ce_ruleid").unwrap_or_default();
            let place = format!("{:?}-{:?}", header("ce_sequencepartition"), header("ce_sequence"));
            if !self.notified.insert((rule, place.clone())) {
                return Err(format!("I6: notification {place} is there twice"));
            }
        }
        Ok(())
    }
}

/// Whether all canaries in a text are of one account; else a stranger's.
fn own(text: &[u8], account: &str) -> Result<(), String> {
    let canary = b"canary-";
    let mut rest = text;
    while let Some(at) = rest.windows(canary.len()).position(|window| window == canary) {
        rest = &rest[at + canary.len()..];
        let end = rest.iter().position(|byte| *byte == b';').unwrap_or(rest.len());
        let found = String::from_utf8_lossy(&rest[..end]);
        if !invariant::own(&found, account) {
            return Err(found.into_owned());
        }
    }
    Ok(())
}
