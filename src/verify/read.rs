//! One digest as found: parsed, hashed, its signature checked; not yet set in its chain.

use std::io;

use data_encoding::HEXLOWER;
use trailproof_topology::compatible;
use trailproof_topology::digest::{
    CompatibleDigest, Digest, Link, META_SIGNATURE, META_SIGNATURE_ALGORITHM, SIGNATURE_ALGORITHM,
    VERSION, hex_sha256, signing_text,
};
use trailproof_topology::merkle::{Hash, leaf_hash};

use super::folder::{Folder, Place, inflate};
use super::name::DigestName;
use super::report::Verdict;
use crate::keys::public::PublicKeys;

/// What is known of a digest's RSA signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    /// By a trusted key.
    Good,
    /// Not by the key that the digest names.
    Bad,
    /// The digest names a key that is not trusted.
    UnknownKey,
    /// There are no metadata.
    Missing,
}

/// A digest as found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) name: DigestName,
    /// What could be read of it.
    pub(super) body: Option<Body>,
}

/// A digest that could be parsed.
#[derive(Debug)]
pub(super) struct Body {
    /// The digest; its files are taken out once they are being checked.
    pub(super) digest: Digest,
    /// Lower-case hex.
    pub(super) hash: String,
    pub(super) leaf: Hash,
    pub(super) signed: Signed,
    /// From the metadata, or where those are missing or wrong from the next digest.
    pub(super) signature: String,
    pub(super) balances: bool,
    pub(super) files: u64,
    /// Whether the signature algorithm is named as it should be.
    pub(super) algorithm: bool,
}

impl Body {
    /// What the next digest says of this one.
    pub(super) fn link(&self, place: &Place) -> Link {
        Link {
            bucket: place.bucket.clone(),
            object: place.object.clone(),
            hash: self.hash.clone(),
            signature: self.signature.clone(),
            sequence: self.digest.sequence,
            end_ms: self.digest.interval_end_ms,
            ended: self.digest.digest_end,
        }
    }

    /// Whether the digest says that it lies where it was found.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        self.digest.digest_bucket == place.bucket && self.digest.digest_object == place.object
    }

    /// Whether `signature` is a trusted key's over this digest.
    pub(super) fn signed_by(&self, keys: &PublicKeys, signature: &str) -> Option<bool> {
        let text = text(&self.digest, &self.hash);
        let bytes = HEXLOWER.decode(signature.as_bytes()).unwrap_or_default();
        keys.verify(&self.digest.key_ids.rsa, text.as_bytes(), &bytes)
    }
}

/// The signed text, from a hash that is known.
fn text(digest: &Digest, hash: &str) -> String {
    // The hash stands alone on its line, so it can be put in place of the one of nothing.
    signing_text(digest, b"").replacen(&hex_sha256(b""), hash, 1)
}

/// Reads a digest.
pub(super) fn read(
    folder: &Folder<'_>,
    keys: &PublicKeys,
    place: Place,
    name: DigestName,
) -> io::Result<Found> {
    let stored = folder.small(&place)?;
    let content = stored.as_ref().and_then(|(stored, _)| inflate(stored));
    let digest = content.as_deref().and_then(|content| {
        let digest: Digest = serde_json::from_slice(content).ok()?;
        (digest.version == VERSION).then_some(digest)
    });
    let (Some((_, opened)), Some(content), Some(digest)) = (stored, content, digest) else {
        return Ok(Found { place, name, body: None });
    };
    let metadata = folder.metadata(&place, &opened)?;
    let value = |name| metadata.as_ref().and_then(|own| own.get(name)).cloned();
    let signature = value(META_SIGNATURE);
    let mut body = Body {
        hash: hex_sha256(&content),
        leaf: leaf_hash(&content),
        signed: Signed::Missing,
        signature: signature.clone().unwrap_or_default(),
        balances: digest.balances(),
        files: digest.log_files.len() as u64,
        algorithm: value(META_SIGNATURE_ALGORITHM).as_deref() == Some(SIGNATURE_ALGORITHM),
        digest,
    };
    if let Some(signature) = signature {
        body.signed = match body.signed_by(keys, &signature) {
            Some(true) => Signed::Good,
            Some(false) => Signed::Bad,
            None => Signed::UnknownKey,
        };
    }
    Ok(Found { place, name, body: Some(body) })
}

/// What is wrong with the CloudTrail-compatible digest that a digest names.
pub(super) fn compatible(
    folder: &Folder<'_>,
    named: &CompatibleDigest,
) -> io::Result<Option<(Verdict, &'static str)>> {
    let place = Place::new(&named.bucket, &named.object);
    let Some((stored, opened)) = folder.small(&place)? else {
        return Ok(Some((Verdict::Missing, "a digest names it, and it is not there")));
    };
    let whole =
        inflate(&stored).is_some_and(|content| hex_sha256(&content) == named.content_sha256);
    if !whole {
        return Ok(Some((Verdict::Changed, "is not what the digest names")));
    }
    let Some(metadata) = folder.metadata(&place, &opened)? else {
        return Ok(Some((Verdict::Missing, "its metadata are missing or unreadable")));
    };
    let signed = metadata.get(compatible::META_SIGNATURE) == Some(&named.signature);
    let wrong = (Verdict::BadSignature, "its signature is not the one that the digest names");
    Ok((!signed).then_some(wrong))
}
