//! `outstation golden` and `outstation try`: what a model says of texts, where it is made and on the box.
//!
//! `golden` runs prompts greedily and writes down how likely the model finds its own answers. A manifest carries that,
//! and `try`, which the serving box starts as a process of its own, sees whether the same file finds the same here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use outstation_wire::release::{Golden, Manifest};
use serde::{Deserialize, Serialize};

use super::ServeArgs;
use super::exit::{self, Failure};
use super::load::{self, Loaded, On};
use super::settings;
use crate::adapter::{AdapterPlaces, PackedAdapter};
use crate::config::{MemoryConfig, ModelConfig};
use crate::engine::cpu::EngineSize;
use crate::engine::{AnyEngine, Engine as _, PlanColumn, StepPlan};
use crate::io::ota::adding;
use crate::io::ota::host::{Tested, Way};
use crate::kv::{KvPool, blocks_for};
use crate::slot::Reason;
use crate::tokenizer::{Bos, Special};

/// Arguments of `golden`.
#[derive(Debug, Args)]
pub(super) struct GoldenArgs {
    /// GGUF file. Default: the demo model.
    #[arg(long, value_name = "FILE.gguf")]
    model: Option<PathBuf>,
    /// A LoRA adapter to run it with: GGUF, or PEFT's folder.
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Text file, a prompt in each line. At most 64.
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=512))]
    tokens: u32,
    /// How far a box's mean of -ln p may be from the one that is written down: other devices round otherwise.
    #[arg(long, value_name = "NATS", default_value_t = 0.05)]
    tolerance: f64,
    /// What computes: cpu, cuda, or cuda:1 for the second GPU. Best what the boxes have.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Threads.
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
}

/// Arguments of `try`: those of `serve`, and what to ask.
#[derive(Debug, Args)]
pub(super) struct TryArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Its manifest.
    #[arg(long, value_name = "FILE.json")]
    manifest: PathBuf,
    /// Others are served meanwhile: take what time they leave.
    #[arg(long)]
    gently: bool,
}

/// Why `try` says no, one line of JSON on its standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct No {
    /// A [`Reason`].
    pub(super) reason: i32,
    /// The same, for people.
    pub(super) text: String,
}

/// What `try` says, one line of JSON on its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// It does what it should.
    Fits(Tested),
    /// It does not.
    Unfit(No),
}

/// Columns of a step.
const STEP_COLUMNS: usize = 128;

pub(super) fn golden(args: &GoldenArgs) -> Result<(), Failure> {
    let loaded = load::model(&ModelConfig {
        file: args.model.clone(),
        ..ModelConfig::default()
    })?;
    let text = std::fs::read_to_string(&args.prompts)
        .map_err(|e| Failure::io(format!("cannot read {}", args.prompts.display()), e))?;
    let prompts: Vec<Vec<u32>> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| loaded.tokenizer.encode(line, Special::Parse, Bos::Add))
        .filter(|ids| !ids.is_empty())
        .collect();
    if prompts.is_empty() || prompts.len() > 64 {
        let message = format!(
            "{} has {} prompts: write 1 to 64, each in a line",
            args.prompts.display(),
            prompts.len()
        );
        return Err(Failure::new(exit::BAD_INPUT, message));
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let positions = u32::try_from(longest)
        .unwrap_or(u32::MAX)
        .saturating_add(args.tokens);
    let on = On::new(args.device.as_deref(), None, args.threads)?;
    let mut scorer = Scorer::new(loaded, args.adapter.as_deref(), positions, on)?;
    let mut written = Vec::new();
    for prompt in prompts {
        let mut ids = prompt.clone();
        for _ in 0..args.tokens {
            let last = scorer.last_logits(&ids)?;
            ids.push(top(last));
        }
        let score = scorer.score(&ids, prompt.len())?;
        written.push(Golden {
            prompt_tokens: u32::try_from(prompt.len()).expect("it fits the context"),
            nll: score.nll,
            tolerance: args.tolerance,
            ids,
        });
    }
    let json = serde_json::to_string_pretty(&written).expect("numbers become JSON");
    super::show(&format!("{json}\n"))
}

