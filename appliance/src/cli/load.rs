//! From a model file to what serving needs.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outstation_kernels::KvFormat;
use outstation_kernels::isa::{self, Isa};
use outstation_kernels::team::Team;
use outstation_wire::gguf::Gguf;

use super::exit::{self, Failure};
use super::progress::Progress;
use crate::adapter::{AdapterPlaces, AdapterPool, Base, PackedAdapter};
use crate::budget::{self, Budget, Compute, FileSizes, GpuMemory};
use crate::config::{ByteSize, Config, ModelConfig};
use crate::engine::AnyEngine;
use crate::engine::cpu::{CpuEngine, EngineSize, ModelBytes};
use crate::io::{memory, weights};
use crate::limits::{self, TOKENIZER_JSON_BYTES_MAX};
use crate::model::Model;
use crate::template::{ChatTemplate, Message};
use crate::tokenizer::{Tokenizer, Vocabulary, VocabularyError};

/// A model with everything that its file holds.
pub(super) struct Loaded {
    /// Name in the APIs.
    pub name: String,
    pub bytes: ModelBytes,
    pub model: Model,
    pub tokenizer: Tokenizer,
    /// The error says why chats are refused.
    pub template: Result<ChatTemplate, String>,
    pub sizes: FileSizes,
}

impl Loaded {
    /// BLAKE3 of the model's file.
    pub(super) fn digest(&self) -> [u8; 32] {
        *blake3::hash((*self.bytes).as_ref()).as_bytes()
    }
}

/// Loads the configured model, or the demo model.
pub(super) fn model(config: &ModelConfig) -> Result<Loaded, Failure> {
    let (bytes, default_name): (ModelBytes, String) = match &config.file {
        None => (Box::new(crate::demo::model()), "demo".to_owned()),
        Some(path) => {
            let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
            (Box::new(weights::map(path)?), stem.unwrap_or_default())
        }
    };
    let template_text = match &config.chat_template_file {
        None => None,
        Some(path) => Some(read_text(path)?),
    };
    let name = config.name.clone().unwrap_or(default_name);
    let json = json_beside(config)?;
    parse(name, bytes, json.as_deref(), template_text).map_err(|failure| match &config.file {
        Some(path) => failure.at(path.display()),
        None => failure,
    })
}

fn read_text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|e| Failure::io(format!("cannot read {}", path.display()), e))
}

