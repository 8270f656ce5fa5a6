//! The training of a round: an adapter from its cases, those of rounds before it, and old data.
#![expect(clippy::disallowed_methods, reason = "a base and an adapter are files")]

use super::folder::{given, write};
use super::label::LEARN;
use super::{Ended, Folder, Round, RoundError, Settings};
use crate::chat::Chat;
use crate::task::Dice;
use crate::train::{
    Curve, Example, LowRankPlan, Plan, Run, Schedule, TrainError, Vocabulary, adapter_gguf,
    adapter_peft, load,
};

/// The folder of the training in that of the round.
const RUN: &str = "run";
pub(super) const ADAPTER: &str = "run/adapter.gguf";
/// Steps between two lines of progress.
const REPORT_STEPS: u32 = 50;

/// Trains, or goes on.
pub(super) fn train(
    settings: &Settings,
    folder: &Folder,
    round: u32,
    tell: &mut dyn FnMut(&str),
) -> Result<(), RoundError> {
    let file = &settings.model.file;
    let base = std::fs::read(file).map_err(RoundError::file(file))?;
    let device = candle_core::Device::cuda_if_available(0).map_err(TrainError::from)?;
    let (net, vocabulary) = load(&base, &device)?;
    let mut digest = blake3::Hasher::new();
    digest.update(&base);
    let mut encoder = Encoder {
        vocabulary: &vocabulary,
        context: net.shape().context,
        cut: settings.train.cut.into(),
        dice: Dice::new(settings.train.seed),
    };
    let mut examples = new_examples(settings, folder, round, &mut encoder)?;
    let old = old_examples(settings, examples.len(), &mut encoder)?;
    tell(&format!(
        "it learns from {} new examples, each {} times, and {} old ones",
        examples.len() / settings.train.passes as usize,
        settings.train.passes,
        old.len()
    ));
    examples.extend(old);
    let mut tokens = 0;
    for example in &examples {
        tokens += example.ids.len();
        example.ids.iter().for_each(|id| {
            digest.update(&id.to_le_bytes());
        });
    }
    let train = &settings.train;
    let steps = u32::try_from(tokens.div_ceil(train.batch_tokens)).unwrap_or(u32::MAX);
    let low_rank = LowRankPlan {
        rank: train.rank,
        alpha: train.alpha,
    };
    let plan = Plan {
        shape: *net.shape(),
        low_rank: Some(low_rank),
        schedule: Schedule::new(steps, train.rate),
        batch_tokens: train.batch_tokens,
        seed: train.seed,
        from: digest.finalize().to_hex().to_string(),
    };
    let place = folder.of(round, RUN);
    let mut run = Run::new(plan, net, &examples, &place)?;
    let mut curve = Curve::open(&place, run.step())?;
    while let Some(progress) = run.advance(REPORT_STEPS)? {
        curve.add(progress, None)?;
        tell(&format!(
            "step {} of {steps}, loss {:.4}, {:.0} tokens/s",
            progress.step, progress.loss, progress.tokens_per_s
        ));
    }
    run.save()?;
    curve.draw()?;
    for (name, bytes) in adapter_peft(run.net(), low_rank)? {
        write(&place.join(name), &bytes)?;
    }
    let adapter = adapter_gguf(run.net(), &settings.model.release, low_rank)?;
    write(&folder.of(round, ADAPTER), &adapter)
}

/// New examples of this round and of those that were released, as often as they are to be seen.
fn new_examples(
    settings: &Settings,
    folder: &Folder,
    round: u32,
    encoder: &mut Encoder<'_>,
) -> Result<Vec<Example>, RoundError> {
    let before = folder.rounds()?;
    let taught = |it: &&Round| it.number == round || it.ended == Some(Ended::Released);
    let mut chats = Vec::new();
    for it in before.iter().filter(taught) {
        chats.extend(given(&folder.of(it.number, LEARN))?);
    }
    let mut new = Vec::new();
    for _ in 0..settings.train.passes {
        encoder.encode(&chats, &mut new)?;
    }
    Ok(new)
}

/// Old examples for so many new ones, drawn by the seed; again and again, if there are too few.
fn old_examples(
    settings: &Settings,
    new: usize,
    encoder: &mut Encoder<'_>,
) -> Result<Vec<Example>, RoundError> {
    let mut chats = Vec::new();
    for file in &settings.train.replay {
        chats.extend(given(file)?);
    }
    Dice::new(settings.train.seed).shuffle(&mut chats);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of examples"
    )]
    let wanted = (new as f64 * settings.train.replay_ratio) as usize;
    chats.truncate(wanted);
    let mut old = Vec::new();
    encoder.encode(&chats, &mut old)?;
    Ok(old.iter().cloned().cycle().take(wanted).collect())
}

/// Makes tokens of chats.
struct Encoder<'a> {
    vocabulary: &'a Vocabulary,
    context: usize,
    cut: usize,
    dice: Dice,
}

impl Encoder<'_> {
    /// All but those that are longer than the model's context.
    fn encode(&mut self, chats: &[Chat], examples: &mut Vec<Example>) -> Result<(), RoundError> {
        for chat in chats {
            let example = self
                .vocabulary
                .example_cut(&chat.messages, self.cut, &mut self.dice)?;
            if example.ids.len() <= self.context {
                examples.push(example);
            }
        }
        Ok(())
    }
}
