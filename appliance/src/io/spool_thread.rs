//! The disk thread: owns the spool, and waits for the disk so that nobody else has to.
//!
//! ```text
//! io thread ─ records, a ring of bytes ─▶ disk thread ─▶ spool ─▶ files
//!           ─ commands ────────────────▶             ─ events ─▶ io thread
//! ```
//!
//! A ring that is full costs records, and they are counted: who serves does not wait for a disk.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outstation_kernels::heap;
use outstation_wire::record::{GapReason, RECORD_BYTES_MAX};
use outstation_wire::seal::SegmentKey;
use outstation_wire::segment::{Class, WrappedKey};
use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use tokio::sync::Notify;

use super::disk::Folder;
use crate::spool::{Identity, Now, Spool, SpoolEvent, SpoolLimits, SpoolNumbers};

/// What the disk thread hears besides records.
#[derive(Debug)]
pub enum ToSpool {
    /// The factory has a segment.
    Acked {
        /// Its class.
        class: Class,
        /// Its place.
        seq: u64,
    },
    /// The factory will never take a segment.
    Refused {
        /// Its class.
        class: Class,
        /// Its place.
        seq: u64,
    },
    /// A key for a segment of this epoch.
    Key {
        /// Which.
        epoch: [u8; 16],
        /// To encrypt with.
        key: SegmentKey,
        /// For the factory.
        wrapped: WrappedKey,
    },
    /// Another machine writes this epoch.
    NewEpoch([u8; 16]),
    /// Send what there is: the box goes down, or somebody wants to see it.
    SealAll,
}

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromSpool {
    /// The spool is open, or begins another epoch.
    Epoch {
        /// Which.
        epoch: [u8; 16],
        /// Starts of the program since the spool was made.
        boot: u64,
    },
    /// It wants so many keys.
    KeysWanted(usize),
    /// Something happened.
    Spool(SpoolEvent),
    /// The spool cannot be opened; it is tried again.
    Closed(crate::spool::OpenError),
}

/// Numbers that any thread may read.
#[derive(Debug, Default)]
pub struct SpoolBoard {
    open: AtomicBool,
    degraded: AtomicBool,
    boot: AtomicU64,
    bytes: [AtomicU64; 3],
    bytes_max: AtomicU64,
    segments: [AtomicU64; 3],
    records_durable: AtomicU64,
    records_lost: AtomicU64,
    commits: AtomicU64,
    /// Records taken from the ring that are durable or lost.
    settled: AtomicU64,
    /// Records that found the ring full, and their bytes.
    overrun: [[AtomicU64; 2]; 3],
}

impl SpoolBoard {
    /// The numbers, and whether the spool is open at all.
    pub fn read(&self) -> (SpoolNumbers, bool) {
        let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let numbers = SpoolNumbers {
            boot: get(&self.boot),
            bytes: self.bytes.each_ref().map(get),
            bytes_max: get(&self.bytes_max),
            segments: self.segments.each_ref().map(get),
            records_durable: get(&self.records_durable),
            records_lost: get(&self.records_lost),
            commits: get(&self.commits),
            degraded: self.degraded.load(Ordering::Relaxed),
        };
        (numbers, self.open.load(Ordering::Relaxed))
    }

    fn publish(&self, numbers: &SpoolNumbers, settled: u64) {
        let put = |cell: &AtomicU64, value: u64| cell.store(value, Ordering::Relaxed);
        put(&self.boot, numbers.boot);
        put(&self.bytes_max, numbers.bytes_max);
        for index in 0..3 {
            put(&self.bytes[index], numbers.bytes[index]);
            put(&self.segments[index], numbers.segments[index]);
        }
        put(&self.records_durable, numbers.records_durable);
        put(&self.records_lost, numbers.records_lost);
        put(&self.commits, numbers.commits);
        self.degraded.store(numbers.degraded, Ordering::Relaxed);
        self.settled.store(settled, Ordering::Release);
    }
}

/// Where records go in. Cheap to clone.
#[derive(Clone)]
pub struct Records {
    ring: Arc<Mutex<RecordsIn>>,
    board: Arc<SpoolBoard>,
    settled: Arc<Notify>,
    thread: Thread,
}

struct RecordsIn {
    ring: HeapProd<u8>,
    pushed: u64,
}

