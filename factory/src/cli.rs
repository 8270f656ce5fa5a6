//! The command line of the data: for each subcommand its arguments, and what it does and says.

pub mod compact;
pub mod erase;
pub mod export;
pub mod files;
pub mod retain;
