//! Topics: what is missing is created, what is there is checked.
//!
//! **Invariant:** no record is read or written before every topic keeps what Trailproof promises:
//! the broker's time, enough retention, whole history of `files` and `catalog`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;
use trailproof_topology::effect::Topic;
use trailproof_topology::trace::TRACE_BYTES_MAX;

use super::block_on::block_on;
use super::context::{Health, Watch, unavailable};
use super::options::{Names, Options};
use super::said;
use crate::config::default_partitions;
use crate::log::Error;

/// How long the cluster may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// How long a new topic may take to be known.
const CREATE_WAIT: Duration = Duration::from_secs(20);

/// Errors and log lines that are looked through for a reason.
const TOLD_MAX: usize = 100;

/// Greatest batch of the topics that Trailproof alone writes.
const OWN_BYTES_MAX: u64 = 24 << 20;

/// Greatest batch of `traces`: whatever is an element of a body over HTTP has room.
const TRACES_BYTES_MAX: u64 = 16 << 20;

/// Bytes of a record beside its value, at most.
const RECORD_OVERHEAD: usize = 512;

/// What topic `traces` and the producer must take: the greatest trace.
pub(super) const TRACES_BYTES_LEAST: usize = TRACE_BYTES_MAX + RECORD_OVERHEAD;

/// What there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    partitions: BTreeMap<Topic, u32>,
    /// Greatest value that topic `traces` and the producer take, in bytes.
    pub(super) record_bytes_max: usize,
}

impl Layout {
    /// Partitions of a topic; 0 where there is none.
    pub(super) fn partitions(&self, topic: Topic) -> u32 {
        self.partitions.get(&topic).copied().unwrap_or_default()
    }

    /// Checks that there is such a partition.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(super) fn check(&self, topic: Topic, partition: u32) -> Result<(), Error> {
        if partition < self.partitions(topic) {
            return Ok(());
        }
        Err(Error::Refused(format!("the log has no partition {}/{partition}", topic.name())))
    }
}

/// Creates and checks the topics.
///
/// # Errors
/// [`Error::Refused`]: all that is wrong with them, and the commands that mend it.
/// [`Error::Unavailable`] (later).
pub(super) fn prepare(
    options: &Options,
    health: &Arc<Health>,
    client: &BaseConsumer<Watch>,
) -> Result<Layout, Error> {
    let admin: AdminClient<Watch> = options
        .admin()
        .create_with_context(Watch(Arc::clone(health)))
        .map_err(|error| Error::Refused(format!("kafka: the options: {error}")))?;
    let names = Names::new(options);
    let found = partitions(&names, &metadata(client)?);
    let missing: Vec<Topic> =
        Topic::ALL.into_iter().filter(|topic| !found.contains_key(topic)).collect();
    if !missing.is_empty() {
        create(&admin, options, &missing)?;
    }
    let metadata = await_topics(&names, client)?;
    let found = partitions(&names, &metadata);
    let mut wrong = Wrong { names: &names, brokers: &options.brokers, texts: Vec::new() };
    wrong.count(Topic::Traces, options.traces_partitions, &found);
    wrong.count(Topic::Files, options.files_partitions, &found);
    wrong.count(Topic::Catalog, 1, &found);
    let configs = describe(&names, &admin)?;
    let traces_bytes_max = number(&configs, Topic::Traces, "max.message.bytes");
    let bytes_max = usize::try_from(traces_bytes_max.min(options.message_bytes_max()));
    let record_bytes_max = bytes_max.unwrap_or(usize::MAX).saturating_sub(RECORD_OVERHEAD);
    let layout = Layout { partitions: found, record_bytes_max };
    for topic in Topic::ALL {
        if let Some(config) = configs.get(&topic) {
            let replicas = metadata.topics().iter().find(|one| one.name() == names.of(topic));
            let replicas = replicas
                .and_then(|one| one.partitions().iter().map(|one| one.replicas().len()).min());
            check(options, topic, config, replicas.unwrap_or(1), traces_bytes_max, &mut wrong);
        }
    }
    check_brokers(&admin, &metadata, options, &layout, &mut wrong);
    if wrong.texts.is_empty() { Ok(layout) } else { Err(Error::Refused(wrong.texts.join("; "))) }
}

fn metadata(client: &BaseConsumer<Watch>) -> Result<Metadata, Error> {
    client.fetch_metadata(None, ANSWER_WAIT).map_err(|error| {
        // The call only knows that time is up; what is wrong with host or password is told apart.
        for _ in 0..TOLD_MAX {
            if client.poll(Duration::ZERO).is_none() {
                break;
            }
        }
        match client.context().0.last_break() {
            Some(why) => Error::Unavailable(format!("kafka: {why}")),
            None => unavailable("asking for the topics", &error),
        }
    })
}

