//! `trailproof run`: the server.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use trailproof_topology::effect::Topic;

use crate::api::{self, Shared, server};
use crate::cli::Settings;
use crate::config::{Config, LogSettings};
use crate::engine::{self, Engine};
use crate::keys::{self, Passphrase};
use crate::log::broker::Broker;
use crate::log::embedded::{self, EmbeddedLog};
use crate::log::kafka::KafkaLog;
use crate::memory_budget::MemoryBudget;
use crate::metrics::Metrics;
use crate::object;
use crate::signer::Signer;
use crate::{clock, shutdown};

use super::Failure;

/// How long the start waits for state to be loaded.
const SETTLE: Duration = Duration::from_secs(5);

/// Runs until told to stop.
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let config = settings.load()?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    log_to_stderr();
    let fresh = !config.data.join("state").exists();
    let metrics = Metrics::new().map_err(|error| Failure::because("metrics", &error))?;
    let metrics = Arc::new(metrics);
    let engine = Arc::new(start(&config, Arc::clone(&metrics))?);
    let served = serve(&config, fresh, Arc::clone(&engine), metrics);
    // The server's handlers are gone with its runtime, so this is the last owner.
    if let Ok(engine) = Arc::try_unwrap(engine) {
        engine.stop().map_err(|error| Failure::because("cannot flush the state", &error))?;
    }
    served
}

/// Log lines: readable on a terminal, else JSON; levels as `RUST_LOG` says.
fn log_to_stderr() {
    let levels = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(levels);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().init();
    }
}

fn start(config: &Config, metrics: Arc<Metrics>) -> Result<Engine, Failure> {
    std::fs::create_dir_all(&config.data).map_err(|error| {
        Failure::because(&format!("cannot make the data folder {}", config.data.display()), &error)
    })?;
    let objects = object::open::open(&config.objects, &metrics)
        .map_err(|error| Failure::because("cannot open the object store", &error))?;
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let memory =
        MemoryBudget::new(bytes(config.memory.block_cache), bytes(config.memory.write_buffers));
    let settings = engine::Settings {
        broker: open_broker(config, &memory, &metrics)?,
        state: config.data.join("state"),
        catalog: config.catalog.clone(),
        view_days: config.view_days,
        accept_gaps: config.accept_gaps.clone(),
        memory,
        objects,
        signer: Arc::new(signer(config)?),
        metrics,
    };
    let engine =
        Engine::start(settings).map_err(|error| Failure::because("cannot start", &error))?;
    // Mostly milliseconds; a state that has to be rebuilt goes on while the server serves.
    engine.wait_settled(SETTLE);
    Ok(engine)
}

