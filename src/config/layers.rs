//! The layers, merged; and the reader that takes typed settings out and gathers problems.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::raw::{RawConfig, Scalar, account_keys};
use super::{DEFAULTS, Problem, Problems, closest, units};
use crate::log::kafka::is_secret;

/// Prefix of environment variables that are settings.
const ENV_PREFIX: &str = "TRAILPROOF_";

/// The table whose other keys are options of librdkafka.
const KAFKA: &str = "kafka";

/// What `--dev` puts over the defaults.
const DEV: [(&str, &str); 2] = [("cycle", "10s"), ("digest_interval", "60s")];

/// Where settings come from, besides the compiled defaults.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Whether `--dev` was given.
    pub dev: bool,
    /// The file of `--config`.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `TRAILPROOF_` are passed over.
    pub env: Vec<(String, String)>,
    /// Settings of `--set`, as written: `key=value`.
    pub set: Vec<String>,
    /// Settings of other flags: key and value.
    pub flags: Vec<(&'static str, String)>,
}

/// One layer of keys and text values.
struct Layer {
    name: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

/// Adds `key`, with dots, to a dictionary; false where a part of it holds a value already.
fn insert(dict: &mut Dict, key: &str, value: &str) -> bool {
    match key.split_once('.') {
        None => dict.insert(key.to_owned(), Value::from(value)).is_none(),
        Some((table, rest)) => {
            let inner = dict.entry(table.to_owned()).or_insert_with(|| Dict::new().into());
            match inner {
                Value::Dict(_, inner) if table == KAFKA => {
                    inner.insert(rest.to_owned(), Value::from(value)).is_none()
                }
                Value::Dict(_, inner) => insert(inner, rest, value),
                _ => false,
            }
        }
    }
}

/// A file whose table `kafka` is made flat: names of librdkafka have dots, and some begin with
/// another name, as `group.protocol` with our own `group`.
struct FlatKafka<P>(P);

impl<P: Provider> Provider for FlatKafka<P> {
    fn metadata(&self) -> Metadata {
        self.0.metadata()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut data = self.0.data()?;
        for dict in data.values_mut() {
            if let Some(Value::Dict(_, kafka)) = dict.get_mut(KAFKA) {
                let mut flat = Dict::new();
                flatten("", std::mem::take(kafka), &mut flat);
                *kafka = flat;
            }
        }
        Ok(data)
    }
}

fn flatten(prefix: &str, dict: Dict, into: &mut Dict) {
    for (name, value) in dict {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Dict(_, inner) => flatten(&key, inner, into),
            value => _ = into.insert(key, value),
        }
    }
}

/// Takes settings out of the merged layers and gathers what is wrong with them.
pub(super) struct Reader {
    figment: Figment,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    effective: Vec<(String, String, String)>,
    passed: BTreeMap<String, String>,
}

impl Reader {
    /// Merges the layers and parses them.
    pub(super) fn new(layers: &Layers) -> Result<(Self, RawConfig), Problems> {
        let mut figment = Figment::from(Toml::string(DEFAULTS));
        if layers.dev {
            let mut dict = Dict::new();
            DEV.iter().for_each(|(key, value)| _ = insert(&mut dict, key, value));
            figment = figment.merge(Layer { name: "--dev".to_owned(), dict });
        }
        if let Some(file) = &layers.file {
            figment = figment.merge(FlatKafka(Toml::file_exact(file)));
        }
        let (problems, warnings, effective) = Default::default();
        let passed = BTreeMap::new();
        let mut reader = Self { figment, problems, warnings, effective, passed };
        reader.merge_env(&layers.env);
        reader.merge_set(&layers.set);
        for (key, value) in &layers.flags {
            let mut dict = Dict::new();
            insert(&mut dict, key, value);
            reader.merge(format!("--{key}"), dict);
        }
        let merged: Dict = reader.figment.extract().map_err(|error| reader.broken(error))?;
        let known = reader.check_keys(merged)?;
        let raw = Figment::from(Layer { name: "all layers".to_owned(), dict: known })
            .extract()
            .map_err(|error| reader.broken(error))?;
        reader.note_effective();
        Ok((reader, raw))
    }

    fn merge(&mut self, name: String, dict: Dict) {
        self.figment = std::mem::take(&mut self.figment).merge(Layer { name, dict });
    }

