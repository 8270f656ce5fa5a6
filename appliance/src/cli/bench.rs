//! `outstation bench`: how fast this machine runs a model, and how near that is to what its memory allows.

use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::exit::Failure;
use super::load::{self, On};
use super::progress::Progress;
use crate::adapter::{Adapter, AdapterPlaces, Base, PackedAdapter};
use crate::budget;
use crate::config::{ByteSize, ModelConfig};
use crate::engine::cpu::{CpuEngine, EngineSize, ModelBytes};
use crate::engine::{AnyEngine, Engine, PlanColumn, StepPlan};
use crate::generate::{self, AdapterSpec, ModelSpec};
use crate::io::weights;
use crate::kv::{KvPool, blocks_for};
use crate::limits;
use crate::model::Model;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// GGUF file; the demo model without it and without --shape.
    #[arg(long, value_name = "FILE.gguf", conflicts_with = "shape")]
    model: Option<PathBuf>,
    /// Seeded random weights in a well-known shape, like llama3.2-1b, instead of a file.
    #[arg(long, value_name = "SHAPE")]
    shape: Option<String>,
    /// File type of the shape, like q4_k_m.
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "q4_k_m",
        requires = "shape"
    )]
    mix: String,
    /// Write the shape to a file instead of measuring it.
    #[arg(long, value_name = "FILE.gguf", requires = "shape")]
    save: Option<PathBuf>,
    /// Seed of the shape's weights.
    #[arg(long, default_value_t = 1, requires = "shape")]
    seed: u64,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512, value_name = "N")]
    prompt: u32,
    /// Tokens that each sequence generates.
    #[arg(long, default_value_t = 64, value_name = "N")]
    generate: u32,
    /// Sequences that decode together, one measurement each.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2,4,8,16",
        value_name = "N,N"
    )]
    batch: Vec<u32>,
    /// Measurements of each batch; the median is reported.
    #[arg(long, default_value_t = 3, value_name = "N")]
    repeat: usize,
    /// Threads.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    /// Positions of context before the tokens that are generated, filled with seeded noise and not computed.
    #[arg(long, default_value_t = 0, value_name = "N")]
    depth: u32,
    /// Format of keys and values: f16, q8_0 or i16.
    #[arg(long, value_name = "FORMAT")]
    kv: Option<String>,
    /// Tokens of a prompt that are computed together; 256 is what `serve` does.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    step: u32,
    /// What computes: cpu, cuda, or cuda:1 for the second GPU.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Instruction set: portable, avx2, avx512, neon or neon-i8mm.
    #[arg(long, value_name = "ISA")]
    isa: Option<String>,
    /// Generated LoRA adapters, given to the sequences in turn: measures decode with them and without, in turns.
    #[arg(long, default_value_t = 0, value_name = "N")]
    adapters: u32,
    /// Their rank.
    #[arg(long, default_value_t = 16, value_name = "R", requires = "adapters")]
    rank: u32,
    /// One JSON object per batch size.
    #[arg(long)]
    json: bool,
}

