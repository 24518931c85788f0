//! Heads of chains that somebody kept elsewhere: what a truncated or forked chain is convicted by.
//!
//! Three forms are read: the file that `verify --head` writes, records of topic `checkpoints` one a
//! line, and a signed note.
//!
//! Source: `docs/formats.md`, "Verify".

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use trailproof_topology::digest_chain::CheckpointRecord;
use trailproof_topology::input::Millis;
use trailproof_topology::merkle::Hash;
use trailproof_topology::note::{Checkpoint, Note};

use super::State;
use super::chain::Chain;
use super::report::{ChainReport, Verdict};

/// Member `version` of [`Heads`].
const VERSION: &str = "trailproof/heads/v1";

/// Bytes of a file of heads at most.
const BYTES_MAX: u64 = 256 << 20;

/// Heads of chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    version: String,
    /// Whether they come from a note or from checkpoint records.
    #[serde(skip)]
    foreign: bool,
    pub(super) heads: Vec<Head>,
}

/// The head of one chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Head {
    /// The chain.
    pub(super) origin: String,
    /// Place of the newest digest.
    pub(super) sequence: u64,
    /// RFC 6962 root over the digests, lower-case hex.
    pub(super) root: String,
    /// End of its interval, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) interval_end_ms: Option<Millis>,
}

impl Head {
    pub(super) fn root(&self) -> Option<Hash> {
        HEXLOWER.decode(self.root.as_bytes()).ok()?.try_into().ok()
    }
}

impl Heads {
    pub(super) fn new(mut heads: Vec<Head>) -> Self {
        heads.sort();
        Self { version: VERSION.to_owned(), foreign: false, heads }
    }

    /// Whether they come from a file that `verify --head` wrote.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !self.foreign
    }

    /// Reads a file of heads; `None` where there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, or is none of the three forms.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(of) if of.len() > BYTES_MAX => return Err(io::Error::other("is too large")),
            Ok(_) => {}
        }
        let text = fs::read_to_string(path)?;
        let what = "holds no heads: want what verify --head wrote, checkpoint records, or a note";
        parse(&text).map(Some).ok_or_else(|| io::Error::other(what))
    }

    /// Writes the file anew, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let mut file = fs::File::create(&name)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&name, path)
    }
}

fn parse(text: &str) -> Option<Heads> {
    if let Ok(heads) = serde_json::from_str::<Heads>(text) {
        return (heads.version == VERSION).then_some(heads);
    }
    if let Ok(note) = Note::parse(text) {
        let head = Checkpoint::parse(&note.text).ok()?;
        let head = Head {
            origin: head.origin,
            sequence: head.size.checked_sub(1)?,
            root: HEXLOWER.encode(&head.root),
            interval_end_ms: None,
        };
        return Some(Heads { foreign: true, ..Heads::new(vec![head]) });
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let heads: Option<Vec<Head>> = lines
        .map(|line| {
            let record: CheckpointRecord = serde_json::from_str(line).ok()?;
            Some(Head {
                origin: record.origin,
                sequence: record.sequence,
                root: record.root,
                interval_end_ms: Some(record.interval_end_ms),
            })
        })
        .collect();
    let heads = heads.filter(|heads| !heads.is_empty())?;
    Some(Heads { foreign: true, ..Heads::new(heads) })
}

/// Compares a chain with the head that was kept of it.
pub(super) fn check_heads(
    state: &mut State,
    heads: Option<&Heads>,
    report: &ChainReport,
    chain: &Chain,
    roots: &[Hash],
) {
    let known = heads.iter().flat_map(|heads| &heads.heads);
    for head in known.filter(|head| head.origin == report.origin) {
        let at = usize::try_from(head.sequence).unwrap_or(usize::MAX);
        let begins_ms = chain.digests.first().map(|(_, body)| body.digest.interval_start_ms);
        let restarted =
            head.interval_end_ms.zip(begins_ms).is_some_and(|(known, new)| new >= known)
                && chain.digests.first().is_some_and(|(_, body)| body.digest.begins());
        let (verdict, text) = if restarted {
            let text = "begins after the head that was kept of it";
            (Verdict::ReStartedChain, text.to_owned())
        } else if report.sequence < head.sequence {
            let text = format!("ends at {}, its head was at {}", report.sequence, head.sequence);
            (Verdict::TruncatedTail, text)
        } else if roots.get(at).is_some_and(|root| head.root() != Some(*root)) {
            let text = format!("its root at {} is not the one that was kept", head.sequence);
            (Verdict::Fork, text)
        } else {
            continue;
        };
        state.find(verdict, report.origin.clone(), text);
    }
}

/// Names chains that are known by a head and gone.
pub(super) fn check_lost(state: &mut State, heads: Option<&Heads>) {
    for head in heads.iter().flat_map(|heads| &heads.heads) {
        if !state.report.chains.iter().any(|chain| chain.origin == head.origin) {
            let text = format!("its head was at {}, and no digest is left", head.sequence);
            state.find(Verdict::WipedChain, head.origin.clone(), text);
        }
    }
}
