//! The `trailproof` command.

fn main() {}
