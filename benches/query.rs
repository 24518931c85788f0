//! Queries over ten million traces of one tracker in two partitions, RocksDB underneath.
//!
//! `TRAILPROOF_BENCH_TRACES` sets another number of traces, `TRAILPROOF_BENCH_DATA` a folder that
//! is kept and used again, `TRAILPROOF_BENCH_QUERY` a part of the names of the queries to run.
//! Prints a table and adds its figures to `target/bench.json`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use trailproof::memory_budget::MemoryBudget;
use trailproof::store::StateStore;
use trailproof::store::rocks::{Options, RocksStore};
use trailproof::view::{Published, View, Viewed};
use trailproof_topology::attribute::Attribute;
use trailproof_topology::key::{self, Table};
use trailproof_topology::query::predicate::Texts;
use trailproof_topology::query::{Axis, Histogram, Order, Predicate, Query, Test};
use trailproof_topology::state::{Changes, Rows};

use load::{NAMES, Random, START_MS, TRACKER, USERS};

#[path = "query/load.rs"]
mod load;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PARTITIONS: u32 = 2;
const REPEATS: usize = 40;
const CACHE_BYTES: usize = 128 << 20;
const HOUR_MS: i64 = 3_600_000;

fn main() {
    let wanted = std::env::var("TRAILPROOF_BENCH_TRACES").ok();
    let traces: u64 = wanted.and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let kept = std::env::var_os("TRAILPROOF_BENCH_DATA").map(PathBuf::from);
    let folder = kept.unwrap_or_else(|| temporary.path().to_owned());
    let filled_before = folder.join("0").exists();
    let memory = MemoryBudget::new(CACHE_BYTES, 64 << 20);
    let options = Options::new(memory, PARTITIONS as usize);
    let open = |name: String| {
        Arc::new(RocksStore::open(&folder.join(name), &options).expect("a new store"))
    };
    let stores: Vec<_> = (0..PARTITIONS).map(|number| open(number.to_string())).collect();
    let mut figures = BTreeMap::new();
    if !filled_before {
        fill(&stores, traces, &mut figures);
        weigh(&stores, &open("index".to_owned()), traces, &mut figures);
    }
    let viewed = |(store, partition): (&Arc<RocksStore>, u32)| Viewed {
        partition,
        store: store.clone(),
        published: Published::default(),
    };
    let view = View::new(stores.iter().zip(0..).map(viewed).collect());
    let only = std::env::var("TRAILPROOF_BENCH_QUERY").unwrap_or_default();
    let mut worst: f64 = 0.0;
    for (name, make) in [lists(), counts(), facets_and_histograms()]
        .concat()
        .into_iter()
        .filter(|(name, _)| name.contains(&only))
    {
        let Measured { p50, p95, cpu } = measure(&view, name, make);
        worst = worst.max(p95);
        figures.insert(format!("query_{name}_p95_ms"), (p95, "ms", 20.0, 50.0));
        println!("{name:28} p50 {p50:7.2} ms  p95 {p95:7.2} ms  cpu {cpu:7.2} ms");
    }
    figures.insert("query_p95_ms".to_owned(), (worst, "ms", 20.0, 50.0));
    for (name, (value, unit, goal, must)) in &figures {
        println!("{name:36} {value:8.3} {unit} (goal {goal}, must {must})");
    }
    write(&figures);
}

