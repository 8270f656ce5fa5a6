//! Enough keys, or nothing: collected by hand, rotated by the old and the new together.

use std::collections::BTreeMap;

use outstation_factory::ota::document::Holders;
use outstation_factory::ota::pending::{Pending, Went, read, write};
use outstation_factory::ota::publish::{Facts, Silent, publish};
use outstation_factory::ota::repository::handover;
use outstation_factory::ota::signing::SigningKey;
use outstation_factory::ota::source::Source;
use outstation_factory::ota::{OtaError, Role};

use crate::models::Model;
use crate::world::{NOW_MS, NOW_S, World};

#[tokio::test]
async fn one_signature_of_two_releases_nothing() {
    let world = World::new().await;
    let bytes = Model::new(1, 18 * 256, 1).bytes();
    world.file("file", &bytes);
    let repository = world.repository();
    let facts = Facts {
        name: "site".to_owned(),
        ..Facts::default()
    };
    let source = Source::open(&world.path("file")).unwrap();
    let keys = world.keys(&["models1", "rollout1", "snapshot1", "timestamp1"]);
    let time = (NOW_MS, &mut Silent as &mut _);
    let done = publish(
        &repository,
        &world.pending(),
        (&source, &[]),
        &facts,
        &keys,
        time,
    )
    .await;
    let Some(Went::Waits {
        path,
        found,
        needed,
    }) = done.unwrap().went
    else {
        panic!("it does not wait");
    };
    assert_eq!((found, needed), (1, 2));
    // A refresh shows nothing of it, and neither does a commit.
    repository.refresh(&keys, NOW_S).await.unwrap();
    assert!(
        world
            .a_box()
            .await
            .manifest("manifest/site@1.json")
            .await
            .is_none()
    );
    let error = world
        .pending()
        .commit(&repository, &keys, NOW_S)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            OtaError::Threshold {
                found: 1,
                needed: 2,
                ..
            }
        ),
        "{error}"
    );

    // Another machine signs a copy, which comes back.
    let mut copy = read(&path).unwrap();
    copy.signatures.clear();
    copy.sign_with(&world.keys(&["models2"])[0]);
    let mut document = read(&path).unwrap();
    assert_eq!(document.merge(&copy), Some(1));
    write(&path, &document).unwrap();
    let online = world.keys(&["snapshot1", "timestamp1"]);
    let (stored, _) = world
        .pending()
        .commit(&repository, &online, NOW_S)
        .await
        .unwrap();
    assert_eq!(stored, ["1.models.json"]);
    assert!(!path.exists());
    let read = world
        .a_box()
        .await
        .assemble("manifest/site@1.json", &[])
        .await
        .0;
    assert!(read == bytes);
}

#[tokio::test]
async fn a_copy_that_says_something_else_gives_no_signature() {
    let world = World::new().await;
    let state = world.repository().read().await.unwrap();
    let mut document = state.root.document.clone();
    let mut other = document.clone();
    other.signed["version"] = 2.into();
    other.signatures.clear();
    for key in world.keys(&["root1", "root2"]) {
        other.sign_with(&key);
    }
    assert_eq!(document.merge(&other), None);
    // A signature of something else does not count.
    document.signatures = other.signatures;
    let holders = state.holders(Role::Root).unwrap();
    assert!(document.verify(Role::Root, &holders).is_err());
}

/// Gives roles other keys, signed by these, in a folder of its own.
async fn hand_over(
    world: &World,
    change: impl FnOnce(&mut BTreeMap<Role, Holders>),
    keys: &[&str],
) -> Result<Vec<String>, OtaError> {
    let repository = world.repository();
    let state = repository.read().await.unwrap();
    let mut holders = world.holders();
    change(&mut holders);
    let folder = tempfile::tempdir().unwrap();
    let pending = Pending::new(folder.path());
    for (role, document) in handover(Some(&state), &holders, NOW_S + 10_000_000) {
        pending.write(role, &document).unwrap();
    }
    let keys = world.keys(keys);
    Ok(pending.commit(&repository, &keys, NOW_S).await?.0)
}

