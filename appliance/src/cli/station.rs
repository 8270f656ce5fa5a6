//! A model as it serves: its engine's station and its text side, within the budget.

use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::exit::{self, Failure};
use super::load::{self, Loaded};
use crate::budget::{self, Budget};
use crate::config::Config;
use crate::engine::AnyEngine;
use crate::grammar::Grammars;
use crate::io::engine_thread::WantsWork;
use crate::io::gateway::{ServedModel, TextModel};
use crate::limits;
use crate::request::RequestLimits;
use crate::scheduler::SchedulerLimits;
use crate::station::{Measures, Station};

/// What is wanted of the engine besides tokens.
#[derive(Clone, Copy)]
pub(super) struct Wants {
    /// How sure the model is, for a log.
    pub(super) certainty: bool,
    /// Who ran when, for a meter.
    pub(super) work: WantsWork,
}

/// Takes all memory that serving this model needs.
pub(super) fn station(
    config: &Config,
    loaded: Loaded,
    budget: &Budget,
    wants: Wants,
) -> Result<(Station<AnyEngine>, TextModel), Failure> {
    let digest = if wants.certainty {
        loaded.digest()
    } else {
        [0; 32]
    };
    let Loaded {
        name,
        bytes,
        model,
        tokenizer,
        template,
        ..
    } = loaded;
    let serving = &config.serving;
    let request_limits = RequestLimits {
        context_tokens_max: budget.context_tokens_max,
        vocabulary: model.dims.vocabulary,
    };
    let on = load::on(config)?;
    let size = budget.engine_size(serving);
    let files = load::adapters(config)?;
    let places = load::adapter_places(config, files.len())?;
    let adapters = load::adapter_pool(&name, &model, places, &files)?;
    let entries = budget::table_entries(serving.sequences_max, budget.context_tokens_max);
    let engine = load::engine(model, bytes, &on, (size, entries), places)?;
    let scheduler = SchedulerLimits {
        sequences_max: serving.sequences_max,
        queue_requests_max: serving.queue_requests_max,
        context_tokens_max: budget.context_tokens_max,
        kv_blocks: budget.kv_blocks,
        queue_tokens_max: serving.queue_tokens_max,
        step_columns_max: serving.step_tokens_max as usize,
        end_tokens: tokenizer.ends_generation().into(),
        targets: serving.targets(),
    };
    let mut station = Station::new(scheduler, engine);
    if wants.certainty {
        station.measure(Measures::Certainty);
    }
    for path in &serving.system_prompt_files {
        let prompt = load::system_prompt(path, &tokenizer, &template)?;
        if prompt.len() >= budget.context_tokens_max as usize {
            let message = format!(
                "{} has {} tokens, the context {}: shorten it, or raise serving.context_tokens_max",
                path.display(),
                prompt.len(),
                budget.context_tokens_max
            );
            return Err(Failure::new(exit::CONFIG, message));
        }
        let started = Instant::now();
        let kept = station.pin(&prompt, &mut || started.elapsed());
        tracing::info!(
            "{}: {kept} of {} tokens are kept for all",
            path.display(),
            prompt.len()
        );
    }
    let grammars = Grammars::new(&tokenizer, limits::grammars_max(serving.sequences_max));
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let served = ServedModel {
        id: name,
        created_unix_s: created.as_secs(),
        context_tokens_max: budget.context_tokens_max,
        parent: None,
    };
    let text = TextModel {
        digest,
        served,
        adapters: Mutex::new(adapters),
        default_adapter: config.adapters.default.clone(),
        tokenizer,
        template,
        grammars,
        limits: request_limits,
        planned_bytes: budget.model_bytes,
        planned_gpu_bytes: budget.gpu.map_or(0, |gpu| gpu.model_bytes),
        shared_bytes: budget.shared_bytes,
    };
    Ok((station, text))
}
