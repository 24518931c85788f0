//! `trailproof produce`: sends traces from files, standard input or thin air.
//!
//! **Invariant:** a trace is sent byte for byte as it stands in its file, and a batch that may or
//! may not have arrived is sent again with the same bytes.

use std::io::{BufRead, BufReader, IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Failure, target};
use crate::api::split;
use crate::client::{Client, SERVER};
use crate::clock;
use crate::cloudtrail::{self, Target};
use crate::sample::{self, Random};

/// Bytes and traces of one request at most.
const BATCH_BYTES_MAX: usize = 4 << 20;
const BATCH_TRACES_MAX: usize = 10_000;

/// A file that is read as a whole: an array, or CloudTrail's.
const WHOLE_BYTES_MAX: u64 = 1 << 30;

/// Rejected traces that are shown.
const SHOWN_MAX: usize = 20;

/// Arguments of `trailproof produce`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Files with traces, also gzipped; `-` is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The server
    #[arg(long, value_name = "URL", default_value = SERVER)]
    server: String,
    /// What the files hold
    #[arg(long, value_enum, default_value = "trace")]
    format: Format,
    /// Account that CloudTrail records and samples go to [default: the server's only one]
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// Send this many made-up traces
    #[arg(long, value_name = "N", conflicts_with = "files")]
    sample: Option<u64>,
    /// Send at most this many traces a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// How long to try again while the server cannot take traces
    #[arg(long, value_name = "DURATION", default_value = "60s",
        value_parser = crate::config::units::duration)]
    retry_for: Duration,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Traces: NDJSON or a JSON array
    Trace,
    /// CloudTrail log files: {"Records": […]}
    Cloudtrail,
}

/// Sends what was asked for and prints how much was taken.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let client = Client::new(&arguments.server, arguments.retry_for)?;
    let mut sender = Sender::new(&client, arguments.rate);
    if let Some(count) = arguments.sample {
        let target = target(&client, arguments.account.as_deref())?;
        let now = clock::now_ms();
        let mut random = Random::new(now.unsigned_abs() ^ u64::from(std::process::id()) << 48);
        for _ in 0..count {
            sender.push(sample::trace(&mut random, &target, clock::now_ms()).as_bytes())?;
        }
    } else if arguments.files.is_empty() {
        let text = "nothing to send: name files, - for standard input, or --sample N";
        return Err(Failure::new(2, text));
    }
    let wanted = arguments.format == Format::Cloudtrail;
    if arguments.account.is_some() && !wanted && arguments.sample.is_none() {
        let text = "--account goes with --format cloudtrail or --sample: traces name their own";
        return Err(Failure::new(2, text));
    }
    let target = match (wanted, arguments.files.is_empty()) {
        (true, false) => Some(target(&client, arguments.account.as_deref())?),
        _ => None,
    };
    for file in &arguments.files {
        let mut reader = open(file)?;
        match &target {
            Some(target) => send_cloudtrail(&mut sender, file, &mut reader, target)?,
            None => send_traces(&mut sender, file, &mut reader)?,
        }
    }
    sender.flush()?;
    report(&sender, arguments.json)
}

fn report(sender: &Sender<'_>, as_json: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let (accepted, rejected) = (sender.accepted, sender.rejected);
        let body = json!({"accepted": accepted, "rejected": rejected, "errors": sender.errors});
        writeln!(out, "{body}")?;
        return Ok(());
    }
    for error in sender.errors.iter().take(SHOWN_MAX) {
        let (index, reason) = (&error["index"], error["reason"].as_str().unwrap_or("?"));
        let detail = error["detail"].as_str().unwrap_or("");
        eprintln!("rejected: trace {index}: {reason}: {detail}");
    }
    writeln!(out, "accepted {}, rejected {}", sender.accepted, sender.rejected)?;
    Ok(())
}

/// How a batch is written: as its source is, for what ends an element in one form may stand inside
/// of one in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One trace a line.
    Lines,
    /// A JSON array.
    Array,
}

/// Gathers traces into batches and keeps the rate.
struct Sender<'a> {
    client: &'a Client,
    form: Form,
    batch: Vec<u8>,
    traces: usize,
    batch_traces_max: usize,
    rate: Option<u64>,
    start: Instant,
    /// Traces sent before this batch.
    sent: u64,
    accepted: u64,
    rejected: u64,
    errors: Vec<serde_json::Value>,
}

impl<'a> Sender<'a> {
    fn new(client: &'a Client, rate: Option<u64>) -> Self {
        // At a given rate, ten batches a second keep it smooth.
        let paced = rate.map_or(BATCH_TRACES_MAX, |rate| rate.div_ceil(10) as usize);
        Self {
            client,
            form: Form::Lines,
            batch: Vec::new(),
            traces: 0,
            batch_traces_max: paced.clamp(1, BATCH_TRACES_MAX),
            rate,
            start: Instant::now(),
            sent: 0,
            accepted: 0,
            rejected: 0,
            errors: Vec::new(),
        }
    }