/// The `tokenizer.json` that lies beside the model file, if there is one. Not read past the limit, at which the
/// tokenizer refuses it.
fn json_beside(config: &ModelConfig) -> Result<Option<String>, Failure> {
    let Some(path) = &config.file else {
        return Ok(None);
    };
    let path = path.with_file_name("tokenizer.json");
    let failed = |e| Failure::io(format!("cannot read {}", path.display()), e);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut bytes = Vec::new();
    file.take(TOKENIZER_JSON_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > TOKENIZER_JSON_BYTES_MAX {
        return Err(VocabularyError::JsonBytes { bytes: bytes.len() }.into());
    }
    String::from_utf8(bytes).map(Some).map_err(|e| {
        Failure::new(
            exit::BAD_INPUT,
            format!("{} is not UTF-8: {e}", path.display()),
        )
    })
}

fn build_tokenizer(vocabulary: &Vocabulary, json: Option<&str>) -> Result<Tokenizer, Failure> {
    Ok(match json {
        Some(json) => Tokenizer::with_json(vocabulary, json)?,
        None => Tokenizer::new(vocabulary)?,
    })
}

/// Only the tokenizer: the file needs no tensors.
pub(super) fn tokenizer(config: &ModelConfig) -> Result<Tokenizer, Failure> {
    let json = json_beside(config)?;
    let build = |file: &[u8]| -> Result<Tokenizer, Failure> {
        let gguf = Gguf::parse(file)?;
        build_tokenizer(&Vocabulary::from_gguf(&gguf)?, json.as_deref())
    };
    match &config.file {
        None => build(crate::demo::model()),
        Some(path) => build(&weights::map(path)?).map_err(|f| f.at(path.display())),
    }
}

fn parse(
    name: String,
    bytes: ModelBytes,
    tokenizer_json: Option<&str>,
    template_text: Option<String>,
) -> Result<Loaded, Failure> {
    let file = (*bytes).as_ref();
    let gguf = Gguf::parse(file)?;
    let model = Model::from_gguf(&gguf)?;
    let vocabulary = Vocabulary::from_gguf(&gguf)?;
    let tokenizer = build_tokenizer(&vocabulary, tokenizer_json)?;
    if tokenizer.vocab_size() != model.dims.vocabulary as usize {
        return Err(Failure::new(
            exit::BAD_INPUT,
            format!(
                "the tokenizer has {} tokens, the model {}: they do not belong together",
                tokenizer.vocab_size(),
                model.dims.vocabulary
            ),
        ));
    }
    let sizes = FileSizes {
        vocabulary_text_bytes: vocabulary.tokens.iter().map(|t| t.len() as u64).sum(),
    };
    let template = template_text.or(vocabulary.chat_template);
    let (bos, eos) = tokenizer.bos_eos_text();
    let template = ChatTemplate::new(template.as_deref(), &bos, &eos).map_err(|e| e.to_string());
    Ok(Loaded {
        name,
        bytes,
        model,
        tokenizer,
        template,
        sizes,
    })
}

/// The tokens with which every chat begins whose first message is this system prompt: what two such chats have in
/// common.
pub(super) fn system_prompt(
    path: &Path,
    tokenizer: &Tokenizer,
    template: &Result<ChatTemplate, String>,
) -> Result<Vec<u32>, Failure> {
    let bad = |message: String| Failure::new(exit::CONFIG, message).at(path.display());
    let text = read_text(path)?;
    let template = template.as_ref().map_err(|why| bad(why.clone()))?;
    let chat = |content| {
        let message = |role, content| Message { role, content };
        let messages = [message("system", text.trim_end()), message("user", content)];
        let ids = template.prompt_ids(tokenizer, &messages, 0);
        ids.map_err(|error| bad(error.to_string()))
    };
    let (one, other) = (chat("a")?, chat("1")?);
    let common = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    if common == 0 {
        return Err(bad("the chat template writes nothing of it".to_owned()));
    }
    Ok(one[..common].to_vec())
}

/// Plans the memory of serving this model.
pub(super) fn budget(config: &Config, loaded: &Loaded) -> Result<Budget, Failure> {
    let limit = match config.memory.limit {
        Some(limit) => limit,
        None => memory_available()?,
    };
    let on = on(config)?;
    let adapters = adapter_places(config, adapters(config)?.len())?;
    Ok(Budget::plan(
        &config.serving,
        Compute {
            isa: on.isa,
            threads: on.threads,
            kv: kv(config.engine.kv.as_deref(), &on, &loaded.model)?,
            adapters,
            gpu: on.gpu_memory(config.memory.gpu_limit, &loaded.model)?,
        },
        &loaded.model,
        loaded.sizes,
        super::logging::bytes(config)?.as_ref(),
        limit,
        config.models.resident,
    )?)
}

/// Names and files of the adapters that are loaded at start.
pub(super) fn adapters(config: &Config) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut found = config.adapters.named_files()?;
    if let Some(folder) = &config.adapters.folder {
        found.extend(crate::io::adapters::list(folder)?);
    }
    let mut names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(found),
        Some(pair) => Err(Failure::new(
            exit::CONFIG,
            format!("two adapters are called `{}`: rename one", pair[0]),
        )),
    }
}

/// Places for adapters as configured, or for those that are loaded at start.
pub(super) fn adapter_places(config: &Config, at_start: usize) -> Result<AdapterPlaces, Failure> {
    let at_start = u32::try_from(at_start).unwrap_or(u32::MAX);
    let count = config.adapters.count_max.unwrap_or(at_start);
    let most = count.min(limits::ADAPTERS_MAX);
    if at_start > most {
        let message = format!(
            "{at_start} adapters are to be loaded at start, adapters.count_max is {most} (at most {}): raise it, or name \
             fewer",
            limits::ADAPTERS_MAX
        );
        return Err(Failure::new(exit::CONFIG, message));
    }
    Ok(AdapterPlaces {
        count,
        rank_max: config.adapters.rank_max,
    })
}

/// An adapter in memory of its own.
pub(super) fn adapter(path: &Path, model: &Model) -> Result<PackedAdapter, Failure> {
    let targets = Base::of(model);
    let places = AdapterPlaces {
        count: 1,
        rank_max: crate::io::adapters::rank(path, &targets)?,
    };
    let memory = vec![0; targets.bytes(places.rank())];
    let mut packed = PackedAdapter::new(&targets, places.rank(), Box::new(memory));
    crate::io::adapters::read_into(path, &mut packed, &targets)?;
    Ok(packed)
}

