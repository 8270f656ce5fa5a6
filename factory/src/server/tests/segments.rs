use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use super::*;
use crate::ingest::staging::PIECE_BYTES_MIN;

#[tokio::test]
async fn u5_a_segment_is_stored_as_it_was_and_once() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, connection) = replica.call(&trial).await;
    let segment = trial.segment(EPOCH, Class::P2, 1, 300_000);
    let offer = trial::offer(EPOCH, Class::P2, 1, &segment);
    let first = stored(
        trial::send(&connection, offer.clone(), &segment)
            .await
            .unwrap(),
    );
    assert_eq!(first.digest, offer.digest);
    assert_eq!(first.bytes, offer.bytes);
    assert_eq!(site.objects("seg").await, std::slice::from_ref(&first.key));
    assert_eq!(site.bytes(&first.key).await, segment);
    // The reply was lost: the box offers again, here or to another replica, and sends nothing.
    let again = Upload::offer(&connection, offer.clone()).await.unwrap();
    assert_eq!(stored(again.answer), first);
    let other = site.replica();
    let (_endpoint, connection) = other.call(&trial).await;
    let again = Upload::offer(&connection, offer).await.unwrap();
    assert_eq!(stored(again.answer), first);
    assert_eq!(site.objects("seg").await.len(), 1);
}

#[tokio::test]
async fn u8_a_cut_upload_goes_on_wherever_it_was_cut_at_any_replica() {
    let site = Site::new();
    let (here, there, trial) = (site.replica(), site.replica(), site.trial());
    let (_e, first) = here.call(&trial).await;
    let (_e, second) = there.call(&trial).await;
    let length = 400_000;
    let at = [
        0,
        1,
        PIECE_BYTES_MIN - 1,
        PIECE_BYTES_MIN,
        PIECE_BYTES_MIN + 1,
        300_000,
        390_000,
    ];
    for (seq, cut) in (1..).zip(at) {
        let segment = trial.segment(EPOCH, Class::P0, seq, length);
        let offer = trial::offer(EPOCH, Class::P0, seq, &segment);
        let mut upload = Upload::offer(&first, offer.clone()).await.unwrap();
        assert_eq!(upload.offset(), Some(0));
        upload.write(&segment[..cut]).await.unwrap();
        let (code, no) = refused(upload.cut().await.unwrap());
        assert_eq!(code, RefusedCode::Busy, "{}", no.message);
        let kept = if cut < PIECE_BYTES_MIN { 0 } else { cut };

        // A second cut adds a second piece.
        let mut upload = Upload::offer(&second, offer.clone()).await.unwrap();
        assert_eq!(upload.offset(), Some(kept), "cut at {cut}");
        let more = (kept + PIECE_BYTES_MIN).min(segment.len() - 1);
        upload.write(&segment[kept..more]).await.unwrap();
        refused(upload.cut().await.unwrap());
        let upload = Upload::offer(&first, offer.clone()).await.unwrap();
        let kept = if more - kept < PIECE_BYTES_MIN {
            kept
        } else {
            more
        };
        assert_eq!(upload.offset(), Some(kept), "cut at {cut} and {more}");
        drop(upload);

        let answer = trial::send(&second, offer, &segment).await.unwrap();
        assert_eq!(site.bytes(&stored(answer).key).await, segment);
    }
    here.close().await;
    there.close().await;
    let staged = site.objects("staging").await;
    assert!(staged.is_empty(), "{staged:?}");
}

#[tokio::test]
async fn u8_what_a_lost_connection_brought_is_kept() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (endpoint, connection) = replica.call(&trial).await;
    let segment = trial.segment(EPOCH, Class::P0, 1, 500_000);
    let offer = trial::offer(EPOCH, Class::P0, 1, &segment);
    let mut upload = Upload::offer(&connection, offer.clone()).await.unwrap();
    upload.write(&segment[..200_000]).await.unwrap();
    // Another stream's answer says that what was sent before is read, or waits to be.
    send(&connection, &trial, 2, 1000).await;
    endpoint.close(0_u32.into(), b"");
    replica.close().await;
    let other = site.replica();
    let (_endpoint, connection) = other.call(&trial).await;
    let upload = Upload::offer(&connection, offer.clone()).await.unwrap();
    let offset = upload.offset().unwrap();
    assert!((PIECE_BYTES_MIN..=200_000).contains(&offset), "{offset}");
    drop(upload);
    stored(trial::send(&connection, offer, &segment).await.unwrap());
}

