//! Shapes against the scan, over traces that are mutated at random.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::super::scan;
use super::super::tests::{Random, mutate, object};
use super::*;

/// Reads a text by both ways, and has its shape learnt; whether the shape was known. `None` where
/// the scan does not take it.
fn read_both(shapes: &mut Shapes, text: &str) -> Option<bool> {
    let (mut scanned, mut notes) = (Slots::default(), Vec::new());
    let taken = scan::read(text, &mut scanned, Some(&mut notes)).is_some();
    let mut slots = Slots::default();
    let known = shapes.read(text, &mut slots).is_some();
    assert!(taken || !known, "only the shapes take {text}");
    if known {
        assert_eq!(slots, scanned, "{text}");
    }
    if taken && shapes.learn(text, &notes) {
        let mut slots = Slots::default();
        assert!(shapes.read(text, &mut slots).is_some(), "learnt, and not known: {text}");
        assert_eq!(slots, scanned, "{text}");
    }
    taken.then_some(known)
}

/// A text with other values, of the same lengths and types, in place of its own.
fn other_values(random: &mut Random, text: &str) -> String {
    let (mut in_string, mut escaped, mut is_key) = (false, false, true);
    let other = |random: &mut Random, from: char| match from {
        'a'..='z' => char::from(b'a' + random.below(26) as u8),
        '1'..='9' => char::from(b'1' + random.below(9) as u8),
        _ => from,
    };
    let change = |from: char| {
        let inside = in_string;
        match from {
            '"' if !escaped => in_string = !in_string,
            ':' if !inside => is_key = false,
            ',' | '{' if !inside => is_key = true,
            _ => {}
        }
        let value = !is_key && !escaped && (inside || from.is_ascii_digit());
        escaped = inside && !escaped && from == '\\';
        if value { other(random, from) } else { from }
    };
    text.chars().map(change).collect()
}

#[test]
fn shapes_read_what_a_scan_reads_and_take_nothing_else() {
    let mut random = Random(2);
    let (mut shapes, mut known) = (Shapes::default(), 0);
    for round in 0..100_000 {
        let mut text = object(&mut random).into_bytes();
        for _ in 0..random.below(2) {
            mutate(&mut random, &mut text);
        }
        let Ok(text) = String::from_utf8(text) else { continue };
        known += u32::from(read_both(&mut shapes, &text) == Some(true));
        // Others that look alike, some of them spoilt.
        for _ in 0..2 {
            let other = other_values(&mut random, &text);
            known += u32::from(read_both(&mut shapes, &other) == Some(true));
            let mut spoilt = other.into_bytes();
            mutate(&mut random, &mut spoilt);
            if let Ok(spoilt) = String::from_utf8(spoilt) {
                read_both(&mut shapes, &spoilt);
            }
        }
        assert!(shapes.nodes.len() <= NODES_MAX);
        // Begun anew before all ways are taken, and for some rounds not.
        if round < 60_000 && round % 20 == 0 {
            shapes = Shapes::default();
        }
    }
    assert!(known > 30_000, "{known} were known");
}

const TRACE: &str = r#"{"trace_id":"a-1","code":"200","trace_name":"deleteServer","read_only":true,
    "time":1760000000000, "resource_type":"ecs", "a_member_with_quite_a_long_name_in_it":[1,-2.5e3],
    "request":"{\"server\":{\"name\":\"web\\n\"}}","trace_rating":"normal","user":{"id":"u",
    "name":"mallory","domain":{"id":"d"}},"trace_type":"ApiCall","service_type":"ECS"}"#;

