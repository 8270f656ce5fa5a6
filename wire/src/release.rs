//! What a factory releases to its boxes: the documents that are signed, and the index by which a file is fetched.
//!
//! ```text
//! metadata/  TUF's own: N.root.json, timestamp.json, N.snapshot.json, N.targets.json, N.models.json, N.rollout.json
//! targets/   manifest/NAME@RELEASE.json   what a release is         role `models`
//!            index/BLAKE3.bin             its pieces                role `models`
//!            rollout/RING.json            who is to have it, when   role `rollout`
//! packs/     BLAKE3.pack                  the pieces, ≤ 64 MiB each, not signed: the index has their digests
//! ```
//!
//! All of it is static files, the same in an object store, on a web server and on a USB stick. `docs/ota.md` is the
//! specification.

mod digest;
mod index;
mod manifest;
mod rollout;
#[cfg(test)]
mod tests;

pub use digest::{template_digest, tokenizer_digest};
pub use index::{
    CHUNK_BYTES_MAX, Chunk, Index, IndexError, PACK_BYTES_MAX, Pack, Patch, Place, Stored, cut,
};
pub use manifest::{EngineRange, FileFacts, Golden, Kind, Manifest};
pub use rollout::{AdapterRelease, Gates, Rollout, Wave, draw};

/// Formats of the engine's files that this version of the program understands: what a manifest's range is compared to.
pub const ENGINE_FORMAT: u32 = 1;

/// The role that signs what models are.
pub const ROLE_MODELS: &str = "models";

/// The role that signs who gets them.
pub const ROLE_ROLLOUT: &str = "rollout";

/// Bytes of a manifest or a rollout.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// Bytes of an index: 64 GiB in pieces of 1 MiB, each with a patch.
pub const INDEX_BYTES_MAX: u64 = 8 << 20;

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// No JSON of this form.
    #[error("{what} does not read: {source}")]
    Json {
        /// Manifest or rollout.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// Written for a later program.
    #[error("{what} has format {format}, this program reads 1: update the program first")]
    Later {
        /// Manifest or rollout.
        what: &'static str,
        /// Its format.
        format: u32,
    },
    /// A field that makes no sense.
    #[error("{what}: {field}: {why}")]
    Field {
        /// Manifest or rollout.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// Why.
        why: String,
    },
}

/// The format before anything else of a document is believed.
#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

fn read<T: serde::de::DeserializeOwned>(
    what: &'static str,
    json: &[u8],
) -> Result<T, DocumentError> {
    let wrong = |source| DocumentError::Json { what, source };
    let Format { format } = serde_json::from_slice(json).map_err(wrong)?;
    if format != 1 {
        return Err(DocumentError::Later { what, format });
    }
    serde_json::from_slice(json).map_err(wrong)
}

/// A name of a model, an adapter or a ring: it stands in paths.
///
/// **Errors**: what is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) || name.starts_with(['.', '-'])
    {
        return Err(format!(
            "`{name}` is no name: use 1 to 64 of a-z, A-Z, 0-9, `.`, `_` and `-`, the first a letter or digit"
        ));
    }
    Ok(())
}