impl Records {
    /// A record on its way to the disk. The ticket tells when it is there; none: the ring was full, and the record is
    /// counted as lost.
    pub fn push(&self, class: Class, record: &[u8]) -> Option<u64> {
        assert!(record.len() <= RECORD_BYTES_MAX, "a record has its bound");
        let length = u32::try_from(record.len()).expect("checked");
        let mut head = [0; HEAD_BYTES];
        head[0] = class.number();
        head[1..].copy_from_slice(&length.to_le_bytes());
        let mut records = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if records.ring.vacant_len() < HEAD_BYTES + record.len() {
            drop(records);
            let [count, bytes] = &self.board.overrun[class.index()];
            count.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(u64::from(length), Ordering::Relaxed);
            return None;
        }
        records.ring.push_slice(&head);
        records.ring.push_slice(record);
        records.pushed += 1;
        let ticket = records.pushed;
        drop(records);
        self.thread.unpark();
        Some(ticket)
    }

    /// Waits until a record is durable, or known to be lost, and says whether it is. At most so long: a disk that hangs
    /// must not hang others.
    pub async fn settle(&self, ticket: u64, at_most: Duration) -> bool {
        let wait = async {
            loop {
                let settled = self.settled.notified();
                if self.board.settled.load(Ordering::Acquire) >= ticket {
                    return;
                }
                settled.await;
            }
        };
        tokio::time::timeout(at_most, wait).await.is_ok()
    }

    /// Numbers of the spool, and whether it is open.
    pub fn numbers(&self) -> (SpoolNumbers, bool) {
        self.board.read()
    }
}

/// A record's class and length before it in the ring.
const HEAD_BYTES: usize = 5;

/// The io thread's other ends.
pub struct SpoolHandle {
    /// Where records go in.
    pub records: Records,
    /// Commands; bounded, and nothing that is sent there is large.
    pub commands: HeapProd<ToSpool>,
    /// Events, in order.
    pub events: HeapCons<FromSpool>,
    /// Rung after events.
    pub bell: Arc<Notify>,
    stop: Arc<AtomicBool>,
    join: JoinHandle<()>,
}

impl SpoolHandle {
    /// Lets the thread look at its commands.
    pub fn wake(&self) {
        self.join.thread().unpark();
    }

    /// Commits and seals what there is, and ends the thread.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.join.thread().unpark();
        // A panic there has ended the process already (release), or is the test's own failure.
        let _ = self.join.join();
    }
}

/// Where and how.
#[derive(Debug, Clone)]
pub struct SpoolSetup {
    /// The folder.
    pub folder: PathBuf,
    /// Sizes and waits.
    pub limits: SpoolLimits,
    /// Whose it is.
    pub identity: Identity,
    /// Bytes of records between two looks of the disk thread.
    pub ring_bytes: usize,
    /// A time that the clock cannot be before, milliseconds since 1970.
    pub unix_ms_floor: u64,
}

/// Commands between two looks.
const COMMANDS_MAX: usize = 1024;

/// Events between two looks of the io thread. When it is full the disk thread waits.
const EVENTS_MAX: usize = 1024;

impl SpoolSetup {
    /// Bytes that the thread takes.
    pub fn bytes(limits: &SpoolLimits, ring_bytes: usize) -> u64 {
        let rings = COMMANDS_MAX * size_of::<ToSpool>() + EVENTS_MAX * size_of::<FromSpool>();
        Spool::<Folder>::bytes(limits) + (ring_bytes + rings) as u64
    }
}

