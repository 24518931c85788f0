//! A broker for one measurement, and what lies around it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A broker of `.ci/kafka`, stopped when dropped.
pub(crate) struct Broker {
    child: Child,
    pub(crate) address: String,
}

impl Broker {
    /// Starts a broker in a scratch folder of its own; it says its address on its first line.
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/kafka");
        let mut child = Command::new(script)
            .arg("run")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the broker's script starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let address = lines
            .find_map(|line| Some(line.ok()?.split_once("listens at ")?.1.to_owned()))
            .expect("the broker says its address");
        // Whatever else it says is read, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The script ends when its input does.
        drop(self.child.stdin.take());
        let _reaped = self.child.wait();
    }
}
