//! What an export has, and what it says about itself.

use std::sync::Arc;

use expect_test::expect;
use object_store::memory::InMemory;
use outstation_factory::commits::Log;
use outstation_factory::compact::{CompactOptions, Compactor};
use outstation_factory::export::{Duplicates, ExportOptions, Format, Manifest, Out, export};
use outstation_factory::store::Store;
use outstation_wire::record::{Body, Content, Inference, Record};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;
use serde_json::Value;

use crate::support::boxes::{START_MS, Spool, at, feedback, inference, message};
use crate::support::random::Random;
use crate::world::NOW_MS;

/// A request with this question and answer.
fn request(random: &mut Random, question: &str, answer: &str, flags: &[&str]) -> Record {
    let mut record = at(START_MS, inference(random, 0));
    let inference = inner(&mut record);
    "acme".clone_into(&mut inference.tenant);
    "support".clone_into(&mut inference.workload);
    inference.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    inference.content = Some(Content {
        input: vec![message("user", question)],
        output: answer.to_owned(),
        ..Content::default()
    });
    record
}

fn inner(record: &mut Record) -> &mut Inference {
    match &mut record.body {
        Some(Body::Inference(inference)) => inference,
        _ => unreachable!("it is one"),
    }
}

async fn store() -> Log {
    let mut random = Random(7);
    let key = FactoryKey::generate();
    let first = request(&mut random, "Why E7?", "The pump.", &["low_confidence"]);
    let same = request(
        &mut random,
        " why  e7? ",
        "The valve.",
        &["random", "margin"],
    );
    let liked = request(&mut random, "What now?", "Wait.", &["random", "truncated"]);
    let mut plain = request(&mut random, "", "there was a pump.", &[]);
    let content = inner(&mut plain).content.as_mut().unwrap();
    content.input = vec![message("prompt", "Once")];
    let mut silent = request(&mut random, "", "", &["low_confidence"]);
    inner(&mut silent).content = None;
    let mut empty = request(&mut random, "Anything?", "", &[]);
    "other".clone_into(&mut inner(&mut empty).workload);
    let said = [
        feedback(&mut random, &same, "Close valve 3."),
        feedback(&mut random, &liked, ""),
    ];
    let records = [&[first, same, liked, plain, silent, empty], &said[..]].concat();
    let (path, bytes) = Spool::new(1, Class::P0, &key).seal(&records);
    let store = Store::new(Arc::new(InMemory::new()));
    store.put_once(&path, bytes.into()).await.unwrap();
    let log = Log::new(store, "test");
    let options = CompactOptions::default();
    let compactor = Compactor::new(log.clone(), Arc::new([key]), options);
    compactor.run(NOW_MS).await.unwrap();
    log
}

async fn lines(
    log: &Log,
    format: Format,
    query: &str,
    duplicates: Duplicates,
) -> (Vec<Value>, Manifest) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let options = ExportOptions {
        format,
        query: query.to_owned(),
        out: Out::File(path.clone()),
        duplicates,
        limit: None,
    };
    let manifest = export(log, &options, NOW_MS).await.unwrap();
    let beside = std::fs::read(folder.path().join("out.jsonl.manifest.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<Manifest>(&beside).unwrap(),
        manifest
    );
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(manifest.bytes, bytes.len() as u64);
    assert_eq!(manifest.blake3, blake3::hash(&bytes).to_hex().as_str());
    if format == Format::Parquet {
        return (Vec::new(), manifest);
    }
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len() as u64, manifest.samples);
    (lines, manifest)
}

/// The lines without their metadata.
async fn shown(log: &Log, format: Format, query: &str) -> String {
    let (lines, _) = lines(log, format, query, Duplicates::Dropped).await;
    let bare = lines.into_iter().map(|mut line| {
        line.as_object_mut().unwrap().remove("metadata").unwrap();
        line.to_string() + "\n"
    });
    bare.collect()
}

