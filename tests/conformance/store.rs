//! What every adapter of the state-store port promises.

use std::collections::BTreeMap;

use trailproof::store::StateStore;
use trailproof_topology::key::{Key, Table};
use trailproof_topology::memory::Memory;
use trailproof_topology::state::{Change, Changes, Rows};

pub(crate) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn key(table: Table, number: u32) -> Vec<u8> {
    Key::of(table).u32(number).done()
}

pub(crate) fn put(store: &impl StateStore, rows: &[(Vec<u8>, Vec<u8>)]) {
    let mut changes = Changes::default();
    rows.iter().for_each(|(key, value)| changes.put(key.clone(), value.clone()));
    store.commit(&changes).unwrap();
}

/// Every row, read forward; checked to be the same read backward.
pub(crate) fn all<R: Rows<Error: std::fmt::Debug>>(rows: &R) -> Model {
    let mut forward = Vec::new();
    rows.scan(&[], &[0xff], &mut |key, value| {
        forward.push((key.to_vec(), value.to_vec()));
        true
    })
    .unwrap();
    let mut backward = Vec::new();
    rows.scan_back(&[], &[0xff], &mut |key, value| {
        backward.push((key.to_vec(), value.to_vec()));
        true
    })
    .unwrap();
    backward.reverse();
    assert!(forward == backward, "a scan and a scan back differ");
    assert!(forward.is_sorted_by(|a, b| a.0 < b.0), "a scan is in key order");
    let mut model: Model = forward.into_iter().collect();
    // The store's own row.
    model.remove(&Key::of(Table::Format).done());
    model
}

fn changes_hold_in_their_order(store: &impl StateStore) {
    let mut changes = Changes::default();
    for number in 0..10 {
        changes.put(key(Table::Segment, number), vec![1]);
    }
    changes.delete_range(key(Table::Segment, 2), key(Table::Segment, 8));
    changes.put(key(Table::Segment, 5), vec![2]);
    changes.delete(key(Table::Segment, 0));
    store.commit(&changes).unwrap();
    let found: Vec<(Vec<u8>, Vec<u8>)> = all(&store.snapshot()).into_iter().collect();
    let expected = [(1, 1), (5, 2), (8, 1), (9, 1)]
        .map(|(number, value)| (key(Table::Segment, number), vec![value]));
    assert_eq!(found, expected);
    assert_eq!(store.snapshot().get(&key(Table::Segment, 5)).unwrap(), Some(vec![2]));
    assert_eq!(store.snapshot().get(&key(Table::Segment, 4)).unwrap(), None);
}

fn scans_keep_to_their_range_and_stop_when_told(store: &impl StateStore) {
    for table in [Table::Tail, Table::Segment, Table::Chunk, Table::Run] {
        put(store, &[0, 1, 2, 3].map(|number| (key(table, number), vec![table as u8])));
    }
    let snapshot = store.snapshot();
    let (from, to) = (key(Table::Tail, 2), key(Table::Chunk, 2));
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        seen.push((key[0], key[4]));
        seen.len() < 7
    };
    snapshot.scan(&from, &to, &mut visit).unwrap();
    assert_eq!(seen, [(2, 2), (2, 3), (3, 0), (3, 1), (3, 2), (3, 3), (4, 0)]);
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        seen.push((key[0], key[4]));
        seen.len() < 4
    };
    snapshot.scan_back(&from, &to, &mut visit).unwrap();
    assert_eq!(seen, [(4, 1), (4, 0), (3, 3), (3, 2)]);
    let mut none = |_: &[u8], _: &[u8]| panic!("the range is empty");
    snapshot.scan(&to, &from, &mut none).unwrap();
    snapshot.scan_back(&to, &to, &mut none).unwrap();
}

fn a_snapshot_is_unmoved_by_later_commits(store: &impl StateStore) {
    put(store, &[(key(Table::Chunk, 1), vec![1; 9_000]), (key(Table::Position, 0), vec![1])]);
    let snapshot = store.snapshot();
    let before = all(&snapshot);
    put(store, &[(key(Table::Chunk, 1), vec![2]), (key(Table::Tail, 3), vec![2])]);
    let mut changes = Changes::default();
    changes.delete(key(Table::Position, 0));
    store.commit(&changes).unwrap();
    store.flush().unwrap();
    assert!(all(&snapshot) == before);
    assert_eq!(all(&store.snapshot()).len(), 2);
}

fn expiring_drops_the_range_and_nothing_else(store: &impl StateStore) {
    let tables = [Table::Segment, Table::Chunk, Table::Outbox, Table::Run, Table::RunHeader];
    for table in tables {
        for number in 0..50 {
            put(store, &[(key(table, number), vec![7; 5_000])]);
        }
        store.flush().unwrap();
    }
    for table in tables {
        store.expire(&key(table, 10), &key(table, 40)).unwrap();
    }
    store.expire(&key(Table::Segment, 60), &key(Table::Segment, 60)).unwrap();
    let found = all(&store.snapshot());
    assert_eq!(found.len(), 100);
    for table in tables {
        for number in (0..10).chain(40..50) {
            assert!(found.contains_key(&key(table, number)), "{table:?} {number}");
        }
    }
}

/// Random commits, compared with the rows in memory after each.
fn it_is_an_ordered_map(store: &impl StateStore) {
    let tables =
        [Table::Position, Table::Tail, Table::Chunk, Table::Run, Table::Window, Table::RunHeader];
    let mut state = 0x1234_5678_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let mut memory = Memory::default();
    for round in 0..300 {
        let mut changes = Changes::default();
        for _ in 0..random(20) {
            let mut any = || key(tables[random(5) as usize], random(30) as u32);
            let (one, two) = (any(), any());
            changes.list.push(match random(10) {
                0 => Change::DeleteRange(one.clone().min(two.clone()), one.max(two)),
                1 | 2 => Change::Delete(one),
                _ => Change::Put(one, vec![round as u8; random(6_000) as usize]),
            });
        }
        store.commit(&changes).unwrap();
        memory.commit(&changes);
        if random(40) == 0 {
            store.flush().unwrap();
        }
        if round % 10 == 0 {
            assert!(all(&store.snapshot()) == all(&memory), "round {round}");
        }
    }
    assert!(all(&store.snapshot()) == all(&memory));
}

/// Runs the suite; `with_empty` calls what it is given with an empty store.
pub(crate) fn suite<S: StateStore>(with_empty: impl Fn(&dyn Fn(&S))) {
    with_empty(&changes_hold_in_their_order);
    with_empty(&scans_keep_to_their_range_and_stop_when_told);
    with_empty(&a_snapshot_is_unmoved_by_later_commits);
    with_empty(&expiring_drops_the_range_and_nothing_else);
    with_empty(&it_is_an_ordered_map);
}
