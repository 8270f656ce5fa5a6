//! How fast segments become files, and in how much memory.
//!
//! `cargo run --release -p outstation-factory --example compact_speed -- 512` makes 512 MiB of segments in a folder of
//! the system's temporary files, takes them once, and prints MB/s and the largest resident size.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement has a clock, and fails by panicking"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Instant;

use outstation_factory::commits::Log;
use outstation_factory::compact::{CompactOptions, Compactor};
use outstation_factory::store::Store;
use outstation_wire::record::Record;
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;
use support::boxes::{Spool, inference};
use support::random::Random;

/// Bytes of text in a request: what a chat of a few turns has.
const TEXT_BYTES: usize = 2000;
/// Bytes of a segment, about.
const SEGMENT_BYTES: usize = 8 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse().unwrap());
    let mib: usize = arguments.next().unwrap_or(256);
    let at_once: usize = arguments.next().unwrap_or(1);
    let batch_mib: u64 = arguments.next().map_or(64, |mib| mib as u64);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    let key = FactoryKey::generate();
    let mut random = Random(1);
    let mut bytes_sent = 0;
    let records: Vec<Record> = (0..SEGMENT_BYTES / (TEXT_BYTES + 400))
        .map(|_| inference(&mut random, TEXT_BYTES))
        .collect();
    for number in 0..(mib << 20) / SEGMENT_BYTES {
        let mut spool = Spool::new(u8::try_from(number % 200).unwrap(), Class::P1, &key);
        let (path, bytes) = spool.seal_as(number as u64 * 10_000, &records);
        bytes_sent += bytes.len();
        store.put_once(&path, bytes.into()).await.unwrap();
    }
    drop(records);
    let before = status("VmHWM");
    let options = CompactOptions {
        segments_at_once: at_once,
        batch_bytes_max: batch_mib << 20,
        ..CompactOptions::default()
    };
    let compactor = Compactor::new(Log::new(store, "speed"), Arc::new([key]), options);
    let start = Instant::now();
    let done = compactor.run(u64::MAX / 2).await.unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("{done:?}");
    println!(
        "{:.0} MB in {seconds:.2} s: {:.0} MB/s, {:.0} rows/s; resident at most {} kB, {before} kB before",
        bytes_sent as f64 / 1e6,
        bytes_sent as f64 / 1e6 / seconds,
        done.rows as f64 / seconds,
        status("VmHWM")
    );
}

/// A number of this process in kB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
