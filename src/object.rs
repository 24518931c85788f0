//! The object-store port: immutable objects under keys derived from the log.
//!
//! **Invariant (I9):** a put never overwrites. One key has one content; a put that finds another
//! content is an alarm. The adapters are `directory`, `s3` and the simulator's; `open` picks one.

pub mod directory;
pub mod measured;
pub mod open;
pub mod s3;

/// What went wrong at the object store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Passing trouble; a put that failed so may still have happened.
    #[error("the object store is not available: {0}")]
    Unavailable(String),
    /// The store refuses for good: no such bucket, no right, a key it cannot take.
    #[error("the object store refuses: {0}")]
    Refused(String),
}

/// Object metadata: name and value, in order of name.
pub type Metadata = Vec<(String, String)>;

/// The answer to a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is new, and durable.
    Created,
    /// The key is taken; nothing was written. The caller compares what is there.
    Exists,
}

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The stored bytes.
    pub bytes: Vec<u8>,
    /// Its metadata.
    pub metadata: Metadata,
}

/// What [`ObjectStore::get_at_most`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No such object.
    Absent,
    /// One of this many bytes, more than was asked for; it was not read.
    Longer(u64),
    /// The whole object.
    Object(Object),
}

/// A store of objects in buckets. Calls block; share it among threads.
pub trait ObjectStore: Send + Sync {
    /// Puts an object if its key is free. `bucket` and the segments of `key`, split at `/`, are
    /// non-empty, none is `.` or `..`, and none holds NUL.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Refused`].
    fn put(&self, bucket: &str, key: &str, bytes: &[u8], metadata: &Metadata)
    -> Result<Put, Error>;

    /// Reads an object; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Refused`].
    fn get(&self, bucket: &str, key: &str) -> Result<Option<Object>, Error>;

    /// Reads an object if it has at most `bytes_max` bytes: for who does not trust what is there.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Refused`].
    fn get_at_most(&self, bucket: &str, key: &str, bytes_max: u64) -> Result<Found, Error> {
        Ok(match self.get(bucket, key)? {
            None => Found::Absent,
            Some(object) if object.bytes.len() as u64 > bytes_max => {
                Found::Longer(object.bytes.len() as u64)
            }
            Some(object) => Found::Object(object),
        })
    }

    /// Visits the keys of a bucket that begin with `prefix`, in order, until `visit` returns false.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Refused`].
    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<(), Error>;

    /// The buckets there are, in order.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    fn buckets(&self) -> Result<Vec<String>, Error>;
}
