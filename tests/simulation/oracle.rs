//! The oracle: what a log means, written a second time and simply, from what producers meant.
//!
//! It parses no trace and shares no code with the stages but the types of the catalog.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use trailproof_topology::catalog::{Catalog, DataEvent, Tracker, TrackerKind};

use super::logs::Stored;
use super::traces::{Facts, Meant};

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Tick,
    Mark,
    /// An offset without record.
    Absent,
    /// A record that was gone unread.
    Lost,
    /// A dead letter, of an account or of none.
    Dead(Option<String>),
    Resend(String),
    /// Account, whether its id was known with other content, trackers that have it in a file.
    Trace(String, bool, Vec<String>),
}

/// A file, or one in the making.
#[derive(Clone, Debug)]
pub(crate) struct Filed {
    pub(crate) account: String,
    pub(crate) tracker: Tracker,
    pub(crate) service: String,
    pub(crate) cycle_ms: i64,
    pub(crate) offsets: Vec<u64>,
    pub(crate) times: Vec<i64>,
    pub(crate) texts: Vec<Vec<u8>>,
    pub(crate) sealed: bool,
}

impl Filed {
    pub(crate) fn content(&self) -> Vec<u8> {
        [b"[\n".as_slice(), &self.texts.join(b",\n".as_slice()), b"\n]\n"].concat()
    }
}

/// A finished stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) until_ms: i64,
}

/// What a partition's log means.
#[derive(Default)]
pub(crate) struct Oracle {
    partition: u32,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) files: Vec<Filed>,
    pub(crate) stretches: Vec<Stretch>,
    /// Rule, id, offset.
    pub(crate) notes: Vec<(String, String, u64)>,
    pub(crate) letters: Vec<u64>,
    catalog: Option<Arc<Catalog>>,
    time_ms: i64,
    cycle: Option<(i64, i64)>,
    /// Where the cycle began that the catalog in force found.
    not_before: i64,
    /// Open file by tracker and service.
    open: BTreeMap<(String, String), usize>,
    window: VecDeque<(String, String, Vec<u8>)>,
}

impl Oracle {
    pub(crate) fn of(
        partition: u32,
        log: &[Stored],
        catalogs: &BTreeMap<u64, Arc<Catalog>>,
    ) -> Self {
        let mut oracle = Self { partition, ..Self::default() };
        for (offset, record) in (0..).zip(log) {
            if !matches!(record.meant, Meant::Absent | Meant::Lost) {
                oracle.time(record.append_time_ms, offset);
            }
            let outcome = match &record.meant {
                Meant::Tick => Outcome::Tick,
                Meant::Absent => Outcome::Absent,
                Meant::Lost => Outcome::Lost,
                Meant::Mark(version) => {
                    let known = oracle.catalog.as_ref().map_or(0, |catalog| catalog.version);
                    if let Some(catalog) = catalogs.get(version).filter(|_| *version > known) {
                        oracle.install(catalog);
                    }
                    Outcome::Mark
                }
                Meant::Own | Meant::Strange => oracle.dead(offset, None),
                Meant::Garbage(account) => oracle.dead(offset, account.clone()),
                Meant::Trace(facts) => oracle.trace(offset, record, facts),
            };
            oracle.outcomes.push(outcome);
        }
        oracle
    }

    fn time(&mut self, append_time_ms: i64, offset: u64) {
        self.time_ms = self.time_ms.max(append_time_ms);
        let Some((_, end)) = self.cycle.filter(|(_, end)| self.time_ms >= *end) else { return };
        let _ = end;
        self.seal(|_| true);
        self.begin();
        let from = self.stretches.last().map_or(0, |stretch| stretch.to);
        let until_ms = self.cycle.map_or(0, |(start, _)| start);
        self.stretches.push(Stretch { from, to: offset, until_ms });
    }

    fn begin(&mut self) {
        if let Some(catalog) = &self.catalog {
            let start = self.time_ms.div_euclid(catalog.cycle_ms) * catalog.cycle_ms;
            self.cycle = Some((start.max(self.not_before), start + catalog.cycle_ms));
        }
    }

    fn seal(&mut self, which: impl Fn(&Filed) -> bool) {
        let files = &mut self.files;
        self.open.retain(|_, at| {
            let seals = which(&files[*at]);
            files[*at].sealed |= seals;
            !seals
        });
    }

    fn install(&mut self, catalog: &Arc<Catalog>) {
        if let Some(old) = &self.catalog {
            let same =
                (old.cycle_ms, old.file_bytes_max) == (catalog.cycle_ms, catalog.file_bytes_max);
            let new = Arc::clone(catalog);
            self.seal(|filed| {
                let trackers = new.accounts.iter().find(|own| own.id == filed.account);
                !same || !trackers.is_some_and(|own| own.trackers.contains(&filed.tracker))
            });
        }
        self.catalog = Some(Arc::clone(catalog));
        self.not_before = self.cycle.map_or(0, |(start, _)| start);
        self.begin();
        while self.window.len() > catalog.dedup_window as usize {
            self.window.pop_front();
        }
    }

    fn account(&self, id: &str) -> bool {
        let catalog = self.catalog.as_ref();
        catalog.is_some_and(|catalog| catalog.accounts.iter().any(|account| account.id == id))
    }

