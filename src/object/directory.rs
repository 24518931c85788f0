//! The object store on a local directory: `<root>/<bucket>/<key>`.
//!
//! Metadata is a side file `<key>.meta.json`, an object of names and values, on disk before its
//! object appears; a side file without an object is what a crash left behind, and is ignored. Both
//! have one sync of their folder, so a power failure may leave an object without its side file:
//! nobody was answered then, and the put is made again.
//! Objects are written to `<root>/.tmp` and linked into place, so nobody sees half of one and
//! nothing is ever overwritten. Several processes may write to one directory, as instances of a
//! group on one file system do.
//!
//! **Invariant:** an answered put is durable: file, side file and every directory above them. No
//! path leaves the root, not by a segment and not by a symbolic link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Error, Metadata, Object, ObjectStore, Put};

const TMP: &str = ".tmp";
const SIDE_END: &str = ".meta.json";
/// What file systems take for one name, less the end of a side file.
const SEGMENT_BYTES_MAX: usize = 255 - SIDE_END.len();
const KEY_BYTES_MAX: usize = 1_024;
/// Puts of one key wait for each other; others rarely do.
const LOCKS: usize = 1_024;
/// Folders of which it is remembered that they are on disk: about 6 MiB, twice the folders of a day
/// of 10,000 trackers of 12 services.
const SYNCED_MAX: usize = 1 << 18;

/// A file in `.tmp` that has not been touched for this long belongs to no put any more.
const STALE: Duration = Duration::from_secs(3_600);

/// A directory as object store.
pub struct DirectoryStore {
    root: PathBuf,
    locks: [Mutex<()>; LOCKS],
    /// Hashes of the folders beneath the root whose entries are on disk, and those of all above
    /// them.
    synced: Mutex<BTreeSet<u128>>,
    /// Tells this process's temporary files from those of another machine's process.
    token: u32,
    temporary: AtomicU64,
}

