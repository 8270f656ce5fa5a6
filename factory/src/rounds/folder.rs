//! The folder of a loop: a numbered folder for each round, and a lock, so that there is one loop.
//!
//! ```text
//! WORK/lock
//! WORK/0007/round.json                what it is about, what was released, how it ended
//!           export.jsonl              what the query takes, and its manifest beside it
//!           cases.jsonl               those of them that are new, as `export` writes them
//!           labels.jsonl              their right answers, one after the other
//!           learn.jsonl judge.jsonl   labelled cases: to learn from, to judge with
//!           run/                      the training: checkpoint, curve, adapter.gguf
//!           verdict.json              how the adapter did, and whether it is released
//!           golden.json               texts that boxes must find as likely
//! ```
#![expect(
    clippy::disallowed_methods,
    reason = "rounds are files of the machine that the factory runs on"
)]

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::RoundError;
use crate::chat::{self, Chat};

/// The folder of a loop, locked.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Every ring has it.
    Released,
    /// The gate refused it.
    Refused,
    /// The canary ring took it back.
    TakenBack,
    /// The rings run another model by now.
    Abandoned,
}

/// What a round is about, and how far what it made is released.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Round {
    /// Which, from 1 on.
    pub number: u32,
    /// When it began.
    pub began_unix_ms: u64,
    /// The target of the model's manifest.
    pub model: String,
    /// The round whose adapter the rings have; 0: none.
    pub before: u32,
    /// The number of the release that it became; 0: not yet.
    pub release: u64,
    /// Of the canary ring's rollout; 0: not yet.
    pub canary: u64,
    /// What is waited for, for people.
    pub waits: String,
    /// What comes next was made, and others have to sign it.
    pub signing: bool,
    /// Why it ended so.
    pub reason: String,
    /// How it ended. `None`: it goes on.
    pub ended: Option<Ended>,
}

impl Folder {
    /// Opens a folder, which is made, for one loop alone.
    pub fn lock(path: &Path) -> Result<Self, RoundError> {
        std::fs::create_dir_all(path).map_err(RoundError::file(path))?;
        let file = path.join("lock");
        let lock = File::create(&file).map_err(RoundError::file(&file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(std::fs::TryLockError::WouldBlock) => Err(RoundError::Busy(path.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => Err(RoundError::file(&file)(error)),
        }
    }

    /// A file of a round.
    pub fn of(&self, round: u32, name: &str) -> PathBuf {
        of(&self.path, round, name)
    }

    /// All rounds, the oldest first.
    pub fn rounds(&self) -> Result<Vec<Round>, RoundError> {
        rounds(&self.path)
    }

    /// Writes down what is known of a round.
    pub fn store(&self, round: &Round) -> Result<(), RoundError> {
        let json = serde_json::to_vec_pretty(round).expect("it is plain data");
        write(&self.of(round.number, ROUND), &json)
    }
}

const ROUND: &str = "round.json";

/// A file of a round of a folder that need not be locked.
pub(super) fn of(folder: &Path, round: u32, name: &str) -> PathBuf {
    folder.join(format!("{round:04}")).join(name)
}

/// All rounds of a folder that need not be locked, the oldest first.
pub(super) fn rounds(folder: &Path) -> Result<Vec<Round>, RoundError> {
    let mut rounds = Vec::new();
    for number in 1.. {
        match json(&of(folder, number, ROUND))? {
            Some(round) => rounds.push(round),
            None => break,
        }
    }
    Ok(rounds)
}

/// Reads JSON. `None`: there is no such file.
pub(super) fn json<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, RoundError> {
    match std::fs::read(file) {
        Ok(bytes) => {
            let read = serde_json::from_slice(&bytes);
            read.map(Some).map_err(|e| RoundError::content(file, e))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RoundError::file(file)(error)),
    }
}

/// Reads chats. `None`: there is no such file.
pub(super) fn chats(file: &Path) -> Result<Option<Vec<Chat>>, RoundError> {
    match std::fs::read_to_string(file) {
        Ok(text) => {
            let wrong = |(line, why)| RoundError::content(file, format!("line {line}: {why}"));
            chat::read(&text).map(Some).map_err(wrong)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RoundError::file(file)(error)),
    }
}

/// Reads chats of a file that must be there.
pub(super) fn given(file: &Path) -> Result<Vec<Chat>, RoundError> {
    let missing = || RoundError::file(file)(ErrorKind::NotFound.into());
    chats(file)?.ok_or_else(missing)
}

/// Writes chats, whole or not at all.
pub(super) fn write_chats(file: &Path, chats: &[Chat]) -> Result<(), RoundError> {
    write(file, chat::write(chats).as_bytes())
}

/// Writes a file, whole or not at all.
pub(super) fn write(file: &Path, bytes: &[u8]) -> Result<(), RoundError> {
    crate::whole::write(file, bytes).map_err(RoundError::file(file))
}