    fn dead(&mut self, offset: u64, account: Option<String>) -> Outcome {
        self.letters.push(offset);
        Outcome::Dead(account.filter(|id| self.account(id)))
    }

    fn trace(&mut self, offset: u64, record: &Stored, facts: &Facts) -> Outcome {
        if !self.account(&facts.account) {
            return self.dead(offset, None);
        }
        let account = facts.account.clone();
        let mut conflict = false;
        if let Some(id) = &facts.trace_id {
            let is = |own: &&(String, String, Vec<u8>)| own.0 == account && own.1 == *id;
            let value = record.value.to_vec();
            if self.window.iter().filter(is).any(|own| own.2 == value) {
                return Outcome::Resend(account);
            }
            conflict = self.window.iter().any(|own| is(&own));
            self.window.push_back((account.clone(), id.clone(), value));
            let capacity = self.catalog.as_ref().map_or(1, |catalog| catalog.dedup_window);
            if self.window.len() > capacity as usize {
                self.window.pop_front();
            }
        }
        let catalog = self.catalog.clone().expect("the account is in it");
        let owner = catalog.accounts.iter().find(|own| own.id == account).expect("found above");
        let takes = |tracker: &&Tracker| tracker.enabled && selects(tracker, facts);
        let trackers: Vec<Tracker> = owner.trackers.iter().filter(takes).cloned().collect();
        let (text, id) = stored(self.partition, offset, record, facts);
        for tracker in &trackers {
            self.file(offset, tracker, facts, &text, catalog.file_bytes_max);
        }
        if !trackers.is_empty() && facts.user == "mallory" {
            let place = format!(":{}-{offset}", self.partition);
            for rule in &owner.rules {
                let mark = if conflict { place.as_str() } else { "" };
                self.notes.push((rule.id.clone(), format!("{}:{id}{mark}", rule.id), offset));
            }
        }
        let files = trackers.into_iter().filter(|tracker| !tracker.bucket.is_empty());
        let ids = files.map(|tracker| tracker.id).collect();
        Outcome::Trace(account, conflict, ids)
    }

    fn file(&mut self, offset: u64, tracker: &Tracker, facts: &Facts, text: &[u8], bytes_max: u64) {
        let service = if tracker.sort_by_service { facts.service } else { "" };
        let key = (tracker.id.clone(), service.to_owned());
        if let Some(at) = self.open.get(&key).copied() {
            let size = self.files[at].content().len() + 2 + text.len();
            if size as u64 > bytes_max {
                self.files[at].sealed = true;
                self.open.remove(&key);
            }
        }
        let fresh = Filed {
            account: facts.account.clone(),
            tracker: tracker.clone(),
            service: service.to_owned(),
            cycle_ms: self.cycle.map_or(0, |(start, _)| start),
            offsets: Vec::new(),
            times: Vec::new(),
            texts: Vec::new(),
            sealed: false,
        };
        let files = &mut self.files;
        let at = *self.open.entry(key).or_insert_with(|| {
            files.push(fresh);
            files.len() - 1
        });
        self.files[at].offsets.push(offset);
        self.files[at].times.push(self.time_ms);
        self.files[at].texts.push(text.to_vec());
    }
}

fn selects(tracker: &Tracker, facts: &Facts) -> bool {
    if tracker.kind == TrackerKind::System {
        return !facts.data && (!facts.datakey || tracker.exclude_services.is_empty());
    }
    let named = match facts.tracker {
        Some(name) => name == tracker.name,
        None => facts.bucket == tracker.data_bucket,
    };
    let event = if facts.read { DataEvent::Read } else { DataEvent::Write };
    let wanted = tracker.data_events.is_empty() || tracker.data_events.contains(&event);
    facts.data && named && wanted
}

/// The trace as it is stored, and its id.
fn stored(partition: u32, offset: u64, record: &Stored, facts: &Facts) -> (Vec<u8>, String) {
    let mut added = String::new();
    let id = facts.trace_id.clone().unwrap_or_else(|| {
        let text = format!("trailproof/trace/v1\ntopic\n{partition}/{offset}");
        let mut hash = Sha256::digest(text)[..16].to_vec();
        hash[6] = hash[6] & 15 | 128;
        hash[8] = hash[8] & 63 | 128;
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        added.push_str(&format!("\"trace_id\":\"{id}\","));
        id
    });
    if !facts.has_record_time {
        added.push_str(&format!("\"record_time\":{},", record.append_time_ms));
    }
    let text = [b"{".as_slice(), added.as_bytes(), &record.value[1..]].concat();
    (text, id)
}

/// RFC 6962: the root over some leaves.
pub(crate) fn root(leaves: &[Vec<u8>]) -> Vec<u8> {
    match leaves {
        [] => Sha256::digest(b"").to_vec(),
        [leaf] => Sha256::new().chain_update([0]).chain_update(leaf).finalize().to_vec(),
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = (root(&leaves[..split]), root(&leaves[split..]));
            let hash = Sha256::new().chain_update([1]).chain_update(left).chain_update(right);
            hash.finalize().to_vec()
        }
    }
}
