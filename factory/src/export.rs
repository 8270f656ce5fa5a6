//! What training reads: requests of the committed files, chosen, each prompt once, in the form that a tool expects.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path as FilePath, PathBuf};

use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};

use crate::commits::{CommitError, Log, Output, State};
use crate::compact::{CompactError, blocking};
use crate::rewrite::load;
use crate::rows::Table;

pub use format::Format;
pub use query::{Query, QueryError};

mod format;
mod query;
mod sample;

use format::Writer;
use sample::{Opinions, samples};

/// What to export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// In which form.
    pub format: Format,
    /// Which requests, as [`Query`] has it.
    pub query: String,
    /// Where to.
    pub out: Out,
    /// Whether a prompt may come again.
    pub duplicates: Duplicates,
    /// Samples at most.
    pub limit: Option<u64>,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// To standard output. There is no manifest.
    Stdout,
    /// Into a file, which appears when it is complete, and `<file>.manifest.json` beside it.
    File(PathBuf),
}

/// Whether a prompt may come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// Of requests that ask the same, the first is taken; one that was corrected before one that was not.
    Dropped,
    /// All are taken.
    Kept,
}

/// What an export is: `<file>.manifest.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form.
    pub format: String,
    /// The choice.
    pub query: String,
    /// The last commit that was read: with the same number the export is the same.
    pub commit: u64,
    /// When it was made.
    pub unix_ms: u64,
    /// Samples in it.
    pub samples: u64,
    /// Requests that were looked at: those of files which the query does not exclude as a whole.
    pub requests: u64,
    /// Of these without content, by the tenants' choice or for lack of room.
    pub without_content: u64,
    /// For which the query does not hold.
    pub not_chosen: u64,
    /// Chosen, and without what the form needs: an answer, a correction, a score.
    pub unfit: u64,
    /// Fit, and asking what another sample asks.
    pub duplicates: u64,
    /// Files that were read.
    pub files: u64,
    /// Bytes of the export.
    pub bytes: u64,
    /// BLAKE3 of them.
    pub blake3: String,
}

/// Why nothing is exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The query is none.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The store or a file in it.
    #[error(transparent)]
    Read(#[from] CompactError),
    /// It cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Files are replaced faster than they are read.
    #[error(
        "files were replaced while they were read, {tries} times: try again when no erasure is running"
    )]
    Moving {
        /// How often.
        tries: u32,
    },
}

impl From<CommitError> for ExportError {
    fn from(error: CommitError) -> Self {
        Self::Read(error.into())
    }
}

impl From<ParquetError> for ExportError {
    fn from(error: ParquetError) -> Self {
        Self::Read(error.into())
    }
}

const TRIES: u32 = 4;

/// Exports.
///
/// Memory: the requests of one file, 32 bytes for each sample, and the scores and corrections of all feedback.
pub async fn export(
    log: &Log,
    options: &ExportOptions,
    now_unix_ms: u64,
) -> Result<Manifest, ExportError> {
    let query = Query::parse(&options.query)?;
    for _ in 0..TRIES {
        let state = log.read().await?;
        let made = match &options.out {
            Out::Stdout => {
                // What is shown cannot be taken back, so it is made whole first.
                let Some((manifest, bytes)) = Export::new(log, options, &query, &state)
                    .run(Vec::new())
                    .await?
                else {
                    continue;
                };
                io::stdout()
                    .write_all(&bytes)
                    .map_err(|source| ExportError::Write {
                        path: "standard output".to_owned(),
                        source,
                    })?;
                Some(manifest)
            }
            Out::File(path) => to_file(log, options, &query, &state, path, now_unix_ms).await?,
        };
        if let Some(mut manifest) = made {
            manifest.unix_ms = now_unix_ms;
            return Ok(manifest);
        }
    }
    Err(ExportError::Moving { tries: TRIES })
}

async fn to_file(
    log: &Log,
    options: &ExportOptions,
    query: &Query,
    state: &State,
    path: &FilePath,
    now_unix_ms: u64,
) -> Result<Option<Manifest>, ExportError> {
    let failed = |source| ExportError::Write {
        path: path.display().to_string(),
        source,
    };
    let part = beside(path, ".part");
    let file = BufWriter::new(File::create(&part).map_err(failed)?);
    let made = Export::new(log, options, query, state).run(file).await;
    let Ok(Some((mut manifest, file))) = made else {
        std::fs::remove_file(&part).map_err(failed)?;
        return made.map(|_| None);
    };
    let file = file.into_inner().map_err(|error| failed(error.into()))?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)?;
    manifest.unix_ms = now_unix_ms;
    let text = serde_json::to_string_pretty(&manifest).expect("it has plain fields");
    let mut file = File::create(beside(path, ".manifest.json")).map_err(failed)?;
    writeln!(file, "{text}").map_err(failed)?;
    Ok(Some(manifest))
}

