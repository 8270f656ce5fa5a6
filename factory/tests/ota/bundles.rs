//! A stick has what a ring needs, and goes on where copying broke off.

use std::path::Path;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use outstation_factory::ota::bundle::{Bundled, bundle};
use outstation_factory::ota::publish::Silent;
use outstation_factory::ota::rollout::write;

use crate::models::Model;
use crate::world::{ABox, NOW_S, World};

async fn copy(world: &World, to: &Path, keys: &[&str]) -> Bundled {
    let keys = world.keys(keys);
    let days_90 = NOW_S + 90 * 86_400;
    let time = (NOW_S, &mut Silent as &mut _);
    let done = bundle(&world.repository(), "canary", to, (&keys, days_90), time).await;
    done.unwrap()
}

/// A box that is given the stick.
async fn read_from(stick: &Path) -> ABox {
    let root = std::fs::read(stick.join("metadata/1.root.json")).unwrap();
    // As the reader expects it: below a folder of the factory's store.
    let above = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(stick, above.path().join("ota")).unwrap();
    let objects = LocalFileSystem::new_with_prefix(above.path()).unwrap();
    let reader = ABox::new(Arc::new(PrefixStore::new(objects, "")), &root).await;
    std::mem::forget(above);
    reader
}

#[tokio::test]
async fn a_stick_is_all_that_a_box_needs() {
    let world = World::new().await;
    let bytes = Model::new(3, 18 * 128 * 1000, 1).bytes();
    world.file("file", &bytes);
    let first = world.publish("site", "file", &[]).await;
    world.file("other", &Model::new(2, 18 * 128 * 1000, 9).bytes());
    world.publish("other", "other", &[]).await;
    let keys = world.releasing();
    let rollout = World::rollout("canary", &first.manifest);
    write(&world.repository(), &world.pending(), rollout, &keys, NOW_S)
        .await
        .unwrap();
    world.repository().refresh(&keys, NOW_S).await.unwrap();

    let stick = world.path("stick");
    let done = copy(&world, &stick, &["timestamp1"]).await;
    assert_eq!(done.expires_unix_s, NOW_S + 90 * 86_400);
    assert!(
        done.bytes < bytes.len() as u64 + 1_000_000,
        "the other model stays away: {done:?}"
    );
    let mut reader = read_from(&stick).await;
    assert!(reader.target("rollout/canary.json").await.is_some());
    assert!(reader.assemble(&first.manifest, &[]).await.0 == bytes);
    // Who saw the stick takes the factory's own timestamp after it.
    let state = world.repository().read().await.unwrap();
    let stamp = std::fs::read(stick.join("metadata/timestamp.json")).unwrap();
    let stamp: serde_json::Value = serde_json::from_slice(&stamp).unwrap();
    let online = &state.held[&outstation_factory::ota::Role::Timestamp];
    assert_eq!(
        stamp["signed"]["version"].as_u64().unwrap() + 1,
        online.version
    );

    // Damage and what is missing are made good; the rest stays.
    let packs: Vec<_> = std::fs::read_dir(stick.join("packs")).unwrap().collect();
    let pack = packs[0].as_ref().unwrap().path();
    let mut damaged = std::fs::read(&pack).unwrap();
    damaged[1000] ^= 1;
    std::fs::write(&pack, &damaged).unwrap();
    std::fs::remove_file(stick.join("metadata/timestamp.json")).unwrap();
    let again = copy(&world, &stick, &[]).await;
    assert_eq!((again.files, again.kept), (2, done.files - 2));
    let mut reader = read_from(&stick).await;
    assert!(reader.assemble(&first.manifest, &[]).await.0 == bytes);
}
