//! Adapters over the air: they come, are changed and go while people ask, and a bad one does not come.

use outstation::adapter::Base;
use outstation::generate::{self, AdapterSpec};
use outstation::model::Model;
use outstation_wire::gguf::Gguf;
use serde_json::{Value, json};

use crate::rig::{Box, Crowd, Factory, Setup, ask, outstation, said};

const LENIENT: &str = "--soak 1s --gate-requests-min 20 --gate-entropy-psi-max 1000 --gate-itl-ratio-max 100 \
                       --gate-ttft-ratio-max 100";

/// Releases an adapter of `site@BASE`, whose file is `base.gguf`, with what it says, or with what another says.
fn publish(factory: &Factory, base: u64, seed: u64, golden_of: u64) -> u64 {
    let file = std::fs::read(factory.path("base.gguf")).unwrap();
    let model = Model::from_gguf(&Gguf::parse(&file).unwrap()).unwrap();
    let adapter = |seed| generate::adapter(&Base::of(&model), &AdapterSpec::new(4, seed));
    std::fs::write(factory.path("adapter.gguf"), adapter(seed)).unwrap();
    std::fs::write(factory.path("other.gguf"), adapter(golden_of)).unwrap();
    std::fs::write(factory.path("asked.txt"), "the valve\nopen sector 3\n").unwrap();
    let mut golden = outstation();
    golden.args("golden --model base.gguf --adapter other.gguf --prompts asked.txt".split(' '));
    let golden = said(golden.current_dir(factory.path("")));
    std::fs::write(factory.path("golden.json"), golden).unwrap();
    factory.run(&format!(
        "publish adapter.gguf --name valves --base site@{base} --golden golden.json --key models.pem \
         --key snapshot.pem --key timestamp.pem"
    ));
    std::fs::metadata(factory.path("adapter.gguf"))
        .unwrap()
        .len()
}

fn packs(factory: &Factory) -> u64 {
    let packs = std::fs::read_dir(factory.path("factory-store/ota/packs")).unwrap();
    packs
        .map(|pack| pack.unwrap().metadata().unwrap().len())
        .sum()
}

/// What a model says, or how it refuses.
fn says(running: &Box, model: &str) -> (u16, String) {
    let body = format!(
        r#"{{"model":"{model}","prompt":"the valve","max_tokens":12,"ignore_eos":true,"temperature":0}}"#
    );
    let (status, body) = ask(running.http, "POST", "/v1/completions", &body).unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    let text = body["choices"][0]["text"].as_str().unwrap_or_default();
    (status, text.to_owned())
}

fn until_served(running: &Box, releases: &Value) {
    running.until(&releases.to_string(), |models| {
        models["adapters"] == *releases && models["candidate"].is_null()
    });
}

#[test]
fn adapters_come_are_changed_and_go_and_nobody_waits() {
    let factory = Factory::new();
    let base = generate::demo(2);
    factory.publish(&base, None);
    std::fs::write(factory.path("base.gguf"), &base).unwrap();
    let before = packs(&factory);
    let bytes = publish(&factory, 1, 1, 1);
    println!(
        "an adapter of rank 4, {bytes} bytes: {} over the wire; its base {before}",
        packs(&factory) - before
    );
    factory.rollout(1, &format!("{LENIENT} --adapter taps=valves@1"));
    let state = tempfile::tempdir().unwrap();
    let setup = Setup {
        limit: "2GiB",
        more: "[adapters]\ncount_max = 2\nrank_max = 4",
        ..Setup::default()
    };
    let running = Box::start(&factory, state.path(), &setup);
    until_served(&running, &json!([["taps", "valves@1"]]));
    assert_eq!(running.models()["committed"], "site@1");
    let alone = says(&running, "site");
    let first = says(&running, "site:taps");
    assert_eq!((alone.0, first.0), (200, 200));
    assert_ne!(alone.1, first.1, "the adapter changes what is said");

    // Another release of it, while people ask it and its base.
    let with = Crowd::asking(2, running.http, Some("site:taps"));
    let without = Crowd::asking(2, running.http, Some("site"));
    publish(&factory, 1, 2, 2);
    factory.rollout(1, &format!("{LENIENT} --adapter taps=valves@2"));
    until_served(&running, &json!([["taps", "valves@2"]]));
    let second = says(&running, "site:taps");
    assert_ne!(second, first);

    // One that is not what its makers tested.
    publish(&factory, 1, 3, 4);
    factory.rollout(1, &format!("{LENIENT} --adapter taps=valves@3"));
    let (_, why) = running.until_rejected("valves@3");
    assert!(why.contains("golden text"), "{why}");
    assert_eq!(running.models()["adapters"], json!([["taps", "valves@2"]]));
    assert_eq!(says(&running, "site:taps"), second);
    println!(
        "{} served with it and {} without meanwhile, none failed",
        with.end(),
        without.end()
    );

    // A box that starts has it from the first request on.
    running.kill();
    let running = Box::start(&factory, state.path(), &setup);
    assert_eq!(says(&running, "site:taps"), second);
    assert_eq!(says(&running, "site"), alone);

    // The ring does not want it any more, then gets another model with an adapter of its own.
    factory.rollout(1, LENIENT);
    until_served(&running, &json!([]));
    assert_eq!(says(&running, "site:taps").0, 404);
    let next = generate::demo(5);
    factory.publish(&next, None);
    std::fs::write(factory.path("base.gguf"), &next).unwrap();
    publish(&factory, 2, 6, 6);
    factory.rollout(2, &format!("{LENIENT} --adapter taps=valves@4"));
    until_served(&running, &json!([["taps", "valves@4"]]));
    assert_eq!(running.models()["committed"], "site@2");
    let third = says(&running, "site:taps");
    assert_eq!(third.0, 200);
    assert_ne!(third, second);
}
