//! Configuration: layers of settings become one checked [`Config`].
//!
//! Layers, later ones win: the compiled `trailproof.toml`, what `--dev` brings, the file, the
//! environment, `--set`, flags. `raw` mirrors the file and only parses; [`Config::load`] builds the
//! whole and lists *all* problems with the layer each one came from.
//!
//! **Invariant:** a `Config` that exists is valid, and it is passed as an argument, never global.

mod accounts;
mod cluster;
mod layers;
mod objects;
mod raw;
mod suggest;
pub mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use trailproof_topology::catalog::Catalog;
use trailproof_topology::input::Millis;
use trailproof_topology::window::CAPACITY_MAX;

pub use cluster::LogSettings;
pub use layers::Layers;
pub use objects::Objects;
pub use suggest::closest;

use cluster::Wanted;
use layers::Reader;
use raw::RawConfig;

use crate::applied::Gap;

/// The annotated defaults, as compiled in.
pub const DEFAULTS: &str = include_str!("../trailproof.toml");

/// Id of the account that is there when none is configured, and with `--dev`.
pub const DEV_ACCOUNT: &str = "00000000000000000000000000000002";

/// Id of the only project of [`DEV_ACCOUNT`].
pub const DEV_PROJECT: &str = "00000000000000000000000000000001";

/// Partitions of topic `files` in an embedded log: its load is one record per trace file.
const FILES_PARTITIONS: u32 = 1;

/// Greatest number of partitions of topic `traces`.
const PARTITIONS_MAX: u32 = 64;

const DAY: Duration = Duration::from_secs(86_400);

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, with dots.
    pub key: String,
    /// What is wrong and what to do.
    pub text: String,
    /// The layer it came from.
    pub origin: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}: {} (from {})", self.key, self.text, self.origin)
    }
}

/// Everything that is wrong with the configuration; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl std::fmt::Display for Problems {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(to, "the configuration has {} problem{plural}", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(to, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

/// Bounds of memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Cache of state blocks, shared by all partitions.
    pub block_cache: u64,
    /// Unflushed state, shared by all partitions.
    pub write_buffers: u64,
    /// Request bodies being taken in at one time.
    pub ingest: u64,
}

/// Bounds of the HTTP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http {
    /// Connections open at one time.
    pub connections_max: usize,
    /// Queries running at one time.
    pub queries_max: usize,
    /// How long a client may take to send a request.
    pub request_timeout: Duration,
}

/// The effective configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether `--dev` was given.
    pub dev: bool,
    /// Address of the HTTP server; loopback.
    pub listen: SocketAddr,
    /// Folder of log and state.
    pub data: PathBuf,
    /// Where the log is.
    pub log: LogSettings,
    /// Records that are gone before they were applied, and are given up.
    pub accept_gaps: Vec<Gap>,
    /// Where trace files and digests go.
    pub objects: Objects,
    /// Folder of the signing keys.
    pub keys: PathBuf,
    /// File with the passphrase of the signing keys.
    pub passphrase_file: Option<PathBuf>,
    /// Partitions asked for; `None`: one for each core.
    pub partitions: Option<u32>,
    /// Days that the view keeps.
    pub view_days: u16,
    /// Bounds of memory.
    pub memory: Memory,
    /// Bounds of the HTTP server.
    pub http: Http,
    /// The catalog's content, as version 0: the engine gives it a version where it differs from
    /// the newest in the log.
    pub catalog: Catalog,
    /// What is odd but no problem.
    pub warnings: Vec<String>,
    /// Each setting's key, effective value and origin, secrets masked, in order of key.
    pub effective: Vec<(String, String, String)>,
}

impl Config {
    /// Reads and checks all layers.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(layers: &Layers) -> Result<Self, Problems> {
        let (mut reader, raw) = Reader::new(layers)?;
        let listen = listen(&mut reader, &raw);
        let memory = memory(&mut reader, &raw);
        let http = http(&mut reader, &raw);
        let data = PathBuf::from(raw.data.text());
        if data.as_os_str().is_empty() {
            reader.problem("data", "is empty: name a folder");
        }
        let objects = objects::build(&mut reader, &raw.objects, &data, &layers.env);
        let keys = folder(&raw.keys.dir.text(), || data.join("keys"));
        let passphrase = raw.keys.passphrase_file.text();
        let partitions = reader.integer("partitions", &raw.partitions, 0, PARTITIONS_MAX.into());
        let view_days = reader.integer("view_days", &raw.view_days, 1, 90);
        let wanted = Wanted {
            partitions,
            view_days,
            data: &data,
            own_objects: raw.objects.url.text().is_empty(),
            own_keys: raw.keys.dir.text().is_empty(),
        };
        let (log, accept_gaps) = cluster::build(&mut reader, &raw.log.text(), &raw.kafka, &wanted);
        let catalog = catalog(&mut reader, &raw, partitions, layers.dev);
        let warnings = reader.warnings();
        let effective = reader.effective();
        reader.finish()?;
        Ok(Self {
            dev: layers.dev,
            listen,
            data,
            log,
            accept_gaps,
            objects,
            keys,
            passphrase_file: (!passphrase.is_empty()).then(|| PathBuf::from(passphrase)),
            partitions: (partitions > 0).then_some(partitions as u32),
            view_days: view_days as u16,
            memory,
            http,
            catalog,
            warnings,
            effective,
        })
    }
}

