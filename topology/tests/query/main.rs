//! Queries against a naive filter over all traces.

use std::collections::BTreeMap;

use trailproof_topology::attribute::Attribute;
use trailproof_topology::key::Table;
use trailproof_topology::memory::Memory;
use trailproof_topology::query::answer::Answer;
use trailproof_topology::query::predicate::Texts;
use trailproof_topology::query::search::search;
use trailproof_topology::query::source::{Partition, ROWS_MAX};
use trailproof_topology::query::{
    Axis, Cursor, Histogram, OpenView, Order, Predicate, Query, Test,
};
use trailproof_topology::run::tier::{self, Tiers};
use trailproof_topology::run::{Header, Section};
use trailproof_topology::state::Changes;

use world::{Made, Random, TRACKERS, World};

mod world;

/// 2024-03-09T23:50Z: most feeds cross midnight.
const START_MS: i64 = 1_710_028_200_000;

const FACETS: [Attribute; 6] = [
    Attribute::ServiceType,
    Attribute::User,
    Attribute::ResourceName,
    Attribute::ResourceId,
    Attribute::Code,
    Attribute::ProjectId,
];

fn cursor(made: &Made) -> Cursor {
    let Made { stream_time_ms, partition, offset, .. } = *made;
    Cursor { stream_time_ms, partition, offset }
}

/// A condition as the naive filter takes it.
#[derive(Debug)]
struct Condition {
    attribute: Attribute,
    kind: Kind,
    values: Vec<String>,
    negate: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Equals,
    Begins,
    Contains,
}

impl Condition {
    fn predicate(&self) -> Predicate {
        let values = self.values.clone();
        let test = match self.kind {
            Kind::Equals => Test::Equals(values),
            Kind::Begins => Test::Begins(values),
            Kind::Contains => Test::Contains(Texts::new(values)),
        };
        let predicate = Predicate::new(self.attribute, test);
        if self.negate { !predicate } else { predicate }
    }

    fn holds(&self, made: &Made) -> bool {
        let value = made.values[self.attribute as usize].as_ref();
        let passes = |value: &String| {
            self.values.iter().any(|own| match self.kind {
                Kind::Equals => value == own,
                Kind::Begins => value.starts_with(own),
                Kind::Contains => value.to_lowercase().contains(&own.to_lowercase()),
            })
        };
        value.is_some_and(passes) != self.negate
    }
}

/// A condition that some traces meet and others do not.
fn random_condition(random: &mut Random, made: &[Made]) -> Condition {
    let attribute = *random.pick(&Attribute::ALL);
    let kind = *random.pick(&[Kind::Equals, Kind::Begins, Kind::Contains]);
    let count = *random.pick(&[1, 1, 2, 5]);
    let mut value = || {
        let some = random.pick(made).values[attribute as usize].clone();
        let whole = some.unwrap_or_else(|| "none such".to_owned());
        match kind {
            Kind::Equals => whole,
            // Of several, one may begin with another.
            Kind::Begins => whole.chars().take(1 + random.below(9) as usize).collect(),
            Kind::Contains if random.one_in(2) => whole.chars().take(2).collect(),
            Kind::Contains => whole.to_uppercase().chars().skip(2).take(3).collect(),
        }
    };
    let values = (0..count).map(|_| value()).collect();
    Condition { attribute, kind, values, negate: random.one_in(3) }
}

/// A query, with its conditions beside it.
fn random_query(random: &mut Random, made: &[Made]) -> (Query, Vec<Condition>) {
    let trackers = match random.below(4) {
        0 => TRACKERS.to_vec(),
        at => vec![TRACKERS[at as usize % 2]],
    };
    let mut query = Query::newest(trackers, random.below(40) as usize);
    let conditions: Vec<Condition> =
        (0..random.below(4)).map(|_| random_condition(random, made)).collect();
    query.predicates = conditions.iter().map(Condition::predicate).collect();
    let (one, other) = (random.pick(made).clone(), random.pick(made).clone());
    if random.one_in(2) {
        query.stream_ms = one.stream_time_ms.min(other.stream_time_ms)
            ..one.stream_time_ms.max(other.stream_time_ms);
    }
    if random.one_in(3) {
        query.time_ms = one.time_ms.min(other.time_ms)..one.time_ms.max(other.time_ms) + 1;
    }
    if random.one_in(2) {
        query.order = Order::Oldest;
    }
    if random.one_in(3) {
        query.cursor = Some(cursor(&one));
    }
    query.count = random.one_in(2);
    query.facets = FACETS.into_iter().filter(|_| random.one_in(3)).collect();
    query.facet_values = 1 + random.below(20) as usize;
    if random.one_in(3) {
        let axis = *random.pick(&[Axis::Stream, Axis::Event]);
        let range = match axis {
            Axis::Stream => &mut query.stream_ms,
            Axis::Event => &mut query.time_ms,
        };
        if range.start == i64::MIN {
            *range = START_MS - 1_000_000..START_MS + 100_000_000;
        }
        query.histogram =
            Some(Histogram { axis, width_ms: *random.pick(&[60_000, 3_600_000, 777_777]) });
    }
    (query, conditions)
}