/// The places of a base, with the adapters that are loaded at start.
pub(super) fn adapter_pool(
    base: &str,
    model: &Model,
    places: AdapterPlaces,
    files: &[(String, PathBuf)],
) -> Result<AdapterPool, Failure> {
    let taken = |e| Failure::io("cannot take memory for adapters", e);
    let mut pool = crate::io::adapters::pool(base, Base::of(model), places).map_err(taken)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    for (name, path) in files {
        let mut place = pool.begin(name)?;
        crate::io::adapters::read(path, &mut place)?;
        pool.finish(place, now.as_ref().map_or(0, Duration::as_secs));
    }
    Ok(pool)
}

/// What the machine can give: the smaller of MemAvailable and the cgroup's limit, less a tenth for everything else.
fn memory_available() -> Result<ByteSize, Failure> {
    let available = memory::available_bytes(Path::new("/")).ok_or_else(|| {
        let message = "/proc/meminfo does not tell what is available: set memory.limit";
        Failure::new(exit::CONFIG, message)
    })?;
    Ok(ByteSize(available / 10 * 9))
}

/// The instruction set as configured, or the best that there is.
pub(super) fn isa(name: Option<&str>) -> Result<Isa, Failure> {
    let Some(name) = name else {
        return Ok(isa::detect());
    };
    let isa: Isa = name
        .parse()
        .map_err(|e| Failure::new(exit::CONFIG, format!("engine.isa `{name}`: {e}")))?;
    if isa.available() {
        return Ok(isa);
    }
    Err(Failure::new(
        exit::CONFIG,
        format!(
            "this machine has no {isa}: leave engine.isa out for {}",
            isa::detect()
        ),
    ))
}

/// What computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct On {
    pub(super) isa: Isa,
    pub(super) threads: usize,
    /// Index of the GPU, if one does.
    pub(super) gpu: Option<u32>,
}

/// What computes, as configured.
pub(super) fn on(config: &Config) -> Result<On, Failure> {
    let engine = &config.engine;
    On::new(
        engine.device.as_deref(),
        engine.isa.as_deref(),
        engine.threads,
    )
}

/// Classes of machines that this box is of: releases name those that they are for.
pub(super) fn hardware(config: &Config) -> Result<Vec<String>, Failure> {
    let mut classes = vec!["cpu".to_owned(), std::env::consts::ARCH.to_owned()];
    #[cfg(feature = "cuda")]
    if let Some(index) = on(config)?.gpu {
        let facts = outstation_cuda::Gpu::facts_of(index).map_err(gpu_failure)?;
        let (major, minor) = facts.capability;
        classes.extend(["cuda".to_owned(), format!("cuda-sm{major}{minor}")]);
    }
    Ok(classes)
}

impl On {
    pub(super) fn new(
        device: Option<&str>,
        isa_name: Option<&str>,
        threads_configured: Option<u16>,
    ) -> Result<On, Failure> {
        Ok(On {
            isa: isa(isa_name)?,
            threads: threads(threads_configured),
            gpu: gpu(device)?,
        })
    }

    /// What we may take of the GPU's memory; none where the processor computes.
    #[cfg(feature = "cuda")]
    pub(super) fn gpu_memory(
        &self,
        limit: Option<ByteSize>,
        model: &Model,
    ) -> Result<Option<GpuMemory>, Failure> {
        let Some(index) = self.gpu else {
            return Ok(None);
        };
        if let Some(why) = crate::engine::cuda::CudaEngine::unfit(model) {
            return Err(Failure::new(exit::CONFIG, why));
        }
        let facts = outstation_cuda::Gpu::facts_of(index).map_err(gpu_failure)?;
        Ok(Some(GpuMemory {
            limit: limit.unwrap_or(ByteSize(facts.free_bytes / 10 * 9)),
            unified: facts.unified,
        }))
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unnecessary_wraps, reason = "as with a GPU")]
    pub(super) fn gpu_memory(
        &self,
        _: Option<ByteSize>,
        _: &Model,
    ) -> Result<Option<GpuMemory>, Failure> {
        Ok(None)
    }
}

/// What failed on a GPU.
#[cfg(feature = "cuda")]
pub(super) fn gpu_failure(error: outstation_cuda::GpuError) -> Failure {
    Failure::new(exit::UNAVAILABLE, error.to_string())
}

/// The GPU that a device's name means; none for the processor.
fn gpu(name: Option<&str>) -> Result<Option<u32>, Failure> {
    let index = match name {
        None | Some("cpu") => return Ok(None),
        Some("cuda") => 0,
        Some(name) => name
            .strip_prefix("cuda:")
            .and_then(|index| index.parse().ok())
            .ok_or_else(|| {
                let message = format!(
                    "engine.device is `{name}`: it is `cpu`, `cuda`, or `cuda:1` for the second GPU"
                );
                Failure::new(exit::CONFIG, message)
            })?,
    };
    if cfg!(feature = "cuda") {
        return Ok(Some(index));
    }
    Err(Failure::new(
        exit::CONFIG,
        "this program was built without feature `cuda`: use --device cpu",
    ))
}

