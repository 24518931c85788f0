//! What every adapter of the object-store port promises.

use trailproof::object::{Error, Metadata, ObjectStore, Put};

pub(crate) fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn keys(store: &impl ObjectStore, bucket: &str, prefix: &str) -> Vec<String> {
    let mut keys = Vec::new();
    store
        .list(bucket, prefix, &mut |key, _| {
            keys.push(key.to_owned());
            true
        })
        .unwrap();
    keys
}

fn an_object_comes_back_with_its_metadata(store: &impl ObjectStore) {
    let names = metadata(&[("count", "2"), ("merkle-root", "ab\"é\n")]);
    assert_eq!(store.get("b", "a/b/c.json.zst").unwrap(), None);
    assert_eq!(store.put("b", "a/b/c.json.zst", b"\0bytes\xff", &names).unwrap(), Put::Created);
    assert_eq!(store.put("b", "a/empty", b"", &Vec::new()).unwrap(), Put::Created);
    let object = store.get("b", "a/b/c.json.zst").unwrap().unwrap();
    assert_eq!((object.bytes.as_slice(), object.metadata), (&b"\0bytes\xff"[..], names));
    let object = store.get("b", "a/empty").unwrap().unwrap();
    assert!(object.bytes.is_empty() && object.metadata.is_empty());
    assert_eq!(store.get("b", "a/b").unwrap(), None);
    assert_eq!(store.get("other", "a/empty").unwrap(), None);
}

fn a_put_never_overwrites(store: &impl ObjectStore) {
    let first = metadata(&[("n", "1")]);
    assert_eq!(store.put("b", "k", b"first", &first).unwrap(), Put::Created);
    let second = metadata(&[("n", "2")]);
    assert_eq!(store.put("b", "k", b"second", &second).unwrap(), Put::Exists);
    assert_eq!(store.put("other", "k", b"second", &second).unwrap(), Put::Created);
    let object = store.get("b", "k").unwrap().unwrap();
    assert_eq!((object.bytes.as_slice(), object.metadata), (&b"first"[..], first));
}

fn of_many_puts_at_once_one_wins(store: &impl ObjectStore) {
    let created: Vec<usize> = std::thread::scope(|scope| {
        let puts: Vec<_> = (0..8)
            .map(|number: usize| {
                scope.spawn(move || {
                    let names = metadata(&[("n", &number.to_string())]);
                    (store.put("b", "deep/er/k", &[number as u8; 9_000], &names), number)
                })
            })
            .collect();
        puts.into_iter()
            .map(|put| put.join().unwrap())
            .filter_map(|(put, number)| (put.unwrap() == Put::Created).then_some(number))
            .collect()
    });
    assert_eq!(created.len(), 1);
    let object = store.get("b", "deep/er/k").unwrap().unwrap();
    assert_eq!(object.bytes, [created[0] as u8; 9_000]);
    assert_eq!(object.metadata, metadata(&[("n", &created[0].to_string())]));
}

fn keys_are_listed_in_order_from_a_prefix(store: &impl ObjectStore) {
    let all = ["a", "a.b", "a/x", "a/y/1", "a/y/2", "a0", "ab/c", "b"];
    for key in ["b", "ab/c", "a0", "a/y/2", "a/y/1", "a/x", "a.b"] {
        store.put("b", key, key.as_bytes(), &metadata(&[("m", "v")])).unwrap();
    }
    let expected: Vec<&str> = all[1..].to_vec();
    assert_eq!(keys(store, "b", ""), expected);
    assert_eq!(keys(store, "b", "a/"), ["a/x", "a/y/1", "a/y/2"]);
    assert_eq!(keys(store, "b", "a/y"), ["a/y/1", "a/y/2"]);
    assert_eq!(keys(store, "b", "a/y/2"), ["a/y/2"]);
    assert_eq!(keys(store, "b", "c"), Vec::<String>::new());
    assert_eq!(keys(store, "none", ""), Vec::<String>::new());
    let mut seen = Vec::new();
    let mut visit = |key: &str, bytes: u64| {
        seen.push((key.to_owned(), bytes));
        seen.len() < 2
    };
    store.list("b", "a/", &mut visit).unwrap();
    assert_eq!(seen, [("a/x".to_owned(), 3), ("a/y/1".to_owned(), 5)]);
    store.put("a-bucket", "k", b"", &Vec::new()).unwrap();
    assert_eq!(store.buckets().unwrap(), ["a-bucket", "b"]);
}

fn unsafe_names_are_refused(store: &impl ObjectStore) {
    let long = "k".repeat(2_000);
    for (bucket, key) in [
        ("", "k"),
        ("..", "k"),
        (".", "k"),
        ("b\0", "k"),
        ("b", ""),
        ("b", "/k"),
        ("b", "k/"),
        ("b", "a//k"),
        ("b", "../k"),
        ("b", "a/../../k"),
        ("b", "a/./k"),
        ("b", "a\0k"),
        ("b", &long),
    ] {
        let error = store.put(bucket, key, b"x", &Vec::new()).unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{bucket:?} {key:?}: {error}");
        assert!(store.get(bucket, key).is_err(), "{bucket:?} {key:?}");
    }
    assert!(store.buckets().unwrap().is_empty());
}

/// Runs the suite; `with_empty` calls what it is given with an empty store.
pub(crate) fn suite<S: ObjectStore>(with_empty: impl Fn(&dyn Fn(&S))) {
    with_empty(&an_object_comes_back_with_its_metadata);
    with_empty(&a_put_never_overwrites);
    with_empty(&of_many_puts_at_once_one_wins);
    with_empty(&keys_are_listed_in_order_from_a_prefix);
    with_empty(&unsafe_names_are_refused);
}
