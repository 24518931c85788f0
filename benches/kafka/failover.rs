//! Fail-over: from kill -9 of an instance until its partitions move on another one, and until it
//! serves again itself.

use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::client::Client;
use crate::feed::Feed;
use crate::server::{PARTITIONS, Server, Setup};
use crate::steady::probe;
use crate::traces::{Figures, account};

/// Whether any of the two sees the trace.
fn seen(server: &Server, id: &str) -> bool {
    let path = format!("/api/v1/traces?account={}&trace_id={id}&partial=true", account(2));
    Client::try_new(&server.address)
        .and_then(|mut client| client.get(&path).ok())
        .is_some_and(|(status, body)| status == 200 && String::from_utf8_lossy(&body).contains(id))
}

/// Sends one probe into each partition and waits until one of the servers shows each.
fn all_move(feed: &mut Feed, servers: &[&Server], next: &mut u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let ids: Vec<String> = (0..PARTITIONS)
        .map(|_| {
            let (id, text) = probe(*next);
            *next += 1;
            feed.send_text(&text);
            id
        })
        .collect();
    feed.flush();
    for id in ids {
        while !servers.iter().any(|server| seen(server, &id)) {
            assert!(Instant::now() < deadline, "{id} is shown by nobody");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(crate) fn run(figures: &mut Figures) {
    let broker = Broker::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::new(folder.path(), &broker.address, 1, "10s");
    let mut first = Server::start(&setup, "first");
    first.wait_ready();
    let mut second = Server::start(&setup, "second");
    second.wait_ready();
    let mut feed = Feed::new(&broker.address, "none", 1, PARTITIONS);
    let mut next = 1 << 20;
    (0..200_000).for_each(|_| feed.send());
    all_move(&mut feed, &[&first, &second], &mut next);

    first.kill();
    let begun = Instant::now();
    all_move(&mut feed, &[&second], &mut next);
    let moved = begun.elapsed().as_secs_f64();
    figures.add("failover_other_s", moved, "s", (Some(10.0), None), "lower");

    let begun = Instant::now();
    let mut again = Server::start(&setup, "first");
    again.wait_ready();
    let assigned = |server: &Server| server.metric("trailproof_assigned_partitions");
    while assigned(&again).unwrap_or_default() < 1.0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "it gets no partition back");
        std::thread::sleep(Duration::from_millis(10));
    }
    all_move(&mut feed, &[&again, &second], &mut next);
    let serves = begun.elapsed().as_secs_f64();
    figures.add("failover_itself_s", serves, "s", (Some(10.0), None), "lower");
}
