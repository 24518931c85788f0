//! A broker that wants TLS and a password.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use trailproof::clock;
use trailproof::log::Error;
use trailproof::log::broker::Broker;
use trailproof::log::kafka::{KafkaLog, Options};
use trailproof::metrics::Metrics;
use trailproof_topology::effect::Topic;

use crate::members::{Told3, held, join};
use crate::support::{Server, collect, connect, free_ports, options, until};
use crate::transactions::{OWNER, await_heard, say};

const PASSWORD: &str = "open-sesame";

/// Writes a key with a certificate of its own to `server.pem`, and the certificate to `ca.pem`.
fn certify(folder: &Path) {
    let done = Command::new("openssl")
        .current_dir(folder)
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem"])
        .args(["-out", "ca.pem", "-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let parts = ["key.pem", "ca.pem"].map(|name| std::fs::read_to_string(folder.join(name)));
    let parts: Vec<String> = parts.into_iter().map(Result::unwrap).collect();
    std::fs::write(folder.join("server.pem"), parts.concat()).unwrap();
}

/// A broker with a second listener, and the address of that.
fn secured() -> (Server, String) {
    let folder = TempDir::new().unwrap();
    certify(folder.path());
    let [plain, controller, sasl] = free_ports();
    let at = |port: u16| format!("127.0.0.1:{port}");
    let both = format!("PLAINTEXT://{},SASL://{}", at(plain), at(sasl));
    let properties = [
        format!("listeners={both},CONTROLLER://{}", at(controller)),
        format!("advertised.listeners={both},CONTROLLER://{}", at(controller)),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_SSL,CONTROLLER:PLAINTEXT"
            .to_owned(),
        "sasl.enabled.mechanisms=SCRAM-SHA-512".to_owned(),
        "listener.name.sasl.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;"
            .to_owned(),
        "listener.name.sasl.ssl.keystore.type=PEM".to_owned(),
        format!(
            "listener.name.sasl.ssl.keystore.location={}",
            folder.path().join("server.pem").display()
        ),
    ];
    let user = format!("SCRAM-SHA-512=[name=audit,password={PASSWORD}]");
    (Server::start_with(folder, [plain, controller], &properties, &user), at(sasl))
}

/// Options that reach the second listener with a password.
fn with_password(server: &Server, address: &str, password: &str) -> Options {
    let mut options = options(server);
    options.brokers = address.to_owned();
    let ca = server.path("ca.pem").display().to_string();
    let passed = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "audit"),
        ("sasl.password", password),
        ("ssl.ca.location", &ca),
    ];
    options.passed = passed.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    options
}

/// Why it cannot connect.
fn refusal(options: &Options) -> String {
    let metrics = Arc::new(Metrics::new().unwrap());
    match KafkaLog::connect(options.clone(), clock::system(), metrics) {
        Err(Error::Unavailable(why)) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it connects"),
    }
}

#[test]
fn every_client_brings_its_password_over_tls() {
    let (server, address) = secured();
    let options = with_password(&server, &address, PASSWORD);
    let log = connect(&options);
    let told = Told3::default();
    let member = join(&log, "a", &told);
    until("all partitions", || (held(&told, "a").len() == 3).then_some(()));
    assert_eq!(member.problem(), None);
    log.append(&[(0, vec![b"one", b"two"])]).unwrap();
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    assert_eq!(collect(&mut *reader, 0, 2).len(), 2);
    let mut publisher = log.publisher(OWNER).unwrap();
    say(&log, &mut *publisher, &["one"]);
    assert_eq!(await_heard(&log, 1), ["one"]);

    let why = refusal(&with_password(&server, &address, "guessed"));
    assert!(why.contains("Authentication failed"), "{why}");
    assert!(!why.contains("guessed"), "{why}");
    let mut stranger = with_password(&server, &address, PASSWORD);
    stranger.passed.remove("ssl.ca.location");
    let why = refusal(&stranger);
    assert!(why.contains("certificate"), "{why}");
}
