//! The text of a group's offset: the lanes, and where the last transaction's records are.
//!
//! `v2 LANE0 LANE1` and, for each partition that got records, ` TNUMBER@FIRST+MORE`: the topic's
//! letter, the partition, the first offset, and how far behind it the last one is. Records of
//! others may lie between. `v1` is the same without the partitions.
//!
//! **Invariant:** what the text names was written by one transaction, and is all of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use trailproof_topology::effect::{LANES, Topic};
use trailproof_topology::input::Offset;

/// The first word of an offset's text.
const FORMAT: &str = "v2";

/// The same in texts that say nothing of records.
const FORMAT_BEFORE: &str = "v1";

/// Bytes that one partition takes in the text, at most.
const PARTITION_BYTES: u64 = 24;

/// Bytes of the lanes, at most.
const LANES_BYTES: u64 = 48;

/// An output partition.
pub(super) type Output = (Topic, u32);

/// Offsets of the first and the last record of one transaction in each partition.
pub(super) type Said = BTreeMap<Output, (Offset, Offset)>;

/// What the group's offset says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) offset: Offset,
    pub(super) lanes: [u64; LANES],
    pub(super) said: Said,
}

fn letter(topic: Topic) -> char {
    match topic {
        Topic::Traces => 't',
        Topic::Files => 'f',
        Topic::Notifications => 'n',
        Topic::DeadLetters => 'd',
        Topic::Checkpoints => 'k',
        Topic::Catalog => 'c',
    }
}

/// Bytes of the longest text: its transaction reaches all partitions that one lane writes to.
pub(super) fn text_bytes_max(partitions: impl Fn(Topic) -> u32) -> u64 {
    let objects = partitions(Topic::Files) + partitions(Topic::Checkpoints);
    let notify = partitions(Topic::Notifications) + partitions(Topic::DeadLetters);
    LANES_BYTES + PARTITION_BYTES * u64::from(objects.max(notify))
}

/// Notes that a record was written.
pub(super) fn note(said: &mut Said, output: Output, offset: Offset) {
    let (first, last) = said.entry(output).or_insert((offset, offset));
    (*first, *last) = ((*first).min(offset), (*last).max(offset));
}

/// The names of partitions, for people.
pub(super) fn names<'a>(outputs: impl IntoIterator<Item = &'a Output>) -> String {
    let name = |(topic, partition): &Output| format!("{}/{partition}", topic.name());
    outputs.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The text of lanes and records.
pub(super) fn encode(lanes: [u64; LANES], said: &Said) -> String {
    let mut text = lanes.iter().fold(FORMAT.to_owned(), |text, lane| format!("{text} {lane}"));
    for ((topic, partition), (first, last)) in said {
        // Writing to a text cannot fail.
        let _ = write!(text, " {}{partition}@{first}+{}", letter(*topic), last - first);
    }
    text
}

/// Lanes and records of a text; `None`: it is not Trailproof's.
pub(super) fn decode(text: &str) -> Option<([u64; LANES], Said)> {
    let mut words = text.split(' ');
    let format = words.next()?;
    let mut lanes = [0; LANES];
    for lane in &mut lanes {
        *lane = words.next()?.parse().ok()?;
    }
    let said = words.map(partition).collect::<Option<Said>>()?;
    (format == FORMAT || format == FORMAT_BEFORE && said.is_empty()).then_some((lanes, said))
}

fn partition(word: &str) -> Option<(Output, (Offset, Offset))> {
    let topic = Topic::ALL.into_iter().find(|topic| word.starts_with(letter(*topic)))?;
    let (number, offsets) = word.get(1..)?.split_once('@')?;
    let (first, more) = offsets.split_once('+')?;
    let first: Offset = first.parse().ok()?;
    let last = first.checked_add(more.parse().ok()?)?;
    Some(((topic, number.parse().ok()?), (first, last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_and_records_are_the_text_of_an_offset() {
        let mut said = Said::new();
        assert_eq!(encode([3, 70], &said), "v2 3 70");
        for offset in [11, 9, 14] {
            note(&mut said, (Topic::Notifications, 0), offset);
        }
        note(&mut said, (Topic::Files, 63), 7);
        let text = encode([3, 70], &said);
        assert_eq!(text, "v2 3 70 f63@7+0 n0@9+5");
        assert_eq!(decode(&text), Some(([3, 70], said)));
        assert_eq!(decode("v1 3 70"), Some(([3, 70], Said::new())), "of earlier versions");
    }

    #[test]
    fn other_texts_are_not_ours() {
        let broken = ["", "v1", "v1 3", "v1 3 70 9", "v1 3 70 n0@1+1", "v3 3 70", "v2 3 x"];
        let partitions =
            ["v2 3  70", "v2 3 70 ", "v2 3 70 n@1+1", "v2 3 70 x0@1+1", "v2 3 70 n0@1"];
        for text in broken.into_iter().chain(partitions) {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_topic_has_a_letter_of_its_own_and_its_partitions_are_short() {
        for topic in Topic::ALL {
            let said = Said::from([((topic, 63), (999_999_999_999, 999_999_999_999 + 511))]);
            let text = encode([u64::MAX, u64::MAX], &said);
            assert_eq!(decode(&text), Some(([u64::MAX, u64::MAX], said)));
            assert!(text.len() as u64 <= text_bytes_max(|_| 1) - PARTITION_BYTES, "{text}");
        }
    }
}
