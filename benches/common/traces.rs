//! Generated traces of about 790 bytes with realistic cardinalities, and the figures of a bench.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Small numbers much more often than large ones.
    pub(crate) fn skewed(&mut self, bound: u64) -> u64 {
        let unit = self.next() as f64 / u64::MAX as f64;
        ((unit * unit * unit) * bound as f64) as u64
    }
}

/// Name of an account.
pub(crate) fn account(number: u64) -> String {
    format!("{number:032x}")
}

const SERVICES: [&str; 12] =
    ["ECS", "IAM", "OBS", "EVS", "VPC", "RDS", "CTS", "SMN", "KMS", "DCS", "CCE", "ELB"];
const VERBS: [&str; 8] =
    ["create", "delete", "update", "list", "show", "attach", "detach", "reset"];
const NOUNS: [&str; 10] = [
    "Server", "Volume", "Bucket", "Policy", "User", "Network", "Subnet", "Key", "Topic", "Cluster",
];

/// Appends one trace of about 790 bytes, without a line end; answers the number of its account.
pub(crate) fn trace(random: &mut Random, accounts: u64, time_ms: i64, out: &mut Vec<u8>) -> u64 {
    let number = 2 + random.skewed(accounts);
    let owner = account(number);
    let service = SERVICES[random.skewed(12) as usize];
    let (verb, noun) = (VERBS[random.skewed(8) as usize], NOUNS[random.below(10) as usize]);
    let user = random.skewed(2_000);
    let (high, low) = (random.next(), random.next());
    let (resource, name) = (random.skewed(400_000), random.skewed(58_000));
    let (rating, code) = match random.below(40) {
        0 => ("incident", 500),
        1..4 => ("warning", 403),
        _ => ("normal", 200),
    };
    let ip = random.skewed(9_000);
    let mut text = String::with_capacity(900);
    write!(
        text,
        "{{\"trace_id\":\"{:08x}-{:04x}-11ee-{:04x}-{:012x}\",\"trace_name\":\"{verb}{noun}\",\
         \"trace_rating\":\"{rating}\",\"trace_type\":\"ApiCall\",\"time\":{time_ms},\
         \"record_time\":{},\"user\":{{\"id\":\"{user:032x}\",\"name\":\"user-{user}\",\
         \"domain\":{{\"id\":\"{owner}\",\"name\":\"acme\"}},\
         \"access_key_id\":\"AK{:018X}\"}},\"service_type\":\"{service}\",\
         \"resource_type\":\"{}\",\"resource_name\":\"{}-{name}\",\
         \"resource_id\":\"{resource:08x}-aaaa-4bbb-8ccc-{:012x}\",\
         \"source_ip\":\"10.{}.{}.{}\",\"code\":\"{code}\",\"api_version\":\"v3\",\
         \"request\":\"{{\\\"name\\\":\\\"{}-{name}\\\",\\\"size\\\":{}}}\",\
         \"response\":\"{{\\\"job_id\\\":\\\"{:016x}\\\"}}\",\
         \"enterprise_project_id\":\"{}\",\"project_id\":\"{:032x}\",\
         \"domain_id\":\"{owner}\",\"read_only\":{},\"event_type\":\"system\"}}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low & 0xffff_ffff_ffff,
        time_ms + 120,
        user * 7,
        noun.to_lowercase(),
        noun.to_lowercase(),
        resource * 31,
        ip >> 8 & 63,
        ip & 255,
        (ip * 7) & 255,
        noun.to_lowercase(),
        random.below(100),
        high ^ low,
        random.skewed(20),
        owner.len(),
        verb == "list" || verb == "show",
    )
    .expect("writing to a string cannot fail");
    out.extend_from_slice(text.as_bytes());
    number
}

/// CPU time of this process so far, all threads, in microseconds.
pub(crate) fn process_cpu_us() -> f64 {
    cpu_us("/proc/self/stat")
}

/// CPU time of the process whose stat file this is, in microseconds.
pub(crate) fn cpu_us(stat: &str) -> f64 {
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    let fields: Vec<&str> =
        text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of proc(5), in hundredths of a second.
    (ticks(11) + ticks(12)) * 10_000.0
}

/// The figures of a bench run.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, Value>);

impl Figures {
    /// Adds a figure. `goal` and `must` where there are any.
    pub(crate) fn add(
        &mut self,
        name: &str,
        value: f64,
        unit: &str,
        (goal, must): (Option<f64>, Option<f64>),
        better: &str,
    ) {
        let show = |bound: Option<f64>| bound.map_or_else(|| "-".to_owned(), |it| it.to_string());
        println!("{name:32} {value:12.3} {unit:10} goal {:8} must {}", show(goal), show(must));
        let figure = json!({
            "value": value, "unit": unit, "goal": goal, "must": must, "better": better,
        });
        self.0.insert(name.to_owned(), figure);
    }

    /// Adds the figures to `target/bench.json`, over earlier ones of the same names.
    pub(crate) fn write(self) {
        let path = bench_json();
        let known = std::fs::read(&path).unwrap_or_default();
        let mut all: BTreeMap<String, Value> = serde_json::from_slice(&known).unwrap_or_default();
        all.extend(self.0);
        let text = serde_json::to_string_pretty(&all).expect("figures have string keys");
        std::fs::write(&path, text).expect("the target folder can be written");
    }
}

/// `target/bench.json` of this project, wherever cargo puts its own files.
fn bench_json() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&folder).expect("the target folder can be made");
    folder.join("bench.json")
}
