//! How the cluster is reached: brokers, group, and any option of librdkafka.
//!
//! Three layers make a client's configuration, later ones win: this adapter's defaults, what the
//! operator passes through, and what exactly-once rests on. The last is not the operator's to
//! change: [`Options::check`] names each such option and why.
//!
//! **Invariant:** no client is made from options that were not checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use trailproof_topology::effect::Topic;

use super::topics::TRACES_BYTES_LEAST;

/// Options of librdkafka that cannot be passed through, and what to do instead.
const FIXED: &[(&str, &str)] = &[
    ("acks", "every append waits for all in-sync replicas; set min.insync.replicas on the topics"),
    ("allow.auto.create.topics", "topics are created and checked at the start"),
    ("auto.offset.reset", "a position outside the log stops the partition instead"),
    ("bootstrap.servers", "set kafka.brokers"),
    ("check.crcs", "what is audited is always checked"),
    ("enable.auto.commit", "positions are committed with what they make true"),
    ("enable.auto.offset.store", "positions are committed with what they make true"),
    ("enable.gapless.guarantee", "a gap is answered by an abort"),
    ("enable.idempotence", "a producer without it may repeat or reorder"),
    ("enable.partition.eof", "the end of a partition must be known"),
    ("group.id", "set kafka.group"),
    ("group.instance.id", "set kafka.instance"),
    ("isolation.level", "records of aborted transactions must not be read"),
    ("max.in.flight", "a producer with more than five may reorder"),
    ("max.in.flight.requests.per.connection", "a producer with more than five may reorder"),
    ("metadata.broker.list", "set kafka.brokers"),
    ("partitioner", "a key's partition is part of the formats"),
    ("request.required.acks", "every append waits for all in-sync replicas"),
    ("transactional.id", "it is made of kafka.group and the partition"),
];

/// Options that mean something to members of the group alone.
const GROUP_ONLY: &[&str] = &[
    "coordinator.query.interval.ms",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "partition.assignment.strategy",
    "session.timeout.ms",
];

/// An option that is wrong, with its key as it is written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct OptionError {
    /// The key, such as `kafka.acks`.
    pub key: String,
    /// What is wrong and what to do.
    pub reason: String,
}

/// How to reach a cluster and what to be there.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// Addresses to begin with: `host:port`, with commas between. Key `kafka.brokers`.
    pub brokers: String,
    /// The consumer group that shares the partitions. Key `kafka.group`.
    pub group: String,
    /// What the names of all topics begin with; empty: nothing. Key `kafka.prefix`.
    pub prefix: String,
    /// This instance's lasting name in the group. Empty: one is made and kept in `data`. Key
    /// `kafka.instance`.
    pub instance: String,
    /// Replicas of topics that are created; `-1`: as many as the cluster's default. Key
    /// `kafka.replication`.
    pub replication: i32,
    /// How long an instance may be down without losing its place: what topic `traces` keeps beyond
    /// the view. Key `kafka.downtime`.
    pub downtime: Duration,
    /// What the view keeps: `view_days`.
    pub view: Duration,
    /// Partitions of topic `traces` where it is created; as many are demanded where it exists. 0:
    /// as many as it has, or one for each core.
    pub traces_partitions: u32,
    /// Partitions of topic `files`, likewise; 0: as many as it has, or 1.
    pub files_partitions: u32,
    /// Folder for what an instance remembers of itself: its name in the group.
    pub data: PathBuf,
    /// Any other option of librdkafka, without `kafka.` before it.
    pub passed: BTreeMap<String, String>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = to.debug_map();
        self.describe().iter().for_each(|(key, value)| _ = text.entry(key, value));
        text.finish()
    }
}

/// Whether an option holds a secret, so that its value is never shown.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 6] = ["password", "secret", "ssl.key", "assertion", "token", "jaas"];
    name == "sasl.oauthbearer.config" || PARTS.iter().any(|part| name.contains(part))
}

