//! `outstation-factory`: see `outstation-factory --help`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    outstation_factory::cli::main()
}
