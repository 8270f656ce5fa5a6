//! Whether and how the box measures what it takes.

use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;

/// How the box measures the energy that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EnergyConfig {
    /// `auto`: the rail that feeds a Jetson, RAPL, a power meter of the whole machine, or a battery, whichever is
    /// there, in this order. `none`. Or the path of a sensor: a folder with `energy_uj`, a file `power1_input`, an
    /// `in1_input` beside its `curr1_input`, a battery's folder. Default `auto`.
    pub meter: String,
    /// Milliseconds between two readings, from 10 to 1000. Default 100.
    pub interval_ms: u32,
    /// Where the system shows its sensors; a container may have those of its host elsewhere. Default `/sys`.
    pub sysfs: PathBuf,
}

impl Default for EnergyConfig {
    fn default() -> Self {
        Self {
            meter: "auto".to_owned(),
            interval_ms: 100,
            sysfs: PathBuf::from("/sys"),
        }
    }
}

/// Which meter is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeterChoice {
    /// The best that there is.
    Auto,
    /// None.
    None,
    /// This sensor.
    At(PathBuf),
}

impl EnergyConfig {
    /// The choice, read.
    pub fn choice(&self) -> MeterChoice {
        match self.meter.as_str() {
            "auto" => MeterChoice::Auto,
            "none" => MeterChoice::None,
            path => MeterChoice::At(path.into()),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let MeterChoice::At(path) = self.choice()
            && !path.is_absolute()
        {
            let meter = &self.meter;
            return Err(ConfigError::Text {
                key: "energy.meter",
                what: format!("`{meter}` is no meter: say auto, none, or the path of a sensor"),
            });
        }
        if !(10..=1000).contains(&self.interval_ms) {
            return Err(ConfigError::Range {
                key: "energy.interval_ms",
                value: self.interval_ms.into(),
                min: 10,
                max: 1000,
            });
        }
        Ok(())
    }
}
