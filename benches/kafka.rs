//! Whole processes on a real Kafka: what a drain costs beside a consumer that does nothing else.
//!
//! `TRAILPROOF_BENCH_TRACES` sets another number of traces for the drains, `TRAILPROOF_BENCH_PARTS`
//! runs some parts alone: `none,zstd,1000,steady,failover`. Broker, producer and clients run on the
//! same cores. The broker's jars come from `.ci/kafka`.

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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use drain::Drain;
use traces::Figures;

fn main() -> ExitCode {
    // The consumer that is compared with is a process of its own: this one, called again.
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, brokers, records] = arguments.as_slice()
        && command == "plain-consumer"
    {
        drain::plain_consumer(brokers, records.parse().expect("a number of records"));
        return ExitCode::SUCCESS;
    }
    if let [_, command, brokers, compression, accounts, records] = arguments.as_slice()
        && command == "feed"
    {
        let accounts = accounts.parse().expect("a number");
        let mut feed = feed::Feed::new(brokers, compression, accounts, server::PARTITIONS);
        (0..records.parse().expect("a number")).for_each(|_: u64| feed.send());
        feed.flush();
        return ExitCode::SUCCESS;
    }
    let wanted = std::env::var("TRAILPROOF_BENCH_TRACES").ok();
    let records: u64 = wanted.and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    let drain = |name, compression, accounts, (goal, must)| {
        let drain = Drain { name, compression, accounts, goal, must, records };
        (name, Box::new(move |figures: &mut Figures| drain.run(figures)) as Part)
    };
    let parts: [(&str, Part); 5] = [
        drain("none", "none", 1, (4.5, 6.0)),
        drain("zstd", "zstd", 1, (4.5, 6.0)),
        drain("1000", "none", 1_000, (6.0, 9.0)),
        ("steady", Box::new(steady::run)),
        ("failover", Box::new(failover::run)),
    ];
    run(parts)
}

/// A part of the measurement.
type Part = Box<dyn Fn(&mut Figures)>;

/// Runs the parts that are wanted. Each one's figures are kept, whatever becomes of the others.
fn run(parts: impl IntoIterator<Item = (&'static str, Part)>) -> ExitCode {
    let only = std::env::var("TRAILPROOF_BENCH_PARTS").ok();
    let mut outcome = ExitCode::SUCCESS;
    for (name, part) in parts {
        if only.as_ref().is_some_and(|only| !only.split(',').any(|own| own == name)) {
            continue;
        }
        let begun = Instant::now();
        let mut figures = Figures::default();
        if catch_unwind(AssertUnwindSafe(|| part(&mut figures))).is_err() {
            println!("{name}: it failed; its other figures are missing");
            outcome = ExitCode::FAILURE;
        }
        figures.write();
        println!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    outcome
}
