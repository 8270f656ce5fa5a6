//! A factory: keys and a store in a folder, and replicas over them.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outstation::io::uplink::{BoxState, Membership, Options, Uplink, UplinkState, enrol};
use outstation_factory::clock::unix_ms;
use outstation_factory::keys::Keys;
use outstation_factory::registry::{Code, Registry};
use outstation_factory::server::{Factory, Limits, Server};
use outstation_factory::store::Store;
use outstation_wire::code::EnrolmentCode;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::outbox::FolderOutbox;

/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Site {
    pub(crate) folder: TempDir,
}

pub(crate) struct Replica {
    pub(crate) factory: Arc<Factory>,
    pub(crate) address: SocketAddr,
    server: Server,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::load_or_make(&self.folder.path().join("keys"))
            .expect("keys")
            .0
    }

    pub(crate) fn store(&self) -> Store {
        Store::folder(&self.folder.path().join("store")).expect("a store")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A replica at an address; port 0 is any.
    pub(crate) fn replica(&self, address: SocketAddr, limits: Limits) -> Replica {
        let socket = UdpSocket::bind(address).expect("a socket");
        self.replica_on(socket, limits)
    }

    /// A replica where another one was, which lets go of its socket when its last task has ended.
    pub(crate) async fn replica_in_place(&self, address: SocketAddr) -> Replica {
        let bound = async {
            loop {
                match UdpSocket::bind(address) {
                    Ok(socket) => return socket,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let socket = tokio::time::timeout(DEADLINE, bound)
            .await
            .expect("the address comes free");
        self.replica_on(socket, Limits::default())
    }

    fn replica_on(&self, socket: UdpSocket, limits: Limits) -> Replica {
        let factory = Factory::new(self.store(), self.keys(), limits);
        let server = Server::start(socket, factory.clone()).expect("a server");
        Replica {
            factory,
            address: server.local_address().expect("an address"),
            server,
        }
    }

    pub(crate) fn any_replica(&self) -> Replica {
        self.replica(([127, 0, 0, 1], 0).into(), Limits::default())
    }

    /// A code, good for so many milliseconds more.
    pub(crate) async fn code(&self, secret: [u8; 10], good_ms: i64) -> String {
        let code = EnrolmentCode::new(secret, self.keys().authority());
        let given = Code {
            name: "mast 7".to_owned(),
            expires_unix_ms: unix_ms().saturating_add_signed(good_ms),
        };
        let registry = Registry::new(self.store());
        let added = registry.add_code(&code.lookup(), &given).await;
        added.expect("the store takes it");
        code.to_string()
    }

    /// A box that has joined.
    pub(crate) async fn member(&self, replica: &Replica) -> Membership {
        let code = self.code([1; 10], 60_000).await;
        self.join(replica, &code).await
    }

    /// Joins with a code.
    pub(crate) async fn join(&self, replica: &Replica, code: &str) -> Membership {
        let joined = enrol::enrol(&replica.address.to_string(), code, &self.state()).await;
        joined.expect("it joins");
        Membership::read(&self.state())
            .expect("its files are whole")
            .expect("they are there")
    }
}

impl Replica {
    pub(crate) async fn close(self) {
        self.server.close().await;
    }
}

/// Starts the box's side.
pub(crate) fn start(address: SocketAddr, member: Membership, outbox: &Arc<FolderOutbox>) -> Uplink {
    let state = || BoxState {
        model: "demo".to_owned(),
        requests_served: 12,
        ..BoxState::default()
    };
    Uplink::start(
        Options::new(address.to_string()),
        member,
        outbox.clone(),
        state,
    )
}

/// Waits until a value is as it should be.
pub(crate) async fn wait<T: Clone>(
    receiver: &mut watch::Receiver<T>,
    what: impl FnMut(&T) -> bool,
) -> T {
    let waited = tokio::time::timeout(DEADLINE, receiver.wait_for(what)).await;
    waited
        .expect("it happens in time")
        .expect("the sender lives")
        .clone()
}

/// Waits until the uplink has sent so many.
pub(crate) async fn sent(uplink: &Uplink, segments: u64) -> UplinkState {
    wait(&mut uplink.state(), |state| state.segments_sent >= segments).await
}
