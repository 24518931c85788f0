//! The keys of a profile, as the client asks for them.
//!
//! The files are small and read for each request, so that keys that somebody changed need no
//! restart; whoever changes them replaces the file. One that cannot be read, or has no keys any
//! more, leaves the keys as they were.

use std::sync::{Arc, Mutex, PoisonError};

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::profile::{Location, ProfileError};

/// Gives the keys of a profile to the client.
#[derive(Debug)]
pub(super) struct Keys {
    location: Location,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    keys: Arc<AwsCredential>,
    /// What was wrong when they were last read; told once.
    trouble: String,
}

impl Keys {
    /// The keys of a profile, as they were read first.
    pub(super) fn new(location: Location, first: AwsCredential) -> Self {
        tracing::info!(profile = location.name(), "keys for S3 come from a profile");
        let known = Known { keys: Arc::new(first), trouble: String::new() };
        Self { location, known: Mutex::new(known) }
    }

    fn read(&self) -> Result<AwsCredential, ProfileError> {
        let none = || ProfileError::NoKeys { name: self.location.name().to_owned(), setting: None };
        self.location.read()?.keys.ok_or_else(none)
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let read = self.read();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = self.location.name();
        let trouble = match read {
            Ok(keys) => {
                if keys != *known.keys {
                    tracing::info!(profile, "the keys for S3 have changed");
                    known.keys = Arc::new(keys);
                }
                String::new()
            }
            Err(error) => error.to_string(),
        };
        if trouble != known.trouble && !trouble.is_empty() {
            tracing::warn!(profile, error = trouble, "the keys for S3 stay as they were");
        }
        known.trouble = trouble;
        Ok(Arc::clone(&known.keys))
    }
}
