//! The folder of signing keys: made once, opened at every start.
//!
//! `rsa.pem` and `ed25519.pem` are encrypted private keys; `keys.json`, `rsa.pub.pem`,
//! `ed25519.pub.pem` and `checkpoint.vkey` are for whoever verifies. The folder appears whole or
//! not at all.
//!
//! **Invariant:** the folder is 0700 and its private files 0600, or nothing starts.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use trailproof_topology::input::Millis;
use trailproof_topology::note::{key_name, verifier_key};
use trailproof_topology::sign::Sign as _;
use zeroize::Zeroizing;

use crate::signer::{self, Signer};

pub mod public;
mod sealed;

pub use sealed::Passphrase;

use public::{KEYS_VERSION, KeyEntry, KeysFile, ed25519_info};

/// The RSA private key's file.
const RSA: &str = "rsa.pem";
/// The Ed25519 private key's file.
const ED25519: &str = "ed25519.pem";
/// The public keys' file.
pub const KEYS: &str = "keys.json";
/// The passphrase that `run --dev` makes for itself.
const PASSPHRASE: &str = "passphrase";

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be used.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// A file or folder is not what it should be.
    #[error("{path} {what}", path = .0.display(), what = .1)]
    Unfit(PathBuf, String),
    /// There is no such credential.
    #[error("there is no credential {0:?}: set LoadCredential= in the systemd unit")]
    NoCredential(String),
    /// There are keys already.
    #[error("{} has keys already: they are never overwritten", .0.display())]
    Exists(PathBuf),
    /// There are no keys yet.
    #[error("{} has no keys: run `trailproof keys generate` first", .0.display())]
    Missing(PathBuf),
    /// The cryptography failed.
    #[error("cannot {0}")]
    Crypto(&'static str),
    /// A key cannot be made or used.
    #[error(transparent)]
    Signer(#[from] signer::Error),
}

impl Error {
    fn io(what: &'static str, path: &Path, error: std::io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), error }
    }
}

/// Makes the folder with new keys. `installation` becomes the name of the checkpoint key.
///
/// # Errors
/// There are keys already, the passphrase cannot be read, or files cannot be written.
pub fn generate(
    folder: &Path,
    installation: &str,
    passphrase: &Passphrase,
    now_ms: Millis,
) -> Result<KeysFile, Error> {
    let passphrase = passphrase.read()?;
    make(folder, installation, &passphrase, false, now_ms)
}

/// Opens the keys of a folder.
///
/// # Errors
/// There are none, others may read them, or the passphrase is wrong.
pub fn open(folder: &Path, passphrase: &Passphrase) -> Result<Signer, Error> {
    if !folder.join(RSA).exists() {
        return Err(Error::Missing(folder.to_owned()));
    }
    sealed::private(folder)?;
    let passphrase = passphrase.read()?;
    let rsa = sealed::open(&folder.join(RSA), &passphrase)?;
    let ed25519 = sealed::open(&folder.join(ED25519), &passphrase)?;
    Ok(Signer::from_pkcs8(&rsa, &ed25519)?)
}

/// Opens the keys of a folder; makes them, and a random passphrase beside them, at first start.
/// For `run --dev`: whoever can read the folder can sign.
///
/// # Errors
/// As [`generate`] and [`open`].
pub fn open_dev(folder: &Path, installation: &str, now_ms: Millis) -> Result<Signer, Error> {
    if !folder.join(RSA).exists() {
        let mut random = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *random).map_err(|_| Error::Crypto("draw random bytes"))?;
        let passphrase = Zeroizing::new(HEXLOWER.encode(&*random).into_bytes());
        make(folder, installation, &passphrase, true, now_ms)?;
    }
    open(folder, &Passphrase::File(folder.join(PASSPHRASE)))
}

/// Reads the public keys of a folder.
///
/// # Errors
/// There are none, or the file is damaged.
pub fn published(folder: &Path) -> Result<KeysFile, Error> {
    let path = folder.join(KEYS);
    if !path.exists() {
        return Err(Error::Missing(folder.to_owned()));
    }
    let text = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::Unfit(path, format!("is no keys.json: {error}")))
}

