//! What is known of a box and its machine before anybody judges it.

use crate::status::{Releases, Status};

/// Something that was to be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Read<T> {
    /// It was.
    There(T),
    /// There is none.
    #[default]
    Absent,
    /// This user may not.
    Denied,
    /// It is not what it should be, and why.
    Broken(String),
}

/// All that is known. The default is a machine of which nothing is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// The time by this machine's clock.
    pub now_unix_s: u64,
    /// What it should do.
    pub configuration: Configuration,
    /// What it says.
    pub answer: Answer,
    /// Its fleet.
    pub link: Link,
    /// Its certificates.
    pub certificates: Vec<Certificate>,
    /// Who may come in.
    pub access: Access,
    /// Its clock.
    pub clock: Clock,
    /// Where its state and its models are.
    pub disks: Vec<Disk>,
    /// Why a box that does not run could not load its model.
    pub model_trouble: Option<String>,
    /// Its memory.
    pub memory: Memory,
    /// What waits for the factory.
    pub spool: Spool,
    /// Its GPU.
    pub gpu: Gpu,
    /// What feeds it.
    pub power: Power,
    /// How warm it is.
    pub heat: Heat,
    /// What measures it.
    pub meter: Meter,
    /// Lines of the journal that tell of errors.
    pub journal: Read<Vec<String>>,
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// Where it comes from.
    pub place: String,
    /// Why it is refused.
    pub trouble: Option<String>,
}

/// The running box.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Where it was asked.
    pub address: String,
    /// What it said of itself; or why nothing.
    pub status: Option<Result<Status, String>>,
    /// What it said of its models. None: it follows no ring, or was silent.
    pub releases: Option<Releases>,
}

impl Answer {
    /// What it said, if it did.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()?.as_ref().ok()
    }
}

/// The way to the factory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// `uplink.factory`.
    pub configured: Option<String>,
    /// Where the box is enrolled: its factory, and its name there.
    pub member: Read<(String, String)>,
    /// Addresses that the factory's name has; an error says why none.
    pub addresses: Option<Result<usize, String>>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose: the name of its finding.
    pub name: &'static str,
    /// Its file.
    pub place: String,
    /// What is in it.
    pub read: Read<Validity>,
    /// What to do when it is no good.
    pub mend: String,
}

/// Of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From this moment on.
    pub not_before_unix_s: i64,
    /// To this one.
    pub not_after_unix_s: i64,
    /// Whether its key is the one beside it. None: there is none, as for an authority, or it may not be read.
    pub key_matches: Option<bool>,
}

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Addresses of the configuration that others reach.
    pub public: Vec<String>,
    /// What is missing for them.
    pub trouble: Option<String>,
    /// Names of the keys' file, and how many are in it.
    pub keys: Read<usize>,
    /// The file.
    pub keys_file: String,
}

/// The clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clock {
    /// Whether somebody sets it. None: unknown.
    pub synchronized: Option<bool>,
    /// The newest file of the box's state, and when it was written.
    pub newest: Option<(String, u64)>,
}

/// A folder and the disk below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The name of its finding.
    pub name: &'static str,
    /// The folder.
    pub folder: String,
    /// Whether it is there; if not, the numbers are of where it would be.
    pub exists: bool,
    /// Bytes free for who is not root. None: they could not be counted.
    pub free_bytes: Option<u64>,
    /// Bytes that the box may yet write there.
    pub needs_bytes: u64,
    /// The settings that say so.
    pub needs_words: String,
    /// Whether it is mounted for reading alone.
    pub read_only: bool,
    /// Whether its owner, or who asks, may write there. None: unknown.
    pub writable: Option<bool>,
}

/// Memory of machine and plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// All of the machine.
    pub total_bytes: Option<u64>,
    /// What could be had now.
    pub available_bytes: Option<u64>,
    /// The plan of a box that does not run: its sum and its limit, or why there is none.
    pub plan: Option<Result<(u64, u64), String>>,
}

/// Files of the spool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spool {
    /// `spool.bytes_max`.
    pub bytes_max: u64,
    /// The folder. Absent: nothing was ever written down.
    pub files: Read<SpoolFiles>,
}

/// What lies in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolFiles {
    /// Bytes of all.
    pub bytes: u64,
    /// Sealed segments.
    pub segments: u64,
    /// Segments that were set aside.
    pub bad: u64,
    /// When the oldest was sealed.
    pub oldest_unix_s: Option<u64>,
}

/// The GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gpu {
    /// Whether the configuration computes with it.
    pub wanted: bool,
    /// What the driver says; or why there is none.
    pub found: Read<GpuFound>,
}

/// What a driver says of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuFound {
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (u32, u32),
    /// Version of CUDA that the driver speaks, as 13000 for 13.0.
    pub driver: u32,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of it that nobody has taken.
    pub free_bytes: u64,
    /// Whether its memory is the host's.
    pub unified: bool,
}

/// What feeds the machine, and how it may draw on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Power {
    /// A Jetson's power mode, as its tool writes it.
    pub jetson_mode: Option<String>,
    /// Drivers and governors of the processors' frequency, each pair once.
    pub governors: Vec<(String, String)>,
    /// Mains and batteries.
    pub supplies: Vec<Supply>,
}

/// A mains plug or a battery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Supply {
    /// Its name.
    pub name: String,
    /// Whether it is a battery.
    pub battery: bool,
    /// Whether it gives what the machine runs on.
    pub feeds: bool,
    /// Its charge in percent.
    pub charge_percent: Option<u64>,
}

/// How warm the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heat {
    /// Its zones.
    pub zones: Vec<Zone>,
    /// Processors whose frequency is held down: name, what they may, what they could, both kHz.
    pub capped: Vec<(String, u64, u64)>,
    /// Processors of which the frequency is known.
    pub frequencies: usize,
    /// Times that a processor slowed down for heat since the machine began. None: it does not count.
    pub throttled: Option<u64>,
}

/// A thermal zone. Temperatures in thousandths of a degree Celsius, as the system has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zone {
    /// What it is called.
    pub name: String,
    /// How warm.
    pub milli_c: i64,
    /// From where on it is slowed down.
    pub passive_milli_c: Option<i64>,
    /// From where on it is switched off.
    pub critical_milli_c: Option<i64>,
}

/// The energy meter, as a box that starts would find it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meter {
    /// Its name.
    pub name: Option<String>,
    /// What stands in the way.
    pub notes: Vec<String>,
    /// The configuration wants none.
    pub refused: bool,
}