impl DirectoryStore {
    /// Opens a directory for reading and writing: creates it where it is missing, and removes what
    /// a crash left in its `.tmp`.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: the directory cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let tmp = root.join(TMP);
        let result = create_directories(&tmp)
            .and_then(|()| fs::read_dir(&tmp)?.try_for_each(|entry| remove_stale(&entry?.path())));
        result.map_err(|error| failed(root, &error))?;
        Self::read(root)
    }

    /// Opens a directory that is there already, and touches nothing: for checking a copy.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: there is no such directory.
    pub fn read(root: &Path) -> Result<Self, Error> {
        // The true path, against which every other one is held.
        let root = root.canonicalize().map_err(|error| failed(root, &error))?;
        let locks = std::array::from_fn(|_| Mutex::new(()));
        let mut token = [0; 4];
        aws_lc_rs::rand::fill(&mut token)
            .map_err(|_| Error::Unavailable("there are no random bytes".to_owned()))?;
        let token = u32::from_be_bytes(token);
        let (synced, temporary) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { root, locks, synced, token, temporary })
    }

    fn path(&self, bucket: &str, key: &str) -> Result<PathBuf, Error> {
        check_segment(bucket)?;
        if bucket.starts_with('.') || bucket.contains('/') {
            return Err(Error::Refused(format!("{bucket:?} is no name of a bucket")));
        }
        if key.len() > KEY_BYTES_MAX || key.ends_with(SIDE_END) {
            return Err(Error::Refused(format!(
                "the key {key:?} has over {KEY_BYTES_MAX} bytes, or ends like a side file"
            )));
        }
        key.split('/').try_for_each(check_segment)?;
        Ok(self.root.join(bucket).join(key))
    }

    /// Checks that a directory lies beneath the root, symbolic links followed.
    fn check_beneath(&self, path: &Path) -> Result<(), Error> {
        let found = path.canonicalize().map_err(|error| failed(path, &error))?;
        if found.starts_with(&self.root) {
            return Ok(());
        }
        Err(Error::Refused(format!("{} leads out of {}", path.display(), self.root.display())))
    }

    /// Writes a file to `.tmp`, synced.
    fn write_temporary(&self, bytes: &[u8]) -> io::Result<Temporary> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{:x}-{number}", std::process::id(), self.token);
        let path = self.root.join(TMP).join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let temporary = Temporary(path);
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(temporary)
    }

    fn put_at(&self, path: &Path, bytes: &[u8], metadata: &Metadata) -> io::Result<Put> {
        let folder = path.parent().unwrap_or(&self.root);
        let names: BTreeMap<&str, &str> =
            metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let names = serde_json::to_vec(&names)?;
        if path.symlink_metadata().is_ok() {
            return self.found(path, bytes, &names);
        }
        let object = self.write_temporary(bytes)?;
        // Held until the object is there, so that nobody changes the side file in between.
        let held = File::open(folder)?;
        held.lock_shared()?;
        if !self.put_side(&side_of(path), &names)? {
            // What lies there is of a put that crashed, or of one that is under way elsewhere.
            held.unlock()?;
            held.lock()?;
            if path.symlink_metadata().is_ok() {
                return self.found(path, bytes, &names);
            }
            let side = self.write_temporary(&names)?;
            fs::rename(&side.0, side_of(path))?;
            // Who finds the object believes its side file, so a power failure must not bring the
            // other one back.
            held.sync_all()?;
        }
        match fs::hard_link(&object.0, path) {
            Ok(()) => {
                held.sync_all()?;
                Ok(Put::Created)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                drop(held);
                self.found(path, bytes, &names)
            }
            Err(error) => Err(error),
        }
    }

    /// The answer for a key that is taken. The put that made it may have crashed before its sync:
    /// then a power failure may have left the object without its side file.
    fn found(&self, path: &Path, bytes: &[u8], names: &[u8]) -> io::Result<Put> {
        let side = side_of(path);
        File::open(path)?.sync_all()?;
        let folder = File::open(path.parent().unwrap_or(&self.root))?;
        match File::open(&side) {
            Ok(side) => side.sync_all()?,
            Err(error) if error.kind() == ErrorKind::NotFound && fs::read(path)? == bytes => {
                self.put_side(&side, names)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        folder.sync_all()?;
        Ok(Put::Exists)
    }

    /// Puts a side file, synced and whole, where there is none; whether there is one that says the
    /// same now.
    fn put_side(&self, side: &Path, names: &[u8]) -> io::Result<bool> {
        let temporary = self.write_temporary(names)?;
        match fs::hard_link(&temporary.0, side) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let same = fs::read(side)? == names;
                if same {
                    File::open(side)?.sync_all()?;
                }
                Ok(same)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a folder and those above it up to the root, each entry synced: also those that are
    /// there, as who made them may not have come to it.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if folder == self.root {
            return Ok(());
        }
        let name = xxhash_rust::xxh3::xxh3_128(folder.as_os_str().as_encoded_bytes());
        let synced = || self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at first: whoever makes it anew says before that it is not on disk.
        if !folder.is_dir() {
            synced().remove(&name);
        } else if synced().contains(&name) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        self.make_folder(parent)?;
        make_directory(folder)?;
        File::open(parent)?.sync_all()?;
        let mut synced = synced();
        if synced.len() == SYNCED_MAX {
            synced.clear();
        }
        synced.insert(name);
        Ok(())
    }
}

/// Removes a temporary file that no put can be writing any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let removed = fs::metadata(path).and_then(|metadata| {
        let age = metadata.modified()?.elapsed().unwrap_or_default();
        if age < STALE { Ok(()) } else { fs::remove_file(path) }
    });
    match removed {
        // Its own put, or another instance's start, was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// A file in `.tmp`; removed when it goes out of scope.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed already, or left for the next start to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a directory and those above it, each entry synced.
fn create_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    create_directories(parent)?;
    make_directory(path)?;
    File::open(parent)?.sync_all()
}