/// Makes the folder under another name and renames it, so that it is never half there.
fn make(
    folder: &Path,
    installation: &str,
    passphrase: &[u8],
    keep_passphrase: bool,
    now_ms: Millis,
) -> Result<KeysFile, Error> {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten();
    if entries.next().is_some() {
        return Err(Error::Exists(folder.to_owned()));
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| Error::io("make", parent, error))?;
    let mut name = folder.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    if new.exists() {
        // What a start left that did not get to the end: nothing was ever signed with it.
        std::fs::remove_dir_all(&new).map_err(|error| Error::io("remove", &new, error))?;
    }
    let made = DirBuilder::new().mode(0o700).create(&new);
    made.map_err(|error| Error::io("make", &new, error))?;
    let signer = Signer::generate()?;
    let [rsa, ed25519] = signer.to_pkcs8()?;
    let file = describe(&signer, installation, now_ms);
    let json = serde_json::to_vec_pretty(&file).map_err(|_| Error::Crypto("write keys.json"))?;
    let public = ed25519_info(&signer.ed25519_public());
    let vkey = verifier_key(&key_name(installation), &signer.ed25519_public());
    sealed::write_private(&new.join(RSA), sealed::seal(&rsa, passphrase)?.as_bytes())?;
    sealed::write_private(&new.join(ED25519), sealed::seal(&ed25519, passphrase)?.as_bytes())?;
    sealed::write_private(&new.join(KEYS), &json)?;
    sealed::write_private(&new.join("rsa.pub.pem"), public::pem(signer.rsa_info()).as_bytes())?;
    sealed::write_private(&new.join("ed25519.pub.pem"), public::pem(&public).as_bytes())?;
    sealed::write_private(&new.join("checkpoint.vkey"), format!("{vkey}\n").as_bytes())?;
    if keep_passphrase {
        sealed::write_private(&new.join(PASSPHRASE), passphrase)?;
    }
    let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
    sync(&new).map_err(|error| Error::io("sync", &new, error))?;
    std::fs::rename(&new, folder).map_err(|error| Error::io("make", folder, error))?;
    sync(parent).map_err(|error| Error::io("sync", parent, error))?;
    Ok(file)
}

/// What `keys.json` says of a signer.
fn describe(signer: &Signer, installation: &str, now_ms: Millis) -> KeysFile {
    let public = signer.ed25519_public();
    let rsa = KeyEntry {
        id: signer.rsa_key_id().to_owned(),
        algorithm: "RSA-3072".to_owned(),
        signs: "digests".to_owned(),
        created_ms: now_ms,
        public_key: public::pem(signer.rsa_info()),
        verifier_key: None,
    };
    let ed25519 = KeyEntry {
        id: signer.ed25519_key_id().to_owned(),
        algorithm: "Ed25519".to_owned(),
        signs: "checkpoints".to_owned(),
        created_ms: now_ms,
        public_key: public::pem(&ed25519_info(&public)),
        verifier_key: Some(verifier_key(&key_name(installation), &public)),
    };
    KeysFile { version: KEYS_VERSION.to_owned(), keys: vec![rsa, ed25519] }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn keys_are_made_once_and_open_again() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("data/keys");
        let first = open_dev(&folder, "here", 5).unwrap();
        let again = open_dev(&folder, "here", 6).unwrap();
        assert_eq!(first.sign_ed25519(b"m"), again.sign_ed25519(b"m"));
        let file = published(&folder).unwrap();
        assert_eq!(file.keys[0].id, first.rsa_key_id());
        let mut keys = public::PublicKeys::default();
        for name in [KEYS, "rsa.pub.pem", "ed25519.pub.pem", "checkpoint.vkey"] {
            keys.add_file(&folder.join(name)).unwrap();
        }
        assert_eq!(keys.ids().count(), 2);
        assert!(keys.add_file(&folder.join(RSA)).is_err());
        let passphrase = Passphrase::File(folder.join(PASSPHRASE));
        let exists = generate(&folder, "here", &passphrase, 7);
        assert!(matches!(exists, Err(Error::Exists(_))));
        let missing = open(&scratch.path().join("none"), &passphrase);
        assert!(matches!(missing, Err(Error::Missing(_))));
    }

    #[test]
    fn what_others_can_read_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("keys");
        open_dev(&folder, "here", 5).unwrap();
        for (path, open_mode, shut) in [
            (folder.clone(), 0o750, 0o700),
            (folder.join(RSA), 0o640, 0o600),
            (folder.join(ED25519), 0o604, 0o600),
            (folder.join(PASSPHRASE), 0o644, 0o600),
        ] {
            mode(&path, open_mode);
            let refused = open_dev(&folder, "here", 6);
            assert!(matches!(refused, Err(Error::Unfit(..))), "{}", path.display());
            mode(&path, shut);
        }
        open_dev(&folder, "here", 6).unwrap();
    }

    #[test]
    fn a_wrong_passphrase_and_a_damaged_file_are_named() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("keys");
        open_dev(&folder, "here", 5).unwrap();
        let other = scratch.path().join("other");
        sealed::write_private(&other, b"not this one\n").unwrap();
        let refused = open(&folder, &Passphrase::File(other.clone())).unwrap_err().to_string();
        assert!(refused.contains("does not open"), "{refused}");
        std::fs::write(&other, b"short\n").unwrap();
        let refused = open(&folder, &Passphrase::File(other)).unwrap_err().to_string();
        assert!(refused.contains("8 to 4096"), "{refused}");
        std::fs::write(folder.join(RSA), b"-----BEGIN RSA PRIVATE KEY-----\n").unwrap();
        assert!(open_dev(&folder, "here", 6).is_err());
    }

    #[test]
    fn openssl_opens_the_private_keys() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("keys");
        open_dev(&folder, "here", 5).unwrap();
        let passphrase = format!("file:{}", folder.join(PASSPHRASE).display());
        for (name, public) in [(RSA, "rsa.pub.pem"), (ED25519, "ed25519.pub.pem")] {
            let output = Command::new("openssl")
                .args(["pkey", "-pubout", "-passin", &passphrase, "-in"])
                .arg(folder.join(name))
                .output()
                .expect("openssl is installed wherever the tests run");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.stdout, std::fs::read(folder.join(public)).unwrap());
        }
    }
}
