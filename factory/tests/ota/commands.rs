//! The commands, as an operator types them: keys, root, release, rollout, stop, bundle.

use std::path::Path;
use std::process::Command;

use expect_test::expect;

use crate::models::Model;

struct Shell<'f> {
    folder: &'f Path,
}

impl Shell<'_> {
    /// Runs a command. What it says, or its exit code and its complaint.
    fn run(&self, line: &str) -> Result<String, (i32, String)> {
        let output = Command::new(env!("CARGO_BIN_EXE_outstation-factory"))
            .args(line.split_whitespace())
            .current_dir(self.folder)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.code() {
            Some(0) => Ok(text(&output.stdout)),
            code => Err((code.unwrap_or(-1), text(&output.stderr))),
        }
    }

    fn good(&self, line: &str) -> String {
        self.run(line)
            .unwrap_or_else(|(code, error)| panic!("{line}: {code}: {error}"))
    }
}

#[test]
fn from_keys_to_a_stick() {
    let folder = tempfile::tempdir().unwrap();
    let shell = Shell {
        folder: folder.path(),
    };
    let model = Model::new(3, 18 * 128 * 1000, 1);
    std::fs::write(folder.path().join("old.gguf"), model.bytes()).unwrap();
    std::fs::write(
        folder.path().join("new.gguf"),
        model.tuned(0..3, 0.001, 5).bytes(),
    )
    .unwrap();
    assert_eq!(shell.run("publish old.gguf --name site").unwrap_err().0, 78);
    for (role, count) in [
        ("root", 5),
        ("targets", 1),
        ("models", 2),
        ("rollout", 1),
        ("snapshot", 1),
        ("timestamp", 1),
    ] {
        for number in 1..=count {
            shell.good(&format!("keys make --role {role} --out {role}{number}.pem"));
        }
    }
    // A key of one role is not taken for another.
    let wrong = "keys root --root root1.pem.pub --targets models1.pem.pub";
    assert_eq!(shell.run(wrong).unwrap_err().0, 64);
    let all = "--root root1.pem.pub --root root2.pem.pub --root root3.pem.pub --root root4.pem.pub --root root5.pem.pub \
               --threshold 3 --targets targets1.pem.pub --models models1.pem.pub --models models2.pem.pub \
               --models-threshold 2 --rollout rollout1.pem.pub --snapshot snapshot1.pem.pub \
               --timestamp timestamp1.pem.pub --key root1.pem --key targets1.pem";
    let said = shell.good(&format!("keys root {all}"));
    expect![[r"
        factory-pending/1.root.json: 1 signatures, 3 of role root are needed
        factory-pending/1.targets.json: 1 signatures, 1 of role targets are needed
        sign each with `outstation-factory keys sign FILE --key KEY`, then `outstation-factory keys commit`
    "]]
    .assert_eq(&said);
    let commit = "keys commit --key snapshot1.pem --key timestamp1.pem";
    let (code, error) = shell.run(commit).unwrap_err();
    assert_eq!(code, 78);
    assert!(
        error.contains("1.root.json has 1 of 3 signatures"),
        "{error}"
    );
    shell.good("keys sign factory-pending/1.root.json --key root2.pem");
    shell.good("keys sign factory-pending/1.root.json --key root5.pem");
    let said = shell.good(commit);
    assert!(
        said.starts_with("stored 1.root.json, 1.targets.json; boxes see snapshot 1, timestamp 1"),
        "{said}"
    );

    let sign = "--key models1.pem --key models2.pem --key snapshot1.pem --key timestamp1.pem";
    shell.good(&format!(
        "publish old.gguf --name site --licence Apache-2.0 --hardware cpu,cuda {sign}"
    ));
    let said = shell.good("publish new.gguf --name site --against old.gguf --key models1.pem");
    assert!(
        said.contains("factory-pending/2.models.json has 1 of 2 signatures"),
        "{said}"
    );
    let said = shell.good("keys sign factory-pending/2.models.json --key models2.pem");
    assert!(said.contains("manifest/site@2.json"), "{said}");
    let said = shell.good("publish --commit --key snapshot1.pem --key timestamp1.pem");
    assert!(
        said.starts_with("stored 2.models.json; boxes see snapshot 3"),
        "{said}"
    );

    let online = "--key rollout1.pem --key snapshot1.pem --key timestamp1.pem";
    let said = shell.good(&format!(
        "rollout --ring canary --manifest site@2 --waves 5%,25%@2h,100%@1d {online}"
    ));
    assert!(
        said.starts_with(
            "ring canary is to run: manifest/site@2.json, change 1\nboxes see snapshot 4"
        ),
        "{said}"
    );
    let said = shell.good("rollout status --ring canary");
    assert!(
        said.starts_with("ring canary: manifest/site@2.json, change 1\n0 boxes"),
        "{said}"
    );
    let said =
        shell.good("bundle --ring canary --out stick --expires 30d --timestamp-key timestamp1.pem");
    assert!(said.starts_with("stick: 12 files"), "{said}");
    let said = shell.good(&format!("rollout --stop --ring canary {online}"));
    assert!(
        said.starts_with("ring canary is stopped: manifest/site@2.json, change 2"),
        "{said}"
    );
    assert!(
        shell
            .good("rollout status --ring canary")
            .contains("STOPPED")
    );
    let said = shell.good("keys show");
    assert_eq!(said.matches("version").count(), 6, "{said}");
    assert!(!said.contains("NOT SIGNED"), "{said}");
}

#[test]
fn keys_are_private_and_never_written_over() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let shell = Shell {
        folder: folder.path(),
    };
    shell.good("keys make --role root --out key.pem");
    let key = folder.path().join("key.pem");
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let before = std::fs::read(&key).unwrap();
    assert_eq!(
        shell
            .run("keys make --role root --out key.pem")
            .unwrap_err()
            .0,
        74
    );
    assert_eq!(std::fs::read(&key).unwrap(), before);
    assert!(before.starts_with(b"-----BEGIN PRIVATE KEY-----"));
}
