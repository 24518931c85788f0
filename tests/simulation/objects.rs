//! The simulated object store: puts that fail, that happen unheard, that find something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trailproof::codec;
use trailproof::object::{Error, Metadata, Object, ObjectStore, Put};
use trailproof_topology::catalog::Compression;

use super::hub::{Hub, Verdict};
use super::plant::Plant;

/// Bucket and key.
pub(crate) type Place = (String, String);

/// All objects.
#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) all: BTreeMap<Place, Object>,
    /// Keys that a stranger's object lies under.
    pub(crate) planted: BTreeSet<Place>,
    /// Keys written since the checker last looked.
    pub(crate) touched: Vec<Place>,
    /// Puts that a planted bug has only promised.
    promised: Vec<(Place, Object)>,
}

impl Objects {
    /// A crash forgets what was only promised.
    pub(crate) fn crash(&mut self) {
        self.promised.clear();
    }
}

/// The port.
pub(crate) struct SimObjects(pub(crate) Arc<Hub>);

/// What a stranger puts.
const STRANGE: &[u8] = b"this was here before";

impl ObjectStore for SimObjects {
    fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        metadata: &Metadata,
    ) -> Result<Put, Error> {
        check_names(bucket, key)?;
        let mut hub = self.0.lock();
        let inner = &mut *hub;
        let rates = inner.faults.rates;
        let verdict = inner.faults.verdict(rates.put);
        if verdict == Verdict::Fail {
            inner.mark("a put fails");
            return Err(Error::Unavailable("put".to_owned()));
        }
        let place = (bucket.to_owned(), key.to_owned());
        let mut object = Object { bytes: bytes.to_vec(), metadata: metadata.clone() };
        if !inner.objects.all.contains_key(&place) && inner.faults.chance(rates.conflict) {
            let strange = Object { bytes: STRANGE.to_vec(), metadata: Vec::new() };
            inner.objects.all.insert(place.clone(), strange);
            inner.objects.planted.insert(place.clone());
            inner.marks.insert("a stranger's object is found");
        }
        if inner.objects.all.contains_key(&place) && inner.plant != Plant::Overwrite {
            inner.mark("a put finds the object");
            return Ok(Put::Exists);
        }
        if inner.faults.chance(rates.recompressed)
            && let Some(bytes) = recompressed(key, bytes)
        {
            object.bytes = bytes;
            inner.objects.all.insert(place.clone(), object);
            inner.objects.touched.push(place);
            inner.mark("another compressor's object is found");
            return Ok(Put::Exists);
        }
        if inner.plant == Plant::PutLater {
            inner.objects.promised.push((place, object));
            while inner.objects.promised.len() > 1 {
                let (place, object) = inner.objects.promised.remove(0);
                inner.objects.touched.push(place.clone());
                inner.objects.all.insert(place, object);
            }
            return Ok(Put::Created);
        }
        inner.objects.all.insert(place.clone(), object);
        inner.objects.touched.push(place);
        if verdict == Verdict::Lost {
            inner.mark("a put happens and its answer is lost");
            return Err(Error::Unavailable("put".to_owned()));
        }
        Ok(Put::Created)
    }

    fn get(&self, bucket: &str, key: &str) -> Result<Option<Object>, Error> {
        check_names(bucket, key)?;
        let mut inner = self.0.lock();
        let rate = inner.faults.rates.get;
        if inner.faults.verdict(rate) != Verdict::Go {
            inner.mark("a get fails");
            return Err(Error::Unavailable("get".to_owned()));
        }
        Ok(inner.objects.all.get(&(bucket.to_owned(), key.to_owned())).cloned())
    }

    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<(), Error> {
        let inner = self.0.lock();
        for ((own, key), object) in &inner.objects.all {
            if own == bucket && key.starts_with(prefix) && !visit(key, object.bytes.len() as u64) {
                break;
            }
        }
        Ok(())
    }

    fn buckets(&self) -> Result<Vec<String>, Error> {
        let inner = self.0.lock();
        let names: BTreeSet<&String> = inner.objects.all.keys().map(|(bucket, _)| bucket).collect();
        Ok(names.into_iter().cloned().collect())
    }
}

/// Refuses names that some store could not keep.
fn check_names(bucket: &str, key: &str) -> Result<(), Error> {
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
    let long = key.len() > 1_024;
    if long || bad(bucket) || key.split('/').any(bad) {
        return Err(Error::Refused(format!("{bucket:?} {key:?}")));
    }
    Ok(())
}

/// How the object under a key is compressed.
pub(crate) fn compression(key: &str) -> Compression {
    match key {
        _ if key.ends_with(".zst") => Compression::Zstd,
        _ if key.ends_with(".gz") => Compression::Gzip,
        _ => Compression::Json,
    }
}

/// The same content as a trace file of zstd frames, in other bytes.
fn recompressed(key: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    if !key.ends_with(".zst") {
        return None;
    }
    let content = codec::decode(Compression::Zstd, bytes, 1 << 24).ok()?;
    zstd::bulk::compress(&content, 3).ok()
}
