//! A rollout that fails is stopped once, by whichever replica sees it.

use outstation_factory::ota::keeper::Keeper;
use outstation_factory::ota::rollout::{Progress, read, write};
use outstation_factory::registry::{Contact, Device};
use outstation_factory::store::hex;
use outstation_wire::release::{AdapterRelease, Rollout};

use crate::models::Model;
use crate::world::{NOW_S, World};

const MANIFEST: &str = "manifest/site@1.json";

async fn world() -> World {
    let world = World::new().await;
    world.file("file", &Model::new(1, 18 * 256, 1).bytes());
    world.publish("site", "file", &[]).await;
    world
}

/// Boxes of a ring that are so far with a rollout.
fn boxes(ring: &str, counter: u64, phases: &[(&str, usize)]) -> Vec<Device> {
    let phases = phases
        .iter()
        .flat_map(|(phase, count)| std::iter::repeat_n(*phase, *count));
    let device = |(number, phase): (u8, &str)| Device {
        appliance: hex(&[number; 16]),
        enrolment: None,
        contact: Some(Contact {
            ring: ring.to_owned(),
            rollout: counter,
            manifest: MANIFEST.to_owned(),
            phase: phase.to_owned(),
            ..Contact::default()
        }),
        revocation: None,
    };
    (0..).zip(phases).map(device).collect()
}

async fn roll_out(world: &World, ring: &str) -> Rollout {
    let rollout = World::rollout(ring, MANIFEST);
    let keys = world.releasing();
    let written = write(&world.repository(), &world.pending(), rollout, &keys, NOW_S).await;
    world.repository().refresh(&keys, NOW_S).await.unwrap();
    written.unwrap().0
}

#[tokio::test]
async fn too_many_failures_stop_a_rollout_once() {
    let world = world().await;
    let rollout = roll_out(&world, "canary").await;
    let quiet = roll_out(&world, "plant").await;
    assert_eq!((rollout.counter, quiet.counter), (1, 1));
    let keeper = || Keeper {
        online: Vec::new(),
        rollout: world.keys(&["rollout1"]),
    };
    let repository = world.repository();
    // One failure of many boxes says little, and 10 % may fail.
    for (fails, serves) in [(1, 3), (2, 18), (0, 5)] {
        let devices = boxes(
            "canary",
            1,
            &[("rejected", fails), ("committed", serves), ("trial", 2)],
        );
        let stopped = keeper().watch(&repository, &devices, NOW_S).await.unwrap();
        assert!(stopped.is_empty(), "{fails} of {}", fails + serves);
    }
    // What boxes say of another change does not count.
    let devices = boxes("canary", 7, &[("rejected", 9)]);
    assert!(
        keeper()
            .watch(&repository, &devices, NOW_S)
            .await
            .unwrap()
            .is_empty()
    );
    let devices = boxes("canary", 1, &[("rejected", 2), ("committed", 10)]);
    let progress = Progress::new(&rollout, &devices, NOW_S);
    assert_eq!(
        (progress.boxes, progress.allowed, progress.rejected),
        (12, 12, 2)
    );
    assert_eq!(
        keeper().watch(&repository, &devices, NOW_S).await.unwrap(),
        ["canary"]
    );
    for _ in 0..2 {
        assert!(
            keeper()
                .watch(&repository, &devices, NOW_S)
                .await
                .unwrap()
                .is_empty()
        );
    }
    // Boxes see it as soon as a replica with the keys signs.
    let online = world.keys(&["snapshot1", "timestamp1"]);
    repository.refresh(&online, NOW_S).await.unwrap();
    let mut reader = world.a_box().await;
    let seen = |bytes: Option<Vec<u8>>| Rollout::parse(&bytes.unwrap()).unwrap();
    let stopped = seen(reader.target("rollout/canary.json").await);
    assert_eq!(
        (stopped.stop, stopped.counter, stopped.manifest.as_str()),
        (true, 2, MANIFEST)
    );
    let other = seen(reader.target("rollout/plant.json").await);
    assert!(!other.stop);
}

#[tokio::test]
async fn a_single_box_may_stop_its_ring() {
    let world = world().await;
    let rollout = roll_out(&world, "lab").await;
    let devices = boxes("lab", rollout.counter, &[("rejected", 1)]);
    let keeper = Keeper {
        online: Vec::new(),
        rollout: world.keys(&["rollout1"]),
    };
    let stopped = keeper
        .watch(&world.repository(), &devices, NOW_S)
        .await
        .unwrap();
    assert_eq!(stopped, ["lab"]);
}

#[tokio::test]
async fn a_rollout_names_only_what_is_released() {
    let world = world().await;
    let (repository, pending, keys) = (world.repository(), world.pending(), world.releasing());
    let mut unknown = World::rollout("canary", "manifest/site@9.json");
    let mut said = Vec::new();
    let error = write(&repository, &pending, unknown.clone(), &keys, NOW_S)
        .await
        .unwrap_err();
    said.push(error.to_string());
    unknown.manifest = MANIFEST.to_owned();
    unknown.adapters.push(AdapterRelease {
        name: "valves".to_owned(),
        manifest: MANIFEST.to_owned(),
    });
    let error = write(&repository, &pending, unknown, &keys, NOW_S)
        .await
        .unwrap_err();
    said.push(error.to_string());
    expect_test::expect![[r"
        ring canary: manifest/site@9.json is not released: publish and commit it first
        ring canary: manifest/site@1.json does not belong to manifest/site@1.json"]]
    .assert_eq(&said.join("\n"));
    let state = repository.read().await.unwrap();
    assert!(read(&repository, &state, "canary").await.unwrap().is_none());
}
