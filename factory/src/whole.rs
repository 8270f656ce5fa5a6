//! Files that are there whole or not at all.
#![expect(
    clippy::disallowed_methods,
    reason = "a file is written beside, synced, and renamed; then its folder is synced"
)]

use std::io::{Result, Write as _};
use std::path::Path;

/// Writes a file, and its folder if it is missing: after a kill at any time there is the old one or the new one.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    let beside = file.with_extension("new");
    let mut new = std::fs::File::create(&beside)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    std::fs::rename(&beside, file)?;
    std::fs::File::open(folder)?.sync_all()
}