fn check(query: &Query, conditions: &[Condition], made: &[Made], answer: &Answer) {
    assert!(answer.bounds.is_exact(), "{:?}", answer.bounds);
    let matching: Vec<&Made> = made
        .iter()
        .filter(|made| query.trackers.contains(&made.tracker))
        .filter(|made| query.stream_ms.contains(&made.stream_time_ms))
        .filter(|made| query.time_ms.contains(&made.time_ms))
        .filter(|made| conditions.iter().all(|condition| condition.holds(made)))
        .collect();
    let mut listed: Vec<&Made> = matching
        .iter()
        .copied()
        .filter(|made| {
            query.cursor.is_none_or(|place| match query.order {
                Order::Newest => cursor(made) < place,
                Order::Oldest => cursor(made) > place,
            })
        })
        .collect();
    listed.sort_by_key(|made| cursor(made));
    if query.order == Order::Newest {
        listed.reverse();
    }
    let more = listed.len() > query.limit && query.limit > 0;
    listed.truncate(query.limit);
    assert_eq!(answer.rows.len(), listed.len());
    for (row, made) in answer.rows.iter().zip(&listed) {
        assert_eq!(row.cursor, cursor(made));
        assert_eq!(row.trace, made.json);
        assert_eq!(row.segment.tracker, made.tracker);
    }
    assert_eq!(answer.next, listed.last().filter(|_| more).map(|made| cursor(made)));
    assert_eq!(answer.total, query.count.then_some(matching.len() as u64));
    assert_eq!(answer.facets.len(), query.facets.len());
    for facet in &answer.facets {
        let mut counts: BTreeMap<&String, u64> = BTreeMap::new();
        for made in &matching {
            if let Some(value) = &made.values[facet.attribute as usize] {
                *counts.entry(value).or_default() += 1;
            }
        }
        assert_eq!(facet.distinct, counts.len() as u64);
        let mut ranked: Vec<(Vec<u8>, u64)> =
            counts.into_iter().map(|(value, count)| (value.clone().into_bytes(), count)).collect();
        ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        ranked.truncate(query.facet_values);
        assert_eq!(facet.values, ranked);
    }
    if let Some(histogram) = &query.histogram {
        let (start, buckets) = query.buckets(histogram).expect("bounded");
        let mut counts = vec![0; buckets];
        for made in &matching {
            let time = match histogram.axis {
                Axis::Stream => made.stream_time_ms,
                Axis::Event => made.time_ms,
            };
            counts[((time - start) / histogram.width_ms) as usize] += 1;
        }
        assert_eq!(answer.histogram, counts);
    }
}

