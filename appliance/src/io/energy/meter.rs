//! Sensors of this machine, as Linux shows them in files.
//!
//! A meter is one number for the whole machine or module, or several that do not contain each other. What is only a
//! part of the machine, like a graphics card, is never taken for the whole: then there is no meter.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::config::MeterChoice;
use crate::energy;

/// What was found, and what an operator should know about it.
#[derive(Debug, Default)]
pub struct Search {
    /// The meter.
    pub meter: Option<Meter>,
    /// What stands in the way, and what to do.
    pub notes: Vec<String>,
}

/// A meter of this machine.
#[derive(Debug)]
pub struct Meter {
    /// What it measures, in a word or two.
    pub name: String,
    sources: Vec<Source>,
}

#[derive(Debug)]
enum Source {
    /// µJ, from 0 again after `range`.
    Counter { file: PathBuf, range: Option<u64> },
    /// µW.
    Power(PathBuf),
    /// mV and mA: their product is µW.
    Rail { volts: PathBuf, amperes: PathBuf },
    /// Of a folder of `power_supply`, while it discharges.
    Battery(PathBuf),
}

impl Meter {
    /// What it counts.
    pub fn kind(&self) -> energy::Meter {
        let range = |source: &Source| match source {
            Source::Counter { range, .. } => Some(*range),
            _ => None,
        };
        let ranges: Option<Box<[_]>> = self.sources.iter().map(range).collect();
        ranges.map_or(energy::Meter::Power, energy::Meter::Counters)
    }

    /// Values of all sources.
    pub fn read(&self) -> std::io::Result<Vec<u64>> {
        self.sources.iter().map(Source::read).collect()
    }
}

impl Source {
    fn read(&self) -> std::io::Result<u64> {
        match self {
            Self::Counter { file, .. } | Self::Power(file) => number(file),
            Self::Rail { volts, amperes } => Ok(number(volts)?.saturating_mul(number(amperes)?)),
            Self::Battery(folder) => {
                if text(&folder.join("status"))? != "Discharging" {
                    let message = "the battery does not feed the machine now";
                    return Err(Error::new(ErrorKind::WouldBlock, message));
                }
                let power = folder.join("power_now");
                if power.exists() {
                    return number(&power);
                }
                let volts = number(&folder.join("voltage_now"))?;
                let amperes = number(&folder.join("current_now"))?;
                Ok(volts.saturating_mul(amperes) / 1_000_000)
            }
        }
    }
}

impl Search {
    /// Looks for the meter that was chosen. `sysfs` is where the system shows its sensors: `/sys`.
    pub fn run(sysfs: &Path, choice: &MeterChoice) -> Self {
        let mut search = Self::default();
        search.meter = match choice {
            MeterChoice::None => None,
            MeterChoice::Auto => {
                let jetson = search.jetson(sysfs);
                let rapl = jetson.or_else(|| search.rapl(sysfs));
                rapl.or_else(|| search.whole_machine(sysfs))
                    .or_else(|| battery(sysfs))
            }
            MeterChoice::At(path) => search.at(path),
        };
        search
    }

    /// INA3221 of a Jetson: the rail that feeds the module, or those that together do.
    fn jetson(&mut self, sysfs: &Path) -> Option<Meter> {
        let mut rails = Vec::new();
        for chip in folders(&sysfs.join("bus/i2c/drivers/ina3221")) {
            for monitor in folders(&chip.join("hwmon")) {
                for channel in 1..=3 {
                    let label = text(&monitor.join(format!("in{channel}_label")));
                    let volts = monitor.join(format!("in{channel}_input"));
                    if let (Ok(label), Some(rail)) = (label, rail(&volts)) {
                        rails.push((label, rail));
                    }
                }
            }
        }
        for set in RAILS_IN {
            let place = |label: &&str| rails.iter().position(|(found, _)| found == label);
            let places: Option<Vec<_>> = set.iter().map(place).collect();
            if let Some(places) = places {
                let mut rails: Vec<_> = rails.into_iter().map(|(_, rail)| Some(rail)).collect();
                let sources = places.into_iter().filter_map(|place| rails[place].take());
                return self.readable(Meter {
                    name: format!("jetson {}", set.join(" + ")),
                    sources: sources.collect(),
                });
            }
        }
        if !rails.is_empty() {
            let labels: Vec<_> = rails.iter().map(|(label, _)| label.as_str()).collect();
            self.notes.push(format!(
                "INA3221 has rails {}, of which none is known to feed the module: name its `in…_input` in energy.meter \
                 if one does",
                labels.join(", ")
            ));
        }
        None
    }

    /// RAPL: the platform where it is counted, or else all packages and their memory.
    fn rapl(&mut self, sysfs: &Path) -> Option<Meter> {
        let mut zones = Vec::new();
        for folder in folders(&sysfs.join("class/powercap")) {
            // Not `intel-rapl-mmio:…`, which are the same packages again.
            let is_zone = file_name(&folder).starts_with("intel-rapl:");
            if let (true, Ok(name)) = (is_zone, text(&folder.join("name"))) {
                zones.push((name, folder));
            }
        }
        let chosen = |wanted: &dyn Fn(&str) -> bool| -> Vec<_> {
            zones.iter().filter(|(name, _)| wanted(name)).collect()
        };
        let platform = chosen(&|name| name == "psys");
        let packages = chosen(&|name| name.starts_with("package"));
        let all = match (platform.is_empty(), packages.is_empty()) {
            (false, _) => platform,
            (true, false) => chosen(&|name| name.starts_with("package") || name == "dram"),
            (true, true) => return None,
        };
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        let meter = Meter {
            name: format!("rapl {}", names.join(" + ")),
            sources: all.iter().map(|(_, folder)| counter(folder)).collect(),
        };
        self.readable(meter)
    }

