//! A world: how many partitions, which catalogs, how records come, how often things fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use trailproof::log::Kind;
use trailproof_topology::catalog::{
    Account, Catalog, CatalogMark, Compression, DataEvent, Project, Rule, Tracker, TrackerKind,
};
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Millis;
use trailproof_topology::record::open::OPEN_BYTES_MAX;

use super::hub::{Faults, Hub, Inner, Rates};
use super::logs::Logs;
use super::objects::Objects;
use super::plant::Plant;
use super::random::Random;
use super::traces::{Meant, Producer};

/// When every world begins: a moment before a day, a digest interval and a cycle end.
pub(crate) const START_MS: Millis = 1_763_683_200_000 - 4_000;

/// What a seed decides at the beginning.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) producer: Producer,
    /// Records that producers send.
    pub(crate) records: u64,
    pub(crate) catalog: Catalog,
    /// Catalog changes to come.
    pub(crate) changes: u64,
    /// Bytes of a batch.
    pub(crate) batch_bytes: usize,
    /// Crashes, takeovers and losses per thousand steps.
    pub(crate) trouble: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let accounts = 2 + random.below(2);
        // Now and then traces so large that a segment has several chunks.
        let large = random.one_in(40);
        let filling = if large { 90_000 } else { *random.pick(&[10, 200, 600]) };
        let producer = Producer::new(accounts, filling, random.one_in(3));
        let catalog = first(&mut random, accounts, large);
        Self {
            records: if large { 20 } else { 30 + random.below(60) },
            changes: random.below(4),
            batch_bytes: *random.pick(&[1, 600, 4_000, 1 << 20]),
            trouble: *random.pick(&[0, 20, 60, 150]),
            random,
            producer,
            catalog,
        }
    }

    /// The shared world, before anything is in its log.
    pub(crate) fn hub(&mut self, plant: Plant) -> Arc<Hub> {
        let rates = rates(&mut self.random);
        let faults = Faults {
            random: Random(self.random.next()),
            rates,
            on: true,
            calls: 0,
            crash_at: Vec::new(),
            crashed: false,
        };
        Hub::new(Inner {
            now_ms: START_MS,
            clamped: !self.random.one_in(4),
            holes: self.random.one_in(3),
            open_bytes_max: *self.random.pick(&[OPEN_BYTES_MAX, OPEN_BYTES_MAX, 3_000, 800]),
            commits_per_flush: *self.random.pick(&[1, 2, 4, 8]),
            logs: Logs::new(self.catalog.traces_partitions, self.catalog.files_partitions),
            objects: Objects::default(),
            faults,
            catalogs: BTreeMap::new(),
            marks: Default::default(),
            plant,
            trace: None,
        })
    }

    /// Appends the catalog and a mark to every partition, in one piece.
    pub(crate) fn announce(&self, hub: &Hub) {
        let mut inner = hub.lock();
        let version = self.catalog.version;
        inner.catalogs.insert(version, Arc::new(self.catalog.clone()));
        let mark = mark_of(&self.catalog);
        for partition in 0..self.catalog.traces_partitions {
            append_mark(&mut inner, Topic::Traces, partition, &mark, Meant::Mark(version));
        }
        for partition in 0..self.catalog.files_partitions {
            append_mark(&mut inner, Topic::Files, partition, &mark, Meant::Mark(version));
        }
        inner.say(|| format!("catalog {version}: {:?}", self.catalog));
    }

    /// Makes the next version of the catalog.
    pub(crate) fn change(&mut self, hub: &Hub) {
        let random = &mut self.random;
        self.catalog.version += 1;
        for _ in 0..1 + random.below(2) {
            let name = mutate(&mut self.catalog, random);
            hub.mark(name);
        }
        self.changes -= 1;
        self.announce(hub);
    }
}

/// The mark that names a catalog.
pub(crate) fn mark_of(catalog: &Catalog) -> CatalogMark {
    let record = serde_json::to_vec(catalog).expect("a catalog serialises");
    CatalogMark::of(catalog.version, &record)
}

/// Appends a mark.
pub(crate) fn append_mark(
    inner: &mut Inner,
    topic: Topic,
    partition: u32,
    mark: &CatalogMark,
    meant: Meant,
) {
    inner.append(topic, partition, Kind::Catalog, mark.encode().as_bytes(), meant);
}

fn rates(random: &mut Random) -> Rates {
    let mut rate = |most: u64| if random.one_in(2) { 0 } else { random.below(most) };
    Rates {
        poll: rate(200),
        partial: rate(600),
        tick: rate(300),
        publish: rate(300),
        put: rate(300),
        get: rate(300),
        commit: rate(200),
        read: rate(300),
        conflict: rate(60),
        recompressed: rate(80),
    }
}

fn first(random: &mut Random, accounts: u64, large: bool) -> Catalog {
    Catalog {
        version: 1,
        installation: "test".to_owned(),
        region: "local".to_owned(),
        cycle_ms: 10_000,
        digest_interval_ms: *random.pick(&[10_000, 30_000, 60_000]),
        file_bytes_max: if large { 1 << 20 } else { *random.pick(&[500, 2_000, 1 << 20]) },
        dedup_window: *random.pick(&[1, 3, 8, 64]),
        traces_partitions: 1 + random.below(3) as u32,
        files_partitions: 1 + random.below(2) as u32,
        accounts: (0..accounts).map(|at| account(at, random)).collect(),
    }
}

