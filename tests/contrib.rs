//! What operators are given, against the program: metrics that exist, settings that exist.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use figment::Figment;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};
use trailproof::metrics::{DEFINITIONS, Kind};

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The words of a text that begin with one of `starts`.
fn words(text: &str, starts: &[&str]) -> BTreeSet<String> {
    let inner = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
    let all = text.split(inner);
    let own = all.filter(|word| starts.iter().any(|start| word.starts_with(start)));
    own.map(str::to_owned).collect()
}

/// Names under which a metric is shown.
fn shown() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for metric in DEFINITIONS {
        if metric.kind == Kind::Histogram {
            let ends = ["_bucket", "_sum", "_count"];
            names.extend(ends.map(|end| format!("{}{end}", metric.name)));
        } else {
            names.insert(metric.name.to_owned());
        }
    }
    names
}

#[test]
fn alerts_and_dashboard_use_only_metrics_that_exist() {
    let shown = shown();
    let alerts = file("contrib/prometheus/alerts.yml");
    let expressions: Vec<&str> =
        alerts.split("expr:").skip(1).map(|rest| rest.split("labels:").next().unwrap()).collect();
    let dashboard: serde_json::Value =
        serde_json::from_str(&file("contrib/grafana/dashboards/trailproof.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    for (place, texts, least) in [("alerts", &expressions, 7), ("panels", &queries, 15)] {
        let named = words(&texts.join("\n"), &["trailproof_", "process_"]);
        let unknown: Vec<&String> = named.difference(&shown).collect();
        assert!(unknown.is_empty(), "{place} name metrics that do not exist: {unknown:?}");
        assert!(named.len() >= least, "{place} name only {named:?}");
        for text in texts.iter() {
            let own = words(text, &["trailproof_", "process_", "up"]);
            assert!(!own.is_empty(), "{place}: {text:?} asks for no metric");
        }
    }
}

/// A counter that first shows at 1 is no increase: what an alert asks for with `increase` must be
/// there from the start.
#[test]
fn alerts_on_increases_ask_for_counters_that_begin_at_zero() {
    let alerts = file("contrib/prometheus/alerts.yml");
    let begun = trailproof::metrics::Metrics::new().unwrap().render();
    // Of a partition: they begin with it.
    let later = ["trailproof_input_conflicts_total"];
    let mut asked = 0;
    for rest in alerts.split("increase(").skip(1) {
        let name = rest.split(['[', '{']).next().unwrap();
        let shown = begun
            .lines()
            .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        assert!(shown || later.contains(&name), "{name} is not there at the start");
        asked += 1;
    }
    assert!(asked >= 5, "only {asked} alerts ask for an increase");
}

/// Every key of the defaults.
fn keys(prefix: &str, table: &Dict, into: &mut BTreeSet<String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Dict(_, inner) => keys(&key, inner, into),
            _ => _ = into.insert(key),
        }
    }
}

#[test]
fn compose_sets_only_settings_that_exist() {
    let defaults: Dict =
        Figment::from(Toml::string(trailproof::config::DEFAULTS)).extract().unwrap();
    let mut known = BTreeSet::new();
    keys("", &defaults, &mut known);
    let named = words(&file("docker-compose.yml"), &["TRAILPROOF_"]);
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        let key = name["TRAILPROOF_".len()..].to_ascii_lowercase().replace("__", ".");
        // Any option of librdkafka may follow `kafka.`.
        assert!(known.contains(&key) || key.starts_with("kafka."), "{name} is no setting");
    }
}
