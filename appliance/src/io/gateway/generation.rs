//! An answer under way, as its reader hears it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::dispatcher::{End, News};
use super::{Command, TextModel, deadline, overloaded};
use crate::io::log::Told;
use crate::logprobs::Logprobs;
use crate::request::{FinishReason, Refusal, RefusalKind, RequestId, Timings, Usage};
use crate::scheduler::Outcome;
use crate::tokenizer::{Decoder, StopMatcher, Tokenizer};

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text that can be shown: never half a character, never the beginning of a stop string.
    Text {
        /// May be empty while characters are incomplete.
        text: String,
        /// Tokens since the last piece.
        token_ids: Vec<u32>,
        /// What the model made of each of them, where that was asked for.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The end.
    Done {
        /// Why.
        finish: FinishReason,
        /// What it cost.
        usage: Usage,
        /// Where the time went.
        timings: Timings,
    },
    /// It broke off.
    Failed(Refusal),
}

/// What the model made of a token, in [`Logprobs`]' terms.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// What was drawn.
    pub drawn: TokenLogprob,
    /// The likeliest, as many as were asked for.
    pub top: Vec<TokenLogprob>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// What it prints; possibly a part of a character. Control tokens have their names here.
    pub bytes: Box<[u8]>,
    /// Natural logarithm; −∞ for what is impossible.
    pub logprob: f32,
}

impl TokenLogprobs {
    fn new(tokenizer: &Tokenizer, token: u32, logprobs: &Logprobs) -> Self {
        let one = |token, logprob| TokenLogprob {
            bytes: tokenizer.raw_bytes(token).into(),
            logprob,
        };
        let top = logprobs.top.iter();
        Self {
            drawn: one(token, logprobs.drawn),
            top: top.map(|&(token, logprob)| one(token, logprob)).collect(),
        }
    }
}

/// What a request was told when it was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Time until its first token.
    pub first_token_in: Duration,
    /// Requests that wait and come before it.
    pub queued_before: u32,
}

/// An answer under way. Dropping it cancels the request.
pub struct Generation {
    /// The model that it began with.
    pub(super) text: Arc<TextModel>,
    /// Its name, with that of the adapter.
    pub(super) model: String,
    pub(super) id: RequestId,
    /// The reserved place of the cancellation; gone once the request ended.
    pub(super) cancel: Option<OwnedPermit<Command>>,
    pub(super) events: mpsc::Receiver<News>,
    pub(super) decoder: Decoder,
    pub(super) stop: StopMatcher,
    pub(super) prompt_tokens: u32,
    /// Tokens before which no stop string ends the answer.
    pub(super) min_tokens: u32,
    pub(super) completion_tokens: u32,
    pub(super) started: Option<Instant>,
    pub(super) first_token: Option<Instant>,
    pub(super) queue: Duration,
    pub(super) forecast: Forecast,
    pub(super) ending: Ending,
    pub(super) mean_nll: Option<f32>,
    pub(super) arrived: Instant,
    /// Where the log reads what its reader saw.
    pub(super) told: Option<Arc<Told>>,
    /// Says whether its record is on the disk, where that is waited for.
    pub(super) durable: Option<oneshot::Receiver<bool>>,
    pub(super) _place: OwnedSemaphorePermit,
}

/// How far an answer is from its end.
pub(super) enum Ending {
    /// The engine has more to say.
    Open,
    /// One piece is left.
    Last(Piece),
    /// Nothing comes any more.
    Over,
}

impl Generation {
    /// What answers: the base, or the base with an adapter.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Mean of -ln p of its tokens, once it has ended, where that is measured.
    pub fn mean_nll(&self) -> Option<f32> {
        self.mean_nll
    }

    /// What it was told when it was taken.
    pub fn forecast(&self) -> Forecast {
        self.forecast
    }

    /// The next piece; `None` after `Done` or `Failed`.
    pub async fn next(&mut self) -> Option<Piece> {
        if matches!(self.ending, Ending::Open) {
            let piece = self.next_of_engine().await;
            if self.durable.is_none() || !matches!(piece, Some(Piece::Done { .. })) {
                return piece;
            }
            // It stays here while its record is waited for: who drops this wait may come again.
            self.ending = piece.map_or(Ending::Over, Ending::Last);
        }
        if let (Ending::Last(Piece::Done { .. }), Some(durable)) = (&self.ending, &mut self.durable)
        {
            let settled = durable.await.unwrap_or(false);
            self.durable = None;
            if !settled {
                self.ending = Ending::Last(Piece::Failed(Refusal::plain(
                    RefusalKind::Internal,
                    "the answer is complete, but its record is not on the disk yet, and this box acknowledges none before \
                     that (log.durability = \"sync\"): ask again later, and see what `outstation doctor` says of the disk",
                )));
            }
        }
        match std::mem::replace(&mut self.ending, Ending::Over) {
            Ending::Last(piece) => Some(piece),
            Ending::Open | Ending::Over => None,
        }
    }

