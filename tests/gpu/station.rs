//! Scheduler, sampler and engine together on a GPU: draws, cancellations, and one model after the other.

use std::process::Command;
use std::time::Duration;

use outstation::adapter::AdapterPlaces;
use outstation::engine::cpu::EngineSize;
use outstation::engine::cuda::CudaEngine;
use outstation::model::Model;
use outstation::request::{RequestId, Sampling, Submission};
use outstation::scheduler::pace::Targets;
use outstation::scheduler::{Event, Outcome, SchedulerLimits, logits_rows_max};
use outstation::station::{Station, StepOutcome};
use outstation_cuda::Gpu;
use outstation_kernels::KvFormat;
use outstation_tests::golden::KV_BLOCKS;
use outstation_wire::gguf::Gguf;

use crate::{device, engine_of, size};

const SEQUENCES: u32 = 4;

/// Of each answer.
const TOKENS: u32 = 32;

/// How far clocks are at each look.
const TICK: Duration = Duration::from_micros(500);

/// The demo model, which repeats itself where it is asked nothing: so there is something to guess.
fn station() -> Station<CudaEngine> {
    let limits = SchedulerLimits {
        sequences_max: SEQUENCES,
        queue_requests_max: 8,
        queue_tokens_max: 4096,
        step_columns_max: 64,
        context_tokens_max: 256,
        kv_blocks: KV_BLOCKS,
        end_tokens: Box::new([]),
        targets: [Targets::UNHURRIED; 3],
    };
    let mut station = Station::new(limits, engine());
    let mut now = Duration::ZERO;
    station.warm_up(&mut || {
        now += TICK;
        now
    });
    station
}

fn engine() -> CudaEngine {
    engine_of(outstation::demo::model(), sized(), AdapterPlaces::default())
}

fn sized() -> EngineSize {
    size(64, logits_rows_max(SEQUENCES), KvFormat::F16)
}

/// What a request says: the same each time, whoever else is there.
fn submission(id: u64) -> Submission {
    let sampling = match id % 4 {
        0 => Sampling::greedy(),
        1 => Sampling::default(),
        2 => Sampling {
            temperature: 0.5,
            top_k: 40,
            top_p: 0.95,
            ..Sampling::default()
        },
        _ => Sampling {
            temperature: 0.7,
            repetition_penalty: 1.1,
            ..Sampling::default()
        },
    };
    Submission {
        ignore_eos: true,
        sampling,
        seed: id,
        ..Submission::new(RequestId(id), (300..310).collect(), TOKENS)
    }
}

/// Runs requests to their end, a step in a millisecond; answers by id. `cancel` leaves after its fifth token.
fn answers(
    station: &mut Station<CudaEngine>,
    submissions: Vec<Submission>,
    cancel: Option<u64>,
) -> Vec<(u64, Vec<u32>)> {
    let mut now = Duration::ZERO;
    let mut clock = || {
        now += TICK;
        now
    };
    for submission in submissions {
        let arrived = clock();
        station.handle_submit(arrived, arrived, Box::new(submission));
    }
    let mut said: Vec<(u64, Vec<u32>)> = Vec::new();
    loop {
        let worked = station.step(&mut clock) == StepOutcome::Worked;
        while let Some(event) = station.poll_event() {
            match event {
                Event::Token { id, token, .. } => {
                    match said.iter_mut().find(|answer| answer.0 == id.0) {
                        Some(answer) => answer.1.push(token),
                        None => said.push((id.0, vec![token])),
                    }
                    let count = said.iter().find(|answer| answer.0 == id.0);
                    if cancel == Some(id.0) && count.is_some_and(|answer| answer.1.len() == 5) {
                        station.handle_cancel(clock(), id);
                    }
                }
                Event::Ended {
                    outcome,
                    submission,
                    ..
                } => {
                    let left = cancel == Some(submission.id.0);
                    assert_eq!(outcome == Outcome::Cancelled, left, "{outcome:?}");
                }
                _ => {}
            }
        }
        if !worked {
            break;
        }
    }
    station.assert_whole();
    said.sort();
    said
}

#[test]
fn a_seed_says_the_same_alone_in_a_crowd_and_after_guesses() {
    if !device() {
        return;
    }
    let mut alone = Vec::new();
    let mut guessed = [0; 4];
    for id in 0..8 {
        let mut station = station();
        alone.extend(answers(&mut station, vec![submission(id)], None));
        guessed[id as usize % 4] += station.totals().scheduler.guessed_right;
    }
    assert!(
        guessed[0] > 0 && guessed[2] > 0,
        "alone, some are guessed: {guessed:?}"
    );
    let mut station = station();
    let all = || (0..8).map(submission).collect();
    assert_eq!(answers(&mut station, all(), None), alone);
    // Who leaves takes nothing along; the blocks are there for the next.
    let with_one_less = answers(&mut station, all(), Some(2));
    for (before, after) in alone.iter().zip(&with_one_less) {
        let count = if before.0 == 2 { 5 } else { before.1.len() };
        assert_eq!((before.0, &before.1[..count]), (after.0, &after.1[..count]));
    }
    assert!(with_one_less[2].1.len() < TOKENS as usize);
}

/// Set for a test that counts memory, which runs in a process of its own.
const ALONE: &str = "TEST_ALONE";

/// What the budget says is what a model takes of the device, and all of it is given back, while another serves on.
#[test]
fn one_model_after_the_other_takes_what_was_planned() {
    if !device() {
        return;
    }
    if std::env::var_os(ALONE).is_none() {
        let name = "station::one_model_after_the_other_takes_what_was_planned";
        let mut test = Command::new(std::env::current_exe().unwrap());
        let ended = test
            .args(["--exact", name])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{said}");
        return;
    }
    let free = || Gpu::facts_of(0).unwrap().free_bytes;
    // What the driver keeps for itself it has taken then.
    drop(station());
    let before = free();
    let first = station();
    let taken = before - free();
    let model = Model::from_gguf(&Gguf::parse(outstation::demo::model()).unwrap()).unwrap();
    let (size, none) = (sized(), AdapterPlaces::default());
    let there = CudaEngine::device_bytes(&model, (size, 64), none);
    let blocks = u64::from(size.kv_blocks) * CudaEngine::block_bytes(&model, size.kv);
    let here = CudaEngine::host_bytes(&model, (size, 64), none);
    let mut planned = there.iter().sum::<u64>() + blocks;
    let facts = Gpu::facts_of(0).unwrap();
    if facts.name == "emulated GPU" {
        planned += here; // it has one memory
        let most = planned + 64 * 4096; // whole pages
        assert!(
            (planned..=most).contains(&taken),
            "{taken} taken, {planned} planned"
        );
    } else {
        // A driver gives memory in pieces of 2 MiB, and recorded steps take some.
        println!("{taken} taken, {planned} planned");
    }
    let mut second = station();
    drop(first);
    let said = answers(&mut second, vec![submission(0)], None);
    assert_eq!(said[0].1.len(), TOKENS as usize);
    drop(second);
    assert_eq!(free(), before);
}
