//! A disk that forgets: what was not synced may be gone, kept or torn after a power cut, each write and each name for
//! itself.

use std::collections::BTreeMap;

use outstation::disk::{Disk, DiskError};

use crate::random::Random;

/// A folder, as programs see it and as a power cut would leave it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimDisk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    name_log: Vec<NameChange>,
    /// Operations so far.
    pub(crate) operations: u64,
    /// The power goes at this operation.
    pub(crate) cut_at: Option<u64>,
    /// What else goes wrong.
    pub(crate) faults: Faults,
    random: Random,
}

/// What goes wrong with a disk that has power.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// The operations that fail, and how.
    pub(crate) at: BTreeMap<u64, Fault>,
    /// Every operation fails from here on, up to there.
    pub(crate) broken: Option<(u64, u64, DiskError)>,
    /// Bytes that fit.
    pub(crate) capacity: Option<u64>,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The operation does nothing, and says so.
    Error(DiskError),
    /// A write writes a part; a sync loses what it should have made durable, for good, although it can be read. Both
    /// say so once.
    Lossy,
}

#[derive(Debug, Clone, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    log: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Add(String, usize),
    Move(String, String),
    Remove(String),
}

/// What a power cut does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It is gone.
    Drops,
    /// It was on its way and arrived. Also what the end of a process alone leaves.
    Keeps,
    /// Some of it arrived, in any order, and some of it in part.
    Tears(u64),
}

const SECTOR: usize = 512;

impl File {
    fn apply(bytes: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write(offset, new) => {
                let end = offset + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(new);
            }
            Change::Length(length) => bytes.resize(*length, 0),
        }
    }

    /// The sectors of a write that arrived.
    fn tear(bytes: &mut Vec<u8>, change: &Change, random: &mut Random) {
        let Change::Write(offset, new) = change else {
            return Self::apply(bytes, change);
        };
        for (index, sector) in new.chunks(SECTOR).enumerate() {
            if random.chance(2) {
                // Even a sector may be half of what it should be.
                let length = if random.chance(4) {
                    random.below(sector.len() as u64 + 1)
                } else {
                    sector.len() as u64
                };
                let part = sector[..usize::try_from(length).unwrap()].to_vec();
                Self::apply(bytes, &Change::Write(offset + index * SECTOR, part));
            }
        }
    }
}

impl SimDisk {
    /// An empty one that loses power at an operation, or never.
    pub(crate) fn cut_at(cut_at: Option<u64>) -> Self {
        Self {
            cut_at,
            ..Self::default()
        }
    }

    /// What is there when the power comes back.
    pub(crate) fn after(&self, cut: Cut) -> Self {
        let mut random = Random::new(match cut {
            Cut::Tears(seed) => seed,
            _ => 0,
        });
        let arrives = |random: &mut Random| match cut {
            Cut::Drops => false,
            Cut::Keeps => true,
            Cut::Tears(_) => random.chance(2),
        };
        let mut names = self.durable_names.clone();
        for change in &self.name_log {
            if arrives(&mut random) {
                rename(&mut names, change);
            }
        }
        let files = self.files.iter().map(|file| {
            let mut bytes = file.durable.clone();
            for change in &file.log {
                if !arrives(&mut random) {
                    continue;
                }
                if cut == Cut::Keeps {
                    File::apply(&mut bytes, change);
                } else {
                    File::tear(&mut bytes, change, &mut random);
                }
            }
            File {
                live: bytes.clone(),
                durable: bytes,
                log: Vec::new(),
            }
        });
        Self {
            files: files.collect(),
            durable_names: names.clone(),
            names,
            ..Self::default()
        }
    }

    /// Whether the power is gone.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut_at.is_some_and(|at| self.operations >= at)
    }

    /// Bytes of a file, for checkers.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let file = *self.names.get(name)?;
        Some(&self.files[file].live)
    }

    /// Turns over a bit of a file, on the disk and in memory.
    pub(crate) fn flip(&mut self, name: &str, at: usize, bit: u8) {
        let file = &mut self.files[self.names[name]];
        file.live[at] ^= 1 << bit;
        file.durable[at] ^= 1 << bit;
    }

    /// Names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// One more operation. The last before a cut happens, but nobody hears of it.
    fn step(&mut self) -> Result<Option<Fault>, DiskError> {
        const GONE: DiskError = DiskError::Failed(-1);
        if self.is_cut() {
            return Err(GONE);
        }
        self.operations += 1;
        let broken = self.faults.broken;
        if let Some((from, to, error)) = broken
            && (from..to).contains(&self.operations)
        {
            return Err(error);
        }
        match self.faults.at.get(&self.operations) {
            Some(Fault::Error(error)) => Err(*error),
            fault => Ok(fault.copied()),
        }
    }

    fn done<T>(&self, value: T) -> Result<T, DiskError> {
        if self.is_cut() {
            Err(DiskError::Failed(-1))
        } else {
            Ok(value)
        }
    }

    fn change_name(&mut self, change: NameChange) {
        rename(&mut self.names, &change);
        self.name_log.push(change);
    }

    fn used(&self) -> u64 {
        let live = self.names.values().map(|&file| self.files[file].live.len());
        live.sum::<usize>() as u64
    }
}

