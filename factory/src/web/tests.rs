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
