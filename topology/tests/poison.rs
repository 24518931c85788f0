//! The rule of what is filed and what is a dead letter, input by input: each stands in its file
//! byte for byte or leaves with its reason, is counted, and harms no neighbour.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::Arc;

use support::catalog;
use trailproof_topology::chunk::Chunk;
use trailproof_topology::effect::{Effect, OutRecord, Topic};
use trailproof_topology::files::{Closed, FilesRecord};
use trailproof_topology::input::{Body, Input};
use trailproof_topology::key::{Table, whole};
use trailproof_topology::memory::Memory;
use trailproof_topology::record::{RecordStage, Setup};
use trailproof_topology::stage::{Batch, Stage};
use trailproof_topology::state::Rows;
use trailproof_topology::trace::{DEPTH_MAX, TRACE_BYTES_MAX};

const START_MS: i64 = 1_700_000_000_000;

/// A trace with this time and these members at its end; nothing has to be derived for it.
fn trace(id: &str, time: &str, members: &str) -> Vec<u8> {
    format!(
        "{{\"trace_id\":\"{id}\",\"record_time\":1,\"time\":{time},\"service_type\":\"ECS\",\
         \"resource_type\":\"ecs\",\"trace_name\":\"do\",\"trace_rating\":\"normal\",\
         \"trace_type\":\"ApiCall\",\"domain_id\":\"account-000\"{members}}}"
    )
    .into_bytes()
}

fn with(members: impl AsRef<str>) -> Vec<u8> {
    trace("poison", "1", members.as_ref())
}

/// Nested so deep in all: the trace itself counts one.
fn nested(depth: usize) -> Vec<u8> {
    let inside = depth - 1;
    with(format!(",\"deep\":{}{}", "[".repeat(inside), "]".repeat(inside)))
}

/// A trace of so many bytes, one long string in it.
fn long(bytes: usize) -> Vec<u8> {
    let rest = with(",\"long\":\"\"").len();
    with(format!(",\"long\":\"{}\"", "x".repeat(bytes - rest)))
}

fn without(member: &str) -> Vec<u8> {
    let text = String::from_utf8(with("")).unwrap();
    let at = text.find(&format!("\"{member}\"")).unwrap();
    let end = at + text[at..].find(',').unwrap() + 1;
    format!("{}{}", &text[..at], &text[end..]).into_bytes()
}

/// An input and the reason why it is a dead letter; `None`: it is filed.
type Case = (&'static str, Vec<u8>, Option<&'static str>);

fn bytes_and_texts() -> Vec<Case> {
    let not_utf8 = [with("").as_slice(), b"\xff"].concat();
    let marked = [b"\xef\xbb\xbf", with("").as_slice()].concat();
    let cut = with("")[..100].to_vec();
    vec![
        ("0 bytes", Vec::new(), Some("not_json")),
        ("blanks", b" \r\n\t".to_vec(), Some("not_json")),
        ("NUL", vec![0], Some("not_json")),
        ("a NUL in a string", with(",\"x\":\"\0\""), Some("not_json")),
        ("an escaped NUL", with(",\"x\":\"\\u0000\""), None),
        ("not UTF-8", not_utf8, Some("not_utf8")),
        ("a byte-order mark", marked, Some("byte_order_mark")),
        ("no JSON", b"hello".to_vec(), Some("not_json")),
        ("cut off", cut, Some("not_json")),
        ("two objects", [with(""), with("")].concat(), Some("not_json")),
        ("a list", b"[{}]".to_vec(), Some("not_an_object")),
        ("a text", b"\"{}\"".to_vec(), Some("not_an_object")),
        ("null", b"null".to_vec(), Some("not_an_object")),
        ("a lone surrogate", with(",\"x\":\"\\ud800\""), None),
        ("a lone surrogate in a known member", with(",\"code\":\"\\ud800\""), Some("not_json")),
        ("blanks and escapes", with(" , \"\\u0078\" : [ 1 ,\n\t2.50 ] "), None),
    ]
}

fn sizes() -> Vec<Case> {
    let keys: String = (0..100_000).map(|key| format!(",\"{key:05x}\":1")).collect();
    let at_most = 100_000 * ",\"00000\":1".len() + with("").len();
    assert!(at_most <= TRACE_BYTES_MAX);
    vec![
        ("100,000 keys", with(keys), None),
        ("a string to the limit", long(TRACE_BYTES_MAX), None),
        ("one byte more", long(TRACE_BYTES_MAX + 1), Some("too_large")),
        ("a string of 1 MiB", long(TRACE_BYTES_MAX + 200), Some("too_large")),
        ("nesting 127", nested(DEPTH_MAX), None),
        ("nesting 128", nested(DEPTH_MAX + 1), Some("too_deep")),
        ("nesting 100,000", nested(100_000), Some("too_deep")),
        ("brackets in strings", with(format!(",\"x\":\"{}\"", "[{\\\"".repeat(500))), None),
    ]
}

