//! A small file system that can be filled.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A tmpfs of its own; unmounted at the end.
pub(crate) struct Tmpfs {
    folder: TempDir,
}

impl Tmpfs {
    /// Mounts one of `mib` MiB; `None`, and a word why, where this user may not mount.
    pub(crate) fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "trailproof-test"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { folder }),
            refused => {
                eprintln!("disk-full test skipped, it needs the right to mount: {refused:?}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills all that is left but `spare_bytes`; the file to delete to have it back.
    pub(crate) fn fill(&self, spare_bytes: usize) -> PathBuf {
        let path = self.folder.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        let block = vec![0u8; 64 << 10];
        while file.write_all(&block).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(spare_bytes as u64)).unwrap();
        path
    }

    pub(crate) fn free(path: &Path) {
        fs::remove_file(path).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}
