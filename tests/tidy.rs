//! The house rules, as tests.
//!
//! Each rule is a function from a file to what is wrong in it, so that a planted breach can show
//! that it bites. What clippy checks (functions of at most 70 lines, documented public items, no
//! `unwrap`) is only checked here to be switched on.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const LINE_COLUMNS_MAX: usize = 100;

/// Spelt in two halves where the rule would find itself.
const SLEEP: &str = concat!("thread::", "sleep");
const IGNORED: &str = concat!("#[", "ignore");
const SHOULD_PANIC: &str = concat!("#[", "should_panic");
const UNWRAP: &str = concat!(".unwrap", "()");

/// A sleep in a test is fine between two looks at a condition, if it says so.
const POLLING: &str = "// between polls";

/// Crates the pure core may use; another one needs a decision record.
const CORE_DEPENDENCIES: [&str; 7] =
    ["data-encoding", "serde", "serde_json", "sha2", "thiserror", "xxhash-rust", "zstd"];

struct Source {
    /// Path from the root of the project, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn of(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Sources read by people: their length and width are bounded.
    fn is_code(&self) -> bool {
        let scripts = self.path.starts_with(".ci/") || self.path == "Makefile";
        scripts || [".rs", ".py", ".sh"].iter().any(|end| self.path.ends_with(end))
    }

    fn is_test(&self) -> bool {
        let named = self.path.ends_with("_test.rs") || self.path.ends_with("/tests.rs");
        named || self.path.contains("tests/") || self.path.contains("benches/")
    }

    /// The numbered lines outside test modules.
    fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let all = if self.is_test() { 0 } else { usize::MAX };
        let end = self.text.lines().position(|line| line.trim() == "#[cfg(test)]");
        numbered(&self.text).take(end.unwrap_or(usize::MAX).min(all))
    }

    /// The numbered lines of tests.
    fn tested(&self) -> impl Iterator<Item = (usize, &str)> {
        let shipped = self.shipped().count();
        numbered(&self.text).skip(shipped)
    }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the project.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "trailproof-data" | "node_modules")
                {
                    folders.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.iter().any(|source| source.path == "src/lib.rs"), "the walk found no sources");
    found
}

/// A row of a table in a comment cannot be broken.
fn is_table_row(line: &str) -> bool {
    line.trim_start().trim_start_matches(['/', '!']).starts_with(" | ")
}

fn too_large(source: &Source) -> Vec<String> {
    if !source.is_code() {
        return Vec::new();
    }
    let path = &source.path;
    let lines = source.text.lines().count();
    let long = (lines > FILE_LINES_MAX).then(|| format!("{path}: {lines} lines"));
    let wide = numbered(&source.text)
        .filter(|(_, line)| line.chars().count() > LINE_COLUMNS_MAX && !is_table_row(line))
        .map(|(number, _)| format!("{path}:{number}: more than {LINE_COLUMNS_MAX} columns"));
    long.into_iter().chain(wide).collect()
}

fn untidy_whitespace(source: &Source) -> Vec<String> {
    let path = &source.path;
    numbered(&source.text)
        .filter(|_| source.is_code() && path != "Makefile")
        .filter(|(_, line)| line.ends_with([' ', '\t']) || line.contains('\t'))
        .map(|(number, _)| format!("{path}:{number}: a tab, or white space at the end"))
        .collect()
}

fn headless_module(source: &Source) -> Vec<String> {
    let headed = source.text.lines().next().is_some_and(|line| line.starts_with("//! "));
    if source.is_rust() && !headed {
        return vec![format!("{}: does not begin with //! and what it owns", source.path)];
    }
    Vec::new()
}

fn unwraps(source: &Source) -> Vec<String> {
    source
        .shipped()
        .filter(|(_, line)| source.is_rust() && line.contains(UNWRAP))
        .map(|(number, _)| format!("{}:{number}: unwrap outside a test", source.path))
        .collect()
}

fn weak_tests(source: &Source) -> Vec<String> {
    let rust = source.is_rust();
    let path = &source.path;
    // A bench may pace the load that it makes.
    let bench = path.starts_with("benches/");
    source
        .tested()
        .filter(|_| rust)
        .filter_map(|(number, line)| {
            let bare = line.trim_start().starts_with("matches!(") && line.ends_with(");");
            let why = if line.contains(IGNORED) || line.contains(SHOULD_PANIC) {
                "an ignored or panicking test"
            } else if line.contains(SLEEP) && !line.contains(POLLING) && !bench {
                "a sleep that is not between polls"
            } else if bare {
                "a bare matches!, which asserts nothing"
            } else {
                return None;
            };
            Some(format!("{path}:{number}: {why}"))
        })
        .collect()
}

/// Names of folders that exist on one machine only.
fn machine_paths(source: &Source, folders: &[String]) -> Vec<String> {
    numbered(&source.text)
        .filter(|(_, line)| folders.iter().any(|folder| line.contains(folder.as_str())))
        .map(|(number, _)| format!("{}:{number}: a path of this machine", source.path))
        .collect()
}

