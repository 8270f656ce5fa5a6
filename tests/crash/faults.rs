//! A disk that has power and fails: serving goes on, and what is lost is told.

use std::time::Duration;

use outstation::disk::DiskError;
use outstation::spool::{Quotas, Spool, SpoolLimits};
use outstation_wire::record::GapReason;
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;

use crate::disk::{Cut, Fault, SimDisk};
use crate::history::{World, drain, limits, live, send};
use crate::seeds;
use crate::truth::Truth;

fn world(seed: u64) -> World {
    World::new(seed, Truth::new(FactoryKey::generate()))
}

fn open(world: &mut World, disk: SimDisk, limits: SpoolLimits) -> Spool<SimDisk> {
    match world.open(disk, limits) {
        Ok(spool) => spool,
        Err((_, error)) => panic!("a good disk opens: {error}"),
    }
}

/// Records for a while, whatever the disk does, as the disk's thread would bring them.
fn record_on(spool: &mut Spool<SimDisk>, world: &mut World, records: u32) {
    for _ in 0..records {
        world.give_key(spool);
        let class = world.class();
        if !spool.has_room(class, 400) {
            spool.commit(world.now);
        }
        if world.append(spool, class).is_none() {
            world.truth.issue();
            spool.append_lost(class, 1, 400, spool.lost_reason());
        }
        let time = Duration::from_millis(world.random.below(400));
        world.pass(time);
        spool.handle_time(world.now);
        while spool.poll_event().is_some() {}
    }
}

/// The disk is well again: time passes, and everything is sent.
fn mend_and_drain(mut spool: Spool<SimDisk>, world: &mut World) -> SimDisk {
    spool.mend(|disk| disk.faults = crate::disk::Faults::default());
    for _ in 0..4 {
        world.pass(Duration::from_secs(30));
        world.give_key(&mut spool);
        spool.handle_time(world.now);
        spool.commit(world.now);
        while spool.poll_event().is_some() {}
    }
    drain(spool, world)
}

#[test]
fn one_failure_at_any_operation_is_told_or_costs_nothing() {
    let mut points = 0;
    for seed in seeds(2) {
        let mut calm = world(seed);
        let mut spool = open(&mut calm, SimDisk::default(), limits());
        record_on(&mut spool, &mut calm, 60);
        let operations = spool.look(|disk| disk.operations);
        let kinds = [
            Fault::Error(DiskError::Failed(5)),
            Fault::Error(DiskError::Full),
            Fault::Error(DiskError::ReadOnly),
            Fault::Lossy,
        ];
        for at in 1..=operations {
            for fault in kinds {
                points += 1;
                let mut world = world(seed);
                let mut disk = SimDisk::default();
                disk.faults.at.insert(at, fault);
                let Ok(mut spool) = world.open(disk, limits()) else {
                    continue; // the shell tries again later
                };
                record_on(&mut spool, &mut world, 60);
                let disk = mend_and_drain(spool, &mut world);
                world.truth.check_nothing_is_silent();
                // And what is believed to be on the disk is.
                let spool = open(&mut world, disk.after(Cut::Drops), limits());
                drain(spool, &mut world);
            }
        }
    }
    println!("{points} failures");
}

#[test]
fn a_failed_sync_followed_by_a_cut_loses_nothing_acknowledged() {
    for seed in seeds(200) {
        let mut world = world(seed);
        let mut disk = SimDisk::default();
        for _ in 0..6 {
            let at = 10 + world.random.below(200);
            disk.faults.at.insert(at, Fault::Lossy);
        }
        let Ok(spool) = world.open(disk, limits()) else {
            continue;
        };
        let disk = live_with_faults(spool, &mut world);
        let mut spool = open(&mut world, disk.after(Cut::Drops), limits());
        world.give_key(&mut spool);
        drain(spool, &mut world);
        world.truth.check_nothing_acknowledged_is_lost();
    }
}