fn rename(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Add(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Move(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

impl Disk for SimDisk {
    type File = usize;

    fn create(&mut self, name: &str, bytes: u64) -> Result<usize, DiskError> {
        self.step()?;
        if self.names.contains_key(name) {
            return Err(DiskError::Exists);
        }
        let room = self.faults.capacity.unwrap_or(u64::MAX);
        if self.used() + bytes > room {
            return Err(DiskError::Full);
        }
        let length = usize::try_from(bytes).unwrap();
        self.files.push(File {
            live: vec![0; length],
            durable: Vec::new(),
            log: vec![Change::Length(length)],
        });
        let file = self.files.len() - 1;
        self.change_name(NameChange::Add(name.to_owned(), file));
        self.done(file)
    }

    fn open(&mut self, name: &str) -> Result<usize, DiskError> {
        self.step()?;
        self.names.get(name).copied().ok_or(DiskError::Missing)
    }

    fn length(&mut self, file: &usize) -> Result<u64, DiskError> {
        self.step()?;
        Ok(self.files[*file].live.len() as u64)
    }

    fn read(&mut self, file: &usize, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.step()?;
        let live = &self.files[*file].live;
        let from = usize::try_from(offset).unwrap().min(live.len());
        let length = buffer.len().min(live.len() - from);
        buffer[..length].copy_from_slice(&live[from..from + length]);
        Ok(length)
    }

    fn write(&mut self, file: &usize, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let fault = self.step()?;
        let part = if fault == Some(Fault::Lossy) {
            usize::try_from(self.random.below(bytes.len() as u64)).unwrap()
        } else {
            bytes.len()
        };
        let change = Change::Write(usize::try_from(offset).unwrap(), bytes[..part].to_vec());
        let file = &mut self.files[*file];
        File::apply(&mut file.live, &change);
        file.log.push(change);
        if fault.is_some() {
            return Err(DiskError::Failed(5));
        }
        self.done(())
    }

    fn cut(&mut self, file: &usize, bytes: u64) -> Result<(), DiskError> {
        self.step()?;
        let change = Change::Length(usize::try_from(bytes).unwrap());
        let file = &mut self.files[*file];
        File::apply(&mut file.live, &change);
        file.log.push(change);
        self.done(())
    }

    fn sync(&mut self, file: &usize) -> Result<(), DiskError> {
        let fault = self.step()?;
        // A cut in a sync: any part of it may have been done.
        self.done(())?;
        let file = &mut self.files[*file];
        if fault.is_some() {
            // The pages count as clean from here on: the next sync succeeds, and they are still not on the disk.
            file.log.clear();
            return Err(DiskError::Failed(5));
        }
        for change in file.log.drain(..) {
            File::apply(&mut file.durable, &change);
        }
        Ok(())
    }

    fn sync_folder(&mut self) -> Result<(), DiskError> {
        let fault = self.step()?;
        self.done(())?;
        if fault.is_some() {
            return Err(DiskError::Failed(5));
        }
        for change in self.name_log.drain(..) {
            rename(&mut self.durable_names, &change);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.step()?;
        if !self.names.contains_key(from) {
            return Err(DiskError::Missing);
        }
        self.change_name(NameChange::Move(from.to_owned(), to.to_owned()));
        self.done(())
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.step()?;
        if !self.names.contains_key(name) {
            return Err(DiskError::Missing);
        }
        self.change_name(NameChange::Remove(name.to_owned()));
        self.done(())
    }

    fn list(&mut self, each: &mut dyn FnMut(&str, u64)) -> Result<(), DiskError> {
        self.step()?;
        for (name, &file) in &self.names {
            each(name, self.files[file].live.len() as u64);
        }
        Ok(())
    }
}