fn beside(path: &FilePath, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

struct Export<'a> {
    log: &'a Log,
    options: &'a ExportOptions,
    query: &'a Query,
    state: &'a State,
    manifest: Manifest,
    prompts: HashSet<[u8; 16]>,
}

/// Which requests a pass over the files takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    All,
    Corrected,
    Uncorrected,
}

impl<'a> Export<'a> {
    fn new(log: &'a Log, options: &'a ExportOptions, query: &'a Query, state: &'a State) -> Self {
        Self {
            log,
            options,
            query,
            state,
            manifest: Manifest {
                format: options.format.name().to_owned(),
                query: options.query.clone(),
                commit: state.number(),
                ..Manifest::default()
            },
            prompts: HashSet::new(),
        }
    }

    /// `None`: a file is gone, so the list is another by now.
    async fn run<W: Write + Send>(mut self, out: W) -> Result<Option<(Manifest, W)>, ExportError> {
        let Some(opinions) = self.opinions().await? else {
            return Ok(None);
        };
        let mut writer = Writer::new(self.options.format, Counted::new(out))?;
        let passes = if opinions.has_corrections() && self.options.duplicates == Duplicates::Dropped
        {
            &[Pass::Corrected, Pass::Uncorrected][..]
        } else {
            &[Pass::All]
        };
        for &pass in passes {
            for file in self.files(Table::Inference) {
                let Some(bytes) = self.get(file).await? else {
                    return Ok(None);
                };
                let copy = file.clone();
                let samples = blocking(move || samples(&copy, bytes)).await?;
                if pass != Pass::Uncorrected {
                    self.manifest.files += 1;
                    self.manifest.requests += samples.len() as u64;
                }
                for mut sample in samples {
                    sample.hear(opinions.of(&sample));
                    if sample.messages.is_empty() {
                        self.manifest.without_content += u64::from(pass != Pass::Uncorrected);
                        continue;
                    }
                    let corrected = sample.opinion.correction().is_some();
                    let other = if corrected {
                        Pass::Uncorrected
                    } else {
                        Pass::Corrected
                    };
                    if pass != other && self.takes(&sample) {
                        writer.write(sample)?;
                    }
                }
            }
        }
        let out = writer.finish()?;
        self.manifest.bytes = out.bytes;
        self.manifest.blake3 = out.hasher.finalize().to_hex().to_string();
        Ok(Some((self.manifest, out.out)))
    }

    fn takes(&mut self, sample: &sample::Sample) -> bool {
        let manifest = &mut self.manifest;
        if !self.query.holds(sample) {
            manifest.not_chosen += 1;
            return false;
        }
        if !self.options.format.takes(sample) {
            manifest.unfit += 1;
            return false;
        }
        if self
            .options
            .limit
            .is_some_and(|limit| manifest.samples >= limit)
        {
            return false;
        }
        let new = self.options.duplicates == Duplicates::Kept
            || self.prompts.insert(sample.prompt_digest());
        if new {
            manifest.samples += 1;
        } else {
            manifest.duplicates += 1;
        }
        new
    }

    async fn opinions(&self) -> Result<Option<Opinions>, ExportError> {
        let mut opinions = Opinions::default();
        // Of all days: an opinion may come long after the answer.
        let files = self.state.files().values();
        for file in files.filter(|file| file.table == Table::Feedback.name()) {
            let Some(bytes) = self.get(file).await? else {
                return Ok(None);
            };
            opinions.add(bytes)?;
        }
        Ok(Some(opinions))
    }

    /// Files in which the query may hold, in the order of their names: by day, then workload.
    fn files(&self, table: Table) -> Vec<&'a Output> {
        let files = self.state.files().values();
        let files = files.filter(|file| file.table == table.name());
        let may = |file: &&Output| {
            let day = file.day.parse();
            day.is_ok_and(|day| self.query.may_hold(&file.workload, day))
        };
        files.filter(may).collect()
    }

    async fn get(&self, file: &Output) -> Result<Option<bytes::Bytes>, ExportError> {
        Ok(load(self.log, file).await?.map(|(_, bytes)| bytes))
    }
}

/// Counts and digests what is written.
struct Counted<W> {
    out: W,
    bytes: u64,
    hasher: blake3::Hasher,
}

impl<W> Counted<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            bytes: 0,
            hasher: blake3::Hasher::new(),
        }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
