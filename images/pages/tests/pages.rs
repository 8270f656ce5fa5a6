//! Each command of both programs has its page, and each shell its completions.
#![expect(
    clippy::disallowed_methods,
    reason = "a test reads what a program wrote"
)]

use std::process::Command;

#[test]
fn every_command_has_a_page_and_every_shell_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_outstation-pages"))
        .arg(folder.path())
        .status();
    assert!(status.unwrap().success());
    let read = |path: String| {
        let path = folder.path().join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    for command in [
        outstation::cli::command(),
        outstation_factory::cli::command(),
    ] {
        let name = command.get_name().to_owned();
        let page = read(format!("{name}/man/{name}.1"));
        let scripts = [
            format!("bash/{name}"),
            format!("zsh/_{name}"),
            format!("fish/{name}.fish"),
        ];
        let scripts = scripts.map(|script| read(format!("{name}/{script}")));
        for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
            let part = part.get_name();
            // Roff writes a hyphen with a backslash.
            let written = format!("{name}-{part}").replace('-', r"\-");
            assert!(page.contains(&written), "{written} is not in {page}");
            assert!(read(format!("{name}/man/{name}-{part}.1")).contains(".SH SYNOPSIS"));
            assert!(scripts.iter().all(|script| script.contains(part)), "{part}");
        }
    }
}
