//! Metrics: what is measured, declared once, and its Prometheus text.
//!
//! The recorder is owned by [`Metrics`] and passed as an argument; none is installed globally.
//!
//! **Invariant:** labels come from closed sets, never from a request, a trace or a tracker.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};
use trailproof_topology::invariant;
use trailproof_topology::trace::Reason;

/// How a metric is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution in seconds.
    Histogram,
}

/// A declared metric.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// How it is counted.
    pub kind: Kind,
    /// One line for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $constant:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// Every metric there is.
        pub const DEFINITIONS: &[Definition] =
            &[$(Definition { name: $name, kind: Kind::$kind, help: $help }),*];
    };
}

metrics! {
    BUILD_INFO, Gauge, "trailproof_build_info", "Always 1; the version is a label.";
    READY, Gauge, "trailproof_ready", "1 where /readyz answers 200, else 0.";
    HTTP_REQUESTS, Counter, "trailproof_http_requests_total",
        "HTTP requests by route, method and status code.";
    HTTP_SECONDS, Histogram, "trailproof_http_request_seconds", "Time to answer, by route.";
    HTTP_CONNECTIONS, Gauge, "trailproof_http_connections", "Open HTTP connections.";
    INPUT_RECORDS, Counter, "trailproof_input_records_total",
        "Records applied, by partition.";
    INPUT_REJECTED, Counter, "trailproof_input_rejected_total",
        "Records that are no trace, by reason.";
    INPUT_DUPLICATES, Counter, "trailproof_input_duplicates_total",
        "Resends, stored once, by partition.";
    INPUT_CONFLICTS, Counter, "trailproof_input_conflicts_total",
        "Traces with a known id and other content, by partition.";
    INPUT_UNSELECTED, Counter, "trailproof_input_unselected_total",
        "Traces that no tracker selects, by partition.";
    INPUT_LAG, Gauge, "trailproof_input_lag_records",
        "Records in the log that are not applied yet, by partition.";
    PARTITIONS, Gauge, "trailproof_assigned_partitions",
        "Partitions that this instance runs, by topic.";
    INGEST_TRACES, Counter, "trailproof_ingest_traces_total",
        "Traces taken in over HTTP, by outcome.";
    INGEST_BYTES, Counter, "trailproof_ingest_bytes_total", "Bytes of traces taken in over HTTP.";
    BATCH_SECONDS, Histogram, "trailproof_batch_seconds",
        "Time to poll, apply and commit a batch, by stage.";
    QUERY_SECONDS, Histogram, "trailproof_query_seconds", "Time to answer a query, by kind.";
    FILES_SEALED, Counter, "trailproof_files_sealed_total", "Trace files put.";
    FILES_PENDING, Gauge, "trailproof_files_pending", "Effects of the object lane not delivered.";
    FILES_REFUSED, Counter, "trailproof_files_refused_total",
        "Records of topic files that cannot be true; each is an alarm.";
    STATE_SCRUBBED, Counter, "trailproof_state_scrubbed_bytes_total",
        "Bytes of state whose checksums were verified.";
    FILE_BYTES, Counter, "trailproof_file_bytes_total",
        "Bytes of trace files, by stage: raw or stored.";
    OBJECT_REQUESTS, Counter, "trailproof_object_requests_total",
        "Calls of the object store, by operation and outcome.";
    OBJECT_SECONDS, Histogram, "trailproof_object_request_seconds",
        "Time of a call of the object store, by operation.";
    OBJECT_FAULTS, Counter, "trailproof_object_faults_total",
        "Tries of a call of the object store that failed in passing, by reason.";
    DIGESTS, Counter, "trailproof_digests_total", "Digests put.";
    DELIVERY_PENDING, Gauge, "trailproof_delivery_pending", "Effects not delivered, by lane.";
    NOTIFICATIONS, Counter, "trailproof_notifications_total", "Notifications published.";
    KAFKA_REBALANCES, Counter, "trailproof_kafka_rebalances_total",
        "Decisions of the consumer group that this instance followed.";
    KAFKA_TRANSACTION_SECONDS, Histogram, "trailproof_kafka_transaction_seconds",
        "Time of a transaction, from its beginning to its commit or abort.";
    INVARIANT_VIOLATIONS, Counter, "trailproof_invariant_violations_total",
        "Broken invariants, by id.";
    RESIDENT_BYTES, Gauge, "process_resident_memory_bytes", "Resident memory.";
    CPU_SECONDS, Gauge, "process_cpu_seconds_total", "User and system CPU time.";
    OPEN_FDS, Gauge, "process_open_fds", "Open file descriptors.";
}

