//! Which model answers: the base alone, or with an adapter; and how adapters come and go.

use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Gateway, TextModel};
use crate::adapter::{AdapterPool, PackedAdapter, PoolError};
use crate::io::adapters::{self, AdapterFileError};
use crate::request::{Refusal, RefusalKind};

/// What the box serves, for lists and checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    /// Name in the APIs.
    pub id: String,
    /// When serving began, seconds since 1970.
    pub created_unix_s: u64,
    /// Positions of one sequence.
    pub context_tokens_max: u32,
    /// Of a base with an adapter, the base's name.
    pub parent: Option<String>,
}

/// What answers a request.
pub(super) struct Answering {
    /// Its name in the APIs.
    pub(super) id: String,
    /// What is added to the base.
    pub(super) adapter: Option<Arc<PackedAdapter>>,
}

/// Why an adapter is not served.
#[derive(Debug, thiserror::Error)]
pub enum LoadAdapterError {
    /// There is no place for it, or not under this name.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Its files are not what they must be.
    #[error(transparent)]
    File(#[from] AdapterFileError),
}

impl TextModel {
    pub(super) fn adapters(&self) -> MutexGuard<'_, AdapterPool> {
        let adapters = self.adapters.lock();
        adapters.unwrap_or_else(PoisonError::into_inner)
    }

    /// What is served: the base, then the base with each adapter.
    pub(super) fn models(&self) -> Vec<ServedModel> {
        let base = &self.served;
        let adapters = self.adapters();
        let with_adapter = adapters.served().map(|adapter| ServedModel {
            id: format!("{}:{}", base.id, adapter.name),
            created_unix_s: adapter.created_unix_s,
            parent: Some(base.id.clone()),
            ..base.clone()
        });
        std::iter::once(base.clone()).chain(with_adapter).collect()
    }

    /// What a request asks for by name: nothing or `default`; the base's; with a colon and an adapter's; or the
    /// adapter's alone, which is never the base's.
    pub(super) fn resolve(&self, model: Option<&str>) -> Result<Answering, Refusal> {
        let base = &self.served.id;
        let name = match model {
            None | Some("" | "default") => {
                let adapter = self.default_adapter.as_deref();
                let with = adapter.and_then(|adapter| self.with(adapter));
                return Ok(with.unwrap_or_else(|| self.base()));
            }
            Some(name) if name == base => return Ok(self.base()),
            Some(name) => name,
        };
        let of = |base: &str| name.strip_prefix(base)?.strip_prefix(':');
        let adapter = of(base).or_else(|| of("default")).unwrap_or(name);
        let with = self.with(adapter);
        with.ok_or_else(|| no_model(name, &self.models()))
    }

    /// The base with an adapter, if it is there.
    fn with(&self, adapter: &str) -> Option<Answering> {
        let found = self.adapters().find(adapter)?;
        Some(Answering {
            id: format!("{}:{adapter}", self.served.id),
            adapter: Some(found),
        })
    }

    pub(super) fn base(&self) -> Answering {
        Answering {
            id: self.served.id.clone(),
            adapter: None,
        }
    }
}

/// The refusal that names what there is.
pub(crate) fn no_model(name: &str, models: &[ServedModel]) -> Refusal {
    /// Models that are named; a list of all may be long.
    const NAMED_MAX: usize = 16;
    let shown: String = name.chars().take(64).collect();
    let named = models.iter().take(NAMED_MAX);
    let named: Vec<_> = named.map(|model| format!("`{}`", model.id)).collect();
    let more = match models.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more, which GET /v1/models lists"),
    };
    Refusal {
        param: Some("model".to_owned()),
        ..Refusal::plain(
            RefusalKind::NoModel,
            format!(
                "no model `{shown}` here: this box serves {}{more} (or say `default`)",
                named.join(", ")
            ),
        )
    }
}

impl Gateway {
    /// What is served.
    pub fn served(&self) -> ServedModel {
        self.text().served.clone()
    }

    /// What is served: the base, then the base with each adapter.
    pub fn models(&self) -> Vec<ServedModel> {
        self.text().models()
    }

    /// Loads an adapter and serves it as `<base>:<name>`: a GGUF file, or a folder or file of PEFT's. Nobody waits for
    /// it: it is read and checked on a thread of its own, into a place that is free. Where an adapter of this name is
    /// served, new requests get the new one, and those that run keep theirs.
    ///
    /// It goes on when the caller does not wait.
    pub async fn load_adapter(&self, name: &str, path: PathBuf) -> Result<(), LoadAdapterError> {
        let (gateway, name) = (self.clone(), name.to_owned());
        let loading = tokio::spawn(async move { gateway.load(&name, path).await });
        loading.await.expect("it does not panic")
    }

    /// Whether there is a place for one more adapter.
    pub fn adapter_place(&self) -> Result<(), PoolError> {
        let text = self.text();
        let mut pool = text.adapters();
        // Any name that is possible will do.
        let place = pool.begin(".")?;
        pool.give_up(place);
        Ok(())
    }

    async fn load(&self, name: &str, path: PathBuf) -> Result<(), LoadAdapterError> {
        // The base stays until it is done.
        let _base = self.shared.changing.read().await;
        let text = self.text();
        let mut place = text.adapters().begin(name)?;
        let reading = tokio::task::spawn_blocking(move || {
            let read = adapters::read(&path, &mut place);
            (place, read)
        });
        let (place, read) = reading.await.expect("it does not panic");
        let mut pool = text.adapters();
        match read {
            Ok(()) => pool.finish(place, unix_s()),
            Err(_) => pool.give_up(place),
        }
        Ok(read?)
    }

    /// Serves an adapter no longer, and waits until the last request that uses it has ended: its place is free then.
    pub async fn unload_adapter(&self, name: &str) -> Result<(), PoolError> {
        let text = self.text();
        let leaving = text.adapters().unload(name)?;
        loop {
            let ended = self.shared.ended.notified();
            if text.adapters().has_left(&leaving) {
                return Ok(());
            }
            // A submission is dropped some time after its end is told, so look again now and then.
            let _ = tokio::time::timeout(Duration::from_millis(20), ended).await;
        }
    }
}

fn unix_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}
