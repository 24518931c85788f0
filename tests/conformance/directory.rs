//! The directory store: the suite of its port, and its own promises on a real disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use trailproof::object::directory::DirectoryStore;
use trailproof::object::{Error, ObjectStore, Put};

use crate::object::{keys, metadata, suite};
use crate::tmpfs::Tmpfs;

#[test]
fn the_directory_store_keeps_the_promises_of_its_port() {
    suite(|test: &dyn Fn(&DirectoryStore)| {
        let folder = tempfile::tempdir().unwrap();
        test(&DirectoryStore::open(&folder.path().join("objects")).unwrap());
    });
}

#[test]
fn files_lie_where_they_are_documented_to_lie() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let names = metadata(&[("b", "2"), ("a", "1")]);
    store.put("bucket", "year/file.json", b"text", &names).unwrap();
    let file = folder.path().join("bucket/year/file.json");
    assert_eq!(fs::read(&file).unwrap(), b"text");
    let side = folder.path().join("bucket/year/file.json.meta.json");
    assert_eq!(fs::read_to_string(side).unwrap(), r#"{"a":"1","b":"2"}"#);
    assert_eq!(fs::read_dir(folder.path().join(".tmp")).unwrap().count(), 0);
    let error = store.put("bucket", "k.meta.json", b"", &names).unwrap_err();
    assert!(error.to_string().contains("side file"), "{error}");
}

#[test]
fn what_a_crash_left_behind_is_ignored_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join(".tmp")).unwrap();
    let left = fs::File::create(folder.path().join(".tmp/1-0")).unwrap();
    left.set_modified(SystemTime::now() - Duration::from_secs(7_200)).unwrap();
    fs::write(folder.path().join(".tmp/2-0"), b"another instance is writing it").unwrap();
    fs::create_dir_all(folder.path().join("b")).unwrap();
    fs::write(folder.path().join("b/k.meta.json"), b"{\"n\":\"old\"}").unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let kept: Vec<_> = fs::read_dir(folder.path().join(".tmp")).unwrap().collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(keys(&store, "b", "").is_empty());
    assert_eq!(store.get("b", "k").unwrap(), None);
    let names = metadata(&[("n", "new")]);
    assert_eq!(store.put("b", "k", b"x", &names).unwrap(), Put::Created);
    assert_eq!(store.get("b", "k").unwrap().unwrap().metadata, names);
}

/// As a power failure may leave it: the entry is there, the text is not.
#[test]
fn an_empty_side_file_without_object_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    fs::create_dir_all(folder.path().join("b/day")).unwrap();
    let side = folder.path().join("b/day/k.meta.json");
    fs::write(&side, b"").unwrap();
    let names = metadata(&[("n", "1")]);
    assert_eq!(store.put("b", "day/k", b"text", &names).unwrap(), Put::Created);
    assert_eq!(fs::read(&side).unwrap(), b"{\"n\":\"1\"}");
    assert_eq!(fs::read_dir(folder.path().join(".tmp")).unwrap().count(), 0);
}

/// Somebody may move old years away while the store runs.
#[test]
fn a_folder_that_was_taken_away_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let names = metadata(&[("n", "1")]);
    for _ in 0..2 {
        assert_eq!(store.put("b", "year/day/k", b"text", &names).unwrap(), Put::Created);
        assert_eq!(store.put("b", "year/day/k", b"text", &names).unwrap(), Put::Exists);
        fs::remove_dir_all(folder.path().join("b/year")).unwrap();
    }
}

/// As after a power failure: what was synced is there, and of the folder's entries any.
#[test]
fn an_object_gets_the_side_file_that_a_crash_took_if_it_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let names = metadata(&[("n", "1")]);
    let side = folder.path().join("b/k.meta.json");
    store.put("b", "k", b"text", &names).unwrap();
    fs::remove_file(&side).unwrap();
    assert_eq!(store.put("b", "k", b"other", &names).unwrap(), Put::Exists);
    assert!(!side.exists());
    assert_eq!(store.put("b", "k", b"text", &names).unwrap(), Put::Exists);
    let object = store.get("b", "k").unwrap().unwrap();
    assert_eq!((object.bytes.as_slice(), object.metadata), (b"text".as_slice(), names));
    let other = metadata(&[("n", "2")]);
    assert_eq!(store.put("b", "k", b"text", &other).unwrap(), Put::Exists);
    assert_eq!(fs::read(&side).unwrap(), b"{\"n\":\"1\"}");
}

#[test]
fn several_stores_write_to_one_directory() {
    let folder = tempfile::tempdir().unwrap();
    let stores: Vec<_> = (0..4).map(|_| DirectoryStore::open(folder.path()).unwrap()).collect();
    let names = metadata(&[("n", "1")]);
    let created: usize = std::thread::scope(|scope| {
        let all: Vec<_> = stores
            .iter()
            .map(|store| {
                let names = &names;
                scope.spawn(move || {
                    let put = |key: u32| store.put("b", &format!("f/{key}"), b"x", names).unwrap();
                    (0..50).map(put).filter(|answer| *answer == Put::Created).count()
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(created, 50);
    for key in 0..50 {
        let found = stores[0].get("b", &format!("f/{key}")).unwrap().unwrap();
        assert_eq!((found.bytes.as_slice(), &found.metadata), (b"x".as_slice(), &names));
    }
    assert_eq!(fs::read_dir(folder.path().join(".tmp")).unwrap().count(), 0);
}

#[test]
fn no_path_leads_out_of_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    let store = DirectoryStore::open(&folder.path().join("root")).unwrap();
    fs::create_dir(folder.path().join("root/b")).unwrap();
    symlink(&outside, folder.path().join("root/b/link")).unwrap();
    symlink(outside.join("secret"), folder.path().join("root/b/file")).unwrap();
    let refused = [
        store.put("b", "link/new", b"x", &Vec::new()).map(|_| ()),
        store.get("b", "link/secret").map(|_| ()),
        store.get("b", "file").map(|_| ()),
    ];
    for result in refused {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Refused(text) if text.contains("leads out")), "{error}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn reading_a_copy_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("copy");
    assert!(DirectoryStore::read(&root).is_err());
    fs::create_dir_all(root.join("b")).unwrap();
    let store = DirectoryStore::read(&root).unwrap();
    assert_eq!(store.buckets().unwrap(), ["b"]);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let Some(disk) = Tmpfs::mount(8) else { return };
    let store = DirectoryStore::open(disk.path()).unwrap();
    let ballast = disk.fill(100_000);
    let bytes = vec![7; 1 << 20];
    let names = metadata(&[("n", "1")]);
    let error = store.put("b", "k", &bytes, &names).unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("full")), "{error}");
    assert_eq!(store.get("b", "k").unwrap(), None);
    assert_eq!(fs::read_dir(disk.path().join(".tmp")).unwrap().count(), 0);
    Tmpfs::free(&ballast);
    assert_eq!(store.put("b", "k", &bytes, &names).unwrap(), Put::Created);
    assert_eq!(store.get("b", "k").unwrap().unwrap().bytes, bytes);
}