/// Starts the thread. `started` is the program's own start, which all its clocks count from.
pub fn start(setup: SpoolSetup, started: Instant) -> std::io::Result<SpoolHandle> {
    assert!(
        setup.ring_bytes > HEAD_BYTES + RECORD_BYTES_MAX,
        "the longest record fits the ring"
    );
    let (records, records_out) = HeapRb::new(setup.ring_bytes).split();
    let (commands, commands_out) = HeapRb::new(COMMANDS_MAX).split();
    let (events_in, events) = HeapRb::new(EVENTS_MAX).split();
    let bell = Arc::new(Notify::new());
    let settled = Arc::new(Notify::new());
    let board = Arc::new(SpoolBoard::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut disk = DiskLoop {
        setup,
        started,
        records: records_out,
        commands: commands_out,
        events: events_in,
        bell: bell.clone(),
        settled: settled.clone(),
        board: board.clone(),
        stop: stop.clone(),
        popped: 0,
        before_open: [[0; 2]; 3],
        keys_asked: 0,
    };
    let join = thread::Builder::new()
        .name("disk".into())
        .spawn(move || disk.run())?;
    Ok(SpoolHandle {
        records: Records {
            ring: Arc::new(Mutex::new(RecordsIn {
                ring: records,
                pushed: 0,
            })),
            board,
            settled,
            thread: join.thread().clone(),
        },
        commands,
        events,
        bell,
        stop,
        join,
    })
}

struct DiskLoop {
    setup: SpoolSetup,
    started: Instant,
    records: HeapCons<u8>,
    commands: HeapCons<ToSpool>,
    events: HeapProd<FromSpool>,
    bell: Arc<Notify>,
    settled: Arc<Notify>,
    board: Arc<SpoolBoard>,
    stop: Arc<AtomicBool>,
    /// Records taken from the ring.
    popped: u64,
    /// Records that came while the spool could not be opened, and their bytes.
    before_open: [[u64; 2]; 3],
    /// Keys that were asked for and did not come yet.
    keys_asked: usize,
}

impl DiskLoop {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Acquire) {
            match self.open() {
                Ok(mut spool) => {
                    let guard = heap::guard();
                    self.serve(&mut spool);
                    drop(guard);
                }
                Err(error) => {
                    self.say(FromSpool::Closed(error));
                    self.lose_until(self.started.elapsed() + self.setup.limits.retry_after);
                }
            }
        }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = u64::try_from(unix.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        Now {
            since_start: self.started.elapsed(),
            unix_ms,
            unix_untrusted: unix_ms < self.setup.unix_ms_floor,
        }
    }

    fn open(&self) -> Result<Spool<Folder>, crate::spool::OpenError> {
        let failed = |error: std::io::Error| {
            let number = error.raw_os_error().unwrap_or(0);
            let number = rustix::io::Errno::from_raw_os_error(number);
            crate::spool::OpenError::Disk(number.into())
        };
        let folder = Folder::open(&self.setup.folder).map_err(failed)?;
        let spool = Spool::open(folder, self.setup.limits, self.setup.identity, self.now());
        spool.map_err(|(_, error)| error)
    }

    /// There is no spool: what comes is counted.
    fn lose_until(&mut self, until: Duration) {
        while !self.stop.load(Ordering::Acquire) {
            while let Some((class, length)) = self.next_record() {
                self.records.skip(HEAD_BYTES + length);
                let [records, bytes] = &mut self.before_open[class.index()];
                *records += 1;
                *bytes += length as u64;
                self.popped += 1;
            }
            while self.commands.try_pop().is_some() {}
            self.keys_asked = 0;
            self.board.settled.store(self.popped, Ordering::Release);
            self.tell();
            let Some(wait) = until.checked_sub(self.started.elapsed()) else {
                return;
            };
            thread::park_timeout(wait);
        }
    }

    fn serve(&mut self, spool: &mut Spool<Folder>) {
        self.board.open.store(true, Ordering::Relaxed);
        for class in Class::ALL {
            let [records, bytes] = std::mem::take(&mut self.before_open[class.index()]);
            spool.append_lost(class, records, bytes, GapReason::DiskError);
        }
        self.say(FromSpool::Epoch {
            epoch: spool.epoch(),
            boot: spool.numbers().boot,
        });
        self.pass_events(spool);
        // Of what was there before, the io thread hears as of what comes.
        for class in Class::ALL {
            for sealed in spool.sealed(class) {
                self.say(FromSpool::Spool(SpoolEvent::Sealed(sealed)));
            }
        }
        let mut looked = Duration::ZERO;
        loop {
            let stops = self.stop.load(Ordering::Acquire);
            self.take_commands(spool);
            self.take_records(spool);
            let now = self.now();
            if stops {
                spool.seal_all(now);
            } else if spool.commit_due().is_some_and(|due| due <= now.since_start) {
                spool.commit(now);
            }
            if now.since_start >= looked + TIME_LOOK {
                looked = now.since_start;
                self.take_overrun(spool);
                spool.handle_time(now);
            }
            self.pass_events(spool);
            self.ask_for_keys(spool);
            self.publish(spool);
            if stops {
                return;
            }
            let wait = spool
                .commit_due()
                .map_or(TIME_LOOK, |due| due.saturating_sub(self.started.elapsed()));
            // A push after the last look unparks, and this returns at once.
            thread::park_timeout(wait.clamp(Duration::from_micros(100), TIME_LOOK));
        }
    }

    fn take_commands(&mut self, spool: &mut Spool<Folder>) {
        while let Some(command) = self.commands.try_pop() {
            let now = self.now();
            match command {
                ToSpool::Acked { class, seq } => spool.handle_acked(class, seq, now),
                ToSpool::Refused { class, seq } => spool.handle_refused(class, seq, now),
                ToSpool::Key {
                    epoch,
                    key,
                    wrapped,
                } => {
                    self.keys_asked = self.keys_asked.saturating_sub(1);
                    if epoch == spool.epoch() {
                        spool.give_key(key, wrapped);
                    }
                }
                ToSpool::NewEpoch(epoch) => {
                    spool.begin_epoch(epoch, now);
                    self.keys_asked = 0;
                    self.say(FromSpool::Epoch {
                        epoch,
                        boot: spool.numbers().boot,
                    });
                }
                ToSpool::SealAll => spool.seal_all(now),
            }
            self.pass_events(spool);
        }
    }

    /// Class and length of the next record that is whole in the ring.
    fn next_record(&self) -> Option<(Class, usize)> {
        let mut head = [0; HEAD_BYTES];
        if self.records.peek_slice(&mut head) < HEAD_BYTES {
            return None;
        }
        let class = Class::from_number(head[0].into()).expect("the ring has what was pushed");
        let length = u32::from_le_bytes(*head[1..].first_chunk().expect("4 bytes")) as usize;
        (self.records.occupied_len() >= HEAD_BYTES + length).then_some((class, length))
    }

    fn take_records(&mut self, spool: &mut Spool<Folder>) {
        while let Some((class, length)) = self.next_record() {
            // Without a key there is no segment; they come within moments of the start.
            if spool.keys_wanted() == crate::spool::KEYS_MAX && !self.stop.load(Ordering::Acquire) {
                return;
            }
            if !spool.has_room(class, length) {
                spool.commit(self.now());
                self.pass_events(spool);
            }
            self.records.skip(HEAD_BYTES);
            if spool.has_room(class, length) {
                let now = self.now_quick();
                let ring = &mut self.records;
                spool.append(class, length, now, |place| {
                    ring.pop_slice(place);
                });
            } else {
                self.records.skip(length);
                spool.append_lost(class, 1, length as u64, spool.lost_reason());
            }
            self.popped += 1;
        }
    }

    /// The time for a record that waits: only how long it has, so the wall clock is not asked.
    fn now_quick(&self) -> Now {
        Now {
            since_start: self.started.elapsed(),
            ..Now::default()
        }
    }

    fn take_overrun(&mut self, spool: &mut Spool<Folder>) {
        for class in Class::ALL {
            let [records, bytes] = &self.board.overrun[class.index()];
            let records = records.swap(0, Ordering::Relaxed);
            let bytes = bytes.swap(0, Ordering::Relaxed);
            spool.append_lost(class, records, bytes, GapReason::Overrun);
        }
    }

    fn ask_for_keys(&mut self, spool: &Spool<Folder>) {
        let wanted = spool.keys_wanted();
        if wanted > KEYS_LOW && self.keys_asked == 0 {
            self.keys_asked = wanted;
            self.say(FromSpool::KeysWanted(wanted));
        }
    }

    fn pass_events(&mut self, spool: &mut Spool<Folder>) {
        while let Some(event) = spool.poll_event() {
            self.say(FromSpool::Spool(event));
        }
    }

    /// Wakes who waits for a record. Who wakes a task that has ended meanwhile may be the last to hold it, and gives
    /// its memory back.
    fn tell(&self) {
        heap::excused(|| self.settled.notify_waiters());
    }

    fn publish(&self, spool: &Spool<Folder>) {
        let numbers = spool.numbers();
        let settled = if spool.commit_due().is_some() {
            self.board.settled.load(Ordering::Relaxed)
        } else {
            self.popped
        };
        self.board.publish(&numbers, settled);
        self.tell();
    }

    /// Says something to the io thread, which may be slow, but not for ever.
    fn say(&mut self, event: FromSpool) {
        let mut event = event;
        while let Err(back) = self.events.try_push(event) {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            event = back;
            self.bell.notify_one();
            thread::park_timeout(Duration::from_millis(5));
        }
        self.bell.notify_one();
    }
}

/// Keys below which others are asked for.
const KEYS_LOW: usize = crate::spool::KEYS_MAX / 2;

/// How often the spool looks at the time when nothing else happens.
const TIME_LOOK: Duration = Duration::from_secs(1);
