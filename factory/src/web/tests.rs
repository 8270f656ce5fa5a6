use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::server::Limits;
use crate::server::tests::{Site, failing, send};

async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn what_a_box_does_is_seen() {
    let site = Site::new();
    let (store, switch) = failing::store();
    let replica = site.replica_with(store, Limits::default());
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let web = Server::start(socket, replica.factory.clone());
    assert!(ask(address, "/").await.contains("No boxes yet"));
    assert!(ask(address, "/health").await.starts_with("HTTP/1.1 200"));
    assert!(ask(address, "/ready").await.starts_with("HTTP/1.1 200"));

    let trial = site.trial();
    let (_endpoint, connection) = replica.call(&trial).await;
    send(&connection, &trial, 1, 100_000).await;
    send(&connection, &trial, 3, 100_000).await;
    let page = ask(address, "/").await;
    assert!(page.contains("1 segment never arrived"), "{page}");
    assert!(
        page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    assert!(
        !ask(address, "/?state=silent")
            .await
            .contains("1 segment never arrived")
    );
    let json = ask(address, "/api/devices").await;
    assert!(
        json.contains("\"segments_stored\":2") && json.contains("\"connected\":true"),
        "{json}"
    );
    let metrics = ask(address, "/metrics").await;
    for line in [
        "outstation_factory_segments_total{class=\"p0\"} 2",
        "outstation_factory_connections 1",
        "outstation_factory_store_seconds_count{request=\"put\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }

    switch.all.store(true, Ordering::SeqCst);
    assert!(ask(address, "/ready").await.starts_with("HTTP/1.1 503"));
    assert!(ask(address, "/health").await.starts_with("HTTP/1.1 200"));
    web.close().await;
}

/// Status line, headers in small letters, and body.
async fn fetch(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request}host: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    (head, bytes.split_off(end + 4))
}

#[tokio::test]
async fn released_files_are_served_whole_and_in_parts() {
    let site = Site::new();
    let replica = site.replica_with(failing::store().0, Limits::default());
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let web = Server::start(socket, replica.factory.clone());
    let file: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for (path, bytes) in [
        ("ota/packs/aa.pack", file.clone()),
        ("ota/metadata/timestamp.json", b"{}".to_vec()),
        ("seg/v1/secret", b"not for all".to_vec()),
    ] {
        let key = object_store::path::Path::from(path);
        replica
            .factory
            .store
            .put_once(&key, bytes.into())
            .await
            .unwrap();
    }
    let pack = "/ota/packs/aa.pack HTTP/1.1\r\n";
    let (head, body) = fetch(address, &format!("GET {pack}")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("accept-ranges: bytes") && head.contains("immutable"),
        "{head}"
    );
    assert!(body == file);
    let tag = head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "))
        .unwrap()
        .to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");

    let (head, body) = fetch(address, &format!("HEAD {pack}")).await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("content-length: 300000"),
        "{head}"
    );
    assert!(body.is_empty());
    let (head, body) = fetch(address, &format!("GET {pack}range: bytes=70000-139999\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 206"), "{head}");
    assert!(
        head.contains("content-range: bytes 70000-139999/300000"),
        "{head}"
    );
    assert!(head.contains("content-length: 70000"), "{head}");
    assert!(body == file[70_000..140_000]);
    let (head, body) = fetch(address, &format!("GET {pack}range: bytes=300000-\r\n")).await;
    assert!(
        head.starts_with("HTTP/1.1 416") && head.contains("content-range: bytes */300000"),
        "{head}"
    );
    assert!(body.is_empty());
    let (head, _) = fetch(address, &format!("GET {pack}if-none-match: {tag}\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 304"), "{head}");
    // A part of another version is not asked for: all of this one comes.
    let other = format!("GET {pack}range: bytes=0-9\r\nif-range: \"other\"\r\n");
    assert!(fetch(address, &other).await.0.starts_with("HTTP/1.1 200"));
    let same = format!("GET {pack}range: bytes=0-9\r\nif-range: {tag}\r\n");
    assert!(fetch(address, &same).await.0.starts_with("HTTP/1.1 206"));
    let (head, _) = fetch(address, "GET /ota/metadata/timestamp.json HTTP/1.1\r\n").await;
    assert!(head.contains("cache-control: no-cache"), "{head}");
    for missing in [
        "/ota/packs/bb.pack",
        "/ota/../seg/v1/secret",
        "/ota/packs/..%2f..%2fseg/v1/secret",
        "/ota/seg/v1/secret",
        "/ota/",
    ] {
        let (head, _) = fetch(address, &format!("GET {missing} HTTP/1.1\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{missing}: {head}");
    }
    let metrics = ask(address, "/metrics").await;
    assert!(
        metrics.contains("fetches_total{way=\"http\"} 5"),
        "{metrics}"
    );
    web.close().await;
}

#[tokio::test]
async fn how_far_boxes_are_with_a_release_is_counted() {
    let site = Site::new();
    let replica = site.replica_with(failing::store().0, Limits::default());
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let web = Server::start(socket, replica.factory.clone());
    for (number, ring, phase) in [
        (1, "canary", "trial"),
        (2, "canary", "trial"),
        (3, "../x", "idle"),
    ] {
        let contact = crate::registry::Contact {
            unix_ms: unix_ms(),
            ring: ring.to_owned(),
            phase: phase.to_owned(),
            manifest: "manifest/site@7.json".to_owned(),
            ..Default::default()
        };
        replica
            .factory
            .registry
            .contacted(&[number; 16], &contact)
            .await
            .unwrap();
    }
    let metrics = ask(address, "/metrics").await;
    assert!(
        metrics.contains("release_boxes{ring=\"canary\",phase=\"trial\"} 2"),
        "{metrics}"
    );
    assert!(!metrics.contains("../x"), "{metrics}");
    let page = ask(address, "/").await;
    assert!(page.contains("canary trial site@7"), "{page}");
    web.close().await;
}
