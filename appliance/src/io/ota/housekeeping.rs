//! What lies on the disk: what may stay, and room for what comes.

use std::path::Path;

use outstation_wire::release::Manifest;

use super::host::Host;
use super::runner::{RoundError, Runner};
use crate::disk::Disk as _;
use crate::fetch::names;
use crate::slot::Release;

impl<H: Host> Runner<H> {
    /// Digests of whole models on this disk.
    pub(super) fn kept(&self) -> Vec<[u8; 32]> {
        let state = self.slots.state();
        let adapters = state.adapters.iter().filter_map(|a| a.release.as_ref());
        let kept = state.committed.iter().chain(&state.previous);
        kept.chain(adapters)
            .filter_map(|release| release.digest.clone().try_into().ok())
            .collect()
    }

    /// Room for the file and the reserve: what could be gone back to is given up for it, if that is enough.
    pub(super) fn make_room(&mut self, manifest: &Manifest) -> Result<(), RoundError> {
        let [part, _, _] = names(&manifest.digest());
        if self.disk.open(&part).is_ok() {
            return Ok(());
        }
        let wanted = manifest.file.bytes + self.settings.reserve_bytes;
        if free_bytes(&self.settings.folder) >= wanted {
            return Ok(());
        }
        if let Some(previous) = self.slots.state().previous.clone() {
            let [_, _, name] = names(&previous.digest.clone().try_into().unwrap_or_default());
            self.slots.forget_previous(&mut self.disk)?;
            let _ = self.disk.remove(&name);
            self.disk.sync_folder()?;
        }
        if free_bytes(&self.settings.folder) >= wanted {
            return Ok(());
        }
        let why = format!(
            "{} needs {}, and {} must stay free: make room in {}",
            manifest.path(),
            crate::config::ByteSize(manifest.file.bytes),
            crate::config::ByteSize(self.settings.reserve_bytes),
            self.settings.folder.display()
        );
        Err(RoundError::Document(why))
    }

    /// Removes files that belong to nothing.
    pub(super) fn tidy(&mut self) -> Result<(), RoundError> {
        let mut stale = Vec::new();
        let known: Vec<String> = self.slots.kept().map(Release::stem).collect();
        self.disk.list(&mut |name, _| {
            if let Some((stem, end)) = name.split_once('.')
                && ["part", "map", "gguf", "index", "json"].contains(&end)
                && stem.len() == 32
                && !known.iter().any(|known| known == stem)
            {
                stale.push(name.to_owned());
            }
        })?;
        // Maps before parts, so that none outlives its part.
        stale.sort_by_key(|name| name.rsplit_once('.').map(|(_, end)| end != "map"));
        for name in &stale {
            self.disk.remove(name)?;
        }
        if !stale.is_empty() {
            self.disk.sync_folder()?;
        }
        Ok(())
    }
}

/// Bytes that are free for this user in a folder.
fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}
