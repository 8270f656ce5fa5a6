//! What the API needs of the box: the gateway in production, a script in tests.

use std::future::Future;

use serde::Serialize;

use crate::io::gateway::{Forecast, Gateway, Generation, Piece, ServedModel};
use crate::io::log::Feedback;
use crate::io::ota::runner::Handle;
use crate::request::{GenerateRequest, Refusal, Tenant};

/// Takes requests and gives answers.
pub trait Backend: Clone + Send + Sync + 'static {
    /// An answer under way.
    type Answer: Answer;

    /// The model, and what it is with each adapter.
    fn models(&self) -> Vec<ServedModel>;
    /// Whether tokens are really decoded.
    fn ready(&self) -> bool;
    /// Numbers for people and scripts.
    fn status(&self) -> impl Serialize;
    /// The life of releases, on a box that follows a ring.
    fn releases(&self) -> Option<Handle>;
    /// Takes what somebody thinks of an answer.
    fn feedback(&self, tenant: Tenant, feedback: Feedback) -> Heard;
    /// Takes a request, or says why not.
    fn submit(
        &self,
        request: GenerateRequest,
    ) -> impl Future<Output = Result<Self::Answer, Refusal>> + Send;
}

/// What became of feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is in the log.
    Recorded,
    /// No such answer is known, or it is somebody else's.
    Unknown,
    /// There is no log.
    NoLog,
}

/// An answer under way. Dropping it cancels the request.
pub trait Answer: Send + 'static {
    /// Name of the model that answers.
    fn model(&self) -> &str;
    /// What it was told when it was taken.
    fn forecast(&self) -> Forecast;
    /// The next piece; dropping the future loses none. `None` after the last.
    fn next(&mut self) -> impl Future<Output = Option<Piece>> + Send;
}

impl Backend for Gateway {
    type Answer = Generation;

    fn models(&self) -> Vec<ServedModel> {
        Gateway::models(self)
    }

    fn ready(&self) -> bool {
        Gateway::ready(self)
    }

    fn status(&self) -> impl Serialize {
        Gateway::status(self)
    }

    fn releases(&self) -> Option<Handle> {
        Gateway::releases(self).cloned()
    }

    fn feedback(&self, tenant: Tenant, feedback: Feedback) -> Heard {
        match self.log() {
            None => Heard::NoLog,
            Some(log) if log.feedback(tenant, feedback) => Heard::Recorded,
            Some(_) => Heard::Unknown,
        }
    }

    async fn submit(&self, request: GenerateRequest) -> Result<Generation, Refusal> {
        Gateway::submit(self, request).await
    }
}

impl Answer for Generation {
    fn model(&self) -> &str {
        Generation::model(self)
    }

    fn forecast(&self) -> Forecast {
        Generation::forecast(self)
    }

    async fn next(&mut self) -> Option<Piece> {
        Generation::next(self).await
    }
}
