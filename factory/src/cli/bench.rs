//! `outstation-factory bench-ingest`: how much one replica takes from many boxes.
//!
//! Start the replica on one core and this on another: `taskset -c 0 outstation-factory serve …`,
//! `taskset -c 1 outstation-factory bench-ingest …`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use outstation_wire::segment::Class;
use outstation_wire::uplink::FactoryMessage;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Failure, KeysArgs, UNAVAILABLE};
use crate::keys::Keys;
use crate::trial::{self, TrialBox, TrialError};

/// Arguments of `bench-ingest`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    keys: KeysArgs,
    /// The replica.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4434")]
    factory: SocketAddr,
    /// Boxes at once.
    #[arg(long, default_value_t = 200)]
    boxes: u32,
    /// Segments of each.
    #[arg(long, default_value_t = 8)]
    segments: u64,
    /// So many of the boxes at once: each comes, says Hello, sends its segments and goes. Default: all stay connected.
    #[arg(long)]
    at_once: Option<usize>,
    /// KiB of the smallest segment.
    #[arg(long, default_value_t = 1024)]
    kib_min: u64,
    /// KiB of the largest.
    #[arg(long, default_value_t = 8192)]
    kib_max: u64,
    /// Seconds that all boxes stay connected afterwards, to see what an idle connection costs the replica.
    #[arg(long, default_value_t = 0)]
    stay_s: u64,
}

pub(super) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let keys = Keys::load(&args.keys.keys)?;
    let failed = |e: TrialError| Failure::new(UNAVAILABLE, e.to_string());
    let runtime = super::runtime(1)?;
    runtime.block_on(run(args, &keys)).map_err(failed)
}

/// Visits of boxes, a few at a time: what a large fleet is to its factory.
async fn visits(args: &BenchArgs, keys: &Keys, at_once: usize) -> Result<(), TrialError> {
    let mut epoch = [0; 16];
    aws_lc_rs::rand::fill(&mut epoch)?;
    let mut boxes = JoinSet::new();
    let (mut bytes, mut busy) = (0, 0_u64);
    let started = Instant::now();
    let count = |ended: Result<Result<(u64, u64), TrialError>, _>| match ended {
        Ok(counts) => counts,
        Err(error) => Err(TrialError::from(error)),
    };
    for number in 0..args.boxes {
        if boxes.len() >= at_once
            && let Some(ended) = boxes.join_next().await
        {
            let (sent, refused) = count(ended)?;
            bytes += sent;
            busy += refused;
        }
        let mut appliance = epoch;
        appliance[..4].copy_from_slice(&number.to_be_bytes());
        let trial = TrialBox::enrolled(keys, appliance)?;
        let (factory, segments) = (args.factory, args.segments);
        let kib = usize::try_from(args.kib_min)?;
        boxes.spawn(async move {
            let (_endpoint, connection) =
                trial.call(factory, trial::hello(epoch, 1, epoch)).await?;
            let (mut sent, mut refused) = (0, 0);
            for seq in 1..=segments {
                let segment = trial.segment(epoch, Class::P1, seq, kib << 10);
                let offer = trial::offer(epoch, Class::P1, seq, &segment);
                match trial::send(&connection, offer, &segment).await? {
                    FactoryMessage::Stored(_) => sent += segment.len() as u64,
                    FactoryMessage::Refused(_) => refused += 1,
                    other => return Err(format!("{other:?}").into()),
                }
            }
            connection.close(0_u32.into(), b"");
            Ok((sent, refused))
        });
    }
    while let Some(ended) = boxes.join_next().await {
        let (sent, refused) = count(ended)?;
        bytes += sent;
        busy += refused;
    }
    let seconds = started.elapsed().as_secs_f64();
    let text = format!(
        "{} visits, {:.0} MB, {busy} refused, in {seconds:.1} s: {:.0} visits/s\n",
        args.boxes,
        bytes as f64 / 1e6,
        f64::from(args.boxes) / seconds
    );
    super::show(&text).map_err(|failure| failure.message.into())
}

async fn run(args: &BenchArgs, keys: &Keys) -> Result<(), TrialError> {
    if let Some(at_once) = args.at_once {
        return visits(args, keys, at_once.max(1)).await;
    }
    let mut epoch = [0; 16];
    aws_lc_rs::rand::fill(&mut epoch)?;
    let sent = Arc::new(AtomicU64::new(0));
    let stay = std::time::Duration::from_secs(args.stay_s);
    let mut connected = Vec::new();
    for number in 0..args.boxes {
        let mut appliance = epoch;
        appliance[..4].copy_from_slice(&number.to_be_bytes());
        let trial = TrialBox::enrolled(keys, appliance)?;
        let call = trial
            .call(args.factory, trial::hello(epoch, 1, epoch))
            .await?;
        connected.push((trial, call));
    }
    let spread = args.kib_max.saturating_sub(args.kib_min).max(1);
    let started = Instant::now();
    let mut boxes = JoinSet::new();
    for (number, (trial, (endpoint, connection))) in (0_u64..).zip(connected) {
        let (sent, segments, kib_min) = (sent.clone(), args.segments, args.kib_min);
        boxes.spawn(async move {
            for seq in 1..=segments {
                // Sizes spread evenly, without a pattern between boxes.
                let kib = kib_min + (number * 37 + seq * 101) * 977 % spread;
                let segment = trial.segment(epoch, Class::P1, seq, usize::try_from(kib << 10)?);
                let offer = trial::offer(epoch, Class::P1, seq, &segment);
                loop {
                    match trial::send(&connection, offer.clone(), &segment).await? {
                        FactoryMessage::Stored(_) => break,
                        FactoryMessage::Refused(refused) if refused.retry_after_ms > 0 => {
                            tokio::time::sleep(std::time::Duration::from_millis(
                                refused.retry_after_ms,
                            ))
                            .await;
                        }
                        other => return Err(format!("{other:?}").into()),
                    }
                }
                sent.fetch_add(segment.len() as u64, Ordering::Relaxed);
            }
            Ok::<_, TrialError>((endpoint, connection))
        });
    }
    let mut idle = Vec::new();
    while let Some(ended) = boxes.join_next().await {
        idle.push(ended??);
    }
    let (bytes, seconds) = (
        sent.load(Ordering::Relaxed) as f64,
        started.elapsed().as_secs_f64(),
    );
    let text = format!(
        "{} boxes, {} segments, {:.0} MB in {seconds:.1} s: {:.1} MB/s\n",
        args.boxes,
        u64::from(args.boxes) * args.segments,
        bytes / 1e6,
        bytes / 1e6 / seconds,
    );
    super::show(&text).map_err(|failure| failure.message)?;
    tokio::time::sleep(stay).await;
    drop(idle);
    Ok(())
}
