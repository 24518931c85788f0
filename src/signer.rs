//! The signer: RSA-3072 for digests, Ed25519 for checkpoints, in memory after start.
//!
//! **Invariant:** both signatures are deterministic, so a replay writes the same bytes.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use ed25519_dalek::{Signer as _, SigningKey};
use trailproof_topology::sign::{Sign, key_id};
use zeroize::Zeroizing;

use crate::keys::public::ed25519_info;

/// DER of a PKCS#8 Ed25519 private key before its 32 bytes (RFC 8410).
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A key that cannot be made or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {0}")]
pub struct Error(&'static str);

/// The keys of an installation.
pub struct Signer {
    rsa: KeyPair,
    rsa_info: Vec<u8>,
    rsa_id: String,
    ed25519: SigningKey,
    ed25519_id: String,
}

impl Signer {
    /// Makes new keys. Takes up to some seconds.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, Error> {
        let rsa = KeyPair::generate(KeySize::Rsa3072).map_err(|_| Error("make an RSA key"))?;
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *seed).map_err(|_| Error("draw random bytes"))?;
        Self::new(rsa, SigningKey::from_bytes(&seed))
    }

    /// Takes keys in PKCS#8.
    ///
    /// # Errors
    /// One of them is of another kind, or the RSA key has not 3,072 bits.
    pub fn from_pkcs8(rsa: &[u8], ed25519: &[u8]) -> Result<Self, Error> {
        let rsa = KeyPair::from_pkcs8(rsa).map_err(|_| Error("read the RSA key"))?;
        if rsa.public_modulus_len() != 3_072 / 8 {
            return Err(Error("use an RSA key that has not 3072 bits"));
        }
        let seed = ed25519
            .strip_prefix(&ED25519_PKCS8)
            .and_then(|seed| Zeroizing::new(<[u8; 32]>::try_from(seed).ok()?).into())
            .ok_or(Error("read the Ed25519 key"))?;
        Self::new(rsa, SigningKey::from_bytes(&seed))
    }

    fn new(rsa: KeyPair, ed25519: SigningKey) -> Result<Self, Error> {
        let info: PublicKeyX509Der<'_> =
            rsa.public_key().as_der().map_err(|_| Error("write the RSA public key"))?;
        let rsa_info = info.as_ref().to_vec();
        let rsa_id = key_id(&rsa_info);
        let ed25519_id = key_id(&ed25519_info(&ed25519.verifying_key().to_bytes()));
        Ok(Self { rsa, rsa_info, rsa_id, ed25519, ed25519_id })
    }

    /// The RSA key's DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn rsa_info(&self) -> &[u8] {
        &self.rsa_info
    }

    /// Both private keys in PKCS#8: RSA, Ed25519.
    ///
    /// # Errors
    /// The RSA key cannot be written.
    pub(crate) fn to_pkcs8(&self) -> Result<[Zeroizing<Vec<u8>>; 2], Error> {
        let rsa: Pkcs8V1Der<'_> = self.rsa.as_der().map_err(|_| Error("write the RSA key"))?;
        let seed = Zeroizing::new(self.ed25519.to_bytes());
        let ed25519 = [&ED25519_PKCS8[..], &seed[..]].concat();
        Ok([Zeroizing::new(rsa.as_ref().to_vec()), Zeroizing::new(ed25519)])
    }
}

impl Sign for Signer {
    fn rsa_key_id(&self) -> &str {
        &self.rsa_id
    }

    fn ed25519_key_id(&self) -> &str {
        &self.ed25519_id
    }

    fn ed25519_public(&self) -> [u8; 32] {
        self.ed25519.verifying_key().to_bytes()
    }

    fn sign_rsa(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        self.rsa
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .expect("PKCS#1 v1.5 with a checked key of 3,072 bits signs any message");
        signature
    }

    fn sign_ed25519(&self, message: &[u8]) -> [u8; 64] {
        self.ed25519.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Signer({}, {})", self.rsa_id, self.ed25519_id)
    }
}

#[cfg(test)]
mod tests {
    use trailproof_topology::merkle::leaf_hash;
    use trailproof_topology::merkle_proof::root;
    use trailproof_topology::note::{Checkpoint, Note, parse_verifier_key, verifier_key};

    use super::*;
    use crate::keys::public::PublicKeys;

    fn with_seed(seed: [u8; 32]) -> Signer {
        let rsa = KeyPair::generate(KeySize::Rsa3072).unwrap();
        Signer::new(rsa, SigningKey::from_bytes(&seed)).unwrap()
    }

    /// The vector made with another program, from the seed of 32 ones.
    #[test]
    fn a_checkpoint_is_signed_as_the_vector_says() {
        let signer = with_seed([1; 32]);
        let name = "spoor.example/audit/system";
        let key = "spoor.example/audit/system+9627c46e+\
                   AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
        assert_eq!(verifier_key(name, &signer.ed25519_public()), key);
        assert_eq!(parse_verifier_key(key).unwrap().1, signer.ed25519_public());
        let leaves: Vec<_> =
            (0..7).map(|index| leaf_hash(format!("trace-{index}").as_bytes())).collect();
        let checkpoint = Checkpoint { origin: name.to_owned(), size: 7, root: root(&leaves) };
        let note = checkpoint.sign(name, &signer);
        let expected = "spoor.example/audit/system\n7\n\
            Dyw+zehM78wWnbGM5Rkoq3OdkY2KxwdbmBnLVXj2UZk=\n\n\
            \u{2014} spoor.example/audit/system lifEbvSWPce4OC/sZCTPucksPrLGJbTSf7/R8tN3CZ+dIoO0ZY\
            LS5fp/a5kVTjzIDlE3T+EWWRWc53egxvP0wsAtpw8=\n";
        assert_eq!(note, expected);
        let mut keys = PublicKeys::default();
        assert!(keys.add_der(&ed25519_info(&signer.ed25519_public())));
        let note = Note::parse(&note).unwrap();
        let id = signer.ed25519_key_id();
        let signed = &note.signatures[0].signature;
        assert_eq!(keys.verify(id, note.text.as_bytes(), signed), Some(true));
        assert_eq!(keys.verify(id, b"other", signed), Some(false));
        assert_eq!(keys.verify("other", note.text.as_bytes(), signed), None);
    }

    #[test]
    fn keys_survive_pkcs8_and_sign_the_same() {
        let signer = with_seed([3; 32]);
        let [rsa, ed25519] = signer.to_pkcs8().unwrap();
        let again = Signer::from_pkcs8(&rsa, &ed25519).unwrap();
        assert_eq!(signer.sign_rsa(b"m"), again.sign_rsa(b"m"));
        assert_eq!(signer.sign_ed25519(b"m"), again.sign_ed25519(b"m"));
        assert_eq!(signer.rsa_key_id(), again.rsa_key_id());
        let mut keys = PublicKeys::default();
        assert!(keys.add_der(signer.rsa_info()));
        let signature = signer.sign_rsa(b"m");
        assert_eq!(keys.verify(signer.rsa_key_id(), b"m", &signature), Some(true));
        assert_eq!(keys.verify(signer.rsa_key_id(), b"n", &signature), Some(false));
    }
}
