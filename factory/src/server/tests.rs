//! A replica against boxes, over loopback, with a folder as the store.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path as FilePath;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use outstation_wire::segment::Class;
use outstation_wire::uplink::{BoxMessage, FactoryMessage, Refused, RefusedCode};
use quinn::Connection;
use tempfile::TempDir;

use super::{Factory, Limits, Server};
use crate::keys::Keys;
use crate::store::Store;
use crate::trial::{self, TrialBox, Upload};

mod enrolling;
pub(crate) mod failing;
mod fetching;
mod fleet;
mod segments;

const EPOCH: [u8; 16] = [7; 16];
const APPLIANCE: [u8; 16] = [1; 16];

/// Keys and a store that replicas share.
pub(crate) struct Site {
    folder: TempDir,
}

/// A replica.
pub(crate) struct Replica {
    pub(crate) factory: Arc<Factory>,
    server: Server,
    address: SocketAddr,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        FilePath::new(self.folder.path()).join(name)
    }

    fn keys(&self) -> Keys {
        Keys::load_or_make(&self.path("keys")).unwrap().0
    }

    fn store(&self) -> Store {
        Store::folder(&self.path("store")).unwrap()
    }

    fn replica(&self) -> Replica {
        self.replica_with(self.store(), Limits::default())
    }

    pub(crate) fn replica_with(&self, store: Store, limits: Limits) -> Replica {
        let factory = Factory::new(store, self.keys(), limits);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Server::start(socket, factory.clone()).unwrap();
        let address = server.local_address().unwrap();
        Replica {
            factory,
            server,
            address,
        }
    }

    pub(crate) fn trial(&self) -> TrialBox {
        TrialBox::enrolled(&self.keys(), APPLIANCE).unwrap()
    }

    /// Names of all objects under a folder.
    async fn objects(&self, folder: &str) -> Vec<String> {
        let store = self.store();
        let listed = store.objects().list(Some(&Path::from(folder)));
        let listed: Vec<_> = listed.try_collect().await.unwrap();
        let mut names: Vec<_> = listed
            .into_iter()
            .map(|meta| meta.location.to_string())
            .collect();
        names.sort();
        names
    }

    async fn bytes(&self, key: &str) -> Vec<u8> {
        let got = self.store().objects().get(&Path::from(key)).await.unwrap();
        got.bytes().await.unwrap().into()
    }
}

impl Replica {
    pub(crate) async fn call(&self, trial: &TrialBox) -> (quinn::Endpoint, Connection) {
        trial
            .call(self.address, trial::hello(EPOCH, 1, [9; 16]))
            .await
            .unwrap()
    }

    async fn close(self) {
        self.server.close().await;
    }
}

fn refused(answer: FactoryMessage) -> (RefusedCode, Refused) {
    match answer {
        FactoryMessage::Refused(refused) => (RefusedCode::try_from(refused.code).unwrap(), refused),
        other => panic!("no refusal: {other:?}"),
    }
}

fn stored(answer: FactoryMessage) -> outstation_wire::uplink::Stored {
    match answer {
        FactoryMessage::Stored(stored) => stored,
        other => panic!("not stored: {other:?}"),
    }
}

async fn hello(connection: &Connection, boot: u64, nonce: [u8; 16]) -> FactoryMessage {
    let hello = Box::new(trial::hello(EPOCH, boot, nonce));
    trial::ask(connection, BoxMessage::Hello(hello))
        .await
        .unwrap()
}

/// Sends a segment of this place and size.
pub(crate) async fn send(
    connection: &Connection,
    trial: &TrialBox,
    seq: u64,
    bytes: usize,
) -> FactoryMessage {
    let segment = trial.segment(EPOCH, Class::P0, seq, bytes);
    let offer = trial::offer(EPOCH, Class::P0, seq, &segment);
    trial::send(connection, offer, &segment).await.unwrap()
}
