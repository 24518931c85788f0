//! Whether a store creates on condition, found out with an object of our own.
//!
//! The object stays: who writes need not be allowed to delete. Its folder begins with a dot, so it
//! is no bucket.

use super::fault::Fault;
use super::{Error, OWN, Put, S3Store, Upload};

/// How puts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The store refuses to overwrite: `If-None-Match: *`.
    Conditional,
    /// The store would overwrite, so each put looks first.
    LookFirst,
}

impl std::fmt::Display for Creation {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Self::Conditional => "conditional create (If-None-Match: *)",
            Self::LookFirst => "look, then put (the store has no conditional create)",
        })
    }
}

/// Creates the probe twice: the second time must be refused.
pub(super) fn probe(store: &S3Store) -> Result<Creation, Error> {
    let key = format!("{OWN}/conditional-create");
    let path = store.path_of(&key)?;
    for text in ["made by trailproof to see whether this store creates on condition", "again"] {
        let upload = Upload::of(&key, text.as_bytes(), &Vec::new())?;
        match store.ask(|| store.create(&path, &upload)) {
            Ok(Put::Exists) => return Ok(Creation::Conditional),
            Ok(Put::Created) => {}
            // Unless it refuses every put.
            Err(Fault::Unknown(_)) => match store.ask(|| store.look_and_put(&path, &upload)) {
                Ok(_) => return Ok(Creation::LookFirst),
                Err(fault) => return Err(store.failed(fault)),
            },
            Err(fault) => return Err(store.failed(fault)),
        }
    }
    Ok(Creation::LookFirst)
}
