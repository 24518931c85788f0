//! `trailproof check`: is the configuration good, and what is in effect.

use std::io::Write as _;

use crate::cli::Settings;
use crate::config::Config;

use super::Failure;

/// Prints the effective configuration, or all problems with exit code 1.
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let config = settings.load().map_err(|problems| Failure::new(1, problems.to_string()))?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let mut out = std::io::stdout().lock();
    out.write_all(effective(&config).as_bytes())?;
    eprintln!("the configuration is good");
    Ok(())
}

/// The effective configuration as TOML, each setting with its origin.
pub(super) fn effective(config: &Config) -> String {
    let mut text = String::new();
    let (tables, top): (Vec<_>, Vec<_>) =
        config.effective.iter().partition(|(key, ..)| key.contains('.'));
    let mut line = |key: &str, value: &str, origin: &str| {
        let plain = value.parse::<i64>().is_ok();
        let value = if plain { value.to_owned() } else { format!("{value:?}") };
        text.push_str(&format!("{:<44} # {origin}\n", format!("{key} = {value}")));
    };
    for (key, value, origin) in top {
        line(key, value, origin);
    }
    for (key, value, origin) in tables {
        line(key, value, origin);
    }
    text.push_str(&format!("\n# objects go to {}\n", config.objects));
    text.push_str(&format!("# keys are in {}\n", config.keys.display()));
    for account in &config.catalog.accounts {
        text.push_str(&format!("\n# account {} ({})\n", account.id, account.name));
        for project in &account.projects {
            text.push_str(&format!("#   project {} ({})\n", project.id, project.name));
        }
        for tracker in &account.trackers {
            let to = if tracker.transfers() { tracker.bucket.as_str() } else { "no bucket" };
            let state = if tracker.enabled { "enabled" } else { "disabled" };
            let verify = if tracker.verify { "verified" } else { "not verified" };
            text.push_str(&format!(
                "#   tracker {} {}: {state}, to {to}, {verify}\n",
                tracker.name, tracker.id
            ));
        }
        for rule in &account.rules {
            text.push_str(&format!("#   rule {} {}\n", rule.name, rule.id));
        }
    }
    text
}
