//! The commands, one file each.
//!
//! A command returns when it is done, or a [`Failure`] that says what the exit code is and why.

pub(crate) mod check;
pub(crate) mod describe;
pub(crate) mod keys;
pub(crate) mod produce;
pub(crate) mod query;
pub(crate) mod run;
pub(crate) mod tail;
pub(crate) mod verify;

use crate::client::Client;
use crate::cloudtrail::Target;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 1: a check failed; 2: could not run.
    pub(crate) code: u8,
    text: String,
    broken_pipe: bool,
}

impl Failure {
    /// A failure with this exit code and text.
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), broken_pipe: false }
    }

    /// Could not run, because of `error` and what it says of its causes.
    pub(crate) fn because(what: &str, error: &dyn std::error::Error) -> Self {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            let said = cause.to_string();
            if !text.ends_with(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            source = cause.source();
        }
        Self::new(2, text)
    }

    /// Whether the reader of standard output has gone.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.text)
    }
}

/// Only standard output is written with `?`.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let broken_pipe = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self { code: 2, text: format!("cannot write to standard output: {error}"), broken_pipe }
    }
}

/// The account to write to: the one named, else the server's only one.
fn target(client: &Client, account: Option<&str>) -> Result<Target, Failure> {
    let answer = client.get("/api/v1/accounts", &[])?;
    let accounts = answer["accounts"].as_array().cloned().unwrap_or_default();
    let ids: Vec<&str> = accounts.iter().filter_map(|own| own["id"].as_str()).collect();
    let found = match (account, &accounts[..]) {
        (Some(id), all) => all
            .iter()
            .find(|own| own["id"] == *id)
            .ok_or_else(|| format!("the server has no account {id:?}; it has {}", ids.join(", "))),
        (None, [only]) => Ok(only),
        (None, _) => Err(format!("name an account with --account: {}", ids.join(", "))),
    };
    let found = found.map_err(|text| Failure::new(2, text))?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let trackers = found["trackers"].as_array().cloned().unwrap_or_default();
    Ok(Target {
        account: text(&found["id"]),
        project: text(&found["projects"][0]["id"]),
        data_trackers: trackers
            .iter()
            .filter(|own| own["kind"] == "data")
            .map(|own| (text(&own["name"]), text(&own["data_bucket"])))
            .collect(),
    })
}
