//! The machine: its clock, what feeds it, how warm it is.

use super::Finding;
use super::facts::{Facts, Read, Zone};
use crate::config::ByteSize;
use crate::status::span;

/// 2025 and 2100, seconds since 1970: no box lived before, and no certificate is good after.
const YEARS_UNIX_S: std::ops::Range<u64> = 1_735_689_600..4_102_444_800;
/// Two clocks that differ by less are the same.
const CLOCK_SLACK_S: u64 = 60;
/// A clock that is this far from the factory's is nobody's.
const FACTORY_SLACK_S: u64 = 300;
/// This near to the temperature at which it is switched off.
const CRITICAL_SLACK_MILLI_C: i64 = 5_000;
/// What our CUDA kernels take: Ampere, and a driver that reads PTX 8.0 and what an assembler of its time makes.
const GPU_CAPABILITY_MIN: (u32, u32) = (8, 0);
const GPU_DRIVER_MIN: u32 = 12_000;
/// The charge of a battery that is nearly empty.
const CHARGE_LOW_PERCENT: u64 = 20;

pub(super) fn clock(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "clock";
    const SET: &str =
        "Set it (`timedatectl set-ntp true`, or `date -s`), and look at the battery of the clock";
    let now = facts.now_unix_s;
    let clock = &facts.clock;
    let uplink = facts.answer.status().and_then(|s| s.uplink.as_ref());
    let ahead_s = uplink.and_then(|uplink| uplink.clock_ahead_s);
    let newest = clock.newest.as_ref();
    let behind = newest.filter(|(_, written)| *written > now.saturating_add(CLOCK_SLACK_S));
    let finding = if !YEARS_UNIX_S.contains(&now) {
        let found = format!("{now} s since 1970 is no time of this box's life");
        Finding::bad(NAME, found, SET)
    } else if let Some((file, written)) = behind {
        let by = span(written - now);
        Finding::bad(
            NAME,
            format!("{by} behind {file}, written by this box"),
            SET,
        )
    } else if let Some(ahead) = ahead_s.filter(|a| a.unsigned_abs() > FACTORY_SLACK_S) {
        let by = span(ahead.unsigned_abs());
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        Finding::warn(NAME, format!("{by} {side} the factory's"), SET)
    } else {
        match clock.synchronized {
            Some(true) => Finding::ok(NAME, "synchronized"),
            Some(false) => Finding::warn(NAME, "plausible, and not synchronized", SET),
            None => Finding::unknown(NAME, "whether somebody sets it; the time is plausible"),
        }
    };
    let finding = finding.number("unix_s", now);
    vec![match ahead_s {
        Some(ahead) => finding.number("ahead_of_factory_s", ahead),
        None => finding,
    }]
}

pub(super) fn gpu(facts: &Facts) -> Finding {
    const NAME: &str = "gpu";
    let wanted = facts.gpu.wanted;
    let lacks = |found: String, mend: &'static str| {
        if wanted {
            Finding::bad(NAME, found, mend)
        } else {
            Finding::unknown(NAME, found)
        }
    };
    let gpu = match &facts.gpu.found {
        Read::There(gpu) => gpu,
        Read::Broken(why) => return lacks(why.clone(), "See why with `nvidia-smi`"),
        Read::Absent | Read::Denied => {
            let mend = "Install NVIDIA's driver, or take engine.device out of the configuration";
            return lacks(
                "no NVIDIA driver, or nothing that it drives".to_owned(),
                mend,
            );
        }
    };
    let (major, minor) = gpu.capability;
    let memory = if gpu.unified {
        "the host's memory".to_owned()
    } else {
        format!(
            "{} of {} free",
            ByteSize(gpu.free_bytes),
            ByteSize(gpu.memory_bytes)
        )
    };
    let found = format!(
        "{}, compute capability {major}.{minor}, driver of CUDA {}.{}, {memory}",
        gpu.name,
        gpu.driver / 1000,
        gpu.driver % 1000 / 10
    );
    if gpu.capability < GPU_CAPABILITY_MIN {
        return lacks(
            format!("{found}: our kernels take 8.0 or newer"),
            "Take engine.device out of the configuration",
        );
    }
    if gpu.driver < GPU_DRIVER_MIN {
        return lacks(
            format!("{found}: our kernels take CUDA 12.0 or newer"),
            "Install a driver of 525 or newer",
        );
    }
    Finding::ok(NAME, found).number("free_bytes", gpu.free_bytes)
}

pub(super) fn power(facts: &Facts) -> Vec<Finding> {
    vec![power_mode(facts), cpu_governor(facts), power_supply(facts)]
}

fn power_mode(facts: &Facts) -> Finding {
    const NAME: &str = "power_mode";
    match &facts.power.jetson_mode {
        None => Finding::unknown(NAME, "no Jetson"),
        Some(mode) => Finding::ok(
            NAME,
            format!("{mode} (`nvpmodel -p --verbose` lists the others)"),
        ),
    }
}

fn cpu_governor(facts: &Facts) -> Finding {
    const NAME: &str = "cpu_governor";
    let governors = &facts.power.governors;
    if governors.is_empty() {
        return Finding::unknown(NAME, "this machine does not tell");
    }
    let words: Vec<_> = governors
        .iter()
        .map(|(driver, governor)| format!("{governor} ({driver})"))
        .collect();
    // These drivers choose the frequency by themselves, and call the usual way to do so powersave.
    let chooses = |driver: &str| driver == "intel_pstate" || driver.starts_with("amd-pstate");
    let slow = |(driver, governor): &(String, String)| governor == "powersave" && !chooses(driver);
    if governors.iter().any(slow) {
        return Finding::warn(
            NAME,
            format!("{}: the lowest frequency, always", words.join(", ")),
            "`cpupower frequency-set -g schedutil`, or `performance` where power is plenty",
        );
    }
    Finding::ok(NAME, words.join(", "))
}

