//! Objects in an object store, read through its port.
//!
//! An object is fetched once, with its metadata, and never one longer than it is said to be: memory
//! is bounded by the files that are being checked, one for each thread.

use std::io;

use super::folder::{Content, IN_A_BUCKET, Met, Metadata, Opened, Place, SIDE, SIDE_BYTES_MAX};
use crate::object::{Error, Found, ObjectStore};

/// A store of buckets, or one bucket.
pub(super) struct Remote<'a> {
    objects: &'a dyn ObjectStore,
    buckets: Vec<String>,
    /// Where the store is a bucket itself: what its digests call it.
    pub(super) single: Option<String>,
}

impl<'a> Remote<'a> {
    pub(super) fn open(name: &str, objects: &'a dyn ObjectStore) -> io::Result<Self> {
        let buckets = objects.buckets().map_err(failed)?;
        let is_bucket = buckets.iter().any(|name| IN_A_BUCKET.contains(&name.as_str()));
        let last = name.rsplit('/').next().unwrap_or_default();
        Ok(Self { objects, buckets, single: is_bucket.then(|| last.to_owned()) })
    }

    pub(super) fn walk(&self, visit: &mut dyn FnMut(Met)) -> io::Result<()> {
        for folder in &self.buckets {
            let mut object = |key: &str, _: u64| {
                if !key.ends_with(SIDE) {
                    visit(Met::Object(match &self.single {
                        Some(bucket) => Place::new(bucket, &format!("{folder}/{key}")),
                        None => Place::new(folder, key),
                    }));
                }
                true
            };
            self.objects.list(folder, "", &mut object).map_err(failed)?;
        }
        Ok(())
    }

    /// Bucket and key as the store has them; `None` where an object cannot lie there.
    fn place(&self, place: &Place) -> Option<(String, String)> {
        let fits = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !place.object.split('/').all(fits) {
            return None;
        }
        match &self.single {
            Some(single) if *single == place.bucket => {
                let (folder, key) = place.object.split_once('/')?;
                Some((folder.to_owned(), key.to_owned()))
            }
            Some(_) => None,
            None => self
                .buckets
                .contains(&place.bucket)
                .then(|| (place.bucket.clone(), place.object.clone())),
        }
    }

    pub(super) fn object(&self, place: &Place, bytes_max: u64) -> io::Result<Option<Opened>> {
        let Some((bucket, key)) = self.place(place) else { return Ok(None) };
        Ok(match self.objects.get_at_most(&bucket, &key, bytes_max).map_err(failed)? {
            Found::Absent => None,
            Found::Longer(length) => Some(Opened { length, content: Content::Unread }),
            Found::Object(object) => {
                let length = object.bytes.len() as u64;
                let own: Metadata = object.metadata.into_iter().collect();
                let own = Some(own).filter(|own| !own.is_empty());
                Some(Opened { length, content: Content::Bytes(object.bytes, own) })
            }
        })
    }

    /// The metadata that were copied here as a file beside their object.
    pub(super) fn side(&self, place: &Place) -> io::Result<Option<Metadata>> {
        let side = Place::new(&place.bucket, &format!("{}{SIDE}", place.object));
        let Some((bucket, key)) = self.place(&side) else { return Ok(None) };
        match self.objects.get_at_most(&bucket, &key, SIDE_BYTES_MAX) {
            Ok(Found::Object(object)) => Ok(serde_json::from_slice(&object.bytes).ok()),
            // A store that takes no such names has none.
            Ok(Found::Absent | Found::Longer(_)) | Err(Error::Refused(_)) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

fn failed(error: Error) -> io::Error {
    io::Error::other(error)
}