    /// Changes the form of the batches.
    fn write_as(&mut self, form: Form) -> Result<(), Failure> {
        if self.form != form {
            self.flush()?;
            self.form = form;
        }
        Ok(())
    }

    /// Adds a trace.
    fn push(&mut self, trace: &[u8]) -> Result<(), Failure> {
        if !self.batch.is_empty() && self.batch.len() + trace.len() + 1 > BATCH_BYTES_MAX {
            self.flush()?;
        }
        if self.form == Form::Array {
            self.batch.push(if self.traces == 0 { b'[' } else { b',' });
        }
        self.batch.extend_from_slice(trace);
        if self.form == Form::Lines {
            self.batch.push(b'\n');
        }
        self.traces += 1;
        if self.traces >= self.batch_traces_max { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.traces == 0 {
            return Ok(());
        }
        if let Some(rate) = self.rate {
            let due = Duration::from_secs_f64(self.sent as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(self.start.elapsed()));
        }
        if self.form == Form::Array {
            self.batch.push(b']');
        }
        let answer = self.client.post_traces(&self.batch, self.form)?;
        self.accepted += answer["accepted"].as_u64().unwrap_or(0);
        self.rejected += answer["rejected"].as_u64().unwrap_or(0);
        for error in answer["errors"].as_array().into_iter().flatten() {
            let index = self.sent + error["index"].as_u64().unwrap_or(0);
            self.refuse(index, &error["reason"], &error["detail"]);
        }
        self.sent += self.traces as u64;
        self.batch.clear();
        self.traces = 0;
        Ok(())
    }

    fn refuse(&mut self, index: u64, reason: &serde_json::Value, detail: &serde_json::Value) {
        if self.errors.len() < 100 {
            self.errors.push(json!({"index": index, "reason": reason, "detail": detail}));
        }
    }
}

type Input = BufReader<Box<dyn Read>>;

/// Opens a file; gzip is told by its first bytes.
fn open(path: &Path) -> Result<Input, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::because(&format!("cannot read {}", path.display()), &error)
    };
    let raw: Box<dyn Read> = if path == Path::new("-") {
        if std::io::stdin().is_terminal() {
            eprintln!("reading traces from the terminal, one a line; end with Ctrl-D");
        }
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(cannot)?)
    };
    let mut reader = BufReader::with_capacity(BATCH_BYTES_MAX, raw);
    if reader.fill_buf().map_err(cannot)?.starts_with(&[0x1f, 0x8b]) {
        let inflated = flate2::bufread::MultiGzDecoder::new(reader);
        return Ok(BufReader::with_capacity(BATCH_BYTES_MAX, Box::new(inflated)));
    }
    Ok(reader)
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::because(&format!("cannot read {}", path.display()), &error)
}

fn whole(path: &Path, reader: &mut Input) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let length =
        reader.take(WHOLE_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable(path))?;
    if length as u64 > WHOLE_BYTES_MAX {
        let text = format!("{} is over 1 GiB: write one trace a line", path.display());
        return Err(Failure::new(2, text));
    }
    Ok(text)
}

fn send_traces(sender: &mut Sender<'_>, path: &Path, reader: &mut Input) -> Result<(), Failure> {
    let start = reader.fill_buf().map_err(unreadable(path))?;
    if start.trim_ascii_start().starts_with(b"[") {
        let text = whole(path, reader)?;
        let elements = split::array(&text, usize::MAX)
            .map_err(|problem| Failure::new(2, format!("{}: {problem}", path.display())))?;
        sender.write_as(Form::Array)?;
        for element in elements {
            sender.push(element)?;
        }
        return Ok(());
    }
    sender.write_as(Form::Lines)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(unreadable(path))? == 0 {
            return Ok(());
        }
        let trace = line.strip_suffix(b"\n").unwrap_or(&line);
        let trace = trace.strip_suffix(b"\r").unwrap_or(trace);
        if !trace.is_empty() {
            sender.push(trace)?;
        }
        // The next read may wait for whoever writes: what is there goes out first.
        if reader.buffer().is_empty() {
            sender.flush()?;
        }
    }
}

fn send_cloudtrail(
    sender: &mut Sender<'_>,
    path: &Path,
    reader: &mut Input,
    target: &Target,
) -> Result<(), Failure> {
    sender.write_as(Form::Lines)?;
    let text = whole(path, reader)?;
    let bad = |error: &dyn std::error::Error| {
        Failure::because(&format!("{} is no CloudTrail log file", path.display()), error)
    };
    let text = std::str::from_utf8(&text).map_err(|error| bad(&error))?;
    for (index, record) in
        cloudtrail::records(text).map_err(|error| bad(&error))?.iter().enumerate()
    {
        match cloudtrail::to_trace(record.get(), target) {
            Ok(trace) => sender.push(trace.as_bytes())?,
            Err(problem) => {
                sender.rejected += 1;
                let detail = format!("{}: record {index}: {problem}", path.display());
                sender.refuse(index as u64, &json!("no_cloudtrail_record"), &json!(detail));
            }
        }
    }
    Ok(())
}
