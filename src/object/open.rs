//! Opens the object store that the configuration names.

use std::sync::Arc;

use super::directory::DirectoryStore;
use super::measured::Measured;
use super::s3::S3Store;
use super::{Error, ObjectStore};
use crate::config::Objects;
use crate::metrics::Metrics;

/// Opens a store for reading and writing, its calls counted.
///
/// # Errors
/// [`Error`]: the folder cannot be made, or the bucket refuses us. A bucket that does not answer is
/// no error.
pub fn open(objects: &Objects, metrics: &Arc<Metrics>) -> Result<Arc<dyn ObjectStore>, Error> {
    Ok(match objects {
        Objects::Folder(path) => {
            Arc::new(Measured::new(DirectoryStore::open(path)?, Arc::clone(metrics)))
        }
        Objects::S3(settings) => {
            let store = S3Store::open(settings, Some(Arc::clone(metrics)))?;
            Arc::new(Measured::new(store, Arc::clone(metrics)))
        }
    })
}

/// Opens a store that is there already, for reading.
///
/// # Errors
/// [`Error`]: there is no such folder, or settings that cannot be.
pub fn read(objects: &Objects) -> Result<Box<dyn ObjectStore>, Error> {
    Ok(match objects {
        Objects::Folder(path) => Box::new(DirectoryStore::read(path)?),
        Objects::S3(settings) => Box::new(S3Store::read(settings, None)?),
    })
}
