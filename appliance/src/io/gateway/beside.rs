//! What takes longer than the io thread has, which has streams to serve: it is done beside it.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::{TextModel, overloaded};
use crate::grammar::{COMPILE_STACK_BYTES, Grammar, GrammarError};
use crate::limits;
use crate::request::{Format, GenerateRequest, Prompt, Refusal, RefusalKind};

/// Long prompts are tokenized on a thread of their own.
/// The request's place goes along, since the work goes on when its client leaves.
pub(super) async fn tokenize(
    text: Arc<TextModel>,
    request: Arc<GenerateRequest>,
    place: OwnedSemaphorePermit,
) -> (Result<Vec<u32>, Refusal>, OwnedSemaphorePermit) {
    let bytes = prompt_bytes(&request.prompt);
    if bytes > limits::PROMPT_BYTES_MAX {
        let message = format!(
            "the prompt has {bytes} bytes, at most {} are possible",
            limits::PROMPT_BYTES_MAX
        );
        return (Err(Refusal::bad_request("prompt", message)), place);
    }
    if bytes < TOKENIZE_INLINE_BYTES_MAX {
        return (text.tokenize(&request.prompt), place);
    }
    tokio::task::spawn_blocking(move || (text.tokenize(&request.prompt), place))
        .await
        .expect("it does not panic, and the runtime outlives its handlers")
}

/// Prompts below this are tokenized where they arrive: about a millisecond of work.
const TOKENIZE_INLINE_BYTES_MAX: usize = 4096;

fn prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Ids(ids) => 4 * ids.len(),
        Prompt::Chat(messages) => messages
            .iter()
            .map(|m| m.role.len() + m.content.len())
            .sum(),
    }
}

/// How long a request waits for a place to compile in, and then for the outcome. Whoever leaves or is refused leaves
/// the thread to end by itself, in its place.
const COMPILE_MAX: Duration = Duration::from_secs(5);

/// The grammar of a request's form, if it has one. Each is compiled on a thread of its own: most take a millisecond,
/// some a second, and the deepest need more stack than other threads have.
pub(super) async fn compile(
    text: &Arc<TextModel>,
    request: &GenerateRequest,
    places: &Arc<Semaphore>,
) -> Result<Option<Box<Grammar>>, Refusal> {
    if request.format == Format::Text {
        return Ok(None);
    }
    if let Err(why) = &text.grammars {
        return Err(Refusal::bad_request("response_format", why.clone()));
    }
    let Ok(Ok(place)) = timeout(COMPILE_MAX, places.clone().acquire_owned()).await else {
        return Err(overloaded(millis(COMPILE_MAX)));
    };
    let outcome = start(text.clone(), request.format.clone(), place)
        .map_err(|e| Refusal::plain(RefusalKind::Internal, format!("no thread: {e}")))?;
    match timeout(COMPILE_MAX, outcome).await {
        Ok(Ok(outcome)) => outcome.map_err(|error| error.refusal()),
        Ok(Err(_)) => {
            let message = "the form could not be compiled";
            Err(Refusal::plain(RefusalKind::Internal, message))
        }
        Err(_) => {
            let message = format!(
                "the schema takes more than {} ms to compile: take a simpler one",
                millis(COMPILE_MAX)
            );
            Err(Refusal::bad_request("response_format", message))
        }
    }
}

type Outcome = Result<Option<Box<Grammar>>, GrammarError>;

fn start(
    text: Arc<TextModel>,
    format: Format,
    place: OwnedSemaphorePermit,
) -> io::Result<oneshot::Receiver<Outcome>> {
    let (sender, outcome) = oneshot::channel();
    let work = move || {
        let grammars = text.grammars.as_ref().expect("it was looked at before");
        // Whoever asked may be gone.
        let _ = sender.send(grammars.compile(&format));
        drop(place);
    };
    thread::Builder::new()
        .name("grammar".into())
        .stack_size(COMPILE_STACK_BYTES)
        .spawn(work)?;
    Ok(outcome)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
