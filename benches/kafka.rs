//! Whole processes on a real Kafka: what a drain costs beside a consumer that does nothing else.
//!
//! `TRAILPROOF_BENCH_TRACES` sets another number of traces for the drains. Broker, producer and
//! clients run on the same cores. The broker's jars come from `.ci/kafka`.

#[path = "kafka/broker.rs"]
mod broker;
#[path = "process/client.rs"]
mod client;
#[path = "kafka/drain.rs"]
mod drain;
#[path = "kafka/failover.rs"]
mod failover;
#[path = "kafka/feed.rs"]
mod feed;
#[path = "kafka/server.rs"]
mod server;
#[path = "kafka/steady.rs"]
mod steady;
#[path = "common/traces.rs"]
mod traces;

use drain::Drain;
use traces::Figures;

fn main() {
    // The consumer that is compared with is a process of its own: this one, called again.
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, brokers, records] = arguments.as_slice()
        && command == "plain-consumer"
    {
        drain::plain_consumer(brokers, records.parse().expect("a number of records"));
        return;
    }
    let wanted = std::env::var("TRAILPROOF_BENCH_TRACES").ok();
    let records: u64 = wanted.and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    let mut figures = Figures::default();
    let drains = [
        Drain { name: "none", compression: "none", accounts: 1, goal: 4.5, must: 6.0, records },
        Drain { name: "zstd", compression: "zstd", accounts: 1, goal: 4.5, must: 6.0, records },
        Drain { name: "1000", compression: "none", accounts: 1_000, goal: 6.0, must: 9.0, records },
    ];
    for drain in drains {
        drain.run(&mut figures);
    }
    steady::run(&mut figures);
    failover::run(&mut figures);
    figures.write();
}
