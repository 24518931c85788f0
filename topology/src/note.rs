//! Signed notes and checkpoints of C2SP: the head of a digest chain in four lines of text.
//!
//! A checkpoint says: the chain `origin` has `size` digests, and this is the RFC 6962 root over
//! them. Whoever keeps one elsewhere convicts a chain that was cut or forked.
//!
//! Source: C2SP `signed-note` and `tlog-checkpoint`.

use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest as _, Sha256};

use crate::merkle::Hash;
use crate::sign::Sign;

/// Signature type of Ed25519.
const ED25519: u8 = 1;

/// Signatures of one note that are read at most.
const SIGNATURES_MAX: usize = 64;

/// Bytes of a note that are read at most.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;

/// The head of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The chain: `<installation>/<account>/<tracker name>`, of the ledger
    /// `<installation>/_ledger`.
    pub origin: String,
    /// Digests in the chain.
    pub size: u64,
    /// RFC 6962 root over the digests' uncompressed JSON.
    pub root: Hash,
}

/// A note as read: not yet believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What is signed, with its final newline.
    pub text: String,
    /// The signature lines.
    pub signatures: Vec<NoteSignature>,
}

/// One signature line of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// Name of the key.
    pub name: String,
    /// First four bytes of the key's hash.
    pub key_id: [u8; 4],
    /// The signature after the key id.
    pub signature: Vec<u8>,
}

impl Checkpoint {
    /// The text that is signed: three lines.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root))
    }

    /// Reads the text of a note; lines after the third are extensions and ignored.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut lines = text.strip_suffix('\n').ok_or("no final newline")?.split('\n');
        let origin = lines.next().filter(|line| !line.is_empty()).ok_or("no origin")?.to_owned();
        let size = lines.next().ok_or("no size")?;
        let plain = size == "0" || !size.starts_with('0');
        let digits = plain && size.bytes().all(|byte| byte.is_ascii_digit());
        let size = size.parse().ok().filter(|_| digits).ok_or("size is not a number")?;
        let root = BASE64.decode(lines.next().ok_or("no root")?.as_bytes());
        let root = root.ok().and_then(|root| root.try_into().ok()).ok_or("root is not a hash")?;
        Ok(Self { origin, size, root })
    }

    /// The checkpoint as a note with one Ed25519 signature by the key called `name`.
    #[must_use]
    pub fn sign(&self, name: &str, signer: &dyn Sign) -> String {
        let text = self.text();
        let mut line = key_hash(name, &signer.ed25519_public()).to_vec();
        line.extend_from_slice(&signer.sign_ed25519(text.as_bytes()));
        format!("{text}\n\u{2014} {name} {}\n", BASE64.encode(&line))
    }
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(note: &str) -> Result<Self, &'static str> {
        if note.len() > NOTE_BYTES_MAX {
            return Err("the note is too long");
        }
        if note.chars().any(|letter| letter.is_control() && letter != '\n') {
            return Err("the note has control characters");
        }
        let split = note.rfind("\n\n").ok_or("the note has no blank line")?;
        let (text, lines) = (&note[..=split], &note[split + 2..]);
        let lines = lines.strip_suffix('\n').ok_or("the note has no final newline")?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            signatures.push(NoteSignature::parse(line).ok_or("a signature line is malformed")?);
            if signatures.len() > SIGNATURES_MAX {
                return Err("the note has too many signatures");
            }
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// The signatures that the Ed25519 key `public` may have made, by their key id.
    pub fn by_key<'a>(&'a self, public: &'a [u8; 32]) -> impl Iterator<Item = &'a NoteSignature> {
        self.signatures.iter().filter(|line| line.key_id == key_hash(&line.name, public))
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix("\u{2014} ")?.rsplit_once(' ')?;
        let bytes = BASE64.decode(encoded.as_bytes()).ok()?;
        let (key_id, signature) = bytes.split_first_chunk::<4>()?;
        let named = !name.is_empty() && !name.contains([' ', '+']);
        named.then(|| Self {
            name: name.to_owned(),
            key_id: *key_id,
            signature: signature.to_vec(),
        })
    }
}

