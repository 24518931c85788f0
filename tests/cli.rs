//! The command line: exit codes, what goes where, and a server from its start to SIGTERM.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trailproof::config::{DEFAULTS, DEV_ACCOUNT, DEV_PROJECT};

/// The command, without settings of the one who runs the tests.
fn trailproof(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trailproof"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TRAILPROOF_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    trailproof(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn describe_names_the_identities_of_dev() {
    let all = output(&["describe"]);
    assert_eq!(all.status.code(), Some(0));
    for id in [DEV_ACCOUNT, DEV_PROJECT] {
        assert!(stdout(&all).contains(id), "{id}");
    }
    assert_eq!(stdout(&output(&["describe", "config"])), DEFAULTS);
}

#[test]
fn check_prints_what_is_in_effect() {
    let good = output(&["check", "--dev", "--set", "cycle=5s"]);
    assert_eq!(good.status.code(), Some(0));
    let line = stdout(&good).lines().find(|line| line.starts_with("cycle")).unwrap().to_owned();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["cycle", "=", "\"5s\"", "#", "--set"]);
    let bad = output(&["check", "--set", "cycel=5s"]);
    assert_eq!(bad.status.code(), Some(1));
    assert_eq!(
        stderr(&bad),
        "error: the configuration has 1 problem\n  \
         cycel: no such key, did you mean cycle? (from --set)\n"
    );
}

#[test]
fn what_cannot_run_exits_with_2_and_says_why() {
    let reachable = output(&["run", "--listen", "0.0.0.0:1"]);
    assert_eq!(reachable.status.code(), Some(2));
    assert!(stderr(&reachable).contains("authentication does not exist yet"));
    for (arguments, text) in [
        (
            &["produce"][..],
            "error: nothing to send: name files, - for standard input, or --sample N\n",
        ),
        (
            &["query", "--server", "here"],
            "error: \"here\" is no server: write http://127.0.0.1:8473\n",
        ),
    ] {
        let output = output(arguments);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(2), text));
    }
    // Nothing listens on port 1.
    let gone = output(&[
        "produce",
        "--server",
        "http://127.0.0.1:1",
        "--sample",
        "1",
        "--retry-for",
        "1ms",
    ]);
    assert_eq!(gone.status.code(), Some(2));
    assert!(stderr(&gone).starts_with("error: cannot reach http://127.0.0.1:1: "));
    assert_eq!(output(&["produce", "--nonsense"]).status.code(), Some(2));
}

/// A running server in a folder of its own; killed when the test is over.
struct Server {
    child: Child,
    url: String,
    greeting: String,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut arguments =
            vec!["run", "--dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        let mut child = trailproof(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut greeting = String::new();
        // The last line of the greeting names the check; the server listens by then.
        while !greeting.contains("trailproof verify") {
            greeting.push_str(&lines.next().expect("the greeting ends").unwrap());
            greeting.push('\n');
        }
        // Somebody must go on reading, or the server's log would fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let address = greeting.split("http://").nth(1).unwrap().split('/').next().unwrap();
        let url = format!("http://{address}");
        Self { child, url, greeting, folder }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut all = vec![arguments[0], "--server", &self.url];
        all.extend(&arguments[1..]);
        let output = output(&all);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        output
    }

    /// Waits until a query counts this many traces.
    fn wait_for(&self, count: &str, filter: &[&str]) {
        let start = Instant::now();
        let arguments = [&["query", "--count"], filter].concat();
        while stdout(&self.run(&arguments)).trim() != count {
            assert!(start.elapsed() < Duration::from_secs(20), "{count} traces never came");
        }
    }

    fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let start = Instant::now();
        let code = self.child.wait().unwrap().code();
        assert!(start.elapsed() < Duration::from_secs(10), "the stop takes ten seconds at most");
        code
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already where the test stopped it.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[test]
fn a_server_takes_finds_and_follows_traces_and_ends_with_0() {
    let server = Server::start(&["partitions=2"]);
    for id in [DEV_ACCOUNT, DEV_PROJECT, "not for production"] {
        assert!(server.greeting.contains(id), "{id}: {}", server.greeting);
    }
    let sent = server.run(&["produce", "--sample", "20", "--json"]);
    let sent: Value = serde_json::from_str(&stdout(&sent)).unwrap();
    assert_eq!(sent, json!({"accepted": 20, "rejected": 0, "errors": []}));
    server.wait_for("20", &[]);
    let all = stdout(&server.run(&["query", "--all"]));
    assert_eq!(all.lines().count(), 20);
    let first: Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    let id = first["trace_id"].as_str().unwrap();
    assert_eq!(stdout(&server.run(&["query", "--count", "--trace-id", id])), "1\n");
    let followed = stdout(&server.run(&["tail", "--since", "1h", "--lines", "20"]));
    assert_eq!(followed.lines().count(), 20);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn arrays_lines_and_poison_come_in_from_files_and_pipes() {
    let server = Server::start(&[]);
    let trace = |id: u32| {
        json!({
            "trace_id": format!("t-{id}"), "time": 1_700_000_000_000_i64, "domain_id": DEV_ACCOUNT,
            "service_type": "ECS", "resource_type": "ecs", "trace_name": "x",
            "trace_rating": "normal", "trace_type": "ApiCall",
        })
    };
    let path = server.folder.path().join("traces.json");
    let pretty = serde_json::to_string_pretty(&json!([trace(1), trace(2)])).unwrap();
    std::fs::write(&path, pretty).unwrap();
    let sent = server.run(&["produce", path.to_str().unwrap()]);
    assert_eq!(stdout(&sent), "accepted 2, rejected 0\n");
    let mut pipe = trailproof(&["produce", "--server", &server.url, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = format!("{}\nnope\n{}\n", trace(3), trace(4));
    pipe.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let sent = pipe.wait_with_output().unwrap();
    assert_eq!(stdout(&sent), "accepted 2, rejected 1\n");
    assert!(stderr(&sent).starts_with("rejected: trace 1: not_json: "), "{}", stderr(&sent));
    server.wait_for("4", &["--where", "trace_id^=t-"]);
}

#[test]
fn a_second_server_on_the_same_folder_refuses_to_start() {
    let server = Server::start(&[]);
    let data = server.folder.path().join("data");
    let second =
        output(&["run", "--dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(2));
    assert!(stderr(&second).contains("another process"), "{}", stderr(&second));
}