#[test]
fn a_trace_is_known_by_its_shape_whatever_its_values() {
    let mut shapes = Shapes::default();
    assert_eq!(read_both(&mut shapes, TRACE), Some(false));
    let nodes = shapes.nodes.len();
    for (from, to) in [
        ("a-1", ""),
        ("mallory", "a much longer name, of more than thirty-two bytes"),
        ("1760000000000", "7"),
        ("{\\\"server\\\":{\\\"name\\\":\\\"web\\\\n\\\"}}", "plain"),
        ("-2.5e3", "0"),
    ] {
        assert!(TRACE.contains(from), "{from}");
        assert_eq!(read_both(&mut shapes, &TRACE.replace(from, to)), Some(true), "{from} {to}");
    }
    assert_eq!(shapes.nodes.len(), nodes);
    // Another way from where they part; the old one is still known.
    for (from, to) in [
        ("\"200\"", "200"),
        ("\"200\"", "null"),
        ("true", "false"),
        ("[1,", "[1,2,"),
        ("\"id\":\"d\"", ""),
    ] {
        assert!(TRACE.contains(from), "{from}");
        let other = TRACE.replace(from, to);
        assert_eq!(read_both(&mut shapes, &other), Some(false), "{from} {to}");
        assert_eq!(read_both(&mut shapes, &other), Some(true), "{from} {to}");
        assert_eq!(read_both(&mut shapes, TRACE), Some(true), "{from} {to}");
    }
    let nodes = shapes.nodes.len();
    assert_eq!(read_both(&mut shapes, &format!("{TRACE} ")), Some(false));
    assert_eq!(shapes.nodes.len(), nodes + 1, "shapes share their beginning");
    // The scan does not take these.
    for (from, to) in [
        ("a-1", "a\\n1"),
        ("a-1", "a\n1"),
        ("1760000000000", "1e3"),
        ("1760000000000", "07"),
        ("1760000000000", "9999999999999999999"),
        ("mallory", "mallory\",\"name\":\"eve"),
    ] {
        assert_eq!(read_both(&mut shapes, &TRACE.replace(from, to)), None, "{from} {to}");
    }
    for cut in 0..TRACE.len() {
        assert_eq!(read_both(&mut shapes, &TRACE[..cut]), None, "{cut} bytes");
    }
}

#[test]
fn a_lead_that_fills_its_nodes_goes_on_or_does_not() {
    for length in 0..70 {
        let mut shapes = Shapes::default();
        let key = "k".repeat(length);
        for value in ["5", "null", "\"s\"", "[]", "[7]", "true"] {
            for space in ["", " ", "\n   "] {
                let text = format!("{{\"x\":\"v\",\"{key}\":{value}}}{space}");
                assert_eq!(read_both(&mut shapes, &text), Some(false), "{text}");
                assert_eq!(read_both(&mut shapes, &text), Some(true), "{text}");
            }
        }
    }
}

#[test]
fn shapes_are_bounded_and_begun_anew_when_producers_change() {
    let mut shapes = Shapes::default();
    let long = format!("{{\"x\":[{}]}}", vec!["true"; 100_000].join(","));
    let many = format!("{{\"x\":[{}]}}", vec!["1"; VALUES_MAX + 1].join(","));
    for text in [&long, &many] {
        for _ in 0..2 {
            assert_eq!(read_both(&mut shapes, text), Some(false));
        }
    }
    // One node that has too many ways.
    let numbered = |number: usize| format!(r#"{{"member {number}":"value"}}"#);
    for number in 0..WAYS_MAX {
        for known in [false, true] {
            assert_eq!(read_both(&mut shapes, &numbered(number)), Some(known), "{number}");
        }
    }
    forgotten_in_time(&mut shapes, &numbered(WAYS_MAX), &numbered(0));
    // Many ways from many nodes; words belong to the text between values.
    let deep = |number: usize| {
        let digits = [number / 400, number / 20 % 20, number % 20];
        let members = digits.iter().enumerate();
        let members = members.map(|(at, digit)| format!("\"m{at}-{digit}\":\"value\""));
        let members = members.collect::<Vec<_>>().join(",");
        format!("{{{members},\"code\":{:28}false,\"read_only\":{:28}false}}{:32}", "", "", "")
    };
    let mut shapes = Shapes::default();
    let mut number = 0;
    while shapes.misses == 0 {
        read_both(&mut shapes, &deep(number));
        number += 1;
        assert!(shapes.nodes.len() <= NODES_MAX);
    }
    forgotten_in_time(&mut shapes, &deep(number), &deep(0));
}

/// A text that finds no room is learnt once enough others found none, and `old` is forgotten.
fn forgotten_in_time(shapes: &mut Shapes, new: &str, old: &str) {
    assert_eq!(read_both(shapes, new), Some(false));
    assert_eq!(read_both(shapes, new), Some(false), "there is room for more");
    assert_eq!(read_both(shapes, old), Some(true));
    let mut rounds = shapes.misses;
    while read_both(shapes, new) == Some(false) {
        rounds += 1;
        assert!(rounds <= MISSES_MAX + 1);
    }
    assert_eq!(read_both(shapes, new), Some(true));
    assert_eq!(read_both(shapes, old), Some(false));
}
