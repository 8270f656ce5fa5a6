//! `train`: a model from scratch, all of one anew, or an adapter for it.
#![expect(clippy::disallowed_methods, reason = "data and models are files")]

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, INPUT, IO, USAGE, read_chats, show};
use crate::chat::Chat;
use crate::task::Dice;
use crate::train::{
    self, Curve, Example, LowRankPlan, Net, Plan, Quantization, Run, Schedule, Shape, TrainError,
    Vocabulary,
};

/// What `train` does.
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Chats to learn from, one a line as `export --format chat-jsonl` writes them. The last message is learned.
    #[arg(long, value_name = "FILE", required = true)]
    data: Vec<PathBuf>,
    /// Chats to measure the loss on meanwhile.
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,
    /// Folder of the run: checkpoint, curve, and what comes out. A run that was killed goes on from there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A GGUF that an earlier run made, to train further. Without it: from scratch.
    #[arg(long, value_name = "FILE.gguf")]
    base: Option<PathBuf>,
    /// Train a low-rank change of the base (LoRA) of this rank instead of all of it.
    #[arg(long, value_name = "RANK", requires = "base")]
    lora: Option<usize>,
    /// Strength of the change: it counts alpha / rank times. Default: twice the rank.
    #[arg(long, value_name = "N", requires = "lora")]
    alpha: Option<f64>,
    /// Steps.
    #[arg(long, value_name = "N", default_value_t = 4000)]
    steps: u32,
    /// Tokens of a step.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    batch_tokens: usize,
    /// Highest learning rate.
    #[arg(long, value_name = "RATE", default_value_t = 2e-3)]
    rate: f32,
    /// For weights at first, and the order of chats.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// In every other prompt, words are cut at so many of 100 of their inner places, so that they are known by their
    /// letters, too.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    cut: u8,
    /// The model's name, in its file.
    #[arg(long, default_value = "trained")]
    name: String,
    /// Types of the GGUF files, as F16, Q8_0, Q4_K.
    #[arg(long = "type", value_name = "TYPE", default_values = ["Q8_0"])]
    types: Vec<String>,
    #[command(flatten)]
    sizes: Sizes,
}

/// Sizes of a model from scratch.
#[derive(Debug, Args)]
#[command(next_help_heading = "From scratch")]
struct Sizes {
    /// Tokens of the vocabulary, which is learned from the data.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    vocab: usize,
    /// Numbers for each token between layers.
    #[arg(long, value_name = "N", default_value_t = 256)]
    hidden: usize,
    /// Layers.
    #[arg(long, value_name = "N", default_value_t = 6)]
    layers: usize,
    /// Heads of queries.
    #[arg(long, value_name = "N", default_value_t = 4)]
    heads: usize,
    /// Heads of keys and values.
    #[arg(long, value_name = "N", default_value_t = 2)]
    kv_heads: usize,
    /// Numbers inside the feed-forward part.
    #[arg(long, value_name = "N", default_value_t = 512)]
    ffn: usize,
    /// Tokens of a prompt with its answer.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    context: usize,
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        let code = match &error {
            TrainError::File { .. } | TrainError::Candle(_) => IO,
            TrainError::OtherRun(_) => USAGE,
            _ => INPUT,
        };
        Self::new(code, error.to_string())
    }
}

/// Steps between two points of the curve.
const REPORT_STEPS: u32 = 50;
/// Chats that the vocabulary is learned from at most; more of the same change nothing.
const VOCABULARY_CHATS: usize = 40_000;

