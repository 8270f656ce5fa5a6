//! Manual pages and shell completions of both programs, from the command lines themselves: `outstation-pages FOLDER`.
//!
//! A program of its own, so that a box does not carry what only its package needs.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "it writes files, and somebody reads its errors"
)]

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("outstation-pages: say one folder; it gets PROGRAM/man, bash, zsh and fish");
        return ExitCode::from(64);
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!(
                "outstation-pages: cannot write to {}: {e}",
                folder.display()
            );
            ExitCode::from(74)
        }
    }
}

fn write(folder: &OsStr) -> io::Result<()> {
    for command in [
        outstation::cli::command(),
        outstation_factory::cli::command(),
    ] {
        let folder = Path::new(folder).join(command.get_name());
        for name in ["man", "bash", "zsh", "fish"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        clap_mangen::generate_to(command.clone(), folder.join("man"))?;
        complete(command, &folder)?;
    }
    Ok(())
}

fn complete(mut command: Command, folder: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for (shell, file) in [
        (Shell::Bash, format!("bash/{name}")),
        (Shell::Zsh, format!("zsh/_{name}")),
        (Shell::Fish, format!("fish/{name}.fish")),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, &name, &mut script);
        std::fs::write(folder.join(file), script)?;
    }
    Ok(())
}
