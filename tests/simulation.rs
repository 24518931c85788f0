//! The simulator: the real worker, outbox, indexer and view, over ports that fail.
//!
//! One seed gives one world and one history. `TRAILPROOF_SEEDS` says how many are run (20,000);
//! `TRAILPROOF_SEED` repeats one, with a trace of its steps. `crashes` takes one scripted run and
//! lets the process die at every single call of a port; `TRAILPROOF_CRASHES` repeats one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::explicit_auto_deref, reason = "the type of a list is not found without it")]

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/compare.rs"]
mod compare;
#[path = "simulation/crashes.rs"]
mod crashes;
#[path = "simulation/hub.rs"]
mod hub;
#[path = "conformance/log.rs"]
mod log_suite;
#[path = "simulation/logs.rs"]
mod logs;
#[path = "simulation/node.rs"]
mod node;
#[path = "conformance/object.rs"]
mod object_suite;
#[path = "simulation/objects.rs"]
mod objects;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/plant.rs"]
mod plant;
#[path = "simulation/ports.rs"]
mod ports;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/replay.rs"]
mod replay;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/scenes.rs"]
mod scenes;
#[path = "simulation/script.rs"]
mod script;
#[path = "simulation/seeds.rs"]
mod seeds;
#[path = "simulation/store.rs"]
mod store;
#[path = "conformance/store.rs"]
mod store_suite;
#[path = "simulation/traces.rs"]
mod traces;
#[path = "simulation/view.rs"]
mod view;
#[path = "simulation/world.rs"]
mod world;

/// Memory for many small compressors is given back and taken again all the time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