/// Cores of this machine, as far as this process may use them.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Partitions of topic `traces` where none are asked for: one for each core, within the bound.
#[must_use]
pub fn default_partitions() -> u32 {
    partitions_of(cores())
}

fn partitions_of(cores: usize) -> u32 {
    u32::try_from(cores).map_or(PARTITIONS_MAX, |cores| cores.clamp(1, PARTITIONS_MAX))
}

fn listen(reader: &mut Reader, raw: &RawConfig) -> SocketAddr {
    let text = raw.listen.text();
    let Ok(address) = text.parse::<SocketAddr>() else {
        let remedy = format!("{text:?} is no address and port, such as 127.0.0.1:8473");
        reader.problem("listen", remedy);
        return SocketAddr::from(([127, 0, 0, 1], 0));
    };
    if !address.ip().is_loopback() {
        reader.problem(
            "listen",
            format!(
                "{text} is not a loopback address, and authentication does not exist yet: whoever \
                 reached it could read and write every trace; listen on 127.0.0.1 or [::1] and \
                 reach it through ssh -L or an authenticating proxy"
            ),
        );
    }
    address
}

fn memory(reader: &mut Reader, raw: &RawConfig) -> Memory {
    let raw = &raw.memory;
    Memory {
        block_cache: reader.size("memory.block_cache", &raw.block_cache, 8 << 20, 64 << 30),
        write_buffers: reader.size("memory.write_buffers", &raw.write_buffers, 8 << 20, 16 << 30),
        ingest: reader.size("memory.ingest", &raw.ingest, 12 << 20, 4 << 30),
    }
}

fn http(reader: &mut Reader, raw: &RawConfig) -> Http {
    let raw = &raw.http;
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
    Http {
        connections_max: reader.integer("http.connections_max", &raw.connections_max, 1, 65_536)
            as usize,
        queries_max: reader.integer("http.queries_max", &raw.queries_max, 1, 256) as usize,
        request_timeout: reader.duration(
            "http.request_timeout",
            &raw.request_timeout,
            second,
            hour,
        ),
    }
}

fn folder(text: &str, default: impl FnOnce() -> PathBuf) -> PathBuf {
    if text.is_empty() { default() } else { PathBuf::from(text) }
}

fn catalog(reader: &mut Reader, raw: &RawConfig, partitions: u64, dev: bool) -> Catalog {
    let second = Duration::from_secs(1);
    let cycle = reader.duration("cycle", &raw.cycle, second, DAY);
    let digest = reader.duration("digest_interval", &raw.digest_interval, second, DAY);
    for (key, length) in [("cycle", cycle), ("digest_interval", digest)] {
        if length.subsec_millis() != 0 {
            reader.problem(key, "is not in whole seconds, which the names of files have");
        }
    }
    if !cycle.is_zero() && !digest.as_millis().is_multiple_of(cycle.as_millis()) {
        let text = format!(
            "{} is not a multiple of cycle, which is {}",
            units::duration_text(digest),
            units::duration_text(cycle)
        );
        reader.problem("digest_interval", text);
    }
    let installation = reader.name("installation", &raw.installation, 64);
    let region = reader.name("region", &raw.region, 64);
    Catalog {
        version: 0,
        installation,
        region,
        cycle_ms: cycle.as_millis() as Millis,
        digest_interval_ms: digest.as_millis() as Millis,
        file_bytes_max: reader.size("file_bytes_max", &raw.file_bytes_max, 1 << 20, 1 << 30),
        // 0 would not switch it off: under a catalog that says so the window has one trace, and
        // must keep it, or the log would give other files when it is replayed.
        dedup_window: reader.integer("dedup_window", &raw.dedup_window, 1, CAPACITY_MAX.into())
            as u32,
        traces_partitions: if partitions == 0 { default_partitions() } else { partitions as u32 },
        files_partitions: FILES_PARTITIONS,
        accounts: accounts::build(reader, &raw.accounts, dev),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_many_cores_has_no_more_partitions_than_may_be_asked_for() {
        assert_eq!([0, 2, 64, 65, 384].map(partitions_of), [1, 2, 64, 64, 64]);
    }
}
