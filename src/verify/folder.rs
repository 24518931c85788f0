//! The folder that is verified: buckets, objects, and the metadata beside them.
//!
//! Works on the server's own object folder, on a copy of it, or on one bucket of it.
//!
//! **Invariant:** nothing is written, and no symbolic link is followed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

/// Ends the name of an object's metadata file.
pub(super) const SIDE: &str = ".meta.json";

/// Stored bytes of a digest or note at most.
const SMALL_BYTES_MAX: u64 = 256 << 20;

/// Inflated bytes of a digest at most.
const INFLATED_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a metadata file at most.
const SIDE_BYTES_MAX: u64 = 1 << 20;

/// Folders inside each other at most.
const DEPTH_MAX: usize = 32;

/// Bucket and key of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) object: String,
}

impl Place {
    pub(super) fn new(bucket: &str, object: &str) -> Self {
        Self { bucket: bucket.to_owned(), object: object.to_owned() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}/{}", self.bucket, self.object)
    }
}

/// A folder of buckets, or one bucket.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Where `root` is a bucket itself: what its digests call it.
    single: Option<String>,
}

/// What [`Folder::walk`] comes upon.
pub(super) enum Met {
    /// A regular file.
    Object(Place),
    /// Something else: a link, a socket, a file beside the buckets.
    Foreign(String),
}

impl Folder {
    /// Opens a folder. One that holds `CloudTraces` or `AWSLogs` is taken for a bucket.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        if !fs::metadata(root)?.is_dir() {
            return Err(io::Error::other("is no folder"));
        }
        let is_bucket = ["CloudTraces", "AWSLogs"].iter().any(|name| root.join(name).is_dir());
        let name = || fs::canonicalize(root).ok()?.file_name()?.to_str().map(str::to_owned);
        let single = is_bucket.then(|| name().unwrap_or_default());
        Ok(Self { root: root.to_owned(), single })
    }

    /// Whether the folder is one bucket.
    pub(super) fn is_single(&self) -> bool {
        self.single.is_some()
    }

    /// Gives the single bucket the name that its digests use: a copy may be called anything.
    pub(super) fn rename(&mut self, bucket: &str) {
        if self.single.is_some() {
            self.single = Some(bucket.to_owned());
        }
    }

    /// Visits everything there is, metadata files aside, in order of name.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(Met)) -> io::Result<()> {
        if let Some(bucket) = &self.single {
            return walk_bucket(bucket, &self.root, "", 0, visit);
        }
        for (name, kind) in entries(&self.root)? {
            match kind {
                _ if name == ".tmp" => {}
                Kind::Folder => walk_bucket(&name, &self.root.join(&name), "", 0, visit)?,
                Kind::File | Kind::Other => visit(Met::Foreign(name)),
            }
        }
        Ok(())
    }

    /// Where an object lies; `None` where it cannot lie in this folder.
    fn path(&self, place: &Place) -> Option<PathBuf> {
        let fits = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !fits(&place.bucket) || place.bucket.contains('/') || !place.object.split('/').all(fits)
        {
            return None;
        }
        let bucket = match &self.single {
            Some(single) if *single == place.bucket => self.root.clone(),
            Some(_) => return None,
            None => self.root.join(&place.bucket),
        };
        Some(bucket.join(&place.object))
    }

    /// Opens an object that is a regular file; `None` where there is none.
    pub(super) fn object(&self, place: &Place) -> io::Result<Option<(fs::File, u64)>> {
        let Some(path) = self.path(place) else { return Ok(None) };
        match fs::symlink_metadata(&path) {
            Ok(of) if of.is_file() => Ok(Some((fs::File::open(&path)?, of.len()))),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads an object that is no trace file.
    pub(super) fn small(&self, place: &Place) -> io::Result<Option<Vec<u8>>> {
        let Some((file, _)) = self.object(place)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(SMALL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// The metadata of an object; `None` where its file is absent or cannot be read as such.
    pub(super) fn metadata(&self, place: &Place) -> io::Result<Option<BTreeMap<String, String>>> {
        let side = Place::new(&place.bucket, &format!("{}{SIDE}", place.object));
        let Some((file, _)) = self.object(&side)? else { return Ok(None) };
        let mut text = Vec::new();
        file.take(SIDE_BYTES_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text).ok())
    }
}

/// Inflates one gzip member; `None` where it is damaged or anything follows it.
pub(super) fn inflate(stored: &[u8]) -> Option<Vec<u8>> {
    let mut rest = stored;
    let mut content = Vec::new();
    let mut decoder = GzDecoder::new(&mut rest).take(INFLATED_BYTES_MAX);
    decoder.read_to_end(&mut content).ok()?;
    drop(decoder);
    rest.is_empty().then_some(content)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[derive(Clone, Copy)]
enum Kind {
    Folder,
    File,
    Other,
}

fn entries(folder: &Path) -> io::Result<Vec<(String, Kind)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let kind = match () {
            () if kind.is_dir() => Kind::Folder,
            () if kind.is_file() => Kind::File,
            () => Kind::Other,
        };
        entries.push((entry.file_name().to_string_lossy().into_owned(), kind));
    }
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

fn walk_bucket(
    bucket: &str,
    folder: &Path,
    prefix: &str,
    depth: usize,
    visit: &mut dyn FnMut(Met),
) -> io::Result<()> {
    for (name, kind) in entries(folder)? {
        let object = format!("{prefix}{name}");
        match kind {
            Kind::Folder if depth < DEPTH_MAX => {
                let inner = format!("{object}/");
                walk_bucket(bucket, &folder.join(&name), &inner, depth + 1, visit)?;
            }
            Kind::File if object.ends_with(SIDE) => {}
            Kind::File => visit(Met::Object(Place::new(bucket, &object))),
            Kind::Folder | Kind::Other => visit(Met::Foreign(format!("{bucket}/{object}"))),
        }
    }
    Ok(())
}
