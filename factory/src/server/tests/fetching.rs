//! Released files over the uplink.

use outstation_wire::uplink::{Fetch, RefusedCode, ReleasePhase};

use super::*;
use crate::trial::fetch;

const PACK: &str = "packs/00ff.pack";

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

async fn released(site: &Site, path: &str, bytes: &[u8]) {
    let key = Path::from(format!("ota/{path}"));
    site.store()
        .put_once(&key, bytes.to_vec().into())
        .await
        .unwrap();
}

fn part(path: &str, offset: u64, bytes_max: u64) -> Fetch {
    Fetch {
        path: path.to_owned(),
        offset,
        bytes_max,
    }
}

#[tokio::test]
async fn u40_any_range_of_a_released_file_is_sent() {
    let site = Site::new();
    let file = noise(3_000_000);
    released(&site, PACK, &file).await;
    let replica = site.replica();
    let (_endpoint, connection) = replica.call(&site.trial()).await;
    for (offset, bytes_max) in [
        (0, u64::MAX),
        (0, 10),
        (1_000_001, 70_000),
        (2_999_990, 1000),
        (3_000_000, 10),
        (u64::MAX, u64::MAX),
        (5, 0),
    ] {
        let (bytes, found) = fetch(&connection, part(PACK, offset, bytes_max))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(bytes, 3_000_000);
        let start = usize::try_from(offset).unwrap().min(file.len());
        let end = usize::try_from(offset.saturating_add(bytes_max))
            .unwrap()
            .min(file.len());
        assert!(found == file[start..end.max(start)], "{offset} {bytes_max}");
    }
    let text = replica.factory.metrics.text();
    assert!(text.contains("fetches_total{way=\"uplink\"} 7"), "{text}");
    replica.close().await;
}

#[tokio::test]
async fn u41_what_is_not_released_is_missing() {
    let site = Site::new();
    released(&site, PACK, b"released").await;
    let secret = Path::from("seg/v1/secret");
    site.store()
        .put_once(&secret, b"not for boxes".to_vec().into())
        .await
        .unwrap();
    let replica = site.replica();
    let (_endpoint, connection) = replica.call(&site.trial()).await;
    for path in [
        "packs/other.pack",
        "packs",
        "",
        "seg/v1/secret",
        "../seg/v1/secret",
        "packs/../../seg/v1/secret",
        "packs/%2e%2e/x",
        "/etc/passwd",
        "ota/packs/00ff.pack",
    ] {
        let refused = fetch(&connection, part(path, 0, 100))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(refused.code(), RefusedCode::Missing, "{path}");
    }
    replica.close().await;
}

#[tokio::test]
async fn u42_a_box_gets_no_more_than_its_share_of_bytes_a_second() {
    let site = Site::new();
    released(&site, PACK, &noise(192 << 10)).await;
    let limits = Limits {
        download_bytes_per_s_max: 256 << 10,
        ..Limits::default()
    };
    let replica = site.replica_with(site.store(), limits);
    let (_endpoint, connection) = replica.call(&site.trial()).await;
    let started = tokio::time::Instant::now();
    let both =
        [part(PACK, 0, u64::MAX), part(PACK, 0, u64::MAX)].map(|part| fetch(&connection, part));
    for done in futures_util::future::join_all(both).await {
        done.unwrap().unwrap();
    }
    // All but the last piece are waited for.
    let took = started.elapsed().as_secs_f64();
    assert!(took > 1.0, "384 KiB at 256 KiB/s took {took} s");
    replica.close().await;
}

#[tokio::test]
async fn u43_too_many_fetches_at_once_are_put_off() {
    let site = Site::new();
    released(&site, PACK, b"released").await;
    let limits = Limits {
        fetches_max: 0,
        ..Limits::default()
    };
    let replica = site.replica_with(site.store(), limits);
    let (_endpoint, connection) = replica.call(&site.trial()).await;
    let refused = fetch(&connection, part(PACK, 0, 100))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code(), RefusedCode::Busy);
    assert!(refused.retry_after_ms > 0);
    replica.close().await;
}

#[tokio::test]
async fn what_a_box_says_of_a_release_is_kept() {
    let site = Site::new();
    let replica = site.replica();
    let trial = site.trial();
    let hello = outstation_wire::uplink::Hello {
        ring: "canary".to_owned(),
        rollout: 3,
        manifest: "manifest/site@7.json".to_owned(),
        phase: ReleasePhase::Rejected.into(),
        reason: "ttft 1.9 times".to_owned(),
        ..trial::hello(EPOCH, 1, [9; 16])
    };
    let (_endpoint, _connection) = trial.call(replica.address, hello).await.unwrap();
    let factory = replica.factory.clone();
    replica.close().await;
    let contact = factory.registry.contact(&APPLIANCE).await.unwrap().unwrap();
    let said = (
        contact.ring,
        contact.rollout,
        contact.manifest,
        contact.phase,
        contact.reason,
    );
    let text = str::to_owned;
    let expected = (
        text("canary"),
        3,
        text("manifest/site@7.json"),
        text("rejected"),
        text("ttft 1.9 times"),
    );
    assert_eq!(said, expected);
}
