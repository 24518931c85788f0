//! The lasting name of an instance in the group: with it, one that comes back in time gets its
//! partitions back and nothing moves.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::log::Error;

/// File in the data folder.
const FILE: &str = "kafka-instance";

/// The name that was kept in the folder, or a new one.
///
/// # Errors
/// [`Error::Unavailable`]: the folder does not take it.
pub(super) fn name(folder: &Path) -> Result<String, Error> {
    let path = folder.join(FILE);
    let unavailable =
        |error: std::io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(unavailable(error));
        }
        Ok(_) | Err(_) => {}
    }
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Error::Unavailable("the system gives no random bytes".to_owned()))?;
    let name = format!("trailproof-{}", data_encoding::HEXLOWER.encode(&bytes));
    fs::create_dir_all(folder).map_err(unavailable)?;
    let partial = folder.join(format!("{FILE}.new"));
    let written = fs::File::create(&partial).and_then(|mut file| {
        file.write_all(name.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    });
    written.map_err(unavailable)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lasts() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = name(one.path()).unwrap();
        assert_eq!(name(one.path()).unwrap(), first);
        assert_ne!(name(&other.path().join("new")).unwrap(), first);
    }
}
