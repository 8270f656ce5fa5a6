//! Judging: a box is started for a model, asked all questions through its API, and its answers compared.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use futures_util::{StreamExt as _, stream};

use crate::api::{Api, ApiError, Asking, Said};
use crate::chat::Chat;

/// What was answered, one for each chat, in order. `asked` hears of each.
pub async fn answers(
    api: &Api,
    chats: &[Chat],
    asking: Asking,
    parallel: usize,
    asked: impl Fn(),
) -> Result<Vec<Said>, ApiError> {
    let asked = &asked;
    let all = stream::iter(chats)
        .map(|chat| {
            let api = api.clone();
            async move {
                let answer = api.chat(chat.split().0, asking).await;
                asked();
                answer
            }
        })
        .buffered(parallel.max(1))
        .collect::<Vec<_>>();
    all.await.into_iter().collect()
}

/// A box that was started to be asked. It ends with this.
#[derive(Debug)]
pub struct Served {
    child: Child,
    /// Its API, as far as `/v1`.
    pub url: String,
}

/// Why there is no box to ask.
#[derive(Debug, thiserror::Error)]
pub enum ServedError {
    /// It cannot be run.
    #[error("{program}: {source}; say where the box's program is")]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ended before it served; it has said why.
    #[error("{program} did not start: {ended}")]
    Ended {
        /// Which.
        program: PathBuf,
        /// How.
        ended: String,
    },
}

impl Served {
    /// Starts a box with a model and adapters by name, on addresses of its own on loopback.
    pub fn start(
        program: &Path,
        model: &Path,
        adapters: &[(String, PathBuf)],
    ) -> Result<Self, ServedError> {
        let failed = |source| ServedError::Program {
            program: program.to_owned(),
            source,
        };
        let mut command = Command::new(program);
        command.arg("serve").arg("--model").arg(model);
        command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        for (name, file) in adapters {
            let named = format!("{name}={}", file.display());
            command.arg("--adapter").arg(named);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn();
        let mut child = child.map_err(failed)?;
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        let url = said.by_ref().lines().find_map(|line| {
            let line = line.ok()?;
            let (_, rest) = line.split_once("HTTP http://")?;
            Some(format!("http://{}/v1", rest.split_whitespace().next()?))
        });
        // What else it says is read, so that it never waits for a reader.
        let reading = std::thread::Builder::new().name("box".to_owned());
        let reading = reading.spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let mut served = Self {
            child,
            url: String::new(),
        };
        reading.map_err(failed)?;
        if let Some(url) = url {
            served.url = url;
            return Ok(served);
        }
        let ended = served.child.wait().map_err(failed)?;
        Err(ServedError::Ended {
            program: program.to_owned(),
            ended: ended.to_string(),
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
