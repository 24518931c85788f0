//! The settings of the log: inside the process, or a Kafka cluster.

use std::path::Path;
use std::time::Duration;

use super::layers::Reader;
use super::raw::RawKafka;
use super::{DAY, PARTITIONS_MAX};
use crate::applied::Gap;
use crate::log::kafka::Options;

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSettings {
    /// Inside the process.
    Embedded,
    /// On a cluster.
    Kafka(Box<Options>),
}

/// What is asked of the topics, and what instances share besides.
pub(super) struct Wanted<'a> {
    pub(super) partitions: u64,
    pub(super) view_days: u64,
    pub(super) data: &'a Path,
    pub(super) own_objects: bool,
    pub(super) own_keys: bool,
}

/// Names what several instances would have to share.
fn warn(reader: &mut Reader, wanted: &Wanted<'_>) {
    if wanted.own_objects {
        let text = "objects are in this instance's data folder: with log = \"kafka\", several \
                    instances need one place, objects.url = \"s3://bucket/prefix\"";
        reader.warn(text.to_owned());
    }
    if wanted.own_keys {
        let text = "the signing keys are in this instance's data folder: several instances need \
                    copies of the same keys; name their folder in keys.dir";
        reader.warn(text.to_owned());
    }
}

/// Reads `log` and table `kafka`.
pub(super) fn build(
    reader: &mut Reader,
    log: &str,
    raw: &RawKafka,
    wanted: &Wanted<'_>,
) -> (LogSettings, Vec<Gap>) {
    let gaps = gaps(reader, &raw.accept_gap.text());
    match log {
        "embedded" => {
            if !raw.brokers.text().is_empty() {
                let text = "kafka.brokers is set, and log = \"embedded\" does not use it";
                reader.warn(text.to_owned());
            }
            (LogSettings::Embedded, gaps)
        }
        "kafka" => {
            warn(reader, wanted);
            let options = options(reader, raw, wanted);
            for wrong in options.check().err().unwrap_or_default() {
                reader.problem(&wrong.key, wrong.reason);
            }
            (LogSettings::Kafka(Box::new(options)), gaps)
        }
        other => {
            let text = format!("{other:?} is no log: there are \"embedded\" and \"kafka\"");
            reader.problem("log", text);
            (LogSettings::Embedded, gaps)
        }
    }
}

fn options(reader: &mut Reader, raw: &RawKafka, wanted: &Wanted<'_>) -> Options {
    let (hour, year) = (Duration::from_secs(3_600), DAY * 365);
    let replication = raw.replication.text();
    let mut options = Options::new(&raw.brokers.text(), wanted.data.to_owned());
    options.group = raw.group.text();
    options.prefix = raw.prefix.text();
    options.instance = raw.instance.text();
    // What is no number is refused with the others that are out of bounds.
    options.replication = replication.parse().unwrap_or(0);
    options.downtime = reader.duration("kafka.downtime", &raw.downtime, hour, year);
    options.view = DAY * u32::try_from(wanted.view_days).unwrap_or(u32::MAX);
    options.traces_partitions = wanted.partitions as u32;
    options.files_partitions =
        reader.integer("kafka.files_partitions", &raw.files_partitions, 0, PARTITIONS_MAX.into())
            as u32;
    options.passed = reader.passed();
    options
}

fn gaps(reader: &mut Reader, text: &str) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        match Gap::parse(one) {
            Some(gap) => gaps.push(gap),
            None => reader.problem(
                "kafka.accept_gap",
                format!("{one:?} is no gap: write traces/3@1000..2000, as the error names it"),
            ),
        }
    }
    gaps
}
