use std::sync::Arc;
use std::time::Duration;

use outstation_factory::registry::{Registry, Revocation};
use outstation_factory::server::Limits;
use outstation_factory::store::SegmentId;
use outstation_factory::trial::{TrialBox, hello};
use outstation_wire::segment::Class;

use crate::outbox::FolderOutbox;
use crate::site::{Site, sent, start, wait};

fn outbox(site: &Site, appliance: [u8; 16]) -> Arc<FolderOutbox> {
    Arc::new(FolderOutbox::new(
        &site.folder.path().join("spool"),
        appliance,
        [1; 16],
    ))
}

/// The stored bytes of a segment.
async fn stored(
    site: &Site,
    appliance: [u8; 16],
    class: Class,
    seq: u64,
    file: &[u8],
) -> Option<Vec<u8>> {
    let digest = *blake3::hash(file).as_bytes();
    let id = SegmentId {
        appliance,
        epoch: [5; 16],
        class,
        seq,
        digest,
    };
    let store = site.store();
    let got = store
        .objects()
        .get_opts(&id.key(), object_store::GetOptions::default())
        .await
        .ok()?;
    Some(got.bytes().await.expect("it can be read").into())
}

#[tokio::test]
async fn u30_all_segments_arrive_the_most_valuable_first_and_are_deleted() {
    let site = Site::new();
    let replica = site.any_replica();
    let member = site.member(&replica).await;
    let appliance = member.factory.appliance().expect("it has one");
    let outbox = outbox(&site, appliance);
    let places = [
        (Class::P2, 1),
        (Class::P1, 1),
        (Class::P1, 2),
        (Class::P0, 1),
        (Class::P0, 2),
    ];
    let files = places.map(|(class, seq)| (class, seq, outbox.seal(class, seq, 300_000)));
    let uplink = start(replica.address, member, &outbox);
    let state = sent(&uplink, 5).await;
    assert!(
        state.connected && state.trouble.is_none() && state.factory_unix_ms > 0,
        "{state:?}"
    );
    for (class, seq, file) in &files {
        assert_eq!(
            stored(&site, appliance, *class, *seq, file).await.as_ref(),
            Some(file)
        );
    }
    let told = wait(&mut outbox.told.subscribe(), |told| told.acked.len() == 5).await;
    // Two at once: each class is done before the one after the next begins.
    assert_eq!(told.acked[4].class, Class::P2);
    assert_eq!(outbox.files(), 0);
    // What is sealed later follows at once.
    outbox.seal(Class::P0, 3, 1000);
    sent(&uplink, 6).await;
    replica.close().await;
    let contact = Registry::new(site.store()).contact(&appliance).await;
    let contact = contact.expect("the store answers").expect("it called");
    assert_eq!(
        (contact.model.as_str(), contact.requests_served),
        ("demo", 12)
    );
}

#[tokio::test]
async fn u8_a_box_goes_on_at_another_replica_where_the_first_one_went_down() {
    let site = Site::new();
    // Slow enough that the first replica goes down in the middle.
    let limits = Limits {
        upload_bytes_per_s_max: 1 << 20,
        ..Limits::default()
    };
    let first = site.replica(([127, 0, 0, 1], 0).into(), limits);
    let member = site.member(&first).await;
    let appliance = member.factory.appliance().expect("it has one");
    let outbox = outbox(&site, appliance);
    let file = outbox.seal(Class::P0, 1, 2_000_000);
    let address = first.address;
    let uplink = start(address, member, &outbox);
    let metrics = first.factory.metrics.clone();
    let arrived = async {
        while metrics.received_bytes.get() < 500_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::site::DEADLINE, arrived)
        .await
        .expect("bytes arrive");
    first.close().await;
    let second = site.replica_in_place(address).await;
    sent(&uplink, 1).await;
    assert_eq!(
        stored(&site, appliance, Class::P0, 1, &file).await,
        Some(file)
    );
    let resumed = second.factory.metrics.resumed_bytes.get();
    assert!(resumed >= 400_000, "{resumed} bytes were not sent again");
    // Releases come over the connection that there is now.
    let mut connection = uplink.connection();
    wait(&mut connection, |it| {
        it.as_ref().is_some_and(|it| it.close_reason().is_none())
    })
    .await;
    assert_eq!(outbox.files(), 0);
}

#[tokio::test]
async fn u14_a_box_whose_disk_was_copied_begins_a_new_spool() {
    let site = Site::new();
    let replica = site.any_replica();
    let member = site.member(&replica).await;
    let appliance = member.factory.appliance().expect("it has one");
    // The copy called first.
    let copy = TrialBox::enrolled(&site.keys(), appliance).expect("keys");
    let call = copy.call(replica.address, hello([5; 16], 1, [2; 16])).await;
    let _call = call.expect("it is welcome");
    let outbox = outbox(&site, appliance);
    outbox.seal(Class::P0, 1, 10_000);
    let uplink = start(replica.address, member, &outbox);
    sent(&uplink, 1).await;
    let told = wait(&mut outbox.told.subscribe(), |told| told.new_epochs > 0).await;
    assert_eq!(told.new_epochs, 1);
    assert_eq!(
        told.acked.len(),
        1,
        "what was sealed is taken, and kept apart"
    );
    // The new spool is known, and its segments count.
    outbox.seal(Class::P0, 1, 10_000);
    sent(&uplink, 2).await;
    replica.close().await;
    let registry = Registry::new(site.store());
    let contact = registry.contact(&appliance).await;
    let contact = contact.expect("the store answers").expect("it called");
    assert_eq!(contact.epoch, "06".repeat(16));
    assert_eq!(contact.progress.len(), 1);
}

#[tokio::test]
async fn u16_a_box_that_was_sent_away_says_so_and_keeps_its_segments() {
    let site = Site::new();
    let replica = site.any_replica();
    let member = site.member(&replica).await;
    let appliance = member.factory.appliance().expect("it has one");
    let revocation = Revocation {
        unix_ms: 1,
        reason: "it was sold".to_owned(),
    };
    let revoked = Registry::new(site.store());
    revoked
        .revoke(&member.factory.appliance, &revocation)
        .await
        .expect("the store answers");
    let outbox = outbox(&site, appliance);
    outbox.seal(Class::P0, 1, 10_000);
    let uplink = start(replica.address, member, &outbox);
    let state = wait(&mut uplink.state(), |state| state.trouble.is_some()).await;
    let trouble = state.trouble.expect("waited for");
    assert!(trouble.contains("it was sold"), "{trouble}");
    assert_eq!(outbox.files(), 1);
}

#[tokio::test]
async fn a_segment_that_is_none_does_not_stop_the_others() {
    let site = Site::new();
    let replica = site.any_replica();
    let member = site.member(&replica).await;
    let stranger = outbox(&site, [9; 16]);
    // Its header names another box.
    stranger.seal(Class::P0, 1, 10_000);
    let uplink = start(replica.address, member, &stranger);
    let told = wait(&mut stranger.told.subscribe(), |told| {
        !told.refused.is_empty()
    })
    .await;
    assert!(told.refused[0].1.contains("another box"), "{told:?}");
    assert_eq!(stranger.files(), 1, "it stays for somebody to look at");
    let state = wait(&mut uplink.state(), |state| state.segments_refused == 1).await;
    assert!(state.connected);
    drop(uplink);
    tokio::time::timeout(Duration::from_secs(10), replica.close())
        .await
        .expect("it closes");
}
