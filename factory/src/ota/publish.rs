//! A file becomes a release: cut into pieces, its manifest signed, and shown to boxes.
//!
//! ```text
//! survey: digests, pieces ─▶ known pieces ─▶ packs ─▶ patches ─▶ index, manifest
//!                                        ─▶ N+1.models.json ─▶ snapshot, timestamp
//! ```
//!
//! Memory: one pack of 64 MiB, and 50 bytes for each piece of 1 MiB.

use std::collections::{BTreeMap, HashSet};

use outstation_wire::gguf::Gguf;
use outstation_wire::release::{
    CHUNK_BYTES_MAX, Chunk, ENGINE_FORMAT, EngineRange, FileFacts, Golden, INDEX_BYTES_MAX, Index,
    Kind, Manifest, Patch, template_digest, tokenizer_digest,
};

use super::document::{Document, targets};
use super::pack::{Packer, Written, patch};
use super::pending::{Pending, Went};
use super::repository::{Repository, State};
use super::signing::SigningKey;
use super::source::{Piece, Source, Survey};
use super::{OtaError, Role};
use crate::store::hex;

/// Releases of a name whose pieces are known to a new one.
const RELEASES_KNOWN: usize = 32;

/// What is said about a file.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Of the model or adapter.
    pub name: String,
    /// Its number. Default: the one after the last.
    pub release: Option<u64>,
    /// BLAKE3 of an adapter's base, and of the base's tokenizer, hexadecimal.
    pub base: Option<Base>,
    /// Classes of machines that it is made for.
    pub hardware: Vec<String>,
    /// What it must still say on the box.
    pub golden: Vec<Golden>,
    /// Licence.
    pub licence: String,
}

/// What an adapter belongs to.
#[derive(Debug, Clone)]
pub struct Base {
    /// BLAKE3 of the file, hexadecimal.
    pub digest: String,
    /// BLAKE3 of its tokenizer, hexadecimal.
    pub tokenizer: String,
}

impl Base {
    /// A model by its file. `progress` hears of each piece.
    pub fn of(source: &Source, progress: &mut dyn FnMut(u64)) -> Result<Self, OtaError> {
        let head = source.head()?;
        let gguf = Gguf::parse_head(&head, source.bytes())
            .map_err(|e| OtaError::input(source.name(), e))?;
        Ok(Self {
            digest: hex(&source.digest(progress)?),
            tokenizer: hex(&tokenizer_digest(&gguf)),
        })
    }
}

/// Hears how far it is.
pub trait Progress: Send {
    /// Something begins that has so many bytes.
    fn begin(&mut self, what: &str, bytes: u64);
    /// So many of them are done.
    fn done(&mut self, bytes: u64);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: u64) {}
    fn done(&mut self, _: u64) {}
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Released {
    /// The target of its manifest.
    pub manifest: String,
    /// Where its document went. `None`: it was released before.
    pub went: Option<Went>,
    /// What was written.
    pub written: Written,
    /// Pieces that have a shorter form for who has another file.
    pub patches: usize,
    /// Bytes that a box fetches that has nothing, and one that has all of `against`.
    pub fetch: Fetch,
}

/// Bytes on the way to a box.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetch {
    /// With nothing there.
    pub full: u64,
    /// With the files there that it was published against.
    pub against: u64,
}

/// An older file that boxes have.
struct Old<'f> {
    source: &'f Source,
    digest: [u8; 32],
    pieces: HashSet<[u8; 32]>,
    parts: Parts,
}

/// Where tensors are, by name. What comes before them has no name.
struct Parts(BTreeMap<String, (u64, u64)>);

impl Parts {
    fn new(gguf: &Gguf<'_>) -> Self {
        let tensors = gguf.tensors().iter();
        let mut parts: BTreeMap<_, _> = tensors
            .map(|tensor| {
                (
                    tensor.name().to_owned(),
                    (tensor.file_offset(), tensor.bytes()),
                )
            })
            .collect();
        parts.insert(String::new(), (0, gguf.head_bytes()));
        Self(parts)
    }

