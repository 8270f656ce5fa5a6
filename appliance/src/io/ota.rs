//! Models over the air: what is released is verified, fetched, tried and kept or taken back.

pub(crate) mod adding;
pub mod client;
pub mod download;
pub(crate) mod host;
mod housekeeping;
pub mod metadata;
pub(crate) mod opening;
pub mod runner;
pub mod source;
mod trying;
pub mod view;
pub mod web;