fn partitions(names: &Names, metadata: &Metadata) -> BTreeMap<Topic, u32> {
    let of = |topic: Topic| {
        let found = metadata.topics().iter().find(|one| one.name() == names.of(topic))?;
        let count = u32::try_from(found.partitions().len()).unwrap_or(u32::MAX);
        (found.error().is_none() && count > 0).then_some((topic, count))
    };
    Topic::ALL.into_iter().filter_map(of).collect()
}

/// The metadata once every topic has all its leaders.
fn await_topics(names: &Names, client: &BaseConsumer<Watch>) -> Result<Metadata, Error> {
    let until = Instant::now() + CREATE_WAIT;
    loop {
        let metadata = metadata(client)?;
        let ready = |topic: Topic| {
            let found = metadata.topics().iter().find(|one| one.name() == names.of(topic));
            found.is_some_and(|one| {
                let led = one.partitions().iter().all(|one| one.leader() >= 0);
                one.error().is_none() && led && !one.partitions().is_empty()
            })
        };
        let missing: Vec<&str> = Topic::ALL
            .into_iter()
            .filter(|topic| !ready(*topic))
            .map(|one| names.of(one))
            .collect();
        if missing.is_empty() {
            return Ok(metadata);
        }
        if Instant::now() > until {
            let missing = missing.join(", ");
            return Err(Error::Unavailable(format!("kafka: no leader yet for {missing}")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a topic must be set to when it is created.
fn settings(options: &Options, topic: Topic) -> Vec<(&'static str, String)> {
    let forever = || "-1".to_owned();
    let (retention, bytes_max) = match topic {
        Topic::Traces => (retention_ms(options).to_string(), TRACES_BYTES_MAX),
        Topic::Files | Topic::Catalog | Topic::Checkpoints => (forever(), OWN_BYTES_MAX),
        Topic::Notifications | Topic::DeadLetters => {
            (retention_ms(options).to_string(), OWN_BYTES_MAX)
        }
    };
    let mut settings = vec![
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", retention),
        ("retention.bytes", forever()),
        ("max.message.bytes", bytes_max.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
    ];
    if options.replication >= 3 {
        settings.push(("min.insync.replicas", "2".to_owned()));
    }
    settings
}

/// How long `traces` must keep its records.
fn retention_ms(options: &Options) -> u128 {
    (options.view + options.downtime).as_millis()
}

fn create(admin: &AdminClient<Watch>, options: &Options, missing: &[Topic]) -> Result<(), Error> {
    let count = |topic: Topic| match (topic, options.traces_partitions, options.files_partitions) {
        (Topic::Traces, 0, _) => i32::try_from(default_partitions()).unwrap_or(1),
        (Topic::Traces, count, _) => i32::try_from(count).unwrap_or(i32::MAX),
        (Topic::Files, _, count) => i32::try_from(count.max(1)).unwrap_or(i32::MAX),
        _ => 1,
    };
    let names = Names::new(options);
    let settings: Vec<_> =
        missing.iter().map(|topic| (*topic, settings(options, *topic))).collect();
    let topics: Vec<NewTopic<'_>> = settings
        .iter()
        .map(|(topic, settings)| {
            let replication = TopicReplication::Fixed(options.replication);
            let new = NewTopic::new(names.of(*topic), count(*topic), replication);
            settings.iter().fold(new, |new, (name, value)| new.set(name, value))
        })
        .collect();
    let answers = block_on(
        admin.create_topics(&topics, &AdminOptions::new().request_timeout(Some(ANSWER_WAIT))),
    )
    .map_err(|error| unavailable("creating topics", &error))?;
    for answer in answers {
        match answer {
            Ok(name) => tracing::info!(topic = name, "a topic was created"),
            // Another instance was quicker; what it made is checked like any other.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                return Err(Error::Refused(format!(
                    "topic {name} cannot be created: {code}; create it by hand, or allow it"
                )));
            }
        }
    }
    Ok(())
}

type Configs = BTreeMap<Topic, ConfigResource>;

fn describe(names: &Names, admin: &AdminClient<Watch>) -> Result<Configs, Error> {
    let wanted: Vec<_> =
        Topic::ALL.iter().map(|topic| ResourceSpecifier::Topic(names.of(*topic))).collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
    let answers = block_on(admin.describe_configs(&wanted, &options))
        .map_err(|error| unavailable("describing topics", &error))?;
    let mut configs = Configs::new();
    for (topic, answer) in Topic::ALL.into_iter().zip(answers) {
        let config = answer.map_err(|code| {
            Error::Refused(format!("topic {} cannot be described: {code}", topic.name()))
        })?;
        configs.insert(topic, config);
    }
    Ok(configs)
}

fn number(configs: &Configs, topic: Topic, name: &str) -> u64 {
    let text = configs.get(&topic).and_then(|config| value(config, name));
    text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

fn value<'a>(config: &'a ConfigResource, name: &str) -> Option<&'a str> {
    config.get(name)?.value.as_deref()
}

/// What is wrong, each with what mends it.
struct Wrong<'a> {
    names: &'a Names,
    brokers: &'a str,
    texts: Vec<String>,
}

