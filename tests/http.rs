//! The HTTP surfaces over a backend in memory, without a socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;
#[path = "http/ingest.rs"]
mod ingest;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use fake::{Fake, START_MS};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use trailproof::api::backend::Error;
use trailproof::api::{Shared, app};
use trailproof::config::{DEV_ACCOUNT, DEV_PROJECT, Http};
use trailproof::metrics::Metrics;

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn send(fake: &Arc<Fake>, request: Request<Body>) -> Answer {
    let http = Http { connections_max: 1, queries_max: 2, request_timeout: Duration::from_secs(5) };
    let metrics = Arc::new(Metrics::new().unwrap());
    let clock = Arc::new(|| START_MS + 60_000);
    let backend = Arc::clone(fake) as Arc<dyn trailproof::api::backend::Backend>;
    let router = app(Shared::new(backend, clock, metrics, &http, 64 << 20));
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(fake: &Arc<Fake>, uri: &str) -> Answer {
    send(fake, Request::get(uri).body(Body::empty()).unwrap()).await
}

async fn post(fake: &Arc<Fake>, content_type: &str, body: impl Into<Body>) -> Answer {
    let request = Request::post("/api/v1/traces").header("content-type", content_type);
    send(fake, request.body(body.into()).unwrap()).await
}

fn trace(number: u32, user: &str, name: &str) -> Value {
    json!({
        "trace_id": format!("id-{number}"), "time": START_MS + i64::from(number) * 1_000,
        "domain_id": DEV_ACCOUNT, "service_type": "ECS", "resource_type": "ecs",
        "trace_name": name, "trace_rating": "normal", "trace_type": "ApiCall",
        "user": {"name": user}, "code": 200, "request": {"a": [1, 2]},
    })
}

/// Twenty-five traces: alice creates, every fifth is bob deleting.
async fn filled() -> Arc<Fake> {
    let fake = Fake::new(None);
    let traces: Vec<Value> = (0..25)
        .map(|number| match number % 5 {
            0 => trace(number, "bob", "deleteServer"),
            _ => trace(number, "alice", "createServer"),
        })
        .collect();
    let answer = post(&fake, "application/json", json!(traces).to_string()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json(), json!({"accepted": 25, "rejected": 0, "errors": []}));
    fake
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["traces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["trace_id"].as_str().unwrap())
        .collect()
}

const WINDOW: &str = "from=1699999999999&to=1700000060000";

async fn v3(fake: &Arc<Fake>, query: &str) -> Answer {
    get(fake, &format!("/v3/{DEV_PROJECT}/traces?{query}")).await
}

#[tokio::test]
async fn an_answer_without_every_partition_is_refused_unless_asked_for() {
    let fake = filled().await;
    *fake.missing.lock().unwrap() = vec![1, 3];
    let queries = ["traces?limit=1", "facets?field=user", "histogram?interval=1h"];
    for query in queries {
        let answer = get(&fake, &format!("/api/v1/{query}")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{query}");
        assert_eq!(answer.header("retry-after"), "1");
        let text = answer.json()["error_msg"].as_str().unwrap().to_owned();
        assert!(text.contains("partitions 1, 3") && text.contains("partial=true"), "{text}");
        let answer = get(&fake, &format!("/api/v1/{query}&partial=true")).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}");
        assert_eq!(answer.json()["partial"], json!({"partitions_missing": [1, 3]}), "{query}");
    }
    let answer = get(&fake, &format!("/v3/{DEV_PROJECT}/traces?partial=true")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    fake.missing.lock().unwrap().clear();
    for query in queries {
        let answer = get(&fake, &format!("/api/v1/{query}&partial=true")).await;
        assert_eq!(answer.json()["partial"], Value::Null, "{query}");
    }
}

#[tokio::test]
async fn pages_go_on_to_earlier_traces_until_the_marker_is_null() {
    let fake = filled().await;
    let mut seen = vec![];
    let mut next = String::new();
    loop {
        let answer = v3(&fake, &format!("{WINDOW}&limit=10{next}")).await;
        assert_eq!(answer.status, StatusCode::OK);
        let page = answer.json();
        assert_eq!(page["meta_data"]["count"], json!(ids(&page).len()));
        seen.extend(ids(&page).into_iter().map(ToOwned::to_owned));
        match page["meta_data"]["marker"].as_str() {
            Some(marker) => {
                assert_eq!(seen.last().unwrap(), marker);
                next = format!("&next={marker}");
            }
            None => break,
        }
    }
    let expect: Vec<String> = (0..25).rev().map(|number| format!("id-{number}")).collect();
    assert_eq!(seen, expect);
}

#[tokio::test]
async fn the_default_is_ten_management_traces_of_the_last_hour() {
    let fake = filled().await;
    let page = v3(&fake, "").await.json();
    assert_eq!((ids(&page).len(), &page["meta_data"]["marker"]), (10, &json!("id-15")));
    let page = v3(&fake, "to=1700000000001").await.json();
    assert_eq!(ids(&page), ["id-0"], "an hour before to");
    let page = v3(&fake, "from=1700000000022").await.json();
    assert_eq!(ids(&page), ["id-24", "id-23"], "from is exclusive");
    let page = v3(&fake, "trace_type=data").await.json();
    assert_eq!(page, json!({"traces": [], "meta_data": {"count": 0, "marker": null}}));
}

#[tokio::test]
async fn criteria_are_anded_and_a_trace_id_overrides_them() {
    let fake = filled().await;
    let page = v3(&fake, &format!("{WINDOW}&user=bob&trace_name=deleteServer&unknown=x")).await;
    assert_eq!(ids(&page.json()), ["id-20", "id-15", "id-10", "id-5", "id-0"]);
    let page = v3(&fake, &format!("{WINDOW}&user=bob&trace_name=createServer")).await.json();
    assert_eq!(ids(&page).len(), 0);
    let page = v3(&fake, "from=1&to=2&user=nobody&trace_id=id-7&limit=1").await.json();
    assert_eq!((ids(&page), &page["meta_data"]["marker"]), (vec!["id-7"], &Value::Null));
    assert_eq!(v3(&fake, "trace_id=none").await.json()["meta_data"]["count"], 0);
}

#[tokio::test]
async fn types_are_what_the_sdk_demands() {
    let fake = filled().await;
    let page = v3(&fake, "trace_id=id-5").await.json();
    let trace = &page["traces"][0];
    assert_eq!(trace["code"], json!("200"));
    assert_eq!(trace["request"], json!("{\"a\":[1,2]}"));
    assert_eq!(trace["time"], json!(START_MS + 5_000));
    assert_eq!(trace["user"], json!({"name": "bob"}));
}

#[tokio::test]
async fn what_v3_cannot_answer_is_refused_with_both_members() {
    let fake = filled().await;
    for (query, text) in [
        ("limit=201", "limit takes a whole number from 1 to 200, not \"201\""),
        ("limit=0", "limit takes a whole number from 1 to 200, not \"0\""),
        ("from=soon", "from takes a whole number from 0 to 9999999999999, not \"soon\""),
        ("trace_type=other", "trace_type takes system or data"),
        ("trace_rating=bad", "trace_rating takes normal, warning or incident"),
        (
            "next=gone",
            "next names no trace: it takes the marker of the page before, within the days that \
             are kept",
        ),
    ] {
        let answer = v3(&fake, query).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        let id = answer.header("x-request-id");
        let expect = json!({"error_code": "CTS.0300", "error_msg": text, "request_id": id});
        assert_eq!(answer.json(), expect);
    }
    let answer = get(&fake, "/v3/nobody/traces").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.json()["error_code"], "CTS.0012");
    assert_eq!(
        answer.json()["error_msg"],
        "the project id in the path is wrong: no account has this project"
    );
}

#[tokio::test]
async fn a_marker_is_certain_where_two_traces_have_one_id() {
    let fake = Fake::new(None);
    let twins: Vec<Value> =
        [7, 1, 7, 2].map(|number| trace(number, &format!("u{number}"), "x")).to_vec();
    post(&fake, "application/json", json!(twins).to_string()).await;
    let mut seen = vec![];
    let mut next = String::new();
    for _ in 0..4 {
        let page = v3(&fake, &format!("{WINDOW}&limit=1{next}")).await.json();
        seen.extend(ids(&page).into_iter().map(ToOwned::to_owned));
        next = format!("&next={}", page["meta_data"]["marker"].as_str().unwrap_or(""));
    }
    assert_eq!(seen, ["id-2", "id-7", "id-1", "id-7"]);
}

const PROJECTS: &str = r#"
[[accounts]]
id = "acme"
projects = [{ id = "p1", name = "one" }, { id = "p2", name = "two" }]
"#;

#[tokio::test]
async fn a_project_sees_its_own_traces_and_the_default_one_the_rest() {
    let fake = Fake::new(Some(PROJECTS));
    let mut traces: Vec<Value> = (0..3).map(|number| trace(number, "a", "x")).collect();
    for one in &mut traces {
        one["domain_id"] = json!("acme");
    }
    traces[1]["project_id"] = json!("p2");
    traces[2]["project_id"] = json!("p1");
    post(&fake, "application/json", json!(traces).to_string()).await;
    for (project, expect) in [("p1", vec!["id-2", "id-0"]), ("p2", vec!["id-1"])] {
        let page = get(&fake, &format!("/v3/{project}/traces")).await.json();
        assert_eq!(ids(&page), expect, "{project}");
    }
}

async fn native(fake: &Arc<Fake>, query: &str) -> Value {
    let answer = get(fake, &format!("/api/v1/traces?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{query}");
    answer.json()
}

#[tokio::test]
async fn native_filters_take_values_negation_prefix_and_text() {
    let fake = filled().await;
    for (query, count) in [
        ("", 25),
        ("user=bob&user=alice", 25),
        ("user!=bob", 20),
        ("user!=bob&user!=alice", 0),
        ("user^=al", 20),
        ("user^=al&user^=b", 25),
        ("user!^=al", 5),
        ("user!^=al&user!^=b", 0),
        ("source_ip!^=1", 25),
        ("trace_name~=DELETE", 5),
        ("trace_name~=DELETE&trace_name~=server", 25),
        ("trace_name!~=DELETE", 20),
        ("trace_name!~=DELETE&trace_name!~=SERVER", 0),
        ("user!%5E=al", 5),
        ("trace_name^=create&trace_name~=SERVER&user!=bob", 20),
        ("trace_name^=create&user=bob", 0),
        ("source_ip!=x", 25),
        ("from=1700000005000&to=1700000010000", 5),
        ("recorded_from=2023-11-14T22:13:20.020Z", 5),
        ("tracker=system&trace_status=normal", 25),
    ] {
        let page = native(&fake, &format!("{query}&count=true&limit=1")).await;
        assert_eq!(page["meta_data"]["total"], count, "{query}");
    }
}

#[tokio::test]
async fn native_pages_go_either_way() {
    let fake = filled().await;
    for (order, first) in [("oldest", "id-0"), ("newest", "id-24")] {
        let mut seen = vec![];
        let mut cursor = String::new();
        loop {
            let page = native(&fake, &format!("order={order}&limit=7{cursor}")).await;
            seen.extend(ids(&page).into_iter().map(ToOwned::to_owned));
            let word = page["meta_data"]["cursor"].as_str().unwrap();
            cursor = format!("&cursor={word}");
            if page["meta_data"]["more"] == false {
                break;
            }
        }
        assert_eq!((seen.len(), seen[0].as_str()), (25, first));
        // Behind the end the cursor stays, so that a follower can go on.
        let page = native(&fake, &format!("order={order}{cursor}")).await;
        assert_eq!(page["traces"], json!([]));
        assert_eq!(format!("&cursor={}", page["meta_data"]["cursor"].as_str().unwrap()), cursor);
    }
}

#[tokio::test]
async fn native_parameters_that_mean_nothing_are_refused() {
    let fake = filled().await;
    for (query, text) in [
        ("usr=x", "there is no parameter \"usr\", did you mean user?"),
        ("user=", "user has no value"),
        ("user!^=", "user!^ has no value"),
        (
            "user^!=a",
            "there is no comparison \"user^!\": a field takes =, ^= or ~=, with ! in front for \
             the opposite",
        ),
        ("account=x", "there is no account \"x\""),
        ("tracker=sytem", "there is no tracker \"sytem\", did you mean system?"),
        ("order=up", "order takes newest or oldest"),
        ("cursor=x", "the cursor is none that was given out"),
        (
            "from=soon",
            "from takes milliseconds since 1970 or a time as 2026-01-31T12:00:00Z, not \"soon\"",
        ),
    ] {
        let answer = get(&fake, &format!("/api/v1/traces?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let body = answer.json();
        assert_eq!((&body["error_msg"], &body["detail"]), (&json!(text), &json!(text)));
        assert_eq!((&body["error_code"], &body["status"]), (&json!("CTS.0300"), &json!(400)));
    }
}

#[tokio::test]
async fn facets_and_histograms_count() {
    let fake = filled().await;
    let answer = get(&fake, "/api/v1/facets?field=user,source_ip&limit=1").await.json();
    let expect = json!({"facets": {
        "source_ip": {"values": [], "others": 0, "absent": 25},
        "user": {"values": [{"value": "alice", "count": 20}], "others": 1, "absent": 0},
    }});
    assert_eq!(answer, expect);
    let uri = "/api/v1/histogram?interval=10s&from=1700000000000&to=1700000030000&user=alice";
    let answer = get(&fake, uri).await.json();
    let counts: Vec<u64> = answer["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["count"].as_u64().unwrap())
        .collect();
    assert_eq!((counts, &answer["total"]), (vec![8, 8, 4], &json!(20)));
    let answer = get(&fake, "/api/v1/histogram?interval=1ms").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn topics_show_text_and_what_is_none() {
    let fake = Fake::new(None);
    let body = get(&fake, "/api/v1/topics/dead-letters/0?from=0&limit=10").await.json();
    assert_eq!((&body["start"], &body["end"], &body["next"]), (&json!(0), &json!(2), &json!(2)));
    assert_eq!(body["records"][0]["value"], "text");
    assert_eq!(body["records"][1]["value_base64"], "//4=");
    assert_eq!(body["records"][0]["headers"], json!([{"name": "reason", "value": "not_utf8"}]));
    for path in ["/api/v1/topics/none/0", "/api/v1/topics/traces/9", "/nowhere"] {
        let answer = get(&fake, path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.json()["error_code"], "CTS.9404");
    }
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let fake = Fake::new(None);
    for path in ["/livez", "/readyz", "/metrics", "/nowhere", "/api/v1/accounts"] {
        let answer = get(&fake, path).await;
        assert_eq!(answer.header("x-request-id").len(), 36, "{path}");
    }
    let request = Request::get("/livez").header("x-request-id", "mine-1").body(Body::empty());
    assert_eq!(send(&fake, request.unwrap()).await.header("x-request-id"), "mine-1");
    let request = Request::put("/livez").body(Body::empty()).unwrap();
    let answer = send(&fake, request).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.json()["error_code"], "CTS.9405");
}

#[tokio::test]
async fn the_newest_checkpoint_of_a_chain_is_served() {
    let fake = Fake::new(None);
    let answer = get(&fake, "/.well-known/trailproof/checkpoint").await;
    assert_eq!(answer.body, b"trailproof/_ledger\n1\n");
    let answer = get(&fake, "/.well-known/trailproof/checkpoint?origin=other").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn pages_of_other_hosts_are_refused() {
    let fake = filled().await;
    for (name, value, expect) in [
        ("host", "evil.example", StatusCode::FORBIDDEN),
        ("host", "127.0.0.1.evil.example:80", StatusCode::FORBIDDEN),
        ("origin", "https://evil.example", StatusCode::FORBIDDEN),
        ("host", "localhost:8473", StatusCode::OK),
        ("host", "[::1]:8473", StatusCode::OK),
        ("origin", "http://127.0.0.1:8473", StatusCode::OK),
    ] {
        let request = Request::get("/api/v1/traces").header(name, value).body(Body::empty());
        assert_eq!(send(&fake, request.unwrap()).await.status, expect, "{name}: {value}");
    }
}

#[tokio::test]
async fn readiness_is_a_metric_too() {
    let fake = Fake::new(None);
    for (ready, line) in [(true, "trailproof_ready 1"), (false, "trailproof_ready 0")] {
        *fake.failure.lock().unwrap() = (!ready).then_some(|| Error::Unavailable("away".into()));
        let text = String::from_utf8(get(&fake, "/metrics").await.body.to_vec()).unwrap();
        assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
    }
}

#[tokio::test]
async fn readiness_lists_its_checks_and_accounts_their_ids() {
    let fake = Fake::new(None);
    let body = get(&fake, "/readyz").await.json();
    assert_eq!(
        body,
        json!({"ready": true, "checks": [{"name": "log", "ok": true, "detail": "2 partitions"}]})
    );
    let body = get(&fake, "/api/v1/accounts").await.json();
    assert_eq!(body["accounts"][0]["id"], DEV_ACCOUNT);
    assert_eq!(body["accounts"][0]["projects"][0]["id"], DEV_PROJECT);
    assert_eq!(body["accounts"][0]["trackers"][0]["name"], "system");
}