#[tokio::test]
async fn a_root_is_followed_by_one_that_both_sign() {
    let world = World::new().await;
    let bytes = Model::new(1, 18 * 256, 1).bytes();
    world.file("file", &bytes);
    world.publish("site", "file", &[]).await;
    let old_box = world.a_box().await;
    for (role, name) in [
        (Role::Root, "root4"),
        (Role::Root, "root5"),
        (Role::Models, "models3"),
        (Role::Timestamp, "timestamp2"),
    ] {
        SigningKey::make(&world.path(name), role).unwrap();
    }
    let of = |names: &[&str], threshold| {
        let keys: Vec<_> = world
            .keys(names)
            .iter()
            .map(|key| key.public().clone())
            .collect();
        Holders::new(&keys, threshold)
    };
    let change = |holders: &mut BTreeMap<Role, Holders>| {
        holders.insert(Role::Root, of(&["root3", "root4", "root5"], 2));
        holders.insert(Role::Models, of(&["models3"], 1));
        holders.insert(Role::Timestamp, of(&["timestamp2"], 1));
    };
    // The new ones alone, or the old ones alone, are too few.
    for keys in [["root4", "root5"], ["root1", "root2"]] {
        let error = hand_over(&world, change, &keys).await.unwrap_err();
        assert!(
            matches!(
                error,
                OtaError::Threshold {
                    role: Role::Root,
                    ..
                }
            ),
            "{error}"
        );
    }
    let keys = [
        "root1",
        "root3",
        "root4",
        "targets1",
        "models3",
        "snapshot1",
        "timestamp2",
    ];
    let stored = hand_over(&world, change, &keys).await.unwrap();
    assert_eq!(stored, ["2.root.json", "2.targets.json", "2.models.json"]);
    // Boxes with the first root follow, and have what was released.
    drop(old_box);
    let mut reader = world.a_box().await;
    assert!(reader.assemble("manifest/site@1.json", &[]).await.0 == bytes);
    // The keys of before sign nothing any more.
    world.file("other", &Model::new(1, 18 * 256, 2).bytes());
    let facts = Facts {
        name: "other".to_owned(),
        ..Facts::default()
    };
    let source = Source::open(&world.path("other")).unwrap();
    let time = (NOW_MS, &mut Silent as &mut _);
    let files = (&source, [].as_slice());
    let old = world.releasing();
    let done = publish(
        &world.repository(),
        &world.pending(),
        files,
        &facts,
        &old,
        time,
    )
    .await;
    assert!(matches!(
        done.unwrap().went,
        Some(Went::Waits {
            found: 0,
            needed: 1,
            ..
        })
    ));
}

#[tokio::test]
async fn the_timestamp_is_signed_anew_each_day_and_never_without_need() {
    let world = World::new().await;
    let repository = world.repository();
    let keys = world.keys(&["snapshot1", "timestamp1"]);
    let mut versions = Vec::new();
    for hours in [0, 1, 23, 25, 26, 50, 24 * 200] {
        let done = repository
            .refresh(&keys, NOW_S + hours * 3600)
            .await
            .unwrap();
        versions.push((done.snapshot, done.timestamp, done.changed));
    }
    let expected = [
        (1, 1, false),
        (1, 1, false),
        (1, 1, false),
        (1, 2, true),
        (1, 2, false),
        (1, 3, true),
        // After half of its year the snapshot is made anew, too.
        (2, 4, true),
    ];
    assert_eq!(versions, expected);
    let error = repository
        .refresh(&[], NOW_S + 24 * 3600 * 250)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            OtaError::Threshold {
                role: Role::Timestamp,
                ..
            }
        ),
        "{error}"
    );
}
