//! A life of a spool that a seed determines: records come, are committed, sealed, sent and acknowledged.

use std::time::Duration;

use outstation::spool::{Identity, Now, OpenError, Quotas, Sealed, Spool, SpoolLimits};
use outstation_wire::seal::SegmentKey;
use outstation_wire::segment::Class;

use crate::disk::SimDisk;
use crate::random::Random;
use crate::truth::{Truth, record};

pub(crate) const APPLIANCE: [u8; 16] = *b"a box on a mast!";

/// Small, so that a short history has many segments.
pub(crate) fn limits() -> SpoolLimits {
    SpoolLimits {
        segment_bytes: 2048,
        quotas: Quotas::of_total(1 << 20),
        pending_bytes: 1400,
        commit_after: Duration::from_millis(20),
        seal_after: [Duration::from_mins(1); 3],
        retry_after: Duration::from_secs(5),
    }
}

/// What a box remembers of a life outside of its disk.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) truth: Truth,
    pub(crate) random: Random,
    pub(crate) now: Now,
}

impl World {
    pub(crate) fn new(seed: u64, truth: Truth) -> Self {
        Self {
            truth,
            random: Random::new(seed),
            now: Now::default(),
        }
    }

    pub(crate) fn open(
        &mut self,
        disk: SimDisk,
        limits: SpoolLimits,
    ) -> Result<Spool<SimDisk>, (SimDisk, OpenError)> {
        let mut epoch_if_new = [0; 16];
        epoch_if_new[..8].copy_from_slice(&self.random.next().to_le_bytes());
        let identity = Identity {
            appliance: APPLIANCE,
            epoch_if_new,
        };
        Spool::open(disk, limits, identity, self.now)
    }

    /// A key for the next segment, if there is none in stock. One at a time: a key is 100 µs.
    pub(crate) fn give_key(&mut self, spool: &mut Spool<SimDisk>) {
        while spool.keys_wanted() > outstation::spool::KEYS_MAX - 3 {
            let mut secret = [0; 32];
            secret[..8].copy_from_slice(&self.random.next().to_le_bytes());
            let epoch = spool.epoch();
            let (key, wrapped) =
                SegmentKey::wrap(secret, &APPLIANCE, &epoch, &self.truth.public_key()).unwrap();
            spool.give_key(key, wrapped);
        }
    }

    /// A record of a class, if it fits. Its number.
    pub(crate) fn append(&mut self, spool: &mut Spool<SimDisk>, class: Class) -> Option<u64> {
        let padding = usize::try_from(self.random.below(300)).unwrap();
        let bytes = record(self.truth.issued() + 1, padding);
        if !spool.has_room(class, bytes.len()) {
            return None;
        }
        let number = self.truth.issue();
        spool.append(class, bytes.len(), self.now, |place| {
            place.copy_from_slice(&bytes);
        });
        Some(number)
    }

    pub(crate) fn class(&mut self) -> Class {
        Class::ALL[usize::try_from(self.random.below(3)).unwrap()]
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.since_start += time;
        self.now.unix_ms += u64::try_from(time.as_millis()).unwrap();
    }
}

/// Sends the oldest segment of a class, if there is one.
pub(crate) fn send(spool: &mut Spool<SimDisk>, world: &mut World, class: Class) {
    let oldest: Option<Sealed> = spool.sealed(class).next();
    let Some(sealed) = oldest else {
        return;
    };
    spool.look(|disk| world.truth.deliver(disk, sealed));
    spool.handle_acked(class, sealed.seq, world.now);
}

/// Some steps of a life. Gives up as soon as the power is gone.
pub(crate) fn live(mut spool: Spool<SimDisk>, world: &mut World, steps: u32) -> SimDisk {
    let mut waiting = Vec::new();
    for _ in 0..steps {
        world.give_key(&mut spool);
        match world.random.below(10) {
            0..6 => {
                let class = world.class();
                if let Some(number) = world.append(&mut spool, class) {
                    waiting.push(number);
                }
            }
            6 | 7 => {
                spool.commit(world.now);
                if !spool.look(SimDisk::is_cut) {
                    world.truth.acknowledge(waiting.drain(..));
                }
            }
            8 => {
                let class = world.class();
                send(&mut spool, world, class);
            }
            _ => {
                let time = Duration::from_millis(world.random.below(50_000));
                world.pass(time);
                spool.handle_time(world.now);
            }
        }
        while spool.poll_event().is_some() {}
        if spool.look(SimDisk::is_cut) {
            break;
        }
    }
    spool.into_disk()
}

/// Everything in a spool is sent.
pub(crate) fn drain(mut spool: Spool<SimDisk>, world: &mut World) -> SimDisk {
    loop {
        world.give_key(&mut spool);
        spool.seal_all(world.now);
        while spool.poll_event().is_some() {}
        if Class::ALL
            .into_iter()
            .all(|class| spool.sealed(class).next().is_none())
        {
            return spool.into_disk();
        }
        for class in Class::ALL {
            while spool.sealed(class).next().is_some() {
                send(&mut spool, world, class);
                while spool.poll_event().is_some() {}
            }
        }
    }
}
