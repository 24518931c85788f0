//! An instance of the real binary in cluster mode.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::traces::{account, cpu_us};

pub(crate) const PARTITIONS: i32 = 8;

/// What a measurement's instances share.
pub(crate) struct Setup {
    pub(crate) folder: PathBuf,
}

impl Setup {
    /// Writes the configuration of a group on these brokers.
    pub(crate) fn new(folder: &Path, brokers: &str, accounts: u64, cycle: &str) -> Self {
        let shown = folder.display();
        let mut text = format!(
            "log = \"kafka\"\npartitions = {PARTITIONS}\ncycle = \"{cycle}\"\n\
             digest_interval = \"60s\"\n\
             [kafka]\nbrokers = \"{brokers}\"\ngroup = \"bench\"\n\
             \"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"1500\"\n\
             [objects]\nurl = \"file://{shown}/objects\"\n[keys]\ndir = \"{shown}/keys\"\n"
        );
        for number in 2..accounts + 2 {
            let id = account(number);
            write!(
                text,
                "[[accounts]]\nid = \"{id}\"\nname = \"acme\"\n\
                 projects = [{{ id = \"{number:032x}\", name = \"local\" }}]\n\
                 [[accounts.rules]]\nname = \"probes\"\noperations = [{{ service_type = \"ECS\", \
                 resource_type = \"probe\", trace_names = [\"probe\"] }}]\n"
            )
            .expect("writing to a string cannot fail");
        }
        std::fs::write(folder.join("trailproof.toml"), text).expect("a file");
        Self { folder: folder.to_owned() }
    }
}

/// One instance, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    /// Starts the instance named `name` and returns at once.
    pub(crate) fn start(setup: &Setup, name: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let log = std::fs::File::create(setup.folder.join(format!("{name}.log"))).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_trailproof"))
            .args(["run", "--listen", &address, "--set"])
            .arg(format!("kafka.instance={name}"))
            .arg("--data")
            .arg(setup.folder.join(name))
            .arg("--config")
            .arg(setup.folder.join("trailproof.toml"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        Self { child, address }
    }

    pub(crate) fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline {
            assert!(self.child.try_wait().expect("a child").is_none(), "the instance ended");
            let answer =
                Client::try_new(&self.address).and_then(|mut client| client.get("/readyz").ok());
            if answer.is_some_and(|(status, _)| status == 200) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the instance is not ready after two minutes");
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        cpu_us(&format!("/proc/{}/stat", self.child.id()))
    }

    pub(crate) fn peak_rss_mib(&self) -> f64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM, and its end.
    pub(crate) fn terminate(mut self) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(told.success() && self.child.wait().expect("it ends").success());
    }

    /// Sum of a metric over all its labels, or the one with the labels given.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = Client::try_new(&self.address)?.get("/metrics").ok()?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let values = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        Some(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
