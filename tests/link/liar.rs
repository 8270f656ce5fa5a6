//! A factory that says what is not so.

use std::net::Ipv4Addr;
use std::sync::Arc;

use outstation_factory::channel;
use outstation_wire::segment::Class;
use outstation_wire::uplink::{ALPN_UPLINK, BoxMessage, FactoryMessage, Stored, Welcome};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, ServerConfig};

use crate::outbox::FolderOutbox;
use crate::site::{DEADLINE, Site, start, wait};

/// Answers every offer with `Stored`, of something else.
async fn lie(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else {
            continue;
        };
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            tokio::spawn(async move {
                while let Ok(Some(message)) = channel::read(&mut receive, DEADLINE).await {
                    let answer = match message {
                        BoxMessage::Offer(offer) => FactoryMessage::Stored(Stored {
                            digest: vec![0; 32],
                            bytes: offer.bytes,
                            key: String::new(),
                        }),
                        _ => FactoryMessage::Welcome(Welcome {
                            hello_interval_s: 60,
                            ..Welcome::default()
                        }),
                    };
                    let _ = channel::send(&mut send, answer).await;
                }
            });
        }
    }
}

#[tokio::test]
async fn u35_nothing_is_deleted_on_a_word_that_is_not_proved() {
    let site = Site::new();
    let replica = site.any_replica();
    let member = site.member(&replica).await;
    let (chain, key) = site.keys().server();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("it has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together");
    tls.alpn_protocols = vec![ALPN_UPLINK.to_vec()];
    let tls = QuicServerConfig::try_from(tls).expect("it has the suite");
    let config = ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let address = endpoint.local_addr().expect("an address");
    let lying = tokio::spawn(lie(endpoint));

    let appliance = member.factory.appliance().expect("it has one");
    let outbox = Arc::new(FolderOutbox::new(
        &site.folder.path().join("spool"),
        appliance,
        [1; 16],
    ));
    outbox.seal(Class::P0, 1, 10_000);
    let _uplink = start(address, member, &outbox);
    let told = wait(&mut outbox.told.subscribe(), |told| {
        !told.refused.is_empty()
    })
    .await;
    assert!(told.acked.is_empty());
    assert_eq!(outbox.files(), 1);
    lying.abort();
}