/// The first four bytes of SHA-256(name, newline, type, public key).
#[must_use]
pub fn key_hash(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let hash = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', ED25519])
        .chain_update(public)
        .finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

/// A name as notes allow it: no blank, no plus, no control character, not empty.
#[must_use]
pub fn key_name(installation: &str) -> String {
    let bad = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '+';
    let name: String =
        installation.chars().map(|letter| if bad(letter) { '-' } else { letter }).collect();
    if name.is_empty() { "trailproof".to_owned() } else { name }
}

/// The key's verifier text: `name+hex key id+base64(type, key)`.
#[must_use]
pub fn verifier_key(name: &str, public: &[u8; 32]) -> String {
    let mut key = vec![ED25519];
    key.extend_from_slice(public);
    format!("{name}+{}+{}", HEXLOWER.encode(&key_hash(name, public)), BASE64.encode(&key))
}

/// Reads a verifier text: name and raw Ed25519 key. `None` where it is another type or its key id
/// is wrong.
#[must_use]
pub fn parse_verifier_key(text: &str) -> Option<(String, [u8; 32])> {
    let mut parts = text.trim().splitn(3, '+');
    let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
    let key = BASE64.decode(key.as_bytes()).ok()?;
    let (kind, public) = key.split_first()?;
    let public: [u8; 32] = public.try_into().ok()?;
    let right = *kind == ED25519 && HEXLOWER.encode(&key_hash(name, &public)) == id;
    right.then(|| (name.to_owned(), public))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "spoor.example/audit/system
7
Dyw+zehM78wWnbGM5Rkoq3OdkY2KxwdbmBnLVXj2UZk=

\u{2014} spoor.example/audit/system lifEbvSWPce4OC/sZCTPucksPrLGJbTSf7/R8tN3CZ+dIoO0ZYLS5fp/\
a5kVTjzIDlE3T+EWWRWc53egxvP0wsAtpw8=
\u{2014} witness.example/w1 3xwKNQAAAABpH6uAVS2+xYqWntdLqNo+2aDufJLGnjivuCJiz7XjD8k+6SXGYOmXqi\
GaXTF0WttcP1ViTQSb26imBitzKkaFI64tBA==
";
    const KEY: &str =
        "spoor.example/audit/system+9627c46e+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";

    #[test]
    fn the_published_vector_is_read() {
        let note = Note::parse(NOTE).expect("a note");
        let checkpoint = Checkpoint::parse(&note.text).expect("a checkpoint");
        assert_eq!(
            (checkpoint.origin.as_str(), checkpoint.size),
            ("spoor.example/audit/system", 7)
        );
        assert_eq!(checkpoint.text(), note.text);
        let (name, public) = parse_verifier_key(KEY).expect("a key");
        assert_eq!(verifier_key(&name, &public), KEY);
        assert_eq!(note.signatures.len(), 2);
        assert_eq!(note.by_key(&public).count(), 1);
        assert_eq!(note.by_key(&[9; 32]).count(), 0);
    }

    #[test]
    fn malformed_notes_are_refused() {
        for bad in [
            "",
            "a\n1\n",
            "a\n1\n\n",
            "a\n\n- name AAAA\n",
            "a\n\n\u{2014} name AAAA",
            "a\n\n\u{2014} na+me AAAAAAAA\n",
            "a\u{1}\n\n\u{2014} name AAAAAAAA\n",
            "a\n\n\u{2014} name AAA\n",
        ] {
            assert!(Note::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["\n", "a\n01\nAA==\n", "a\n+1\nAA==\n", "a\n1\nAA==\n", "a\n-1\n"] {
            assert!(Checkpoint::parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse_verifier_key(&KEY.replace("9627", "9628")).is_none());
    }

    #[test]
    fn names_are_made_fit() {
        assert_eq!(key_name("my place+1\n"), "my-place-1-");
        assert_eq!(key_name(""), "trailproof");
    }
}
