//! One suite per port, run on every adapter; and what only one adapter promises.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "conformance/catalogs.rs"]
mod catalogs;
#[path = "conformance/directory.rs"]
mod directory;
#[path = "conformance/embedded.rs"]
mod embedded;
#[path = "conformance/log.rs"]
mod log;
#[path = "conformance/object.rs"]
mod object;
#[path = "conformance/rocks.rs"]
mod rocks;
#[path = "conformance/store.rs"]
mod store;
#[path = "conformance/tmpfs.rs"]
mod tmpfs;
