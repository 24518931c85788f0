//! The drain: records that wait in the broker, through all stages, against a plain consumer.
//!
//! It ends when every trace is in a delivered file. A cycle is a minute: the feed then puts as many
//! traces into each as five minutes at 20,000 a second hold.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::feed::{Feed, consume};
use crate::server::{PARTITIONS, Server, Setup};
use crate::traces::{Figures, process_cpu_us};

/// One drain.
pub(crate) struct Drain {
    /// Part of its figures' names.
    pub(crate) name: &'static str,
    /// What the producer compresses with.
    pub(crate) compression: &'static str,
    /// Accounts, of one tracker each.
    pub(crate) accounts: u64,
    /// Goal of the ratio.
    pub(crate) goal: f64,
    /// Bound of the ratio.
    pub(crate) must: f64,
    /// Records to drain.
    pub(crate) records: u64,
}

/// Transfer cycle of the drains.
const CYCLE: &str = "1m";

/// Times the plain consumer is measured before the drain, and again behind it; the middle one of
/// each counts, and of the two the mean: the machine's pace drifts.
const BASELINES: usize = 3;

impl Drain {
    pub(crate) fn run(&self, figures: &mut Figures) {
        let broker = Broker::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let setup = Setup::new(folder.path(), &broker.address, self.accounts, CYCLE);
        // A first start makes keys and topics, and brings the catalog into force.
        let mut first = Server::start(&setup, "instance");
        first.wait_ready();
        first.terminate();
        let mut feed = Feed::new(&broker.address, self.compression, self.accounts, PARTITIONS);
        (0..self.records).for_each(|_| feed.send());
        feed.flush();
        let before = self.plain(&broker.address);

        let begun = Instant::now();
        let server = Server::start(&setup, "instance");
        let (seconds, cpu_us) = self.drained(&server, begun, feed.bytes());
        let rss = server.peak_rss_mib();
        let puts: f64 = ["trailproof_files_sealed_total", "trailproof_digests_total"]
            .into_iter()
            .filter_map(|metric| server.metric(metric))
            .sum();
        server.terminate();
        let after = self.plain(&broker.address);
        eprintln!("the plain consumer took {before:.3} s a million before, {after:.3} behind it");
        let plain = f64::midpoint(before, after);

        let per_million = cpu_us / self.records as f64;
        let name = |figure: &str| format!("drain_{}_{figure}", self.name);
        let bounds = (Some(self.goal), Some(self.must));
        let none = (None, None);
        figures.add(&name("traces"), self.records as f64, "traces", none, "higher");
        figures.add(&name("over_consumer"), per_million / plain, "ratio", bounds, "lower");
        figures.add(&name("cpu_s_per_million"), per_million, "s", none, "lower");
        figures.add(&name("consumer_cpu_s_per_million"), plain, "s", none, "lower");
        let per_s = self.records as f64 / seconds;
        figures.add(&name("traces_per_s"), per_s, "traces/s", none, "higher");
        figures.add(&name("rss_mib"), rss, "MiB", (None, Some(512.0)), "lower");
        figures.add(&name("puts"), puts, "objects", none, "lower");
    }

    /// CPU-seconds per million records of a process that only consumes.
    fn plain(&self, brokers: &str) -> f64 {
        let mut measured: Vec<f64> = (0..BASELINES)
            .map(|_| {
                let output = Command::new(std::env::current_exe().expect("this program"))
                    .args(["plain-consumer", brokers, &self.records.to_string()])
                    .output()
                    .expect("the consumer runs");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.trim().parse::<f64>().expect("CPU time") / self.records as f64
            })
            .collect();
        measured.sort_by(f64::total_cmp);
        measured[measured.len() / 2]
    }

    /// Waits until every record is applied, and in a file that is delivered: seconds until the
    /// first, microseconds of CPU until both.
    fn drained(&self, server: &Server, begun: Instant, bytes: u64) -> (f64, f64) {
        let deadline = begun + Duration::from_secs(1_200);
        let mut applied = None;
        loop {
            assert!(Instant::now() < deadline, "not drained within 20 minutes");
            std::thread::sleep(Duration::from_millis(250));
            let records = server.metric("trailproof_input_records_total").unwrap_or_default();
            if records < self.records as f64 {
                continue;
            }
            let seconds = *applied.get_or_insert_with(|| begun.elapsed().as_secs_f64());
            // A file holds its traces and a little between them.
            let filed = server.metric("trailproof_file_bytes_total{stage=\"raw\"}");
            let pending = server.metric("trailproof_delivery_pending");
            if filed.is_some_and(|filed| filed >= bytes as f64) && pending == Some(0.0) {
                return (seconds, server.cpu_us());
            }
        }
    }
}

/// The process that is compared with: consumes, and prints the microseconds of CPU it took.
pub(crate) fn plain_consumer(brokers: &str, records: u64) {
    consume(brokers, records);
    println!("{}", process_cpu_us());
}
