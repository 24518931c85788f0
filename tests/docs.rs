//! The documents' tables against the program: options with defaults, metrics, dead-letter reasons.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use figment::Figment;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// First and second cell, without backquotes, of a table's rows whose first cell is code.
fn rows(text: &str, heading: &str) -> BTreeMap<String, String> {
    let (_, part) = text.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let part = part.split("\n## ").next().unwrap();
    part.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(first, rest)| {
            let second = rest.split(" |").next().unwrap().trim_matches('`');
            (first.to_owned(), second.to_owned())
        })
        .collect()
}

/// The defaults by dotted key, as text.
fn flatten(prefix: &str, table: &Dict, into: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Dict(_, inner) => flatten(&key, inner, into),
            Value::String(_, text) => _ = into.insert(key, text.clone()),
            Value::Num(_, number) => _ = into.insert(key, number.to_i128().unwrap().to_string()),
            other => panic!("{key} is {other:?}"),
        }
    }
}

#[test]
fn every_option_is_in_the_table_with_its_default() {
    let defaults: Dict =
        Figment::from(Toml::string(trailproof::config::DEFAULTS)).extract().unwrap();
    let mut options = BTreeMap::new();
    flatten("", &defaults, &mut options);
    assert_eq!(rows(&document("docs/operations.md"), "Configure"), options);
}

#[test]
fn every_metric_is_in_the_table_with_its_kind() {
    let metrics: BTreeMap<String, String> = trailproof::metrics::DEFINITIONS
        .iter()
        .map(|metric| (metric.name.to_owned(), format!("{:?}", metric.kind).to_lowercase()))
        .collect();
    assert_eq!(rows(&document("docs/operations.md"), "Watch"), metrics);
}

#[test]
fn every_reason_of_a_dead_letter_is_in_the_table() {
    let schema: serde_json::Value =
        serde_json::from_str(&document("schemas/dead-letter.schema.json")).unwrap();
    let formats = document("docs/formats.md");
    for reason in schema["properties"]["reason"]["enum"].as_array().unwrap() {
        let row = format!("\n| `{}` |", reason.as_str().unwrap());
        assert!(formats.contains(&row), "docs/formats.md has no row of {reason}");
    }
}

#[test]
fn the_documents_link_only_to_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for name in ["README.md", "docs/architecture.md", "docs/formats.md", "docs/operations.md"] {
        for word in document(name).split('`').skip(1).step_by(2) {
            let inside = ["docs/", "src/", "topology/", "tests/", "schemas/", "contrib/"];
            if inside.iter().any(|folder| word.starts_with(folder)) && !word.contains(['*', ' ']) {
                let decision = word.strip_prefix("docs/decisions/").filter(|rest| rest.len() == 4);
                let found = match decision {
                    Some(number) => fs::read_dir(root.join("docs/decisions"))
                        .unwrap()
                        .any(|own| own.unwrap().file_name().to_string_lossy().starts_with(number)),
                    None => root.join(word).exists(),
                };
                assert!(found, "{name} names {word}, which does not exist");
                named += 1;
            }
        }
    }
    assert!(named > 10, "the documents name only {named} files");
}
