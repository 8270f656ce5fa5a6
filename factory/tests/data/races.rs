//! Two replicas and a store that fails at every operation in turn.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use object_store::ObjectStore;
use outstation_factory::clean::clean;
use outstation_factory::commits::Log;
use outstation_factory::erase::erase;
use outstation_factory::merge::{MergeOptions, merge};
use outstation_factory::retain::{Retention, retain};
use outstation_factory::store::Store;

use crate::support::fault::{Fault, Faulty, View};
use crate::support::oracle::{committed, keys};
use crate::world::{NO_GRACE, NOW_MS, World};

/// What a replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Compact,
    CompactAndClean,
    Erase,
    Retain,
    Merge,
}

const ERASED: &str = "acme";
/// Whose records stay no day.
const EXPIRED: &str = "bolt & co";

impl Job {
    const ALL: [Self; 5] = [
        Self::Compact,
        Self::CompactAndClean,
        Self::Erase,
        Self::Retain,
        Self::Merge,
    ];

    /// Does it; an error is what a replica that dies or meets a broken store ends with.
    async fn run(
        self,
        world: &World,
        objects: Arc<dyn ObjectStore>,
        writer: &str,
    ) -> Result<(), String> {
        let store = Store::new(objects);
        let log = Log::new(store.clone(), writer);
        let compacted = match self {
            Self::Compact | Self::CompactAndClean => world.compact(&store, writer).await.map(drop),
            _ => Ok(()),
        };
        let done = match self {
            Self::Compact => compacted,
            Self::CompactAndClean => match compacted {
                Ok(()) => clean(&log, NO_GRACE, NOW_MS).await.map(drop),
                error => error,
            },
            Self::Erase => erase(&log, ERASED, NOW_MS).await.map(drop),
            Self::Merge => {
                let options = MergeOptions {
                    files_min: 2,
                    grace: Duration::ZERO,
                    ..MergeOptions::default()
                };
                merge(&log, options, NOW_MS).await.map(drop)
            }
            Self::Retain => {
                let retention = Retention {
                    default_days: None,
                    tenants: [(EXPIRED.to_owned(), 1)].into(),
                };
                match retention.write(&log).await {
                    Ok(()) => retain(&log, NOW_MS).await.map(drop),
                    Err(error) => Err(error.into()),
                }
            }
        };
        done.map_err(|error| error.to_string())
    }
}

/// After it all replicas are healthy, and each does what was asked of any.
async fn settle(world: &World, objects: &Arc<dyn ObjectStore>, jobs: &[Job], context: &str) {
    let mut gone = Vec::new();
    // What is not compacted yet is neither erased nor expired.
    Job::Compact
        .run(world, Arc::clone(objects), "settler")
        .await
        .unwrap();
    for (job, tenant) in [(Job::Erase, ERASED), (Job::Retain, EXPIRED)] {
        if jobs.contains(&job) {
            job.run(world, Arc::clone(objects), "settler")
                .await
                .unwrap();
            gone.push(tenant);
        }
    }
    world.check(objects, &gone, context).await;
}

/// Whatever state a dying or racing replica leaves, a reader sees each row at most once, and every file.
async fn readable(objects: &Arc<dyn ObjectStore>) {
    committed(&Store::new(Arc::clone(objects))).await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_at_any_operation_loses_and_doubles_nothing() {
    let world = World::new(1).await;
    let mut points = 0;
    for job in Job::ALL {
        for fault in Fault::ALL {
            for at in 0.. {
                let objects = world.fork();
                if job != Job::Compact && job != Job::CompactAndClean {
                    Job::Compact
                        .run(&world, Arc::clone(&objects), "before")
                        .await
                        .unwrap();
                }
                let faulty = Arc::new(Faulty::new(Arc::clone(&objects)).at(at, fault));
                let done = job
                    .run(&world, Arc::new(View(Arc::clone(&faulty))), "faulty")
                    .await;
                let killed = matches!(fault, Fault::KillBefore | Fault::KillAfter);
                let context = format!("{job:?}, {fault:?} at operation {at}");
                // All but death a replica survives by itself.
                assert!(killed || done.is_ok(), "{context}: {done:?}");
                readable(&objects).await;
                settle(&world, &objects, &[job], &context).await;
                if faulty.operations() <= at {
                    break;
                }
                points += 1;
            }
        }
    }
    println!("{points} operations with a fault");
    assert!(points > 500, "{points}");
}

#[tokio::test(start_paused = true)]
async fn another_replica_may_work_between_any_two_operations() {
    let world: &'static World = Box::leak(Box::new(World::new(2).await));
    let mut points = 0;
    for slow in Job::ALL {
        for fast in Job::ALL {
            for at in 0.. {
                let objects = world.fork();
                if slow != Job::Compact && slow != Job::CompactAndClean {
                    Job::Compact
                        .run(world, Arc::clone(&objects), "before")
                        .await
                        .unwrap();
                }
                let others = Arc::clone(&objects);
                let work: BoxFuture<'static, ()> = async move {
                    fast.run(world, others, "fast").await.unwrap();
                }
                .boxed();
                let faulty = Arc::new(Faulty::new(Arc::clone(&objects)).meanwhile(at, work));
                let context = format!("{slow:?}, and {fast:?} before its operation {at}");
                let view = Arc::new(View(Arc::clone(&faulty)));
                let done = slow.run(world, view, "slow").await;
                assert_eq!(done, Ok(()), "{context}");
                readable(&objects).await;
                settle(world, &objects, &[slow, fast], &context).await;
                if faulty.operations() <= at {
                    break;
                }
                points += 1;
            }
        }
    }
    println!("{points} places where another replica worked");
    assert!(points > 400, "{points}");
}

