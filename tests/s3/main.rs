//! The object store on S3, against a server in this process that breaks requests as it is told.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod faults;
#[path = "../conformance/object.rs"]
mod object;
mod outage;
mod requests;
mod server;
mod store;