fn ask_and_check(seed: u64, world: &World, random: &mut Random, times: usize) {
    for at in 0..times {
        let (query, conditions) = random_query(random, &world.made);
        let answer = world.ask(&query);
        let checked = std::panic::catch_unwind(|| check(&query, &conditions, &world.made, &answer));
        if let Err(panic) = checked {
            eprintln!("seed {seed}, query {at}: {query:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn answers_are_those_of_a_naive_filter() {
    let (mut runs, mut rows, mut days) = (0, 0, 0);
    for seed in 0..150 {
        let random = &mut Random(seed);
        let mut world = World::new(START_MS);
        world.cycle_ms = *random.pick(&[300_000, 3_600_000, 50_000_000]);
        for _ in 0..random.below(20) + 2 {
            let (traces, close_in) = (random.below(200) + 1, random.below(4) + 1);
            world.feed(random, traces, 50, close_in);
            if random.one_in(3) {
                world.index(random.below(4) as usize, 2);
            }
        }
        runs += world.lanes[0].rows_of(Table::Run);
        rows += world.lanes[0].rows_of(Table::Columns);
        days += usize::from(world.lanes[0].stream_time_ms > START_MS + 600_000);
        ask_and_check(seed, &world, random, 40);
    }
    // The cases were of every kind.
    assert!(runs > 1_000 && rows > 500 && days > 20, "{runs} {rows} {days}");
}

#[test]
fn answers_over_runs_of_many_blocks_are_those_of_a_naive_filter() {
    let random = &mut Random(7);
    let mut world = World::new(START_MS);
    world.cycle_ms = 86_400_000;
    world.pace_ms = 800;
    for at in 0..90 {
        world.feed(random, 1_000, 30_000, 2);
        if at % 8 == 7 {
            world.index(1, 4);
        }
    }
    world.index(9, 4);
    let (mut blocks, mut spread) = (0, false);
    for (key, row) in world.lanes.iter().flat_map(|lane| lane.rows.iter()) {
        if let Some(header) = Header::decode(key, row) {
            blocks = blocks.max(header.zones.len());
            spread |= header.count >= trailproof_topology::run::SPREAD_MIN;
        }
    }
    assert!(blocks > 1 && spread, "{blocks} blocks");
    ask_and_check(7, &world, random, 200);
}

/// Every row of the runs of a small world, level 0 and merged, is the golden one.
#[test]
fn the_rows_of_runs_are_the_golden_ones() {
    let random = &mut Random(3);
    let mut world = World::new(START_MS);
    for _ in 0..24 {
        world.feed(random, 2, 5, 1);
        world.index(1, 2);
    }
    let mut rows = String::new();
    let mut levels = BTreeMap::new();
    let of_runs = |key: &[u8]| [Table::Run as u8, Table::RunHeader as u8].contains(&key[0]);
    for (key, row) in world.lanes[0].rows.iter().filter(|(key, _)| of_runs(key)) {
        if let Some(header) = Header::decode(key, row) {
            *levels.entry(header.id.level).or_insert(0) += 1;
        }
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        rows += &format!("{} {}\n", hex(key), hex(row));
    }
    assert!(levels.len() > 1, "{levels:?}");
    let golden = include_str!("../golden/runs.hex");
    let golden: String = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(rows == golden, "the rows are now:\n{rows}");
}

/// Whether a query over closed chunks alone finds all rows whole.
fn answers(rows: &Memory, query: &Query) -> bool {
    let open = &OpenView::default();
    search(query, Partition { number: 0, rows, open, days_from: 0 }).is_ok()
}

/// A merge takes its sources away: it must not take what it has not read. An answer must not leave
/// values out either, as far as it can be told.
#[test]
fn runs_without_all_of_a_dictionary_are_neither_merged_nor_counted() {
    let random = &mut Random(5);
    let mut world = World::new(START_MS);
    for _ in 0..6 {
        world.feed(random, 40, 5, 1);
        world.index(1, 2);
    }
    let whole = &world.lanes[0].rows;
    let headers = whole.iter().filter_map(|(key, row)| Header::decode(key, row));
    let first = headers.min_by_key(|header| header.id).expect("there are runs");
    let merge = |rows: &Memory| {
        let tiers = Tiers { rows_min: usize::MAX, fan_in: 2 };
        tier::step(rows, first.id.day, &first.id.tracker, tiers, &mut |_| Ok(()))
    };
    assert!(merge(whole).expect("rows are intact"), "there are two runs");
    let mut dictionaries = 0;
    for attribute in Attribute::ALL {
        let (from, to) = first.id.section(Section::Dictionary, attribute as u8).range();
        let pieces = whole.iter().filter(|(key, _)| *key >= &from[..] && *key < &to[..]);
        let mut changes = Changes::default();
        pieces.for_each(|(key, _)| changes.delete(key.to_vec()));
        if changes.list.is_empty() {
            continue;
        }
        dictionaries += 1;
        let mut rows = whole.clone();
        rows.commit(&changes);
        assert!(merge(&rows).is_err(), "{attribute:?}");
        let all = Query { limit: 0, ..Query::newest(vec![first.id.tracker], 1) };
        let facets = Query { facets: vec![attribute], ..all.clone() };
        let test = Test::Contains(Texts::new(["e"]));
        let texts = vec![Predicate::new(attribute, test)];
        let texts = Query { predicates: texts, count: true, ..all };
        let named = vec![!Predicate::is(Attribute::ServiceType, "none")];
        let some = Query { predicates: named, stream_ms: START_MS + 1..i64::MAX, ..facets.clone() };
        for query in [facets, some, texts] {
            assert!(answers(whole, &query) && !answers(&rows, &query), "{query:?}");
        }
    }
    assert!(dictionaries > 5, "{dictionaries}");
}

/// A dictionary of several pieces, with one of them gone.
#[test]
fn a_dictionary_without_a_piece_gives_no_answer() {
    let random = &mut Random(6);
    let mut world = World::new(START_MS);
    world.pace_ms = 10;
    for _ in 0..24 {
        world.feed(random, 1_000, 100_000, 1);
    }
    world.index(1, 2);
    let rows = &world.lanes[0].rows;
    let dictionary = |key: &[u8]| {
        let attribute = Attribute::ResourceName as u8;
        key[0] == Table::Run as u8 && key[28..30] == [attribute, Section::Dictionary as u8]
    };
    let pieces: Vec<&[u8]> =
        rows.iter().map(|(key, _)| key).filter(|key| dictionary(key)).collect();
    let of_first = |key: &&&[u8]| key[..28] == pieces[0][..28];
    let pieces: Vec<&[u8]> = pieces.iter().filter(of_first).copied().collect();
    assert!(pieces.len() > 2, "{}", pieces.len());
    for piece in &pieces {
        let mut changes = Changes::default();
        changes.delete(piece.to_vec());
        let mut damaged = rows.clone();
        damaged.commit(&changes);
        let tracker = piece[3..19].try_into().expect("16 bytes");
        let query = Query { limit: 0, count: true, ..Query::newest(vec![tracker], 1) };
        let test = Test::Begins(vec![String::new()]);
        let begins = vec![!Predicate::new(Attribute::ResourceName, test)];
        let facets = Query { facets: vec![Attribute::ResourceName], ..query.clone() };
        for query in [Query { predicates: begins, ..query }, facets] {
            assert!(answers(rows, &query) && !answers(&damaged, &query), "{query:?}");
        }
    }
}

/// Rows beyond the bound are left out, and the answer says so.
#[test]
fn rows_beyond_the_bound_are_left_out_and_counted_as_such() {
    let random = &mut Random(8);
    let mut world = World::new(START_MS);
    world.feed(random, 200, 5, 1);
    let rows = &mut world.lanes[0].rows;
    let columns: Vec<(Vec<u8>, Vec<u8>)> = rows
        .iter()
        .filter(|(key, _)| key[0] == Table::Columns as u8)
        .map(|(key, row)| (key.to_vec(), row.to_vec()))
        .collect();
    let mut changes = Changes::default();
    for (key, row) in &columns {
        for number in 0..ROWS_MAX as u32 / 2 {
            let end = key.len() - 4;
            let copy = [&key[..end], &number.to_be_bytes()].concat();
            changes.put(copy, row.clone());
        }
    }
    assert!(changes.list.len() > ROWS_MAX + 1, "{}", columns.len());
    rows.commit(&changes);
    let query = Query { limit: 0, count: true, ..Query::newest(TRACKERS.to_vec(), 1) };
    let answer = world.ask(&query);
    assert!(answer.bounds.rows_cut && answer.total.is_some_and(|total| total > 0));
}

#[test]
fn pages_give_every_trace_once_while_new_ones_arrive() {
    for seed in 0..60 {
        let random = &mut Random(1_000 + seed);
        let mut world = World::new(START_MS);
        for _ in 0..6 {
            world.feed(random, 120, 20, 3);
        }
        let before = world.made.clone();
        let order = *random.pick(&[Order::Newest, Order::Oldest]);
        let mut query = Query::newest(TRACKERS.to_vec(), 1 + random.below(60) as usize);
        query.order = order;
        query.predicates.push(!Predicate::is(Attribute::ServiceType, "ECS"));
        let mut seen: Vec<Cursor> = Vec::new();
        loop {
            let answer = world.ask(&query);
            seen.extend(answer.rows.iter().map(|row| row.cursor));
            let Some(next) = answer.next else { break };
            query.cursor = Some(next);
            if world.made.len() < 2_000 {
                world.feed(random, 30, 20, 2);
                world.index(random.below(3) as usize, 2);
            }
        }
        assert!(seen.windows(2).all(|pair| match order {
            Order::Newest => pair[0] > pair[1],
            Order::Oldest => pair[0] < pair[1],
        }));
        let wanted = before.iter().filter(|made| made.values[0].as_deref() != Some("ECS"));
        for made in wanted {
            assert!(seen.contains(&cursor(made)), "seed {seed}: {:?} is missing", cursor(made));
        }
    }
}
