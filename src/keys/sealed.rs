//! Private keys at rest: PKCS#8 `ENCRYPTED PRIVATE KEY`, PBES2 with scrypt and AES-256-CBC.
//!
//! `openssl pkey -in FILE` opens them with the same passphrase.
//!
//! **Invariant:** a private key is never written in the clear, and a file that others may read is
//! refused.
//!
//! Source: RFC 5958, RFC 8018, RFC 7914.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use data_encoding::BASE64;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo};
use zeroize::Zeroizing;

use super::Error;

const PASSPHRASE_BYTES_MAX: u64 = 4_096;
const PASSPHRASE_BYTES_MIN: usize = 8;
const FILE_BYTES_MAX: u64 = 64 * 1024;
const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// scrypt with N = 2^14, r = 8, p = 1: 16 MiB, within what OpenSSL allows itself.
const SCRYPT_LOG_N: u8 = 14;

/// Where a passphrase comes from. Never an argument or a variable of the environment, which others
/// can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passphrase {
    /// A file that only the owner can read.
    File(PathBuf),
    /// A systemd credential: a file of this name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// An open file descriptor.
    Descriptor(u32),
}

impl Passphrase {
    /// Reads it; one newline at its end does not count.
    ///
    /// # Errors
    /// It cannot be read, others can read it too, or it has fewer than 8 or more than 4,096 bytes.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let path = match self {
            Self::File(path) => {
                private(path)?;
                path.clone()
            }
            Self::Credential(name) => {
                let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|_| plain);
                let missing = || Error::NoCredential(name.clone());
                Path::new(&folder.ok_or_else(missing)?).join(name)
            }
            Self::Descriptor(number) => PathBuf::from(format!("/proc/self/fd/{number}")),
        };
        let file = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
        let mut text = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX as usize + 1));
        file.take(PASSPHRASE_BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(|error| Error::io("read", &path, error))?;
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        if text.len() < PASSPHRASE_BYTES_MIN || text.len() as u64 > PASSPHRASE_BYTES_MAX {
            let what = "must hold a passphrase of 8 to 4096 bytes".to_owned();
            return Err(Error::Unfit(path, what));
        }
        Ok(text)
    }
}

/// Refuses a file or folder that others may read or that somebody else owns.
pub(super) fn private(path: &Path) -> Result<(), Error> {
    let of = std::fs::metadata(path).map_err(|error| Error::io("look at", path, error))?;
    if of.mode() & 0o077 != 0 {
        let mode = if of.is_dir() { "0700" } else { "0600" };
        let what = format!("can be read by others: chmod {mode} it");
        return Err(Error::Unfit(path.to_owned(), what));
    }
    let me = Path::new("/proc/self");
    let me = std::fs::metadata(me).map_err(|error| Error::io("look at", me, error))?;
    if of.uid() != me.uid() {
        return Err(Error::Unfit(path.to_owned(), "belongs to another user".to_owned()));
    }
    Ok(())
}

/// Writes a new file that only the owner can read, durably.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| Error::io("write", path, error))
}

/// Encrypts a PKCS#8 private key; the answer is PEM.
pub(super) fn seal(pkcs8: &[u8], passphrase: &[u8]) -> Result<String, Error> {
    let refused = |_| Error::Crypto("encrypt the private key");
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    rand::fill(&mut salt).map_err(|_| Error::Crypto("draw random bytes"))?;
    rand::fill(&mut iv).map_err(|_| Error::Crypto("draw random bytes"))?;
    let cost =
        scrypt::Params::new(SCRYPT_LOG_N, 8, 1, 32).map_err(|_| Error::Crypto("set up scrypt"))?;
    let parameters = pbes2::Parameters::scrypt_aes256cbc(cost, &salt, &iv)
        .map_err(|_| Error::Crypto("set up scrypt"))?;
    let info = PrivateKeyInfo::try_from(pkcs8).map_err(refused)?;
    let sealed = info.encrypt_with_params(parameters, passphrase).map_err(refused)?;
    Ok(pem(LABEL, sealed.as_bytes()))
}

/// Decrypts a key file; the answer is PKCS#8.
pub(super) fn open(path: &Path, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    private(path)?;
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Error::io("read", path, error))?;
    let unfit = |what: &str| Error::Unfit(path.to_owned(), what.to_owned());
    let body: Option<String> = text
        .trim()
        .strip_prefix(&format!("-----BEGIN {LABEL}-----"))
        .and_then(|rest| rest.strip_suffix(&format!("-----END {LABEL}-----")))
        .map(|body| body.split_whitespace().collect());
    let body = body.ok_or_else(|| unfit("is no encrypted PKCS#8 private key in PEM"))?;
    let der = BASE64.decode(body.as_bytes()).map_err(|_| unfit("is damaged"))?;
    let sealed =
        EncryptedPrivateKeyInfo::try_from(der.as_slice()).map_err(|_| unfit("is damaged"))?;
    let pkcs8 = sealed
        .decrypt(passphrase)
        .map_err(|_| unfit("does not open: another passphrase, or the file is damaged"))?;
    Ok(Zeroizing::new(pkcs8.as_bytes().to_vec()))
}

/// PEM with lines of 64 letters.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