pub(crate) fn account(number: u64, random: &mut Random) -> Account {
    let id = format!("account-{number}");
    let mut trackers = both_trackers(number, random);
    if random.one_in(4) {
        trackers.remove(0);
    }
    Account {
        name: id.clone(),
        projects: vec![Project { id: format!("project-{number}"), name: "default".to_owned() }],
        trackers,
        rules: vec![rule(number)],
        id,
    }
}

/// A data tracker and the system tracker of an account.
pub(crate) fn both_trackers(number: u64, random: &mut Random) -> Vec<Tracker> {
    let account = format!("account-{number}");
    let photos = Tracker {
        data_bucket: "album".to_owned(),
        data_events: random.pick(&[vec![], vec![DataEvent::Read], vec![DataEvent::Write]]).clone(),
        ..tracker(number * 2 + 1, "photos", TrackerKind::Data, &account, random)
    };
    vec![photos, tracker(number * 2, "system", TrackerKind::System, &account, random)]
}

fn tracker(
    number: u64,
    name: &str,
    kind: TrackerKind,
    account: &str,
    random: &mut Random,
) -> Tracker {
    Tracker {
        id: format!("00000000-0000-4000-8000-0000000000{number:02x}"),
        name: name.to_owned(),
        kind,
        enabled: !random.one_in(10),
        bucket: if random.one_in(8) { String::new() } else { format!("cts-{account}") },
        file_prefix: String::new(),
        compression: *random.pick(&[
            Compression::Zstd,
            Compression::Zstd,
            Compression::Zstd,
            Compression::Gzip,
            Compression::Json,
        ]),
        sort_by_service: !random.one_in(3),
        verify: !random.one_in(6),
        exclude_services: if random.one_in(2) { vec!["KMS".to_owned()] } else { Vec::new() },
        data_bucket: String::new(),
        data_events: Vec::new(),
    }
}

fn rule(number: u64) -> Rule {
    Rule {
        id: format!("10000000-0000-4000-8000-0000000000{number:02x}"),
        name: "mallory".to_owned(),
        enabled: true,
        all_operations: true,
        operations: Vec::new(),
        users: vec!["mallory".to_owned()],
        filter: None,
        topic_urn: String::new(),
    }
}

/// One change of the catalog, and the mark it leaves.
fn mutate(catalog: &mut Catalog, random: &mut Random) -> &'static str {
    let at = random.below(catalog.accounts.len() as u64) as usize;
    match random.below(11) {
        0 => {
            catalog.cycle_ms = *random.pick(&[5_000, 10_000, 20_000]);
            if random.one_in(2) || catalog.digest_interval_ms % catalog.cycle_ms != 0 {
                catalog.digest_interval_ms = *random.pick(&[20_000, 40_000, 60_000]);
                return "the interval changes";
            }
            return "the cycle changes";
        }
        1 => {
            catalog.dedup_window = *random.pick(&[1, 3, 8, 64]);
            return "the window changes";
        }
        2 => {
            catalog.file_bytes_max = *random.pick(&[500, 2_000, 1 << 20]);
            return "the file bound changes";
        }
        3 if catalog.accounts.len() > 1 => {
            catalog.accounts.pop();
            return "an account goes";
        }
        4 => {
            let number = catalog.accounts.len() as u64;
            if number < 3 {
                catalog.accounts.push(account(number, random));
                return "an account comes";
            }
        }
        _ => {}
    }
    let account = &mut catalog.accounts[at];
    let number = account.id.bytes().last().map_or(0, |digit| u64::from(digit - b'0'));
    if account.trackers.is_empty() || random.one_in(4) {
        if account.trackers.len() > 1 || (account.trackers.len() == 1 && random.one_in(3)) {
            account.trackers.remove(0);
            return "a tracker goes";
        }
        let id = account.id.clone();
        if account.trackers.is_empty() {
            account.trackers =
                vec![tracker(number * 2, "system", TrackerKind::System, &id, random)];
        } else if account.trackers[0].name == "system" {
            let photos = tracker(number * 2 + 1, "photos", TrackerKind::Data, &id, random);
            account.trackers.insert(0, Tracker { data_bucket: "films".to_owned(), ..photos });
        }
        return "a tracker comes";
    }
    let last = account.trackers.len() as u64;
    let bucket = format!("cts-{}", account.id);
    mutate_tracker(&mut account.trackers[random.below(last) as usize], bucket, random)
}

/// One change of a tracker.
fn mutate_tracker(tracker: &mut Tracker, bucket: String, random: &mut Random) -> &'static str {
    match random.below(6) {
        5 => {
            tracker.bucket = if tracker.bucket.is_empty() { bucket } else { String::new() };
            "transfer is switched"
        }
        0 => {
            tracker.enabled = !tracker.enabled;
            "a tracker is switched"
        }
        1 => {
            tracker.verify = !tracker.verify;
            "verification is switched"
        }
        2 => {
            tracker.sort_by_service = !tracker.sort_by_service;
            "sorting is switched"
        }
        3 => {
            let next = if tracker.compression == Compression::Zstd {
                Compression::Gzip
            } else {
                Compression::Zstd
            };
            tracker.compression = next;
            "the compression changes"
        }
        _ => {
            tracker.file_prefix = format!("p{}", random.below(3));
            "the prefix changes"
        }
    }
}