#[tokio::test]
async fn u9_bytes_that_are_not_what_was_offered_are_refused() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, connection) = replica.call(&trial).await;
    let segment = trial.segment(EPOCH, Class::P0, 1, 200_000);
    let offer = trial::offer(EPOCH, Class::P0, 1, &segment);
    // A piece that is wrong is kept, found out with the whole, and gone.
    let mut wrong = segment.clone();
    wrong[70_000] ^= 1;
    let mut upload = Upload::offer(&connection, offer.clone()).await.unwrap();
    upload.write(&wrong[..100_000]).await.unwrap();
    refused(upload.cut().await.unwrap());
    let answer = trial::send(&connection, offer.clone(), &wrong)
        .await
        .unwrap();
    assert_eq!(refused(answer).0, RefusedCode::Digest);
    assert!(site.objects("seg").await.is_empty());
    assert!(site.objects("staging").await.is_empty());
    // Bytes after the end.
    let mut upload = Upload::offer(&connection, offer.clone()).await.unwrap();
    upload.write(&segment).await.unwrap();
    upload.write(&[0]).await.unwrap();
    assert_eq!(
        refused(upload.finish().await.unwrap()).0,
        RefusedCode::Malformed
    );
    stored(trial::send(&connection, offer, &segment).await.unwrap());
}

#[tokio::test]
async fn u9_a_segment_of_another_box_or_place_is_refused() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, connection) = replica.call(&trial).await;
    let stranger = TrialBox::enrolled(&site.keys(), [2; 16]).unwrap();
    let cases = [
        ("another box", stranger.segment(EPOCH, Class::P0, 1, 10_000)),
        (
            "another epoch",
            trial.segment([8; 16], Class::P0, 1, 10_000),
        ),
        ("another class", trial.segment(EPOCH, Class::P1, 1, 10_000)),
        ("another seq", trial.segment(EPOCH, Class::P0, 2, 10_000)),
        ("does not begin with OUTSPOOL", vec![0; 10_000]),
        ("header is damaged", {
            let mut segment = trial.segment(EPOCH, Class::P0, 1, 10_000);
            segment[200] ^= 1;
            segment
        }),
    ];
    for (what, segment) in cases {
        let offer = trial::offer(EPOCH, Class::P0, 1, &segment);
        let (code, no) = refused(trial::send(&connection, offer, &segment).await.unwrap());
        assert_eq!(code, RefusedCode::Malformed);
        assert!(no.message.contains(what), "{}", no.message);
    }
    assert!(site.objects("seg").await.is_empty());
}

#[tokio::test]
async fn u6_offers_that_cannot_be_are_refused() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, connection) = replica.call(&trial).await;
    let good = trial::offer(
        EPOCH,
        Class::P0,
        1,
        &trial.segment(EPOCH, Class::P0, 1, 10_000),
    );
    let cases = [
        outstation_wire::uplink::Offer {
            epoch: vec![1; 15],
            ..good.clone()
        },
        outstation_wire::uplink::Offer {
            class: 3,
            ..good.clone()
        },
        outstation_wire::uplink::Offer {
            seq: 0,
            ..good.clone()
        },
        outstation_wire::uplink::Offer {
            bytes: 255,
            ..good.clone()
        },
        outstation_wire::uplink::Offer {
            bytes: (16 << 20) + 1,
            ..good.clone()
        },
        outstation_wire::uplink::Offer {
            digest: Vec::new(),
            ..good
        },
    ];
    for offer in cases {
        let upload = Upload::offer(&connection, offer).await.unwrap();
        assert_eq!(refused(upload.answer).0, RefusedCode::Malformed);
    }
}

#[tokio::test]
async fn u9_damage_inside_is_stored_and_counted() {
    let site = Site::new();
    let (replica, trial) = (site.replica(), site.trial());
    let (_endpoint, connection) = replica.call(&trial).await;
    let mut segment = trial.segment(EPOCH, Class::P0, 1, 100_000);
    segment[40_000] ^= 1;
    let offer = trial::offer(EPOCH, Class::P0, 1, &segment);
    stored(trial::send(&connection, offer, &segment).await.unwrap());
    assert_eq!(replica.factory.metrics.damaged.get(), 1);
}

