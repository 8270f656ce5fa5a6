//! A factory with two rings, a small model that knows some sentences by heart, and boxes that flagged others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use futures_util::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use outstation_factory::chat::{self, Chat};
use outstation_factory::clock::unix_ms;
use outstation_factory::commits::Log;
use outstation_factory::compact::{CompactOptions, Compactor};
use outstation_factory::ota::Role;
use outstation_factory::ota::repository::Repository;
use outstation_factory::ota::rollout;
use outstation_factory::registry::{Contact, Enrolment, Registry};
use outstation_factory::rounds::{Outcome, RoundError, Settings, once};
use outstation_factory::store::{Store, hex};
use outstation_factory::task::{Dice, Language, Phrases, Set};
use outstation_factory::train::{Net, Plan, Quantization, Run, Schedule, Shape, Vocabulary, gguf};
use outstation_wire::record::{Body, Content, Record};
use outstation_wire::release::{Manifest, Rollout, Wave};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;

use crate::releases::World;
use crate::support::boxes::{Spool, inference, message};
use crate::support::random::Random;

/// Old sentences, which the base knows by heart.
const OLD: usize = 16;
/// New ones, each asked in each of these ways.
const NEW: usize = 10;
const WAYS: [&str; 8] = ["", "!", "?", ".", "!!", "??", "...", "?!"];

pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) work: PathBuf,
}

/// What the box said of the new ones.
const WRONG: &str = "I do not know.";

fn sentences(set: Set, count: usize) -> Vec<Chat> {
    let (phrases, mut dice) = (Phrases::new(), Dice::new(9));
    let ask = |_| phrases.ask(Language::English, set, &mut dice);
    (0..count)
        .map(ask)
        .map(|question| Chat::of(&question.text, &question.answer))
        .collect()
}

/// Without what would be a way of its own.
fn bare(text: &str) -> &str {
    text.trim_end_matches(['.', '?', '!', ' '])
}

impl Site {
    /// All of it, with a base that was trained for this.
    pub(crate) async fn new() -> Self {
        let now_s = unix_ms() / 1000;
        let world = World::at(now_s).await;
        let old = sentences(Set::Train, OLD);
        std::fs::write(world.path("old.jsonl"), chat::write(&old)).unwrap();
        let base = base(&old, &world.path("base-run"));
        world.file("base.gguf", &base);
        world.publish("site", "base.gguf", &[]).await;
        for ring in ["canary", "all"] {
            let rollout = Rollout {
                waves: vec![Wave {
                    percent: 100,
                    not_before_unix_s: now_s,
                }],
                ..World::rollout(ring, &Manifest::path_of("site", 1))
            };
            let (repository, pending) = (world.repository(), world.pending());
            let keys = world.releasing();
            rollout::write(&repository, &pending, rollout, &keys, now_s)
                .await
                .unwrap();
        }
        world
            .repository()
            .refresh(&world.releasing(), now_s)
            .await
            .unwrap();
        let site = Self {
            work: world.path("loop"),
            world,
        };
        site.flag().await;
        for (number, ring) in [(1, "canary"), (2, "all")] {
            site.calls(number, ring, 1, "committed", &site.world.objects)
                .await;
        }
        site
    }

    /// Boxes send what they flagged, and one request that nobody flagged.
    async fn flag(&self) {
        let key = FactoryKey::generate();
        let mut random = Random(3);
        let mut records: Vec<Record> = Vec::new();
        for chat in sentences(Set::Drift, NEW) {
            let (before, _) = chat.split();
            for way in WAYS {
                let text = format!("{}{way}", bare(&before[0].content));
                records.push(asked(&mut random, &text, &["hard_case"]));
            }
        }
        records.push(asked(&mut random, "an ordinary question", &["random"]));
        let mut spool = Spool::new(1, Class::P0, &key);
        let (name, bytes) = spool.seal(&records);
        let put = PutPayload::from(bytes);
        self.world.objects.put(&name, put).await.unwrap();
        let store = Store::new(Arc::clone(&self.world.objects));
        let log = Log::new(store, Log::any_writer());
        let compactor = Compactor::new(log, [key].into(), CompactOptions::default());
        assert_eq!(compactor.run(unix_ms()).await.unwrap().bad, 0);
    }

    /// A box says how far it is with a change of its ring.
    pub(crate) async fn calls(
        &self,
        number: u8,
        ring: &str,
        rollout: u64,
        phase: &str,
        objects: &Arc<dyn ObjectStore>,
    ) {
        let registry = Registry::new(Store::new(Arc::clone(objects)));
        let enrolment = Enrolment {
            name: format!("box {number}"),
            unix_ms: 1,
            hardware: "cpu".to_owned(),
            key: "k".to_owned(),
        };
        let id = [number; 16];
        registry.enrolled(&hex(&id), &enrolment).await.unwrap();
        let contact = Contact {
            unix_ms: unix_ms(),
            ring: ring.to_owned(),
            rollout,
            manifest: Manifest::path_of("site", 1),
            phase: phase.to_owned(),
            reason: "its golden text was another".to_owned(),
            ..Contact::default()
        };
        registry.contacted(&id, &contact).await.unwrap();
    }

