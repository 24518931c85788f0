//! The pure core of Trailproof: what a partition's log means, without I/O.
//!
//! Everything here is a function of the records of one partition in offset order. The shell (crate
//! `trailproof`) polls records, hands them to a stage, commits the rows and delivers the effects.
//!
//! **Invariant:** no clock, randomness, environment, file, thread or hash-map iteration. See
//! `docs/architecture.md` for the map and `docs/formats.md` for every byte that leaves.

pub mod attribute;
pub mod catalog;
pub mod chunk;
pub mod columns;
pub mod compatible;
pub mod count;
pub mod digest;
pub mod digest_chain;
pub mod digest_coverage;
pub mod digest_stage;
mod digest_state;
mod digest_window;
pub mod effect;
pub mod files;
pub mod input;
pub mod invariant;
pub mod key;
pub mod memory;
pub mod merkle;
pub mod merkle_proof;
pub mod names;
pub mod note;
pub mod pack;
pub mod parts;
pub mod pool;
pub mod query;
pub mod record;
pub mod route;
pub mod rule;
pub mod run;
pub mod segment;
pub mod sign;
pub mod stage;
pub mod state;
pub mod tail;
pub mod trace;
pub mod varint;
pub mod window;
pub mod workbench;
