//! An object store in memory, which may grow while it is read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use trailproof::object::{Error, Metadata, Object, ObjectStore, Put as Answer};
use trailproof::verify::{Report, Target};

use super::archive::verify_target;
use super::story::Put;

type Objects = BTreeMap<(String, String), Object>;

/// A shelf of objects.
#[derive(Default)]
pub(crate) struct Shelf {
    objects: Mutex<Objects>,
    coming: Mutex<Coming>,
}

/// What is put while the shelf is read: some with every so many calls.
#[derive(Default)]
pub(crate) struct Coming {
    pub(crate) puts: VecDeque<Put>,
    pub(crate) every: u64,
    pub(crate) at_once: usize,
    pub(crate) calls: u64,
}

impl Shelf {
    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    pub(crate) fn add(&self, put: &Put) {
        let object = Object { bytes: put.stored.clone(), metadata: put.metadata.clone() };
        self.objects().insert((put.bucket.clone(), put.object.clone()), object);
    }

    /// Grows from now on.
    pub(crate) fn let_come(&self, coming: Coming) {
        *self.coming.lock().unwrap() = coming;
    }

    pub(crate) fn verify(&self) -> Report {
        let target = Target::Store { name: "shelf", objects: self };
        verify_target(target, false, None).unwrap().0
    }

    /// What is found while `how` was done to the objects.
    pub(crate) fn tampered(&self, how: impl FnOnce(&mut Objects)) -> Report {
        let kept = self.objects().clone();
        how(&mut self.objects());
        let report = self.verify();
        *self.objects() = kept;
        report
    }

    fn grow(&self) {
        let mut coming = self.coming.lock().unwrap();
        coming.calls += 1;
        if coming.every > 0 && coming.calls.is_multiple_of(coming.every) {
            let at_once = coming.at_once.min(coming.puts.len());
            coming.puts.drain(..at_once).for_each(|put| self.add(&put));
        }
    }

    fn names(&self) -> Vec<(String, String, u64)> {
        let objects = self.objects();
        let name = |((bucket, key), object): (&(String, String), &Object)| {
            (bucket.clone(), key.clone(), object.bytes.len() as u64)
        };
        objects.iter().map(name).collect()
    }
}

impl ObjectStore for Shelf {
    fn put(&self, _: &str, _: &str, _: &[u8], _: &Metadata) -> Result<Answer, Error> {
        panic!("verify writes nothing")
    }

    fn get(&self, bucket: &str, key: &str) -> Result<Option<Object>, Error> {
        self.grow();
        Ok(self.objects().get(&(bucket.to_owned(), key.to_owned())).cloned())
    }

    /// As a file system does it: a folder is read at one moment, each at its own.
    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<(), Error> {
        self.grow();
        let mut before = String::new();
        loop {
            let folder =
                |key: &str| key.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            let behind = |key: &str| before.is_empty() || folder(key) > before;
            let names = self.names();
            let own = names.iter().filter(|(of, key, _)| of == bucket && key.starts_with(prefix));
            let Some(next) =
                own.clone().map(|own| folder(&own.1)).filter(|own| before < *own).min()
            else {
                return Ok(());
            };
            for (_, key, length) in own.filter(|own| behind(&own.1) && folder(&own.1) == next) {
                if !visit(key, *length) {
                    return Ok(());
                }
                self.grow();
            }
            before = next;
        }
    }

    fn buckets(&self) -> Result<Vec<String>, Error> {
        let mut buckets: Vec<String> = self.names().into_iter().map(|(own, ..)| own).collect();
        buckets.dedup();
        Ok(buckets)
    }
}
