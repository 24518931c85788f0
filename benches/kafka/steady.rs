//! A steady stream: how soon a trace can be queried, and how soon its notification is out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::broker::Broker;
use crate::client::Client;
use crate::feed::Feed;
use crate::server::{PARTITIONS, Server, Setup};
use crate::traces::{Figures, account};

const RATE: u64 = 20_000;
const PROBES: u64 = 300;
const ACCOUNTS: u64 = 16;

/// A trace of its own kind, which the rule of its account names.
pub(crate) fn probe(number: u64) -> (String, Vec<u8>) {
    let id = format!("00000000-0000-4000-8000-{number:012x}");
    let owner = account(2);
    let text = format!(
        "{{\"trace_id\":\"{id}\",\"time\":1760000000000,\"service_type\":\"ECS\",\
         \"resource_type\":\"probe\",\"trace_name\":\"probe\",\"trace_rating\":\"normal\",\
         \"trace_type\":\"ApiCall\",\"domain_id\":\"{owner}\"}}"
    );
    (id, text.into_bytes())
}

/// Waits until a trace can be queried.
pub(crate) fn wait_queryable(client: &mut Client, id: &str, deadline: Instant) {
    let path = format!("/v3/{}/traces?trace_id={id}", account(2));
    loop {
        if let Ok((200, body)) = client.get(&path)
            && String::from_utf8_lossy(&body).contains("\"count\":1")
        {
            return;
        }
        assert!(Instant::now() < deadline, "{id} cannot be queried");
    }
}

fn notifications(brokers: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench-notifications")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("notifications", 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("an assignment");
    consumer
}

/// Arrival of each probe's notification, until all have come.
fn arrivals(brokers: &str, wanted: u64) -> BTreeMap<String, Instant> {
    let consumer = notifications(brokers);
    let deadline = Instant::now() + Duration::from_secs(240);
    let mut seen = BTreeMap::new();
    while (seen.len() as u64) < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted} notifications came", seen.len());
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a record");
        let trace: serde_json::Value =
            serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
        let id = trace["trace_id"].as_str().expect("an id").to_owned();
        seen.entry(id).or_insert_with(Instant::now);
    }
    seen
}

fn add(figures: &mut Figures, name: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    figures.add(&format!("{name}_p50_ms"), at(0.5), "ms", (None, None), "lower");
    figures.add(&format!("{name}_p99_ms"), at(0.99), "ms", (None, Some(1000.0)), "lower");
}

pub(crate) fn run(figures: &mut Figures) {
    let broker = Broker::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::new(folder.path(), &broker.address, ACCOUNTS, "10s");
    let mut server = Server::start(&setup, "instance");
    server.wait_ready();
    let stop = AtomicBool::new(false);
    let (queryable, sent, arrived) = std::thread::scope(|scope| {
        scope.spawn(|| stream(&broker.address, &stop));
        let arrived = scope.spawn(|| arrivals(&broker.address, PROBES));
        let (queryable, sent) = probes(&broker.address, &server);
        let arrived = arrived.join().expect("the notifications come");
        stop.store(true, Ordering::Relaxed);
        (queryable, sent, arrived)
    });
    let notified = sent.iter().map(|(id, at)| (arrived[id] - *at).as_secs_f64() * 1000.0).collect();
    add(figures, "kafka_queryable", queryable);
    add(figures, "kafka_notified", notified);
    figures.add("kafka_steady_rss_mib", server.peak_rss_mib(), "MiB", (None, Some(512.0)), "lower");
}

/// Sends at the rate wanted, in steps of 5 ms.
fn stream(brokers: &str, stop: &AtomicBool) {
    let mut feed = Feed::new(brokers, "none", ACCOUNTS, PARTITIONS);
    let begun = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = begun.elapsed().as_millis() as u64 * RATE / 1_000;
        while sent < due {
            feed.send();
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    feed.flush();
}

/// Sends probes one after another: milliseconds until each could be queried, and when it was sent.
fn probes(brokers: &str, server: &Server) -> (Vec<f64>, Vec<(String, Instant)>) {
    let mut feed = Feed::new(brokers, "none", ACCOUNTS, PARTITIONS);
    let mut client = Client::new(&server.address);
    let (mut times, mut sent) = (Vec::new(), Vec::new());
    for number in 0..PROBES {
        let (id, text) = probe(number);
        let begun = Instant::now();
        feed.send_text(&text);
        feed.flush();
        wait_queryable(&mut client, &id, begun + Duration::from_secs(30));
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        sent.push((id, begun));
    }
    (times, sent)
}
