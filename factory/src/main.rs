//! `outstation-factory`: see `outstation-factory --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outstation_factory::cli::main()
}
