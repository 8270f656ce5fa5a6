//! The engines that others use read what the factory writes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use outstation_factory::commits::Log;
use outstation_factory::compact::{CompactOptions, Compactor};
use outstation_factory::export::{Duplicates, ExportOptions, Format, Out, export};
use outstation_factory::store::Store;
use outstation_wire::record::{Body, Record};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;
use serde_json::json;

use crate::support::boxes::{Spool, feedback, gap, inference};
use crate::support::random::Random;
use crate::world::NOW_MS;

/// A virtual environment with the packages, made once under the target folder. `None` is said aloud, and not allowed in
/// CI.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("factory-readers");
    let python = folder.join("bin/python");
    let works = || {
        let check = ["-c", "import duckdb, pyarrow, pandas, datasets"];
        let check = Command::new(&python).args(check).output();
        check.is_ok_and(|output| output.status.success())
    };
    if works() {
        return Some(python);
    }
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&folder)
        .output();
    let packages = ["duckdb", "pyarrow", "pandas", "datasets"];
    let installed = made.is_ok_and(|output| output.status.success())
        && Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(packages)
            .output()
            .is_ok_and(|output| output.status.success());
    if installed && works() {
        return Some(python);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI can install {packages:?}"
    );
    println!("SKIP: no python3 with venv, or no package registry: no foreign reader is tested");
    None
}

#[tokio::test]
async fn duckdb_pyarrow_pandas_and_datasets_read_the_same() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(&folder.path().join("store")).unwrap();
    let key = FactoryKey::generate();
    let mut random = Random(11);
    let (mut requests, mut corrections, mut thumbs) = (Vec::new(), 0, 0);
    for number in 1..=4 {
        let mut spool = Spool::new(number, Class::P0, &key);
        for _ in 0..3 {
            let mut records: Vec<Record> = (0..100).map(|_| inference(&mut random, 200)).collect();
            requests.extend(records.clone());
            for n in [3, 50] {
                let about = records[n].clone();
                records.push(feedback(&mut random, &about, "Open valve 5, then wait."));
                corrections += 1;
            }
            let about = records[60].clone();
            records.push(feedback(&mut random, &about, ""));
            thumbs += 1;
            records.push(gap(&mut random));
            let (path, bytes) = spool.seal(&records);
            store.put_once(&path, bytes.into()).await.unwrap();
        }
    }
    let log = Log::new(store, "test");
    let options = CompactOptions {
        batch_bytes_max: 200 << 10,
        ..CompactOptions::default()
    };
    let compactor = Compactor::new(log.clone(), Arc::new([key]), options);
    let done = compactor.run(NOW_MS).await.unwrap();
    assert!(done.commits > 1 && done.bad == 0, "{done:?}");
    // An object that no commit names: whoever reads all there is would count it.
    let (file, _) = log
        .read()
        .await
        .unwrap()
        .files()
        .first_key_value()
        .map(|(k, f)| (k.clone(), f.clone()))
        .unwrap();
    let orphan = folder
        .path()
        .join("store")
        .join(&file)
        .with_file_name("0.parquet");
    std::fs::copy(folder.path().join("store").join(&file), orphan).unwrap();
    for format in [
        Format::ChatJsonl,
        Format::Preference,
        Format::Unpaired,
        Format::Completion,
        Format::Sharegpt,
        Format::Parquet,
    ] {
        let options = ExportOptions {
            format,
            query: String::new(),
            out: Out::File(folder.path().join(format.name())),
            duplicates: Duplicates::Kept,
            limit: None,
        };
        export(&log, &options, NOW_MS).await.unwrap();
    }
    let inner = requests.iter().map(|record| match &record.body {
        Some(Body::Inference(inference)) => inference,
        _ => unreachable!("they are requests"),
    });
    let inner: Vec<_> = inner.collect();
    let of = |workload: &str| inner.iter().filter(|r| r.workload == workload).count();
    let expected = json!({
        "requests": inner.len(),
        "output_tokens": inner.iter().map(|r| u64::from(r.output_tokens)).sum::<u64>(),
        "workloads": { "support": of("support"), "plant/7 Störung": of("plant/7 Störung") },
        "flagged": inner.iter().filter(|r| r.flags.iter().any(|flag| flag == "truncated")).count(),
        "corrections": corrections,
        "feedback": corrections + thumbs,
        "gaps": 12,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/factory/readers.py");
    let output = Command::new(python)
        .arg(script)
        .arg(folder.path())
        .arg(expected.to_string())
        .env("HF_HOME", folder.path().join("hf"))
        .env("HF_DATASETS_OFFLINE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert_eq!(said.matches("PASS").count(), 5, "{said}");
}