/// The id of a failed check that is none of the invariants.
pub const NO_INVARIANT: &str = "none";

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static METADATA: Metadata<'static> = Metadata::new("trailproof", Level::INFO, None);

/// The metrics of one process or test.
pub struct Metrics {
    recorder: PrometheusRecorder,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Metrics")
    }
}

impl Metrics {
    /// A new, empty set, with every metric described.
    ///
    /// # Errors
    /// The exporter refuses the buckets.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?
            .build_recorder();
        for definition in DEFINITIONS {
            let name = KeyName::from_const_str(definition.name);
            let help = definition.help.into();
            match definition.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram => recorder.describe_histogram(name, Some(Unit::Seconds), help),
            }
        }
        let all = Self { recorder };
        all.gauge(BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        all.begin();
        Ok(all)
    }

    /// Shows at 0 what an alert waits for: nobody sees an increase of a counter that begins at 1.
    fn begin(&self) {
        for name in [FILES_REFUSED, FILES_SEALED, DIGESTS, NOTIFICATIONS] {
            self.counter(name, &[]).increment(0);
        }
        for id in invariant::ID_ALL.into_iter().chain([NO_INVARIANT]) {
            self.counter(INVARIANT_VIOLATIONS, &[("id", id)]).increment(0);
        }
        for reason in Reason::ALL {
            self.counter(INPUT_REJECTED, &[("reason", reason.name())]).increment(0);
        }
    }

    /// The counter `name` with these labels. Keep it where it is counted often.
    pub fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// The gauge `name` with these labels.
    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// The histogram `name` with these labels, in seconds.
    pub fn histogram(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
        self.recorder.register_histogram(&key(name, labels), &METADATA)
    }

    /// All metrics as Prometheus text, the process's own among them.
    pub fn render(&self) -> String {
        self.measure_process();
        let handle = self.recorder.handle();
        handle.run_upkeep();
        handle.render()
    }

    /// Reads `/proc`; what cannot be read keeps its last value.
    fn measure_process(&self) {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        if let Some(pages) = statm.split(' ').nth(1).and_then(|word| word.parse::<f64>().ok()) {
            self.gauge(RESIDENT_BYTES, &[]).set(pages * 4096.0);
        }
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: Vec<f64> = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|word| word.parse().ok())
            .collect();
        if ticks.len() == 2 {
            self.gauge(CPU_SECONDS, &[]).set((ticks[0] + ticks[1]) / 100.0);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.gauge(OPEN_FDS, &[]).set(files.count() as f64);
        }
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_alert_waits_for_is_there_before_it_happens() {
        let text = Metrics::new().unwrap().render();
        for line in [
            "trailproof_invariant_violations_total{id=\"I1\"} 0",
            "trailproof_invariant_violations_total{id=\"I11\"} 0",
            "trailproof_invariant_violations_total{id=\"none\"} 0",
            "trailproof_files_refused_total 0",
            "trailproof_digests_total 0",
            "trailproof_input_rejected_total{reason=\"not_json\"} 0",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn what_is_counted_is_shown_with_its_help() {
        let metrics = Metrics::new().unwrap();
        metrics.counter(DIGESTS, &[]).increment(3);
        metrics.histogram(BATCH_SECONDS, &[]).record(0.002);
        let text = metrics.render();
        assert!(text.contains("# HELP trailproof_digests_total Digests put."), "{text}");
        assert!(text.contains("\ntrailproof_digests_total 3\n"), "{text}");
        assert!(text.contains("trailproof_batch_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }
}
