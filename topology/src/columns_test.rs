//! Tests of columns: values, round trips, damage, and the golden row.

use super::*;
use crate::chunk::{Entry, Span};

/// A part of traces given as (offset, stream time, time, values by attribute).
fn part(traces: &[(u64, i64, i64, [Option<&str>; ATTRIBUTES])]) -> Part {
    let mut part = Part::default();
    for (at, (offset, stream_time_ms, time_ms, values)) in traces.iter().enumerate() {
        part.text.extend_from_slice(b",\n");
        let (start, side_start) = (part.text.len(), part.side.len());
        let mut spans = [Span::ABSENT; ATTRIBUTES];
        for (span, value) in spans.iter_mut().zip(values) {
            let Some(value) = value else { continue };
            // Every other trace has its values in the side text.
            let length = value.len();
            *span = if at % 2 == 0 {
                part.text.extend_from_slice(value.as_bytes());
                Span::text(part.text.len() - length - start, length)
            } else {
                part.side.extend_from_slice(value.as_bytes());
                Span::side(part.side.len() - length - side_start, length)
            }
            .unwrap();
        }
        part.entries.push(Entry {
            offset: *offset,
            stream_time_ms: *stream_time_ms,
            time_ms: *time_ms,
            start: start as u32,
            length: (part.text.len() - start) as u32,
            side_start: side_start as u32,
            side_length: (part.side.len() - side_start) as u32,
            spans,
        });
    }
    part
}

fn values(list: &[(Attribute, &'static str)]) -> [Option<&'static str>; ATTRIBUTES] {
    let mut values = [None; ATTRIBUTES];
    for (attribute, value) in list {
        values[*attribute as usize] = Some(*value);
    }
    values
}

fn sample() -> Columns {
    use Attribute::{Code, ServiceType, TraceId, User};
    let first = part(&[
        (7, 1_000, 990, values(&[(ServiceType, "ECS"), (TraceId, "a"), (User, "")])),
        (9, 1_000, 2_000, values(&[(ServiceType, "ECS"), (TraceId, "b"), (User, "ann")])),
    ]);
    let second = part(&[
        (300, 70_000, 0, values(&[(ServiceType, "ECS"), (TraceId, "a"), (Code, "200")])),
        (301, 70_001, -5, values(&[(ServiceType, "ECS"), (User, "ann"), (Code, "404")])),
        (999, 70_001, 70_001, values(&[(ServiceType, "ECS"), (User, "zoë \"x\"")])),
    ]);
    Columns::of_parts(&[&first, &second])
}

#[test]
fn columns_hold_what_the_parts_say() {
    let columns = sample();
    assert_eq!(columns.offsets, [7, 9, 300, 301, 999]);
    assert_eq!(columns.stream_times_ms, [1_000, 1_000, 70_000, 70_001, 70_001]);
    assert_eq!(columns.times_ms, [990, 2_000, 0, -5, 70_001]);
    let (a, b) = (value_hash(b"a"), value_hash(b"b"));
    assert_eq!(columns.trace_ids, [a, b, a, 0, 0]);
    let user = &columns.attributes[Attribute::User as usize];
    assert_eq!(user.codes, [1, 2, 0, 2, 3]);
    assert_eq!(user.values().collect::<Vec<_>>(), [&b""[..], b"ann", "zoë \"x\"".as_bytes()]);
    assert_eq!(columns.attributes[Attribute::ServiceType as usize].codes, [1; 5]);
    assert_eq!(columns.attributes[Attribute::ProjectId as usize].codes, [0; 5]);
}

#[test]
fn rows_decode_to_what_was_encoded_and_damage_is_noticed() {
    for columns in [sample(), Columns::of_parts(&[])] {
        let row = columns.encode();
        assert_eq!(Columns::decode(&row).as_ref(), Some(&columns));
        for cut in 0..row.len() {
            assert_eq!(Columns::decode(&row[..cut]), None, "cut at {cut}");
        }
        let mut other = row.clone();
        other[0] = 9;
        assert_eq!(Columns::decode(&other), None);
        // Whatever a byte becomes, decoding ends and codes stay inside their dictionary.
        for at in 0..row.len() {
            let mut damaged = row.clone();
            damaged[at] ^= 0x55;
            if let Some(columns) = Columns::decode(&damaged) {
                for column in &columns.attributes {
                    assert!(column.codes.iter().all(|c| usize::from(*c) <= column.values_len()));
                }
            }
        }
    }
}

#[test]
fn only_the_wanted_attributes_are_decoded() {
    let (columns, row) = (sample(), sample().encode());
    for wanted in Attribute::ALL {
        let some = Columns::decode_of(&row, [wanted].into_iter().collect()).unwrap();
        let mut expected = columns.clone();
        if wanted != Attribute::TraceId {
            expected.trace_ids.clear();
        }
        for attribute in Attribute::ALL.into_iter().filter(|attribute| *attribute != wanted) {
            expected.attributes[attribute as usize].clear();
        }
        assert_eq!(some, expected, "{wanted:?}");
        for cut in 0..row.len() {
            let some = Columns::decode_of(&row[..cut], [wanted].into_iter().collect());
            assert_eq!(some, None, "{wanted:?} cut at {cut}");
        }
    }
    assert!(Attribute::ALL.into_iter().all(|attribute| Attributes::ALL.has(attribute)));
}

#[test]
fn the_row_format_is_the_golden_one() {
    let golden = include_str!("../tests/golden/columns.hex");
    let lines: String = golden.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(data_encoding::HEXLOWER.encode(&sample().encode()), lines);
}

#[test]
fn a_value_per_trace_keeps_its_own_code() {
    let names: Vec<String> = (0..3_000).map(|at| format!("name-{}", at % 2_500)).collect();
    let traces: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let mut values = [None; ATTRIBUTES];
            values[Attribute::ResourceName as usize] = Some(name.as_str());
            (at as u64, 0, 0, values)
        })
        .collect();
    let columns = Columns::of_parts(&[&part(&traces)]);
    let column = &columns.attributes[Attribute::ResourceName as usize];
    assert_eq!(column.values_len(), 2_500);
    for (code, name) in column.codes.iter().zip(&names) {
        assert_eq!(column.value(usize::from(*code) - 1), name.as_bytes());
    }
    assert_eq!(Columns::decode(&columns.encode()), Some(columns));
}

#[test]
fn values_are_equal_where_every_byte_is() {
    for length in 0..40 {
        let value = vec![b'x'; length];
        assert!(equal(&value, &value.clone()), "{length}");
        assert!(!equal(&value, &[&value[..], b"x"].concat()), "{length}");
        for at in 0..length {
            let mut other = value.clone();
            other[at] = b'y';
            assert!(!equal(&value, &other), "{length} {at}");
        }
    }
}
