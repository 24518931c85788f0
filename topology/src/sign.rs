//! The signer port: two signatures, both functions of key and message alone.
//!
//! **Invariant:** signing is deterministic (RSA PKCS#1 v1.5, Ed25519), so a replay signs the same
//! bytes. Private keys live in the shell.

use sha2::{Digest as _, Sha256};

/// Signs digests and checkpoints.
pub trait Sign: Send + Sync {
    /// Id of the RSA key: [`key_id`] of its SubjectPublicKeyInfo.
    fn rsa_key_id(&self) -> &str;

    /// Id of the Ed25519 key: [`key_id`] of its SubjectPublicKeyInfo.
    fn ed25519_key_id(&self) -> &str;

    /// The raw Ed25519 public key.
    fn ed25519_public(&self) -> [u8; 32];

    /// RSASSA-PKCS1-v1_5 with SHA-256 over `message`.
    fn sign_rsa(&self, message: &[u8]) -> Vec<u8>;

    /// Ed25519 (RFC 8032) over `message`.
    fn sign_ed25519(&self, message: &[u8]) -> [u8; 64];
}

/// The id of a public key: the first 16 bytes of the SHA-256 of its DER SubjectPublicKeyInfo, in
/// lower-case hex.
#[must_use]
pub fn key_id(subject_public_key_info: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(subject_public_key_info)[..16])
}

/// A signer without secrets, for the simulator: its signatures are hashes. Worth nothing outside.
#[derive(Clone, Debug, Default)]
pub struct FakeSigner;

impl Sign for FakeSigner {
    fn rsa_key_id(&self) -> &str {
        "00000000000000000000000000000001"
    }

    fn ed25519_key_id(&self) -> &str {
        "00000000000000000000000000000002"
    }

    fn ed25519_public(&self) -> [u8; 32] {
        [2; 32]
    }

    fn sign_rsa(&self, message: &[u8]) -> Vec<u8> {
        Sha256::new().chain_update(b"rsa").chain_update(message).finalize().to_vec()
    }

    fn sign_ed25519(&self, message: &[u8]) -> [u8; 64] {
        let hash = Sha256::new().chain_update(b"ed25519").chain_update(message).finalize();
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&hash);
        signature[32..].copy_from_slice(&hash);
        signature
    }
}
