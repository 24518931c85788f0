//! One trace file against the digest that lists it.

use std::collections::BTreeMap;
use std::io::{self, Read};

use data_encoding::HEXLOWER;
use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};
use trailproof_topology::digest::LogFile;
use trailproof_topology::merkle::{Frontier, leaf_hash};

use super::folder::{Folder, Opened, Place};
use super::report::Verdict;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// A trace, or what pretends to be one, at most.
const TRACE_BYTES_MAX: usize = 64 << 20;

/// Bytes beyond the listed size that deep checks inflate before they give up.
const EXCESS_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a file; the stored bytes read.
pub(super) fn check(
    folder: &Folder<'_>,
    listed: &LogFile,
    deep: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<Vec<(Verdict, String)>> {
    let place = Place::new(&listed.bucket, &listed.object);
    let Some(opened) = folder.object(&place, listed.bytes)? else {
        return Ok(vec![(Verdict::Missing, "a digest lists it, and it is not there".to_owned())]);
    };
    let length = opened.length;
    if length != listed.bytes {
        let text = format!("has {length} bytes, the digest says {}", listed.bytes);
        return Ok(vec![(Verdict::Changed, text)]);
    }
    let (mut hasher, mut buffer) = (Sha256::new(), buffer(length));
    let mut content = opened.reader()?;
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        progress(count as u64);
    }
    let hash = HEXLOWER.encode(&hasher.finalize());
    if hash != listed.log_hash_value {
        let text = format!("its SHA-256 is {hash}, the digest says {}", listed.log_hash_value);
        return Ok(vec![(Verdict::Changed, text)]);
    }
    let mut wrong = Vec::new();
    if let Some(text) = metadata(folder.metadata(&place, &opened)?, listed) {
        wrong.push(text);
    }
    if deep && let Some(text) = deeply(&opened, &place, listed)? {
        wrong.push((Verdict::Changed, text));
    }
    Ok(wrong)
}

/// Room to read so many bytes at one time, and to see that there are no more.
fn buffer(bytes: u64) -> Vec<u8> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(1);
    vec![0; bytes.min(READ_BYTES)]
}

/// Whether the metadata beside a file say what the digest says.
fn metadata(
    found: Option<BTreeMap<String, String>>,
    listed: &LogFile,
) -> Option<(Verdict, String)> {
    let Some(found) = found else {
        return Some((Verdict::Missing, "its metadata are missing or unreadable".to_owned()));
    };
    let expected = [
        ("merkle-root", listed.root.clone()),
        ("sha256", listed.log_hash_value.clone()),
        ("partition", listed.partition.to_string()),
        ("first-offset", listed.first_offset.to_string()),
        ("last-offset", listed.last_offset.to_string()),
        ("count", listed.count.to_string()),
        ("format", "trailproof/file/v1".to_owned()),
    ];
    let differing = expected.into_iter().find(|(name, value)| found.get(*name) != Some(value))?;
    let seen = found.get(differing.0).map_or("nothing", String::as_str);
    let text = format!("metadata {} says {seen}, the digest {}", differing.0, differing.1);
    Some((Verdict::Changed, text))
}

/// Hashes every trace again.
fn deeply(opened: &Opened, place: &Place, listed: &LogFile) -> io::Result<Option<String>> {
    let file = opened.reader()?;
    let reader: Box<dyn Read + '_> = match () {
        () if place.object.ends_with(".zst") => Box::new(zstd::stream::read::Decoder::new(file)?),
        () if place.object.ends_with(".gz") => Box::new(GzDecoder::new(file)),
        () => file,
    };
    let bound = listed.raw_bytes.saturating_add(EXCESS_BYTES_MAX);
    let mut splitter = Splitter::default();
    let (mut reader, mut buffer) = (reader.take(bound), buffer(bound));
    let mut content = Sha256::new();
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Ok(Some(format!("cannot be inflated: {error}"))),
        };
        content.update(&buffer[..count]);
        if let Err(text) = splitter.feed(&buffer[..count]) {
            return Ok(Some(text.to_owned()));
        }
    }
    let (root, raw_bytes) = (HEXLOWER.encode(&splitter.tree.root()), splitter.bytes);
    let content = HEXLOWER.encode(&content.finalize());
    Ok(if !splitter.ended {
        Some("does not end as a trace file does".to_owned())
    } else if raw_bytes != listed.raw_bytes || splitter.tree.size() != listed.count {
        let count = splitter.tree.size();
        Some(format!("has {count} traces in {raw_bytes} bytes, the digest says otherwise"))
    } else if root != listed.root {
        Some(format!("the root over its traces is {root}, the digest says {}", listed.root))
    } else if listed.content_sha256.as_ref().is_some_and(|listed| *listed != content) {
        Some(format!("the SHA-256 of its content is {content}, the digest says otherwise"))
    } else {
        None
    })
}

/// Cuts the text of a trace file into traces: `[\n` t0 `,\n` t1 … `\n]\n`.
#[derive(Default)]
struct Splitter {
    tree: Frontier,
    trace: Vec<u8>,
    bytes: u64,
    depth: u32,
    in_string: bool,
    escaped: bool,
    begun: bool,
    ended: bool,
}

impl Splitter {
    fn feed(&mut self, text: &[u8]) -> Result<(), &'static str> {
        self.bytes += text.len() as u64;
        for byte in text {
            if self.ended {
                return Err("goes on after its end");
            }
            self.trace.push(*byte);
            if self.in_string {
                self.in_string = self.escaped || *byte != b'"';
                self.escaped = !self.escaped && *byte == b'\\';
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' if self.begun => self.depth += 1,
                b'}' | b']' if self.depth > 0 => self.depth -= 1,
                b'\n' if self.depth == 0 => self.line()?,
                _ => {}
            }
        }
        if self.trace.len() > TRACE_BYTES_MAX {
            return Err("holds a trace of more than 64 MiB");
        }
        Ok(())
    }

    /// A line ends outside any trace: after the bracket, after a trace, or at the end.
    fn line(&mut self) -> Result<(), &'static str> {
        if !self.begun {
            self.begun = true;
            if self.trace != b"[\n" {
                return Err("does not begin as a trace file does");
            }
            self.trace.clear();
        } else if let Some(trace) = self.trace.strip_suffix(b",\n") {
            self.tree.push(leaf_hash(trace));
            self.trace.clear();
        } else if let Some(trace) = self.trace.strip_suffix(b"\n]\n") {
            self.tree.push(leaf_hash(trace));
            self.trace.clear();
            self.ended = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use trailproof_topology::merkle_proof::root;

    use super::*;

    #[test]
    fn traces_are_cut_as_they_were_joined() {
        let traces: [&[u8]; 4] = [
            br#"{"a":"]\n,\" [","b":[1,{"c":"\\"}]}"#,
            b"{}",
            b"{\n \"x\": [\n1,\n2]\n}",
            b" {\"y\":1} ",
        ];
        let mut text = b"[\n".to_vec();
        text.extend(traces.join(&b",\n"[..]));
        text.extend(b"\n]\n");
        for length in 1..text.len() {
            let mut splitter = Splitter::default();
            for piece in text.chunks(length) {
                splitter.feed(piece).unwrap();
            }
            let leaves: Vec<_> = traces.iter().map(|trace| leaf_hash(trace)).collect();
            assert!(splitter.ended);
            assert_eq!(splitter.tree.root(), root(&leaves));
            assert_eq!(splitter.bytes, text.len() as u64);
        }
        assert!(Splitter::default().feed(b"{}\n").is_err());
        assert!(Splitter::default().feed(b"[\n{}\n]\n\n").is_err());
    }
}
