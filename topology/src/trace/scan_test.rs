//! The short way against the general parser, over traces that are mutated at random.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::super::members::Members;
use super::super::tests::{Random, mutate, object};
use super::*;

/// What the general parser makes of a text, where the short way makes anything of it: that passes
/// the checks before that parser.
fn check(text: &str) -> bool {
    let mut short = Slots::default();
    if read(text, &mut short, None).is_none() {
        return false;
    }
    let general: Members<'_> = serde_json::from_str(text)
        .unwrap_or_else(|error| panic!("only the short way takes {text}: {error}"));
    assert_eq!(short, Slots::from(general), "{text}");
    assert_eq!(super::super::check_object(text), Ok(()), "{text}");
    true
}

#[test]
fn the_short_way_takes_nothing_that_serde_would_not_and_reads_it_alike() {
    let mut random = Random(1);
    let mut taken = 0;
    for _ in 0..300_000 {
        let mut text = object(&mut random).into_bytes();
        for _ in 0..random.below(3) {
            mutate(&mut random, &mut text);
        }
        if let Ok(text) = std::str::from_utf8(&text) {
            taken += u32::from(check(text));
        }
    }
    assert!(taken > 30_000, "the short way took {taken} of them");
}

#[test]
fn the_short_way_takes_traces_as_producers_write_them() {
    let trace = r#"{"trace_id":"a-1","code":"200","trace_name":"deleteServer","time":1760000000000,
        "record_time":1760000000001,"resource_type":"ecs","resource_name":"web","resource_id":"7",
        "source_ip":"10.0.0.1","trace_rating":"normal","trace_type":"ConsoleAction",
        "service_type":"ECS","domain_id":"d","project_id":"p","read_only":false,
        "request":"{\"server\":{\"name\":\"web\\n\"}}","response":{"id":[1,2.5e3,null]},
        "user":{"id":"u","name":"mallory","domain":{"id":"d","name":"acme"},"type":null}}"#;
    assert!(check(trace));
    for depth in [1, 100, 101, 127, 128, 1000] {
        let nested = format!("{{\"request\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(&nested), depth <= 101, "{depth} brackets");
        let within = format!("{{\"user\":{{\"domain\":{nested}}}}}");
        assert_eq!(check(&within), depth <= 101, "{depth} brackets in a domain");
    }
    assert!(!check(&format!("\u{feff}{trace}")));
}
