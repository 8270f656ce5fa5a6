//! Which releases the box follows.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ByteSize, ConfigError, window};
use crate::upload::Window;

/// Which releases the box follows. Without a ring it serves the configured model for ever.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModelsConfig {
    /// The ring, as the factory's rollouts name it.
    pub ring: Option<String>,
    /// `uplink`, the address of a web server like `https://models.example.org/ota`, or a folder with a bundle. Default
    /// `uplink`.
    pub source: String,
    /// Where models lie. Default: `models` in the state folder.
    pub folder: Option<PathBuf>,
    /// The root.json that the factory gave out: what everything is verified by. Needed once.
    pub root: Option<PathBuf>,
    /// A PEM file with the authority of the web server's certificate. Default: those of the system.
    pub authority: Option<PathBuf>,
    /// Seconds between two looks. Default 600.
    pub interval_s: u32,
    /// Bytes a second that a download takes at most, like `500KiB`. Default: no limit.
    pub bytes_per_s_max: Option<ByteSize>,
    /// Hours in which bytes are fetched, in UTC, like `22:00-06:00`. Default: all.
    pub window: Option<String>,
    /// What stays free on the disk. Default 256 MiB.
    pub reserve: ByteSize,
    /// Models that the memory is divided for: 1 or 2. With 2 a release is tried beside the model that serves, always;
    /// with 1 only where there happens to be room. Default 1.
    pub resident: u32,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self {
            ring: None,
            source: "uplink".to_owned(),
            folder: None,
            root: None,
            authority: None,
            interval_s: 600,
            bytes_per_s_max: None,
            window: None,
            reserve: ByteSize(256 << 20),
            resident: 1,
        }
    }
}

impl ModelsConfig {
    /// The window, read.
    pub fn window(&self) -> Result<Option<Window>, ConfigError> {
        window("models.window", self.window.as_deref())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(ring) = &self.ring
            && let Err(what) = outstation_wire::release::check_name(ring)
        {
            return Err(ConfigError::Text {
                key: "models.ring",
                what,
            });
        }
        if !(1..=86_400).contains(&self.interval_s) {
            return Err(ConfigError::Range {
                key: "models.interval_s",
                value: self.interval_s.into(),
                min: 1,
                max: 86_400,
            });
        }
        if !(1..=2).contains(&self.resident) {
            return Err(ConfigError::Range {
                key: "models.resident",
                value: self.resident.into(),
                min: 1,
                max: 2,
            });
        }
        self.window().map(drop)
    }
}
