//! The command line: arguments → configuration → budget → memory → threads → READY → serve → drain.

use std::process::ExitCode;

fn main() -> ExitCode {
    outstation::cli::main()
}
