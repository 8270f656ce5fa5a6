//! Where released files come from: the factory over the uplink, a web server, or a folder such as a USB stick.
//!
//! All three are the same static files under the same paths, and none is believed: what they give is measured against
//! what was signed, in length before it is read and in digest after.

use std::path::PathBuf;
use std::time::Duration;

use outstation_wire::uplink::{self, BoxMessage, FactoryMessage, Fetch, RefusedCode};
use quinn::Connection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::web::Web;

/// One of them.
#[derive(Debug)]
pub enum Source {
    /// The connection to the factory, while there is one.
    Uplink(watch::Receiver<Option<Connection>>),
    /// A web server.
    Web(Web),
    /// A folder.
    Folder(PathBuf),
}

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such file.
    #[error("{path} is not there")]
    Missing {
        /// Which.
        path: String,
    },
    /// There is no way to the source now.
    #[error("no connection: {0}")]
    Away(String),
    /// It broke off.
    #[error("{path}: {why}")]
    Broken {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// More than was asked for.
    #[error(
        "{path} goes on after the {bytes_max} bytes that were signed or asked for: the source is broken or hostile"
    )]
    Endless {
        /// Which.
        path: String,
        /// What it may have.
        bytes_max: u64,
    },
    /// Too slow to be worth the wait.
    #[error("{path} comes with less than {RATE_MIN} bytes a second")]
    Drips {
        /// Which.
        path: String,
    },
    /// It gives other bytes than a range.
    #[error(
        "{path}: the server answers a range with {status}: it must do range requests (RFC 9110, 14)"
    )]
    NoRanges {
        /// Which.
        path: String,
        /// What it said.
        status: u16,
    },
}

/// Bytes a second below which a source is given up (slow retrieval).
pub const RATE_MIN: u64 = 1024;
/// Silence after which a source is given up, and the time before its rate counts.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Bytes that are handed on at once.
const PIECE_BYTES: usize = 64 << 10;

/// What is wanted of a file.
#[derive(Debug, Clone, Copy)]
pub enum Want {
    /// All of it, which may have at most so many bytes.
    Whole {
        /// Before it is endless.
        bytes_max: u64,
    },
    /// A part, of exactly so many bytes.
    Part {
        /// From here.
        offset: u64,
        /// So many.
        bytes: u64,
    },
}

impl Want {
    pub(super) const fn offset(self) -> u64 {
        match self {
            Self::Whole { .. } => 0,
            Self::Part { offset, .. } => offset,
        }
    }

    pub(super) const fn bytes_max(self) -> u64 {
        match self {
            Self::Whole { bytes_max } => bytes_max,
            Self::Part { bytes, .. } => bytes,
        }
    }
}

