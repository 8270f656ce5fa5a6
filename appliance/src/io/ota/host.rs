//! What a trial needs of the process that serves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outstation_wire::release::Golden;

use crate::slot::Reason;
use crate::trial::Window;

/// Why a model does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// Which kind of no.
    pub(crate) reason: Reason,
    /// The same, for people.
    pub(crate) text: String,
}

/// What a self-test measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Tested {
    /// Seconds to load.
    pub(crate) load_s: f64,
    /// Tokens of golden texts a second.
    pub(crate) tokens_per_s: f64,
}

/// How a model comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Both are loaded, and the new one gets a share of the requests.
    Beside,
    /// One after the other, while requests wait.
    Instead,
}

/// What requests saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Of the model that is beside the other one, or of the only one.
    pub(crate) candidate: Window,
    /// Of the model that serves, where there is another beside it: in the same time.
    pub(crate) beside: Option<Window>,
}

/// The process that serves. Two kinds: `outstation serve`, and what tests make of it.
pub(crate) trait Host {
    /// Whether the model would fit, as far as its head tells.
    async fn fits(&mut self, file: &Path) -> Result<(), Unfit>;

    /// How the model can come in now.
    async fn way(&mut self, file: &Path) -> Result<Way, Unfit>;

    /// Loads and tests a model, by the manifest beside its file, in a process of its own, which may hang, crash or take
    /// too much without harm. If it comes in instead of the other, requests wait from here on; those that run are
    /// finished first.
    async fn test(&mut self, file: &Path, way: Way, within: Duration) -> Result<Tested, Unfit>;

    /// Serves a model from here on, for what waits, too, by its file and name, with adapters. None: the model of the
    /// configuration, with those of the configuration.
    async fn serve(
        &mut self,
        model: Option<(&Path, &str)>,
        adapters: &[(String, PathBuf)],
    ) -> Result<(), Unfit>;

    /// Loads a model beside the one that serves.
    async fn add(&mut self, file: &Path, name: &str) -> Result<(), Unfit>;

    /// The model beside gets this share of new requests; both are looked at anew.
    fn share(&mut self, percent: u32);

    /// The model beside is the one that serves; the other finishes what it has.
    fn keep(&mut self);

    /// The model beside finishes what it has and goes, if there is one.
    fn withdraw(&mut self);

    /// Whether there is a place for an adapter. The error says what to do.
    fn adapter_place(&self) -> Result<(), String>;

    /// Loads an adapter under a name that nobody asks for, asks it golden texts, and unloads it again.
    async fn test_adapter(
        &mut self,
        name: &str,
        file: &Path,
        golden: &[Golden],
    ) -> Result<(), Unfit>;

    /// Serves an adapter under this name. What runs with another of the same name ends with that.
    async fn load_adapter(&mut self, name: &str, file: &Path) -> Result<(), Unfit>;

    /// Serves an adapter no longer.
    async fn unload_adapter(&mut self, name: &str);

    /// What requests saw since the last call of `serve` or `share`, or in the last hours.
    fn seen(&self) -> Seen;

    /// Says something to the factory, P0: a name and a JSON object.
    fn report(&self, event: &str, attributes: String);
}
