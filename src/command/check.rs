//! `trailproof check`: is the configuration good, and what is in effect.

use std::io::Write as _;

use std::sync::Arc;

use clap::Args;
use trailproof_topology::effect::Topic;

use crate::cli::Settings;
use crate::clock;
use crate::config::{Config, LogSettings};
use crate::log::broker::Broker as _;
use crate::log::kafka::KafkaLog;
use crate::metrics::Metrics;

use super::Failure;

/// What may follow `trailproof check`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Settings,
    /// Also reach the Kafka cluster: topics that are missing are created, and all are checked
    #[arg(long)]
    connect: bool,
}

/// Prints the effective configuration, or all problems with exit code 1.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = &arguments.settings;
    let config = settings.load().map_err(|problems| Failure::new(1, problems.to_string()))?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let mut out = std::io::stdout().lock();
    out.write_all(effective(&config).as_bytes())?;
    eprintln!("the configuration is good");
    if arguments.connect { connect(&config) } else { Ok(()) }
}

/// Reaches the cluster and says what is there; exit code 1 where it is not as it must be.
fn connect(config: &Config) -> Result<(), Failure> {
    let LogSettings::Kafka(options) = &config.log else {
        eprintln!("the log is inside the process: there is nothing to reach");
        return Ok(());
    };
    let metrics = Metrics::new().map_err(|error| Failure::because("metrics", &error))?;
    let log = KafkaLog::connect((**options).clone(), clock::system(), Arc::new(metrics))
        .map_err(|error| Failure { code: 1, ..Failure::because("the cluster", &error) })?;
    eprintln!("{} is good", log.description());
    for topic in Topic::ALL {
        eprintln!("  {:<24} {} partitions", options.topic(topic), log.partitions(topic));
    }
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
