//! Routing: which trackers select a trace.
//!
//! A management tracker takes every trace of its account that is no data event. A data tracker
//! takes the data events that name it, or that concern its bucket, of the kinds it asks for.
//!
//! **Invariant:** a decision depends on the trace and the catalog version in force, nothing else.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::attribute::Attribute;
use crate::catalog::{Account, Catalog, DataEvent, Tracker, TrackerKind, tracker_key};
use crate::key::TrackerId;
use crate::trace::Trace;

/// A catalog, made ready for lookups.
#[derive(Clone, Debug)]
pub struct Router {
    catalog: Arc<Catalog>,
    /// Hash of the account id and its index, ascending.
    accounts: Vec<(u64, u32)>,
    /// By the top bits of a hash: the first of the accounts whose hash has them, or greater ones.
    first_account: Vec<u32>,
    /// How many bits of a hash are below those.
    shift: u32,
    /// First tracker number of each account; trackers are numbered in catalog order.
    first_tracker: Vec<u32>,
    /// By tracker number.
    trackers: Vec<RoutedTracker>,
}

/// A tracker under its number.
#[derive(Clone, Copy, Debug)]
pub struct RoutedTracker {
    /// The 16 bytes of its id.
    pub id: TrackerId,
    /// Index of its account.
    pub account: u32,
    /// Index in its account.
    pub index: u32,
}

impl Router {
    /// Prepares a catalog. A tracker whose id is no UUID is left out; the shell's check refuses
    /// such a catalog before it gets here.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>) -> Self {
        let mut accounts = Vec::with_capacity(catalog.accounts.len());
        let mut first_tracker = Vec::with_capacity(catalog.accounts.len());
        let mut trackers = Vec::new();
        for (at, account) in catalog.accounts.iter().enumerate() {
            accounts.push((xxh3_64(account.id.as_bytes()), at as u32));
            first_tracker.push(trackers.len() as u32);
            for (index, tracker) in account.trackers.iter().enumerate() {
                let id = tracker_key(&tracker.id).unwrap_or_default();
                trackers.push(RoutedTracker { id, account: at as u32, index: index as u32 });
            }
        }
        accounts.sort_unstable();
        // Two to four times as many as accounts, so that a look meets one or two of them.
        let tops = (2 * accounts.len()).next_power_of_two().max(2) as u64;
        let shift = u64::BITS - tops.trailing_zeros();
        let first = |top| accounts.partition_point(|(hash, _)| hash >> shift < top) as u32;
        let first_account = (0..tops).map(first).collect();
        Self { catalog, accounts, first_account, shift, first_tracker, trackers }
    }

    /// The catalog in force.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Every tracker, by number.
    #[must_use]
    pub fn trackers(&self) -> &[RoutedTracker] {
        &self.trackers
    }

    /// The index of an account.
    #[must_use]
    pub fn account(&self, id: &str) -> Option<u32> {
        let hash = xxh3_64(id.as_bytes());
        let from = self.first_account[(hash >> self.shift) as usize] as usize;
        self.accounts[from..]
            .iter()
            .take_while(|(other, _)| *other <= hash)
            .find(|(other, at)| *other == hash && self.catalog.accounts[*at as usize].id == id)
            .map(|(_, at)| *at)
    }

    /// The account with an index that [`Router::account`] gave.
    #[must_use]
    pub fn account_at(&self, account: u32) -> &Account {
        &self.catalog.accounts[account as usize]
    }

    /// The tracker with a number.
    #[must_use]
    pub fn tracker_at(&self, number: u32) -> &Tracker {
        let routed = self.trackers[number as usize];
        &self.account_at(routed.account).trackers[routed.index as usize]
    }

    /// Calls `select` with the number of each tracker of `account` that takes the trace.
    pub fn select(&self, account: u32, trace: &Trace<'_>, select: &mut Vec<u32>) {
        select.clear();
        let first = self.first_tracker[account as usize];
        let trackers = &self.account_at(account).trackers;
        let data = is_data(trace);
        for (index, tracker) in trackers.iter().enumerate() {
            let takes = match tracker.kind {
                TrackerKind::System => !data && !excluded(tracker, trace),
                TrackerKind::Data => data && concerns(tracker, trace),
            };
            if tracker.enabled && takes {
                select.push(first + index as u32);
            }
        }
    }
}

/// Whether a trace is a data event.
fn is_data(trace: &Trace<'_>) -> bool {
    match trace.event_type.as_deref() {
        Some(kind) => kind == "data",
        None => matches!(trace.value(Attribute::TraceType), Some("ObsSDK" | "ObsAPI")),
    }
}

/// CTS drops only `createDatakey` of the services it lists, and only KMS can be listed.
fn excluded(tracker: &Tracker, trace: &Trace<'_>) -> bool {
    !tracker.exclude_services.is_empty()
        && trace.value(Attribute::TraceName) == Some("createDatakey")
        && tracker
            .exclude_services
            .iter()
            .any(|service| trace.value(Attribute::ServiceType) == Some(service))
}

/// Whether a data event is one that a data tracker watches.
fn concerns(tracker: &Tracker, trace: &Trace<'_>) -> bool {
    let named = match trace.tracker_name.as_deref() {
        Some(name) => name == tracker.name,
        None => {
            let resource = trace.value(Attribute::ResourceName).unwrap_or_default();
            let bucket = resource.split('/').next().unwrap_or_default();
            !tracker.data_bucket.is_empty() && bucket == tracker.data_bucket
        }
    };
    let event = match trace.value(Attribute::ReadOnly) {
        Some("true") => DataEvent::Read,
        Some(_) => DataEvent::Write,
        None => by_name(trace.value(Attribute::TraceName).unwrap_or_default()),
    };
    named && (tracker.data_events.is_empty() || tracker.data_events.contains(&event))
}

/// Reads are called get…, list… or head…, whatever the case.
fn by_name(name: &str) -> DataEvent {
    let begins =
        |verb: &str| name.get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb));
    if ["get", "list", "head"].into_iter().any(begins) { DataEvent::Read } else { DataEvent::Write }
}
