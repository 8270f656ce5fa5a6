//! Threads that took their memory at start take no more: the real engine, scheduler, samplers and kernel team under a
//! crowd that comes, leaves, is preempted, guessed for and refused, with a heap that counts what they ask of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outstation::adapter::{Adapter, Base, PackedAdapter};
use outstation::engine::cpu::{self, CpuEngine, EngineSize};
use outstation::generate::AdapterSpec;
use outstation::grammar::Grammars;
use outstation::kv::blocks_for;
use outstation::model::Model;
use outstation::request::{Class, Format, RequestId, Sampling, Submission, Tenant};
use outstation::sampler::splitmix;
use outstation::scheduler::pace::Targets;
use outstation::scheduler::{Event, SchedulerLimits, logits_rows_max};
use outstation::station::{Station, StepOutcome};
use outstation::tokenizer::{Tokenizer, Vocabulary};
use outstation_kernels::heap::{self, OnUse, WatchedHeap};
use outstation_kernels::{KvFormat, Team, isa};
use outstation_wire::gguf::Gguf;

#[global_allocator]
static HEAP: WatchedHeap = WatchedHeap;

const CONTEXT: u32 = 512;
const SEQUENCES: u32 = 4;
const RANK: usize = 4;

fn station() -> (Station<CpuEngine>, [Arc<PackedAdapter>; 2]) {
    let file = outstation::generate::demo(1);
    let model = Model::from_gguf(&Gguf::parse(&file).expect("our own")).expect("our own");
    let adapters = adapters(&Base::of(&model));
    let kv_blocks = 2 * blocks_for(CONTEXT);
    let limits = SchedulerLimits {
        sequences_max: SEQUENCES,
        queue_requests_max: 8,
        queue_tokens_max: 4 * CONTEXT,
        context_tokens_max: CONTEXT,
        step_columns_max: 64,
        kv_blocks,
        end_tokens: Box::new([]),
        targets: [20, 200, 60_000].map(|ttft| Targets {
            ttft: Duration::from_millis(ttft),
            itl: Duration::from_millis(ttft),
        }),
    };
    let size = EngineSize {
        columns_max: limits.step_columns_max,
        logits_rows_max: logits_rows_max(SEQUENCES),
        kv_blocks,
        kv: KvFormat::of(isa::detect(), model.dims.head_dim),
    };
    let mut team = Team::new(2);
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
    let engine = engine.with_adapters(size.columns_max, RANK);
    (Station::new(limits, engine), adapters)
}

/// Two that every matrix has, as they are served.
fn adapters(targets: &Base) -> [Arc<PackedAdapter>; 2] {
    [1, 2].map(|seed| {
        let rank = u32::try_from(RANK).expect("small");
        let file = outstation::generate::adapter(targets, &AdapterSpec::new(rank, seed));
        let gguf = Gguf::parse(&file).expect("our own");
        let adapter = Adapter::from_gguf(&gguf, targets).expect("our own");
        let memory = vec![0; targets.bytes(RANK)];
        let mut packed = PackedAdapter::new(targets, RANK, Box::new(memory));
        let name = u8::try_from(seed).expect("small");
        packed.fill(targets, &adapter, [name; 32]).expect("it fits");
        Arc::new(packed)
    })
}

fn submission(id: u64, adapters: &[Arc<PackedAdapter>; 2]) -> Box<Submission> {
    let dice = |sides: u64, salt: u64| splitmix(id.wrapping_mul(1000) + salt) % sides;
    let small = |sides, salt| u32::try_from(dice(sides, salt)).expect("small");
    // Few words, so that beginnings are shared and guesses made.
    let prompt = (0..=dice(200, 1)).map(|i| 300 + small(3, i / 40)).collect();
    let mut submission = Submission::new(RequestId(id), prompt, 1 + small(100, 2));
    submission.class = [Class::Interactive, Class::Standard, Class::Batch][small(3, 3) as usize];
    submission.tenant = Tenant(dice(100, 4) / 50);
    submission.deadline = (dice(10, 5) == 0).then(|| Duration::from_millis(dice(50, 6)));
    submission.seed = id;
    submission.logprobs = (dice(4, 9) == 0).then(|| small(21, 10));
    submission.adapter = adapters.get(small(3, 8) as usize).cloned();
    if dice(2, 7) == 0 {
        submission.sampling = Sampling {
            top_p: 0.9,
            repetition_penalty: 1.1,
            logit_bias: vec![(305, 1.0)],
            ..Sampling::default()
        };
    }
    Box::new(submission)
}

