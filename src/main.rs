//! The `trailproof` command.

use std::process::ExitCode;

/// Kinder to long-running processes with many small allocations than the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    trailproof::cli::main()
}
