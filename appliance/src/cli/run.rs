//! `outstation run`: one prompt in this process; and the logits of a prompt as a file, for comparison with other
//! engines.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::exit::{self, Failure};
use super::load::{self, Loaded, On};
use super::npy::NpyWriter;
use super::progress::Progress;
use crate::adapter::AdapterPlaces;
use crate::config::ModelConfig;
use crate::engine::cpu::EngineSize;
use crate::engine::{Engine, PlanColumn, StepPlan};
use crate::kv::{KvPool, blocks_for};
use crate::request::{GenerateRequest, RequestId, RequestLimits, Sampling, Submission};
use crate::scheduler::pace::Targets;
use crate::scheduler::{Event, Outcome, SchedulerLimits, logits_rows_max};
use crate::station::{Station, StepOutcome};
use crate::tokenizer::{Bos, Decoder, Special};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// GGUF file; the demo model without it.
    #[arg(long, value_name = "FILE.gguf")]
    model: Option<PathBuf>,
    /// A LoRA adapter to run it with: GGUF, or PEFT's folder.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Text to continue, used without a chat template.
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    prompt: Option<String>,
    /// Token ids to continue.
    #[arg(long, value_delimiter = ',', value_name = "1,2,3")]
    ids: Option<Vec<u32>>,
    /// Tokens to generate; 0, with --logits, writes those and is done.
    #[arg(long, default_value_t = 64, value_name = "N")]
    tokens: u32,
    /// 0 takes the likeliest token each time.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temperature: f32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Also write the logits of every prompt token, float32 [tokens, vocabulary].
    #[arg(long, value_name = "FILE.npy")]
    logits: Option<PathBuf>,
    /// Do not stop at the end of the sequence.
    #[arg(long)]
    ignore_eos: bool,
    /// Format of keys and values: f16, q8_0 or i16.
    #[arg(long, value_name = "FORMAT")]
    kv: Option<String>,
    /// What computes: cpu, cuda, or cuda:1 for the second GPU.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Instruction set: portable, avx2, avx512, neon or neon-i8mm; portable computes with exact activations.
    #[arg(long, value_name = "ISA")]
    isa: Option<String>,
    /// Threads.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Columns of one step of `run`.
const STEP_COLUMNS: usize = 128;

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let loaded = load::model(&ModelConfig {
        file: args.model.clone(),
        ..ModelConfig::default()
    })?;
    let mut submission = submission(args, &loaded)?;
    if let Some(path) = &args.adapter {
        submission.adapter = Some(Arc::new(load::adapter(path, &loaded.model)?));
    }
    let places = AdapterPlaces::of(submission.adapter.as_slice());
    let Loaded {
        model,
        bytes,
        tokenizer,
        ..
    } = loaded;
    let context = submission.positions_max();
    let rows = if args.logits.is_some() {
        STEP_COLUMNS
    } else {
        1
    };
    let on = On::new(args.device.as_deref(), args.isa.as_deref(), args.threads)?;
    let size = EngineSize {
        columns_max: STEP_COLUMNS,
        logits_rows_max: rows.max(logits_rows_max(1)),
        kv_blocks: blocks_for(context),
        kv: load::kv_for(args.kv.as_deref(), &on, &model)?,
    };
    let entries = blocks_for(context) as usize;
    let mut engine = load::engine(model, bytes, &on, (size, entries), places)?;
    if let Some(path) = &args.logits {
        write_logits(&mut engine, &submission, path)
            .map_err(|e| Failure::io(format!("cannot write {}", path.display()), e))?;
    }
    if args.tokens == 0 {
        return Ok(());
    }
    let limits = SchedulerLimits {
        sequences_max: 1,
        queue_requests_max: 1,
        queue_tokens_max: context,
        context_tokens_max: context,
        step_columns_max: STEP_COLUMNS,
        kv_blocks: size.kv_blocks,
        end_tokens: tokenizer.ends_generation().into(),
        targets: [Targets::UNHURRIED; 3],
    };
    let mut station = Station::new(limits, engine);
    let started = Instant::now();
    station.handle_submit(Duration::ZERO, Duration::ZERO, Box::new(submission));
    let mut clock = || started.elapsed();
    let mut decoder = Decoder::new();
    let mut ids = Vec::new();
    let mut text = String::new();
    while station.step(&mut clock) == StepOutcome::Worked {
        while let Some(event) = station.poll_event() {
            match event {
                Event::Token { token, .. } => {
                    ids.push(token);
                    let piece = decoder.push(&tokenizer, token);
                    show(args, &piece)?;
                    text.push_str(&piece);
                }
                Event::Ended {
                    outcome,
                    usage,
                    timings,
                    ..
                } => {
                    let rest = decoder.finish();
                    show(args, &rest)?;
                    text.push_str(&rest);
                    if args.json {
                        let finish = if outcome == Outcome::Stop {
                            "stop"
                        } else {
                            "length"
                        };
                        let object = json!({
                            "text": text, "ids": ids, "finish_reason": finish,
                            "prompt_tokens": usage.prompt_tokens,
                            "prefill_ms": timings.prefill.as_secs_f64() * 1e3,
                            "decode_ms": timings.decode.as_secs_f64() * 1e3,
                        });
                        super::show(&format!("{object}\n"))?;
                    } else {
                        super::show("\n")?;
                    }
                }
                Event::Accepted { .. } | Event::Started { .. } => {}
            }
        }
    }
    Ok(())
}