/// A store in which a compactor died when all files of a batch were there, and its commit was not.
async fn with_orphans(world: &World) -> Arc<dyn ObjectStore> {
    let mut last = world.fork();
    for at in 0.. {
        let objects = world.fork();
        let faulty = Faulty::new(Arc::clone(&objects)).at(at, Fault::KillBefore);
        let view = Arc::new(View(Arc::new(faulty)));
        Job::Compact.run(world, view, "dead").await.unwrap_err();
        let store = Store::new(Arc::clone(&objects));
        if !keys(&store, "commits").await.is_empty() {
            let orphans = keys(&Store::new(Arc::clone(&last)), "parquet").await;
            assert!(!orphans.is_empty());
            break;
        }
        last = objects;
    }
    last
}

/// While they are swept, others make the very same files, and count on them.
#[tokio::test(start_paused = true)]
async fn orphans_are_swept_while_others_make_them_anew() {
    let world: &'static World = Box::leak(Box::new(World::new(5).await));
    let mut points = 0;
    for fast in [Job::Compact, Job::CompactAndClean] {
        for at in 0.. {
            let objects = with_orphans(world).await;
            let others = Arc::clone(&objects);
            let work = async move { fast.run(world, others, "fast").await.unwrap() }.boxed();
            let faulty = Arc::new(Faulty::new(Arc::clone(&objects)).meanwhile(at, work));
            let log = Log::new(Store::new(Arc::new(View(Arc::clone(&faulty)))), "sweeper");
            clean(&log, NO_GRACE, NOW_MS).await.unwrap();
            readable(&objects).await;
            let context = format!("{fast:?} before operation {at} of a sweep");
            settle(world, &objects, &[], &context).await;
            if faulty.operations() <= at {
                break;
            }
            points += 1;
        }
    }
    assert!(points > 20, "{points}");
}

#[tokio::test(start_paused = true)]
async fn lists_that_lag_lose_and_double_nothing() {
    let world = World::new(3).await;
    let objects = world.fork();
    let view = |_| Arc::new(View(Arc::new(Faulty::new(Arc::clone(&objects)).lagging())));
    let views: Vec<Arc<View>> = (0..2).map(view).collect();
    for _ in 0..6 {
        for (view, writer) in views.iter().zip(["a", "b"]) {
            let view: Arc<dyn ObjectStore> = Arc::clone(view) as _;
            Job::CompactAndClean
                .run(&world, view, writer)
                .await
                .unwrap();
            readable(&objects).await;
        }
    }
    settle(&world, &objects, &[], "lagging lists").await;
}

#[tokio::test(start_paused = true)]
async fn many_replicas_at_once_lose_and_double_nothing() {
    let seeds: Vec<u64> = match std::env::var("FACTORY_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..100).collect(),
    };
    for seed in seeds {
        let world = World::new(seed).await;
        let objects = world.fork();
        let replica = |n: u64, job: Job| {
            let faulty = Faulty::new(Arc::clone(&objects)).random(seed * 100 + n);
            let view = Arc::new(View(Arc::new(faulty)));
            let world = &world;
            async move {
                let writer = format!("replica {n}");
                // A store that fails again and again ends a replica; it is started again.
                for _ in 0..5 {
                    let view: Arc<dyn ObjectStore> = Arc::clone(&view) as _;
                    if job.run(world, view, &writer).await.is_ok() {
                        return;
                    }
                }
                panic!("FACTORY_SEED={seed}: {job:?} fails five times");
            }
        };
        tokio::join!(
            replica(1, Job::Compact),
            replica(2, Job::CompactAndClean),
            replica(3, Job::Compact),
            replica(4, Job::Erase),
            replica(5, Job::CompactAndClean),
            replica(6, Job::Merge),
        );
        readable(&objects).await;
        let context = format!("FACTORY_SEED={seed}");
        settle(&world, &objects, &[Job::Erase], &context).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_segments_make_the_same_files() {
    let world = World::new(4).await;
    let (one, other) = (world.fork(), world.fork());
    for objects in [&one, &other] {
        let store = Store::new(Arc::clone(objects));
        let done = world.compact(&store, "x").await.unwrap();
        assert!(done.commits >= 3, "{done:?}");
    }
    let (one, _) = committed(&Store::new(one)).await;
    let (other, _) = committed(&Store::new(other)).await;
    assert_eq!(one.files(), other.files());
    assert!(one.files().len() >= 10);
}