    fn merge_env(&mut self, env: &[(String, String)]) {
        let known = default_keys();
        let mut names: Vec<&(String, String)> =
            env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        names.sort();
        for (name, value) in names {
            let key = name[ENV_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            if known.contains(&key) || is_kafka(&key) {
                let mut dict = Dict::new();
                insert(&mut dict, &key, value);
                self.merge(name.clone(), dict);
            } else {
                // Not refused: other programs' variables may share the prefix.
                let hint = did_you_mean(&key, known.iter().map(String::as_str));
                self.warnings.push(format!("{name} is no setting and is ignored{hint}"));
            }
        }
    }

    fn merge_set(&mut self, set: &[String]) {
        for setting in set {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            let mut dict = Dict::new();
            if !setting.contains('=') {
                self.problem_from(key, "has no value: write --set key=value", "--set");
            } else if key == "accounts" || key.starts_with("accounts.") {
                self.problem_from(key, "accounts are set in the file only", "--set");
            } else if insert(&mut dict, key, value) {
                self.merge("--set".to_owned(), dict);
            }
        }
    }

    /// Removes unknown keys and reports each.
    fn check_keys(&mut self, merged: Dict) -> Result<Dict, Problems> {
        let defaults: Dict =
            Figment::from(Toml::string(DEFAULTS)).extract().map_err(|error| self.broken(error))?;
        let mut known = Dict::new();
        for (key, value) in merged {
            match (defaults.get(&key), value) {
                (_, value) if key == "accounts" => {
                    self.check_accounts("accounts", &mut vec![], &value);
                    known.insert(key, value);
                }
                (None, _) => self.unknown(&key, &key, defaults.keys().map(String::as_str)),
                (Some(Value::Dict(_, table)), Value::Dict(tag, inner)) => {
                    let mut kept = Dict::new();
                    for (name, value) in inner {
                        if table.contains_key(&name) {
                            kept.insert(name, value);
                        } else if key == KAFKA {
                            self.pass(name, &value);
                        } else {
                            let full = format!("{key}.{name}");
                            self.unknown(&full, &name, table.keys().map(String::as_str));
                        }
                    }
                    known.insert(key, Value::Dict(tag, kept));
                }
                (Some(Value::Dict(..)), _) => self.problem(&key, "is a table, not a value"),
                (Some(_), Value::Dict(..) | Value::Array(..)) => {
                    self.problem(&key, "is a single value, not a table or list");
                }
                (Some(_), value) => {
                    known.insert(key, value);
                }
            }
        }
        // Account tables with unknown keys do not parse, so nothing after this would be true.
        if self
            .problems
            .iter()
            .any(|problem| problem.key.starts_with("accounts") || problem.text.contains("not a"))
        {
            return Err(Problems(std::mem::take(&mut self.problems)));
        }
        Ok(known)
    }

    /// Takes an option of librdkafka as it is.
    fn pass(&mut self, name: String, value: &Value) {
        match value.deserialize::<Scalar>() {
            Ok(scalar) => _ = self.passed.insert(name, scalar.text()),
            Err(_) => self.problem(&format!("kafka.{name}"), "is a single value, not a list"),
        }
    }

    /// The options of librdkafka by their names.
    pub(super) fn passed(&self) -> BTreeMap<String, String> {
        self.passed.clone()
    }

    fn check_accounts(&mut self, path: &str, names: &mut Vec<String>, value: &Value) {
        match value {
            Value::Array(_, items) => {
                for (at, item) in items.iter().enumerate() {
                    self.check_accounts(&format!("{path}[{at}]"), names, item);
                }
            }
            Value::Dict(_, table) => {
                let words: Vec<&str> = names.iter().map(String::as_str).collect();
                let Some(keys) = account_keys(&words) else { return };
                for (name, inner) in table {
                    let full = format!("{path}.{name}");
                    if !keys.contains(&name.as_str()) {
                        self.unknown(&full, name, keys.iter().copied());
                        continue;
                    }
                    names.push(name.clone());
                    self.check_accounts(&full, names, inner);
                    names.pop();
                }
            }
            _ => {}
        }
    }

    fn unknown<'a>(&mut self, full: &str, word: &str, known: impl Iterator<Item = &'a str>) {
        let hint = did_you_mean(word, known);
        self.problem(full, format!("no such key{hint}"));
    }

    fn broken(&self, error: figment::Error) -> Problems {
        let mut all = self.problems.clone();
        for error in error {
            let origin = error.metadata.as_ref().map_or_else(|| "the file".to_owned(), origin_of);
            let path = error.path.join(".");
            let key = if path.is_empty() { "configuration".to_owned() } else { path };
            all.push(Problem { key, text: error.kind.to_string(), origin });
        }
        Problems(all)
    }

    /// Adds a problem of `key`.
    pub(super) fn problem(&mut self, key: &str, text: impl Into<String>) {
        let origin = self.origin(key);
        self.problem_from(key, text, &origin);
    }

