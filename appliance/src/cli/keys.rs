//! `outstation keys`: who may ask a box over HTTP.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::ServeArgs;
use super::enrol::state_folder;
use super::exit::{self, Failure};
use super::settings;
use crate::access::{Keys, SECRET_BYTES};
use crate::config::Config;
use crate::io::private;
use crate::request::{Class, Tenant};

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
    /// TOML configuration of the box.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key, print it once, and keep its digest. With the first key nobody comes in without one.
    Add {
        /// What to call it.
        name: String,
        /// Whose requests it makes, for fair parts and for logs. Default: the key's name.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// The least patient class that its requests have: interactive, standard or batch.
        #[arg(long, value_name = "CLASS", default_value = "interactive")]
        class: Class,
    },
    /// Names, tenants and classes; never what opens.
    List,
    /// Take a key away. It opens nothing a second later.
    Revoke {
        /// What it is called.
        name: String,
    },
}

/// Where the keys of a box are.
pub(super) fn file(config: &Config) -> PathBuf {
    let configured = config.access.keys.clone();
    configured.unwrap_or_else(|| state_folder(config).join("keys.json"))
}

pub(super) fn keys(args: &KeysArgs) -> Result<(), Failure> {
    let config = settings::read_unchecked(&ServeArgs {
        config: args.config.clone(),
        ..ServeArgs::default()
    })?;
    let path = file(&config);
    let unread = |e| Failure::io(format!("cannot read {}", path.display()), e);
    let mut keys = match fs::read(&path) {
        Ok(json) => Keys::parse(&json)
            .map_err(|e| Failure::new(exit::CONFIG, e.to_string()).at(path.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Keys::default(),
        Err(e) => return Err(unread(e)),
    };
    let wrong = |e: crate::access::KeysError| Failure::new(exit::BAD_INPUT, e.to_string());
    match &args.command {
        KeysCommand::Add {
            name,
            tenant,
            class,
        } => {
            let mut random = [0; SECRET_BYTES];
            aws_lc_rs::rand::fill(&mut random).expect("the system has random bytes");
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let tenant = tenant.as_deref().unwrap_or(name);
            let secret = keys
                .add(name, tenant, *class, &random, now.as_secs())
                .map_err(wrong)?;
            write(&path, &keys)?;
            super::show(&format!("{secret}\n"))
        }
        KeysCommand::List => super::show(&table(&keys)),
        KeysCommand::Revoke { name } => {
            keys.revoke(name).map_err(wrong)?;
            write(&path, &keys)
        }
    }
}

fn table(keys: &Keys) -> String {
    let mut text = String::new();
    for key in keys.iter() {
        let in_records = Tenant::named(&key.tenant).name();
        let _ = writeln!(
            text,
            "{:<24} {:<12} tenant {} ({in_records} in records)",
            key.name,
            key.class.name(),
            key.tenant
        );
    }
    text
}

fn write(path: &Path, keys: &Keys) -> Result<(), Failure> {
    let put = || {
        private::make_folder(path.parent().unwrap_or(Path::new(".")))?;
        private::write(path, &keys.to_json())
    };
    put().map_err(|e| Failure::io(format!("cannot write {}", path.display()), e))
}