    /// Tensors in the order of the file: where each begins, and its name.
    fn order(&self) -> BTreeMap<u64, &str> {
        let order = self
            .0
            .iter()
            .map(|(name, (start, _))| (*start, name.as_str()));
        order.collect()
    }

    fn starts(&self) -> Vec<u64> {
        self.0.values().map(|(start, _)| *start).collect()
    }
}

/// Publishes a file. Repeated, it goes on where it broke off, and does nothing where it was done.
pub async fn publish(
    repository: &Repository,
    pending: &Pending,
    (source, against): (&Source, &[Source]),
    facts: &Facts,
    keys: &[SigningKey],
    (now_unix_ms, progress): (u64, &mut dyn Progress),
) -> Result<Released, OtaError> {
    let state = repository.read().await?;
    state.holders(Role::Models)?;
    let head = source.head()?;
    let gguf =
        Gguf::parse_head(&head, source.bytes()).map_err(|e| OtaError::input(source.name(), e))?;
    let parts = Parts::new(&gguf);
    progress.begin("reading", source.bytes());
    let survey = source.survey(parts.starts(), &mut |bytes| progress.done(bytes))?;
    let earlier = releases(repository, &state, &facts.name).await?;
    let mut manifest = describe(&gguf, &survey, facts, source)?;
    manifest.published_unix_ms = now_unix_ms;
    manifest.release = facts
        .release
        .unwrap_or_else(|| earlier.keys().max().map_or(1, |last| last + 1));
    if let Some(before) = repeated(&manifest, facts.release.is_some(), &earlier)? {
        return Ok(Released {
            manifest: before,
            went: None,
            written: Written::default(),
            patches: 0,
            fetch: Fetch::default(),
        });
    }
    let mut packer = Packer::new(repository.store());
    for known in earlier.values().rev().take(RELEASES_KNOWN) {
        packer.know(&index_of(repository, &state, known).await?);
    }
    if state
        .targets(Role::Models)
        .contains_key(&manifest.index_path())
    {
        packer.know(&index_of(repository, &state, &manifest).await?);
    }
    let mut olds = Vec::new();
    for old in against {
        olds.push(look(old, progress)?);
    }
    progress.begin("packing", survey.bytes);
    let chunks = pack(source, &survey, &mut packer, progress).await?;
    let order = parts.order();
    let patches = patches(
        source,
        (&survey, &order),
        (&chunks, &olds),
        &mut packer,
        progress,
    )
    .await?;
    let (packs, written) = packer.finish().await?;
    let index = Index {
        digest: survey.digest,
        packs,
        bases: olds.iter().map(|old| old.digest).collect(),
        chunks,
        patches,
    };
    let fetch = fetch(&index, &olds);
    let document = list(repository, &state, &manifest, &index, now_unix_ms / 1000).await?;
    let went = pending
        .sign(repository, &state, Role::Models, document, keys)
        .await?;
    Ok(Released {
        manifest: manifest.path(),
        went: Some(went),
        written,
        patches: index.patches.len(),
        fetch,
    })
}

/// Manifests of a name, by release.
pub async fn releases(
    repository: &Repository,
    state: &State,
    name: &str,
) -> Result<BTreeMap<u64, Manifest>, OtaError> {
    let start = format!("manifest/{name}@");
    let mut found = BTreeMap::new();
    for target in state.targets(Role::Models).keys() {
        if target.starts_with(&start)
            && let Some(manifest) = manifest(repository, state, target).await?
        {
            found.insert(manifest.release, manifest);
        }
    }
    Ok(found)
}

/// A manifest by its target.
pub async fn manifest(
    repository: &Repository,
    state: &State,
    target: &str,
) -> Result<Option<Manifest>, OtaError> {
    let bytes = repository.target(state, Role::Models, target).await?;
    let parsed = bytes.map(|bytes| Manifest::parse(&bytes));
    parsed
        .transpose()
        .map_err(|e| OtaError::document(target, e))
}

/// The index of a release.
pub async fn index_of(
    repository: &Repository,
    state: &State,
    manifest: &Manifest,
) -> Result<Index, OtaError> {
    let target = manifest.index_path();
    let wrong = |why: &str| OtaError::document(&target, why);
    let bytes = repository.target(state, Role::Models, &target).await?;
    let bytes = bytes.ok_or_else(|| wrong("it is not released, though its manifest is"))?;
    Index::parse(&bytes).map_err(|e| wrong(&e.to_string()))
}

