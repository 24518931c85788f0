//! What an error of RocksDB means, for the embedded log and the state stores alike.
//!
//! RocksDB's C interface gives an error as text alone, so the text is matched here and nowhere
//! else.

use std::io;
use std::path::Path;

/// The kinds of trouble that are handled differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another process, or another handle of this one, has the database open.
    Locked,
    /// No space, or no quota, is left.
    DiskFull,
    /// Bytes are not what was written.
    Damaged,
    /// Anything else, such as an I/O error.
    Other,
}

/// Tells what kind of trouble an error is.
pub(crate) fn fault(error: &rocksdb::Error) -> Fault {
    let text: &str = error.as_ref();
    let any = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if any(&["lock hold by current process", "While lock file"]) {
        Fault::Locked
    } else if any(&["No space left on device", "Disk quota exceeded"]) {
        Fault::DiskFull
    } else if error.kind() == rocksdb::ErrorKind::Corruption
        || any(&["No such file or directory", "does not exist"])
    {
        Fault::Damaged
    } else {
        Fault::Other
    }
}

/// Looks for a database that lost its file `CURRENT`: RocksDB would take it for a new one, and
/// delete what is there. Answers what speaks against that.
pub(crate) fn headless(path: &Path) -> io::Result<Option<String>> {
    if path.join("CURRENT").exists() {
        return Ok(None);
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let data = [".sst", ".blob", ".log"].iter().any(|end| name.ends_with(end));
        // A first start that was killed leaves empty files behind.
        if data && entry.metadata()?.len() > 0 {
            return Ok(Some(format!("CURRENT is missing, but {name} is there")));
        }
    }
    Ok(None)
}