pub(super) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    if let (Some(path), Some(_)) = (&args.save, &args.shape) {
        return save(args, path);
    }
    check(args)?;
    let (name, bytes, model) = subject(args)?;
    let on = On::new(args.device.as_deref(), args.isa.as_deref(), args.threads)?;
    let On { isa, threads, .. } = on;
    let batch_max = args.batch.iter().copied().max().expect("checked");
    let context = context(args);
    let kv = load::kv_for(args.kv.as_deref(), &on, &model)?;
    let size = EngineSize {
        columns_max: args.step.max(batch_max) as usize,
        logits_rows_max: batch_max as usize,
        kv_blocks: batch_max * blocks_for(context),
        kv,
    };
    let adapters = adapters(args, &model)?;
    let weights_bytes = model.bytes_read_per_step();
    let kv_bytes_per_position = model.kv_bytes_per_position(kv);
    let products_per_token = model.products_per_prompt_token();
    let size = (size, budget::table_entries(batch_max, context));
    let mut engine = load::engine(model, bytes, &on, size, AdapterPlaces::of(&adapters))?;
    if args.depth > 0 {
        fill_kv(&mut engine, args.seed)?;
    }
    if !adapters.is_empty() {
        return compare(args, (&mut engine, threads), &name, &adapters);
    }
    let (device, bandwidth, peak) = limits_of(&mut engine)?;
    if !args.json {
        super::show(&format!(
            "{name}: {} read for each step, {device}, {threads} threads, read bandwidth {:.1} GB/s, peak {:.0} G \
             multiply-adds/s\n",
            ByteSize(weights_bytes),
            bandwidth / 1e9,
            peak / 1e9
        ))?;
        super::show(&format!(
            "{:>6} {:>14} {:>8} {:>14} {:>18}\n",
            "batch", "prompt tok/s", "of peak", "decode tok/s", "of read bandwidth"
        ))?;
    }
    let total = (args.batch.len() * args.repeat) as u64;
    let mut progress = Progress::new("bench", total);
    let mut done = 0;
    for &batch in &args.batch {
        let mut prompts = Vec::new();
        let mut decodes = Vec::new();
        for _ in 0..args.repeat {
            let (prompt, decode) = measure(&mut engine, batch, args, &[]);
            prompts.push(prompt);
            decodes.push(decode);
            done += 1;
            progress.set(done, total);
        }
        let (prompt_rate, decode_rate) = (median(prompts), median(decodes));
        // Each step reads the weights once and every sequence's keys and values, on average half of what was generated.
        let positions = f64::from(before(args)) + f64::from(args.generate) / 2.0;
        let step_bytes =
            weights_bytes as f64 + f64::from(batch) * positions * kv_bytes_per_position as f64;
        let share = decode_rate / f64::from(batch) * step_bytes / bandwidth;
        let peak_share = if peak > 0.0 {
            prompt_rate * products_per_token as f64 / peak
        } else {
            0.0
        };
        if args.json {
            let line = json!({
                "model": name, "isa": isa.to_string(), "device": device, "threads": threads, "batch": batch,
                "prompt_tokens": args.prompt, "depth": args.depth, "kv": kv.to_string(), "generated_tokens": args.generate,
                "prompt_tokens_per_s": prompt_rate, "decode_tokens_per_s": decode_rate,
                "step_bytes": step_bytes, "read_bandwidth_bytes_per_s": bandwidth,
                "bandwidth_share": share, "multiply_adds_per_token": products_per_token,
                "multiply_peak_per_s": peak, "multiply_peak_share": peak_share, "repeats": args.repeat,
            });
            super::show(&format!("{line}\n"))?;
        } else {
            super::show(&format!(
                "{batch:>6} {prompt_rate:>14.1} {:>7.0}% {decode_rate:>14.1} {:>17.0}%\n",
                peak_share * 100.0,
                share * 100.0
            ))?;
        }
    }
    Ok(())
}

fn check(args: &BenchArgs) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::new(super::exit::USAGE, message));
    if let Some(batch) = args
        .batch
        .iter()
        .find(|&&b| !(1..=limits::SEQUENCES_MAX).contains(&b))
    {
        return usage(format!(
            "--batch {batch}: it must be from 1 to {}",
            limits::SEQUENCES_MAX
        ));
    }
    if args.adapters > limits::ADAPTERS_MAX || !(1..=limits::ADAPTER_RANK_MAX).contains(&args.rank)
    {
        return usage(format!(
            "--adapters is at most {}, --rank from 1 to {}",
            limits::ADAPTERS_MAX,
            limits::ADAPTER_RANK_MAX
        ));
    }
    if args.prompt == 0 || args.generate < 2 || args.repeat == 0 {
        return usage("--prompt and --repeat must be at least 1, --generate at least 2".into());
    }
    if before(args).saturating_add(args.generate) > limits::CONTEXT_POSITIONS_MAX {
        return usage(format!(
            "--prompt (or --depth) and --generate together are past {}",
            limits::CONTEXT_POSITIONS_MAX
        ));
    }
    Ok(())
}

/// Adapters with random factors, each in memory of its own.
fn adapters(args: &BenchArgs, model: &Model) -> Result<Vec<Arc<PackedAdapter>>, Failure> {
    let targets = Base::of(model);
    let rank = args.rank as usize;
    let make = |seed| {
        let spec = AdapterSpec::new(args.rank, seed);
        let bytes = generate::adapter(&targets, &spec);
        let gguf = outstation_wire::gguf::Gguf::parse(&bytes)?;
        let memory = weights::huge_pages(targets.bytes(rank))
            .map_err(|e| Failure::io("cannot take memory for adapters", e))?;
        let mut packed = PackedAdapter::new(&targets, rank, Box::new(memory));
        let adapter = Adapter::from_gguf(&gguf, &targets)?;
        let digest = *blake3::hash(&bytes).as_bytes();
        packed.fill(&targets, &adapter, digest)?;
        Ok(Arc::new(packed))
    };
    (0..args.adapters.into()).map(make).collect()
}

/// Prompt and decode tokens/s of the base alone, and of the base with adapters.
type Pair = ((f64, f64), (f64, f64));