/// Answers of a given form: what reading them takes is all that they take.
fn forms(
    station: &mut Station<CpuEngine>,
    adapters: &[Arc<PackedAdapter>; 2],
    clock: &mut dyn FnMut() -> Duration,
) {
    let file = outstation::generate::demo(1);
    let gguf = Gguf::parse(&file).expect("our own");
    let vocabulary = Vocabulary::from_gguf(&gguf).expect("our own");
    let tokenizer = Tokenizer::new(&vocabulary).expect("our own");
    let grammars = Grammars::new(&tokenizer, 8).expect("it is small");
    let mut submissions: Vec<_> = (1000..1008).map(|id| submission(id, adapters)).collect();
    for submission in &mut submissions {
        submission.class = Class::Batch;
        submission.deadline = None;
        submission.grammar = grammars.compile(&Format::Json).expect("any object");
    }
    let mut ended = Vec::with_capacity(submissions.len());
    let guard = heap::guard();
    while let Some(submission) = submissions.pop() {
        let now = clock();
        station.handle_submit(now, now, submission);
        while station.step(clock) == StepOutcome::Worked {
            while let Some(event) = station.poll_event() {
                if let Event::Ended { submission, .. } = event {
                    ended.push(submission);
                }
            }
        }
    }
    drop(guard);
    assert_eq!(ended.len(), 8, "each ends");
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the real engine wants a real clock"
)]
fn guarded_threads_use_no_heap_after_ready() {
    let (mut station, adapters) = station();
    let started = Instant::now();
    let mut clock = || started.elapsed();
    station.warm_up(&mut clock);
    let all = (1..=400).map(|id| submission(id, &adapters));
    let mut submissions: Vec<_> = all.rev().collect();
    // What comes back is dropped where it was made: not on this thread, while it is guarded.
    let mut ended = Vec::with_capacity(submissions.len());
    heap::arm(OnUse::Count);
    let guard = heap::guard();
    let mut id = 0;
    for turn in 0..100_000 {
        for _ in 0..splitmix(turn) % 3 / 2 {
            if let Some(submission) = submissions.pop() {
                id = submission.id.0;
                let now = clock();
                station.handle_submit(now, now, submission);
            }
        }
        if splitmix(!turn).is_multiple_of(7) {
            station.handle_cancel(clock(), RequestId(id.saturating_sub(2)));
        }
        station.step(&mut clock);
        while let Some(event) = station.poll_event() {
            if let Event::Ended { submission, .. } = event {
                ended.push(submission);
            }
        }
        if ended.len() == 400 {
            break;
        }
    }
    let ended = ended.len();
    drop(guard);
    assert_eq!(ended, 400, "each request ends");
    assert_eq!(heap::uses(), 0);
    let totals = station.totals();
    println!("{totals:?}");
    assert!(
        totals.scheduler.guessed > 0 && totals.generated_tokens > 1000,
        "{totals:?}"
    );

    assert_eq!(heap::excused_uses(), 0, "nobody asked for a form");
    forms(&mut station, &adapters, &mut clock);
    assert_eq!(heap::uses(), 0);
    assert!(
        heap::excused_uses() > 100,
        "what forms take is counted apart"
    );

    let guard = heap::guard();
    let one = std::hint::black_box(Box::new(1));
    drop(guard);
    assert_eq!(heap::uses(), 1, "and it would have been seen");
    drop(one);
}