    fn problem_from(&mut self, key: &str, text: impl Into<String>, origin: &str) {
        let (key, text, origin) = (key.to_owned(), text.into(), origin.to_owned());
        self.problems.push(Problem { key, text, origin });
    }

    /// Adds something odd.
    pub(super) fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    fn origin(&self, key: &str) -> String {
        let table = key.split('[').next().unwrap_or(key);
        if is_kafka(table) {
            // Its names hold dots, which the search would take for tables.
            let name = &table[KAFKA.len() + 1..];
            let kafka = self.figment.find_value(KAFKA).ok();
            let value = kafka.as_ref().and_then(|kafka| kafka.as_dict()?.get(name));
            let metadata = value.and_then(|value| self.figment.get_metadata(value.tag()));
            return metadata.map_or_else(|| "the defaults".to_owned(), origin_of);
        }
        self.figment.find_metadata(table).map_or_else(|| "the defaults".to_owned(), origin_of)
    }

    /// A whole number from `min` to `max`.
    pub(super) fn integer(&mut self, key: &str, raw: &Scalar, min: u64, max: u64) -> u64 {
        let text = raw.text();
        match text.replace('_', "").parse::<u64>() {
            Ok(value) if (min..=max).contains(&value) => value,
            _ => {
                self.problem(key, format!("{text:?} is no whole number from {min} to {max}"));
                min
            }
        }
    }

    /// A size in bytes from `min` to `max`.
    pub(super) fn size(&mut self, key: &str, raw: &Scalar, min: u64, max: u64) -> u64 {
        let checked = units::size(&raw.text()).and_then(|bytes| {
            let (low, high) = (units::size_text(min), units::size_text(max));
            let fits = (min..=max).contains(&bytes);
            fits.then_some(bytes).ok_or_else(|| format!("is not from {low} to {high}"))
        });
        checked.unwrap_or_else(|text| {
            self.problem(key, text);
            min
        })
    }

    /// A duration from `min` to `max`.
    pub(super) fn duration(
        &mut self,
        key: &str,
        raw: &Scalar,
        min: Duration,
        max: Duration,
    ) -> Duration {
        let checked = units::duration(&raw.text()).and_then(|length| {
            let (low, high) = (units::duration_text(min), units::duration_text(max));
            let fits = (min..=max).contains(&length);
            fits.then_some(length).ok_or_else(|| format!("is not from {low} to {high}"))
        });
        checked.unwrap_or_else(|text| {
            self.problem(key, text);
            Duration::ZERO
        })
    }

    /// A name of 1 to `max` letters, digits, `-` and `_`.
    pub(super) fn name(&mut self, key: &str, raw: &Scalar, max: usize) -> String {
        let text = raw.text();
        if !super::accounts::is_name(&text, max) {
            let remedy = format!("{text:?} is not 1 to {max} letters, digits, - and _");
            self.problem(key, remedy);
        }
        text
    }

    fn note_effective(&mut self) {
        for key in default_keys() {
            let value = self.figment.find_value(&key).ok();
            let text = value.and_then(|value| value.deserialize::<Scalar>().ok());
            let text = text.map_or_else(String::new, |scalar| scalar.text());
            let origin = self.origin(&key);
            self.effective.push((key, units::mask_url(&text), origin));
        }
        for (name, value) in &self.passed {
            let key = format!("{KAFKA}.{name}");
            let shown = if is_secret(name) { "***" } else { value };
            let origin = self.origin(&key);
            self.effective.push((key, shown.to_owned(), origin));
        }
        self.effective.sort();
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    pub(super) fn effective(&self) -> Vec<(String, String, String)> {
        self.effective.clone()
    }

    /// All problems, if there is one.
    pub(super) fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }
}

/// Whether a key is one of table `kafka`.
fn is_kafka(key: &str) -> bool {
    key.strip_prefix(KAFKA).and_then(|rest| rest.strip_prefix('.')).is_some_and(|n| !n.is_empty())
}

fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, known).map_or_else(String::new, |near| format!(", did you mean {near}?"))
}

/// Every key of the defaults, with dots, in order.
fn default_keys() -> Vec<String> {
    let defaults: Dict = Figment::from(Toml::string(DEFAULTS)).extract().unwrap_or_default();
    let mut keys = vec![];
    for (key, value) in defaults {
        match value {
            Value::Dict(_, table) => keys.extend(table.keys().map(|name| format!("{key}.{name}"))),
            _ => keys.push(key),
        }
    }
    keys
}

fn origin_of(metadata: &Metadata) -> String {
    if let Some(path) = metadata.source.as_ref().and_then(|source| source.file_path()) {
        return path.display().to_string();
    }
    match metadata.name.as_ref() {
        "TOML source string" => "the defaults".to_owned(),
        name => name.to_owned(),
    }
}
