//! Adapters that come, are changed and go while requests run, and a disk that hangs: the real engine on the demo model.

use std::path::{Path, PathBuf};

use outstation_kernels::{KvFormat, Team, isa};
use outstation_wire::gguf::Gguf;

use super::*;
use crate::adapter::AdapterPlaces;
use crate::adapter::{Base, PoolError};
use crate::config::{Durability, LogConfig, SpoolConfig};
use crate::engine::cpu::{self, CpuEngine, EngineSize};
use crate::generate::{self, AdapterSpec};
use crate::io::adapters;
use crate::io::engine_thread::{self, RingSizes, WantsWork};
use crate::io::spool_thread::{self, SpoolSetup};
use crate::kv::blocks_for;
use crate::model::Model;
use crate::request::Sampling;
use crate::scheduler::pace::Targets;
use crate::scheduler::{SchedulerLimits, logits_rows_max};
use crate::spool::Identity;
use crate::station::Station;
use crate::tokenizer::Vocabulary;

const CONTEXT: u32 = 512;
const RANK: u32 = 4;

/// A box with two places for adapters.
fn gateway() -> Gateway {
    gateway_with(Watchers::default())
}

fn gateway_with(watchers: Watchers) -> Gateway {
    let file = generate::demo(1);
    let gguf = Gguf::parse(&file).expect("our own");
    let model = Model::from_gguf(&gguf).expect("our own");
    let vocabulary = Vocabulary::from_gguf(&gguf).expect("our own");
    let places = AdapterPlaces {
        count: 2,
        rank_max: RANK,
    };
    let pool = adapters::pool("demo", Base::of(&model), places).expect("memory");
    let limits = SchedulerLimits {
        sequences_max: 4,
        queue_requests_max: 8,
        queue_tokens_max: 4 * CONTEXT,
        context_tokens_max: CONTEXT,
        step_columns_max: 64,
        kv_blocks: 4 * blocks_for(CONTEXT),
        end_tokens: Box::new([]),
        targets: [Targets::UNHURRIED; 3],
    };
    let size = EngineSize {
        columns_max: limits.step_columns_max,
        logits_rows_max: logits_rows_max(4),
        kv_blocks: limits.kv_blocks,
        kv: KvFormat::of(isa::detect(), model.dims.head_dim),
    };
    let text = TextModel {
        served: ServedModel {
            id: "demo".to_owned(),
            created_unix_s: 0,
            context_tokens_max: CONTEXT,
            parent: None,
        },
        digest: [0; 32],
        tokenizer: Tokenizer::new(&vocabulary).expect("our own"),
        adapters: Mutex::new(pool),
        default_adapter: None,
        template: Err("no template".to_owned()),
        grammars: Err("no forms".to_owned()),
        limits: RequestLimits {
            context_tokens_max: CONTEXT,
            vocabulary: model.dims.vocabulary,
        },
        planned_bytes: 0,
        planned_gpu_bytes: 0,
        shared_bytes: 0,
    };
    let mut team = Team::new(1);
    let mut weights = vec![0; model.packed_bytes];
    cpu::pack(&model, &file, &mut team, &mut weights, |_| ());
    let cache = vec![0_u8; CpuEngine::cache_bytes(&model, size)];
    let engine = CpuEngine::new(
        model,
        Box::new(weights),
        Box::new(cache),
        isa::detect(),
        team,
        size,
    );
    let engine = engine.with_adapters(size.columns_max, places.rank());
    let sizes = RingSizes {
        requests: 64,
        events: 4096,
        work: WantsWork::Nobody,
    };
    let station = Station::new(limits, engine);
    let (handle, _) = engine_thread::start(station, sizes).expect("a thread can be started");
    let (gateway, dispatcher) = Gateway::start(text, handle, 16, 1, watchers);
    tokio::spawn(dispatcher.run());
    gateway
}

/// Writes an adapter's file.
fn file(folder: &Path, seed: u64) -> PathBuf {
    let demo = generate::demo(1);
    let model = Model::from_gguf(&Gguf::parse(&demo).expect("our own")).expect("our own");
    let bytes = generate::adapter(&Base::of(&model), &AdapterSpec::new(RANK, seed));
    let path = folder.join(format!("{seed}.gguf"));
    std::fs::write(&path, bytes).expect("a folder of our own");
    path
}

async fn ask(gateway: &Gateway, model: &str, tokens: u32) -> Result<Generation, Refusal> {
    let request = GenerateRequest {
        model: Some(model.to_owned()),
        prompt: Prompt::Ids(vec![300, 301, 302, 303]),
        max_tokens: Some(tokens),
        ignore_eos: true,
        sampling: Sampling::greedy(),
        ..GenerateRequest::default()
    };
    gateway.submit(request).await
}

/// The tokens of the rest of an answer.
async fn rest(mut generation: Generation) -> Vec<u32> {
    let mut all = Vec::new();
    while let Some(piece) = generation.next().await {
        match piece {
            Piece::Text { token_ids, .. } => all.extend(token_ids),
            Piece::Done { .. } => {}
            Piece::Failed(refusal) => panic!("{refusal}"),
        }
    }
    all
}

async fn answer(gateway: &Gateway, model: &str, tokens: u32) -> Vec<u32> {
    rest(ask(gateway, model, tokens).await.expect("it is served")).await
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    let most = Duration::from_mins(1);
    tokio::time::timeout(most, future).await.expect("it ends")
}

