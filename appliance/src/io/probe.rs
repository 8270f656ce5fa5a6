//! What a machine tells of itself, for `outstation doctor`: files of the kernel, of the box, and of its certificates.
//!
//! Everything of the machine is read below a root, which is `/` but in tests. What cannot be read is a fact, too:
//! nothing here fails, and nothing is changed.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, StatVfsMountFlags};

use super::energy::meter::Search;
use super::memory;
use crate::config::{EnergyConfig, MeterChoice};
use crate::doctor::facts::{Clock, Disk, GpuFound, Memory, Meter, Read, Spool, SpoolFiles};

mod certificate;
mod sysfs;

#[cfg(test)]
mod tests;

/// What the driver says of a GPU.
#[cfg(feature = "cuda")]
pub fn gpu(index: u32) -> Read<GpuFound> {
    use outstation_cuda::{Gpu, GpuError};
    match Gpu::facts_of(index) {
        Ok(facts) => Read::There(GpuFound {
            name: facts.name,
            capability: facts.capability,
            driver: facts.driver,
            memory_bytes: facts.memory_bytes,
            free_bytes: facts.free_bytes,
            unified: facts.unified,
        }),
        Err(GpuError::NoDriver | GpuError::NoDevice { .. }) => Read::Absent,
        Err(error) => Read::Broken(error.to_string()),
    }
}

/// A program without the engine for it knows of none.
#[cfg(not(feature = "cuda"))]
pub fn gpu(_: u32) -> Read<GpuFound> {
    Read::Absent
}

pub use certificate::{authority, identity, member};

/// A machine.
#[derive(Debug, Clone)]
pub struct Probe {
    root: PathBuf,
}

/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 4096;
/// How long another program may take to answer.
const SAID_MAX: Duration = Duration::from_secs(3);
/// Bytes of its answer that are read.
const SAID_BYTES_MAX: u64 = 16 << 10;

impl Probe {
    /// The machine whose files lie below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Who sets the clock, and what was written last below a folder of the box.
    pub fn clock(&self, state: &Path) -> Clock {
        let timesync = self.at("run/systemd/timesync");
        let synchronized = if timesync.join("synchronized").exists() {
            Some(true)
        } else {
            // The folder is there while systemd-timesyncd runs; others that set clocks leave no mark.
            timesync.exists().then_some(false)
        };
        let mut newest = None;
        for folder in [state.to_owned(), state.join("models"), state.join("spool")] {
            for (path, written) in files(&folder).filter_map(|file| stamped(&file)) {
                if newest.as_ref().is_none_or(|(_, latest)| written > *latest) {
                    newest = Some((path, written));
                }
            }
        }
        Clock {
            synchronized,
            newest,
        }
    }

    /// Memory of the machine; the plan is for who knows the configuration.
    pub fn memory(&self) -> Memory {
        Memory {
            total_bytes: memory::total_bytes(&self.root),
            available_bytes: memory::available_bytes(&self.root),
            plan: None,
        }
    }

    /// The meter that a box would find.
    pub fn meter(&self, config: &EnergyConfig) -> Meter {
        let sysfs = config.sysfs.strip_prefix("/").unwrap_or(&config.sysfs);
        let choice = config.choice();
        let search = Search::run(&self.root.join(sysfs), &choice);
        Meter {
            name: search.meter.map(|meter| meter.name),
            notes: search.notes,
            refused: choice == MeterChoice::None,
        }
    }

    /// The last errors of the service, if this user may read them. Bounded in lines, bytes and time.
    pub fn journal(&self) -> Read<Vec<String>> {
        let program = self.at("usr/bin/journalctl");
        let journals = ["var/log/journal", "run/log/journal"];
        let is_kept = journals.iter().any(|folder| self.at(folder).exists());
        if self.root != Path::new("/") || !program.exists() || !is_kept {
            return Read::Absent;
        }
        let question =
            "--unit=outstation --priority=err --boot --lines=5 --quiet --no-pager --output=cat";
        match said(&program, question) {
            Read::There(text) => {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                Read::There(lines.map(str::to_owned).collect())
            }
            Read::Broken(why) => Read::Broken(why),
            Read::Denied => Read::Denied,
            Read::Absent => Read::Absent,
        }
    }
}

