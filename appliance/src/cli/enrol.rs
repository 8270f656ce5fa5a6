//! `outstation enrol`: join a fleet.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::Failure;
use crate::config::Config;
use crate::io::uplink;

/// Arguments of `enrol`.
#[derive(Debug, Args)]
pub(super) struct EnrolArgs {
    /// The factory.
    #[arg(long, value_name = "HOST:PORT")]
    factory: String,
    /// The one-time code, as `outstation-factory devices add` printed it.
    #[arg(value_name = "CODE", num_args = 1..)]
    code: Vec<String>,
    /// Folder of what must outlive a restart [state.folder].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub(super) fn enrol(args: &EnrolArgs) -> Result<(), Failure> {
    let folder = args
        .state
        .clone()
        .unwrap_or_else(|| state_folder(&Config::default()));
    // Who typed spaces instead of hyphens typed several arguments.
    let code = args.code.join(" ");
    let joined = super::runtime()?.block_on(uplink::enrol::enrol(&args.factory, &code, &folder))?;
    let flag = if folder == state_folder(&Config::default()) {
        String::new()
    } else {
        let whole = std::path::absolute(&folder).unwrap_or(folder);
        format!(" (with state.folder = \"{}\")", whole.display())
    };
    super::show(&format!(
        "this box is `{}` ({}) in the fleet of {}\n\
         start `outstation serve`{flag}, or restart it: it sends what it sees from then on\n",
        joined.name, joined.appliance, joined.factory
    ))
}

/// Where the box keeps what must outlive a restart.
pub(super) fn state_folder(config: &Config) -> PathBuf {
    let configured = config.state.folder.clone();
    let systemd = || {
        let folders = std::env::var_os("STATE_DIRECTORY")?;
        // Several are separated by colons; the unit has one.
        Some(PathBuf::from(folders)).filter(|folder| folder.is_absolute())
    };
    configured
        .or_else(systemd)
        .unwrap_or_else(|| Path::new("/var/lib/outstation").to_owned())
}