fn members() -> Vec<Case> {
    vec![
        ("1e999", with(",\"x\":1e999"), None),
        ("1e999 as code", with(",\"code\":1e999"), Some("not_json")),
        ("1e999 as time", trace("poison", "1e999", ""), Some("not_json")),
        ("an unknown member twice", with(",\"x\":1,\"x\":2"), None),
        ("a known member twice", with(",\"time\":2"), Some("duplicate_member")),
        (
            "a member of the user twice",
            with(",\"user\":{\"id\":\"1\",\"id\":\"2\"}"),
            Some("duplicate_member"),
        ),
        ("the year 1970", trace("poison", "0", ""), None),
        ("the year 292277026", trace("poison", "9223372017129600000", ""), None),
        ("the last time there is", trace("poison", "9223372036854775807", ""), None),
        ("a time beyond", trace("poison", "9223372036854775808", ""), Some("bad_member")),
        ("a negative time", trace("poison", "-9223372036854775808", ""), None),
        ("a time as text", trace("poison", "\"17\"", ""), None),
        ("a date", trace("poison", "\"2026-01-01\"", ""), Some("bad_member")),
        ("a fraction", trace("poison", "1.5", ""), Some("bad_member")),
        ("no time", without("time"), Some("missing_member")),
        ("no service", without("service_type"), Some("missing_member")),
        ("no resource type", without("resource_type"), Some("missing_member")),
        ("no name", without("trace_name"), Some("missing_member")),
        ("no rating", without("trace_rating"), Some("missing_member")),
        ("no type", without("trace_type"), Some("missing_member")),
        ("an empty id", trace("", "1", ""), Some("bad_member")),
        (
            "an account that nobody knows",
            replaced("account-000", "nobody"),
            Some("unknown_account"),
        ),
        ("no account", replaced("domain_id", "domain"), Some("no_account")),
        ("a service with a slash", replaced("ECS", "E/S"), Some("bad_member")),
        ("a service that is a path", replaced("ECS", ".."), Some("bad_member")),
        ("a user as list", with(",\"user\":[]"), Some("bad_member")),
    ]
}

fn replaced(from: &str, to: &str) -> Vec<u8> {
    String::from_utf8(with("")).unwrap().replace(from, to).into_bytes()
}

/// What came of a log of records after a catalog mark.
struct Came {
    text: Vec<u8>,
    letters: Vec<OutRecord>,
    closed: Closed,
}

fn run(records: &[Vec<u8>]) -> Came {
    let setup = Setup { partition: 0, topic_id: "topic".into(), open_bytes_max: 1 << 20 };
    let mut rows = Memory::default();
    let mut stage = RecordStage::load(setup, &rows).unwrap();
    let mut batch = Batch::new([0; 2]);
    let mut catalog = catalog(1);
    catalog.file_bytes_max = 16 << 20;
    let mut apply = |offset, append_time_ms, body: Body<'_>| {
        let input = Input { offset, append_time_ms, body };
        stage.apply_reading(&input, || rows.clone(), &mut batch).unwrap();
    };
    apply(0, START_MS, Body::Catalog(1, Some(&Arc::new(catalog))));
    for (offset, record) in (1..).zip(records) {
        apply(offset, START_MS + 1, Body::Data(record));
    }
    let end = 1 + records.len() as u64;
    apply(end, START_MS + 60_000, Body::Tick);
    stage.finish(&mut batch);
    assert_eq!(stage.position().next_offset, end + 1, "the offset moves on");
    rows.commit(&batch.changes);
    let mut text = Vec::new();
    let (from, to) = whole(Table::Chunk);
    rows.scan(&from, &to, &mut |_, row| {
        text.extend(Chunk::decode(row).unwrap().text().unwrap());
        true
    })
    .unwrap();
    let (mut letters, mut closed) = (Vec::new(), None);
    let (from, to) = whole(Table::Outbox);
    rows.scan(&from, &to, &mut |_, row| {
        if let Some(Effect::Records(records)) = Effect::decode(row) {
            for record in records {
                match FilesRecord::decode(&record.value) {
                    Ok(FilesRecord::Closed(own)) => closed = Some(own),
                    _ if record.topic == Topic::DeadLetters => letters.push(record),
                    _ => {}
                }
            }
        }
        true
    })
    .unwrap();
    Came { text, letters, closed: closed.unwrap() }
}

fn check((name, record, reason): Case) {
    let neighbours = [trace("before", "1", ""), trace("behind", "2", "")];
    let came = run(&[neighbours[0].clone(), record.clone(), neighbours[1].clone()]);
    let filed = if reason.is_none() { Some(&record) } else { None };
    let traces: Vec<&[u8]> = [Some(&neighbours[0]), filed, Some(&neighbours[1])]
        .into_iter()
        .flatten()
        .map(|own| &own[..])
        .collect();
    let expected = [b"[\n".as_slice(), &traces.join(&b",\n"[..])].concat();
    assert!(came.text == expected, "{name}: {}", String::from_utf8_lossy(&came.text));
    let letters: Vec<(&[u8], &str)> = came
        .letters
        .iter()
        .map(|letter| (letter.value.as_slice(), letter.headers[0].1.as_str()))
        .collect();
    let expected: Vec<(&[u8], &str)> =
        reason.into_iter().map(|reason| (record.as_slice(), reason)).collect();
    assert!(letters == expected, "{name}: {:?}", came.letters.first().map(|own| &own.headers));
    let counted = &came.closed;
    let of_accounts: u64 = counted.accounts.iter().map(|own| own.received).sum();
    let dead: u64 = counted.accounts.iter().map(|own| own.dead_lettered).sum();
    assert_eq!(counted.dead_lettered + dead, expected.len() as u64, "{name}: is counted");
    assert_eq!(of_accounts + counted.dead_lettered + counted.marks, counted.to, "{name}: I3");
}

#[test]
fn bytes_that_are_no_text_or_no_json_leave_with_their_reason() {
    bytes_and_texts().into_iter().for_each(check);
}

#[test]
fn what_is_large_or_deep_is_filed_up_to_the_bounds() {
    sizes().into_iter().for_each(check);
}

#[test]
fn members_decide_whether_a_record_is_a_trace() {
    members().into_iter().for_each(check);
}
