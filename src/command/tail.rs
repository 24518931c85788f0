//! `trailproof tail`: follows the newest traces.
//!
//! Each round asks for what arrived since a little before the last trace seen: partitions do not
//! wait for each other, so a trace may become visible behind a later one. What was shown is
//! remembered by its position and not shown again.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::query::{Filters, one_line, page, row};
use crate::client::Client;
use crate::clock;

/// Pause between two rounds that found nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// How far back a round looks again.
const OVERLAP_MS: i64 = 10_000;

/// Traces of one request.
const PAGE: usize = 500;

/// Positions that are remembered at most; beyond it the oldest are forgotten.
const SEEN_MAX: usize = 200_000;

/// Arguments of `trailproof tail`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only operations whose name matches: * any letters, ? one letter
    #[arg(value_name = "PATTERN")]
    pattern: Option<String>,
    #[command(flatten)]
    filters: Filters,
    /// Begin with traces that arrived this long ago
    #[arg(long, value_name = "DURATION", value_parser = crate::config::units::duration)]
    since: Option<Duration>,
    /// Stop after this many traces
    #[arg(long, value_name = "N")]
    lines: Option<u64>,
    /// Print traces as stored, one a line, also on a terminal
    #[arg(long)]
    json: bool,
}

/// Follows until interrupted.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let client = Client::new(&arguments.filters.server, Duration::from_secs(60))?;
    let mut params = arguments.filters.params()?;
    for (name, value) in [("order", "oldest"), ("positions", "true")] {
        params.push((name.to_owned(), value.to_owned()));
    }
    params.push(("limit".to_owned(), PAGE.to_string()));
    let since = arguments.since.unwrap_or(Duration::ZERO);
    let begin_ms = clock::now_ms() - since.as_millis() as i64;
    let as_json = arguments.json || !std::io::stdout().is_terminal();
    let mut newest_ms = begin_ms;
    let mut seen: BTreeSet<(i64, u32, u64)> = BTreeSet::new();
    let mut left = arguments.lines.unwrap_or(u64::MAX);
    while left > 0 {
        let before = newest_ms;
        let from_ms = (newest_ms - OVERLAP_MS).max(begin_ms);
        let mut cursor: Option<String> = None;
        loop {
            let mut asked = params.clone();
            asked.push(("recorded_from".to_owned(), from_ms.to_string()));
            asked.extend(cursor.take().map(|word| ("cursor".to_owned(), word)));
            let text = client.get_text("/api/v1/traces", &asked)?;
            let page = page(&text)?;
            for (trace, position) in page.traces.iter().zip(&page.positions) {
                newest_ms = newest_ms.max(position.recorded_ms);
                let place = (position.recorded_ms, position.partition, position.offset);
                if left > 0 && seen.insert(place) {
                    left -= u64::from(show(trace.get(), arguments.pattern.as_deref(), as_json)?);
                }
            }
            if !page.meta_data.more || left == 0 {
                break;
            }
            cursor = page.meta_data.cursor;
        }
        forget(&mut seen, newest_ms - 2 * OVERLAP_MS);
        if newest_ms == before {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn forget(seen: &mut BTreeSet<(i64, u32, u64)>, before_ms: i64) {
    *seen = seen.split_off(&(before_ms, 0, 0));
    while seen.len() > SEEN_MAX {
        seen.pop_first();
    }
}

/// Prints a trace that matches; whether it did.
fn show(text: &str, pattern: Option<&str>, as_json: bool) -> Result<bool, Failure> {
    if let Some(pattern) = pattern {
        let trace: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let name = trace["trace_name"].as_str().unwrap_or_default();
        if !matches(pattern.as_bytes(), name.as_bytes()) {
            return Ok(false);
        }
    }
    let mut out = std::io::stdout().lock();
    match as_json {
        true => writeln!(out, "{}", one_line(text))?,
        false => writeln!(out, "{}", row(text))?,
    }
    out.flush()?;
    Ok(true)
}

/// Whether `text` matches `pattern`: `*` stands for any bytes, `?` for one. Takes time in the
/// product of both lengths at most.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(own) if *own == b'?' || *own == text[read] => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((from, taken)) => {
                    star = Some((from, taken + 1));
                    at = from + 1;
                    read = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expect) in [
            ("delete*", "deleteServer", true),
            ("delete*", "undelete", false),
            ("*Server", "deleteServer", true),
            ("*e*e*", "deleteServer", true),
            ("d?lete*", "deleteServer", true),
            ("delete", "deleteServer", false),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expect, "{pattern} {name}");
        }
    }
}