/// The format of keys and values as asked for, or the one that the device prefers, where heads of the model fit it.
pub(super) fn kv_for(name: Option<&str>, on: &On, model: &Model) -> Result<KvFormat, Failure> {
    let kv = kv(name, on, model)?;
    budget::check_kv(kv, model)?;
    Ok(kv)
}

/// The format of keys and values as configured, or the one that the device prefers.
fn kv(name: Option<&str>, on: &On, model: &Model) -> Result<KvFormat, Failure> {
    let Some(name) = name else {
        return Ok(match on.gpu {
            None => KvFormat::of(on.isa, model.dims.head_dim),
            Some(_) => KvFormat::F16,
        });
    };
    let kv = name
        .parse()
        .map_err(|e| Failure::new(exit::CONFIG, format!("engine.kv `{name}`: {e}")))?;
    if kv == KvFormat::I16 && on.gpu.is_some() {
        let message =
            "engine.kv is i16, which only processors multiply: use f16 or q8_0 with a GPU";
        return Err(Failure::new(exit::CONFIG, message));
    }
    Ok(kv)
}

/// Threads of the kernel team as configured, or one for each core.
pub(super) fn threads(configured: Option<u16>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    configured.map_or(cores.min(crate::limits::THREADS_MAX as usize), usize::from)
}

/// The engine of a loaded model, whose file is let go. A size comes with the entries of all block tables; `places` are
/// for the adapters that steps have.
pub(super) fn engine(
    model: Model,
    file: ModelBytes,
    on: &On,
    size: (EngineSize, usize),
    places: AdapterPlaces,
) -> Result<AnyEngine, Failure> {
    let Some(index) = on.gpu else {
        let engine = cpu_engine(model, file, on, size.0)?;
        let engine = engine.with_adapters(size.0.columns_max, places.rank());
        return Ok(AnyEngine::Cpu(Box::new(engine)));
    };
    gpu_engine(model, &file, (index, on.threads), size, places)
}

#[cfg(feature = "cuda")]
fn gpu_engine(
    model: Model,
    file: &ModelBytes,
    (index, threads): (u32, usize),
    size: (EngineSize, usize),
    places: AdapterPlaces,
) -> Result<AnyEngine, Failure> {
    use crate::engine::cuda::CudaEngine;
    if let Some(why) = CudaEngine::unfit(&model) {
        return Err(Failure::new(exit::CONFIG, why));
    }
    let kernels = outstation_cuda::GpuKernels::open(index).map_err(gpu_failure)?;
    let total: u64 = model
        .weights()
        .map(|weight| weight.bytes.len() as u64)
        .sum();
    let (mut progress, mut sent) = (Progress::new("weights", total), 0);
    let done = |weight: &crate::model::Weight| {
        sent += weight.bytes.len() as u64;
        progress.set(sent, total);
    };
    let file = (**file).as_ref();
    let mut team = Team::new(threads);
    let on = (kernels, &mut team);
    let engine = CudaEngine::new(model, file, on, size, places, done);
    Ok(AnyEngine::Cuda(Box::new(engine.map_err(gpu_failure)?)))
}

#[cfg(not(feature = "cuda"))]
fn gpu_engine(
    _: Model,
    _: &ModelBytes,
    _: (u32, usize),
    _: (EngineSize, usize),
    _: AdapterPlaces,
) -> Result<AnyEngine, Failure> {
    unreachable!("`gpu` refused it")
}

/// The engine on the processor, whose file is let go.
pub(super) fn cpu_engine(
    model: Model,
    file: ModelBytes,
    on: &On,
    size: EngineSize,
) -> Result<CpuEngine, Failure> {
    let mut team = Team::new(on.threads);
    let total = model.packed_bytes as u64;
    let mut progress = Progress::new("weights", total);
    let failed = |what: &str, bytes: u64| format!("cannot take {} for {what}", ByteSize(bytes));
    let weights = weights::pack(&model, (*file).as_ref(), &mut team, |done| {
        progress.set(done, total);
    })
    .map_err(|e| Failure::io(failed("weights", total), e))?;
    drop(file);
    let bytes = CpuEngine::cache_bytes(&model, size);
    let cache = weights::cache(bytes, &mut team)
        .map_err(|e| Failure::io(failed("the KV cache", bytes as u64), e))?;
    Ok(CpuEngine::new(model, weights, cache, on.isa, team, size))
}
