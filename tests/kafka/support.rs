//! A broker of the tests' own, and clients of it.
//!
//! One broker serves all tests of the process; each has topics and a group of its own. Tests that
//! hurt the broker have it to themselves.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tempfile::TempDir;
use trailproof::clock;
use trailproof::log::kafka::{KafkaLog, Options};
use trailproof::log::{Error, Log, RecordBatch};
use trailproof::metrics::Metrics;

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A broker's process. It ends with this one, however this one ends: its standard input does.
pub(crate) struct Server {
    folder: TempDir,
    ports: [u16; 2],
    run: RwLock<Child>,
}

impl Server {
    fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), free_ports(), &[], "")
    }

    /// Starts one with more properties, and a user (see `.ci/kafka`). It cannot be restarted.
    pub(crate) fn start_with(
        folder: TempDir,
        ports: [u16; 2],
        properties: &[String],
        user: &str,
    ) -> Self {
        let run = RwLock::new(launch(&folder, ports, properties, user));
        Self { folder, ports, run }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// A file in the broker's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends a signal to the broker itself.
    pub(crate) fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).unwrap();
        let done = Command::new("kill").args([name, pid.trim()]).status().unwrap();
        assert!(done.success(), "kill {name} {pid}");
    }

    /// Kills the broker and waits until it is gone.
    pub(crate) fn kill(&self) {
        self.signal("-9");
        self.run.write().unwrap().wait().unwrap();
    }

    /// Starts the broker again, on the same ports and data.
    pub(crate) fn restart(&self) {
        *self.run.write().unwrap() = launch(&self.folder, self.ports, &[], "");
    }
}

/// Ports that nobody listens at.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let sockets = [0; COUNT].map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

/// Starts a broker, and returns once it listens.
fn launch(folder: &TempDir, ports: [u16; 2], properties: &[String], user: &str) -> Child {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".ci/kafka");
    let mut run = Command::new(script)
        .arg("run")
        .arg(folder.path())
        .args(ports.map(|port| port.to_string()))
        .args(properties)
        .env("KAFKA_SCRAM", user)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(run.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(line.contains("listens"), "Kafka does not start: {line:?}");
    run
}

static SERVER: OnceLock<Server> = OnceLock::new();
static USE: RwLock<()> = RwLock::new(());

/// The broker, with others.
pub(crate) fn shared() -> (&'static Server, RwLockReadGuard<'static, ()>) {
    let guard = USE.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    (SERVER.get_or_init(Server::start), guard)
}

/// The broker for this test alone: it may be killed and paused.
pub(crate) fn alone() -> (&'static Server, RwLockWriteGuard<'static, ()>) {
    let guard = USE.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    (SERVER.get_or_init(Server::start), guard)
}

/// Options with topics and a group that no other test has.
pub(crate) fn options(server: &Server) -> Options {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = server.folder.path().join(format!("instance-{number}"));
    let mut options = Options::new(&server.address(), folder);
    options.prefix = format!("t{number}.");
    options.group = format!("g{number}");
    options.instance = format!("i{number}");
    options.traces_partitions = 2;
    options.files_partitions = 1;
    options
}

/// Connects; a broker that has just begun may need a while.
pub(crate) fn connect(options: &Options) -> KafkaLog {
    let clock = clock::system();
    until("a connection", || {
        let metrics = Arc::new(Metrics::new().unwrap());
        match KafkaLog::connect(options.clone(), Arc::clone(&clock), metrics) {
            Ok(log) => Some(log),
            Err(Error::Unavailable(_)) => None,
            Err(error) => panic!("{error}"),
        }
    })
}

pub(crate) fn client(server: &Server) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.address());
    config
}

pub(crate) fn admin(server: &Server) -> AdminClient<DefaultClientContext> {
    client(server).create().unwrap()
}

/// Runs one of the crate's futures.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Tries until something is there, up to the deadline.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "no {what} within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20)); // between polls
    }
}

/// Everything from `from` on: offsets and values, once `count` records came.
pub(crate) fn collect(reader: &mut dyn Log, from: u64, count: usize) -> Vec<(u64, String)> {
    let (mut found, mut next) = (Vec::new(), from);
    let mut batch = RecordBatch::default();
    until("end of the records", || {
        match reader.poll(next, 1 << 20, &mut batch) {
            Ok(()) => {}
            Err(Error::Unavailable(_)) => return None,
            Err(error) => panic!("{error}"),
        }
        for record in batch.iter() {
            next = record.offset + 1;
            found.push((record.offset, String::from_utf8_lossy(record.value).into_owned()));
        }
        if found.len() >= count {
            return Some(());
        }
        reader.wait(next, Duration::from_millis(100));
        None
    });
    found
}
