//! Two publishers, and a store that fails at every operation in turn: boxes see the old release or the new one, whole.

use std::sync::Arc;

use futures_util::FutureExt as _;
use object_store::ObjectStore;
use outstation_factory::ota::OtaError;
use outstation_factory::ota::publish::Facts;
use outstation_factory::ota::repository::Repository;
use outstation_factory::store::Store;

use crate::models::Model;
use crate::support::fault::{Fault, Faulty, View};
use crate::world::World;

const OLD: &str = "manifest/site@1.json";
const NEW: &str = "manifest/site@2.json";

fn facts() -> Facts {
    Facts {
        name: "site".to_owned(),
        ..Facts::default()
    }
}

async fn world() -> (World, [Vec<u8>; 2]) {
    let world = World::new().await;
    let files = [1, 2].map(|seed| Model::new(2, 18 * 256 * 4, seed).bytes());
    world.file("old", &files[0]);
    world.file("new", &files[1]);
    world.publish("site", "old", &[]).await;
    (world, files)
}

/// What a box gets now: the old file, or the old and the new one.
async fn seen(world: &World, [old, new]: &[Vec<u8>; 2], context: &str) -> bool {
    let mut reader = world.a_box().await;
    assert!(reader.assemble(OLD, &[]).await.0 == *old, "{context}");
    let released = reader.manifest(NEW).await.is_some();
    if released {
        assert!(reader.assemble(NEW, &[]).await.0 == *new, "{context}");
    }
    assert!(
        reader.manifest("manifest/site@3.json").await.is_none(),
        "{context}"
    );
    released
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_in_the_middle_boxes_see_a_whole_release() {
    let (mut at, mut ends) = (0, 0);
    while ends < Fault::ALL.len() {
        ends = 0;
        for fault in Fault::ALL {
            let (world, files) = world().await;
            let faulty = Arc::new(Faulty::new(Arc::clone(&world.objects)).at(at, fault));
            let view: Arc<dyn ObjectStore> = Arc::new(View(Arc::clone(&faulty)));
            let repository = Repository::new(Store::new(view));
            let done = world.try_publish(&repository, &facts(), "new", &[]).await;
            ends += usize::from(faulty.operations() <= at);
            let context = format!("{fault:?} at operation {at}: {:?}", done.as_ref().err());
            let released = seen(&world, &files, &context).await;
            assert!(released || done.is_err(), "{context}");
            let survives = !matches!(fault, Fault::KillBefore | Fault::KillAfter);
            assert!(!survives || done.is_ok(), "{context}");
            // Whoever runs the command again gets what was wanted, once.
            world
                .try_publish(&world.repository(), &facts(), "new", &[])
                .await
                .unwrap();
            assert!(seen(&world, &files, &context).await, "{context}");
        }
        at += 1;
    }
    println!("{at} operations");
    assert!(at > 15, "{at} operations are too few to be a release");
}

#[tokio::test(start_paused = true)]
async fn of_two_publishers_at_once_one_is_told_and_nothing_is_lost() {
    let mut at = 0;
    let (mut raced, mut ended) = (0, false);
    while !ended {
        let (world, files) = world().await;
        let world = Arc::new(world);
        let third = Model::new(1, 18 * 256, 3).bytes();
        world.file("third", &third);
        let other = Arc::clone(&world);
        let meanwhile = async move { drop(other.publish("other", "third", &[]).await) }.boxed();
        let faulty = Arc::new(Faulty::new(Arc::clone(&world.objects)).meanwhile(at, meanwhile));
        let view: Arc<dyn ObjectStore> = Arc::new(View(Arc::clone(&faulty)));
        let repository = Repository::new(Store::new(view));
        let done = world.try_publish(&repository, &facts(), "new", &[]).await;
        ended = faulty.operations() <= at;
        match done {
            Ok(_) => {}
            Err(OtaError::Raced { ref file }) => {
                assert_eq!(file, "2.models.json");
                raced += 1;
                world
                    .try_publish(&world.repository(), &facts(), "new", &[])
                    .await
                    .unwrap();
            }
            Err(error) => panic!("at operation {at}: {error}"),
        }
        let context = format!("others at operation {at}");
        assert!(seen(&world, &files, &context).await, "{context}");
        if !ended {
            let mut reader = world.a_box().await;
            let found = reader.assemble("manifest/other@1.json", &[]).await.0;
            assert!(found == third, "{context}");
        }
        at += 1;
    }
    println!("{raced} of {at} places");
    assert!(raced > 3, "{raced}");
}
