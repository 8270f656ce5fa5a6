//! Files that nobody but the service reads.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::Path;

/// Makes a folder that its owner alone enters, who is the owner of the one above.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    give_to_owner_of(above(path), path)
}

/// Puts a file in its place: whole and on the disk, or not there. It belongs to whom its folder belongs, for an
/// operator writes it as root, and the service reads it as a user of its own.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    give_to_owner_of(above(path), fresh)?;
    fs::rename(fresh, path)?;
    File::open(above(path))?.sync_all()
}

fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn give_to_owner_of(folder: &Path, path: &Path) -> io::Result<()> {
    let (owner, now) = (fs::metadata(folder)?, fs::metadata(path)?);
    if (owner.uid(), owner.gid()) == (now.uid(), now.gid()) {
        return Ok(());
    }
    chown(path, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_private_and_its_folders_owners() {
        let folder = tempfile::tempdir().unwrap();
        // Only root may give away; others see that nothing is given.
        let owner = fs::metadata(folder.path()).unwrap().uid();
        let other = if owner == 0 { 12345 } else { owner };
        chown(folder.path(), Some(other), None).unwrap();
        let inner = folder.path().join("uplink");
        make_folder(&inner).unwrap();
        make_folder(&inner).unwrap();
        let path = inner.join("key.pem");
        for text in ["first", "second"] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        for (path, mode) in [(&inner, 0o700), (&path, 0o600)] {
            let is = fs::metadata(path).unwrap();
            assert_eq!((is.uid(), is.permissions().mode() & 0o777), (other, mode));
        }
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1);
    }
}
