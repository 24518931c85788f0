//! What is verified: buckets, objects, and their metadata, on a disk or in an object store.
//!
//! Works on the server's own objects, on a copy of them, or on one bucket of them. On a disk
//! metadata lie beside their object; in a store they are the object's own, or beside it where a
//! folder was copied there as it is.
//!
//! **Invariant:** nothing is written, and no symbolic link is followed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::disk::Disk;
use super::remote::Remote;
use crate::object::ObjectStore;

/// Ends the name of an object's metadata file.
pub(super) const SIDE: &str = ".meta.json";

/// Stored bytes of a digest or note at most.
const SMALL_BYTES_MAX: u64 = 256 << 20;

/// Inflated bytes of a digest at most.
const INFLATED_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a metadata file at most.
pub(super) const SIDE_BYTES_MAX: u64 = 1 << 20;

/// Folders that only a bucket has at its root.
pub(super) const IN_A_BUCKET: [&str; 2] = ["CloudTraces", "AWSLogs"];

/// Where the objects are.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// A local folder: buckets, or one bucket.
    Folder(&'a Path),
    /// A store whose buckets are ours, or that is one bucket.
    Store {
        /// What it is called, for the report.
        name: &'a str,
        /// The store.
        objects: &'a dyn ObjectStore,
    },
}

impl std::fmt::Display for Target<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(to, "{}", path.display()),
            Self::Store { name, .. } => to.write_str(name),
        }
    }
}

/// Metadata by name.
pub(super) type Metadata = BTreeMap<String, String>;

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

/// What [`Folder::walk`] comes upon.
pub(super) enum Met {
    /// An object.
    Object(Place),
    /// Something else: a link, a socket, a file beside the buckets.
    Foreign(String),
}

/// An object that was found.
pub(super) struct Opened {
    /// Its stored bytes.
    pub(super) length: u64,
    pub(super) content: Content,
}

/// What there is to read of an object.
pub(super) enum Content {
    /// On a disk; its metadata are beside it.
    File(fs::File),
    /// From a store.
    Bytes(Vec<u8>, Option<Metadata>),
    /// Longer than it may be, so it was not fetched.
    Unread,
}

impl Opened {
    /// The content from its beginning.
    pub(super) fn reader(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match &self.content {
            Content::File(file) => {
                let mut file = file;
                file.rewind()?;
                Box::new(file)
            }
            Content::Bytes(bytes, _) => Box::new(&bytes[..]),
            Content::Unread => Box::new(io::empty()),
        })
    }
}

/// Buckets, or one bucket.
pub(super) enum Folder<'a> {
    Disk(Disk),
    Remote(Remote<'a>),
}

impl<'a> Folder<'a> {
    /// Opens what is to be verified. One that holds `CloudTraces` or `AWSLogs` is taken for a
    /// bucket.
    pub(super) fn open(target: Target<'a>) -> io::Result<Self> {
        Ok(match target {
            Target::Folder(root) => Self::Disk(Disk::open(root)?),
            Target::Store { name, objects } => Self::Remote(Remote::open(name, objects)?),
        })
    }

    /// Whether it is one bucket.
    pub(super) fn is_single(&self) -> bool {
        match self {
            Self::Disk(disk) => disk.single.is_some(),
            Self::Remote(remote) => remote.single.is_some(),
        }
    }

    /// Gives the single bucket the name that its digests use: a copy may be called anything.
    pub(super) fn rename(&mut self, bucket: &str) {
        let single = match self {
            Self::Disk(disk) => &mut disk.single,
            Self::Remote(remote) => &mut remote.single,
        };
        if single.is_some() {
            *single = Some(bucket.to_owned());
        }
    }

    /// Visits everything there is, metadata files aside, in order of name.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(Met)) -> io::Result<()> {
        match self {
            Self::Disk(disk) => disk.walk(visit),
            Self::Remote(remote) => remote.walk(visit),
        }
    }

    /// Opens an object; `None` where there is none. One from a store with more than `bytes_max`
    /// is not fetched.
    pub(super) fn object(&self, place: &Place, bytes_max: u64) -> io::Result<Option<Opened>> {
        match self {
            Self::Disk(disk) => disk.object(place),
            Self::Remote(remote) => remote.object(place, bytes_max),
        }
    }

    /// Reads an object that is no trace file, and opens its metadata.
    pub(super) fn small(&self, place: &Place) -> io::Result<Option<(Vec<u8>, Opened)>> {
        let Some(opened) = self.object(place, SMALL_BYTES_MAX)? else { return Ok(None) };
        let mut bytes = Vec::new();
        opened.reader()?.take(SMALL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Some((bytes, opened)))
    }

    /// The metadata of an object; `None` where there are none, or none that can be read.
    pub(super) fn metadata(&self, place: &Place, opened: &Opened) -> io::Result<Option<Metadata>> {
        match (self, &opened.content) {
            (_, Content::Bytes(_, Some(own))) => Ok(Some(own.clone())),
            (Self::Disk(disk), _) => disk.metadata(place),
            (Self::Remote(remote), _) => remote.side(place),
        }
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