pub(super) fn run(args: &TrainArgs) -> Result<(), Failure> {
    let types: Vec<Quantization> = args
        .types
        .iter()
        .map(|name| {
            let names: Vec<_> = train::QUANTIZATIONS.iter().map(|q| q.name).collect();
            let unknown = || Failure::new(USAGE, format!("no type {name:?}: {}", names.join(", ")));
            Quantization::from_name(name).ok_or_else(unknown)
        })
        .collect::<Result<_, _>>()?;
    let mut digest = blake3::Hasher::new();
    let mut chats = Vec::new();
    for file in &args.data {
        let (read, text) = read_chats(file)?;
        digest.update(text.as_bytes());
        chats.extend(read);
    }
    let device = candle_core::Device::cuda_if_available(0).map_err(TrainError::from)?;
    let (net, vocabulary) = if let Some(base) = &args.base {
        let file = std::fs::read(base).map_err(|e| Failure::io(base.display(), e))?;
        digest.update(&file);
        train::load(&file, &device)?
    } else {
        let texts = chats
            .iter()
            .take(VOCABULARY_CHATS)
            .flat_map(|chat| &chat.messages)
            .map(|message| message.content.as_str());
        let vocabulary = Vocabulary::learn(texts, args.sizes.vocab)?;
        let shape = shape(&args.sizes, vocabulary.size())?;
        (
            Net::new(shape, args.seed, &device).map_err(TrainError::from)?,
            vocabulary,
        )
    };
    let context = net.shape().context;
    let examples = encode(&vocabulary, &chats, context, args.cut, args.seed)?;
    let validation = match &args.validation {
        Some(file) => encode(&vocabulary, &read_chats(file)?.0, context, 0, args.seed)?,
        None => Vec::new(),
    };
    let low_rank = args.lora.map(|rank| LowRankPlan {
        rank,
        alpha: args.alpha.unwrap_or(2.0 * rank as f64),
    });
    digest.update(&[args.cut]);
    if args.lora == Some(0) || args.steps == 0 || args.batch_tokens == 0 {
        return Err(Failure::new(
            USAGE,
            "--lora, --steps and --batch-tokens are 1 or more",
        ));
    }
    let plan = Plan {
        shape: *net.shape(),
        low_rank,
        schedule: Schedule::new(args.steps, args.rate),
        batch_tokens: args.batch_tokens,
        seed: args.seed,
        from: digest.finalize().to_hex().to_string(),
    };
    let mut run = Run::new(plan, net, &examples, &args.out)?;
    steps(&mut run, args, &validation)?;
    leave(&run, &vocabulary, args, &types, low_rank)
}

fn shape(sizes: &Sizes, vocab: usize) -> Result<Shape, Failure> {
    let shape = Shape {
        vocab,
        hidden: sizes.hidden,
        layers: sizes.layers,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        ffn: sizes.ffn,
        rope_base: 1e4,
        epsilon: 1e-5,
        context: sizes.context,
    };
    shape.check().map_err(|error| Failure::new(USAGE, error))?;
    Ok(shape)
}

fn encode(
    vocabulary: &Vocabulary,
    chats: &[Chat],
    context: usize,
    cut: u8,
    seed: u64,
) -> Result<Vec<Example>, Failure> {
    let mut dice = Dice::new(seed);
    let examples: Vec<Example> = chats
        .iter()
        .map(|chat| vocabulary.example_cut(&chat.messages, cut.into(), &mut dice))
        .collect::<Result<_, _>>()?;
    if let Some((at, example)) = (1..)
        .zip(&examples)
        .find(|(_, example)| example.ids.len() > context)
    {
        let tokens = example.ids.len();
        let message = format!(
            "chat {at} has {tokens} tokens, and the context {context}: shorten it, or raise --context"
        );
        return Err(Failure::new(INPUT, message));
    }
    Ok(examples)
}

/// All steps, shown as they go.
fn steps(run: &mut Run<'_>, args: &TrainArgs, validation: &[Example]) -> Result<(), Failure> {
    let mut curve = Curve::open(&args.out, run.step())?;
    let bar = ProgressBar::new(args.steps.into()).with_position(run.step().into());
    let style = "{bar:30} step {pos} of {len}, {msg}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("a template of our own"));
    while let Some(progress) = run.advance(REPORT_STEPS)? {
        let last = progress.step == args.steps;
        let whole = progress.step.is_multiple_of(10 * REPORT_STEPS) || last;
        let validation_loss = match validation {
            [] => None,
            examples => whole.then(|| run.validate(examples)).transpose()?,
        };
        curve.add(progress, validation_loss)?;
        bar.set_position(progress.step.into());
        bar.set_message(format!(
            "loss {:.4}, {:.0} tokens/s",
            progress.loss, progress.tokens_per_s
        ));
        if whole {
            curve.draw()?;
        }
    }
    bar.finish();
    run.save()?;
    curve.draw()?;
    Ok(())
}

/// Writes what came out.
fn leave(
    run: &Run<'_>,
    vocabulary: &Vocabulary,
    args: &TrainArgs,
    types: &[Quantization],
    low_rank: Option<LowRankPlan>,
) -> Result<(), Failure> {
    let put = |name: &str, bytes: &[u8]| -> Result<(), Failure> {
        let path = args.out.join(name);
        std::fs::write(&path, bytes).map_err(|e| Failure::io(path.display(), e))?;
        show(&format!("{} ({} bytes)\n", path.display(), bytes.len()))
    };
    if let Some(plan) = low_rank {
        put(
            "adapter.gguf",
            &train::adapter_gguf(run.net(), &args.name, plan)?,
        )?;
        for (name, bytes) in train::adapter_peft(run.net(), plan)? {
            put(name, &bytes)?;
        }
        return Ok(());
    }
    put("tokenizer.json", vocabulary.json()?.as_bytes())?;
    for kind in types {
        let file = train::gguf(run.net(), vocabulary, &args.name, *kind)?;
        put(&format!("model.{}.gguf", kind.name), &file)?;
    }
    Ok(())
}
