//! `trailproof query`: finds traces.

use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Failure;
use crate::api::parse_time;
use crate::client::{Client, SERVER};
use crate::clock;
use crate::config::units;

/// Traces of one request.
const PAGE: u64 = 500;

/// Which traces: flags that `query` and `tail` share.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Filters {
    /// The server
    #[arg(long, value_name = "URL", default_value = SERVER)]
    pub(crate) server: String,
    /// The account [default: the server's only one]
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// Tracker by name; may be given many times
    #[arg(long, value_name = "NAME")]
    tracker: Vec<String>,
    /// User name; each filter may be given many times, then any of the values counts
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    /// Service, such as ECS
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Operation
    #[arg(long, value_name = "NAME")]
    trace_name: Vec<String>,
    /// normal, warning or incident
    #[arg(long, value_name = "RATING")]
    rating: Vec<String>,
    /// Type of the resource
    #[arg(long, value_name = "TYPE")]
    resource_type: Vec<String>,
    /// Name of the resource
    #[arg(long, value_name = "NAME")]
    resource_name: Vec<String>,
    /// Source address
    #[arg(long, value_name = "ADDRESS")]
    source_ip: Vec<String>,
    /// Status code
    #[arg(long, value_name = "CODE")]
    code: Vec<String>,
    /// Id of the trace
    #[arg(long, value_name = "ID")]
    trace_id: Vec<String>,
    /// Any field: field=value, field^=beginning, field~=text in any case; field!=value,
    /// field!^=beginning, field!~=text are the opposite. May be given many times: of conditions
    /// alike any of the values counts, others hold together
    #[arg(long = "where", value_name = "FILTER")]
    filters: Vec<String>,
}

impl Filters {
    /// The filters as query parameters.
    pub(crate) fn params(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut params: Vec<(String, String)> =
            self.account.iter().map(|id| ("account".to_owned(), id.clone())).collect();
        for (name, values) in [
            ("tracker", &self.tracker),
            ("user", &self.user),
            ("service_type", &self.service),
            ("trace_name", &self.trace_name),
            ("trace_rating", &self.rating),
            ("resource_type", &self.resource_type),
            ("resource_name", &self.resource_name),
            ("source_ip", &self.source_ip),
            ("code", &self.code),
            ("trace_id", &self.trace_id),
        ] {
            params.extend(values.iter().map(|value| (name.to_owned(), value.clone())));
        }
        for filter in &self.filters {
            let (name, value) = filter.split_once('=').ok_or_else(|| {
                Failure::new(2, format!("--where {filter:?} is no filter: write field=value"))
            })?;
            params.push((name.to_owned(), value.to_owned()));
        }
        Ok(params)
    }
}

/// Arguments of `trailproof query`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    filters: Filters,
    /// Only traces that happened this long ago or less, such as 2h
    #[arg(long, value_name = "DURATION", value_parser = units::duration,
        conflicts_with_all = ["from", "to"])]
    since: Option<Duration>,
    /// Only traces that happened at this time or later: RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_time_flag)]
    from: Option<i64>,
    /// Only traces that happened before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time_flag)]
    to: Option<i64>,
    /// Traces at most
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "all",
        value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Every trace there is, page after page
    #[arg(long)]
    all: bool,
    /// Oldest first
    #[arg(long)]
    oldest: bool,
    /// Only say how many there are
    #[arg(long)]
    count: bool,
    /// How to print [default: table on a terminal, else ndjson]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns for people
    Table,
    /// One trace a line, as stored
    Ndjson,
    /// One JSON array
    Json,
}

fn parse_time_flag(text: &str) -> Result<i64, String> {
    parse_time(text).ok_or_else(|| {
        format!("{text:?} is no time: write 2026-01-31T12:00:00Z or milliseconds since 1970")
    })
}

/// A page of traces as the server writes it.
#[derive(Deserialize)]
pub(crate) struct Page<'a> {
    /// The traces as they are stored.
    #[serde(borrow)]
    pub(crate) traces: Vec<&'a RawValue>,
    /// Where each stands, where asked for.
    #[serde(default)]
    pub(crate) positions: Vec<Position>,
    /// Figures of the page.
    pub(crate) meta_data: Meta,
}

/// Where a trace stands.
#[derive(Deserialize)]
pub(crate) struct Position {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) recorded_ms: i64,
}

/// Figures of a page.
#[derive(Deserialize)]
pub(crate) struct Meta {
    pub(crate) total: Option<u64>,
    pub(crate) more: bool,
    pub(crate) cursor: Option<String>,
}

/// Reads a page.
pub(crate) fn page(text: &str) -> Result<Page<'_>, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::because("the server's answer is no page of traces", &error))
}

