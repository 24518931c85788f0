//! What the adapter asks of a store that works, and what it makes of a store that refuses.

use std::time::Duration;

use trailproof::object::s3::{Creation, Encryption, Environment, S3Store};
use trailproof::object::{Error, Found, ObjectStore as _, Put};

use crate::object::{keys, metadata, suite};
use crate::server::{ACCESS, Fault, Server};
use crate::store::{BUCKET, Conditions};

const TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn the_s3_store_keeps_the_promises_of_its_port() {
    for conditions in [Conditions::Kept, Conditions::NotImplemented, Conditions::Ignored] {
        suite(|test: &dyn Fn(&S3Store)| {
            // Pages of three keys: a listing must go on.
            let server = Server::with_pages(conditions, 3);
            test(&server.open(TIMEOUT));
            let own = "in/here/.tmp/conditional-create".to_owned();
            let overwritten = server.memory.kept().overwritten.clone();
            // A store that ignores the condition shows it on the probe, and on nothing else.
            let expected = if conditions == Conditions::Ignored { vec![own] } else { vec![] };
            assert_eq!(overwritten, expected, "{conditions:?}");
        });
    }
}

#[test]
fn the_probe_finds_out_how_a_store_creates() {
    for (conditions, expected) in [
        (Conditions::Kept, Creation::Conditional),
        (Conditions::Ignored, Creation::LookFirst),
        (Conditions::NotImplemented, Creation::LookFirst),
    ] {
        let server = Server::start(conditions);
        for _ in 0..2 {
            assert_eq!(server.open(TIMEOUT).known_creation(), Some(expected), "{conditions:?}");
        }
        assert_eq!(server.open(TIMEOUT).buckets().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn objects_lie_where_the_directory_store_would_have_them() {
    let server = Server::start(Conditions::Kept);
    let store = server.open(TIMEOUT);
    let names = metadata(&[("count", "2"), ("merkle-root", "ab")]);
    store.put("cts-1", "a/b/c.json.zst", b"text", &names).unwrap();
    let kept = server.memory.kept();
    let stored = &kept.objects["in/here/cts-1/a/b/c.json.zst"];
    assert_eq!(stored.bytes, b"text");
    assert_eq!(stored.content_type.as_deref(), Some("application/zstd"));
    assert_eq!(stored.metadata["merkle-root"], "ab");
    // The server has compared it with the body.
    assert!(stored.checksum.is_some());
}

#[test]
fn an_empty_prefix_is_the_whole_bucket() {
    let server = Server::start(Conditions::Kept);
    let store = S3Store::open(&server.settings("", TIMEOUT), None).unwrap();
    store.put("b", "k", b"x", &Vec::new()).unwrap();
    assert!(server.memory.kept().objects.contains_key("b/k"));
    assert_eq!(store.buckets().unwrap(), ["b"]);
    assert_eq!(keys(&store, "b", ""), ["k"]);
}

#[test]
fn two_prefixes_of_one_bucket_do_not_see_each_other() {
    let server = Server::start(Conditions::Kept);
    let one = S3Store::open(&server.settings("a", TIMEOUT), None).unwrap();
    let other = S3Store::open(&server.settings("a/b", TIMEOUT), None).unwrap();
    one.put("x", "k", b"1", &Vec::new()).unwrap();
    assert_eq!(other.get("x", "k").unwrap(), None);
    assert_eq!(other.buckets().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_longer_than_expected_is_not_read() {
    let server = Server::start(Conditions::Kept);
    let store = server.open(TIMEOUT);
    store.put("b", "k", &[7; 1_000], &Vec::new()).unwrap();
    assert_eq!(store.get_at_most("b", "k", 999).unwrap(), Found::Longer(1_000));
    assert!(matches!(store.get_at_most("b", "k", 1_000).unwrap(), Found::Object(_)));
    assert_eq!(store.get_at_most("b", "other", 1_000).unwrap(), Found::Absent);
}

fn refused(result: Result<S3Store, Error>) -> String {
    match result {
        Err(Error::Refused(text)) => text,
        Err(error) => panic!("not refused: {error}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn a_store_that_refuses_us_is_named_with_a_remedy() {
    let server = Server::start(Conditions::Kept);
    let mut settings = server.settings("p", TIMEOUT);
    settings.bucket = "another".to_owned();
    let text = refused(S3Store::open(&settings, None));
    assert!(text.contains("s3://another/p: there is no such bucket"), "{text}");

    let mut settings = server.settings("p", TIMEOUT);
    settings.environment = Environment::of([
        ("AWS_ACCESS_KEY_ID", ACCESS.0),
        ("AWS_SECRET_ACCESS_KEY", "another secret"),
    ]);
    let text = refused(S3Store::open(&settings, None));
    assert!(text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
    assert!(!format!("{settings:?}").contains("another secret"));

    for (code, name, remedy) in [
        (403, "AccessDenied", "s3:PutObject"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "RequestTimeTooSkewed", "clock"),
        (301, "PermanentRedirect", "objects.region"),
        (400, "AuthorizationHeaderMalformed", "objects.region"),
        (405, "MethodNotAllowed", "405"),
    ] {
        let server = Server::start(Conditions::Kept);
        server.plan(&hyper::Method::PUT, [Fault::Status(code, name)]);
        let text = refused(S3Store::open(&server.settings("p", TIMEOUT), None));
        assert!(text.contains(remedy), "{code} {name}: {text}");
        assert_eq!(server.left(), 0);
        assert_eq!(server.memory.kept().objects.len(), 0);
    }
}

#[test]
fn what_a_store_says_of_a_session_token_is_not_shown() {
    let server = Server::start(Conditions::Kept);
    let store = server.open(Duration::from_secs(1));
    for (code, name, said) in [
        (400, "ExpiredToken", "have run out"),
        (403, "RequestExpired", "have run out"),
        (400, "InvalidToken", "renew all three"),
    ] {
        server.always(Some(Fault::Status(code, name)));
        let error = store.put("b", "k", b"x", &Vec::new()).unwrap_err();
        // Passing: the outbox asks again until somebody has renewed them.
        assert!(matches!(error, Error::Unavailable(_)), "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains(said) && !text.contains('<'), "{name}: {text}");
    }
}

#[test]
fn what_no_request_could_carry_is_refused_at_the_start() {
    let server = Server::start(Conditions::Kept);
    let mut settings = server.settings("p", TIMEOUT);
    (settings.endpoint, settings.region) = (None, None);
    for (name, value, said) in [
        ("AWS_ACCESS_KEY_ID", "two\nlines", "AWS_ACCESS_KEY_ID is no key"),
        ("AWS_TOKEN", "t\u{e9}", "AWS_TOKEN is no key"),
        ("AWS_SECRET_ACCESS_KEY", "s\n", "AWS_SECRET_ACCESS_KEY is no key"),
        ("AWS_REGION", "eu\n", "\"eu\\n\" is no region"),
        ("AWS_ENDPOINT_URL", "http://user:pw@host", "the endpoint is none"),
    ] {
        settings.environment = Environment::of([(name, value)]);
        let text = refused(S3Store::open(&settings, None));
        assert!(text.contains(said) && !text.contains("pw"), "{text}");
    }
}

#[test]
fn keys_of_a_profile_may_change_while_it_is_used() {
    let server = Server::start(Conditions::Kept);
    let home = tempfile::tempdir().unwrap();
    let mut settings = server.settings("p", TIMEOUT);
    let here = settings.endpoint.take().unwrap();
    (settings.region, settings.path_style) = (None, None);
    let path = home.path().join("keys");
    let write = |secret: &str| {
        let keys = format!("aws_access_key_id = {}\naws_secret_access_key = {secret}", ACCESS.0);
        let place = format!("region = eu-test-1\nendpoint_url = {here}");
        std::fs::write(&path, format!("[audit]\n{place}\n{keys}\n")).unwrap();
    };
    let file = ("AWS_SHARED_CREDENTIALS_FILE", path.to_str().unwrap());
    settings.environment = Environment::of([file, ("AWS_PROFILE", "none")]);
    let text = refused(S3Store::open(&settings, None));
    assert!(text.contains("AWS_PROFILE names \"none\""), "{text}");
    settings.environment = Environment::of([file, ("AWS_PROFILE", "audit")]);
    write(ACCESS.1);
    let store = S3Store::open(&settings, None).unwrap();
    let put = |key| store.put("b", key, b"x", &Vec::new()).map_err(|error| error.to_string());
    assert_eq!(put("1"), Ok(Put::Created));
    write("another");
    let text = put("2").unwrap_err();
    assert!(text.contains("the secret key is wrong") && text.contains("the profile"), "{text}");
    write(ACCESS.1);
    assert_eq!(put("2"), Ok(Put::Created));
    // In the midst of being written: the keys stay.
    std::fs::write(&path, "[audit]\naws_access_key_id = ").unwrap();
    assert_eq!(put("3"), Ok(Put::Created));
}

#[test]
fn a_store_that_refuses_every_put_is_not_taken_for_one_without_conditions() {
    let server = Server::start(Conditions::Kept);
    server.always(Some(Fault::Status(400, "InvalidRequest")));
    let text = refused(S3Store::open(&server.settings("p", TIMEOUT), None));
    assert!(text.contains("400"), "{text}");
    // One that answers 400 to the condition alone is.
    server.always(None);
    server.plan(&hyper::Method::PUT, [Fault::Status(400, "InvalidArgument")]);
    assert_eq!(server.open(TIMEOUT).known_creation(), Some(Creation::LookFirst));
}

#[test]
fn the_bucket_may_stand_in_the_name_of_the_host() {
    let server = Server::start(Conditions::Kept);
    let mut settings = server.settings("p", Duration::from_secs(2));
    settings.path_style = Some(false);
    settings.endpoint = Some(format!("http://localhost.invalid:{}", server.address.port()));
    // No such host: what matters is which one was asked for.
    let store = S3Store::open(&settings, None).unwrap();
    let text = store.get("b", "k").unwrap_err().to_string();
    assert!(text.contains(&format!("//{BUCKET}.localhost.invalid:")), "{text}");
}

#[test]
fn encryption_is_asked_for() {
    let server = Server::start(Conditions::Kept);
    for encryption in [Encryption::Store, Encryption::Kms(None), Encryption::Kms(Some("k".into()))]
    {
        let mut settings = server.settings("p", TIMEOUT);
        settings.encryption = Some(encryption);
        // The server takes the header; tests/independent/s3.py sees what it says.
        let store = S3Store::open(&settings, None).unwrap();
        assert!(store.put("b", "k", b"x", &Vec::new()).is_ok());
    }
    assert_eq!(
        Server::start(Conditions::Kept).open(TIMEOUT).put("b", "k", b"x", &vec![]).unwrap(),
        Put::Created
    );
}