/// What another program says within [`SAID_MAX`], at most [`SAID_BYTES_MAX`] of it. Denied: it ended with a failure.
fn said(program: &Path, arguments: &str) -> Read<String> {
    let mut command = Command::new(program);
    command
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else {
        return Read::Absent;
    };
    let deadline = Instant::now() + SAID_MAX;
    let succeeded = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                let name = program.display();
                return Read::Broken(format!("{name} did not answer within {SAID_MAX:?}"));
            }
        }
    };
    if !succeeded {
        return Read::Denied;
    }
    let mut bytes = Vec::new();
    if let Some(out) = child.stdout.take() {
        let _ = out.take(SAID_BYTES_MAX).read_to_end(&mut bytes);
    }
    Read::There(String::from_utf8_lossy(&bytes).into_owned())
}

/// The folder and the disk below it. `needs` are the bytes that the box may yet write there, and the settings that say
/// so.
pub fn disk(name: &'static str, folder: &Path, needs: (u64, &str)) -> Disk {
    let metadata = fs::metadata(folder);
    let exists = !matches!(&metadata, Err(e) if e.kind() == ErrorKind::NotFound);
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let numbers = whole
        .ancestors()
        .find_map(|at| rustix::fs::statvfs(at).ok());
    let user = rustix::process::geteuid();
    let may = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    let writable = metadata.ok().and_then(|metadata| {
        let owner_may = metadata.mode() & 0o300 == 0o300;
        if user.is_root() {
            // Root may everything; the box is the owner.
            return Some(owner_may);
        }
        (may || metadata.uid() == user.as_raw()).then_some(may)
    });
    Disk {
        name,
        folder: folder.display().to_string(),
        exists,
        free_bytes: numbers
            .as_ref()
            .map(|numbers| numbers.f_bavail.saturating_mul(numbers.f_frsize)),
        needs_bytes: needs.0,
        needs_words: needs.1.to_owned(),
        read_only: numbers.is_some_and(|n| n.f_flag.contains(StatVfsMountFlags::RDONLY)),
        writable,
    }
}

/// The files of a spool, whether the box runs or not.
pub fn spool(folder: &Path, bytes_max: u64) -> Spool {
    let read = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => Read::Absent,
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Read::Denied,
        Err(e) => Read::Broken(format!("cannot list {}: {e}", folder.display())),
        Ok(_) => {
            let mut found = SpoolFiles::default();
            for file in files(folder) {
                let Ok(metadata) = file.metadata() else {
                    continue;
                };
                let kind = file.path().extension().map(ToOwned::to_owned);
                match kind.as_deref().and_then(|kind| kind.to_str()) {
                    Some("seg") => {
                        found.segments += 1;
                        let sealed = unix_s(&metadata);
                        let oldest = found.oldest_unix_s.unwrap_or(u64::MAX);
                        found.oldest_unix_s = Some(oldest.min(sealed.unwrap_or(u64::MAX)));
                    }
                    Some("open") => {}
                    Some("bad") => found.bad += 1,
                    _ => continue,
                }
                found.bytes += metadata.len();
            }
            Read::There(found)
        }
    };
    Spool {
        bytes_max,
        files: read,
    }
}

fn files(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let entries = entries.take(ENTRIES_MAX).filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
}

fn stamped(file: &fs::DirEntry) -> Option<(String, u64)> {
    let written = unix_s(&file.metadata().ok()?)?;
    Some((file.path().display().to_string(), written))
}

fn unix_s(metadata: &fs::Metadata) -> Option<u64> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH);
    Some(since.ok()?.as_secs())
}

/// The time by this machine's clock, seconds since 1970.
pub fn now_unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
