//! The object store on S3 and what speaks it: `<prefix>/<bucket>/<key>` inside one S3 bucket.
//!
//! That is the layout of the directory store, so a copied tree of either verifies alike. Metadata
//! is user metadata. A put asks the store to create (`If-None-Match: *`). A store without that is
//! found out at the start by a probe, and then each put looks first: safe, as who writes a key at
//! the same time writes the same content.
//!
//! Calls block; the requests run on threads of a runtime of this store's own. A request that failed
//! in passing is made again by [`retry`], never by the client beneath, so that each try is seen.
//! After a lost answer the next try finds the object, and the caller compares what is there.
//!
//! **Invariant (I9):** no request overwrites a key that is taken. Nothing is put in parts.

mod client;
mod fault;
mod keys;
mod metadata;
mod probe;
mod profile;
mod retry;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore as _};
use object_store::path::Path;
use object_store::{GetOptions, GetResult, ObjectStore as _, PutMode, PutOptions, PutPayload};
use tokio::runtime::{Builder, Runtime};

use super::{Error, Found, Metadata, Object, ObjectStore, Put};
use crate::metrics::Metrics;
use fault::Fault;
use retry::Retries;

pub(crate) use client::host_of;
pub use probe::Creation;

/// Bytes of `<prefix>/<bucket>/<key>`, as S3 has it.
const KEY_BYTES_MAX: usize = 1_024;
/// Bytes of an object that is read; beyond what a single put can have made of a trace file.
const OBJECT_BYTES_MAX: u64 = 2 << 30;
/// Keys in one page of a listing.
const PAGE_KEYS: usize = 1_000;
/// Puts of one key wait for each other where the store cannot create.
const LOCKS: usize = 32;
/// Threads that move bytes.
const THREADS: usize = 2;
/// Folder of what is ours and no object; names like this are no buckets.
const OWN: &str = ".tmp";

/// How the store encrypts at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of its own: `AES256`.
    Store,
    /// With a key of its key management; `None`: the bucket's or the account's.
    Kms(Option<String>),
}

/// Variables `AWS_…` of the environment: credentials, and defaults of region and endpoint. Also
/// `HOME`, below which profiles are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Those of `variables` that matter here.
    pub fn of<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let all = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(all.filter(|(name, _): &(String, String)| Self::has(name)).collect())
    }

    /// Whether a variable of this name would be one of them.
    #[must_use]
    pub fn has(name: &str) -> bool {
        name.starts_with("AWS_") || name == "HOME"
    }

    /// What a variable says; `None` where it is not set, or empty.
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Where a store is and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The S3 bucket.
    pub bucket: String,
    /// What all keys begin with, without `/` at its ends; may be empty.
    pub prefix: String,
    /// `https://host:port`; `None`: AWS.
    pub endpoint: Option<String>,
    /// `None`: what the environment says.
    pub region: Option<String>,
    /// Whether the bucket stands in the path rather than in the host's name. `None`: where the
    /// environment or the profile names an endpoint.
    pub path_style: Option<bool>,
    /// Encryption at rest; `None`: as the bucket has it.
    pub encryption: Option<Encryption>,
    /// Bound of one request.
    pub timeout: Duration,
    /// Where credentials come from.
    pub environment: Environment,
}

impl std::fmt::Display for Settings {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(to, "s3://{}{slash}{}", self.bucket, self.prefix)
    }
}

/// An S3 bucket as object store. Any number of processes may write to it.
pub struct S3Store {
    /// Taken when the store goes, which may be on a thread that must not wait.
    runtime: Option<Runtime>,
    client: AmazonS3,
    /// What our keys begin with: empty, or ending with `/`.
    root: String,
    name: String,
    /// Not known while the store has not answered yet.
    creation: Mutex<Option<Creation>>,
    locks: [Mutex<()>; LOCKS],
    retries: Retries,
}

