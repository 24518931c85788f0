//! `trailproof verify`: is everything there, unchanged, and from the right signer?

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::config::{Config, Layers};
use crate::keys::KEYS;
use crate::keys::public::PublicKeys;
use crate::object::s3::Environment;
use crate::object::{self, ObjectStore};
use crate::verify::{Heads, Options, Target, verify};

/// Files that are fetched at one time at least: a store answers late, not slowly.
const FETCHES_MIN: usize = 8;

/// Arguments of `trailproof verify`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Folder of objects, or s3://bucket/prefix: all buckets, or one; a copy will do
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
    /// Threads [default: one for each core; 8 at least for s3://]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<usize>,
    /// Of s3://, as https://host:port [env: TRAILPROOF_OBJECTS__ENDPOINT] [default: AWS]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Of s3:// [env: TRAILPROOF_OBJECTS__REGION] [default: AWS_REGION, profile, us-east-1]
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Of s3://: bucket in the path (true), in the host's name (false), or auto [env:
    /// TRAILPROOF_OBJECTS__PATH_STYLE] [default: auto]
    #[arg(long, value_name = "TRUE_OR_FALSE")]
    path_style: Option<String>,
}

/// Runs `trailproof verify`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let root = root(arguments)?;
    let (keys, keys_from) = keys(&root, &arguments.public_key)?;
    let head = arguments.head.as_deref();
    let because = |what: &dyn std::fmt::Display, error: &std::io::Error| {
        Failure::because(&format!("verify: {what}"), error)
    };
    let known = match head {
        Some(path) => Heads::read(path).map_err(|error| because(&path.display(), &error))?,
        None => None,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let (target, threads) = match &root {
        Root::Folder(path) => (Target::Folder(path), cores),
        Root::Store(name, objects) => {
            (Target::Store { name, objects: &**objects }, cores.max(FETCHES_MIN))
        }
    };
    let bar = progress_bar();
    let options = Options {
        target,
        keys: &keys,
        keys_from,
        deep: arguments.deep,
        heads: known.as_ref(),
        threads: arguments.threads.unwrap_or(threads).clamp(1, 256),
        now_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        progress: &|bytes| bar.inc(bytes),
    };
    let result = verify(&options);
    bar.finish_and_clear();
    let (report, seen) = result.map_err(|error| because(&target, &error))?;
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
        seen.write(path).map_err(|error| because(&path.display(), &error))?;
    }
    Ok(())
}

/// What was asked for.
enum Root {
    Folder(PathBuf),
    /// A store and what it is called.
    Store(String, Box<dyn ObjectStore>),
}

/// What was asked for, as a path or a URL.
fn root(arguments: &Arguments) -> Result<Root, Failure> {
    let target = arguments.target.as_str();
    let path = match target.split_once("://") {
        Some(("s3", _)) => return store(arguments),
        Some(("file", path)) => PathBuf::from(path),
        Some((scheme, _)) => {
            let text = format!("verify: cannot read {scheme}://: name a folder or s3://");
            return Err(Failure::new(2, text));
        }
        None => PathBuf::from(target),
    };
    if path.is_dir() {
        return Ok(Root::Folder(path));
    }
    let text = format!("verify: {} is no folder: name one that holds objects", path.display());
    Err(Failure::new(2, text))
}

/// Opens a bucket as the server would, with its flags over the settings of the environment.
fn store(arguments: &Arguments) -> Result<Root, Failure> {
    let ours = |name: &str| name.starts_with("TRAILPROOF_OBJECTS__") || Environment::has(name);
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _): &(String, String)| ours(name))
        .collect();
    let mut flags = vec![("objects.url", arguments.target.clone())];
    flags.extend(arguments.endpoint.clone().map(|value| ("objects.endpoint", value)));
    flags.extend(arguments.region.clone().map(|value| ("objects.region", value)));
    flags.extend(arguments.path_style.clone().map(|value| ("objects.path_style", value)));
    let config = Config::load(&Layers { env, flags, ..Layers::default() })?;
    let because = |error: object::Error| Failure::because("verify", &error);
    let objects = object::open::read(&config.objects).map_err(because)?;
    Ok(Root::Store(config.objects.to_string(), objects))
}

/// The keys to trust: those given, else those of the data folder that `root` lies in.
fn keys(root: &Root, given: &[PathBuf]) -> Result<(PublicKeys, String), Failure> {
    let mut keys = PublicKeys::default();
    for path in given {
        keys.add_file(path).map_err(|error| Failure::because("verify", &error))?;
    }
    let mut from = "given by the caller".to_owned();
    if given.is_empty() {
        // The server's own data folder, never the objects: whoever could change those could bring
        // keys along.
        let beside = match root {
            Root::Folder(path) => beside(path),
            Root::Store(..) => None,
        };
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

/// Where the keys of a data folder are that has this folder of objects.
fn beside(objects: &Path) -> Option<PathBuf> {
    let absolute = std::fs::canonicalize(objects).unwrap_or_else(|_| objects.to_owned());
    let is_bucket = ["CloudTraces", "AWSLogs"].iter().any(|name| absolute.join(name).is_dir());
    let data = absolute.parent().filter(|_| !is_bucket);
    data.map(|data| data.join("keys").join(KEYS))
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