fn power_supply(facts: &Facts) -> Finding {
    const NAME: &str = "power_supply";
    let supplies = &facts.power.supplies;
    if supplies.is_empty() {
        return Finding::unknown(NAME, "the machine names neither mains nor battery");
    }
    let mut supplies = supplies.iter();
    let Some(battery) = supplies.find(|supply| supply.battery && supply.feeds) else {
        return Finding::ok(NAME, "mains");
    };
    let charge = battery.charge_percent;
    let left = charge.map_or_else(String::new, |percent| format!(", {percent} % left"));
    let found = format!("runs on battery {}{left}", battery.name);
    let mend = "Look at the mains, its fuse and the plug";
    let finding = if charge.is_some_and(|percent| percent < CHARGE_LOW_PERCENT) {
        Finding::bad(NAME, found, mend)
    } else {
        Finding::warn(NAME, found, mend)
    };
    match charge {
        Some(percent) => finding.number("charge_percent", percent),
        None => finding,
    }
}

fn celsius(milli_c: i64) -> String {
    format!("{:.1} °C", milli_c as f64 / 1000.0)
}

pub(super) fn temperature(facts: &Facts) -> Finding {
    const NAME: &str = "temperature";
    const AIR: &str = "Look at fan, filter and sun, or lower the power mode";
    let zones = &facts.heat.zones;
    let Some(warmest) = zones.iter().max_by_key(|zone| zone.milli_c) else {
        return Finding::unknown(NAME, "this machine has no thermal zone");
    };
    let near = |limit: Option<i64>, slack: i64| {
        move |zone: &&Zone| limit.is_some_and(|limit| zone.milli_c >= limit - slack)
    };
    let critical = zones
        .iter()
        .find(|zone| near(zone.critical_milli_c, CRITICAL_SLACK_MILLI_C)(zone));
    let passive = zones
        .iter()
        .find(|zone| near(zone.passive_milli_c, 0)(zone));
    let finding = match (critical, passive) {
        (Some(zone), _) => {
            let limit = celsius(zone.critical_milli_c.unwrap_or_default());
            let (name, now) = (&zone.name, celsius(zone.milli_c));
            Finding::bad(
                NAME,
                format!("{name} has {now}, switches off at {limit}"),
                AIR,
            )
        }
        (None, Some(zone)) => {
            let limit = celsius(zone.passive_milli_c.unwrap_or_default());
            let (name, now) = (&zone.name, celsius(zone.milli_c));
            Finding::warn(
                NAME,
                format!("{name} has {now}, slows down at {limit}"),
                AIR,
            )
        }
        (None, None) => {
            let (name, now) = (&warmest.name, celsius(warmest.milli_c));
            Finding::ok(
                NAME,
                format!("at most {now} ({name}) of {} zones", zones.len()),
            )
        }
    };
    finding.number("temperature_max_milli_c", warmest.milli_c)
}

pub(super) fn throttling(facts: &Facts) -> Finding {
    const NAME: &str = "throttling";
    let heat = &facts.heat;
    if let Some((name, now, most)) = heat.capped.first() {
        return Finding::warn(
            NAME,
            format!(
                "{} of {} processors are held down, {name} to {} of {} MHz",
                heat.capped.len(),
                heat.frequencies,
                now / 1000,
                most / 1000
            ),
            "Answers are slower than they could be: look at heat, power supply and power mode",
        )
        .number("capped", heat.capped.len());
    }
    match heat.throttled {
        None if heat.frequencies == 0 => Finding::unknown(NAME, "this machine does not tell"),
        None => Finding::ok(NAME, "no processor is held down"),
        Some(0) => Finding::ok(NAME, "never since the machine began").number("throttled", 0),
        Some(times) => Finding::warn(
            NAME,
            format!("slowed down for heat {times} times since the machine began"),
            "Look at fan, filter and sun, or lower the power mode",
        )
        .number("throttled", times),
    }
}

pub(super) fn energy_meter(facts: &Facts) -> Finding {
    const NAME: &str = "energy_meter";
    if let Some(energy) = facts.answer.status().and_then(|s| s.energy.as_ref()) {
        let meter = &energy.meter;
        return match (energy.reads, energy.watts) {
            (true, Some(watts)) => Finding::ok(NAME, format!("{meter}: {watts:.1} W")),
            (true, None) => Finding::ok(NAME, format!("{meter}, no watts yet")),
            (false, _) => Finding::warn(
                NAME,
                format!("{meter} says nothing"),
                "The box looks for it every 10 s; the journal has the reason (`journalctl -u outstation -g energy`)",
            ),
        };
    }
    let meter = &facts.meter;
    match (&meter.name, meter.notes.first()) {
        _ if meter.refused => Finding::ok(NAME, "energy.meter is `none`"),
        (_, Some(note)) => {
            let mend = "Answers are not measured until then; docs/energy.md has the line to add";
            Finding::warn(NAME, note.clone(), mend)
        }
        (Some(name), None) => Finding::ok(NAME, format!("{name} is there")),
        (None, None) => Finding::unknown(NAME, "no meter on this machine"),
    }
}
