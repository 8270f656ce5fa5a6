//! `outstation-factory serve`: keys → store → sockets → serve, until a signal.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use outstation_wire::seal::FactoryKey;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::{CONFIG, Failure, IO, KeysArgs, StoreArgs};
use crate::clean::{CleanOptions, clean};
use crate::clock::unix_ms;
use crate::commits::Log;
use crate::compact::{CompactError, CompactOptions, Compactor};
use crate::keys::{Keys, Origin};
use crate::merge::{MergeOptions, merge};
use crate::ota::keeper::Keeper;
use crate::ota::signing::SigningKey;
use crate::retain::retain;
use crate::server::{Factory, Limits, Server};
use crate::store::Store;
use crate::web;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeysArgs,
    /// UDP address for boxes.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4434")]
    listen: SocketAddr,
    /// TCP address of the fleet's page, /metrics and /health.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    http: SocketAddr,
    /// Lets --http be an address that others reach, though whoever reaches it sees the fleet.
    #[arg(long)]
    http_without_login: bool,
    /// Bytes of all segments on their way, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    memory_mib: u64,
    /// Boxes that are connected at once.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_max, value_parser = connections)]
    connections: usize,
    /// Bytes a second that one box may send; 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    box_bytes_per_s_max: u64,
    /// Bytes a second of released files that one box gets; 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    box_fetch_bytes_per_s_max: u64,
    /// Key of the snapshot, as `outstation-factory keys make` writes it: this replica shows boxes what is released.
    #[arg(long, value_name = "FILE", requires = "timestamp_key")]
    snapshot_key: Option<PathBuf>,
    /// Key of the timestamp: this replica signs daily that what boxes see is the newest.
    #[arg(long, value_name = "FILE")]
    timestamp_key: Option<PathBuf>,
    /// Key of rollouts: this replica stops one that fails too often.
    #[arg(long, value_name = "FILE")]
    rollout_key: Option<PathBuf>,
    /// How often segments become files of records, like 30s or 5m; `off` leaves that to `outstation-factory compact`.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = interval)]
    compact_interval: Interval,
    /// Threads. Default: one for each core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// How often something is done.
#[derive(Debug, Clone, Copy)]
enum Interval {
    Every(Duration),
    Off,
}

fn interval(text: &str) -> Result<Interval, String> {
    if text == "off" {
        return Ok(Interval::Off);
    }
    super::devices::time(text).map(Interval::Every)
}

fn connections(text: &str) -> Result<usize, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=65_536).contains(number));
    number.ok_or_else(|| format!("`{text}` is not a number from 1 to 65536"))
}

/// Compacts again and again. A failure is said and tried again: nothing is lost by waiting.
async fn compact(store: Store, keys: Arc<[FactoryKey]>, every: Duration) {
    let log = Log::new(store, Log::any_writer());
    let compactor = Compactor::new(log.clone(), keys, CompactOptions::default());
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidied = tokio::time::Instant::now();
    loop {
        ticks.tick().await;
        match compactor.run(unix_ms()).await {
            Ok(done) if done.segments > 0 => {
                tracing::info!(
                    segments = done.segments,
                    rows = done.rows,
                    bad = done.bad,
                    "compacted"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("cannot compact: {error}; it is tried again"),
        }
        if tidied.elapsed() >= TIDY_EVERY {
            tidied = tokio::time::Instant::now();
            let tidy = async {
                retain(&log, unix_ms()).await?;
                merge(&log, MergeOptions::default(), unix_ms()).await?;
                clean(&log, CleanOptions::default(), unix_ms()).await?;
                Ok::<_, CompactError>(())
            };
            if let Err(error) = tidy.await {
                tracing::warn!("cannot delete what has had its time: {error}; it is tried again");
            }
        }
    }
}

/// How often what has had its time is deleted.
const TIDY_EVERY: Duration = Duration::from_hours(1);

pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .with_writer(std::io::stderr)
        .init();
    if !args.http.ip().to_canonical().is_loopback() && !args.http_without_login {
        let message = format!(
            "--http {}: others could reach it and see the fleet; listen on 127.0.0.1 behind a proxy that knows people, \
             or add --http-without-login",
            args.http
        );
        return Err(Failure::new(CONFIG, message));
    }
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    super::runtime(threads.max(1))?.block_on(run(args))
}

/// What this replica does for releases.
fn keeper(args: &ServeArgs) -> Result<Keeper, Failure> {
    let load = |path: &PathBuf| SigningKey::load(path);
    let online = [&args.snapshot_key, &args.timestamp_key]
        .into_iter()
        .flatten();
    Ok(Keeper {
        online: online.map(load).collect::<Result<_, _>>()?,
        rollout: args
            .rollout_key
            .iter()
            .map(load)
            .collect::<Result<_, _>>()?,
    })
}

async fn run(args: &ServeArgs) -> Result<(), Failure> {
    let (keys, origin) = Keys::load_or_make(&args.keys.keys)?;
    let folder = args.keys.keys.display();
    if origin == Origin::Made {
        tracing::info!(
            "new keys in {folder}: keep a copy, no box and no segment is worth anything without them"
        );
    }
    let keeper = keeper(args)?;
    let store = super::open_store(&args.store)?;
    let mut limits = Limits {
        connections_max: args.connections,
        upload_bytes_per_s_max: args.box_bytes_per_s_max,
        download_bytes_per_s_max: args.box_fetch_bytes_per_s_max,
        ..Limits::default()
    };
    limits.ingest.memory_bytes_max = args.memory_mib << 20;
    let udp = UdpSocket::bind(args.listen).map_err(|e| {
        Failure::io(
            format!("cannot listen on {} (--listen, UDP)", args.listen),
            e,
        )
    })?;
    let tcp = TcpListener::bind(args.http)
        .await
        .map_err(|e| Failure::io(format!("cannot listen on {} (--http)", args.http), e))?;
    let compacting = match args.compact_interval {
        Interval::Off => None,
        Interval::Every(every) => {
            let key = keys.segment.clone();
            Some(tokio::spawn(compact(store.clone(), [key].into(), every)))
        }
    };
    let factory = Factory::new(store, keys, limits);
    let keeping = (!keeper.is_idle()).then(|| tokio::spawn(keeper.run(factory.clone())));
    let server =
        Server::start(udp, factory.clone()).map_err(|e| Failure::new(IO, e.to_string()))?;
    let address = |e| Failure::io("the sockets have no address", e);
    let (quic, http) = (
        server.local_address().map_err(address)?,
        tcp.local_addr().map_err(address)?,
    );
    let web = web::Server::start(tcp, factory);
    let catch = |kind| signal(kind).map_err(|e| Failure::io("cannot wait for signals", e));
    let (mut terminate, mut interrupt) = (
        catch(SignalKind::terminate())?,
        catch(SignalKind::interrupt())?,
    );
    super::show(&format!(
        "outstation-factory takes boxes at {quic} (UDP), shows the fleet at http://{http}\n\
         a box joins so:\n  outstation-factory devices add --name NAME --store {} --keys {folder}\n  \
         outstation enrol --factory HOST:{} CODE\n",
        args.store.store,
        quic.port()
    ))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("going down");
    for task in [compacting, keeping].into_iter().flatten() {
        task.abort();
    }
    server.close().await;
    web.close().await;
    Ok(())
}
