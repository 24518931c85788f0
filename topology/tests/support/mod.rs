//! Worlds for the tests of the core: catalogs, traces and a small generator of numbers.

#![allow(dead_code, unreachable_pub)]

use trailproof_topology::catalog::{
    Account, Catalog, Compression, Filter, Project, Rule, Tracker, TrackerKind,
};

/// A seeded generator of numbers: splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

pub fn tracker(id: u8, name: &str, kind: TrackerKind) -> Tracker {
    Tracker {
        id: format!("00000000-0000-4000-8000-0000000000{id:02x}"),
        name: name.to_owned(),
        kind,
        enabled: true,
        bucket: "bucket".to_owned(),
        file_prefix: String::new(),
        compression: Compression::Zstd,
        sort_by_service: true,
        verify: true,
        exclude_services: Vec::new(),
        data_bucket: String::new(),
        data_events: Vec::new(),
    }
}

pub fn rule(id: u8) -> Rule {
    Rule {
        id: format!("10000000-0000-4000-8000-0000000000{id:02x}"),
        name: "deletions".to_owned(),
        enabled: true,
        all_operations: true,
        operations: Vec::new(),
        users: vec!["mallory".to_owned()],
        filter: None::<Filter>,
        topic_urn: String::new(),
    }
}

pub fn catalog(accounts: u8) -> Catalog {
    let accounts = (0..accounts)
        .map(|at| Account {
            id: format!("account-{at:03}"),
            name: format!("account {at}"),
            projects: vec![Project { id: format!("project-{at}"), name: "default".to_owned() }],
            trackers: vec![
                Tracker {
                    data_bucket: "photos".to_owned(),
                    ..tracker(at * 2 + 1, "photos", TrackerKind::Data)
                },
                tracker(at * 2, "system", TrackerKind::System),
            ],
            rules: vec![rule(at)],
        })
        .collect();
    Catalog {
        version: 1,
        installation: "test".to_owned(),
        region: "local".to_owned(),
        cycle_ms: 10_000,
        digest_interval_ms: 60_000,
        file_bytes_max: 1 << 20,
        dedup_window: 64,
        traces_partitions: 1,
        files_partitions: 1,
        accounts,
    }
}

/// A record of topic `traces`: mostly a trace, now and then a resend or something broken.
pub fn record(random: &mut Random, accounts: u8, sent: &mut Vec<Vec<u8>>) -> Vec<u8> {
    if !sent.is_empty() && random.one_in(12) {
        let at = sent.len() - 1 - random.below(sent.len().min(90) as u64) as usize;
        return sent[at].clone();
    }
    if random.one_in(15) {
        let broken: [&[u8]; 6] = [
            b"",
            b"\xff\xfe",
            b"{\"domain_id\":\"account-000\"}",
            b"[1]",
            b"{\"time\":1,\"time\":2}",
            b"{\"time\":1e999}",
        ];
        return broken[random.below(6) as usize].to_vec();
    }
    let account = random.below(u64::from(accounts) + 1);
    let service = ["ECS", "IAM", "OBS", "VPC"][random.below(4) as usize];
    let user = ["alice", "bob", "mallory", "zo\\u00eb"][random.below(4) as usize];
    let rating = ["normal", "warning", "incident"][random.below(3) as usize];
    let kind = if service == "OBS" { "ObsSDK" } else { "ApiCall" };
    let bucket = ["photos/a", "other"][random.below(2) as usize];
    let mut members = vec![
        format!("\"time\":{}", 1_700_000_000_000 + random.below(100_000_000)),
        format!("\"service_type\":\"{service}\",\"resource_type\":\"thing\""),
        format!("\"trace_name\":\"do{}\",\"trace_rating\":\"{rating}\"", random.below(9)),
        format!("\"trace_type\":\"{kind}\",\"resource_name\":\"{bucket}\""),
        format!("\"user\":{{\"name\":\"{user}\",\"domain\":{{\"id\":\"account-{account:03}\"}}}}"),
        format!("\"request\":\"{}\"", "x".repeat(random.below(2000) as usize)),
    ];
    if !random.one_in(4) {
        members.push(format!("\"trace_id\":\"id-{}\"", random.below(4000)));
    }
    if random.one_in(2) {
        members.push(format!("\"record_time\":{}", 1_700_000_000_000 + random.below(1000)));
    }
    let bytes = format!(" {{{}}}", members.join(",")).into_bytes();
    sent.push(bytes.clone());
    bytes
}
