//! What was learned, as bytes. `docs/flagging.md` has the table.

use heapless::String;

use super::sketch::Sketch;
use super::workload::{WORKLOAD_BYTES_MAX, Workload};
use super::{FlagConfig, Flagger};

/// Why a state cannot be used. The box begins to learn anew; nothing else is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not ours.
    #[error(
        "the flagging state does not begin with its magic: it is another file, or a broken one"
    )]
    Magic,
    /// Of another version.
    #[error("the flagging state has version {found}, this program reads {VERSION}")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// Damaged.
    #[error(
        "the flagging state of {bytes} bytes does not match its checksum: it was torn or changed"
    )]
    Checksum {
        /// Length of the file.
        bytes: usize,
    },
    /// Written wrong.
    #[error("the flagging state is wrong at byte {offset}: {what}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What.
        what: &'static str,
    },
}

const MAGIC: [u8; 8] = *b"OSTFLAG\0";
const VERSION: u32 = 1;
/// Workloads in a file at most.
const WORKLOADS_MAX: u16 = 4096;

/// Source: Fowler, Noll and Vo, FNV-1a with 64 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Flagger {
    /// What was learned. Prompts and cases that are waited for are not in it: their times would mean nothing.
    pub fn save(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.push(u8::from(self.committed.is_some()));
        out.extend(self.committed.unwrap_or_default());
        for level in [&self.flagged_budget, &self.random_budget].map(super::Allowance::levels) {
            out.extend(level[0].to_le_bytes());
            out.extend(level[1].to_le_bytes());
        }
        let mut workloads: Vec<&Workload> = self.workloads.iter().collect();
        workloads.sort_by_key(|workload| workload.used);
        let kept = workloads.len().saturating_sub(usize::from(WORKLOADS_MAX));
        let workloads = &workloads[kept..];
        let count = u16::try_from(workloads.len()).expect("no more than WORKLOADS_MAX");
        out.extend(count.to_le_bytes());
        for workload in workloads {
            save_workload(workload, &mut out);
        }
        out.extend(fnv1a(&out).to_le_bytes());
        out
    }

    /// What `save` made. With fewer places than it had, the least recently used workloads are left out.
    pub fn load(config: FlagConfig, bytes: &[u8]) -> Result<Self, StateError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(StateError::Magic);
        }
        let torn = StateError::Checksum { bytes: bytes.len() };
        let Some((body, checksum)) = bytes.split_last_chunk::<8>() else {
            return Err(torn);
        };
        let mut reader = Reader {
            bytes: body,
            offset: MAGIC.len(),
        };
        let found = u32::from_le_bytes(reader.take()?);
        if found != VERSION {
            return Err(StateError::Version { found });
        }
        if fnv1a(body) != u64::from_le_bytes(*checksum) {
            return Err(torn);
        }
        let mut flagger = Self::new(config);
        let [has_committed] = reader.take()?;
        let committed = reader.take()?;
        flagger.committed = match has_committed {
            0 => None,
            1 => Some(committed),
            _ => return Err(reader.wrong("a committed model is there (1) or not (0)")),
        };
        for budget in [&mut flagger.flagged_budget, &mut flagger.random_budget] {
            let levels = [reader.take()?, reader.take()?].map(f64::from_le_bytes);
            if !budget.restore(levels) {
                return Err(reader.wrong("a level is not a number from 0 on"));
            }
        }
        let count = u16::from_le_bytes(reader.take()?);
        let places = flagger.config.workloads_max;
        for index in 0..usize::from(count) {
            let mut workload = load_workload(&mut reader)?;
            // Before every case to come, in the order of the file.
            workload.used = 0;
            if index + places >= usize::from(count) {
                flagger.workloads.push(workload);
            }
        }
        if reader.offset != body.len() {
            return Err(reader.wrong("there is more than was announced"));
        }
        Ok(flagger)
    }
}

fn save_workload(workload: &Workload, out: &mut Vec<u8>) {
    out.extend(workload.model);
    out.push(u8::try_from(workload.name.len()).expect("names are short"));
    out.extend(workload.name.as_bytes());
    out.extend(workload.taught.to_le_bytes());
    out.extend(workload.recent_cases.to_le_bytes());
    out.extend(workload.reference_cases.to_le_bytes());
    for habit in workload.habits {
        out.extend(habit.to_le_bytes());
    }
    out.extend(workload.lessons.to_le_bytes());
    out.push(u8::try_from(workload.kept.len()).expect("fewer than 256"));
    for hash in workload.kept.iter() {
        out.extend(hash.to_le_bytes());
    }
    let more = [&workload.recent, &workload.reference];
    for sketch in workload.usual.iter().chain(more) {
        let filled = u8::try_from(sketch.filled().count()).expect("fewer than 256 buckets");
        out.push(filled);
        for (bucket, count) in sketch.filled() {
            out.push(bucket);
            out.extend(count.to_le_bytes());
        }
    }
}

fn load_workload(reader: &mut Reader<'_>) -> Result<Workload, StateError> {
    let model = reader.take()?;
    let [len] = reader.take()?;
    let name = std::str::from_utf8(reader.slice(usize::from(len))?);
    let name: Result<String<WORKLOAD_BYTES_MAX>, _> = name.unwrap_or_default().try_into();
    let Ok(name) = name else {
        return Err(reader.wrong("a workload's name is too long"));
    };
    let mut workload = Workload::new(model, &name);
    workload.taught = u64::from_le_bytes(reader.take()?);
    workload.recent_cases = u64::from_le_bytes(reader.take()?);
    workload.reference_cases = u32::from_le_bytes(reader.take()?);
    for habit in &mut workload.habits {
        *habit = f32::from_le_bytes(reader.take()?);
        if !(0.0..=1.0).contains(habit) {
            return Err(reader.wrong("a rate is not from 0 to 1"));
        }
    }
    workload.lessons = f64::from_le_bytes(reader.take()?);
    if !workload.lessons.is_finite() {
        return Err(reader.wrong("the number of lessons is none"));
    }
    let [kept] = reader.take()?;
    for _ in 0..kept {
        workload.kept.push(u64::from_le_bytes(reader.take()?));
    }
    for sketch in &mut workload.usual {
        load_sketch(reader, sketch)?;
    }
    load_sketch(reader, &mut workload.recent)?;
    load_sketch(reader, &mut workload.reference)?;
    Ok(workload)
}

fn load_sketch(reader: &mut Reader<'_>, sketch: &mut Sketch) -> Result<(), StateError> {
    let [filled] = reader.take()?;
    for _ in 0..filled {
        let [bucket] = reader.take()?;
        let count = f32::from_le_bytes(reader.take()?);
        if !sketch.restore(bucket, count) {
            return Err(reader.wrong("a bucket or its count is none"));
        }
    }
    Ok(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let Some(slice) = rest.get(..len) else {
            return Err(self.wrong("it ends too early"));
        };
        self.offset += len;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let slice = self.slice(N)?;
        Ok(slice.try_into().expect("of this length"))
    }

    fn wrong(&self, what: &'static str) -> StateError {
        StateError::Malformed {
            offset: self.offset,
            what,
        }
    }
}
