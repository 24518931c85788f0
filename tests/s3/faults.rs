//! Requests that break: whatever happens, an object is there once, whole, and never overwritten.

use std::time::Duration;

use hyper::Method;
use trailproof::object::s3::S3Store;
use trailproof::object::{Error, ObjectStore as _, Put};

use crate::object::metadata;
use crate::server::{Fault, Server};
use crate::store::Conditions;

const BOTH: [Conditions; 2] = [Conditions::Kept, Conditions::NotImplemented];

/// Long enough for what is to succeed in the end.
const PATIENT: Duration = Duration::from_secs(20);
/// Of a client that meets a server which says nothing.
const HASTY: Duration = Duration::from_secs(1);

fn put(store: &S3Store, key: &str) -> Result<Put, Error> {
    store.put("b", key, key.repeat(1_000).as_bytes(), &metadata(&[("name", key)]))
}

/// The object is there, as it was put, and nothing was ever overwritten.
fn check(server: &Server, store: &S3Store, key: &str) {
    let object = store.get("b", key).unwrap().unwrap();
    assert_eq!(object.bytes, key.repeat(1_000).as_bytes());
    assert_eq!(object.metadata, metadata(&[("name", key)]));
    assert_eq!(server.left(), 0, "a planned fault has not struck");
    let kept = server.memory.kept();
    assert!(kept.overwritten.is_empty(), "{:?}", kept.overwritten);
    let name = format!("in/here/b/{key}");
    assert_eq!(kept.created.iter().filter(|own| **own == name).count(), 1);
}

/// Puts three keys, each through `faults`; gives the answers.
fn puts_through(conditions: Conditions, timeout: Duration, faults: &[Fault]) -> Vec<Put> {
    let server = Server::start(conditions);
    let store = server.open(timeout);
    let puts = ["one", "two", "three"].map(|key| {
        server.plan(&Method::PUT, faults.iter().cloned());
        let answer = put(&store, key).unwrap();
        check(&server, &store, key);
        answer
    });
    puts.to_vec()
}

#[test]
fn a_put_that_is_turned_away_is_made_again() {
    for (code, name) in [
        (500, "InternalError"),
        (503, "SlowDown"),
        (429, "TooManyRequests"),
        (409, "ConditionalRequestConflict"),
        (400, "RequestTimeout"),
        (403, "ExpiredToken"),
    ] {
        for conditions in BOTH {
            let faults = vec![Fault::Status(code, name); 3];
            let puts = puts_through(conditions, PATIENT, &faults);
            assert_eq!(puts, [Put::Created; 3], "{code} {name} {conditions:?}");
        }
    }
}

#[test]
fn a_put_whose_connection_breaks_is_made_again() {
    for conditions in BOTH {
        let puts = puts_through(conditions, PATIENT, &[Fault::Reset, Fault::Reset]);
        assert_eq!(puts, [Put::Created; 3], "{conditions:?}");
    }
}

#[test]
fn a_put_that_took_place_unheard_finds_its_own_object() {
    for conditions in BOTH {
        let puts = puts_through(conditions, PATIENT, &[Fault::LostAnswer]);
        assert_eq!(puts, [Put::Exists; 3], "{conditions:?}");
    }
}

#[test]
fn a_slow_put_is_waited_for() {
    let faults = [Fault::Slow(Duration::from_millis(300))];
    assert_eq!(puts_through(Conditions::Kept, PATIENT, &faults), [Put::Created; 3]);
}

#[test]
fn a_put_without_an_answer_ends_and_may_be_made_again() {
    let server = Server::start(Conditions::Kept);
    let store = server.open(HASTY);
    for key in ["one", "two", "three"] {
        server.plan(&Method::PUT, [Fault::Hang]);
        let error = put(&store, key).unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert_eq!(put(&store, key).unwrap(), Put::Created);
        check(&server, &store, key);
    }
}