impl Wrong<'_> {
    fn setting(&mut self, topic: Topic, name: &str, found: &str, wanted: &str) {
        self.texts.push(format!(
            "topic {topic} has {name}={found}: kafka-configs.sh --bootstrap-server {brokers} \
             --alter --entity-type topics --entity-name {topic} --add-config {name}={wanted}",
            topic = self.names.of(topic),
            brokers = self.brokers,
        ));
    }

    fn count(&mut self, topic: Topic, wanted: u32, found: &BTreeMap<Topic, u32>) {
        let count = found.get(&topic).copied().unwrap_or_default();
        if wanted == 0 || wanted == count {
            return;
        }
        let key = if topic == Topic::Traces { "partitions" } else { "its partitions" };
        self.texts.push(format!(
            "topic {} has {count} partitions where {wanted} are configured: set {key} to {count} \
             if it is ours; a topic's number cannot be lowered, and raising it changes where keys \
             go",
            self.names.of(topic)
        ));
    }
}

fn check(
    options: &Options,
    topic: Topic,
    config: &ConfigResource,
    replicas: usize,
    traces_bytes_max: u64,
    wrong: &mut Wrong<'_>,
) {
    let found = |name: &str| value(config, name).unwrap_or_default().to_owned();
    let time = found("message.timestamp.type");
    if time != "LogAppendTime" {
        wrong.setting(topic, "message.timestamp.type", &time, "LogAppendTime");
    }
    let policy = found("cleanup.policy");
    if policy != "delete" {
        wrong.setting(topic, "cleanup.policy", &policy, "delete");
    }
    let forever = matches!(topic, Topic::Files | Topic::Catalog);
    let least = if forever { i128::MAX } else { retention_ms(options).cast_signed() };
    let retention = found("retention.ms");
    let kept = retention.parse::<i128>().map_or(0, |ms| if ms < 0 { i128::MAX } else { ms });
    if kept < least && (forever || topic == Topic::Traces) {
        let wanted = if forever { "-1".to_owned() } else { least.to_string() };
        wrong.setting(topic, "retention.ms", &retention, &wanted);
    }
    let bytes = found("retention.bytes");
    if bytes != "-1" && (forever || topic == Topic::Traces) {
        wrong.setting(topic, "retention.bytes", &bytes, "-1");
    }
    let unclean = found("unclean.leader.election.enable");
    if unclean == "true" {
        wrong.setting(topic, "unclean.leader.election.enable", &unclean, "false");
    }
    let insync = found("min.insync.replicas");
    if replicas >= 3 && insync.parse::<usize>().is_ok_and(|least| least < 2) {
        wrong.setting(topic, "min.insync.replicas", &insync, "2");
    }
    let bytes_max = found("max.message.bytes");
    // A dead letter is as large as the record it tells of.
    let (least, wanted) = match topic {
        Topic::Traces => (TRACES_BYTES_LEAST as u64, TRACES_BYTES_MAX),
        _ => (traces_bytes_max, OWN_BYTES_MAX.max(traces_bytes_max)),
    };
    if bytes_max.parse::<u64>().is_ok_and(|max| max < least) {
        wrong.setting(topic, "max.message.bytes", &bytes_max, &wanted.to_string());
    }
}

/// What the brokers must keep for a group: its offsets for long enough, and their texts whole.
fn check_brokers(
    admin: &AdminClient<Watch>,
    metadata: &Metadata,
    options: &Options,
    layout: &Layout,
    wrong: &mut Wrong<'_>,
) {
    let Some(broker) = metadata.brokers().first() else { return };
    let wanted = [ResourceSpecifier::Broker(broker.id())];
    let request = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
    // Who may not look at brokers may still run: the operator has been told in the documents.
    let Ok(answers) = block_on(admin.describe_configs(&wanted, &request)) else { return };
    let number = |name: &str| {
        answers.iter().flatten().find_map(|config| value(config, name)?.parse::<u64>().ok())
    };
    // A group that nobody is in for longer than this forgets what it published.
    if let Some(minutes) = number("offsets.retention.minutes")
        && minutes.saturating_mul(60) < options.downtime.as_secs()
    {
        wrong.texts.push(format!(
            "the brokers forget offsets after {minutes} minutes, which is less than \
             kafka.downtime: raise offsets.retention.minutes on the brokers"
        ));
    }
    let needed = said::text_bytes_max(|topic| layout.partitions(topic));
    if let Some(bytes) = number("offset.metadata.max.bytes")
        && bytes < needed
    {
        wrong.texts.push(format!(
            "the brokers keep {bytes} bytes of text with an offset, and so many partitions may \
             need {needed}: raise offset.metadata.max.bytes on the brokers"
        ));
    }
}