impl S3Store {
    /// Opens a bucket for reading and writing, and probes how it creates. A store that is down is
    /// probed again by the first put.
    ///
    /// # Errors
    /// [`Error::Refused`]: no such bucket, no right to it, or settings that cannot be.
    pub fn open(settings: &Settings, metrics: Option<Arc<Metrics>>) -> Result<Self, Error> {
        let store = Self::read(settings, metrics)?;
        match store.creation() {
            Ok(_) => Ok(store),
            Err(Error::Unavailable(text)) => {
                tracing::warn!(store = store.name, error = text, "the object store is down");
                Ok(store)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a bucket for reading; asks nothing of it yet.
    ///
    /// # Errors
    /// [`Error::Refused`]: settings that cannot be, or no thread.
    pub fn read(settings: &Settings, metrics: Option<Arc<Metrics>>) -> Result<Self, Error> {
        let refused = |error: &dyn std::error::Error| {
            Error::Refused(format!("cannot set up {settings}: {}", fault::chain(error)))
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|error| refused(&error))?;
        let client = client::build(settings).map_err(|error| refused(&error))?;
        let slash = if settings.prefix.is_empty() { "" } else { "/" };
        Ok(Self {
            runtime: Some(runtime),
            client,
            root: format!("{}{slash}", settings.prefix),
            name: settings.to_string(),
            creation: Mutex::new(None),
            locks: std::array::from_fn(|_| Mutex::new(())),
            retries: Retries::new(settings.timeout, metrics),
        })
    }

    /// How puts are made, once the store has answered the probe.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Refused`].
    pub fn creation(&self) -> Result<Creation, Error> {
        let mut known = self.creation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        let found = probe::probe(self)?;
        tracing::info!(store = self.name, creation = %found, "the object store answers");
        *known = Some(found);
        Ok(found)
    }

    /// How puts are made, without asking; `None` while the store has not answered yet.
    #[must_use]
    pub fn known_creation(&self) -> Option<Creation> {
        *self.creation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes requests until one is answered or the retries are used up.
    fn ask<T, F>(&self, once: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let runtime = self.runtime.as_ref().expect("taken only when the store goes");
        runtime.block_on(self.retries.ask(once))
    }

    fn failed(&self, fault: Fault) -> Error {
        fault.into_error(&self.name)
    }

    /// The full path of a key.
    fn path(&self, bucket: &str, key: &str) -> Result<Path, Error> {
        if bucket.is_empty() || bucket.starts_with('.') || bucket.contains('/') {
            return Err(Error::Refused(format!("{bucket:?} is no name of a bucket")));
        }
        self.path_of(&format!("{bucket}/{key}"))
    }

    fn path_of(&self, key: &str) -> Result<Path, Error> {
        let full = format!("{}{key}", self.root);
        let whole = !key.ends_with('/') && full.len() <= KEY_BYTES_MAX;
        let path = Path::parse(&full).ok().filter(|path| whole && path.as_ref() == full);
        path.ok_or_else(|| {
            Error::Refused(format!(
                "{key:?} is no key: at most {KEY_BYTES_MAX} bytes with its prefix, no part empty, \
                 . or .., no control characters"
            ))
        })
    }

    /// One request that creates an object, and refuses to overwrite one.
    async fn create(&self, path: &Path, upload: &Upload) -> Result<Put, Fault> {
        let options = PutOptions { mode: PutMode::Create, ..upload.options.clone() };
        match self.client.put_opts(path, upload.payload.clone(), options).await {
            Ok(_) => Ok(Put::Created),
            Err(error) => match Fault::of(&error) {
                Fault::Exists => Ok(Put::Exists),
                fault => Err(fault),
            },
        }
    }

    /// Looks whether a key is free, then puts. The caller holds the key's lock.
    async fn look_and_put(&self, path: &Path, upload: &Upload) -> Result<Put, Fault> {
        let head = GetOptions { head: true, ..GetOptions::default() };
        match self.client.get_opts(path, head).await {
            Ok(_) => return Ok(Put::Exists),
            Err(error) => match Fault::of(&error) {
                Fault::Absent => {}
                fault => return Err(fault),
            },
        }
        let put = self.client.put_opts(path, upload.payload.clone(), upload.options.clone()).await;
        put.map(|_| Put::Created).map_err(|error| Fault::of(&error))
    }

    async fn get_once(&self, path: &Path, bytes_max: u64) -> Result<Found, Fault> {
        match self.client.get_opts(path, GetOptions::default()).await {
            Ok(found) if found.meta.size > bytes_max => Ok(Found::Longer(found.meta.size)),
            Ok(found) => read_whole(found).await.map(Found::Object),
            Err(error) => match Fault::of(&error) {
                Fault::Absent => Ok(Found::Absent),
                fault => Err(fault),
            },
        }
    }

    async fn page(
        &self,
        prefix: &str,
        delimiter: bool,
        token: Option<String>,
    ) -> Result<PaginatedListResult, Fault> {
        let options = PaginatedListOptions {
            delimiter: delimiter.then(|| "/".into()),
            max_keys: Some(PAGE_KEYS),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
        let page = self.client.list_paginated(prefix, options).await;
        page.map_err(|error| Fault::of(&error))
    }

    /// Visits the pages of a listing until `visit` returns false.
    fn pages(
        &self,
        prefix: &str,
        delimiter: bool,
        visit: &mut dyn FnMut(object_store::ListResult) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut token = None;
        loop {
            let page = self.ask(|| self.page(prefix, delimiter, token.clone()));
            let page = page.map_err(|fault| self.failed(fault))?;
            let again = page.page_token.is_some() && page.page_token == token;
            token = page.page_token;
            if !visit(page.result)? || token.is_none() {
                return Ok(());
            }
            if again {
                let text = format!("{}: its listing does not go on", self.name);
                return Err(Error::Unavailable(text));
            }
        }
    }
}

/// What is put, cheap to put again.
struct Upload {
    payload: PutPayload,
    options: PutOptions,
}

impl Upload {
    fn of(key: &str, bytes: &[u8], metadata: &Metadata) -> Result<Self, Error> {
        let attributes = metadata::attributes(key, metadata)?;
        let payload = PutPayload::from(bytes.to_vec());
        Ok(Self { payload, options: PutOptions { attributes, ..PutOptions::default() } })
    }
}

async fn read_whole(found: GetResult) -> Result<Object, Fault> {
    let length = found.meta.size;
    let metadata = metadata::of(&found.attributes);
    let bytes = found.bytes().await.map_err(|error| Fault::of(&error))?;
    if bytes.len() as u64 != length {
        let text = format!("an object of {length} bytes came as {}", bytes.len());
        return Err(Fault::Again { reason: "connection", text });
    }
    Ok(Object { bytes: bytes.into(), metadata })
}

impl ObjectStore for S3Store {
    fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        metadata: &Metadata,
    ) -> Result<Put, Error> {
        let path = self.path(bucket, key)?;
        let upload = Upload::of(key, bytes, metadata)?;
        let answer = match self.creation()? {
            Creation::Conditional => self.ask(|| self.create(&path, &upload)),
            Creation::LookFirst => {
                let lock = xxhash_rust::xxh3::xxh3_64(path.as_ref().as_bytes()) % LOCKS as u64;
                let lock = &self.locks[lock as usize];
                let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
                self.ask(|| self.look_and_put(&path, &upload))
            }
        };
        answer.map_err(|fault| self.failed(fault))
    }

    fn get(&self, bucket: &str, key: &str) -> Result<Option<Object>, Error> {
        match self.get_at_most(bucket, key, OBJECT_BYTES_MAX)? {
            Found::Object(object) => Ok(Some(object)),
            Found::Absent => Ok(None),
            Found::Longer(bytes) => {
                let text = format!("{bucket}/{key} has {bytes} bytes: it is none of ours");
                Err(Error::Refused(text))
            }
        }
    }

    fn get_at_most(&self, bucket: &str, key: &str, bytes_max: u64) -> Result<Found, Error> {
        let path = self.path(bucket, key)?;
        let found = self.ask(|| self.get_once(&path, bytes_max));
        found.map_err(|fault| self.failed(fault))
    }

    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<(), Error> {
        self.path(bucket, "x")?;
        let above = format!("{}{bucket}/", self.root);
        let mut last = String::new();
        self.pages(&format!("{above}{prefix}"), false, &mut |mut page| {
            page.objects.sort_by(|one, other| one.location.cmp(&other.location));
            for object in &page.objects {
                let Some(key) = object.location.as_ref().strip_prefix(&above) else { continue };
                if key <= last.as_str() {
                    let text = format!("{}: it does not list keys in order", self.name);
                    return Err(Error::Refused(text));
                }
                if !visit(key, object.size) {
                    return Ok(false);
                }
                key.clone_into(&mut last);
            }
            Ok(true)
        })
    }

    fn buckets(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.pages(&self.root, true, &mut |page| {
            let folders = page.common_prefixes.iter();
            let inner = folders.filter_map(|path| path.as_ref().strip_prefix(&self.root));
            names.extend(inner.filter(|name| !name.starts_with('.')).map(str::to_owned));
            Ok(true)
        })?;
        names.sort();
        names.dedup();
        Ok(names)
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