/// Watches that bytes come in at all, and not too many of them.
pub(super) struct Meter<'a> {
    path: &'a str,
    want: Want,
    started: Instant,
    bytes: u64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(path: &'a str, want: Want) -> Self {
        Self {
            path,
            want,
            started: Instant::now(),
            bytes: 0,
        }
    }

    /// Some bytes came.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), SourceError> {
        self.bytes += bytes as u64;
        if self.bytes > self.want.bytes_max() {
            return Err(SourceError::Endless {
                path: self.path.to_owned(),
                bytes_max: self.want.bytes_max(),
            });
        }
        let elapsed = self.started.elapsed();
        if elapsed > SILENCE_MAX && (self.bytes as f64) < RATE_MIN as f64 * elapsed.as_secs_f64() {
            return Err(self.drips());
        }
        Ok(())
    }

    /// Waits for what comes next, not for ever.
    pub(super) async fn wait<T>(&self, next: impl Future<Output = T>) -> Result<T, SourceError> {
        let waited = tokio::time::timeout(SILENCE_MAX, next).await;
        waited.map_err(|_| self.drips())
    }

    /// The source says that this is all.
    pub(super) fn end(&self) -> Result<(), SourceError> {
        match self.want {
            Want::Part { bytes, .. } if self.bytes < bytes => {
                Err(self.broken(format!("it ended after {} of {bytes} bytes", self.bytes)))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn broken(&self, why: impl ToString) -> SourceError {
        SourceError::Broken {
            path: self.path.to_owned(),
            why: why.to_string(),
        }
    }

    fn drips(&self) -> SourceError {
        SourceError::Drips {
            path: self.path.to_owned(),
        }
    }
}

impl Source {
    /// Fetches a file or a part of it, and hands it on in pieces.
    pub async fn fetch(
        &mut self,
        path: &str,
        want: Want,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), SourceError> {
        match self {
            Self::Uplink(connection) => {
                let connection = connection.borrow().clone();
                let away = || SourceError::Away("the factory is not connected".to_owned());
                over_uplink(&connection.ok_or_else(away)?, path, want, take).await
            }
            Self::Web(web) => web.fetch(path, want, take).await,
            Self::Folder(folder) => from_folder(&folder.join(path), path, want, take),
        }
    }

    /// A small file, whole.
    pub async fn whole(&mut self, path: &str, bytes_max: u64) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        let mut take = |piece: &[u8]| bytes.extend_from_slice(piece);
        self.fetch(path, Want::Whole { bytes_max }, &mut take)
            .await?;
        Ok(bytes)
    }
}

async fn over_uplink(
    connection: &Connection,
    path: &str,
    want: Want,
    take: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<(), SourceError> {
    let mut meter = Meter::new(path, want);
    let (mut send, mut receive) = meter
        .wait(connection.open_bi())
        .await?
        .map_err(|error| SourceError::Away(error.to_string()))?;
    let fetch = Fetch {
        path: path.to_owned(),
        offset: want.offset(),
        // One more than may come of a whole file, to see that there is more.
        bytes_max: match want {
            Want::Whole { bytes_max } => bytes_max + 1,
            Want::Part { bytes, .. } => bytes,
        },
    };
    let asked = super::super::uplink::dial::write(&mut send, BoxMessage::Fetch(fetch)).await;
    asked.map_err(|error| meter.broken(error))?;
    let _ = send.finish();
    let answer = super::super::uplink::dial::read(&mut receive, SILENCE_MAX).await;
    match answer.map_err(|error| meter.broken(error))? {
        FactoryMessage::File(uplink::File { .. }) => {}
        FactoryMessage::Refused(refused) if refused.code == i32::from(RefusedCode::Missing) => {
            return Err(SourceError::Missing {
                path: path.to_owned(),
            });
        }
        FactoryMessage::Refused(refused) => return Err(meter.broken(refused.message)),
        _ => return Err(meter.broken("the factory's answer is none to Fetch")),
    }
    loop {
        let next = meter.wait(receive.read_chunk(PIECE_BYTES, true)).await?;
        match next.map_err(|error| meter.broken(error))? {
            Some(chunk) => {
                meter.take(chunk.bytes.len())?;
                take(&chunk.bytes);
            }
            None => return meter.end(),
        }
    }
}

fn from_folder(
    file: &std::path::Path,
    path: &str,
    want: Want,
    take: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<(), SourceError> {
    use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
    let mut meter = Meter::new(path, want);
    if !path
        .split('/')
        .all(|part| !part.is_empty() && part != ".." && part != ".")
    {
        return Err(meter.broken("it leads out of the folder"));
    }
    let mut open = match std::fs::File::open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(SourceError::Missing {
                path: path.to_owned(),
            });
        }
        open => open.map_err(|error| meter.broken(error))?,
    };
    let sought = open.seek(SeekFrom::Start(want.offset()));
    sought.map_err(|error| meter.broken(error))?;
    let mut left = match want {
        Want::Whole { bytes_max } => bytes_max + 1,
        Want::Part { bytes, .. } => bytes,
    };
    let mut buffer = vec![0; PIECE_BYTES];
    while left > 0 {
        let room = usize::try_from(left)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        let read = open
            .read(&mut buffer[..room])
            .map_err(|error| meter.broken(error))?;
        if read == 0 {
            break;
        }
        meter.take(read)?;
        take(&buffer[..read]);
        left -= read as u64;
    }
    meter.end()
}