/// As `live`, but a record counts as acknowledged only if the spool says that it is durable.
fn live_with_faults(mut spool: Spool<SimDisk>, world: &mut World) -> SimDisk {
    for _ in 0..60 {
        world.give_key(&mut spool);
        let class = world.class();
        let before = spool.numbers();
        let number = world.append(&mut spool, class);
        spool.commit(world.now);
        let after = spool.numbers();
        let all = after.records_durable > before.records_durable && !after.degraded;
        let none_lost = after.records_lost == before.records_lost;
        if let Some(number) = number.filter(|_| all && none_lost) {
            world.truth.acknowledge([number]);
        }
        world.pass(Duration::from_secs(2));
        spool.handle_time(world.now);
        while spool.poll_event().is_some() {}
    }
    spool.into_disk()
}

#[test]
fn a_disk_that_fails_for_long_is_told_when_it_is_well_again() {
    let errors = [DiskError::Failed(5), DiskError::Full, DiskError::ReadOnly];
    for seed in seeds(40) {
        for error in errors {
            let mut world = world(seed);
            let mut disk = SimDisk::default();
            disk.faults.broken = Some((60, 100_000, error));
            let mut spool = open(&mut world, disk, limits());
            record_on(&mut spool, &mut world, 300);
            assert!(
                spool.numbers().degraded,
                "it says that it does not take records"
            );
            mend_and_drain(spool, &mut world);
            world.truth.check_nothing_is_silent();
            assert!(
                world.truth.arrived() > 3,
                "what fitted in memory is not lost"
            );
        }
    }
}

#[test]
fn a_full_disk_costs_the_least_first() {
    let mut world = world(5);
    let mut disk = SimDisk::default();
    disk.faults.capacity = Some(8192 + 12 * 2048);
    let mut spool = open(&mut world, disk, limits());
    record_on(&mut spool, &mut world, 600);
    let numbers = spool.numbers();
    assert!(
        numbers.segments[0] > numbers.segments[2],
        "P0 stays: {numbers:?}"
    );
    mend_and_drain(spool, &mut world);
    world.truth.check_nothing_is_silent();
}

#[test]
fn thirty_days_offline_stay_within_the_quota_and_come_out_oldest_first() {
    let quota = 256 << 10;
    let limits = SpoolLimits {
        quotas: Quotas::of_total(quota),
        ..limits()
    };
    let mut world = world(30);
    let mut spool = open(&mut world, SimDisk::default(), limits);
    let minutes = 30 * 24 * 60;
    for minute in 0..minutes {
        world.give_key(&mut spool);
        // Most of it is metadata; one record in 60 is flagged.
        let class = match world.random.below(60) {
            0 => Class::P0,
            1..15 => Class::P1,
            _ => Class::P2,
        };
        if !spool.has_room(class, 400) {
            spool.commit(world.now);
        }
        world.append(&mut spool, class).expect("it was committed");
        world.pass(Duration::from_mins(1));
        spool.handle_time(world.now);
        while spool.poll_event().is_some() {}
        if minute % 1000 == 0 {
            let bytes: u64 = spool.numbers().bytes.iter().sum();
            assert!(
                bytes <= quota,
                "{bytes} of {quota} bytes after {minute} minutes"
            );
        }
        // A power cut each day.
        if minute % 1440 == 1439 {
            let disk = spool.into_disk().after(Cut::Keeps);
            spool = open(&mut world, disk, limits);
        }
    }
    let numbers = spool.numbers();
    assert!(
        numbers.records_lost > 10_000,
        "the quota is too small for it: {numbers:?}"
    );
    drain(spool, &mut world);
    assert_eq!(world.truth.out_of_order, 0, "oldest first");
    world.truth.check_nothing_is_silent();
    println!(
        "{} records in 30 days, {} arrived, {numbers:?}",
        world.truth.issued(),
        world.truth.arrived()
    );
}

#[test]
fn a_flood_is_counted() {
    let mut world = world(9);
    let mut spool = open(&mut world, SimDisk::default(), limits());
    world.give_key(&mut spool);
    spool.append_lost(Class::P2, 1000, 50_000, GapReason::Overrun);
    world.append(&mut spool, Class::P2).expect("there is room");
    drain(spool, &mut world);
    for _ in 0..1000 {
        world.truth.issue();
    }
    world.truth.check_nothing_is_silent();
}