/// Makes a directory where there is none.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), Error> {
    let unsafe_name = segment.is_empty() || segment == "." || segment == "..";
    if unsafe_name || segment.contains('\0') || segment.len() > SEGMENT_BYTES_MAX {
        return Err(Error::Refused(format!(
            "{segment:?} is no part of a key: 1 to {SEGMENT_BYTES_MAX} bytes, not . or .., no NUL"
        )));
    }
    Ok(())
}

fn side_of(path: &Path) -> PathBuf {
    let mut side = path.as_os_str().to_owned();
    side.push(SIDE_END);
    PathBuf::from(side)
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Unavailable(format!(
            "the disk of {path} is full; the put is tried again until there is space"
        )),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
            Error::Refused(format!("{path}: {error}"))
        }
        _ => Error::Unavailable(format!("{path}: {error}")),
    }
}

/// Whether there is simply no such thing.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

impl ObjectStore for DirectoryStore {
    fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        metadata: &Metadata,
    ) -> Result<Put, Error> {
        let path = self.path(bucket, key)?;
        let folder = path.parent().unwrap_or(&self.root);
        self.make_folder(folder).map_err(|error| failed(folder, &error))?;
        self.check_beneath(folder)?;
        let lock = xxhash_rust::xxh3::xxh3_64(path.as_os_str().as_encoded_bytes()) % LOCKS as u64;
        let _held = self.locks[lock as usize].lock().unwrap_or_else(PoisonError::into_inner);
        self.put_at(&path, bytes, metadata).map_err(|error| failed(&path, &error))
    }

    fn get(&self, bucket: &str, key: &str) -> Result<Option<Object>, Error> {
        let path = self.path(bucket, key)?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(failed(&path, &error)),
        };
        self.check_beneath(&path)?;
        let side = side_of(&path);
        let names: BTreeMap<String, String> = match fs::read(&side) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::Refused(format!("{}: {error}", side.display())))?,
            Err(error) if absent(&error) => BTreeMap::new(),
            Err(error) => return Err(failed(&side, &error)),
        };
        Ok(Some(Object { bytes, metadata: names.into_iter().collect() }))
    }

    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<(), Error> {
        let folder = self.path(bucket, "x")?;
        let folder = folder.parent().unwrap_or(&self.root);
        list_folder(folder, "", prefix, visit).map(|_| ()).map_err(|error| failed(folder, &error))
    }

    fn buckets(&self) -> Result<Vec<String>, Error> {
        let entries = sorted(&self.root).map_err(|error| failed(&self.root, &error))?;
        let folder = |name: String| name.strip_suffix('/').map(str::to_owned);
        let names = entries.into_keys().filter_map(folder);
        Ok(names.filter(|name| !name.starts_with('.')).collect())
    }
}

/// The entries of a folder in the order of the keys beneath them: a folder's name ends with `/`.
/// Length of each.
fn sorted(folder: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let mut name = entry.file_name().to_string_lossy().into_owned();
        // Not followed: a link is a file here, which `get` will refuse if it leads out.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            name.push('/');
        }
        entries.insert(name, metadata.len());
    }
    Ok(entries)
}

/// Visits the objects beneath a folder whose keys begin with `prefix`. Answers whether to go on.
fn list_folder(
    folder: &Path,
    above: &str,
    prefix: &str,
    visit: &mut dyn FnMut(&str, u64) -> bool,
) -> io::Result<bool> {
    let entries = match sorted(folder) {
        Err(error) if absent(&error) => return Ok(true),
        entries => entries?,
    };
    for (name, length) in entries {
        let key = format!("{above}{name}");
        let go_on = if let Some(inner) = name.strip_suffix('/') {
            let wanted = key.starts_with(prefix) || prefix.starts_with(&key);
            !wanted || list_folder(&folder.join(inner), &key, prefix, visit)?
        } else {
            let object = key.starts_with(prefix) && !name.ends_with(SIDE_END);
            !object || visit(&key, length)
        };
        if !go_on {
            return Ok(false);
        }
    }
    Ok(true)
}
