//! The models' folder, opened: what serves after this start is decided here.

use std::path::{Path, PathBuf};

use outstation_wire::release::{Kind, Manifest};

use crate::disk::{self, Disk, DiskError};
use crate::fetch::names;
use crate::io::disk::Folder;
use crate::slot::{Opened, Release, Resume, SlotError, Slots, State};
use crate::superblock::SuperblockError;

/// The folder, what is known of it, and how to go on.
pub(crate) struct Opening {
    pub(crate) disk: Folder,
    pub(crate) slots: Slots<Folder>,
    pub(crate) resume: Resume,
}

impl Opening {
    /// Opens the folder and says how to go on.
    pub(crate) fn new(folder: &Path) -> Result<Self, OpenError> {
        let mut disk = Folder::open(folder)?;
        let (mut slots, opened) = Slots::open(&mut disk)?;
        if opened == Opened::Lost {
            tracing::error!(
                "both copies of the models' state are damaged: nothing is installed until `outstation models confirm`"
            );
            if let Some(release) = newest_verified(&mut disk) {
                slots.adopt(&mut disk, release)?;
            }
        }
        if let Some(committed) = slots.state().committed.clone()
            && !is_whole(&mut disk, &committed)
        {
            tracing::error!(
                release = %committed,
                "the committed model went bad on the disk: the one before serves, and this one is fetched again"
            );
            let previous = slots.state().previous.clone();
            let whole = previous.is_some_and(|previous| is_whole(&mut disk, &previous));
            slots.damaged(&mut disk, whole)?;
        }
        for adapter in slots.state().adapters.clone() {
            let release = adapter.release.unwrap_or_default();
            if !is_whole(&mut disk, &release) {
                tracing::error!(%release, "an adapter went bad on the disk: it is fetched again");
                slots.retire(&mut disk, &adapter.name)?;
            }
        }
        let resume = slots.restart(&mut disk)?;
        Ok(Self {
            disk,
            slots,
            resume,
        })
    }

    /// The file that serves. None: the model of the configuration.
    pub(crate) fn serves(&self, folder: &Path) -> Option<(PathBuf, String)> {
        let release = self.slots.state().committed.as_ref()?;
        Some((file(folder, release), release.name.clone()))
    }
}

/// Why the folder of models cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The folder.
    #[error("cannot open the folder of models: {0}")]
    Folder(#[from] std::io::Error),
    /// The state.
    #[error("the state of the models: {0}")]
    State(#[from] SuperblockError),
    /// It could not be written.
    #[error("{0}")]
    Slot(#[from] SlotError),
}

/// Names and files of the adapters of the committed model.
pub(crate) fn adapters(folder: &Path, state: &State) -> Vec<(String, PathBuf)> {
    let served = state.adapters.iter().filter_map(|adapter| {
        let release = adapter.release.as_ref()?;
        Some((adapter.name.clone(), file(folder, release)))
    });
    served.collect()
}

/// Whether a model's file is what it was.
fn is_whole(disk: &mut Folder, release: &Release) -> bool {
    let Ok(digest) = release.digest.clone().try_into() else {
        return false;
    };
    digest_of(disk, &digest).ok() == Some(digest)
}

pub(super) fn file(folder: &Path, release: &Release) -> PathBuf {
    folder.join(format!("{}.gguf", release.stem()))
}

/// The model with the highest release whose manifest and bytes fit together. Only what was verified has a manifest
/// beside it, and its bytes are looked at again.
fn newest_verified(disk: &mut Folder) -> Option<Release> {
    let mut stems = Vec::new();
    let listed = disk.list(&mut |name, _| {
        if let Some(stem) = name.strip_suffix(".gguf") {
            stems.push(stem.to_owned());
        }
    });
    listed.ok()?;
    let mut found: Vec<Manifest> = Vec::new();
    for stem in stems {
        let json = disk::contents(disk, &format!("{stem}.json"), 1 << 20)
            .ok()
            .flatten();
        let manifest = json.and_then(|json| Manifest::parse(&json).ok());
        found.extend(manifest.filter(|manifest| manifest.kind == Kind::Model));
    }
    found.sort_by_key(|manifest| std::cmp::Reverse((manifest.release, manifest.published_unix_ms)));
    let whole =
        |manifest: &Manifest| digest_of(disk, &manifest.digest()).ok() == Some(manifest.digest());
    found
        .into_iter()
        .find(whole)
        .map(|manifest| Release::of(&manifest))
}

/// BLAKE3 of a model's file.
pub(super) fn digest_of(disk: &mut Folder, digest: &[u8; 32]) -> Result<[u8; 32], DiskError> {
    let [_, _, name] = names(digest);
    let file = disk.open(&name)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let read = disk.read(&file, offset, &mut buffer)?;
        if read == 0 {
            return Ok(*hasher.finalize().as_bytes());
        }
        hasher.update(&buffer[..read]);
        offset += read as u64;
    }
}
