//! Files of adapters, and memory for them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use outstation_wire::gguf::Gguf;

use super::weights::{self, WeightsError};
use crate::adapter::AdapterPlaces;
use crate::adapter::{Adapter, AdapterError, AdapterPool, Base, PackedAdapter, Place};
use crate::limits::ADAPTER_CONFIG_BYTES_MAX;

/// Why an adapter's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterFileError {
    /// The weights cannot be opened or mapped.
    #[error(transparent)]
    Map(#[from] WeightsError),
    /// Another file, or a folder, cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is read, but no adapter of this base.
    #[error("{}: {source}", path.display())]
    Adapter {
        /// Which.
        path: PathBuf,
        /// Why.
        source: AdapterError,
    },
}

/// Reads an adapter into a place: a GGUF file; a folder as PEFT saves it; or the `.safetensors` file in one.
pub fn read(path: &Path, place: &mut Place) -> Result<(), AdapterFileError> {
    let (adapter, targets) = place.parts();
    read_into(path, adapter, targets)
}

/// Reads an adapter of a base with these targets.
pub fn read_into(
    path: &Path,
    packed: &mut PackedAdapter,
    targets: &Base,
) -> Result<(), AdapterFileError> {
    let wrong = |source| AdapterFileError::Adapter {
        path: path.to_owned(),
        source,
    };
    let folder = path.is_dir();
    if !folder && path.extension().is_none_or(|e| e != "safetensors") {
        let file = weights::map(path)?;
        let gguf = Gguf::parse(&file).map_err(|e| wrong(e.into()))?;
        let adapter = Adapter::from_gguf(&gguf, targets).map_err(wrong)?;
        let digest = *blake3::hash(&file).as_bytes();
        return packed.fill(targets, &adapter, digest).map_err(wrong);
    }
    let weights_path = if folder {
        path.join(PEFT_WEIGHTS)
    } else {
        path.to_owned()
    };
    let config = read_config(&weights_path.with_file_name(PEFT_CONFIG))?;
    let file = weights::map(&weights_path)?;
    let adapter = Adapter::from_peft(&config, &file, targets).map_err(wrong)?;
    packed
        .fill(targets, &adapter, peft_digest(&config, &file))
        .map_err(wrong)
}

/// The rank of a GGUF adapter or of PEFT's, so that one place can be made for it.
pub fn rank(path: &Path, targets: &Base) -> Result<u32, AdapterFileError> {
    let mut most = PackedAdapter::new(targets, 0, Box::new(Vec::new()));
    match read_into(path, &mut most, targets) {
        Ok(()) => Ok(0),
        Err(AdapterFileError::Adapter {
            source: AdapterError::Rank { found, .. },
            ..
        }) => Ok(u32::try_from(found).unwrap_or(u32::MAX)),
        Err(other) => Err(other),
    }
}

const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
const PEFT_CONFIG: &str = "adapter_config.json";

/// BLAKE3 of the configuration's length, the configuration and the weights.
fn peft_digest(config: &[u8], weights: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(config.len() as u64).to_le_bytes());
    hasher.update(config);
    hasher.update(weights);
    *hasher.finalize().as_bytes()
}

/// Not read past the limit, where it ends in the middle and is refused as no JSON.
fn read_config(path: &Path) -> Result<Vec<u8>, AdapterFileError> {
    let failed = |source| AdapterFileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(ADAPTER_CONFIG_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

/// The adapters of a folder by name: GGUF files without their ending, and folders as PEFT saves them.
pub fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, AdapterFileError> {
    let failed = |source| AdapterFileError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = if path.join(PEFT_CONFIG).is_file() {
            path.file_name()
        } else if path.extension().is_some_and(|ending| ending == "gguf") {
            path.file_stem()
        } else {
            None
        };
        if let Some(name) = name {
            found.push((name.to_string_lossy().into_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

/// Takes all memory of the places, and has it backed.
pub fn pool(base: &str, targets: Base, places: AdapterPlaces) -> std::io::Result<AdapterPool> {
    let rank = places.rank();
    let place = |_| {
        let mut memory = weights::huge_pages(targets.bytes(rank))?;
        memory.fill(0);
        Ok(PackedAdapter::new(&targets, rank, Box::new(memory)))
    };
    let empty: std::io::Result<Vec<_>> = (0..places.count).map(place).collect();
    Ok(AdapterPool::new(base, targets.clone(), empty?))
}
