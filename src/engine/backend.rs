//! The engine as the HTTP surfaces see it.

use std::sync::Arc;

use trailproof_topology::catalog::Catalog;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;
use trailproof_topology::query::Query;
use trailproof_topology::query::answer::Answer;

use super::{Engine, Restoring};
use crate::api::backend::{Backend, Check, Coverage, Error, TopicPage, TopicRecord};
use crate::log::broker::ReadLimits;
use crate::metrics::{self, Metrics};
use crate::{log, view};

/// Bytes of values in one answer about a topic, beyond its first record.
const TOPIC_BYTES_MAX: usize = 8 << 20;

impl Backend for Engine {
    fn record_bytes_max(&self) -> usize {
        self.broker().record_bytes_max()
    }

    fn append(&self, records: &[(u32, Vec<&[u8]>)]) -> Result<(), Error> {
        self.broker().append(records).map_err(of_log)
    }

    fn partition_of(&self, account: &str) -> u32 {
        self.broker().partition_of(Topic::Traces, account.as_bytes())
    }

    fn catalog(&self) -> Arc<Catalog> {
        Self::catalog(self)
    }

    fn query(&self, query: &Query) -> Result<Answer, Error> {
        let answer = self.view().query(query).map_err(|error| match error {
            view::Error::Refused(why) => Error::BadQuery(why),
            view::Error::Busy(_) => Error::Unavailable(error.to_string()),
            view::Error::Read { .. } => Error::Damaged(error.to_string()),
        })?;
        if answer.bounds.is_exact() {
            return Ok(answer);
        }
        let why = answer.bounds.reasons().join(", ");
        Err(Error::BadQuery(format!("the query reads too much ({why}); narrow it")))
    }

    fn topic_records(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        max: usize,
    ) -> Result<Option<TopicPage>, Error> {
        if partition >= self.broker().partitions(topic) {
            return Ok(None);
        }
        let bounds = self.broker().bounds(topic, partition).map_err(of_log)?;
        let from = from.max(bounds.start);
        let mut page = TopicPage { start: bounds.start, end: bounds.end, ..TopicPage::default() };
        if from < bounds.end {
            let limits = ReadLimits { records: max, bytes: TOPIC_BYTES_MAX };
            let records = self.broker().read(topic, partition, from, limits).map_err(of_log)?;
            page.records = records
                .into_iter()
                .map(|record| TopicRecord {
                    offset: record.offset,
                    append_time_ms: record.append_time_ms,
                    key: record.key,
                    headers: record.headers,
                    value: record.value,
                })
                .collect();
        }
        Ok(Some(page))
    }

    fn coverage(&self) -> Coverage {
        let (here, changes) = self.view().coverage();
        let all = 0..self.broker().partitions(Topic::Traces);
        Coverage { missing: all.filter(|own| !here.contains(own)).collect(), changes }
    }

    fn ready(&self) -> Vec<Check> {
        let problems = self.problems();
        let failure = self.broker().failure();
        let restoring = self.restoring();
        let mut checks = vec![Check {
            name: "log".to_owned(),
            ok: failure.is_none(),
            detail: failure.unwrap_or_else(|| "takes appends".to_owned()),
        }];
        checks.push(Check {
            name: "engine".to_owned(),
            ok: problems.is_empty(),
            detail: match problems.first() {
                None => "all loops run".to_owned(),
                Some((job, text)) => format!("{job}: {text}"),
            },
        });
        checks.push(Check {
            name: "state".to_owned(),
            ok: restoring.is_empty(),
            detail: if restoring.is_empty() { "loaded".to_owned() } else { progress(&restoring) },
        });
        checks
    }

    fn measure(&self, metrics: &Metrics) {
        // Where the log does not answer, what was known last is nearer to the truth than 0.
        if let Ok(here) = self.lag() {
            for partition in 0..self.broker().partitions(Topic::Traces) {
                // What has moved away lags where it is now.
                let own = here.iter().find(|(own, _)| *own == partition);
                let lag = own.map_or(0, |(_, lag)| *lag);
                let partition = partition.to_string();
                let labels: [(&'static str, &str); 1] = [("partition", &partition)];
                metrics.gauge(metrics::INPUT_LAG, &labels).set(lag as f64);
            }
        }
        for topic in [Topic::Traces, Topic::Files] {
            let count = self.assignment.count(topic);
            metrics.gauge(metrics::PARTITIONS, &[("topic", topic.name())]).set(count as f64);
        }
    }
}

/// How far partitions have come.
fn progress(restoring: &[Restoring]) -> String {
    let one = |own: &Restoring| format!("{} at {} of {}", own.name, own.applied, own.target);
    let list: Vec<String> = restoring.iter().map(one).collect();
    format!("being restored: {}", list.join(", "))
}

fn of_log(error: log::Error) -> Error {
    match error {
        log::Error::Unavailable(why) => Error::Unavailable(why),
        log::Error::DiskFull(why) => Error::DiskFull(why),
        log::Error::Refused(why) => Error::BadQuery(why),
        error => Error::Damaged(error.to_string()),
    }
}