/// Speeds with adapters beside those of the base alone: each pair is measured at one time, and the median pair counts.
fn compare(
    args: &BenchArgs,
    (engine, threads): (&mut AnyEngine, usize),
    name: &str,
    adapters: &[Arc<PackedAdapter>],
) -> Result<(), Failure> {
    if !args.json {
        super::show(&format!(
            "{name}: {} adapters of rank {}, {} threads; medians of {} pairs\n{:>6} {:>16} {:>16} {:>8} {:>16} {:>16} {:>8}\n",
            adapters.len(),
            args.rank,
            threads,
            args.repeat,
            "batch",
            "prompt tok/s",
            "with adapter",
            "ratio",
            "decode tok/s",
            "with adapters",
            "ratio"
        ))?;
    }
    for &batch in &args.batch {
        let mut pairs: Vec<Pair> = Vec::new();
        for _ in 0..args.repeat {
            let alone = measure(engine, batch, args, &[]);
            pairs.push((alone, measure(engine, batch, args, adapters)));
        }
        let of = |what: fn(&Pair) -> f64| median(pairs.iter().map(what).collect());
        let prompts = [of(|p| p.0.0), of(|p| p.1.0), of(|p| p.1.0 / p.0.0)];
        let decodes = [of(|p| p.0.1), of(|p| p.1.1), of(|p| p.1.1 / p.0.1)];
        if args.json {
            let line = json!({
                "model": name, "threads": threads, "batch": batch, "adapters": adapters.len(),
                "rank": args.rank, "repeats": args.repeat,
                "prompt_tokens_per_s": prompts[0], "prompt_tokens_per_s_adapted": prompts[1], "prompt_ratio": prompts[2],
                "decode_tokens_per_s": decodes[0], "decode_tokens_per_s_adapted": decodes[1], "decode_ratio": decodes[2],
            });
            super::show(&format!("{line}\n"))?;
        } else {
            let [a, b, c] = prompts;
            let [d, e, f] = decodes;
            super::show(&format!(
                "{batch:>6} {a:>16.1} {b:>16.1} {c:>8.2} {d:>16.1} {e:>16.1} {f:>8.2}\n"
            ))?;
        }
    }
    Ok(())
}

/// Positions before the tokens that are generated.
fn before(args: &BenchArgs) -> u32 {
    args.prompt.max(args.depth)
}

/// Positions of a sequence.
fn context(args: &BenchArgs) -> u32 {
    before(args) + args.generate
}

/// What is measured: a file, a generated shape, or the demo model.
fn subject(args: &BenchArgs) -> Result<(String, ModelBytes, Model), Failure> {
    if args.shape.is_none() {
        let loaded = load::model(&ModelConfig {
            file: args.model.clone(),
            ..ModelConfig::default()
        })?;
        return Ok((loaded.name, loaded.bytes, loaded.model));
    }
    let spec = spec(args)?;
    let mut progress = Progress::new("weights", 1);
    let mut bytes = Vec::new();
    generate::write(&spec, &mut bytes, &mut |done, total| {
        progress.set(done, total);
    })
    .map_err(|e| Failure::io("cannot generate", e))?;
    let model = Model::from_gguf(&outstation_wire::gguf::Gguf::parse(&bytes)?)?;
    Ok((
        format!("{} {}", args.shape.as_deref().expect("seen"), args.mix),
        Box::new(bytes),
        model,
    ))
}

fn spec(args: &BenchArgs) -> Result<ModelSpec, Failure> {
    let wrong = |message: String| Failure::new(super::exit::USAGE, message);
    let shape = args.shape.as_deref().expect("checked by the parser");
    Ok(ModelSpec {
        shape: shape.parse().map_err(|e| wrong(format!("{e}")))?,
        mix: args.mix.parse().map_err(|e| wrong(format!("{e}")))?,
        seed: args.seed,
        context: generate::CONTEXT_DEFAULT,
    })
}