/// Opens the log that is configured.
fn open_broker(
    config: &Config,
    memory: &MemoryBudget,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Broker>, Failure> {
    match &config.log {
        LogSettings::Embedded => {
            let topics = Topic::ALL.map(|topic| match topic {
                Topic::Traces => (topic, config.catalog.traces_partitions),
                Topic::Files => (topic, config.catalog.files_partitions),
                _ => (topic, 1),
            });
            let options = embedded::Options::new(clock::system(), memory.clone());
            let log = EmbeddedLog::open(&config.data.join("log"), &topics, options)
                .map_err(|error| Failure::because("cannot open the log", &error))?;
            Ok(Arc::new(log))
        }
        LogSettings::Kafka(options) => {
            let log = KafkaLog::connect((**options).clone(), clock::system(), Arc::clone(metrics))
                .map_err(|error| Failure::because("cannot use the cluster", &error))?;
            Ok(Arc::new(log))
        }
    }
}

fn signer(config: &Config) -> Result<Signer, Failure> {
    let opened = match &config.passphrase_file {
        Some(file) if config.keys.exists() => {
            keys::open(&config.keys, &Passphrase::File(file.clone()))
        }
        Some(file) => {
            let passphrase = Passphrase::File(file.clone());
            keys::generate(&config.keys, &config.catalog.installation, &passphrase, clock::now_ms())
                .and_then(|_| keys::open(&config.keys, &passphrase))
        }
        None => keys::open_dev(&config.keys, &config.catalog.installation, clock::now_ms()),
    };
    opened.map_err(|error| Failure::because("cannot open the signing keys", &error))
}

fn serve(
    config: &Config,
    fresh: bool,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start the runtime", &error))?;
    runtime.block_on(async {
        let (trigger, asked) = shutdown::channel();
        shutdown::listen(trigger)
            .map_err(|error| Failure::because("cannot listen to signals", &error))?;
        let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(|error| {
            Failure::because(&format!("cannot listen on {}", config.listen), &error)
        })?;
        let address = listener.local_addr().unwrap_or(config.listen);
        greet(config, fresh, &engine, address);
        let leaving = Arc::clone(&engine);
        let shared = Shared::new(
            engine,
            clock::system(),
            Arc::clone(&metrics),
            &config.http,
            config.memory.ingest,
        )
        .with_public_keys(public_keys(config));
        let left = leave_early(config, leaving, asked.clone());
        server::serve(listener, api::app(shared), config.http, metrics, asked).await;
        // Nothing is left to do where it failed: the engine leaves again when it stops.
        let _ended = left.await;
        Ok(())
    })
}

/// Leaves the group as soon as the server is to stop, so that other instances go on with its
/// partitions while open requests still finish here. Embedded, nobody else could.
fn leave_early(
    config: &Config,
    engine: Arc<Engine>,
    mut asked: shutdown::Shutdown,
) -> tokio::task::JoinHandle<()> {
    let cluster = matches!(config.log, LogSettings::Kafka(_));
    tokio::spawn(async move {
        asked.wait().await;
        if cluster {
            let _ended = tokio::task::spawn_blocking(move || engine.leave()).await;
        }
    })
}

/// The public keys as PEM; empty where they cannot be read.
fn public_keys(config: &Config) -> String {
    match keys::published(&config.keys) {
        Ok(file) => file.keys.into_iter().map(|key| key.public_key).collect(),
        Err(error) => {
            tracing::warn!(%error, "the public keys are not served");
            String::new()
        }
    }
}

/// Which log is used, and how.
fn mode(config: &Config) -> String {
    match &config.log {
        LogSettings::Embedded => "embedded mode".to_owned(),
        LogSettings::Kafka(options) => {
            let instance = match options.instance.as_str() {
                "" => "its own, kept in the data folder",
                name => name,
            };
            let (brokers, group) = (&options.brokers, &options.group);
            format!("kafka mode · brokers {brokers} · group {group} · instance {instance}")
        }
    }
}

/// The start-up lines, on standard error.
fn greet(config: &Config, fresh: bool, engine: &Engine, address: std::net::SocketAddr) {
    let spoken =
        |ms: i64| crate::config::units::spoken(std::time::Duration::from_millis(ms.unsigned_abs()));
    let data = |path: &Path| path.display().to_string();
    eprintln!(
        "trailproof {} · {} · data in {}{}{}",
        env!("CARGO_PKG_VERSION"),
        mode(config),
        data(&config.data),
        if fresh { " (new)" } else { "" },
        if config.dev { " · not for production" } else { "" }
    );
    let catalog = engine.catalog();
    for account in &catalog.accounts {
        let projects: Vec<&str> =
            account.projects.iter().map(|project| project.id.as_str()).collect();
        eprintln!("account   {} ({}) · projects {}", account.id, account.name, projects.join(", "));
        for tracker in &account.trackers {
            eprintln!(
                "tracker   {} · {}{}",
                tracker.name,
                if tracker.transfers() { "transfer on" } else { "transfer off" },
                if tracker.verify { ", verification on" } else { ", verification off" }
            );
        }
    }
    eprintln!("api       http://{address}/v3/…  http://{address}/api/v1/…");
    for path in engine.set_aside() {
        eprintln!("state     a damaged folder was set aside: {}", data(&path));
    }
    eprintln!(
        "files     every {} to {} · digest every {}",
        spoken(catalog.cycle_ms),
        config.objects,
        spoken(catalog.digest_interval_ms)
    );
    eprintln!(
        "try       trailproof produce --server http://{address} --sample 20 && trailproof tail \
         --server http://{address}"
    );
    eprintln!("check     trailproof verify {}", config.objects);
}