    async fn next_of_engine(&mut self) -> Option<Piece> {
        let mut event = self.events.recv().await;
        if let Some(News::Started { queue }) = event {
            self.started = Some(Instant::now());
            self.queue = queue;
            event = self.events.recv().await;
        }
        match event {
            Some(News::Accepted(_) | News::Started { .. }) => {
                unreachable!("each comes once, in order")
            }
            Some(News::Token(token, logprobs)) => Some(self.text(token, logprobs)),
            Some(News::Ended(end)) => Some(self.end(end)),
            None => {
                self.ending = Ending::Over;
                Some(Piece::Failed(Refusal::plain(
                    RefusalKind::SlowConsumer,
                    format!(
                        "the reader fell {} tokens behind: read faster, or ask for fewer tokens",
                        self.events.max_capacity()
                    ),
                )))
            }
        }
    }

    /// Waits for the engine's answer to the submission.
    pub(super) async fn wait_for_place(&mut self) -> Result<(), Refusal> {
        match self.events.recv().await {
            Some(News::Accepted(forecast)) => {
                self.forecast = forecast;
                Ok(())
            }
            Some(News::Ended(End {
                outcome: Outcome::Overloaded { retry_after_ms },
                ..
            })) => {
                self.cancel = None;
                Err(overloaded(retry_after_ms))
            }
            Some(News::Ended(End {
                outcome: Outcome::Deadline,
                ..
            })) => {
                self.cancel = None;
                Err(deadline(
                    "its deadline cannot be met now: allow more time, or come back later",
                ))
            }
            _ => {
                let message = "the engine answered a submission with neither a place nor a refusal";
                Err(Refusal::plain(RefusalKind::Internal, message))
            }
        }
    }

    /// Decodes a token and those that wait behind it.
    fn text(&mut self, first: u32, first_logprobs: Option<Box<Logprobs>>) -> Piece {
        let tokenizer = &self.text.tokenizer;
        self.first_token.get_or_insert_with(Instant::now);
        let mut token_ids = vec![first];
        let mut text = String::new();
        let mut stopped = false;
        let mut logprobs = Vec::new();
        let (mut token, mut of_token) = (first, first_logprobs);
        loop {
            self.completion_tokens += 1;
            logprobs.extend(of_token.map(|of| TokenLogprobs::new(tokenizer, token, &of)));
            let piece = self.decoder.push(tokenizer, token);
            if self.completion_tokens <= self.min_tokens {
                // Too early to stop: what comes now is part of the answer whatever it says.
                text.push_str(&piece);
            } else {
                let outcome = self.stop.push(&piece);
                text.push_str(&outcome.emit);
                stopped = outcome.stopped;
            }
            if stopped {
                self.stop_here();
                break;
            }
            match self.events.try_recv() {
                Ok(News::Token(next, of_next)) => {
                    token_ids.push(next);
                    (token, of_token) = (next, of_next);
                }
                Ok(News::Ended(end)) => {
                    let last = self.end(end);
                    if let Piece::Text { text: rest, .. } = last {
                        text.push_str(&rest);
                    } else {
                        self.ending = Ending::Last(last);
                    }
                    break;
                }
                _ => break,
            }
        }
        if let Some(told) = self.told.as_ref().filter(|_| !text.is_empty()) {
            told.piece(self.arrived);
        }
        Piece::Text {
            text,
            token_ids,
            logprobs,
        }
    }

    /// The engine ended the request: what was held back comes out first, if there is any.
    fn end(&mut self, end: End) -> Piece {
        self.cancel = None;
        let End {
            outcome,
            usage,
            timings,
            mean_nll,
        } = end;
        self.mean_nll = mean_nll;
        let done = match outcome {
            Outcome::Stop => Piece::Done {
                finish: FinishReason::Stop,
                usage,
                timings,
            },
            Outcome::Length => Piece::Done {
                finish: FinishReason::Length,
                usage,
                timings,
            },
            Outcome::Deadline => Piece::Failed(deadline(
                "its deadline has passed before the answer was complete",
            )),
            Outcome::Form => Piece::Failed(Refusal::bad_request(
                "response_format",
                "its form cannot be followed further within this box's limits: take a simpler schema, with fewer \
                 choices, shorter patterns or no lengths"
                    .to_owned(),
            )),
            Outcome::Cancelled | Outcome::Overloaded { .. } => Piece::Failed(Refusal::plain(
                RefusalKind::Internal,
                "the request was cancelled by the box",
            )),
        };
        let held_back = self.stop.push(&self.decoder.finish());
        let text = held_back.emit + &self.stop.finish();
        if text.is_empty() {
            self.ending = Ending::Over;
            return done;
        }
        self.ending = Ending::Last(done);
        Piece::Text {
            text,
            token_ids: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    /// A stop string was met: the engine is told, and what it drew in the meantime is not shown.
    /// The engine's own times would come a step late, so these are measured here.
    fn stop_here(&mut self) {
        if let Some(told) = &self.told {
            told.stopped(self.completion_tokens);
        }
        if let Some(cancel) = self.cancel.take() {
            cancel.send(Command::Cancel(self.id));
        }
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            cached_tokens: 0,
        };
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let timings = Timings {
            queue: self.queue,
            prefill: self
                .started
                .map_or(Duration::ZERO, |started| first - started),
            decode: now - first,
            ..Timings::default()
        };
        let done = Piece::Done {
            finish: FinishReason::Stop,
            usage,
            timings,
        };
        self.ending = Ending::Last(done);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel.send(Command::Cancel(self.id));
        }
    }
}
