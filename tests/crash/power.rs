//! The power goes at every operation of the disk, and again at every operation of the start after it.

use outstation_wire::seal::FactoryKey;

use crate::disk::{Cut, SimDisk};
use crate::history::{World, drain, limits, live};
use crate::seeds;
use crate::truth::Truth;

/// Steps of a history.
const STEPS: u32 = 60;

fn world(seed: u64) -> World {
    World::new(seed, Truth::new(FactoryKey::generate()))
}

/// A life that ends with a cut at an operation, or never.
fn first_life(seed: u64, cut_at: Option<u64>) -> (World, SimDisk) {
    let mut world = world(seed);
    let disk = SimDisk::cut_at(cut_at);
    let disk = match world.open(disk, limits()) {
        Ok(spool) => live(spool, &mut world, STEPS),
        Err((disk, error)) => {
            assert!(disk.is_cut(), "a good disk opens: {error}");
            disk
        }
    };
    (world, disk)
}

fn cuts(seed: u64, at: u64) -> [Cut; 5] {
    let torn = |n| Cut::Tears(seed << 32 | at << 8 | n);
    [Cut::Drops, Cut::Keeps, torn(0), torn(1), torn(2)]
}

#[test]
fn a_cut_at_any_operation_loses_nothing_acknowledged_and_doubles_nothing() {
    let (mut points, mut again) = (0_u64, 0_u64);
    for seed in seeds(3) {
        let (_, whole) = first_life(seed, None);
        for at in 1..=whole.operations {
            for (number, cut) in cuts(seed, at).into_iter().enumerate() {
                points += 1;
                let (mut world, disk) = first_life(seed, Some(at));
                let left = disk.after(cut);
                let before = world.clone();
                let spool = world
                    .open(left.clone(), limits())
                    .unwrap_or_else(|(_, error)| panic!("seed {seed}, cut {at} {cut:?}: {error}"));
                let start = spool.look(|disk| disk.operations);
                // What was told to the factory before the cut stays told; the rest arrives now.
                let spool_disk = drain(spool, &mut world);
                world.truth.check_nothing_acknowledged_is_lost();
                drop(spool_disk);
                // The same start, cut off again at each of its operations; not for every kind of first cut.
                if number != usize::try_from(at % 5).unwrap() {
                    continue;
                }
                for second in 1..=start {
                    again += 1;
                    let mut world = before.clone();
                    let mut disk = left.clone();
                    disk.cut_at = Some(second);
                    let disk = match world.open(disk, limits()) {
                        Ok(spool) => spool.into_disk(),
                        Err((disk, _)) => disk,
                    };
                    let left = disk.after(Cut::Tears(second << 8 | at));
                    let spool = world.open(left, limits()).unwrap_or_else(|(_, error)| {
                        panic!("seed {seed}, cuts {at} {cut:?} and {second}: {error}")
                    });
                    drain(spool, &mut world);
                    world.truth.check_nothing_acknowledged_is_lost();
                }
            }
        }
    }
    println!("{points} cuts, and {again} more while starting after one");
}

#[test]
fn a_life_of_many_cuts_stays_whole() {
    for seed in seeds(60) {
        let mut world = world(seed + 1000);
        let mut disk = SimDisk::default();
        for life in 0..12 {
            disk.operations = 0;
            disk.cut_at = Some(1 + world.random.below(250));
            disk = match world.open(disk, limits()) {
                Ok(spool) => live(spool, &mut world, 80),
                Err((disk, _)) => disk,
            };
            let cut = match world.random.below(4) {
                0 => Cut::Drops,
                1 => Cut::Keeps,
                _ => Cut::Tears(seed << 8 | life),
            };
            disk = disk.after(cut);
        }
        let spool = world
            .open(disk, limits())
            .unwrap_or_else(|(_, error)| panic!("seed {seed}: {error}"));
        drain(spool, &mut world);
        world.truth.check_nothing_acknowledged_is_lost();
    }
}

#[test]
fn the_checker_finds_a_lost_record() {
    let (mut world, disk) = first_life(1, None);
    let names = disk.names();
    let segment = names.iter().find(|name| name.ends_with(".open"));
    let mut disk = disk.after(Cut::Keeps);
    disk.flip(segment.expect("the last one is open"), 300, 0);
    let spool = world
        .open(disk, limits())
        .unwrap_or_else(|(_, error)| panic!("{error}"));
    drain(spool, &mut world);
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.truth.check_nothing_acknowledged_is_lost();
    }));
    assert!(
        checked.is_err(),
        "a flipped bit costs a record, and the checker must see it"
    );
}