#[test]
fn other_content_under_a_key_is_found_and_kept() {
    for conditions in BOTH {
        let server = Server::start(conditions);
        let store = server.open(PATIENT);
        for key in ["one", "two", "three"] {
            store.put("b", key, b"planted", &Vec::new()).unwrap();
            // Once heard at once, once after a lost answer.
            for faults in [vec![], vec![Fault::LostAnswer]] {
                server.plan(&Method::PUT, faults.into_iter().filter(|_| conditions == BOTH[0]));
                assert_eq!(put(&store, key).unwrap(), Put::Exists);
            }
            assert_eq!(store.get("b", key).unwrap().unwrap().bytes, b"planted");
            // The same content is no other answer: the caller compares.
            assert_eq!(store.put("b", key, b"planted", &Vec::new()).unwrap(), Put::Exists);
        }
        assert!(server.memory.kept().overwritten.is_empty());
        assert_eq!(server.left(), 0);
    }
}

#[test]
fn a_get_that_breaks_is_made_again_and_never_comes_in_part() {
    let server = Server::start(Conditions::Kept);
    let store = server.open(PATIENT);
    for (at, faults) in [
        vec![Fault::CutBody],
        vec![Fault::CutBody, Fault::CutBody, Fault::CutBody],
        vec![Fault::Reset, Fault::CutBody],
        vec![Fault::Status(503, "SlowDown"), Fault::CutBody, Fault::Status(500, "InternalError")],
        vec![Fault::LostAnswer, Fault::LostAnswer],
        vec![Fault::Slow(Duration::from_millis(200))],
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("key-{at}");
        put(&store, &key).unwrap();
        for _ in 0..3 {
            server.plan(&Method::GET, faults.iter().cloned());
            check(&server, &store, &key);
        }
    }
}

#[test]
fn a_listing_that_breaks_is_made_again_and_leaves_nothing_out() {
    let server = Server::with_pages(Conditions::Kept, 2);
    let store = server.open(PATIENT);
    let all: Vec<String> = (0..9).map(|number| format!("k{number}")).collect();
    for key in &all {
        put(&store, key).unwrap();
    }
    for fault in [Fault::CutBody, Fault::Reset, Fault::Status(503, "SlowDown"), Fault::LostAnswer] {
        server.plan(&Method::GET, vec![fault; 3]);
        assert_eq!(crate::object::keys(&store, "b", ""), all);
        assert_eq!(server.left(), 0);
    }
}

#[test]
fn the_tries_of_one_call_are_bounded() {
    let server = Server::start(Conditions::Kept);
    let store = server.open(PATIENT);
    server.always(Some(Fault::Status(503, "SlowDown")));
    let before = server.requests().0;
    assert!(matches!(put(&store, "k").unwrap_err(), Error::Unavailable(_)));
    assert_eq!(server.requests().0 - before, 6);
    // A store that is known to be down is asked once, so that nobody is held up.
    for _ in 0..3 {
        let before = server.requests().0;
        assert!(put(&store, "k").is_err());
        assert_eq!(server.requests().0 - before, 1);
    }
    server.always(None);
    assert_eq!(put(&store, "k").unwrap(), Put::Created);
    check(&server, &store, "k");
    // It is up again, so a call has all its tries again.
    server.plan(&Method::PUT, vec![Fault::Status(503, "SlowDown"); 3]);
    assert_eq!(put(&store, "l").unwrap(), Put::Created);
}

#[test]
fn a_store_that_is_down_at_the_start_is_probed_by_the_first_put() {
    for conditions in BOTH {
        let server = Server::start(conditions);
        server.always(Some(Fault::Reset));
        let store = server.open(HASTY);
        assert_eq!(store.known_creation(), None);
        assert!(put(&store, "k").is_err());
        server.always(None);
        assert_eq!(put(&store, "k").unwrap(), Put::Created);
        assert!(store.known_creation().is_some());
        check(&server, &store, "k");
    }
}