#[tokio::test]
async fn an_adapter_is_changed_and_unloaded_under_running_answers() {
    const LONG: u32 = 300;
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two, three) = (
        file(folder.path(), 1),
        file(folder.path(), 2),
        file(folder.path(), 3),
    );
    let gateway = gateway();
    within(async {
        let base = answer(&gateway, "demo", LONG).await;
        gateway.load_adapter("plant", one).await.expect("it fits");
        let of_one = answer(&gateway, "demo:plant", LONG).await;
        assert_ne!(base, of_one);
        assert_eq!(
            answer(&gateway, "plant", LONG).await,
            of_one,
            "its name alone will do"
        );

        // One answer runs while the name gets another adapter; it ends as it began.
        let runs = ask(&gateway, "default:plant", LONG)
            .await
            .expect("it is served");
        assert_eq!(runs.model(), "demo:plant");
        gateway.load_adapter("plant", two).await.expect("it fits");
        let later = ask(&gateway, "demo:plant", LONG)
            .await
            .expect("it is served");
        let beside = ask(&gateway, "demo", LONG).await.expect("it is served");
        let full = gateway.load_adapter("other", three.clone()).await;
        assert!(
            matches!(full, Err(LoadAdapterError::Pool(PoolError::Full { .. }))),
            "both places are in use: {full:?}"
        );
        let (runs, later, beside) = tokio::join!(rest(runs), rest(later), rest(beside));
        assert_eq!(runs, of_one);
        assert_eq!(beside, base);
        assert_eq!(later, answer(&gateway, "demo:plant", LONG).await);
        assert_ne!(later, of_one);

        // Unloading waits for who uses it, and nobody new gets it.
        let runs = ask(&gateway, "demo:plant", LONG)
            .await
            .expect("it is served");
        let unloaded = gateway.unload_adapter("plant");
        let (runs, unloaded) = tokio::join!(rest(runs), unloaded);
        unloaded.expect("it was served");
        assert_eq!(runs, later);
        let refusal = ask(&gateway, "demo:plant", 1).await.err().expect("gone");
        assert_eq!(refusal.kind, RefusalKind::NoModel);
        assert_eq!(
            refusal.message,
            "no model `demo:plant` here: this box serves `demo` (or say `default`)"
        );
        // The base's blocks and those of adapters that were here are nobody else's.
        gateway
            .load_adapter("plant", three)
            .await
            .expect("a place is free");
        let of_three = answer(&gateway, "demo:plant", LONG).await;
        assert!(of_three != base && of_three != of_one && of_three != later);
        assert_eq!(answer(&gateway, "demo", LONG).await, base);
        let ids: Vec<_> = gateway
            .models()
            .into_iter()
            .map(|m| (m.id, m.parent))
            .collect();
        let parent = Some("demo".to_owned());
        assert_eq!(
            ids,
            [("demo".to_owned(), None), ("demo:plant".to_owned(), parent)]
        );
    })
    .await;
}

#[tokio::test]
async fn an_adapter_that_does_not_fit_leaves_its_place_free() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway();
    let path = folder.path().join("bad.gguf");
    std::fs::write(&path, b"GGUF and then nothing").expect("a folder of our own");
    for _ in 0..3 {
        let refused = within(gateway.load_adapter("bad", path.clone())).await;
        assert!(
            matches!(refused, Err(LoadAdapterError::File(_))),
            "{refused:?}"
        );
        let missing = within(gateway.load_adapter("bad", folder.path().join("none.gguf"))).await;
        assert!(
            matches!(missing, Err(LoadAdapterError::File(_))),
            "{missing:?}"
        );
    }
    let good = file(folder.path(), 1);
    within(gateway.load_adapter("good", good))
        .await
        .expect("the places are free");
    assert_eq!(within(answer(&gateway, "demo:good", 3)).await.len(), 3);
}

#[tokio::test]
async fn where_records_are_waited_for_an_answer_without_one_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = SpoolSetup {
        folder: folder.path().to_owned(),
        limits: SpoolConfig::default().limits(),
        identity: Identity {
            appliance: [1; 16],
            epoch_if_new: [2; 16],
        },
        ring_bytes: 4 << 20,
        unix_ms_floor: 0,
    };
    // Nobody gives it keys, so nothing comes to the disk.
    let spool = spool_thread::start(setup, Instant::now()).expect("a thread can be started");
    for (durability, acknowledged) in [(Durability::Async, true), (Durability::Sync, false)] {
        let config = LogConfig {
            durability,
            ..LogConfig::default()
        };
        let log = Log::new(
            spool.records.clone(),
            &config,
            None,
            Instant::now(),
            [3; 16],
        );
        let gateway = gateway_with(Watchers {
            log: Some(log),
            ..Watchers::default()
        });
        let mut generation = within(ask(&gateway, "demo", 3))
            .await
            .expect("it is served");
        let mut pieces = Vec::new();
        while let Some(piece) = within(generation.next()).await {
            pieces.push(piece);
        }
        let last = pieces.pop();
        assert!(
            matches!(pieces.last(), Some(Piece::Text { .. })),
            "{pieces:?}"
        );
        if acknowledged {
            assert!(matches!(last, Some(Piece::Done { .. })), "{last:?}");
        } else {
            let Some(Piece::Failed(refusal)) = last else {
                panic!("acknowledged: {last:?}");
            };
            assert_eq!(refusal.kind, RefusalKind::Internal);
            assert!(refusal.message.contains("record"), "{refusal}");
        }
    }
    spool.stop();
}
