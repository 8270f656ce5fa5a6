//! One segment on its way: hash, offer, bytes from where the factory wants them, proof.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use outstation_wire::uplink::{BoxMessage, FactoryMessage, Offer, RefusedCode};
use quinn::Connection;
use tokio::time::Instant;

use super::dial::{self, DialError};
use crate::upload::{Pace, Sealed};

/// Bytes of a file in memory.
const PIECE_BYTES: usize = 64 << 10;

/// Why a segment was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{message}")]
    Refused {
        code: RefusedCode,
        after: Option<Duration>,
        message: String,
    },
    /// The factory says Stored, and of something else.
    #[error("the factory says that it stored something else than was sent")]
    Unproved,
    #[error("cannot read {}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Broken(#[from] DialError),
}

/// The rate, shared by all segments on their way.
#[derive(Clone)]
pub(super) struct SharedPace {
    pub(super) pace: Arc<Mutex<Pace>>,
    pub(super) started: Instant,
}

impl SharedPace {
    fn piece_bytes(&self) -> u64 {
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.piece_bytes(PIECE_BYTES as u64)
    }

    async fn spend(&self, bytes: usize) {
        let now = self.started.elapsed();
        let at = self
            .pace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spend(bytes as u64, now);
        if at > now {
            tokio::time::sleep_until(self.started + at).await;
        }
    }
}

/// Sends a segment. `Ok`: the factory proved that it has it.
pub(super) async fn segment(
    connection: Connection,
    sealed: Sealed,
    path: PathBuf,
    pace: SharedPace,
    patience: Duration,
) -> Result<(), SendError> {
    let (digest, bytes) = blocking(&path, digest).await?;
    let offer = Offer {
        epoch: sealed.epoch.to_vec(),
        class: sealed.class.number().into(),
        seq: sealed.seq,
        bytes,
        digest: digest.to_vec(),
    };
    let broken = |error: quinn::ConnectionError| SendError::Broken(error.into());
    let (mut send, mut receive) = connection.open_bi().await.map_err(broken)?;
    dial::write(&mut send, BoxMessage::Offer(offer)).await?;
    // The factory may let it wait for room.
    let mut answer = dial::read(&mut receive, patience * 2).await?;
    if let FactoryMessage::Resume(resume) = &answer {
        if resume.offset > bytes {
            return Err(SendError::Unproved);
        }
        let mut offset = resume.offset;
        while offset < bytes {
            let end = bytes.min(offset + pace.piece_bytes());
            let piece = blocking(&path, move |file| piece(file, offset, end)).await?;
            offset += piece.len() as u64;
            pace.spend(piece.len()).await;
            match tokio::time::timeout(patience, send.write_chunk(piece)).await {
                Ok(Ok(())) => {}
                // The factory said no before the end: what it says is on the other half.
                Ok(Err(quinn::WriteError::Stopped(_))) => break,
                Ok(Err(error)) => return Err(DialError::from(error).into()),
                Err(_) => return Err(DialError::NoAnswer(patience).into()),
            }
        }
        let _ = send.finish();
        answer = dial::read(&mut receive, patience * 2).await?;
    }
    match answer {
        // U-35: what is stored is what was offered, or it is not stored.
        FactoryMessage::Stored(stored) if stored.digest == digest && stored.bytes == bytes => {
            Ok(())
        }
        FactoryMessage::Refused(refused) => Err(SendError::Refused {
            code: RefusedCode::try_from(refused.code).unwrap_or(RefusedCode::Unknown),
            after: refused.retry_after(),
            message: refused.message,
        }),
        _ => Err(SendError::Unproved),
    }
}

/// Works on a file beside the io thread.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(File) -> std::io::Result<T> + Send + 'static,
) -> Result<T, SendError> {
    let opened = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(File::open(opened)?)).await;
    done.expect("reading does not panic")
        .map_err(|source| SendError::File {
            path: path.to_owned(),
            source,
        })
}

fn digest(mut file: File) -> std::io::Result<([u8; 32], u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((*hasher.finalize().as_bytes(), bytes)),
            read => {
                hasher.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
}

fn piece(mut file: File, offset: u64, end: u64) -> std::io::Result<Bytes> {
    let left = usize::try_from(end - offset).expect("a piece is small");
    let mut piece = vec![0; left];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut piece)?;
    Ok(piece.into())
}
