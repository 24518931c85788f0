//! What the S3 server of the tests keeps: objects in memory, and what may be wrong with them.
//!
//! `s3s-fs` is not used: it writes metadata to a file whose name is longer than file systems take
//! for keys like ours, and its conditional create is not atomic.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use s3s::dto::{
    CommonPrefix, ETag, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput,
    ListObjectsV2Input, ListObjectsV2Output, Metadata, PutObjectInput, PutObjectOutput,
    StreamingBlob, Timestamp,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use sha2::{Digest as _, Sha256};

/// The only bucket.
pub(crate) const BUCKET: &str = "audit";

/// How the store treats `If-None-Match: *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// As S3 does.
    Kept,
    /// Overwrites all the same.
    Ignored,
    /// Answers 501.
    NotImplemented,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) metadata: Metadata,
    pub(crate) content_type: Option<String>,
    pub(crate) checksum: Option<String>,
}

/// What there is, and what happened to it.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) objects: BTreeMap<String, Stored>,
    /// Puts to a key that was taken, whether or not they changed it.
    pub(crate) overwritten: Vec<String>,
    /// Keys in the order in which they came to be.
    pub(crate) created: Vec<String>,
}

/// A store in memory.
pub(crate) struct Memory {
    kept: Mutex<Kept>,
    conditions: Conditions,
    /// Keys in one page of a listing at most.
    page: usize,
}

impl Memory {
    pub(crate) fn new(conditions: Conditions, page: usize) -> Self {
        Self { kept: Mutex::default(), conditions, page }
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    fn check(bucket: &str) -> S3Result<()> {
        if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }
}

fn etag(bytes: &[u8]) -> ETag {
    ETag::Strong(data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)[..16]))
}

/// The handler; shared, so that tests can look behind it.
pub(crate) struct Handler(pub(crate) std::sync::Arc<Memory>);

#[async_trait::async_trait]
impl S3 for Handler {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        Memory::check(&input.bucket)?;
        let conditional = input.if_none_match.is_some_and(|condition| condition.is_any());
        if conditional && self.0.conditions == Conditions::NotImplemented {
            return Err(s3_error!(NotImplemented));
        }
        let body = input.body.unwrap_or_else(|| StreamingBlob::from(Body::empty()));
        let mut body = Body::from(body);
        let bytes = body.store_all_limited(1 << 30).await.map_err(|_| s3_error!(IncompleteBody))?;
        let sum = data_encoding::BASE64.encode(&Sha256::digest(&bytes));
        if input.checksum_sha256.as_ref().is_some_and(|said| *said != sum) {
            return Err(s3_error!(BadDigest));
        }
        let key = input.key.to_string();
        let mut kept = self.0.kept();
        if kept.objects.contains_key(&key) {
            if conditional && self.0.conditions == Conditions::Kept {
                return Err(s3_error!(PreconditionFailed));
            }
            kept.overwritten.push(key.clone());
        } else {
            kept.created.push(key.clone());
        }
        let e_tag = Some(etag(&bytes));
        let stored = Stored {
            bytes: bytes.to_vec(),
            metadata: input.metadata.unwrap_or_default(),
            content_type: input.content_type.map(|kind| kind.to_string()),
            checksum: input.checksum_sha256,
        };
        kept.objects.insert(key, stored);
        Ok(S3Response::new(PutObjectOutput { e_tag, ..PutObjectOutput::default() }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        Memory::check(&input.bucket)?;
        let kept = self.0.kept();
        let stored = kept.objects.get(input.key.as_str()).ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::from(Body::from(stored.bytes.clone()))),
            content_length: Some(stored.bytes.len() as i64),
            e_tag: Some(etag(&stored.bytes)),
            last_modified: Some(Timestamp::from(std::time::SystemTime::UNIX_EPOCH)),
            metadata: Some(stored.metadata.clone()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        Memory::check(&input.bucket)?;
        let kept = self.0.kept();
        let stored = kept.objects.get(input.key.as_str()).ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(stored.bytes.len() as i64),
            e_tag: Some(etag(&stored.bytes)),
            metadata: Some(stored.metadata.clone()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        Memory::check(&input.bucket)?;
        let prefix = input.prefix.unwrap_or_default();
        let after = input.continuation_token.unwrap_or_default();
        let (mut contents, mut folders) = (Vec::new(), Vec::new());
        let mut next = None;
        let kept = self.0.kept();
        let range = (Bound::Excluded(after.clone()), Bound::Unbounded);
        for (key, stored) in kept.objects.range::<String, _>(range) {
            let Some(rest) = key.strip_prefix(&prefix) else { continue };
            if contents.len() + folders.len() >= self.0.page {
                // A folder's keys after the one that was shown are passed over by `shown`.
                next = kept.objects.range(..key.clone()).next_back().map(|(key, _)| key.clone());
                break;
            }
            match rest.split_once('/').filter(|_| input.delimiter.is_some()) {
                Some((folder, _)) => {
                    let folder = format!("{prefix}{folder}/");
                    if folders.last() != Some(&folder) && !after.starts_with(&folder) {
                        folders.push(folder);
                    }
                }
                None => contents.push(s3s::dto::Object {
                    key: Some(key.clone()),
                    size: Some(stored.bytes.len() as i64),
                    last_modified: Some(Timestamp::from(std::time::SystemTime::UNIX_EPOCH)),
                    ..s3s::dto::Object::default()
                }),
            }
        }
        let folders = folders.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) });
        Ok(S3Response::new(ListObjectsV2Output {
            is_truncated: Some(next.is_some()),
            contents: Some(contents),
            common_prefixes: Some(folders.collect()),
            next_continuation_token: next,
            ..ListObjectsV2Output::default()
        }))
    }
}