fn save(args: &BenchArgs, path: &PathBuf) -> Result<(), Failure> {
    let failed = |e| Failure::io(format!("cannot write {}", path.display()), e);
    let spec = spec(args)?;
    let mut progress = Progress::new("weights", 1);
    let file = std::fs::File::create(path).map_err(failed)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    generate::write(&spec, &mut out, &mut |done, total| {
        progress.set(done, total);
    })
    .map_err(failed)?;
    out.into_inner()
        .map_err(|e| failed(e.into_error()))?
        .sync_all()
        .map_err(failed)?;
    drop(progress);
    if !args.json {
        super::show(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

/// Prompt tokens/s of one sequence, and decode tokens/s of all together.
fn measure(
    engine: &mut impl Engine,
    batch: u32,
    args: &BenchArgs,
    adapters: &[Arc<PackedAdapter>],
) -> (f64, f64) {
    let context = context(args);
    let mut pool = KvPool::new(batch * blocks_for(context), batch, context);
    for sequence in 0..batch {
        let reserved = pool.reserve(sequence, context, &[], 0);
        assert!(reserved.is_some(), "the pool was made for it");
    }
    let vocabulary = engine.vocabulary();
    let token = |sequence: u32, position: u32| {
        u32::try_from(
            crate::sampler::splitmix(u64::from(sequence) << 32 | u64::from(position))
                % u64::from(vocabulary),
        )
        .expect("below the vocabulary")
    };
    let mut plan = StepPlan::new(args.step.max(batch) as usize);
    let adapt = |plan: &mut StepPlan, sequence: u32| {
        if let Some(last) = adapters.len().checked_sub(1) {
            plan.adapt(sequence, &adapters[sequence as usize % (last + 1)]);
        }
    };
    let started = Instant::now();
    let mut prefill = None;
    for sequence in 0..batch {
        let mut position = 0;
        while position < args.prompt {
            plan.clear();
            let end = args.prompt.min(position + args.step);
            adapt(&mut plan, sequence);
            for position in position..end {
                let logits = position + 1 == args.prompt;
                plan.push(PlanColumn {
                    sequence,
                    token: token(sequence, position),
                    position,
                    logits,
                });
            }
            engine.step(&plan, pool.tables());
            position = end;
        }
        prefill.get_or_insert_with(|| started.elapsed());
    }
    let prefill = prefill.expect("at least one sequence");
    let started = Instant::now();
    for position in before(args)..context {
        plan.clear();
        for sequence in 0..batch {
            adapt(&mut plan, sequence);
            plan.push(PlanColumn {
                sequence,
                token: token(sequence, position),
                position,
                logits: true,
            });
        }
        engine.step(&plan, pool.tables());
    }
    let decode = started.elapsed();
    let rate = |tokens: u32, time: std::time::Duration| f64::from(tokens) / time.as_secs_f64();
    (
        rate(args.prompt, prefill),
        rate(args.generate * batch, decode),
    )
}

/// Fills the whole KV cache, so that a depth can be measured without computing what lies before it.
fn fill_kv(engine: &mut AnyEngine, seed: u64) -> Result<(), Failure> {
    match engine {
        AnyEngine::Cpu(engine) => engine.fill_kv(seed),
        #[cfg(feature = "cuda")]
        AnyEngine::Cuda(engine) => engine.fill_kv().map_err(load::gpu_failure)?,
    }
    Ok(())
}

/// What computes, bytes per second that it reads, and its multiply-adds per second, 0 where that is not known.
fn limits_of(engine: &mut AnyEngine) -> Result<(String, f64, f64), Failure> {
    match engine {
        AnyEngine::Cpu(engine) => {
            let device = engine.kernels().isa().to_string();
            Ok((device, read_bandwidth(engine)?, multiply_peak(engine)))
        }
        #[cfg(feature = "cuda")]
        AnyEngine::Cuda(engine) => {
            let gpu = engine.kernels().gpu();
            let mut best: f64 = 0.0;
            for _ in 0..5 {
                best = best.max(
                    gpu.copy_bandwidth(GPU_BANDWIDTH_BYTES)
                        .map_err(load::gpu_failure)?,
                );
            }
            Ok((gpu.facts().name.clone(), best, 0.0))
        }
    }
}

/// Bytes per second that all threads read from memory together: the best of several passes.
///
/// A small model lives in the cache, whose limit is not memory's: the buffer is larger than any cache.
fn read_bandwidth(engine: &mut CpuEngine) -> Result<f64, Failure> {
    let mut buffer = weights::huge_pages(BANDWIDTH_BYTES)
        .map_err(|e| Failure::io("cannot take memory to read from", e))?;
    buffer.fill(1);
    Ok(best_rate(|| {
        std::hint::black_box(engine.kernels().read_bandwidth(&buffer));
        buffer.len() as u64
    }))
}

/// Multiply-adds per second of all threads together, codes with codes: the best of several passes.
fn multiply_peak(engine: &mut CpuEngine) -> f64 {
    best_rate(|| engine.kernels().multiply_peak(PEAK_ROUNDS))
}

/// What a pass counts, per second, at best.
fn best_rate(mut pass: impl FnMut() -> u64) -> f64 {
    let mut best: f64 = 0.0;
    for _ in 0..5 {
        let started = Instant::now();
        let count = pass();
        best = best.max(count as f64 / started.elapsed().as_secs_f64());
    }
    best
}

/// Some 40 ms.
const PEAK_ROUNDS: u64 = 10_000_000;

const BANDWIDTH_BYTES: usize = 512 << 20;

/// Larger than the caches of any GPU.
#[cfg(feature = "cuda")]
const GPU_BANDWIDTH_BYTES: usize = 256 << 20;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