impl Options {
    /// Options with the defaults: group `trailproof`, replication by the cluster's default, seven
    /// days of downtime beyond a view of seven days.
    #[must_use]
    pub fn new(brokers: &str, data: PathBuf) -> Self {
        const WEEK: Duration = Duration::from_secs(7 * 86_400);
        Self {
            brokers: brokers.to_owned(),
            group: "trailproof".to_owned(),
            prefix: String::new(),
            instance: String::new(),
            replication: -1,
            downtime: WEEK,
            view: WEEK,
            traces_partitions: 0,
            files_partitions: 0,
            data,
            passed: BTreeMap::new(),
        }
    }

    /// Checks every option, also those that librdkafka alone knows. Needs no network.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<(), Vec<OptionError>> {
        let mut wrong = Vec::new();
        let mut bad = |name: &str, reason: &str| {
            wrong.push(OptionError { key: format!("kafka.{name}"), reason: reason.to_owned() });
        };
        if self.brokers.trim().is_empty() {
            bad("brokers", "it is empty; give host:port of one or more brokers");
        }
        for (name, text, least) in [
            ("group", &self.group, 1),
            ("prefix", &self.prefix, 0),
            ("instance", &self.instance, 0),
        ] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if text.len() < least || text.len() > 120 || !text.bytes().all(plain) {
                bad(name, "it has 1 to 120 letters, digits, dots, - and _");
            }
        }
        if self.replication == 0 || self.replication < -1 || self.replication > 32_767 {
            bad("replication", "it is 1 to 32767, or -1 for the cluster's default");
        }
        for (name, value) in &self.passed {
            if let Some((_, why)) = FIXED.iter().find(|(fixed, _)| fixed == name) {
                bad(name, &format!("it cannot be changed: {why}"));
                continue;
            }
            let mut one = ClientConfig::new();
            one.set(name, value);
            if let Err(error) = one.create_native_config() {
                bad(name, &plain_error(name, &error));
            }
        }
        if self.message_bytes_max() < TRACES_BYTES_LEAST as u64 {
            let reason = format!("it is less than the greatest trace: {TRACES_BYTES_LEAST}");
            wrong.push(OptionError { key: "kafka.message.max.bytes".to_owned(), reason });
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Bytes of the greatest record that the producers make, overhead and all.
    pub(super) fn message_bytes_max(&self) -> u64 {
        let bytes = self.producer().get("message.max.bytes").and_then(|text| text.parse().ok());
        bytes.unwrap_or(u64::MAX)
    }

    /// Every option by its key, secrets masked.
    #[must_use]
    pub fn describe(&self) -> BTreeMap<String, String> {
        let own = [
            ("brokers", self.brokers.clone()),
            ("group", self.group.clone()),
            ("prefix", self.prefix.clone()),
            ("instance", self.instance.clone()),
            ("replication", self.replication.to_string()),
            ("downtime", format!("{}s", self.downtime.as_secs())),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let masked = |(name, value): (&String, &String)| {
            let shown = if is_secret(name) { "***" } else { value };
            (name.clone(), shown.to_owned())
        };
        own.chain(self.passed.iter().map(masked))
            .map(|(name, value)| (format!("kafka.{name}"), value))
            .collect()
    }

    /// A topic's name on the cluster.
    #[must_use]
    pub fn topic(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    /// Layers a client's configuration.
    fn client(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Warning);
        config.set("client.id", "trailproof");
        // Little to wait for where a broker comes back.
        config.set("reconnect.backoff.max.ms", "1000");
        config.set("topic.metadata.refresh.interval.ms", "30000");
        // Closing a socket that was idle is no news.
        config.set("log.connection.close", "false");
        defaults.iter().for_each(|(name, value)| _ = config.set(*name, *value));
        for (name, value) in &self.passed {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config.set("allow.auto.create.topics", "false");
        fixed.iter().for_each(|(name, value)| _ = config.set(*name, *value));
        config
    }

    fn without_group(mut config: ClientConfig) -> ClientConfig {
        for name in GROUP_ONLY {
            config.remove(name);
        }
        config
    }

    /// The member of the group: it shares out partitions and fetches nothing.
    pub(super) fn member(&self, instance: &str) -> ClientConfig {
        let mut defaults = vec![
            ("queued.min.messages", "1"),
            ("queued.max.messages.kbytes", "64"),
            ("fetch.message.max.bytes", "1024"),
            // Only polled, so this bounds how long stopping a partition may take.
            ("max.poll.interval.ms", "300000"),
        ];
        // The other protocol leaves these to the broker.
        if self.passed.get("group.protocol").is_none_or(|protocol| protocol == "classic") {
            defaults.extend([
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("session.timeout.ms", "6000"),
                ("heartbeat.interval.ms", "1500"),
            ]);
        }
        let fixed = [("group.instance.id", instance)];
        let mut config = self.client(&defaults, &consumer(&self.group));
        fixed.iter().for_each(|(name, value)| _ = config.set(*name, *value));
        config
    }

    /// A reader of one partition, from positions that this process keeps itself.
    pub(super) fn reader(&self) -> ClientConfig {
        // Small queues keep the data in the cache; they need a short backoff. One of 1 ms wakes
        // the threads of the broker twice as often and brings nothing. Unpacked, an answer of
        // zstd batches was seen to be eight times as large as what was asked for.
        let defaults = [
            ("queued.min.messages", "100000"),
            ("queued.max.messages.kbytes", "512"),
            ("fetch.message.max.bytes", "131072"),
            ("fetch.max.bytes", "1048576"),
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.wait.max.ms", "100"),
            ("fetch.error.backoff.ms", "50"),
        ];
        Self::without_group(self.client(&defaults, &consumer(&self.group)))
    }

    /// The producer of ticks and of what comes in over HTTP.
    pub(super) fn producer(&self) -> ClientConfig {
        let defaults = [
            ("linger.ms", "2"),
            ("compression.type", "lz4"),
            ("message.max.bytes", "25165824"),
            ("message.timeout.ms", "30000"),
            ("queue.buffering.max.kbytes", "65536"),
            ("retry.backoff.ms", "10"),
        ];
        let fixed = [("enable.idempotence", "true"), ("acks", "all")];
        Self::without_group(self.client(&defaults, &fixed))
    }

    /// The producer of one owner's transactions.
    pub(super) fn transactional(&self, id: &str) -> ClientConfig {
        let defaults = [
            ("linger.ms", "0"),
            ("compression.type", "lz4"),
            ("message.max.bytes", "25165824"),
            ("queue.buffering.max.kbytes", "65536"),
            // The broker refuses the first produce after a commit for a moment.
            ("retry.backoff.ms", "2"),
            ("transaction.timeout.ms", "10000"),
            ("message.timeout.ms", "9000"),
        ];
        let fixed = [("enable.idempotence", "true"), ("acks", "all"), ("transactional.id", id)];
        let mut config = Self::without_group(self.client(&defaults, &fixed));
        // Together with a shorter transaction the messages must end sooner too.
        let passed = |name: &str| self.passed.get(name).and_then(|text| text.parse::<u64>().ok());
        if let Some(transaction_ms) = passed("transaction.timeout.ms")
            && passed("message.timeout.ms").is_none()
        {
            config.set("message.timeout.ms", (transaction_ms * 9 / 10).to_string());
        }
        config
    }

    /// How long the coordinator lets a transaction live.
    pub(super) fn transaction_timeout(&self) -> Duration {
        let config = self.transactional("");
        let text = config.get("transaction.timeout.ms");
        Duration::from_millis(text.and_then(|text| text.parse().ok()).unwrap_or(10_000))
    }

    /// The client that creates and describes topics.
    pub(super) fn admin(&self) -> ClientConfig {
        Self::without_group(self.client(&[], &[]))
    }
}

/// The topics' names on the cluster.
#[derive(Clone, Debug)]
pub(super) struct Names(Vec<String>);

impl Names {
    /// The names of these options.
    pub(super) fn new(options: &Options) -> Self {
        Self(Topic::ALL.into_iter().map(|topic| options.topic(topic)).collect())
    }

    /// A topic's name.
    pub(super) fn of(&self, topic: Topic) -> &str {
        self.0.get(topic as usize).map_or_else(|| topic.name(), String::as_str)
    }
}

/// What every consumer is fixed to.
fn consumer(group: &str) -> [(&str, &str); 7] {
    [
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("check.crcs", "true"),
    ]
}

/// librdkafka's complaint without the value, which may be a secret.
fn plain_error(name: &str, error: &rdkafka::error::KafkaError) -> String {
    match error {
        rdkafka::error::KafkaError::ClientConfig(_, text, _, _) if !is_secret(name) => {
            format!("{text}; see librdkafka's CONFIGURATION.md")
        }
        _ => "librdkafka does not take it; see its CONFIGURATION.md".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(pairs: &[(&str, &str)]) -> Options {
        let mut options = Options::new("localhost:9092", PathBuf::from("data"));
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        options.passed = pairs.iter().map(owned).collect();
        options
    }

    #[test]
    fn what_exactly_once_rests_on_cannot_be_changed() {
        for (name, _) in FIXED {
            let wrong = passing(&[(name, "1")]).check().unwrap_err();
            assert_eq!(wrong.len(), 1, "{name}");
            assert_eq!(wrong[0].key, format!("kafka.{name}"));
            assert!(wrong[0].reason.contains("cannot be changed"), "{}", wrong[0]);
        }
    }

    #[test]
    fn librdkafka_checks_the_others_and_secrets_stay_secret() {
        let good = passing(&[("security.protocol", "ssl"), ("sasl.password", "hush")]);
        assert_eq!(good.check(), Ok(()));
        assert!(!format!("{good:?}").contains("hush"), "{good:?}");
        assert_eq!(good.describe()["kafka.sasl.password"], "***");
        let wrong = passing(&[("linger.msec", "1"), ("session.timeout.ms", "long")]);
        let keys: Vec<String> = wrong.check().unwrap_err().into_iter().map(|one| one.key).collect();
        assert_eq!(keys, ["kafka.linger.msec", "kafka.session.timeout.ms"]);
    }

    #[test]
    fn a_producer_that_takes_no_greatest_trace_is_refused() {
        let wrong = passing(&[("message.max.bytes", "1049087")]).check().unwrap_err();
        assert_eq!(wrong.len(), 1);
        assert_eq!(
            wrong[0].to_string(),
            "kafka.message.max.bytes: it is less than the greatest trace: 1049088"
        );
        assert_eq!(passing(&[("message.max.bytes", "1049088")]).check(), Ok(()));
    }

    #[test]
    fn own_keys_have_bounds() {
        let mut options = passing(&[]);
        options.brokers = " ".to_owned();
        options.group = "a b".to_owned();
        options.replication = 0;
        assert_eq!(options.check().unwrap_err().len(), 3);
    }

    #[test]
    fn each_client_is_made_of_three_layers() {
        let options = passing(&[("linger.ms", "7"), ("session.timeout.ms", "9000")]);
        let transactional = options.transactional("g/record/0");
        assert_eq!(transactional.get("linger.ms"), Some("7"));
        assert_eq!(transactional.get("enable.idempotence"), Some("true"));
        assert_eq!(transactional.get("session.timeout.ms"), None);
        assert_eq!(options.member("i").get("session.timeout.ms"), Some("9000"));
        assert_eq!(options.reader().get("auto.offset.reset"), Some("error"));
        assert_eq!(options.transaction_timeout(), Duration::from_secs(10));
        let short = passing(&[("transaction.timeout.ms", "2000")]);
        assert_eq!(short.transaction_timeout(), Duration::from_secs(2));
        let short = short.transactional("g/record/0");
        assert_eq!(short.get("message.timeout.ms"), Some("1800"));
    }
}
