//! The real program, started, asked and killed.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use serde_json::Value;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// Looks until it finds something; panics after `within`.
pub(crate) fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(20)); // between polls
    }
}

/// A data folder and the address of the server that works on it.
pub(crate) struct Home {
    pub(crate) data: PathBuf,
    pub(crate) url: String,
    listen: String,
    log: PathBuf,
    client: Client,
}

/// A running server; killed when it goes out of scope.
pub(crate) struct Server {
    child: Child,
}

impl Home {
    /// A home whose data lie in `data`; the server's own words go to a file in `folder`.
    pub(crate) fn new(folder: &Path, data: PathBuf) -> Self {
        // Freed at once: nobody else on this machine is likely to take it first.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let client = Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        let url = format!("http://{listen}");
        Self { data, url, listen, log: folder.join("server.log"), client }
    }

    fn command(&self, listen: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trailproof"));
        command.args(["run", "--dev", "--listen", listen, "--data"]).arg(&self.data);
        for setting in ["cycle=2s", "digest_interval=6s", "partitions=2"] {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts the server and waits until it is ready; how long that took.
    pub(crate) fn start(&self) -> (Server, Duration) {
        let began = Instant::now();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = self
            .command(&self.listen)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the program can be started");
        let mut server = Server { child };
        until("the server is ready", READY_WITHIN, || {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("the server ended, {status}: {}", self.said());
            }
            self.is_ready().then_some(())
        });
        (server, began.elapsed())
    }

    /// Whether the server says that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/readyz", self.url)).send();
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Runs a second server on the same folder, at another address, until it ends: whether it
    /// succeeded, and what it said.
    pub(crate) fn start_another(&self) -> (bool, String) {
        let output = self.command("127.0.0.1:0").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The end of what the servers wrote.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Posts traces; whether they were all accepted. An error means "unknown".
    pub(crate) fn post(&self, ndjson: &str) -> Result<bool, String> {
        let answer = self
            .client
            .post(format!("{}/api/v1/traces", self.url))
            .header("content-type", "application/x-ndjson")
            .body(ndjson.to_owned())
            .send()
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        let text = answer.text().map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("{status}: {text}"));
        }
        let outcome: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        assert_eq!(outcome["rejected"], 0, "{text}");
        Ok(true)
    }

    /// The ids of all traces of the view, by its pages.
    pub(crate) fn view(&self) -> Vec<String> {
        let (mut ids, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![("limit", "1000".to_owned()), ("order", "oldest".to_owned())];
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let request = self.client.get(format!("{}/api/v1/traces", self.url)).query(&query);
            let text = request.send().and_then(|answer| answer.text()).unwrap();
            let page: Value = serde_json::from_str(&text).expect(&text);
            let traces = page["traces"].as_array().unwrap_or_else(|| panic!("{text}"));
            ids.extend(traces.iter().map(|trace| trace["trace_id"].as_str().unwrap().to_owned()));
            if page["meta_data"]["more"] != true {
                return ids;
            }
            cursor = page["meta_data"]["cursor"].as_str().map(str::to_owned);
        }
    }

    /// `trailproof verify` over the objects: whether all holds, and its report.
    pub(crate) fn verify(&self) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trailproof"));
        let output = command.arg("verify").arg(self.data.join("objects")).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Server {
    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; whether it ended well.
    pub(crate) fn stop(mut self) -> bool {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(&id).status().unwrap().success());
        let ended = until("the server ends", READY_WITHIN, || self.child.try_wait().unwrap());
        ended.success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
