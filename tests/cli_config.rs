//! Configuration: layers, and the exact texts of problems.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use trailproof::config::{
    Config, DEFAULTS, DEV_ACCOUNT, DEV_PROJECT, Layers, LogSettings, Objects,
};
use trailproof::object::s3::Encryption;
use trailproof_topology::catalog::{Compression, TrackerKind};

fn set(settings: &[&str]) -> Layers {
    Layers { set: settings.iter().map(|text| (*text).to_owned()).collect(), ..Layers::default() }
}

fn file(text: &str) -> (tempfile::NamedTempFile, Layers) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let layers = Layers { file: Some(file.path().to_owned()), ..Layers::default() };
    (file, layers)
}

/// The problems of these settings, one a line.
fn check(settings: &[&str], expect: &[&str]) {
    let problems = Config::load(&set(settings)).unwrap_err();
    let texts: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expect, "{settings:?}");
}

#[test]
fn the_defaults_are_a_valid_configuration() {
    let config = Config::load(&Layers::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8473");
    assert_eq!(config.catalog.cycle_ms, 300_000);
    assert_eq!(config.catalog.digest_interval_ms, 3_600_000);
    assert_eq!(config.objects, Objects::Folder("./trailproof-data/objects".into()));
    assert_eq!(config.catalog.accounts[0].id, DEV_ACCOUNT);
    let (_file, layers) = file(DEFAULTS);
    assert_eq!(Config::load(&layers).unwrap().catalog, config.catalog);
}

#[test]
fn dev_brings_one_account_with_short_cycles() {
    let config = Config::load(&Layers { dev: true, ..Layers::default() }).unwrap();
    assert_eq!((config.catalog.cycle_ms, config.catalog.digest_interval_ms), (10_000, 60_000));
    let [account] = &config.catalog.accounts[..] else { panic!("one account") };
    assert_eq!((account.id.as_str(), account.name.as_str()), (DEV_ACCOUNT, "dev"));
    assert_eq!(account.projects[0].id, DEV_PROJECT);
    let [tracker] = &account.trackers[..] else { panic!("one tracker") };
    assert_eq!((tracker.name.as_str(), tracker.kind), ("system", TrackerKind::System));
    assert_eq!(tracker.compression, Compression::Zstd);
    assert!(tracker.verify && tracker.transfers() && tracker.enabled);
    assert_eq!(tracker.bucket, format!("cts-{DEV_ACCOUNT}"));
}

#[test]
fn later_layers_win() {
    let (_file, mut layers) = file("cycle = \"2m\"\nregion = \"file\"\n[http]\nqueries_max = 7\n");
    layers.dev = true;
    layers.env = vec![
        ("TRAILPROOF_CYCLE".to_owned(), "4m".to_owned()),
        ("TRAILPROOF_HTTP__REQUEST_TIMEOUT".to_owned(), "9s".to_owned()),
        ("TRAILPROOF_DIGEST_INTERVAL".to_owned(), "20m".to_owned()),
        ("PATH".to_owned(), "/bin".to_owned()),
    ];
    layers.set = vec!["cycle=5s".to_owned(), "listen=127.0.0.1:1".to_owned()];
    layers.flags = vec![("listen", "[::1]:2".to_owned())];
    let config = Config::load(&layers).unwrap();
    assert_eq!(config.catalog.cycle_ms, 5_000);
    assert_eq!(config.catalog.digest_interval_ms, 1_200_000);
    assert_eq!(config.catalog.region, "file");
    assert_eq!(config.listen.to_string(), "[::1]:2");
    assert_eq!(config.http.queries_max, 7);
    assert_eq!(config.http.request_timeout, Duration::from_secs(9));
    let origin = |key: &str| {
        let found = config.effective.iter().find(|(own, ..)| own == key).unwrap();
        found.2.clone()
    };
    assert_eq!(origin("cycle"), "--set");
    assert_eq!(origin("digest_interval"), "TRAILPROOF_DIGEST_INTERVAL");
    assert_eq!(origin("view_days"), "the defaults");
}

#[test]
fn every_option_of_librdkafka_passes_through_all_layers() {
    let (_file, mut layers) = file(
        "log = \"kafka\"\n[kafka]\nbrokers = \"a:9092\"\nsession.timeout.ms = 9000\n\
         sasl.username = \"file\"\n\"group.protocol\" = \"classic\"\n",
    );
    layers.env = vec![
        ("TRAILPROOF_KAFKA__SECURITY__PROTOCOL".to_owned(), "sasl_ssl".to_owned()),
        ("TRAILPROOF_KAFKA__SASL__PASSWORD".to_owned(), "hush".to_owned()),
        ("TRAILPROOF_KAFKA__ACCEPT_GAP".to_owned(), "traces/3@1000..2000".to_owned()),
    ];
    layers.set = vec!["kafka.sasl.username=me".to_owned(), "kafka.group=auditors".to_owned()];
    let config = Config::load(&layers).unwrap();
    let LogSettings::Kafka(options) = &config.log else { panic!("a cluster") };
    assert_eq!((options.brokers.as_str(), options.group.as_str()), ("a:9092", "auditors"));
    assert_eq!((options.traces_partitions, options.files_partitions), (0, 0));
    assert_eq!(options.view, Duration::from_secs(7 * 86_400));
    let passed: Vec<(&str, &str)> =
        options.passed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expect = [
        ("group.protocol", "classic"),
        ("sasl.password", "hush"),
        ("sasl.username", "me"),
        ("security.protocol", "sasl_ssl"),
        ("session.timeout.ms", "9000"),
    ];
    assert_eq!(passed, expect);
    assert_eq!(config.accept_gaps[0].to_string(), "traces/3@1000..2000");
    let shown = |key: &str| {
        let found = config.effective.iter().find(|(own, ..)| own == key).unwrap();
        (found.1.as_str(), found.2.as_str())
    };
    assert_eq!(shown("kafka.sasl.password"), ("***", "TRAILPROOF_KAFKA__SASL__PASSWORD"));
    assert_eq!(shown("kafka.sasl.username"), ("me", "--set"));
    assert_eq!(shown("kafka.group"), ("auditors", "--set"));
    assert_eq!(shown("kafka.downtime"), ("7d", "the defaults"));
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn a_cluster_that_cannot_be_is_refused() {
    check(
        &["log=kafka", "kafka.acks=1", "kafka.linger=5", "kafka.accept_gap=traces@1..2"],
        &[
            "kafka.accept_gap: \"traces@1..2\" is no gap: write traces/3@1000..2000, as the error \
             names it (from --set)",
            "kafka.brokers: it is empty; give host:port of one or more brokers (from the defaults)",
            "kafka.acks: it cannot be changed: every append waits for all in-sync replicas; set \
             min.insync.replicas on the topics (from --set)",
            "kafka.linger: No such configuration property: \"linger\"; see librdkafka's \
             CONFIGURATION.md (from --set)",
        ],
    );
    check(
        &["log=kafka", "kafka.brokers=a:1", "kafka.replication=many", "kafka.downtime=5m"],
        &[
            "kafka.downtime: is not from 1h to 365d (from --set)",
            "kafka.replication: it is 1 to 32767, or -1 for the cluster's default (from --set)",
        ],
    );
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    check(
        &["listen=0.0.0.0:8473"],
        &["listen: 0.0.0.0:8473 is not a loopback address, and authentication does not exist \
           yet: whoever reached it could read and write every trace; listen on 127.0.0.1 or [::1] \
           and reach it through ssh -L or an authenticating proxy (from --set)"],
    );
    check(
        &["listen=localhost"],
        &["listen: \"localhost\" is no address and port, such as 127.0.0.1:8473 (from --set)"],
    );
}

#[test]
fn every_problem_is_listed_at_once() {
    check(
        &["cycel=5s", "http.querys_max=3", "cycle=5 parsecs", "partitions=65", "log=disk"],
        &[
            "cycel: no such key, did you mean cycle? (from --set)",
            "http.querys_max: no such key, did you mean queries_max? (from --set)",
            "partitions: \"65\" is no whole number from 0 to 64 (from --set)",
            "log: \"disk\" is no log: there are \"embedded\" and \"kafka\" (from --set)",
            "cycle: \"5 parsecs\" is no duration: write a number and ms, s, m, h or d, as in 5m \
             (from --set)",
        ],
    );
    check(
        &["cycle=7s", "digest_interval=1m"],
        &["digest_interval: 1m is not a multiple of cycle, which is 7s (from --set)"],
    );
    check(
        &["cycle=1500ms", "digest_interval=3s"],
        &["cycle: is not in whole seconds, which the names of files have (from --set)"],
    );
    check(
        &["objects.url=ftp://me:secret@host/bucket"],
        &["objects.url: \"ftp://***@host/bucket\" is no place for objects: write file:///folder \
           or s3://bucket/prefix (from --set)"],
    );
    check(
        &["objects.url=s3://me:secret@host/bucket", "objects.endpoint=http://me:secret@host"],
        &[
            "objects.url: \"s3://***@host/bucket\" names no bucket: write s3://bucket/prefix; \
             keys come from the environment (from --set)",
            "objects.endpoint: \"http://***@host\" is no endpoint: write https://host:port; keys \
             come from the environment (from --set)",
        ],
    );
    check(
        &[
            "objects.url=s3://audit/a//b",
            "objects.path_style=yes",
            "objects.sse=AES256",
            "objects.sse_kms_key=k",
            "objects.timeout=1ms",
        ],
        &[
            "objects.url: \"a//b\" is no prefix: write a/b, without // (from --set)",
            "objects.path_style: \"yes\" is none of auto, true and false (from --set)",
            "objects.sse_kms_key: names a key, which objects.sse = \"AES256\" has no use for (from \
             --set)",
            "objects.timeout: is not from 1s to 1h (from --set)",
        ],
    );
    check(
        &["dedup_window=0"],
        &["dedup_window: \"0\" is no whole number from 1 to 16777216 (from --set)"],
    );
    check(&["cycle"], &["cycle: has no value: write --set key=value (from --set)"]);
}

#[test]
fn a_bucket_is_read_with_all_its_settings() {
    let set = ["url=s3://audit/in/here/", "endpoint=https://s3.local:9000/", "sse_kms_key=alias/k"];
    let set = set.map(|setting| format!("objects.{setting}")).to_vec();
    let env = vec![("AWS_SECRET_ACCESS_KEY".to_owned(), "very secret".to_owned())];
    let config = Config::load(&Layers { set, env, ..Layers::default() }).unwrap();
    let Objects::S3(settings) = &config.objects else { panic!("{:?}", config.objects) };
    assert_eq!(config.objects.to_string(), "s3://audit/in/here");
    assert_eq!(settings.endpoint.as_deref(), Some("https://s3.local:9000"));
    assert!(settings.path_style == Some(true) && settings.region.is_none());
    assert_eq!(settings.encryption, Some(Encryption::Kms(Some("alias/k".to_owned()))));
    assert_eq!(settings.timeout, Duration::from_secs(30));
    assert!(!format!("{config:?}").contains("very secret"));

    let set = vec!["objects.url=s3://audit".to_owned()];
    let config = Config::load(&Layers { set, ..Layers::default() }).unwrap();
    let Objects::S3(settings) = &config.objects else { panic!("{:?}", config.objects) };
    assert!(settings.path_style.is_none() && settings.prefix.is_empty());
    assert_eq!(settings.encryption, None);
}

#[test]
fn unknown_environment_variables_are_named_but_not_refused() {
    let env = vec![("TRAILPROOF_CYCLES".to_owned(), "5s".to_owned())];
    let config = Config::load(&Layers { env, ..Layers::default() }).unwrap();
    assert_eq!(
        config.warnings,
        ["TRAILPROOF_CYCLES is no setting and is ignored, did you mean cycle?"]
    );
}

const ACCOUNTS: &str = r#"
[[accounts]]
id = "b"
projects = [{ id = "p2", name = "two" }]
[[accounts.trackers]]
name = "system"
compression = "gzip"
file_prefix = "acme"
[[accounts.trackers]]
name = "objects"
data_bucket = "photos"
data_events = ["READ"]
transfer = false
[[accounts.rules]]
name = "deletions"
operations = [{ service_type = "ECS", resource_type = "ecs", trace_names = ["deleteServer"] }]

[[accounts]]
id = "a"
name = "acme"
projects = [{ id = "p1", name = "one" }]
"#;

#[test]
fn accounts_come_from_the_file_with_stable_ids() {
    let (_file, layers) = file(ACCOUNTS);
    let accounts = Config::load(&layers).unwrap().catalog.accounts;
    assert_eq!(accounts.iter().map(|account| account.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let [objects, system] = &accounts[1].trackers[..] else { panic!("two trackers") };
    assert_eq!((objects.kind, objects.transfers()), (TrackerKind::Data, false));
    assert_eq!((system.compression, system.bucket.as_str()), (Compression::Gzip, "cts-b"));
    assert!(system.key().is_some() && accounts[1].rules[0].enabled);
    let again = Config::load(&layers).unwrap().catalog.accounts;
    assert_eq!(again, accounts);
    assert_ne!(accounts[0].trackers[0].id, system.id);
}

#[test]
fn problems_of_accounts_name_their_place() {
    let (file, layers) = file(
        "[[accounts]]\nid = \"a\"\nnmae = \"x\"\nprojects = [{ id = \"p\", name = \"p\" }]\n\
         [[accounts.trackers]]\nname = \"system\"\nverfy = true\n",
    );
    let path = file.path().display();
    let problems = Config::load(&layers).unwrap_err();
    assert_eq!(
        problems.to_string(),
        format!(
            "the configuration has 2 problems\n  \
             accounts[0].nmae: no such key, did you mean name? (from {path})\n  \
             accounts[0].trackers[0].verfy: no such key, did you mean verify? (from {path})"
        )
    );
}

#[test]
fn accounts_that_contradict_themselves_are_refused() {
    let (file, layers) = file(
        "[[accounts]]\nid = \"a\"\nprojects = []\n[[accounts.trackers]]\nname = \"photos\"\n\
         bucket = \"Nope\"\n[[accounts]]\nid = \"a\"\nprojects = [{ id = \"p\", name = \"p\" }]\n",
    );
    let path = file.path().display();
    let texts: Vec<String> =
        Config::load(&layers).unwrap_err().0.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            format!("accounts[0].projects: an account needs at least one project (from {path})"),
            format!(
                "accounts[0].trackers[0].data_bucket: is missing: name the bucket to record \
                 (from {path})"
            ),
            format!(
                "accounts[0].trackers[0].data_events: is empty: write [\"READ\", \"WRITE\"] \
                 (from {path})"
            ),
            format!(
                "accounts[0].trackers[0].bucket: \"Nope\" is not 3 to 63 lower-case letters, \
                 digits, - and ., ends a letter or digit (from {path})"
            ),
            format!("accounts: two accounts have the id a (from {path})"),
        ]
    );
}

#[test]
fn a_file_that_is_no_toml_is_named() {
    let (file, layers) = file("cycle = \n");
    let text = Config::load(&layers).unwrap_err().to_string();
    assert!(text.contains(&file.path().display().to_string()), "{text}");
}
