//! The command line: arguments → configuration → budget → memory → threads → READY → serve → drain.

use std::process::ExitCode;

use outstation_kernels::heap::WatchedHeap;

/// Threads that took their memory at start are watched.
#[global_allocator]
static HEAP: WatchedHeap = WatchedHeap;

fn main() -> ExitCode {
    outstation::cli::main()
}
