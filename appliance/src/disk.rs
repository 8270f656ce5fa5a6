//! What the cores need of a disk: one folder of files.
//!
//! Two implementations: `io::disk` and the simulated one of `tests/crash`, which loses and tears what was not synced.

/// A file's name. Names are short, so that no path ever needs the heap.
pub type Name = heapless::String<40>;

/// One folder of files.
///
/// What was written, cut, made, renamed or removed is certain to survive a power cut only after the matching `sync` or
/// `sync_folder` returned; until then any part of it may.
pub trait Disk {
    /// An open file.
    type File;

    /// Makes a file of this many zeros, their place on the disk reserved. Fails where one of this name exists.
    fn create(&mut self, name: &str, bytes: u64) -> Result<Self::File, DiskError>;

    /// Opens a file.
    fn open(&mut self, name: &str) -> Result<Self::File, DiskError>;

    /// Bytes of a file.
    fn length(&mut self, file: &Self::File) -> Result<u64, DiskError>;

    /// Fills `buffer` from `offset` on, as far as the file goes, and says how far that is.
    fn read(
        &mut self,
        file: &Self::File,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, DiskError>;

    /// Writes all of `bytes` at `offset`.
    fn write(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Cuts a file to this length.
    fn cut(&mut self, file: &Self::File, bytes: u64) -> Result<(), DiskError>;

    /// Makes a file's bytes and length durable. After an error nothing is known of what was written since the last
    /// success, and another try proves nothing: the system may have dropped the bytes and forgotten it.
    fn sync(&mut self, file: &Self::File) -> Result<(), DiskError>;

    /// Makes the names of files durable.
    fn sync_folder(&mut self) -> Result<(), DiskError>;

    /// Renames a file, over another if there is one.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> Result<(), DiskError>;

    /// Calls `each` with every file's name and length, in any order.
    fn list(&mut self, each: &mut dyn FnMut(&str, u64)) -> Result<(), DiskError>;
}

/// Why a disk did not do it. Small, since those who get it may not use the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No room.
    #[error("the disk is full")]
    Full,
    /// No such file.
    #[error("the file is missing")]
    Missing,
    /// A file of this name exists.
    #[error("the file exists")]
    Exists,
    /// It cannot be written to.
    #[error("the disk is read-only")]
    ReadOnly,
    /// Anything else, with the system's number.
    #[error("the disk fails (system error {0})")]
    Failed(i32),
}

/// A small file, if it is there: its first bytes up to a maximum.
pub fn contents<D: Disk>(
    disk: &mut D,
    name: &str,
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match disk.open(name) {
        Err(DiskError::Missing) => return Ok(None),
        file => file?,
    };
    let length = usize::try_from(disk.length(&file)?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length.min(bytes_max)];
    let read = disk.read(&file, 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Replaces a small file, whole and durably or not at all. One at a time in a folder.
pub fn replace<D: Disk>(disk: &mut D, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
    // Nothing new is no write: flash wears.
    if contents(disk, name, bytes.len() + 1)?.as_deref() == Some(bytes) {
        return disk.sync_folder();
    }
    match disk.remove(TEMPORARY) {
        // What a cut left there must be gone before the name is used again: names need not arrive in order.
        Ok(()) => disk.sync_folder()?,
        Err(DiskError::Missing) => {}
        Err(error) => return Err(error),
    }
    let file = disk.create(TEMPORARY, bytes.len() as u64)?;
    disk.write(&file, 0, bytes)?;
    disk.sync(&file)?;
    disk.rename(TEMPORARY, name)?;
    disk.sync_folder()
}

/// Where a file is written before it takes its name.
const TEMPORARY: &str = "new";
