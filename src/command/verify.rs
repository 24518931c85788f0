//! `trailproof verify`: is everything there, unchanged, and from the right signer?

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::keys::KEYS;
use crate::keys::public::PublicKeys;
use crate::verify::{Heads, Options, Target, verify};

/// Arguments of `trailproof verify`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Folder of objects: all buckets, or one; a copy will do
    #[arg(value_name = "DIR_OR_URL")]
    target: String,
    /// Public key to trust: keys.json, PEM, or a C2SP verifier key; may be given many times.
    /// Without it, the keys beside the data folder are used, and the report says so
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Hash every trace again, beside the stored bytes
    #[arg(long)]
    deep: bool,
    /// Heads that must be in the chains: what an earlier run wrote here, records of topic
    /// `checkpoints`, or a note. After a run without findings the file is written anew
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<usize>,
}

/// Runs `trailproof verify`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let root = folder(&arguments.target)?;
    let (keys, keys_from) = keys(&root, &arguments.public_key)?;
    let head = arguments.head.as_deref();
    let because = |path: &Path, error: &std::io::Error| {
        Failure::because(&format!("verify: {}", path.display()), error)
    };
    let known = head.map(Heads::read).transpose();
    let known = known.map_err(|error| because(head.unwrap_or(&root), &error))?.flatten();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let bar = progress_bar();
    let options = Options {
        target: Target::Folder(&root),
        keys: &keys,
        keys_from,
        deep: arguments.deep,
        heads: known.as_ref(),
        threads: arguments.threads.unwrap_or(cores).clamp(1, 256),
        now_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        progress: &|bytes| bar.inc(bytes),
    };
    let result = verify(&options);
    bar.finish_and_clear();
    let (report, seen) = result.map_err(|error| because(&root, &error))?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        report.write(&mut out)?;
    }
    if !report.ok {
        let count = report.findings.len() as u64 + report.findings_omitted;
        return Err(Failure::new(1, format!("verification failed: {count} findings")));
    }
    // Only files of this command's own making are written; others' heads are left as they are.
    if let Some(path) = head
        && known.as_ref().is_none_or(Heads::is_own)
    {
        seen.write(path).map_err(|error| because(path, &error))?;
    }
    Ok(())
}

/// The folder that was asked for, as a path or a file URL.
fn folder(target: &str) -> Result<PathBuf, Failure> {
    let path = match target.split_once("://") {
        Some(("file", path)) => PathBuf::from(path),
        Some((scheme, _)) => {
            let text = format!("verify: cannot read {scheme}:// yet: copy the objects to a folder");
            return Err(Failure::new(2, text));
        }
        None => PathBuf::from(target),
    };
    if path.is_dir() {
        return Ok(path);
    }
    let text = format!("verify: {} is no folder: name one that holds objects", path.display());
    Err(Failure::new(2, text))
}

/// The keys to trust: those given, else those of the data folder that `root` lies in.
fn keys(root: &Path, given: &[PathBuf]) -> Result<(PublicKeys, String), Failure> {
    let mut keys = PublicKeys::default();
    for path in given {
        keys.add_file(path).map_err(|error| Failure::because("verify", &error))?;
    }
    let mut from = "given by the caller".to_owned();
    if given.is_empty() {
        let absolute = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        // The server's own data folder, never the objects: whoever could change those could bring
        // keys along.
        let is_bucket = ["CloudTraces", "AWSLogs"].iter().any(|name| absolute.join(name).is_dir());
        let data = absolute.parent().filter(|_| !is_bucket);
        let beside = data.map(|data| data.join("keys").join(KEYS));
        let Some(path) = beside.filter(|path| path.is_file()) else {
            let text = "verify: key not pinned: give the installation's public keys with \
                        --public-key FILE (`trailproof keys export` prints them)";
            return Err(Failure::new(2, text));
        };
        keys.add_file(&path).map_err(|error| Failure::because("verify", &error))?;
        from = format!("from the data folder, not pinned: {}", path.display());
    }
    if keys.has_rsa() {
        return Ok((keys, from));
    }
    let text = "verify: no RSA key given: digests are signed with one (`trailproof keys export`)";
    Err(Failure::new(2, text))
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {bytes} checked, {bytes_per_sec}");
    let bar = ProgressBar::new_spinner();
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
