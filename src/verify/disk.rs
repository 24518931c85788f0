//! Objects in a local folder.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::folder::{Content, IN_A_BUCKET, Met, Metadata, Opened, Place, SIDE, SIDE_BYTES_MAX};

/// Folders inside each other at most.
const DEPTH_MAX: usize = 32;

/// A folder of buckets, or one bucket.
pub(super) struct Disk {
    root: PathBuf,
    /// Where `root` is a bucket itself: what its digests call it.
    pub(super) single: Option<String>,
}

impl Disk {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        if !fs::metadata(root)?.is_dir() {
            return Err(io::Error::other("is no folder"));
        }
        let is_bucket = IN_A_BUCKET.iter().any(|name| root.join(name).is_dir());
        let name = || fs::canonicalize(root).ok()?.file_name()?.to_str().map(str::to_owned);
        let single = is_bucket.then(|| name().unwrap_or_default());
        Ok(Self { root: root.to_owned(), single })
    }

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
    pub(super) fn object(&self, place: &Place) -> io::Result<Option<Opened>> {
        let Some(path) = self.path(place) else { return Ok(None) };
        match fs::symlink_metadata(&path) {
            Ok(of) if of.is_file() => {
                let content = Content::File(fs::File::open(&path)?);
                Ok(Some(Opened { length: of.len(), content }))
            }
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The metadata of an object; `None` where its file is absent or cannot be read as such.
    pub(super) fn metadata(&self, place: &Place) -> io::Result<Option<Metadata>> {
        let side = Place::new(&place.bucket, &format!("{}{SIDE}", place.object));
        let Some(opened) = self.object(&side)? else { return Ok(None) };
        let mut text = Vec::new();
        opened.reader()?.take(SIDE_BYTES_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text).ok())
    }
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