#[test]
fn two_damaged_states_begin_another_epoch_and_lose_no_segment() {
    let mut world = world(11);
    let spool = open(&mut world, SimDisk::default(), limits());
    let disk = live(spool, &mut world, 80);
    let mut disk = disk.after(Cut::Keeps);
    for name in ["spool.a", "spool.b"] {
        disk.flip(name, 30, 3);
    }
    let spool = open(&mut world, disk, limits());
    let disk = live(spool, &mut world, 80);
    let spool = open(&mut world, disk.after(Cut::Keeps), limits());
    drain(spool, &mut world);
    world.truth.check_nothing_acknowledged_is_lost();
}

#[test]
fn segments_of_a_later_version_stay_where_they_are() {
    let mut world = world(12);
    let spool = open(&mut world, SimDisk::default(), limits());
    let disk = live(spool, &mut world, 120);
    let mut disk = disk.after(Cut::Keeps);
    let names = disk.names();
    let segment = names
        .iter()
        .find(|name| name.ends_with(".seg"))
        .expect("some were sealed");
    disk.flip(segment, 8, 1);
    let spool = open(&mut world, disk, limits());
    let disk = drain(spool, &mut world);
    assert!(
        disk.names().contains(segment),
        "{segment} is not ours to touch"
    );
}

#[test]
fn another_epoch_begins_in_new_segments() {
    let mut world = world(13);
    let mut spool = open(&mut world, SimDisk::default(), limits());
    world.give_key(&mut spool);
    world.append(&mut spool, Class::P1);
    spool.begin_epoch([7; 16], world.now);
    let old = spool.sealed(Class::P1).next().expect("it was sealed");
    assert_ne!(old.epoch, [7; 16]);
    // Keys are bound to an epoch: those in stock are of no use.
    world.give_key(&mut spool);
    world.append(&mut spool, Class::P1);
    spool.seal_all(world.now);
    send(&mut spool, &mut world, Class::P1);
    let new = spool.sealed(Class::P1).next().expect("and another");
    assert_eq!(new.epoch, [7; 16]);
    drain(spool, &mut world);
}

#[test]
fn a_cut_soon_after_a_failed_sync_doubles_nothing() {
    let mut points = 0;
    for seed in seeds(2) {
        let mut calm = world(seed);
        let mut spool = open(&mut calm, SimDisk::default(), limits());
        record_on(&mut spool, &mut calm, 20);
        let operations = spool.look(|disk| disk.operations);
        for at in 1..=operations {
            for after in 1..=12 {
                let torn = Cut::Tears(at << 8 | after);
                // A sync that fails may have lost what was written, or not.
                let error = Fault::Error(DiskError::Failed(5));
                for (cut, fault) in [(Cut::Keeps, error), (torn, error), (torn, Fault::Lossy)] {
                    points += 1;
                    let mut world = world(seed);
                    let mut disk = SimDisk::cut_at(Some(at + after));
                    disk.faults.at.insert(at, fault);
                    let disk = match world.open(disk, limits()) {
                        Ok(mut spool) => {
                            record_on(&mut spool, &mut world, 20);
                            spool.into_disk()
                        }
                        Err((disk, _)) => disk,
                    };
                    // What was written twice would arrive twice, which the truth does not take.
                    let spool = open(&mut world, disk.after(cut), limits());
                    drain(spool, &mut world);
                }
            }
        }
    }
    println!("{points} failures with a cut after them");
}

#[test]
fn failures_that_follow_each_other_and_a_cut_double_nothing() {
    let limits = SpoolLimits {
        retry_after: Duration::from_millis(200),
        ..limits()
    };
    for seed in seeds(3000) {
        let mut world = world(seed);
        let at = 10 + world.random.below(100);
        let mut disk = SimDisk::cut_at(Some(at + 8 + world.random.below(30)));
        for gap in [0, 2, 3 + world.random.below(4)] {
            let error = Fault::Error(DiskError::Failed(5));
            disk.faults.at.insert(at + gap, error);
        }
        let Ok(mut spool) = world.open(disk, limits) else {
            continue;
        };
        record_on(&mut spool, &mut world, 40);
        let cut = match world.random.below(3) {
            0 => Cut::Keeps,
            _ => Cut::Tears(seed),
        };
        let disk = spool.into_disk().after(cut);
        let spool = open(&mut world, disk, limits);
        drain(spool, &mut world);
    }
}
