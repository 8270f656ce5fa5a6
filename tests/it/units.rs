//! The units in `systemd/`, as systemd itself judges them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `None`, aloud, where systemd is missing.
fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let Ok(output) = Command::new("systemd-analyze").args(arguments).output() else {
        println!("SKIP: no systemd-analyze here (Debian's package systemd)");
        return None;
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Some((output.status.success(), said))
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

/// Copies the units to where their programs exist, with drop-ins for the service.
fn installed(drop_ins: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_outstation");
    for entry in std::fs::read_dir(source()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if ![".service", ".socket", ".timer"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            continue;
        }
        let unit = std::fs::read_to_string(entry.path()).unwrap();
        let unit = unit
            .replace("/usr/bin/outstation-factory", program)
            .replace("/usr/bin/outstation ", &format!("{program} "));
        std::fs::write(folder.path().join(name), unit).unwrap();
    }
    let into = folder.path().join("outstation.service.d");
    std::fs::create_dir(&into).unwrap();
    for name in drop_ins {
        std::fs::copy(source().join("hardware").join(name), into.join(name)).unwrap();
    }
    folder
}

#[test]
fn units_are_verified_in_silence_with_each_drop_in() {
    let mut drop_ins = vec![Vec::new()];
    for entry in std::fs::read_dir(source().join("hardware")).unwrap() {
        drop_ins.push(vec![entry.unwrap().file_name().into_string().unwrap()]);
    }
    assert!(drop_ins.len() > 5, "{drop_ins:?}");
    for drop_ins in drop_ins {
        let names: Vec<&str> = drop_ins.iter().map(String::as_str).collect();
        let folder = installed(&names);
        for unit in [
            "outstation.service",
            "outstation.socket",
            "outstation-factory.service",
            "outstation-loop.service",
            "outstation-loop.timer",
        ] {
            let path = folder.path().join(unit).display().to_string();
            let Some((fine, said)) = analyze(&["verify", "--man=no", &path]) else {
                return;
            };
            assert!(
                fine && said.trim().is_empty(),
                "{unit} with {names:?}: {said}"
            );
        }
    }
}

#[test]
fn services_are_locked_down() {
    for (unit, drop_in, most) in [
        ("outstation.service", None, 1.5),
        ("outstation-factory.service", None, 1.5),
        // What is left open it needs: other machines, and a store anywhere.
        ("outstation-loop.service", None, 3.0),
        ("outstation.service", Some("nvidia.conf"), 3.0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut text = std::fs::read_to_string(source().join(unit)).unwrap();
        if let Some(drop_in) = drop_in {
            // Later lines win, as those of a drop-in do.
            text.push_str(
                &std::fs::read_to_string(source().join("hardware").join(drop_in)).unwrap(),
            );
        }
        let path = folder.path().join(unit);
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let Some((_, said)) = analyze(&["security", "--offline=true", &path]) else {
            return;
        };
        let line = said.lines().find(|line| line.contains("Overall exposure"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        let exposure: f64 = line
            .split_whitespace()
            .find_map(|word| word.parse().ok())
            .unwrap();
        println!(
            "{unit} {}: {exposure} (at most {most})",
            drop_in.unwrap_or_default()
        );
        assert!(exposure <= most, "{said}");
    }
}
