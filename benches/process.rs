//! The whole process: ten million traces of sixteen accounts over HTTP into the real binary.
//!
//! `TRAILPROOF_BENCH_TRACES` sets another number of traces. The clients run on the same cores; what
//! they cost is printed beside the figures.

#[path = "process/client.rs"]
mod client;
#[path = "common/traces.rs"]
mod traces;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::Client;
use traces::{Figures, Random, account, cpu_us, process_cpu_us};

const ACCOUNTS: u64 = 16;
const CLIENTS: u64 = 4;
const BODY_TRACES: u64 = 4_000;
const PROBES: usize = 300;

/// The server under test, killed when dropped.
struct Server {
    child: Child,
    address: String,
    folder: PathBuf,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let child = Command::new(env!("CARGO_BIN_EXE_trailproof"))
            .args(["run", "--data"])
            .arg(folder.join("data"))
            .args(["--listen", &address, "--set", "partitions=2", "--config"])
            .arg(folder.join("trailproof.toml"))
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let server = Self { child, address, folder: folder.to_owned() };
        server.wait_ready();
        server
    }

    fn wait_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if Client::try_new(&self.address)
                .and_then(|mut client| client.get("/readyz").ok())
                .is_some_and(|(status, _)| status == 200)
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the server is not ready after a minute");
    }

    fn cpu_us(&self) -> f64 {
        cpu_us(&format!("/proc/{}/stat", self.child.id()))
    }

    fn peak_rss_mib(&self) -> f64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    }

    /// Traces in the view, over all accounts.
    fn viewed(&self) -> u64 {
        let mut client = Client::new(&self.address);
        (2..ACCOUNTS + 2)
            .map(|number| {
                let path = format!("/api/v1/traces?account={}&limit=1&count=true", account(number));
                let (status, body) = client.get(&path).expect("an answer");
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
                let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                answer["meta_data"]["total"].as_u64().expect("a total")
            })
            .sum()
    }

    fn wait_viewed(&self, traces: u64) {
        while self.viewed() < traces {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn configuration(folder: &Path) {
    let mut text = "cycle = \"5s\"\ndigest_interval = \"10s\"\n".to_owned();
    for number in 2..ACCOUNTS + 2 {
        let id = account(number);
        text.push_str(&format!(
            "[[accounts]]\nid = \"{id}\"\nname = \"acme\"\n\
             projects = [{{ id = \"{number:032x}\", name = \"local\" }}]\n"
        ));
    }
    std::fs::write(folder.join("trailproof.toml"), text).expect("a file");
}

/// Bodies that are sent again and again, with fresh ids in place.
struct Template {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Template {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for at in 0..BODY_TRACES {
            starts.push(bytes.len());
            let time_ms = 1_760_000_000_000 + at as i64;
            traces::trace(&mut random, ACCOUNTS, time_ms, &mut bytes);
            bytes.push(b'\n');
        }
        Self { bytes, starts }
    }

    /// Gives each trace an id of its own.
    fn renew(&mut self, first: u64) {
        const ID: usize = "{\"trace_id\":\"".len();
        for (at, start) in self.starts.iter().enumerate() {
            let id = format!("{:016x}", first + at as u64);
            self.bytes[start + ID + 20..start + ID + 36].copy_from_slice(id.as_bytes());
        }
    }
}

/// Sends traces from several clients until `traces` are acknowledged; the time it took.
fn ingest(address: &str, traces: u64) -> Duration {
    let next = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let next = &next;
            scope.spawn(move || {
                let mut template = Template::new(seed + 1);
                let mut client = Client::new(address);
                loop {
                    let first = next.fetch_add(BODY_TRACES, Ordering::Relaxed);
                    if first >= traces {
                        break;
                    }
                    template.renew(first);
                    client.post(&template.bytes, BODY_TRACES);
                }
            });
        }
    });
    begun.elapsed()
}