pub(super) fn try_model(args: &TryArgs) -> Result<(), Failure> {
    let said = match tried(args) {
        Ok(tested) => Said::Fits(tested),
        Err((reason, text)) => Said::Unfit(No {
            reason: reason.into(),
            text,
        }),
    };
    let json = serde_json::to_string(&said).expect("numbers and text become JSON");
    super::show(&format!("{json}\n"))
}

fn tried(args: &TryArgs) -> Result<Tested, (Reason, String)> {
    if args.gently {
        // Where it may not, it is as quick as it is.
        let _ = rustix::process::nice(10);
    }
    let because = |reason| move |failure: Failure| (reason, failure.message);
    let config = settings::read(&args.serve).map_err(because(Reason::Load))?;
    let json = std::fs::read(&args.manifest).map_err(|e| (Reason::Load, e.to_string()))?;
    let manifest = Manifest::parse(&json).map_err(|e| (Reason::Unfit, e.to_string()))?;
    let started = Instant::now();
    let loaded = load::model(&config.model).map_err(because(Reason::Load))?;
    let budget = load::budget(&config, &loaded).map_err(because(Reason::Memory))?;
    let longest = manifest
        .golden
        .iter()
        .map(|golden| golden.ids.len())
        .max()
        .unwrap_or(2);
    let positions = u32::try_from(longest).unwrap_or(u32::MAX);
    if positions > budget.context_tokens_max {
        let text = format!(
            "a golden text has {positions} tokens, the context {}",
            budget.context_tokens_max
        );
        return Err((Reason::Golden, text));
    }
    let on = load::on(&config).map_err(because(Reason::Load))?;
    let mut scorer = Scorer::new(loaded, None, positions, on).map_err(because(Reason::Load))?;
    let load_s = started.elapsed().as_secs_f64();
    let asked = Instant::now();
    let mut tokens = 0;
    for (number, golden) in manifest.golden.iter().enumerate() {
        let prompt = golden.prompt_tokens as usize;
        let score = scorer
            .score(&golden.ids, prompt)
            .map_err(because(Reason::NotFinite))?;
        adding::golden(number + 1, score.nll, golden.nll, golden.tolerance)
            .map_err(|unfit| (unfit.reason, unfit.text))?;
        tokens += golden.ids.len();
    }
    if manifest.golden.is_empty() {
        // At least one token is really computed.
        scorer
            .last_logits(&[0, 0])
            .map_err(because(Reason::NotFinite))?;
        tokens = 2;
    }
    Ok(Tested {
        load_s,
        tokens_per_s: tokens as f64 / asked.elapsed().as_secs_f64(),
    })
}

/// How likely a text is.
struct Score {
    /// Mean of -ln p of what comes after the prompt.
    nll: f64,
}

/// A model that judges texts.
struct Scorer {
    engine: AnyEngine,
    adapter: Option<Arc<PackedAdapter>>,
    positions: u32,
    vocabulary: u32,
}

impl Scorer {
    fn new(
        loaded: Loaded,
        adapter: Option<&Path>,
        positions: u32,
        on: On,
    ) -> Result<Self, Failure> {
        let vocabulary = loaded.model.dims.vocabulary;
        if positions > loaded.model.dims.context_positions {
            let message = format!(
                "{positions} tokens, and the model was trained for {}: shorten the prompts or --tokens",
                loaded.model.dims.context_positions
            );
            return Err(Failure::new(exit::BAD_INPUT, message));
        }
        let size = EngineSize {
            columns_max: STEP_COLUMNS,
            logits_rows_max: STEP_COLUMNS,
            kv_blocks: blocks_for(positions),
            kv: load::kv_for(None, &on, &loaded.model)?,
        };
        let adapter = adapter.map(|path| load::adapter(path, &loaded.model));
        let adapter = adapter.transpose()?.map(Arc::new);
        let places = AdapterPlaces::of(adapter.as_slice());
        let tables = blocks_for(positions) as usize;
        Ok(Self {
            engine: load::engine(loaded.model, loaded.bytes, &on, (size, tables), places)?,
            adapter,
            positions,
            vocabulary,
        })
    }

