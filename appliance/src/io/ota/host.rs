//! What a trial needs of the process that serves.

use std::path::Path;
use std::time::Duration;

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

/// The process that serves. Two kinds: `outstation serve`, and what tests make of it.
pub(crate) trait Host {
    /// Whether the model would fit, as far as its head tells.
    async fn fits(&mut self, file: &Path) -> Result<(), Unfit>;

    /// Loads and tests a model, by the manifest beside its file, in a process of its own, which may hang, crash or take
    /// too much without harm. Requests wait from here on; those that run are finished first.
    async fn test(&mut self, file: &Path, within: Duration) -> Result<Tested, Unfit>;

    /// Serves a model from here on, for what waits, too. None: the model of the configuration.
    async fn serve(&mut self, file: Option<&Path>, name: Option<&str>) -> Result<(), Unfit>;

    /// What requests saw since the last call of `serve`, or in the last hours.
    fn window(&self) -> Window;

    /// Says something to the factory, P0: a name and a JSON object.
    fn report(&self, event: &str, attributes: String);
}