#[tokio::test(start_paused = true)]
async fn each_form_is_what_its_tools_read() {
    let log = store().await;
    expect![[r#"
        {"messages":[{"role":"user","content":" why  e7? "},{"role":"assistant","content":"Close valve 3."}]}
        {"messages":[{"role":"user","content":"What now?"},{"role":"assistant","content":"Wait."}]}
        {"messages":[{"role":"user","content":"Once"},{"role":"assistant","content":"there was a pump."}]}
    "#]]
    .assert_eq(&shown(&log, Format::ChatJsonl, "").await);
    expect![[r#"
        {"prompt":[{"role":"user","content":" why  e7? "}],"chosen":[{"role":"assistant","content":"Close valve 3."}],"rejected":[{"role":"assistant","content":"The valve."}]}
    "#]]
    .assert_eq(&shown(&log, Format::Preference, "").await);
    expect![[r#"
        {"prompt":[{"role":"user","content":" why  e7? "}],"completion":[{"role":"assistant","content":"The valve."}],"label":false}
        {"prompt":[{"role":"user","content":"What now?"}],"completion":[{"role":"assistant","content":"Wait."}],"label":true}
    "#]]
    .assert_eq(&shown(&log, Format::Unpaired, "").await);
    expect![[r#"
        {"prompt":"Once","completion":"there was a pump."}
    "#]]
    .assert_eq(&shown(&log, Format::Completion, "not flagged and not random").await);
    expect![[r#"
        {"conversations":[{"from":"human","value":"What now?"},{"from":"gpt","value":"Wait."}]}
    "#]]
    .assert_eq(&shown(&log, Format::Sharegpt, "liked").await);
}

#[tokio::test(start_paused = true)]
async fn a_manifest_accounts_for_every_request() {
    let log = store().await;
    let (lines, manifest) = lines(
        &log,
        Format::ChatJsonl,
        "workload=support",
        Duplicates::Dropped,
    )
    .await;
    let metadata = &lines[0]["metadata"];
    assert_eq!(metadata["flags"], serde_json::json!(["random", "margin"]));
    assert_eq!(metadata["inclusion_probability"], 0.25);
    assert_eq!(metadata["model_digest"], "07".repeat(32));
    assert_eq!(metadata["appliance"], "01".repeat(16));
    assert_eq!(metadata["corrected"], true);
    assert_eq!(metadata["id"].as_str().map(str::len), Some(32));
    // The other workload's file is not read at all.
    assert_eq!((manifest.files, manifest.requests), (1, 5));
    assert_eq!((manifest.samples, manifest.without_content), (3, 1));
    assert_eq!(
        (manifest.duplicates, manifest.unfit, manifest.not_chosen),
        (1, 0, 0)
    );
    assert_eq!(manifest.commit, 1);
}

#[tokio::test(start_paused = true)]
async fn queries_choose() {
    let log = store().await;
    let cases = [
        ("", 4),
        ("flagged", 2),
        ("random", 2),
        ("flag=truncated", 1),
        ("corrected or liked", 2),
        ("disliked", 1),
        ("tenant=acme and not (flagged or random)", 1),
        ("tenant=bolt", 0),
        ("model=demo", 4),
        ("model=070707", 4),
        ("model=080808", 0),
        ("appliance=01", 4),
        ("workload=other", 0),
        ("since=2026-03-01 and until=2026-03-02", 4),
        ("until=2026-03-01", 0),
        ("finish=length", 0),
    ];
    for (query, expected) in cases {
        let (lines, _) = lines(&log, Format::ChatJsonl, query, Duplicates::Kept).await;
        assert_eq!(lines.len(), expected, "{query}");
        let (_, manifest) = self::lines(&log, Format::Parquet, query, Duplicates::Kept).await;
        assert_eq!(manifest.samples, expected as u64, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn words_that_came_only_with_a_complaint_belong_to_their_request() {
    let mut random = Random(11);
    let key = FactoryKey::generate();
    let mut bare = request(&mut random, "Why E9?", "No idea.", &["negative_feedback"]);
    let content = inner(&mut bare).content.take();
    let mut complaint = feedback(&mut random, &bare, "The fan.");
    match &mut complaint.body {
        Some(Body::Feedback(feedback)) => feedback.content = content,
        _ => unreachable!("it is one"),
    }
    let (path, bytes) = Spool::new(1, Class::P0, &key).seal(&[bare, complaint]);
    let store = Store::new(Arc::new(InMemory::new()));
    store.put_once(&path, bytes.into()).await.unwrap();
    let log = Log::new(store, "test");
    let compactor = Compactor::new(log.clone(), Arc::new([key]), CompactOptions::default());
    compactor.run(NOW_MS).await.unwrap();
    let pairs = shown(&log, Format::Preference, "").await;
    assert!(pairs.contains("Why E9?"), "{pairs}");
    assert!(
        pairs.contains("The fan.") && pairs.contains("No idea."),
        "{pairs}"
    );
    let (_, manifest) = lines(&log, Format::ChatJsonl, "", Duplicates::Dropped).await;
    assert_eq!((manifest.requests, manifest.without_content), (1, 0));
}