/// What a manifest says before its number is known.
fn describe(
    gguf: &Gguf<'_>,
    survey: &Survey,
    facts: &Facts,
    source: &Source,
) -> Result<Manifest, OtaError> {
    let adapter = gguf.str("general.type").ok().flatten() == Some("adapter");
    let (kind, tokenizer) = match (adapter, &facts.base) {
        (false, None) => (Kind::Model, hex(&tokenizer_digest(gguf))),
        (true, Some(base)) => {
            let kind = Kind::Adapter {
                base: base.digest.clone(),
            };
            (kind, base.tokenizer.clone())
        }
        (true, None) => {
            let why = "it is an adapter: say with --base which model it belongs to";
            return Err(OtaError::input(source.name(), why));
        }
        (false, Some(_)) => {
            let why = "it is a model, not an adapter: it has no base";
            return Err(OtaError::input(source.name(), why));
        }
    };
    Ok(Manifest {
        format: 1,
        name: facts.name.clone(),
        release: 1,
        kind,
        file: FileFacts {
            bytes: survey.bytes,
            sha256: survey.sha256.clone(),
            blake3: hex(&survey.digest),
        },
        header_bytes: gguf.head_bytes(),
        engine: EngineRange {
            min: ENGINE_FORMAT,
            max: ENGINE_FORMAT,
        },
        hardware: facts.hardware.clone(),
        tokenizer,
        template: template_digest(gguf)
            .map(|digest| hex(&digest))
            .unwrap_or_default(),
        golden: facts.golden.clone(),
        licence: facts.licence.clone(),
        published_unix_ms: 0,
    })
}

/// The target of this release if it was made before: under its own number, or as the last one.
fn repeated(
    manifest: &Manifest,
    numbered: bool,
    earlier: &BTreeMap<u64, Manifest>,
) -> Result<Option<String>, OtaError> {
    let last = earlier.last_key_value();
    let before = if numbered {
        earlier.get(&manifest.release)
    } else {
        last.map(|(_, before)| before)
    };
    if let Some(before) = before {
        let same = Manifest {
            release: manifest.release,
            published_unix_ms: manifest.published_unix_ms,
            ..before.clone()
        };
        if same == *manifest {
            return Ok(Some(before.path()));
        }
        if numbered {
            let why = "this release is there, and is something else: a release is never changed, take the next number";
            return Err(OtaError::input(manifest.path(), why));
        }
    }
    if let Some((last, _)) = last.filter(|(last, _)| **last > manifest.release) {
        let why = format!(
            "release {last} is there, and boxes never go back to a lower number by themselves"
        );
        return Err(OtaError::input(manifest.path(), why));
    }
    manifest
        .check()
        .map_err(|e| OtaError::input(manifest.path(), e))?;
    Ok(None)
}

fn look<'f>(source: &'f Source, progress: &mut dyn Progress) -> Result<Old<'f>, OtaError> {
    let head = source.head()?;
    let gguf =
        Gguf::parse_head(&head, source.bytes()).map_err(|e| OtaError::input(source.name(), e))?;
    let parts = Parts::new(&gguf);
    progress.begin("reading what boxes have", source.bytes());
    let survey = source.survey(parts.starts(), &mut |bytes| progress.done(bytes))?;
    Ok(Old {
        source,
        digest: survey.digest,
        pieces: survey.pieces.iter().map(|piece| piece.digest).collect(),
        parts,
    })
}

