use super::*;
use crate::registry::{Missing, Registry, Revocation};
use crate::store::SegmentId;

#[tokio::test]
async fn u14_two_machines_in_one_start_are_told_apart() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, first) = replica.call(&trial).await;
    stored(send(&first, &trial, 1, 10_000).await);
    // The same machine again, for instance after a lost connection.
    let (_endpoint, again) = replica.call(&trial).await;
    let FactoryMessage::Welcome(welcome) = hello(&again, 1, [9; 16]).await else {
        panic!("no Welcome");
    };
    assert!(!welcome.new_epoch);
    // A copy of its disk in another machine.
    let FactoryMessage::Welcome(welcome) = hello(&again, 1, [10; 16]).await else {
        panic!("no Welcome");
    };
    assert!(welcome.new_epoch);
    let key = stored(send(&again, &trial, 2, 10_000).await).key;
    assert!(key.starts_with("quarantine/v1/"), "{key}");
    // And every replica says so, to the first machine, too.
    let other = site.replica();
    let (_endpoint, there) = other.call(&trial).await;
    let FactoryMessage::Welcome(welcome) = hello(&there, 1, [9; 16]).await else {
        panic!("no Welcome");
    };
    assert!(welcome.new_epoch);
    replica.close().await;
    let contact = Registry::new(site.store())
        .contact(&APPLIANCE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(contact.clones, 1);
}

#[tokio::test]
async fn u14_two_segments_in_one_place_are_both_kept_apart() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, connection) = replica.call(&trial).await;
    stored(send(&connection, &trial, 1, 10_000).await);
    let (code, no) = refused(send(&connection, &trial, 1, 50_000).await);
    assert_eq!(code, RefusedCode::Conflict);
    assert!(no.retry_after_ms > 0);
    let FactoryMessage::Welcome(welcome) = hello(&connection, 1, [9; 16]).await else {
        panic!("no Welcome");
    };
    assert!(welcome.new_epoch);
    for bytes in [50_000, 10_000] {
        let key = stored(send(&connection, &trial, 1, bytes).await).key;
        assert!(key.starts_with("quarantine/v1/"), "{key}");
    }
    assert_eq!(
        site.objects("quarantine").await.len(),
        3,
        "two segments and the reason"
    );
}

#[tokio::test]
async fn u16_a_box_that_was_sent_away_is_refused() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, connection) = replica.call(&trial).await;
    stored(send(&connection, &trial, 1, 10_000).await);
    let revocation = Revocation {
        unix_ms: 1,
        reason: "it was stolen".to_owned(),
    };
    let registry = &replica.factory.registry;
    registry
        .revoke(&crate::store::hex(&APPLIANCE), &revocation)
        .await
        .unwrap();
    let (_endpoint, connection) = trial
        .connect(replica.address, outstation_wire::uplink::ALPN_UPLINK)
        .await
        .unwrap();
    let (code, no) = refused(hello(&connection, 1, [9; 16]).await);
    assert_eq!(code, RefusedCode::Revoked);
    assert!(no.message.contains("it was stolen"), "{}", no.message);
    connection.closed().await;
}

#[tokio::test]
async fn u15_empty_places_are_in_the_registry() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, connection) = replica.call(&trial).await;
    stored(send(&connection, &trial, 1, 10_000).await);
    // Another replica took this one, and went down before it could say so.
    let segment = trial.segment(EPOCH, Class::P0, 3, 10_000);
    let id = SegmentId {
        appliance: APPLIANCE,
        epoch: EPOCH,
        class: Class::P0,
        seq: 3,
        digest: *blake3::hash(&segment).as_bytes(),
    };
    site.store()
        .put_once(&id.key(), segment.into())
        .await
        .unwrap();
    stored(send(&connection, &trial, 6, 10_000).await);
    replica.close().await;
    let contact = Registry::new(site.store())
        .contact(&APPLIANCE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(contact.agent, "trial/1");
    let [progress] = &contact.progress[..] else {
        panic!("{:?}", contact.progress);
    };
    assert_eq!(
        progress.missing,
        [Missing { from: 2, to: 2 }, Missing { from: 4, to: 5 }]
    );
}
