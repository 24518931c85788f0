//! Trailproof: a self-hosted audit trail that proves itself.
//!
//! This crate is the shell around the pure core `trailproof_topology`: it owns clocks, files,
//! threads and sockets, behind the ports [`log`], [`store`] and [`object`].

pub mod api;
pub mod cli;
mod client;
pub mod cloudtrail;
pub mod codec;
mod command;
pub mod config;
mod sample;

pub mod applied;
pub mod engine;
pub mod indexer;
pub mod keys;
pub mod log;
pub mod memory_budget;
pub mod object;
pub mod outbox;
pub mod signer;
pub mod store;
pub mod verify;

pub mod clock;
pub mod metrics;
pub mod shutdown;
pub mod turns;
pub mod worker;

mod fault;
pub mod view;
