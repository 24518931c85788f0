//! Traces made at random, and the reader against the parser over them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;

/// splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
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

pub(super) fn object(random: &mut Random) -> String {
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

pub(super) fn mutate(random: &mut Random, text: &mut Vec<u8>) {
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

#[test]
fn a_reader_parses_as_if_it_had_learnt_nothing() {
    let mut random = Random(3);
    let mut reader = Reader::default();
    let huge = vec![b' '; TRACE_BYTES_MAX + 1];
    let required = r#""time":1,"service_type":"ECS","resource_type":"x","trace_name":"y","#
        .to_owned()
        + r#""trace_type":"z","trace_rating":"normal","domain_id":"d""#;
    let (mut traces, mut rejects) = (0, 0);
    for round in 0..100_000 {
        let mut record = object(&mut random);
        // Most objects lack what a trace must have.
        if random.below(2) == 0 {
            let opening = if record.contains(':') {
                format!("{{{required},")
            } else {
                format!("{{{required}")
            };
            record = record.replacen('{', &opening, 1);
        }
        let mut record = record.into_bytes();
        for _ in 0..random.below(2) {
            mutate(&mut random, &mut record);
        }
        let expected = parse(&record);
        // Once to learn it, and once to know it.
        for _ in 0..2 {
            let text = String::from_utf8_lossy(&record);
            assert_eq!(reader.parse(&record), expected, "round {round}: {text}");
        }
        if expected.is_ok() {
            traces += 1
        } else {
            rejects += 1
        }
        if round % 10_000 == 0 {
            assert_eq!(reader.parse(&huge), parse(&huge));
        }
    }
    assert!(traces > 5_000 && rejects > 5_000, "{traces} traces, {rejects} others");
}

#[test]
fn a_reader_keeps_little_of_a_trace_with_many_values_and_nothing_of_a_dead_letter() {
    let mut reader = Reader::default();
    assert!(reader.parse(br#"{"time":1}"#).is_err());
    let values = vec!["1"; 500_000].join(",");
    let many = format!(
        r#"{{"time":1,"service_type":"ECS","resource_type":"x","trace_name":"y","trace_type":"z",
        "trace_rating":"normal","domain_id":"d","request":[{values}]}}"#
    );
    assert!(reader.parse(many.as_bytes()).is_ok());
    assert!(reader.notes.capacity() <= 4 * shape::VALUES_MAX, "{}", reader.notes.capacity());
    assert!(reader.shapes.is_empty());
}
