//! The subcommands, from words to what they say.

use std::sync::Arc;

use clap::{CommandFactory as _, Parser};
use outstation_factory::cli::{compact, erase, export, files, retain};
use outstation_factory::store::Store;
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;

use crate::support::boxes::{START_MS, Spool, at, inference};
use crate::support::random::Random;

#[derive(Debug, Parser)]
#[command(name = "factory")]
enum Cli {
    Compact(compact::CompactArgs),
    Erase(erase::EraseArgs),
    Export(export::ExportArgs),
    Files(files::FilesArgs),
    Retain(retain::RetainArgs),
}

/// What a command says, or why it does not run.
async fn run(store: &Store, keys: &Arc<[FactoryKey]>, words: &str) -> String {
    let words = words.split_whitespace().map(|word| word.replace('+', " "));
    let now = START_MS;
    let done = match Cli::try_parse_from(["factory".to_owned()].into_iter().chain(words)) {
        Err(error) => return error.to_string(),
        Ok(Cli::Compact(args)) => compact::run(&args, store, Arc::clone(keys), now)
            .await
            .map_err(|e| e.to_string()),
        Ok(Cli::Erase(args)) => erase::run(&args, store, now)
            .await
            .map_err(|e| e.to_string()),
        Ok(Cli::Export(args)) => export::run(&args, store, now)
            .await
            .map_err(|e| e.to_string()),
        Ok(Cli::Files(args)) => files::run(&args, store).await.map_err(|e| e.to_string()),
        Ok(Cli::Retain(args)) => retain::run(&args, store, now)
            .await
            .map_err(|e| e.to_string()),
    };
    done.unwrap_or_else(|error| error)
}

#[tokio::test]
async fn the_subcommands_do_what_their_words_say() {
    Cli::command().debug_assert();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store").to_str().unwrap()).unwrap();
    let key = FactoryKey::generate();
    let mut random = Random(3);
    for number in 1..=2 {
        let records: Vec<_> = (0..4)
            .map(|_| at(START_MS, inference(&mut random, 30)))
            .collect();
        let (path, bytes) = Spool::new(number, Class::P1, &key).seal(&records);
        store.put_once(&path, bytes.into()).await.unwrap();
    }
    let keys: Arc<[FactoryKey]> = Arc::new([key]);
    let said = run(&store, &keys, "compact").await;
    assert!(said.starts_with("2 segments ("), "{said}");
    assert!(said.contains("became 8 rows in"), "{said}");
    let said = run(&store, &keys, "files --table inference").await;
    assert!(
        said.lines()
            .all(|line| line.starts_with("parquet/inference/dt=2026-03-01/")),
        "{said}"
    );
    assert_eq!(run(&store, &keys, "files --bad").await, "");
    let out = folder.path().join("chat.jsonl");
    let said = run(
        &store,
        &keys,
        &format!(
            "export --where model=demo --where not+liked --out {}",
            out.display()
        ),
    )
    .await;
    assert!(
        said.starts_with("8 samples of 8 requests as of commit"),
        "{said}"
    );
    let said = run(&store, &keys, "export --where flaged").await;
    assert_eq!(
        said,
        "--where, character 1: `flaged` is unknown: did you mean `flagged`?"
    );
    let said = run(&store, &keys, "retain --tenant acme --days 30").await;
    assert!(
        said.starts_with("records stay for good, those of acme 30 days\n0 rows are gone"),
        "{said}"
    );
    let said = run(&store, &keys, "erase --tenant acme").await;
    assert!(said.contains(" rows of acme are gone from "), "{said}");
    assert_eq!(
        run(&store, &keys, "erase --tenant acme --readmit").await,
        "records of acme are taken again"
    );
    let said = run(&store, &keys, "compact --shard 4/4").await;
    assert!(said.contains("write it like 0/4"), "{said}");
}
