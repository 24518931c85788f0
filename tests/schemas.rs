//! The JSON Schemas of what enters and leaves, against their examples and against the code.
//!
//! `schemas/examples/<name>/valid/*.json` are instances that pass. `…/invalid/*.json` are
//! `{"pointer", "instance"}`: the instance fails, and an error stands at that JSON Pointer.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Map, Value};
use trailproof_topology::catalog::{Catalog, Rule};
use trailproof_topology::digest::Digest;
use trailproof_topology::digest_chain::CheckpointRecord;
use trailproof_topology::files::FilesRecord;
use trailproof_topology::rule::{Occasion, notification};
use trailproof_topology::trace;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".schema.json").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 5, "schemas are missing: only {names:?}");
    names
}

fn validator(name: &str) -> Validator {
    let schema = read(&folder().join(format!("{name}.schema.json")));
    assert!(schema["$id"].as_str().unwrap().starts_with("urn:trailproof:schema:"), "{name}: $id");
    jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Path and content of the examples of one kind, `valid` or `invalid`.
fn examples(name: &str, kind: &str) -> Vec<(String, Value)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder().join("examples").join(name).join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), read(path))).collect()
}

fn errors(validator: &Validator, instance: &Value) -> Vec<String> {
    validator
        .iter_errors(instance)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn assert_valid(name: &str, what: &str, instance: &Value) {
    let errors = errors(&validator(name), instance);
    assert!(errors.is_empty(), "{what}: {errors:#?}");
}

#[test]
fn valid_examples_pass() {
    for name in names() {
        for (path, instance) in examples(&name, "valid") {
            assert_valid(&name, &path, &instance);
        }
    }
}

#[test]
fn invalid_examples_fail_where_they_say() {
    for name in names() {
        let validator = validator(&name);
        for (path, example) in examples(&name, "invalid") {
            let pointer = example["pointer"].as_str().unwrap_or_else(|| panic!("{path}: pointer"));
            let errors = errors(&validator, &example["instance"]);
            let prefix = format!("{pointer}: ");
            assert!(
                errors.iter().any(|error| error.starts_with(&prefix)),
                "{path}: no error at {pointer:?} but {errors:#?}"
            );
        }
    }
}

#[test]
fn the_trace_parser_takes_what_the_schema_takes() {
    for (path, instance) in examples("trace", "valid") {
        let record = serde_json::to_vec(&instance).unwrap();
        assert!(trace::parse(&record).is_ok(), "{path}: {:?}", trace::parse(&record));
    }
    for (path, example) in examples("trace", "invalid") {
        let record = serde_json::to_vec(&example["instance"]).unwrap();
        assert!(trace::parse(&record).is_err(), "{path}: the parser takes it");
    }
}

#[test]
fn catalogs_survive_the_code() {
    for (path, instance) in examples("catalog", "valid") {
        let catalog: Catalog = serde_json::from_value(instance).unwrap();
        assert_valid("catalog", &path, &serde_json::to_value(&catalog).unwrap());
    }
}

#[test]
fn files_records_survive_the_code() {
    for (path, instance) in examples("files", "valid") {
        let record = FilesRecord::decode(instance.to_string().as_bytes()).unwrap();
        let encoded: Value = serde_json::from_slice(&record.encode()).unwrap();
        assert_valid("files", &path, &encoded);
    }
}

#[test]
fn digests_and_checkpoints_survive_the_code() {
    for (path, instance) in examples("digest", "valid") {
        let digest: Digest = serde_json::from_value(instance).unwrap();
        let encoded: Value = serde_json::from_slice(&digest.encode()).unwrap();
        assert_valid("digest", &path, &encoded);
    }
    for (path, instance) in examples("checkpoint", "valid") {
        let record: CheckpointRecord = serde_json::from_value(instance).unwrap();
        assert_valid("checkpoint", &path, &serde_json::to_value(&record).unwrap());
    }
}

/// A record in binary mode as the structured event it stands for.
fn structured(headers: &[(String, String)], value: &[u8]) -> Value {
    let mut event = Map::new();
    for (name, text) in headers {
        let attribute = match name.as_str() {
            "content-type" => "datacontenttype",
            name => name.strip_prefix("ce_").expect("a CloudEvents header begins with ce_"),
        };
        event.insert(attribute.to_owned(), Value::String(text.clone()));
    }
    event.insert("data".to_owned(), serde_json::from_slice(value).unwrap());
    Value::Object(event)
}

#[test]
fn notifications_are_as_the_schema_says() {
    let rule = Rule {
        id: "6f1c2b1e-0000-4000-8000-000000000003".to_owned(),
        name: "all".to_owned(),
        enabled: true,
        all_operations: true,
        operations: Vec::new(),
        users: Vec::new(),
        filter: None,
        topic_urn: String::new(),
    };
    for (path, instance) in examples("trace", "valid") {
        let stored = serde_json::to_vec(&instance).unwrap();
        let trace = trace::parse(&stored).unwrap();
        let about = Occasion {
            region: "local",
            account: "a",
            project: "p",
            tracker: "system",
            partition: 3,
            offset: 17,
            record_time_ms: 1_700_000_000_123,
            trace_id: "t1",
            conflict: true,
            sequence: 5,
            stored: &stored,
        };
        let record = notification(&rule, &trace, &about);
        assert_valid("notification", &path, &structured(&record.headers, &record.value));
    }
}

#[test]
fn every_reason_of_a_dead_letter_is_in_its_schema() {
    let schema = read(&folder().join("dead-letter.schema.json"));
    let known = schema["properties"]["reason"]["enum"].as_array().unwrap();
    for record in [&b""[..], b"\xff", b"\xef\xbb\xbf{}", b"[]", b"{}", b"{", b"{\"time\":{}}"] {
        let reason = trace::parse(record).unwrap_err().reason.name();
        assert!(known.iter().any(|name| name == reason), "{reason} is not in the schema");
    }
}