fn check(rule: impl Fn(&Source) -> Vec<String>) {
    let wrong: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(wrong.is_empty(), "house rules:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_at_most_500_lines_of_100_columns() {
    check(too_large);
}

#[test]
fn sources_have_no_tabs_and_no_trailing_space() {
    check(untidy_whitespace);
}

#[test]
fn modules_begin_with_what_they_own() {
    check(headless_module);
}

#[test]
fn nothing_unwraps_outside_tests() {
    check(unwraps);
}

#[test]
fn tests_are_not_ignored_and_do_not_sleep() {
    check(weak_tests);
}

#[test]
fn no_file_names_a_path_of_this_machine() {
    let mut folders = vec![root().to_string_lossy().into_owned()];
    if let Some(home) = std::env::var_os("HOME").filter(|home| home.len() > 2) {
        folders.push(format!("{}/", home.to_string_lossy()));
    }
    check(|source| machine_paths(source, &folders));
}

#[test]
fn each_rule_bites() {
    let long = "a\n".repeat(FILE_LINES_MAX + 1);
    let wide = "a".repeat(LINE_COLUMNS_MAX + 1);
    let unwrap = format!("//! x\nfn f() {{ g(){UNWRAP} }}\n#[cfg(test)]\nh(){UNWRAP}\n");
    let sleeps = format!("{SLEEP}(x);\n{SLEEP}(x); {POLLING}\n{IGNORED}]\nmatches!(a, b);\n");
    assert_eq!(too_large(&Source::of("src/a.rs", &long)).len(), 1);
    assert_eq!(too_large(&Source::of("src/a.rs", &wide)).len(), 1);
    assert_eq!(untidy_whitespace(&Source::of("src/a.rs", "a \n\tb\nc\n")).len(), 2);
    assert_eq!(headless_module(&Source::of("src/a.rs", "fn a() {}\n")).len(), 1);
    assert_eq!(unwraps(&Source::of("src/a.rs", &unwrap)).len(), 1);
    assert_eq!(weak_tests(&Source::of("tests/a.rs", &sleeps)).len(), 3);
    assert_eq!(machine_paths(&Source::of("a.md", "in /x/y\n"), &["/x/".to_owned()]).len(), 1);
}

#[test]
fn the_lints_are_on_in_every_crate() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for lint in ["unsafe_code = \"forbid\"", "missing_docs", "unwrap_used", "too_many_lines"] {
        assert!(workspace.contains(lint), "Cargo.toml does not set {lint}");
    }
    for folder in [".", "topology"] {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder}: lints are off");
        let clippy = fs::read_to_string(root().join(folder).join("clippy.toml")).unwrap();
        assert!(clippy.contains("too-many-lines-threshold = 70"), "{folder}: no bound");
    }
}

#[test]
fn the_core_depends_on_nothing_that_does_io() {
    let manifest = fs::read_to_string(root().join("topology/Cargo.toml")).unwrap();
    let (_, tables) = manifest.split_once("[dependencies]").unwrap();
    let table = tables.split("\n[").next().unwrap();
    let names: BTreeSet<&str> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(names, CORE_DEPENDENCIES.into_iter().collect::<BTreeSet<&str>>());
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

#[test]
fn decisions_are_numbered_without_gaps_and_say_why() {
    let records = files_of(&root().join("docs/decisions"));
    assert!(!records.is_empty(), "docs/decisions is empty");
    for (index, record) in records.iter().enumerate() {
        let name = record.file_name().unwrap().to_string_lossy().into_owned();
        let number = format!("{:04}-", index + 1);
        assert!(name.starts_with(&number) && name.ends_with(".md"), "{name}: not {number}….md");
        let text = fs::read_to_string(record).unwrap();
        assert!(text.starts_with(&format!("# {}", &number[..4])), "{name}: title without number");
        for part in ["\n## Context\n", "\n## Decision\n", "\n## Consequences\n"] {
            assert!(text.contains(part), "{name}: has no part {}", part.trim());
        }
    }
}

#[test]
fn every_schema_has_examples_that_pass_and_that_fail() {
    let folder = root().join("schemas");
    let schemas: Vec<String> = files_of(&folder)
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".schema.json"))
        .map(str::to_owned)
        .collect();
    assert!(!schemas.is_empty(), "schemas is empty");
    for name in schemas {
        for kind in ["valid", "invalid"] {
            let examples = folder.join("examples").join(&name).join(kind);
            assert!(!files_of(&examples).is_empty(), "{name}: no {kind} example");
        }
    }
}

#[test]
fn everything_on_the_readmes_map_exists() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("\n## Map\n").expect("README.md has a part Map");
    let map = rest.split("\n## ").next().unwrap();
    let names: Vec<&str> =
        map.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(names.len() > 8, "README.md's map names only {names:?}");
    for name in names {
        assert!(root().join(name).exists(), "README.md's map names {name}, which does not exist");
    }
}