/// Prints the traces that were asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let client = Client::new(&arguments.filters.server, Duration::from_secs(10))?;
    let mut params = arguments.filters.params()?;
    let mut add = |name: &str, value: String| params.push((name.to_owned(), value));
    let since = arguments.since.map(|since| clock::now_ms() - since.as_millis() as i64);
    since.or(arguments.from).into_iter().for_each(|time| add("from", time.to_string()));
    arguments.to.into_iter().for_each(|time| add("to", time.to_string()));
    if arguments.oldest {
        add("order", "oldest".to_owned());
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if arguments.count {
        add("count", "true".to_owned());
        add("limit", "1".to_owned());
        let text = client.get_text("/api/v1/traces", &params)?;
        let total = page(&text)?.meta_data.total;
        writeln!(out, "{}", total.unwrap_or(0))?;
        return Ok(out.flush()?);
    }
    let on_terminal = std::io::stdout().is_terminal();
    let output = arguments.output.unwrap_or(match on_terminal {
        true => Output::Table,
        false => Output::Ndjson,
    });
    pages(&client, &params, arguments, &mut Printer::new(output, &mut out))?;
    Ok(out.flush()?)
}

fn pages(
    client: &Client,
    params: &[(String, String)],
    arguments: &Arguments,
    printer: &mut Printer<'_>,
) -> Result<(), Failure> {
    let mut wanted = if arguments.all { u64::MAX } else { arguments.limit };
    let mut cursor: Option<String> = None;
    printer.begin()?;
    while wanted > 0 {
        let mut params = params.to_vec();
        params.push(("limit".to_owned(), wanted.min(PAGE).to_string()));
        params.extend(cursor.take().map(|word| ("cursor".to_owned(), word)));
        let text = client.get_text("/api/v1/traces", &params)?;
        let page = page(&text)?;
        for trace in &page.traces {
            printer.trace(trace.get())?;
        }
        wanted = wanted.saturating_sub(page.traces.len() as u64);
        if !page.meta_data.more || page.traces.is_empty() {
            break;
        }
        cursor = page.meta_data.cursor;
    }
    printer.end()?;
    Ok(())
}

/// Prints traces one by one.
struct Printer<'a> {
    output: Output,
    out: &'a mut dyn Write,
    printed: u64,
}

impl<'a> Printer<'a> {
    fn new(output: Output, out: &'a mut dyn Write) -> Self {
        Self { output, out, printed: 0 }
    }

    fn begin(&mut self) -> std::io::Result<()> {
        match self.output {
            Output::Table => writeln!(
                self.out,
                "{:<24}  {:<8}  {:<12}  {:<8}  {:<28}  {:<16}  RESOURCE",
                "TIME", "RATING", "USER", "SERVICE", "NAME", "SOURCE"
            ),
            Output::Json => write!(self.out, "["),
            Output::Ndjson => Ok(()),
        }
    }

    fn trace(&mut self, text: &str) -> std::io::Result<()> {
        self.printed += 1;
        match self.output {
            Output::Table => writeln!(self.out, "{}", row(text)),
            Output::Json if self.printed > 1 => write!(self.out, ",\n{text}"),
            Output::Json => write!(self.out, "{text}"),
            Output::Ndjson => writeln!(self.out, "{}", one_line(text)),
        }
    }

    fn end(&mut self) -> std::io::Result<()> {
        if self.output == Output::Json {
            writeln!(self.out, "]")?;
        }
        Ok(())
    }
}

/// The trace on one line: line ends between its tokens become spaces.
pub(crate) fn one_line(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ").into() } else { text.into() }
}

/// A trace as a row of a table. Control characters are shown as `?`, so that a trace cannot steer
/// the terminal.
pub(crate) fn row(text: &str) -> String {
    let trace: Value = serde_json::from_str(text).unwrap_or_default();
    let field = |name: &str| {
        let text = trace[name].as_str().unwrap_or("-");
        text.chars().map(|own| if own.is_control() { '?' } else { own }).collect::<String>()
    };
    let time = trace["time"]
        .as_i64()
        .and_then(|time| jiff::Timestamp::from_millisecond(time).ok())
        .map_or_else(|| trace["time"].to_string(), |time| format!("{time:.3}"));
    let user = trace["user"]["name"].as_str().or(trace["user"]["user_name"].as_str());
    let user: String =
        user.unwrap_or("-").chars().map(|own| if own.is_control() { '?' } else { own }).collect();
    let rating = if trace["trace_rating"].is_string() { "trace_rating" } else { "trace_status" };
    format!(
        "{time:<24}  {:<8}  {user:<12}  {:<8}  {:<28}  {:<16}  {}/{}",
        field(rating),
        field("service_type"),
        field("trace_name"),
        field("source_ip"),
        field("resource_type"),
        field("resource_name"),
    )
}
