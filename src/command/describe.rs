//! `trailproof describe`: what this binary is and does, in words and tables.

use std::io::Write as _;

use clap::{Args, ValueEnum};
use trailproof_topology::attribute::Attribute;
use trailproof_topology::effect::Topic;

use crate::cli::Settings;
use crate::config::{DEFAULTS, DEV_ACCOUNT, DEV_PROJECT, Objects};
use crate::metrics::DEFINITIONS;
use crate::object::s3::{Encryption, S3Store};

use super::Failure;

/// What may follow `trailproof describe`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// What to describe; everything but the configuration's defaults if left out
    #[arg(value_enum)]
    subject: Option<Subject>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Stages, topics and how they connect
    Topology,
    /// Tables of a partition's state
    Tables,
    /// Formats that enter or leave
    Formats,
    /// The annotated defaults, usable as a configuration file
    Config,
    /// What `run --dev` brings
    Dev,
    /// Fields that queries can filter on
    Fields,
    /// Metrics of /metrics
    Metrics,
    /// The object store of these settings: asks it how puts are made
    Objects,
}

/// Prints the description.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let all = [
        Subject::Topology,
        Subject::Dev,
        Subject::Tables,
        Subject::Formats,
        Subject::Fields,
        Subject::Metrics,
    ];
    let text = match arguments.subject {
        Some(Subject::Objects) => objects(&arguments.settings)?,
        Some(subject) => describe(subject),
        None => all.map(describe).join("\n"),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn describe(subject: Subject) -> String {
    match subject {
        Subject::Topology => topology(),
        Subject::Tables => TABLES.to_owned(),
        Subject::Formats => FORMATS.to_owned(),
        Subject::Config => DEFAULTS.to_owned(),
        Subject::Dev => dev(),
        Subject::Fields => fields(),
        Subject::Metrics => metrics(),
        // It needs settings, and may fail.
        Subject::Objects => String::new(),
    }
}

fn topology() -> String {
    let names: Vec<&str> = Topic::ALL.iter().map(|topic| topic.name()).collect();
    format!(
        "\
TOPOLOGY
  producers ─► traces ─► record: route ─► view ─► file ─► rule ─► notifications, dead-letters
                           │ trace files ─► object store
                           └► files ─► digest ─► digests ─► object store; checkpoints
  record   reads traces: one worker a partition; keeps the view and the open files
  digest   reads files: chains one signed digest per tracker and interval
  topics   {}
",
        names.join(", ")
    )
}

fn dev() -> String {
    format!(
        "\
DEV (trailproof run --dev; the account is also there when no other is configured)
  account  {DEV_ACCOUNT} (dev)
  project  {DEV_PROJECT} (local)
  tracker  system: transfer to bucket cts-{DEV_ACCOUNT}, zstd, verification on
  region   local · cycle 10s · digest_interval 60s · http://127.0.0.1:8473
"
    )
}

/// Where objects go, and how the store there creates them.
fn objects(settings: &Settings) -> Result<String, Failure> {
    let config = settings.load()?;
    let place = &config.objects;
    let Objects::S3(s3) = place else {
        return Ok(format!("OBJECTS\n  place    {place}\n  puts     linked into place\n"));
    };
    let failed = |error| Failure::because("cannot open the object store", &error);
    let creation = S3Store::read(s3, None).and_then(|store| store.creation()).map_err(failed)?;
    let encryption = match &s3.encryption {
        None => "as the bucket has it".to_owned(),
        Some(Encryption::Store) => "AES256".to_owned(),
        Some(Encryption::Kms(None)) => "aws:kms".to_owned(),
        Some(Encryption::Kms(Some(key))) => format!("aws:kms with {key}"),
    };
    let endpoint = s3.endpoint.as_deref().unwrap_or("AWS, or as environment or profile say");
    let style = match s3.path_style {
        Some(true) => "path",
        Some(false) => "host's name",
        None => "host's name, or in the path at another endpoint",
    };
    Ok(format!(
        "\
OBJECTS
  place    {place}
  endpoint {endpoint}, bucket in the {style}
  puts     {creation}
  at rest  {encryption}
"
    ))
}

const TABLES: &str = "\
TABLES (rows of one partition's state; the first byte of a key is the number)
   1 position   next offset, stream time, catalog version, outbox sequences
   2 tail       traces still in open chunks, by the first offset of a savepoint
   3 segment    counts and Merkle frontier of a segment
   4 chunk      closed chunks: header and zstd frame
   5 columns    columns of closed chunks that are in no run yet
   6 run        index blocks over up to a million traces of one tracker
   7 outbox     effects to deliver, by lane and sequence
   8 chain      digest stage: chain heads by tracker
   9 window     window of resends
  10 count      counts of the running cycle by account
  11 pending    digest stage: files waiting for their digest
  12 boundary   digest stage: how far each input partition is closed
  13 sequence   sequence of each rule's notifications
  14 catalog    the catalog in force
  15 format     format version of the database
  16 applied    fingerprint of the last applied record
  17 savepoint  next offset as of the last savepoint
  18 run header header of a run
";

const FORMATS: &str = "\
FORMATS (docs/formats.md and schemas/ have every byte)
  trace        JSON object of CTS; in over POST /api/v1/traces as JSON array or NDJSON
  trace file   JSON array; zstd with seek table, gzip or plain; trailproof/file/v1
  digest       gzip JSON, RSA-3072 signature in object metadata; trailproof/digest/v1
  checkpoint   C2SP signed note, Ed25519, beside each digest
  notification CloudEvents 1.0, topic notifications
  dead letter  the raw record with reason and position, topic dead-letters
";

fn fields() -> String {
    let names: Vec<&str> = Attribute::ALL.iter().map(|attribute| attribute.name()).collect();
    format!(
        "\
FIELDS (of /api/v1/traces, /api/v1/facets and trailproof query)
  {}
  =a any of the values given · !=a none of them · ^=a begins with · ~=a contains, in any case
",
        names.join(", ")
    )
}

fn metrics() -> String {
    let mut text = "METRICS\n".to_owned();
    for definition in DEFINITIONS {
        text.push_str(&format!("  {:<40} {}\n", definition.name, definition.help));
    }
    text
}