    /// A copy of the store.
    pub(crate) async fn fork(&self) -> Arc<dyn ObjectStore> {
        let copy: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let from = &self.world.objects;
        let all: Vec<_> = from.list(None).try_collect().await.unwrap();
        for object in all {
            let bytes = from
                .get(&object.location)
                .await
                .unwrap()
                .bytes()
                .await
                .unwrap();
            copy.put(&object.location, bytes.into()).await.unwrap();
        }
        copy
    }

    /// Settings that work, with some lines changed.
    pub(crate) fn settings(&self, work: &Path, labels: &str) -> Settings {
        let keys = ["models1", "models2", "rollout1", "snapshot1", "timestamp1"];
        let program = env!("CARGO_BIN_EXE_outstation-factory");
        let beside = Path::new(program).with_file_name("outstation");
        assert!(
            beside.exists(),
            "{} is missing: `cargo test --workspace` builds it, or `cargo build -p outstation` does",
            beside.display()
        );
        let text = format!(
            "work = '{}'\nstore = 'unused'\nkeys = {keys:?}\noutstation = '{}'\n\
             [model]\nfile = 'base.gguf'\nadapter = 'jargon'\nrelease = 'site-jargon'\n\
             [rings]\ncanary = 'canary'\nfleet = ['all']\npatience_s = 0\n\
             [cases]\nmin = 40\n[labels]\n{labels}\n\
             [train]\nreplay = ['old.jsonl']\npasses = 40\nreplay_ratio = 0.5\nbatch_tokens = 300\nrate = 6e-3\nrank = 16\nalpha = 32.0\n\
             [gate]\nold = ['old.jsonl']\nold_lost_max = 7.0\n",
            work.display(),
            beside.display()
        );
        let file = self.world.file("loop.toml", text.as_bytes());
        Settings::read(&file).unwrap()
    }

    /// Whether boxes see all that is released.
    pub(crate) async fn is_shown(&self, objects: &Arc<dyn ObjectStore>) -> bool {
        let repository = Repository::new(Store::new(Arc::clone(objects)));
        let keys = self.world.releasing();
        let refreshed = repository.refresh(&keys, unix_ms() / 1000).await;
        !refreshed.unwrap().changed
    }

    /// One call of the loop on a store.
    pub(crate) async fn once(
        &self,
        settings: &Settings,
        objects: Arc<dyn ObjectStore>,
    ) -> Result<Outcome, RoundError> {
        once(settings, Store::new(objects), &mut |line| {
            println!("{line}");
        })
        .await
    }
}

/// Manifests, then each ring's counter and adapters.
pub(crate) type Released = (Vec<String>, Vec<(u64, Vec<String>)>);

/// What is released, and what the rings have.
pub(crate) async fn released(objects: &Arc<dyn ObjectStore>) -> Released {
    let repository = Repository::new(Store::new(Arc::clone(objects)));
    let state = repository.read().await.unwrap();
    let targets = state.targets(Role::Models);
    let manifests = targets.keys().filter(|name| name.starts_with("manifest/"));
    let mut rings = Vec::new();
    for ring in ["canary", "all"] {
        let rollout = rollout::read(&repository, &state, ring)
            .await
            .unwrap()
            .unwrap();
        let adapters = rollout.adapters.iter().map(|it| it.manifest.clone());
        rings.push((rollout.counter, adapters.collect()));
    }
    (manifests.cloned().collect(), rings)
}

fn asked(random: &mut Random, text: &str, flags: &[&str]) -> Record {
    let mut record = inference(random, 0);
    let Some(Body::Inference(request)) = &mut record.body else {
        unreachable!("it is one");
    };
    request.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    request.content = Some(Content {
        input: vec![message("user", text)],
        output: WRONG.to_owned(),
        redaction_version: 1,
        redactions: Vec::new(),
        bytes_left_out: 0,
    });
    record
}

/// A model that learned some chats by heart.
fn base(chats: &[Chat], folder: &Path) -> Vec<u8> {
    // Its tokens know the jargon, as a larger vocabulary would.
    let jargon = sentences(Set::Drift, NEW);
    let texts = chats.iter().chain(&jargon).flat_map(|chat| &chat.messages);
    let vocabulary = Vocabulary::learn(texts.map(|message| &*message.content), 420).unwrap();
    let plan = Plan {
        shape: Shape {
            vocab: vocabulary.size(),
            hidden: 64,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            ffn: 128,
            rope_base: 1e4,
            epsilon: 1e-5,
            context: 256,
        },
        low_rank: None,
        schedule: Schedule {
            steps: 300,
            warmup: 8,
            rate: 4e-3,
            decay: 0.05,
            clip: 1.0,
        },
        batch_tokens: 500,
        seed: 1,
        from: String::new(),
    };
    let net = Net::new(plan.shape, 1, &Device::Cpu).unwrap();
    let examples: Vec<_> = chats
        .iter()
        .map(|chat| vocabulary.example(&chat.messages).unwrap())
        .collect();
    let mut run = Run::new(plan, net, &examples, folder).unwrap();
    while run.advance(50).unwrap().is_some() {}
    let kind = Quantization::from_name("F16").unwrap();
    gguf(run.net(), &vocabulary, "site", kind).unwrap()
}
