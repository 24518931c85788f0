//! Public keys: what a verifier is given, and how they are written down.
//!
//! **Invariant:** public keys come from whoever calls, never from the store that is verified.
//!
//! Source: `docs/formats.md`, "Keys"; RFC 5280 SubjectPublicKeyInfo; RFC 8410; C2SP signed notes.

use std::io::Read as _;
use std::path::Path;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use data_encoding::BASE64;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use trailproof_topology::input::Millis;
use trailproof_topology::note;
use trailproof_topology::sign::key_id;

use super::Error;

/// DER of an Ed25519 SubjectPublicKeyInfo before the 32 bytes of the key.
const ED25519_INFO: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

const FILE_BYTES_MAX: u64 = 1 << 20;

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// The version of [`KeysFile`].
pub const KEYS_VERSION: &str = "trailproof/keys/v1";

/// `keys.json`: the public keys of an installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysFile {
    /// [`KEYS_VERSION`].
    pub version: String,
    /// The keys; old ones stay for ever.
    pub keys: Vec<KeyEntry>,
}

/// A key of `keys.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The key's id.
    pub id: String,
    /// `RSA-3072` or `Ed25519`.
    pub algorithm: String,
    /// What it signs.
    pub signs: String,
    /// When it was made.
    pub created_ms: Millis,
    /// SubjectPublicKeyInfo, PEM.
    pub public_key: String,
    /// C2SP verifier text of an Ed25519 key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier_key: Option<String>,
}

/// One public key.
#[derive(Debug)]
pub enum PublicKey {
    /// Of digests.
    Rsa(ParsedPublicKey),
    /// Of checkpoints.
    Ed25519(VerifyingKey),
}

/// The keys that a verifier trusts.
#[derive(Debug, Default)]
pub struct PublicKeys {
    keys: Vec<(String, PublicKey)>,
}

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo; `None` where it is neither RSA of 2,048 to 8,192 bits nor
    /// Ed25519.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Option<Self> {
        if let Some(raw) = der.strip_prefix(&ED25519_INFO) {
            return VerifyingKey::from_bytes(raw.try_into().ok()?).ok().map(Self::Ed25519);
        }
        ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).ok().map(Self::Rsa)
    }
}

impl PublicKeys {
    /// Adds the keys of a file: `keys.json`, PEM `PUBLIC KEY` blocks, or C2SP verifier texts, one a
    /// line.
    ///
    /// # Errors
    /// The file cannot be read, or holds no key.
    pub fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let file = std::fs::File::open(path).map_err(|error| Error::io("open", path, error))?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|error| Error::io("read", path, error))?;
        let readable = if text.trim_start().starts_with('{') {
            self.add_json(&text)
        } else if text.contains(PEM_BEGIN) {
            self.add_pem(&text)
        } else {
            text.lines().filter(|line| !line.trim().is_empty()).all(|line| self.add_text(line))
        };
        if readable && !self.keys.is_empty() {
            return Ok(());
        }
        let what = "is no public key: want PEM, keys.json or a C2SP verifier key";
        Err(Error::Unfit(path.to_owned(), what.to_owned()))
    }

    fn add_json(&mut self, text: &str) -> bool {
        let Ok(file) = serde_json::from_str::<KeysFile>(text) else { return false };
        file.version == KEYS_VERSION && file.keys.iter().all(|key| self.add_pem(&key.public_key))
    }

    fn add_pem(&mut self, text: &str) -> bool {
        text.split(PEM_BEGIN).skip(1).all(|block| {
            let body: String =
                block.split(PEM_END).next().unwrap_or_default().split_whitespace().collect();
            BASE64.decode(body.as_bytes()).is_ok_and(|der| self.add_der(&der))
        })
    }

    fn add_text(&mut self, line: &str) -> bool {
        note::parse_verifier_key(line)
            .is_some_and(|(_, public)| self.add_der(&ed25519_info(&public)))
    }

    /// Adds a DER SubjectPublicKeyInfo. Whether it is one.
    pub fn add_der(&mut self, der: &[u8]) -> bool {
        let Some(key) = PublicKey::from_der(der) else { return false };
        let id = key_id(der);
        if !self.keys.iter().any(|(known, _)| *known == id) {
            self.keys.push((id, key));
        }
        true
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The ids of the keys, in the order they were given.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    /// Whether there is an RSA key.
    #[must_use]
    pub fn has_rsa(&self) -> bool {
        self.keys.iter().any(|(_, key)| matches!(key, PublicKey::Rsa(_)))
    }

    /// The raw Ed25519 keys.
    pub fn ed25519(&self) -> impl Iterator<Item = [u8; 32]> {
        self.keys.iter().filter_map(|(_, key)| match key {
            PublicKey::Ed25519(key) => Some(key.to_bytes()),
            PublicKey::Rsa(_) => None,
        })
    }

    /// Whether the key with `id` signed `message`; `None` where that key is not known.
    #[must_use]
    pub fn verify(&self, id: &str, message: &[u8], signature: &[u8]) -> Option<bool> {
        let (_, key) = self.keys.iter().find(|(known, _)| known == id)?;
        Some(match key {
            PublicKey::Rsa(key) => key.verify_sig(message, signature).is_ok(),
            PublicKey::Ed25519(key) => Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        })
    }
}

/// The DER SubjectPublicKeyInfo of a raw Ed25519 key.
#[must_use]
pub fn ed25519_info(public: &[u8; 32]) -> Vec<u8> {
    [&ED25519_INFO[..], public].concat()
}

/// PEM of a DER SubjectPublicKeyInfo.
#[must_use]
pub fn pem(der: &[u8]) -> String {
    super::sealed::pem("PUBLIC KEY", der)
}