fn show(args: &RunArgs, piece: &str) -> Result<(), Failure> {
    if args.json {
        Ok(())
    } else {
        super::show(piece)
    }
}

fn submission(args: &RunArgs, loaded: &Loaded) -> Result<Submission, Failure> {
    let prompt = match (&args.prompt, &args.ids) {
        (Some(text), _) => loaded.tokenizer.encode(text, Special::Parse, Bos::Add),
        (None, Some(ids)) => ids.clone(),
        (None, None) => return Err(Failure::new(exit::USAGE, "give --prompt or --ids")),
    };
    let request = GenerateRequest {
        // Without tokens to generate only the prompt is run; its submission is checked like any other.
        max_tokens: Some(if args.logits.is_some() {
            args.tokens.max(1)
        } else {
            args.tokens
        }),
        ignore_eos: args.ignore_eos,
        sampling: Sampling {
            temperature: args.temperature,
            ..Sampling::default()
        },
        ..GenerateRequest::default()
    };
    let limits = RequestLimits {
        context_tokens_max: loaded.model.dims.context_positions,
        vocabulary: loaded.model.dims.vocabulary,
    };
    request.check(&limits)?;
    Ok(request.submission(RequestId(1), prompt, args.seed, &limits)?)
}

/// Runs the prompt with logits for every token, and writes them.
fn write_logits(
    engine: &mut impl Engine,
    submission: &Submission,
    path: &PathBuf,
) -> std::io::Result<()> {
    let prompt = submission.prompt();
    let vocabulary = engine.vocabulary() as usize;
    let file = BufWriter::new(File::create(path)?);
    let mut out = NpyWriter::new(file, prompt.len(), vocabulary)?;
    let positions = u32::try_from(prompt.len()).expect("checked");
    let mut pool = KvPool::new(blocks_for(positions), 1, positions);
    let reserved = pool.reserve(0, positions, &[], 0);
    assert!(reserved.is_some(), "the pool was made for it");
    let mut plan = StepPlan::new(STEP_COLUMNS);
    let mut progress = Progress::new("logits", prompt.len() as u64);
    let mut position = 0;
    for chunk in prompt.chunks(STEP_COLUMNS) {
        plan.clear();
        if let Some(adapter) = &submission.adapter {
            plan.adapt(0, adapter);
        }
        for &token in chunk {
            plan.push(PlanColumn {
                sequence: 0,
                token,
                position,
                logits: true,
            });
            position += 1;
        }
        engine.step(&plan, pool.tables());
        for row in 0..chunk.len() {
            out.write(engine.logits(row))?;
        }
        progress.set(position.into(), prompt.len() as u64);
    }
    out.finish()
}
