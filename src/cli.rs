//! The command line: what may be typed, and what happens then.
//!
//! Data goes to standard output, all else to standard error. Exit codes: 0 done, 1 a check failed,
//! 2 could not run.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::command::{self, Failure};
use crate::config::{Config, Layers, Problems};

const EXAMPLES: &str = "\
Examples:
  trailproof run --dev                                    start, with short cycles
  trailproof produce --sample 20                          send twenty traces
  trailproof tail 'delete*'                               follow the deletions
  trailproof query --since 2h --user alice --limit 50     what alice did
  trailproof verify ./trailproof-data/objects             check files and digests
";

/// A self-hosted audit trail that proves itself.
#[derive(Debug, Parser)]
#[command(name = "trailproof", version, before_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server: log, views, files, digests and HTTP in one process
    #[command(before_help = "\
Examples:
  trailproof run --dev
  trailproof run --config trailproof.toml --set cycle=1m --data /var/lib/trailproof")]
    Run(Settings),
    /// Send traces from files, standard input, or made-up ones
    #[command(before_help = "\
Examples:
  trailproof produce --sample 20
  trailproof produce traces.ndjson more.json.gz
  trailproof produce --format cloudtrail 123_CloudTrail_*.json.gz
  app | trailproof produce -")]
    Produce(command::produce::Arguments),
    /// Find traces
    #[command(before_help = "\
Examples:
  trailproof query --since 2h --user alice --limit 50
  trailproof query --where 'trace_name^=delete' --where 'user!=terraform' --count
  trailproof query --all --service ECS | jq .trace_name")]
    Query(Box<command::query::Arguments>),
    /// Follow the newest traces
    #[command(before_help = "\
Examples:
  trailproof tail
  trailproof tail 'delete*' --service ECS")]
    Tail(Box<command::tail::Arguments>),
    /// Check the configuration and print what is in effect
    #[command(before_help = "\
Examples:
  trailproof check --config trailproof.toml
  trailproof check --config trailproof.toml --connect")]
    Check(command::check::Arguments),
    /// Describe the topology, the tables, the formats or the configuration
    #[command(before_help = "Examples:\n  trailproof describe\n  trailproof describe config")]
    Describe(command::describe::Arguments),
    /// Make, show or export the keys that sign digests and checkpoints
    #[command(before_help = "\
Examples:
  trailproof keys generate --dir /var/lib/trailproof/keys --passphrase-file /etc/trailproof/pass
  trailproof keys export --form pem > trailproof.pub.pem")]
    Keys(command::keys::Arguments),
    /// Verify a folder or bucket of objects: offline, on a copy, with nothing but the public keys
    #[command(before_help = "\
Examples:
  trailproof verify ./trailproof-data/objects
  trailproof verify /mnt/copy --public-key trailproof.pub.pem --head heads.json --deep
  trailproof verify s3://audit/trailproof --endpoint https://s3.local --public-key keys.json")]
    Verify(command::verify::Arguments),
}

/// Settings of commands that start or check the server.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Short cycles and one account, for trying things out; not for production
    #[arg(long)]
    pub(crate) dev: bool,
    /// Folder of log, state and, unless told otherwise, objects and keys
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// Address of the HTTP server, loopback only [default: 127.0.0.1:8473]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<String>,
    /// Configuration file; `trailproof describe config` prints one with every option
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One setting, such as cycle=5s; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl Settings {
    /// Reads the configuration with these settings on top.
    pub(crate) fn load(&self) -> Result<Config, Problems> {
        let mut flags = vec![];
        flags.extend(self.data.clone().map(|data| ("data", data)));
        flags.extend(self.listen.clone().map(|listen| ("listen", listen)));
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let (dev, file, set) = (self.dev, self.config.clone(), self.set.clone());
        Config::load(&Layers { dev, file, env, set, flags })
    }
}

/// Runs the command that was typed.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(settings) => command::run::run(&settings),
        Command::Produce(arguments) => command::produce::run(&arguments),
        Command::Query(arguments) => command::query::run(&arguments),
        Command::Tail(arguments) => command::tail::run(&arguments),
        Command::Check(arguments) => command::check::run(&arguments),
        Command::Describe(arguments) => command::describe::run(&arguments),
        Command::Keys(arguments) => command::keys::run(arguments),
        Command::Verify(arguments) => command::verify::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough: `trailproof query | head`.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::new(2, problems.to_string())
    }
}
