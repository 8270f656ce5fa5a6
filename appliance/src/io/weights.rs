//! Maps of model files, and memory for their weights. The one place where a file's bytes become a slice without a copy.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap, MmapMut};
use outstation_kernels::team::Team;

use crate::engine::cpu::{self, CacheBytes, ModelBytes};
use crate::model::Model;

/// Why a model file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be opened or mapped.
    #[error("cannot read model {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing in it.
    #[error("model {} is empty: copy it again", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
}

/// The weights of a file, packed into memory of huge pages where the system grants them: reading is then some tenth
/// faster, since a core's table of pages covers it.
///
/// Costs [`Model::packed_bytes`] of memory; the file itself is not needed afterwards. `done` hears how many bytes were
/// packed, after each matrix.
pub fn pack(
    model: &Model,
    file: &[u8],
    team: &mut Team,
    mut done: impl FnMut(u64),
) -> std::io::Result<ModelBytes> {
    let mut memory = huge_pages(model.packed_bytes)?;
    let mut bytes = 0;
    cpu::pack(model, file, team, &mut memory, |weight| {
        bytes += weight.packed.len() as u64;
        done(bytes);
    });
    Ok(Box::new(memory.make_read_only()?))
}

/// Zeroed memory for a KV cache, in huge pages where the system grants them, all of it really there: what does not fit
/// is found out now, and no step waits for the system to clear a page.
pub fn cache(bytes: usize, team: &mut Team) -> std::io::Result<CacheBytes> {
    let mut memory = huge_pages(bytes)?;
    outstation_kernels::ops::touch(team, &mut memory);
    Ok(Box::new(memory))
}

/// Zeroed memory in huge pages where the system grants them.
pub fn huge_pages(bytes: usize) -> std::io::Result<MmapMut> {
    let memory = MmapMut::map_anon(bytes)?;
    // A hint: without huge pages everything works.
    let _ = memory.advise(Advice::HugePage);
    Ok(memory)
}

/// Maps a file read-only. Pages come in as they are touched and can be given back, so the map costs no memory of its
/// own.
#[expect(
    unsafe_code,
    reason = "a map is the only way to serve weights larger than half of memory"
)]
pub fn map(path: &Path) -> Result<Mmap, WeightsError> {
    let open = |source| WeightsError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(open)?;
    let metadata = file.metadata().map_err(open)?;
    if metadata.is_dir() {
        return Err(open(std::io::Error::other(
            "it is a folder: name the .gguf file in it",
        )));
    }
    if metadata.len() == 0 {
        return Err(WeightsError::Empty {
            path: path.to_owned(),
        });
    }
    // SAFETY: the map is private and read-only, and nobody gets it as `&mut`. The callee's condition is that the file
    // does not change underneath. Model files are put in place by rename and never written again (the OTA slots enforce
    // that); whoever truncates a served model by hand ends this process with SIGBUS, which systemd answers with a
    // restart.
    unsafe { Mmap::map(&file) }.map_err(open)
}