async fn pack(
    source: &Source,
    survey: &Survey,
    packer: &mut Packer<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<Chunk>, OtaError> {
    let mut chunks = Vec::with_capacity(survey.pieces.len());
    for piece in &survey.pieces {
        let (form, place) = match packer.find(&piece.digest, piece.bytes) {
            Some(found) => found,
            None => packer.add(piece.digest, &source.piece(piece)?).await?,
        };
        chunks.push(Chunk {
            bytes: piece.bytes,
            digest: piece.digest,
            form,
            place,
        });
        progress.done(piece.bytes.into());
    }
    // Who needs no patches need not read over them.
    packer.flush().await?;
    Ok(chunks)
}

async fn patches(
    source: &Source,
    (survey, order): (&Survey, &BTreeMap<u64, &str>),
    (chunks, olds): (&[Chunk], &[Old<'_>]),
    packer: &mut Packer<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<Patch>, OtaError> {
    let mut patches = Vec::new();
    if olds.is_empty() {
        return Ok(patches);
    }
    progress.begin("comparing", survey.bytes);
    for (number, (piece, chunk)) in (0..).zip(survey.pieces.iter().zip(chunks)) {
        for (base, old) in (0..).zip(olds) {
            // What is the same there needs no patch.
            if old.pieces.contains(&piece.digest) {
                continue;
            }
            let Some((base_offset, base_bytes)) = old.part(piece, order) else {
                continue;
            };
            let part = old.source.read(base_offset, base_bytes as usize)?;
            if let Some(bytes) = patch(&source.piece(piece)?, &part, chunk.place.bytes) {
                patches.push(Patch {
                    chunk: number,
                    base,
                    base_offset,
                    base_bytes,
                    place: packer.place(&bytes).await?,
                });
            }
        }
        progress.done(piece.bytes.into());
    }
    Ok(patches)
}

impl Old<'_> {
    /// The part at the same place of the same tensor.
    fn part(&self, piece: &Piece, order: &BTreeMap<u64, &str>) -> Option<(u64, u32)> {
        let (start, name) = order.range(..=piece.offset).next_back()?;
        let (old_start, old_bytes) = self.parts.0.get(*name)?;
        let inside = piece.offset - start;
        let left = old_bytes.checked_sub(inside).filter(|left| *left > 0)?;
        let bytes = u32::try_from(left).unwrap_or(u32::MAX).min(CHUNK_BYTES_MAX);
        Some((old_start + inside, bytes))
    }
}

/// What a box fetches: each place once, the shortest of what it can use.
fn fetch(index: &Index, olds: &[Old<'_>]) -> Fetch {
    let mut shortest: BTreeMap<u32, u32> = BTreeMap::new();
    for patch in &index.patches {
        let bytes = shortest.entry(patch.chunk).or_insert(u32::MAX);
        *bytes = patch.place.bytes.min(*bytes);
    }
    let mut fetch = Fetch::default();
    let mut seen = HashSet::new();
    for (number, chunk) in (0..).zip(&index.chunks) {
        if !seen.insert(chunk.digest) {
            continue;
        }
        fetch.full += u64::from(chunk.place.bytes);
        if !olds.iter().any(|old| old.pieces.contains(&chunk.digest)) {
            let bytes = shortest.get(&number).copied().unwrap_or(u32::MAX);
            fetch.against += u64::from(bytes.min(chunk.place.bytes));
        }
    }
    fetch
}

/// Stores manifest and index, and gives the next document that lists them.
async fn list(
    repository: &Repository,
    state: &State,
    manifest: &Manifest,
    index: &Index,
    now_unix_s: u64,
) -> Result<Document, OtaError> {
    let bytes = index.encode();
    if bytes.len() as u64 > INDEX_BYTES_MAX {
        let why = format!(
            "{} bytes, at most {INDEX_BYTES_MAX}: publish against fewer files",
            bytes.len()
        );
        return Err(OtaError::input(manifest.index_path(), why));
    }
    let again = Index::parse(&bytes);
    assert_eq!(
        again.as_ref(),
        Ok(index),
        "a box reads the index as it was made"
    );
    let mut listed = state.targets(Role::Models);
    // The same file may have been released under another number or name, with patches that stay good.
    if !index.patches.is_empty() || !listed.contains_key(&manifest.index_path()) {
        let entry = repository.put_target(&manifest.index_path(), bytes).await?;
        listed.insert(manifest.index_path(), entry);
    }
    let entry = repository
        .put_target(&manifest.path(), manifest.to_json())
        .await?;
    listed.insert(manifest.path(), entry);
    let expires = now_unix_s + Role::Models.life_s();
    Ok(Document::new(targets(
        state.next(Role::Models),
        expires,
        listed,
    )))
}
