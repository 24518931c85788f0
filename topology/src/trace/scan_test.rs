//! The short way against the general parser, over traces that are mutated at random.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::super::members::Members;
use super::*;

/// splitmix64.
pub(in crate::trace) struct Random(pub(in crate::trace) u64);

impl Random {
    pub(in crate::trace) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }

    fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len())]
    }
}

const KEYS: [&str; 32] = [
    "code",
    "time",
    "user",
    "trace_id",
    "domain_id",
    "read_only",
    "source_ip",
    "event_type",
    "project_id",
    "trace_name",
    "trace_type",
    "api_version",
    "record_time",
    "resource_id",
    "service_type",
    "trace_rating",
    "trace_status",
    "tracker_name",
    "resource_name",
    "resource_type",
    "enterprise_project_id",
    "request",
    "response",
    "id",
    "name",
    "domain",
    "user_name",
    "access_key_id",
    "",
    "codes",
    "täg",
    "\\u0063ode",
];

const VALUES: [&str; 40] = [
    "\"ECS\"",
    "\"deleteServer\"",
    "\"\"",
    "\"a longer value, with more than eight bytes\"",
    "\"päd\"",
    "\"a\\\"b\"",
    "\"\\u00e9\"",
    "\"\\ud800\"",
    "\"\\u12g4\"",
    "\"\\x\"",
    "null",
    "true",
    "false",
    "0",
    "7",
    "200",
    "1760000000000",
    "007",
    "-1",
    "-0",
    "1.5",
    "1e3",
    "1E+3",
    "1e",
    "1.",
    "999999999999999999",
    "9999999999999999999999",
    "{}",
    "[]",
    "[1,2]",
    "[1,]",
    "{\"a\":1,}",
    "{\"id\":\"u\",\"name\":\"n\",\"domain\":{\"id\":\"d\",\"name\":\"x\"}}",
    "{\"id\":null,\"user_name\":\"n\",\"access_key_id\":\"k\",\"domain\":null}",
    "{\"id\":\"u\",\"id\":\"u\"}",
    "{\"domain\":[\"d\"]}",
    "\"{\\\"name\\\":\\\"n\\\"}\"",
    "{\"a\":[{\"b\":[[]]},\"c\\\\\",null]}",
    "nul",
    "[[[[[[[[{\"x\":[true,false]}]]]]]]]]",
];

const SPACES: [&str; 8] = ["", "", "", "", " ", "\n", "\t \r", "\u{b}"];

/// A value that mostly has a type that the member may have.
fn value(random: &mut Random, key: &str) -> &'static str {
    match (random.below(8), key) {
        (0, _) | (_, "request" | "response") => random.one_of(&VALUES),
        (_, "time" | "record_time") => random.one_of(&VALUES[14..17]),
        (_, "code" | "read_only") => random.one_of(&VALUES[10..17]),
        (_, "user") => random.one_of(&VALUES[32..34]),
        _ => random.one_of(&VALUES[..6]),
    }
}

pub(in crate::trace) fn object(random: &mut Random) -> String {
    let mut text = String::new();
    text.push_str(random.one_of(&SPACES[..7]));
    text.push('{');
    let (first, step) = (random.below(KEYS.len()), 2 * random.below(KEYS.len()) + 1);
    for at in 0..random.below(12) {
        if at > 0 {
            text.push(',');
        }
        // Now and then a key comes again.
        let repeated = random.below(60) == 0;
        let key = KEYS[(first + if repeated { 0 } else { at } * step) % KEYS.len()];
        let (space, value) = (random.one_of(&SPACES[..7]), value(random, key));
        text.push_str(&format!("{space}\"{key}\"{space}:{space}{value}{space}"));
    }
    text.push('}');
    text.push_str(random.one_of(&SPACES));
    text
}

pub(in crate::trace) fn mutate(random: &mut Random, text: &mut Vec<u8>) {
    const BYTES: &[u8] = b"{}[]\",:\\ \n\x01\x1f0-.eEtn\x7f\xc3\xa9u";
    let at = random.below(text.len());
    let byte = BYTES[random.below(BYTES.len())];
    match random.below(4) {
        0 => text[at] = byte,
        1 => text.insert(at, byte),
        2 => drop(text.remove(at)),
        _ => text.truncate(at + 1),
    }
}

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