/// Time from the acknowledgement's request to the answer of a query, under a steady load.
fn queryable_ms(server: &Server) -> Vec<f64> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut template = Template::new(99);
            let mut client = Client::new(&server.address);
            let mut first = 1 << 40;
            while !stop.load(Ordering::Relaxed) {
                template.renew(first);
                first += BODY_TRACES;
                client.post(&template.bytes, BODY_TRACES);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let mut client = Client::new(&server.address);
        let mut template = Template::new(7);
        template.bytes.truncate(template.starts[1]);
        template.starts.truncate(1);
        let mut times: Vec<f64> = (0..PROBES as u64)
            .map(|probe| {
                template.renew((1 << 50) + probe);
                let text = String::from_utf8_lossy(&template.bytes).into_owned();
                let id = &text[13..49];
                let owner = text.split("\"domain_id\":\"").nth(1).map_or("", |rest| &rest[..32]);
                let path = format!("/v3/{owner}/traces?trace_id={id}");
                let begun = Instant::now();
                client.post(&template.bytes, 1);
                while !String::from_utf8_lossy(&client.get(&path).expect("an answer").1)
                    .contains("\"count\":1")
                {}
                begun.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        times.sort_by(f64::total_cmp);
        times
    })
}

/// Seconds from kill -9 under load until ready again.
fn restart_s(mut server: Server) -> (f64, Server) {
    let (address, folder) = (server.address.clone(), server.folder.clone());
    let load = std::thread::spawn(move || {
        let mut template = Template::new(55);
        let Some(mut client) = Client::try_new(&address) else { return };
        for round in 0.. {
            template.renew((1 << 45) + round * BODY_TRACES);
            if client.try_post(&template.bytes).is_err() {
                break;
            }
        }
    });
    std::thread::sleep(Duration::from_secs(5));
    server.child.kill().expect("it runs");
    server.child.wait().expect("it ends");
    load.join().expect("the load ends with the server");
    let begun = Instant::now();
    let again = Server::start(&folder);
    (begun.elapsed().as_secs_f64(), again)
}

fn folder_bytes(folder: &Path) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            let (more, inner) = folder_bytes(&path);
            (bytes, files) = (bytes + more, files + inner);
        } else if !path.to_string_lossy().ends_with(".meta.json") {
            bytes += entry.metadata().map_or(0, |data| data.len());
            files += 1;
        }
    }
    (bytes, files)
}

fn verify(server: &Server, figures: &mut Figures) {
    let objects = server.folder.join("data/objects");
    let (bytes, files) = folder_bytes(&objects);
    let begun = Instant::now();
    let run = Command::new(env!("CARGO_BIN_EXE_trailproof"))
        .arg("verify")
        .arg(&objects)
        .output()
        .expect("verify runs");
    let report = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "what the server wrote verifies: {report}");
    let seconds = begun.elapsed().as_secs_f64();
    let per_s = (None, None);
    figures.add("verify_mb_per_s", bytes as f64 / 1e6 / seconds, "MB/s", per_s, "higher");
    figures.add("verify_files_per_s", files as f64 / seconds, "files/s", per_s, "higher");
}

fn main() {
    let wanted = std::env::var("TRAILPROOF_BENCH_TRACES").ok();
    let traces: u64 = wanted.and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    let traces = traces.next_multiple_of(BODY_TRACES);
    let folder = tempfile::tempdir().expect("a temporary folder");
    configuration(folder.path());
    let server = Server::start(folder.path());
    let mut figures = Figures::default();

    let (own_cpu, begun) = (process_cpu_us(), Instant::now());
    let acknowledged = ingest(&server.address, traces);
    server.wait_viewed(traces);
    let seconds = begun.elapsed().as_secs_f64();
    let client_us = (process_cpu_us() - own_cpu) / traces as f64;
    let server_us = server.cpu_us() / traces as f64;
    let per_s = traces as f64 / seconds;
    let none = (None, None);
    figures.add("ingest_traces_per_s", per_s, "traces/s", (Some(150_000.0), None), "higher");
    let acknowledged_per_s = traces as f64 / acknowledged.as_secs_f64();
    figures.add("ingest_acknowledged_per_s", acknowledged_per_s, "traces/s", none, "higher");
    figures.add("ingest_server_us_per_trace", server_us, "us", none, "lower");
    figures.add("ingest_client_us_per_trace", client_us, "us", none, "lower");
    let state = folder_bytes(&folder.path().join("data/state")).0 as f64 / traces as f64;
    figures.add("state_bytes_per_trace", state, "bytes", none, "lower");
    figures.add("rss_mib", server.peak_rss_mib(), "MiB", (None, Some(512.0)), "lower");

    let times = queryable_ms(&server);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    figures.add("queryable_p50_ms", at(0.5), "ms", none, "lower");
    figures.add("queryable_p99_ms", at(0.99), "ms", (None, Some(1000.0)), "lower");

    let (restart, server) = restart_s(server);
    figures.add("restart_s", restart, "s", (None, Some(5.0)), "lower");
    verify(&server, &mut figures);
    figures.write();
}
