//! A real folder.

use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use crate::disk::{Disk, DiskError};

/// A folder of this machine. After it was opened nothing here uses the heap, but for [`list`](Disk::list).
#[derive(Debug)]
pub struct Folder {
    folder: OwnedFd,
}

impl Folder {
    /// Opens a folder, made with its parents if it is missing, for this user alone.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).create(path)?;
        let folder = fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // It may have been there before with wider rights; who may not change them may still use it.
        let _ = fs::fchmod(&folder, Mode::RWXU);
        Ok(Self { folder })
    }
}

impl From<Errno> for DiskError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOSPC | Errno::DQUOT => Self::Full,
            Errno::NOENT => Self::Missing,
            Errno::EXIST => Self::Exists,
            Errno::ROFS => Self::ReadOnly,
            other => Self::Failed(other.raw_os_error()),
        }
    }
}

impl Disk for Folder {
    type File = OwnedFd;

    fn create(&mut self, name: &str, bytes: u64) -> Result<OwnedFd, DiskError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        let reserved = match fs::fallocate(&file, fs::FallocateFlags::empty(), 0, bytes) {
            // A file system that cannot reserve: a full disk is then met at a write.
            Err(Errno::OPNOTSUPP) => fs::ftruncate(&file, bytes),
            reserved => reserved,
        };
        if let Err(error) = reserved {
            let _ = self.remove(name);
            return Err(error.into());
        }
        Ok(file)
    }

    fn open(&mut self, name: &str) -> Result<OwnedFd, DiskError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(fs::openat(&self.folder, name, flags, Mode::empty())?)
    }

    fn length(&mut self, file: &OwnedFd) -> Result<u64, DiskError> {
        let bytes = fs::fstat(file)?.st_size;
        Ok(u64::try_from(bytes).expect("a file has no negative length"))
    }

    fn read(&mut self, file: &OwnedFd, offset: u64, bytes: &mut [u8]) -> Result<usize, DiskError> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pread(file, &mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn write(&mut self, file: &OwnedFd, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pwrite(file, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(DiskError::Full),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn cut(&mut self, file: &OwnedFd, bytes: u64) -> Result<(), DiskError> {
        Ok(fs::ftruncate(file, bytes)?)
    }

    fn sync(&mut self, file: &OwnedFd) -> Result<(), DiskError> {
        Ok(fs::fdatasync(file)?)
    }

    fn sync_folder(&mut self) -> Result<(), DiskError> {
        Ok(fs::fsync(&self.folder)?)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        Ok(fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        Ok(fs::unlinkat(&self.folder, name, fs::AtFlags::empty())?)
    }

    fn list(&mut self, each: &mut dyn FnMut(&str, u64)) -> Result<(), DiskError> {
        for entry in fs::Dir::read_from(&self.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            let stat = fs::statat(&self.folder, name, fs::AtFlags::SYMLINK_NOFOLLOW)?;
            if fs::FileType::from_raw_mode(stat.st_mode).is_file() {
                each(name, u64::try_from(stat.st_size).unwrap_or(0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Folder::open(&folder.path().join("a/b")).unwrap();
        let file = disk.create("one", 4096).unwrap();
        assert_eq!(disk.length(&file), Ok(4096));
        assert_eq!(disk.create("one", 1).unwrap_err(), DiskError::Exists);
        disk.write(&file, 100, b"words").unwrap();
        disk.sync(&file).unwrap();
        disk.cut(&file, 103).unwrap();
        disk.rename("one", "two").unwrap();
        disk.sync_folder().unwrap();
        let file = disk.open("two").unwrap();
        let mut bytes = [1; 8];
        assert_eq!(disk.read(&file, 99, &mut bytes), Ok(4));
        assert_eq!(&bytes, b"\0wor\x01\x01\x01\x01");
        let mut all = Vec::new();
        disk.list(&mut |name, bytes| all.push((name.to_owned(), bytes)))
            .unwrap();
        assert_eq!(all, [("two".to_owned(), 103)]);
        disk.remove("two").unwrap();
        assert_eq!(disk.open("two").unwrap_err(), DiskError::Missing);
        let too_much = disk.create("three", 1 << 50).unwrap_err();
        assert!(matches!(too_much, DiskError::Full | DiskError::Failed(_)));
        assert_eq!(disk.open("three").unwrap_err(), DiskError::Missing);
    }
}