#[tokio::test]
async fn u10_a_store_that_fails_is_said_and_asked_again() {
    let site = Site::new();
    let (store, switch) = failing::store();
    let replica = site.replica_with(store, Limits::default());
    let trial = site.trial();
    let (_endpoint, connection) = replica.call(&trial).await;
    for all in [false, true] {
        switch.puts.store(true, Ordering::SeqCst);
        switch.all.store(all, Ordering::SeqCst);
        let (code, no) = refused(send(&connection, &trial, 1, 100_000).await);
        assert_eq!(code, RefusedCode::Unavailable);
        assert!(no.retry_after_ms > 0);
    }
    switch.puts.store(false, Ordering::SeqCst);
    switch.all.store(false, Ordering::SeqCst);
    stored(send(&connection, &trial, 1, 100_000).await);
    assert_eq!(replica.factory.metrics.memory_bytes.get(), 0);
}

#[tokio::test]
async fn u12_who_drips_is_cut_off_and_keeps_what_came() {
    let site = Site::new();
    let mut limits = Limits::default();
    limits.ingest.rate_window = Duration::from_millis(100);
    let replica = site.replica_with(site.store(), limits);
    let trial = site.trial();
    let (_endpoint, connection) = replica.call(&trial).await;
    let segment = trial.segment(EPOCH, Class::P0, 1, 200_000);
    let offer = trial::offer(EPOCH, Class::P0, 1, &segment);
    let mut upload = Upload::offer(&connection, offer.clone()).await.unwrap();
    upload.write(&segment[..100_000]).await.unwrap();
    let (code, no) = refused(upload.answer().await.unwrap());
    assert_eq!(code, RefusedCode::Busy);
    assert!(no.message.contains("too few"), "{}", no.message);
    let upload = Upload::offer(&connection, offer).await.unwrap();
    assert_eq!(upload.offset(), Some(100_000));
}

#[tokio::test]
async fn u11_two_hundred_boxes_at_once_fit_in_the_memory_that_was_said() {
    const BOXES: u32 = 200;
    let site = Site::new();
    let mut limits = Limits::default();
    limits.ingest.memory_bytes_max = 2 << 20;
    let replica = site.replica_with(
        Store::new(Arc::new(object_store::memory::InMemory::new())),
        limits,
    );
    let keys = site.keys();
    let mut boxes = JoinSet::new();
    for number in 0..BOXES {
        let mut appliance = [3; 16];
        appliance[..4].copy_from_slice(&number.to_be_bytes());
        let trial = TrialBox::enrolled(&keys, appliance).unwrap();
        let call = replica.call(&trial).await;
        boxes.spawn(async move {
            let (_endpoint, connection) = call;
            stored(send(&connection, &trial, 1, 300_000).await);
        });
    }
    while let Some(ended) = boxes.join_next().await {
        ended.unwrap();
    }
    let metrics = &replica.factory.metrics;
    let peak = metrics.memory_bytes_peak.get();
    assert!((300_000..=2 << 20).contains(&peak), "{peak}");
    assert_eq!(metrics.memory_bytes.get(), 0);
    assert!(
        metrics
            .text()
            .contains("outstation_factory_segments_total{class=\"p0\"} 200"),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn u11_who_finds_no_room_is_told_to_come_back() {
    let site = Site::new();
    let mut limits = Limits::default();
    limits.ingest.memory_bytes_max = 512 << 10;
    limits.ingest.memory_wait = Duration::from_millis(50);
    let replica = site.replica_with(site.store(), limits);
    let trial = site.trial();
    let (_endpoint, connection) = replica.call(&trial).await;
    let segment = trial.segment(EPOCH, Class::P0, 1, 400_000);
    let holding = Upload::offer(&connection, trial::offer(EPOCH, Class::P0, 1, &segment))
        .await
        .unwrap();
    assert_eq!(holding.offset(), Some(0));
    let (code, no) = refused(send(&connection, &trial, 2, 400_000).await);
    assert_eq!(code, RefusedCode::Busy);
    assert!(no.retry_after_ms > 0);
    refused(holding.cut().await.unwrap());
    stored(send(&connection, &trial, 2, 400_000).await);
}