    /// The logits after a text.
    fn last_logits(&mut self, ids: &[u32]) -> Result<&[f32], Failure> {
        let mut row = 0;
        self.run(ids, |chunk_row, _, _| row = chunk_row)?;
        Ok(self.engine.logits(row))
    }

    /// How likely the part of a text after its prompt is.
    fn score(&mut self, ids: &[u32], prompt: usize) -> Result<Score, Failure> {
        let mut sum = 0.0;
        self.run(ids, |_, position, logits| {
            if position + 1 >= prompt
                && let Some(&next) = ids.get(position + 1)
            {
                sum -= logprob(logits, next);
            }
        })?;
        Ok(Score {
            nll: sum / (ids.len() - prompt) as f64,
        })
    }

    /// Runs a text from its beginning; `each` gets row, position and logits.
    fn run(
        &mut self,
        ids: &[u32],
        mut each: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), Failure> {
        let bad = |message: String| Err(Failure::new(exit::BAD_INPUT, message));
        if let Some(id) = ids.iter().find(|&&id| id >= self.vocabulary) {
            return bad(format!(
                "token {id}, and the vocabulary has {}",
                self.vocabulary
            ));
        }
        let mut pool = KvPool::new(blocks_for(self.positions), 1, self.positions);
        let reserved = pool.reserve(0, self.positions, &[], 0);
        assert!(reserved.is_some(), "the pool was made for it");
        let mut plan = StepPlan::new(STEP_COLUMNS);
        for (number, chunk) in ids.chunks(STEP_COLUMNS).enumerate() {
            plan.clear();
            let first = number * STEP_COLUMNS;
            if let Some(adapter) = &self.adapter {
                plan.adapt(0, adapter);
            }
            for (row, &token) in chunk.iter().enumerate() {
                plan.push(PlanColumn {
                    sequence: 0,
                    token,
                    position: u32::try_from(first + row).expect("positions are u32"),
                    logits: true,
                });
            }
            self.engine.step(&plan, pool.tables());
            for row in 0..chunk.len() {
                let logits = self.engine.logits(row);
                if !logits.iter().all(|logit| logit.is_finite()) {
                    return bad(format!(
                        "what it computes at token {} is no number",
                        first + row
                    ));
                }
                each(row, first + row, logits);
            }
        }
        Ok(())
    }
}

fn top(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| u32::try_from(id).expect("ids are u32"))
}

/// ln p of a token.
fn logprob(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - most).exp())
        .sum();
    f64::from(logits[token as usize] - most) - sum.ln()
}

/// The flags that make `try` see what `serve` was told, with another model.
pub(super) fn flags(
    args: &ServeArgs,
    memory: &MemoryConfig,
    model: &Path,
    manifest: &Path,
    way: Way,
) -> Vec<std::ffi::OsString> {
    let mut flags = vec!["try".into()];
    if way == Way::Beside {
        flags.push("--gently".into());
    }
    let mut flag = |name: &str, value: Option<std::ffi::OsString>| {
        if let Some(value) = value {
            flags.push(name.into());
            flags.push(value);
        }
    };
    flag("--config", args.config.as_ref().map(Into::into));
    flag("--model", Some(model.into()));
    let limits = [
        ("--memory", memory.limit),
        ("--gpu-memory", memory.gpu_limit),
    ];
    for (name, limit) in limits {
        flag(name, limit.map(|size| size.0.to_string().into()));
    }
    flag("--context", args.context.map(|n| n.to_string().into()));
    flag("--sequences", args.sequences.map(|n| n.to_string().into()));
    flag("--device", args.device.as_ref().map(Into::into));
    flag("--threads", args.threads.map(|n| n.to_string().into()));
    flag("--kv", args.kv.as_ref().map(Into::into));
    flag("--manifest", Some(manifest.into()));
    flags
}