type Figures = BTreeMap<String, (f64, &'static str, f64, f64)>;

/// Fills the stores, each on its own thread, and says what columns and runs cost.
fn fill(stores: &[Arc<RocksStore>], traces: u64, figures: &mut Figures) {
    let costs: Vec<load::Cost> = std::thread::scope(|scope| {
        let fill = |(store, seed)| {
            scope.spawn(move || load::fill(store, traces / u64::from(PARTITIONS), seed))
        };
        let threads: Vec<_> = stores.iter().zip(1..).map(fill).collect();
        threads.into_iter().map(|thread| thread.join().expect("filled")).collect()
    });
    let micros = |total: Duration| total.as_secs_f64() * 1e6 / traces as f64;
    let columns = load::columns_cost().as_secs_f64() * 1e6;
    let indexer = micros(costs.iter().map(|cost| cost.indexer).sum());
    figures.insert("index_columns_us".to_owned(), (columns, "us", 0.25, 0.5));
    figures.insert("index_us_per_trace".to_owned(), (columns + indexer, "us", 0.5, 1.0));
    stores.iter().for_each(|store| store.flush().expect("the disk has room"));
}

/// Weighs the index: its rows in a store of their own.
fn weigh(stores: &[Arc<RocksStore>], index: &RocksStore, traces: u64, figures: &mut Figures) {
    for table in [Table::Run, Table::RunHeader, Table::Columns] {
        let rows = copy(stores, index, table);
        println!("{table:?} rows: {rows}");
    }
    let bytes = index.disk_bytes() as f64 / traces as f64;
    figures.insert("index_bytes_per_trace".to_owned(), (bytes, "B", 35.0, 45.0));
}

/// Copies a table into a store of its own, to weigh it.
fn copy(stores: &[Arc<RocksStore>], index: &RocksStore, table: Table) -> usize {
    let (from, to) = key::whole(table);
    let mut rows = 0;
    for (store, number) in stores.iter().zip(0u8..) {
        let mut changes = Changes::default();
        store
            .snapshot()
            .scan(&from, &to, &mut |key, value| {
                rows += 1;
                // One tracker's rows of several partitions lie in one store here.
                let mut key = key.to_vec();
                key[3] = number;
                changes.put(key, value.to_vec());
                if changes.list.len() == 1_000 {
                    index.commit(&std::mem::take(&mut changes)).expect("the disk has room");
                    if index.wants_flush() {
                        index.flush().expect("the disk has room");
                    }
                }
                true
            })
            .expect("rows are intact");
        index.commit(&changes).expect("the disk has room");
    }
    index.flush().expect("the disk has room");
    rows
}

type Make = fn(&mut Random) -> Query;
type Case = (&'static str, Make);

const SIX: [Attribute; 6] = [
    Attribute::ServiceType,
    Attribute::TraceName,
    Attribute::TraceRating,
    Attribute::User,
    Attribute::Code,
    Attribute::SourceIp,
];

fn base() -> Query {
    Query::newest(vec![TRACKER], 50)
}

fn with(predicates: Vec<Predicate>) -> Query {
    Query { predicates, ..base() }
}

fn is(attribute: Attribute, value: impl AsRef<str>) -> Predicate {
    Predicate::is(attribute, value.as_ref())
}

fn user(random: &mut Random) -> Predicate {
    is(Attribute::User, format!("user-{:04}", random.below(USERS)))
}

fn count(query: Query) -> Query {
    Query { limit: 0, count: true, ..query }
}

fn facets(query: Query, facets: &[Attribute]) -> Query {
    Query { limit: 0, facets: facets.to_vec(), ..query }
}

fn day() -> Range<i64> {
    START_MS..START_MS + 86_400_000
}

fn histogram(axis: Axis) -> Option<Histogram> {
    Some(Histogram { axis, width_ms: 60_000 })
}

fn lists() -> Vec<Case> {
    vec![
        ("newest", (|_| base())),
        ("oldest", (|_| Query { order: Order::Oldest, ..base() })),
        ("user", (|random| with(vec![user(random)]))),
        ("user_absent", (|_| with(vec![is(Attribute::User, "nobody")]))),
        (
            "two_rare",
            (|random| {
                let name = format!("resource-name-{}", random.below(NAMES));
                with(vec![user(random), is(Attribute::ResourceName, name)])
            }),
        ),
        (
            "resource_id",
            (|random| {
                let resource = random.below(load::RESOURCES).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let id = format!("{resource:016x}-5e1f-4c7b-0123456789ab");
                with(vec![is(Attribute::ResourceId, id)])
            }),
        ),
        (
            "trace_id_absent",
            (|random| with(vec![is(Attribute::TraceId, format!("{:036x}", random.next()))])),
        ),
        (
            "service_user_2h",
            (|random| {
                let start = START_MS + random.below(22 * HOUR_MS as u64) as i64;
                let query = with(vec![user(random), is(Attribute::ServiceType, "OBS")]);
                Query { stream_ms: start..start + 2 * HOUR_MS, count: true, ..query }
            }),
        ),
    ]
}

fn counts() -> Vec<Case> {
    vec![
        ("count_user", (|random| count(with(vec![user(random)])))),
        (
            "count_type_and_rating",
            (|_| {
                count(with(vec![
                    is(Attribute::TraceType, "ConsoleAction"),
                    is(Attribute::TraceRating, "warning"),
                ]))
            }),
        ),
        (
            "count_user_and_service",
            (|random| count(with(vec![user(random), is(Attribute::ServiceType, "IAM")]))),
        ),
        (
            "count_contains_name",
            (|random| {
                let text = format!("NAME-{}", random.below(NAMES));
                let test = Test::Contains(Texts::new([text]));
                count(with(vec![Predicate::new(Attribute::ResourceName, test)]))
            }),
        ),
        (
            "count_not_service_prefix",
            (|_| {
                let services = Test::Equals(vec!["ECS".to_owned(), "OBS".to_owned()]);
                let users = Test::Begins(vec!["user-00".to_owned()]);
                count(with(vec![
                    !Predicate::new(Attribute::ServiceType, services),
                    Predicate::new(Attribute::User, users),
                ]))
            }),
        ),
        (
            "count_not_any_of_four_texts",
            (|random| {
                let texts = (0..4).map(|_| format!("NAME-{}", random.below(NAMES)));
                let test = Test::Contains(Texts::new(texts));
                count(with(vec![!Predicate::new(Attribute::ResourceName, test)]))
            }),
        ),
        (
            "count_event_hour",
            (|random| {
                let start = START_MS + random.below(23 * HOUR_MS as u64) as i64;
                count(Query { time_ms: start..start + HOUR_MS, ..base() })
            }),
        ),
    ]
}

fn facets_and_histograms() -> Vec<Case> {
    vec![
        ("facets_six", (|_| facets(base(), &SIX))),
        ("facet_resource_name", (|_| facets(base(), &[Attribute::ResourceName]))),
        (
            "facets_six_of_rating",
            (|_| facets(with(vec![is(Attribute::TraceRating, "warning")]), &SIX)),
        ),
        (
            "facets_six_of_service",
            (|_| facets(with(vec![is(Attribute::ServiceType, "ECS")]), &SIX)),
        ),
        (
            "facet_name_of_user",
            (|random| facets(with(vec![user(random)]), &[Attribute::ResourceName])),
        ),
        (
            "histogram_minutes",
            (|_| {
                let histogram = histogram(Axis::Event);
                Query { limit: 0, time_ms: day(), histogram, ..base() }
            }),
        ),
        (
            "histogram_minutes_rating",
            (|_| {
                let query = with(vec![is(Attribute::TraceRating, "warning")]);
                Query { limit: 0, stream_ms: day(), histogram: histogram(Axis::Stream), ..query }
            }),
        ),
    ]
}

/// What a query took, in milliseconds.
struct Measured {
    p50: f64,
    p95: f64,
    /// Processor time of the process for one query, on average.
    cpu: f64,
}

fn measure(view: &View<RocksStore>, name: &str, make: Make) -> Measured {
    let random = &mut Random(11);
    for _ in 0..5 {
        view.query(&make(random)).expect("an answer");
    }
    let cpu = process_time();
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let query = make(random);
            let before = Instant::now();
            let answer = view.query(&query).expect("an answer");
            let taken = before.elapsed().as_secs_f64() * 1e3;
            assert!(answer.bounds.is_exact() || name.starts_with("facet"), "{:?}", answer.bounds);
            taken
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let cpu = (process_time() - cpu) / REPEATS as f64;
    Measured { p50: times[REPEATS / 2], p95: times[REPEATS * 95 / 100], cpu }
}

/// Processor time of this process in milliseconds, in steps of ten.
fn process_time() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split(' ').collect();
    fields.iter().skip(12).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10.0
}

/// Adds the figures to `target/bench.json`.
fn write(figures: &Figures) {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let path = std::path::Path::new(&target).join("bench.json");
    let known = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut all: serde_json::Map<String, serde_json::Value> = known.unwrap_or_default();
    for (name, (value, unit, goal, must)) in figures {
        let figure =
            json!({"value": value, "unit": unit, "goal": goal, "must": must, "better": "lower"});
        all.insert(name.clone(), figure);
    }
    let text = serde_json::to_vec_pretty(&all).expect("figures serialise");
    std::fs::write(&path, text).expect("target is writable");
}