    /// A power meter of the whole machine: ACPI's, or the input monitor of a Jetson Thor.
    fn whole_machine(&mut self, sysfs: &Path) -> Option<Meter> {
        let monitors = folders(&sysfs.join("class/hwmon"));
        for wanted in ["power_meter", "ina238"] {
            let named = |folder: &&PathBuf| {
                text(&folder.join("name")).is_ok_and(|name| name == wanted)
                    && power(folder).is_some()
            };
            let found: Vec<_> = monitors.iter().filter(named).collect();
            match found[..] {
                [] => {}
                [one] => {
                    return self.readable(Meter {
                        name: format!("hwmon {wanted}"),
                        sources: power(one).map(Source::Power).into_iter().collect(),
                    });
                }
                [..] => self.notes.push(format!(
                    "there are {} monitors `{wanted}`: name the power file of the one that feeds the machine in \
                     energy.meter",
                    found.len()
                )),
            }
        }
        None
    }

    /// A file or folder that the operator named.
    fn at(&mut self, path: &Path) -> Option<Meter> {
        let name = file_name(path);
        let folder = path.parent().unwrap_or(path);
        let source = if path.join("energy_uj").is_file() {
            Some(counter(path))
        } else if name == "energy_uj" && path.is_file() {
            Some(counter(folder))
        } else if name.starts_with("power") && path.is_file() {
            Some(Source::Power(path.to_owned()))
        } else if path.join("status").is_file() && path.join("voltage_now").is_file() {
            Some(Source::Battery(path.to_owned()))
        } else {
            rail(path)
        };
        let Some(source) = source else {
            self.notes.push(format!(
                "energy.meter names {}, which is no sensor: a folder with `energy_uj`, a file `power…`, an \
                 `in…_input` beside its `curr…_input`, or a battery's folder",
                path.display()
            ));
            return None;
        };
        self.readable(Meter {
            name: path.display().to_string(),
            sources: vec![source],
        })
    }

    /// The meter, if it may be read. One that says nothing at the moment is one all the same.
    fn readable(&mut self, meter: Meter) -> Option<Meter> {
        if let Err(error) = meter.read()
            && let Some(note) = denied(&meter.name, &error)
        {
            self.notes.push(note);
            return None;
        }
        Some(meter)
    }
}

/// What to do about a meter that this user may not read.
pub(super) fn denied(meter: &str, error: &Error) -> Option<String> {
    (error.kind() == ErrorKind::PermissionDenied).then(|| {
        format!(
            "{meter} may not be read by this user ({error}): since CVE-2020-8694 RAPL is root's alone; let the box's \
             group read it (`chgrp outstation FILE; chmod 440 FILE` at each start, docs/energy.md), or say \
             energy.meter = \"none\""
        )
    })
}

/// Rails that together are all that the module takes, each a set of labels; the first that is there counts. Rails of
/// which one feeds another are never in one set.
const RAILS_IN: [&[&str]; 5] = [
    // Xavier NX, Orin NX, Orin Nano, TX2: the module's input.
    &["VDD_IN"],
    // Nano.
    &["POM_5V_IN"],
    &["5V_IN"],
    // AGX Orin has no rail for all of it. VDDQ_VDD2_1V8AO comes out of the last one.
    &["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
    // AGX Xavier.
    &["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"],
];

fn battery(sysfs: &Path) -> Option<Meter> {
    let is_battery = |folder: &PathBuf| {
        text(&folder.join("type")).is_ok_and(|kind| kind == "Battery")
            // A mouse has one, too.
            && text(&folder.join("scope")).map_or(true, |scope| scope != "Device")
    };
    let mut found = folders(&sysfs.join("class/power_supply"));
    found.retain(is_battery);
    let name = format!("battery {}", file_name(found.first()?));
    let sources = found.into_iter().map(Source::Battery).collect();
    Some(Meter { name, sources })
}

fn counter(folder: &Path) -> Source {
    Source::Counter {
        file: folder.join("energy_uj"),
        range: number(&folder.join("max_energy_range_uj")).ok(),
    }
}

fn rail(volts: &Path) -> Option<Source> {
    let number = file_name(volts);
    let number = number.strip_prefix("in")?.strip_suffix("_input")?;
    let amperes = volts.with_file_name(format!("curr{number}_input"));
    let volts = volts.to_owned();
    (volts.is_file() && amperes.is_file()).then_some(Source::Rail { volts, amperes })
}

/// The power of a monitor, in µW.
fn power(monitor: &Path) -> Option<PathBuf> {
    let files = ["power1_input", "power1_average"].map(|name| monitor.join(name));
    files.into_iter().find(|file| file.is_file())
}

/// Folders in a folder, by name. None where it is missing.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
    // Most are links.
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn text(file: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(file).map(|text| text.trim().to_owned())
}

/// A number; currents may be a little below 0, which is none.
fn number(file: &Path) -> std::io::Result<u64> {
    let text = text(file)?;
    let bad = |_| {
        let message = format!("{} says `{text}`, which is no number", file.display());
        Error::new(ErrorKind::InvalidData, message)
    };
    let number: i128 = text.parse().map_err(bad)?;
    u64::try_from(number.max(0)).map_err(|_| ErrorKind::InvalidData.into())
}
