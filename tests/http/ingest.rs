//! `POST /api/v1/traces`: what is taken in, what is refused, and what is said of it.

use axum::http::StatusCode;
use serde_json::json;
use trailproof::api::backend::Error;

use crate::fake::Fake;
use crate::{post, trace};

#[tokio::test]
async fn poison_is_appended_and_reported_and_its_neighbours_are_taken() {
    let fake = Fake::new(None);
    let good = trace(1, "alice", "x").to_string();
    let mut stranger = trace(2, "alice", "x");
    stranger["domain_id"] = json!("nobody");
    let stranger = stranger.to_string();
    let lines = [good.as_bytes(), b"\xff", b"{\"time\":1}", b"nope", stranger.as_bytes(), b"[]"];
    let body = lines.join(&b'\n');
    let answer = post(&fake, "application/x-ndjson", body).await;
    assert_eq!(answer.status, StatusCode::OK);
    let body = answer.json();
    assert_eq!((&body["accepted"], &body["rejected"]), (&json!(1), &json!(5)));
    let reasons: Vec<(u64, &str)> = body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["index"].as_u64().unwrap(), one["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        reasons,
        [
            (1, "not_utf8"),
            (2, "missing_member"),
            (3, "not_json"),
            (4, "unknown_account"),
            (5, "not_an_object"),
        ]
    );
    let mut kept = fake.raw();
    let mut sent: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
    kept.sort();
    sent.sort();
    assert_eq!(kept, sent, "every element is in the log byte for byte");
}

#[tokio::test]
async fn a_body_without_certain_elements_appends_nothing() {
    let fake = Fake::new(None);
    for (body, text) in [
        ("[{},", "bad JSON array: it does not end with ]"),
        ("", "the body is empty: send a JSON array or one trace a line"),
    ] {
        let answer = post(&fake, "application/json", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.json()["error_code"], "CTS.0003");
        assert_eq!(answer.json()["error_msg"], text);
    }
    let answer = post(&fake, "application/json", vec![b' '; (12 << 20) + 1]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(fake.raw().len(), 0);
}

#[tokio::test]
async fn an_element_that_the_log_does_not_take_is_named() {
    let fake = Fake::new(None);
    *fake.record_bytes_max.lock().unwrap() = 600;
    let (small, large) = (trace(1, "alice", "x"), trace(2, "alice", &"x".repeat(600)));
    let length = large.to_string().len();
    let answer = post(&fake, "application/json", json!([small, large]).to_string()).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let text = answer.json()["error_msg"].as_str().unwrap().to_owned();
    let start = format!("element 1 has {length} bytes, and the log takes 600; nothing was taken");
    assert!(text.starts_with(&start), "{text}");
    assert!(text.contains("max.message.bytes"), "{text}");
    assert_eq!(fake.raw().len(), 0);
    let answer = post(&fake, "application/json", json!([small]).to_string()).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_log_in_trouble_is_told_apart() {
    let fake = Fake::new(None);
    let body = trace(1, "alice", "x").to_string();
    *fake.failure.lock().unwrap() = Some(|| Error::Unavailable("the log is away".to_owned()));
    let answer = post(&fake, "application/json", body.clone()).await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, "1")
    );
    assert_eq!(answer.json()["error_msg"], "the log is away");
    *fake.failure.lock().unwrap() = Some(|| Error::DiskFull("no space left".to_owned()));
    let answer = post(&fake, "application/json", body).await;
    assert_eq!(answer.status, StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(answer.header("retry-after"), "5");
}
