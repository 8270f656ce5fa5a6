//! Power and heat, as Linux shows them in files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Probe, said};
use crate::doctor::facts::{Heat, Power, Read, Supply, Zone};

/// Trip points of a zone that are looked at; the kernel has at most 12.
const TRIPS_MAX: usize = 12;

impl Probe {
    /// What feeds the machine, and how it may draw on it.
    pub fn power(&self) -> Power {
        let mut governors = BTreeSet::new();
        for policy in self.policies() {
            if let Some(governor) = text(&policy.join("scaling_governor")) {
                let driver = text(&policy.join("scaling_driver")).unwrap_or_default();
                governors.insert((driver, governor));
            }
        }
        let supplies = folders(&self.at("sys/class/power_supply"), "");
        Power {
            jetson_mode: text(&self.at("var/lib/nvpmodel/status")).or_else(|| self.nvpmodel()),
            governors: governors.into_iter().collect(),
            supplies: supplies.iter().filter_map(|at| supply(at)).collect(),
        }
    }

    /// How warm it is, and whether it slows down for that.
    pub fn heat(&self) -> Heat {
        let zones = folders(&self.at("sys/class/thermal"), "thermal_zone");
        let mut heat = Heat {
            zones: zones.iter().filter_map(|at| zone(at)).collect(),
            throttled: self.throttled(),
            ..Heat::default()
        };
        for policy in self.policies() {
            let khz = |file| number(&policy.join(file));
            let Some((now, most)) = khz("scaling_max_freq").zip(khz("cpuinfo_max_freq")) else {
                continue;
            };
            heat.frequencies += 1;
            if now < most {
                heat.capped.push((name_of(&policy), now, most));
            }
        }
        heat
    }

    /// What the tool says where it left no file.
    fn nvpmodel(&self) -> Option<String> {
        let program = self.at("usr/sbin/nvpmodel");
        if self.root != Path::new("/") || !program.exists() {
            return None;
        }
        match said(&program, "-q") {
            Read::There(text) => Some(text.split_whitespace().collect::<Vec<_>>().join(" ")),
            _ => None,
        }
    }

    fn policies(&self) -> Vec<PathBuf> {
        folders(&self.at("sys/devices/system/cpu/cpufreq"), "policy")
    }

    /// Cores count for themselves, and each core shows the count of its package.
    fn throttled(&self) -> Option<u64> {
        let mut counts: Option<(u64, u64)> = None;
        for cpu in folders(&self.at("sys/devices/system/cpu"), "cpu") {
            let count = |file: &str| number(&cpu.join("thermal_throttle").join(file));
            if let Some(core) = count("core_throttle_count") {
                let (cores, package) = counts.unwrap_or_default();
                let here = count("package_throttle_count").unwrap_or(0);
                counts = Some((cores + core, package.max(here)));
            }
        }
        counts.map(|(cores, package)| cores + package)
    }
}

fn supply(at: &Path) -> Option<Supply> {
    let battery = text(&at.join("type"))? == "Battery";
    // That of a mouse or a headset feeds no machine.
    if text(&at.join("scope")).as_deref() == Some("Device") {
        return None;
    }
    let feeds = if battery {
        text(&at.join("status"))? == "Discharging"
    } else {
        number(&at.join("online"))? > 0
    };
    Some(Supply {
        name: name_of(at),
        battery,
        feeds,
        charge_percent: number(&at.join("capacity")),
    })
}

fn zone(at: &Path) -> Option<Zone> {
    let milli_c = |file: &str| text(&at.join(file))?.parse::<i64>().ok();
    let mut zone = Zone {
        name: text(&at.join("type"))?,
        milli_c: milli_c("temp")?,
        ..Zone::default()
    };
    for trip in 0..TRIPS_MAX {
        let Some(kind) = text(&at.join(format!("trip_point_{trip}_type"))) else {
            break;
        };
        // A point that is switched off is at 0 or below what there is.
        let limit = milli_c(&format!("trip_point_{trip}_temp")).filter(|&limit| limit > 0);
        let lower = |known: Option<i64>| known.into_iter().chain(limit).min();
        match &*kind {
            "passive" | "hot" => zone.passive_milli_c = lower(zone.passive_milli_c),
            "critical" => zone.critical_milli_c = lower(zone.critical_milli_c),
            _ => {}
        }
    }
    Some(zone)
}

/// Folders, and links to some, whose names are this and a number, or anything.
fn folders(at: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(at)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let numbered = |path: &PathBuf| {
        let rest = name_of(path).strip_prefix(name).map(str::to_owned);
        rest.is_some_and(|rest| name.is_empty() || rest.parse::<u32>().is_ok())
    };
    let mut found: Vec<_> = entries.map(|e| e.path()).filter(numbered).collect();
    found.sort();
    found
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.unwrap_or_default().into_owned()
}

fn text(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(file: &Path) -> Option<u64> {
    text(file)?.parse().ok()
}
