//! One connection: its control streams, and a task for each request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outstation_wire::frame::{CloseCode, GENERATE_BYTES_MAX, GoAway, Hello, ProtocolError};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Drain, REQUESTS_MAX, UPLOADS_MAX, answer, code, control};
use crate::io::gateway::Gateway;
use crate::request::Tenant;

/// A connection without a request for this long is closed (P-24); who pings would stay forever.
const UNUSED_MAX: Duration = Duration::from_mins(5);

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// QUIC's reasons: the peer closed it, or is gone.
    Lost(ConnectionError),
    /// The peer broke a rule (P-22).
    Violation(ProtocolError),
    /// What was due did not come (P-3, P-24).
    Overdue(&'static str),
    /// The box is going down and the last request has ended (P-19).
    Drained,
}

impl End {
    fn code(&self) -> CloseCode {
        match self {
            Self::Lost(_) | Self::Drained => CloseCode::NoError,
            Self::Violation(violation) => violation.close_code(),
            Self::Overdue(_) => CloseCode::Timeout,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(error) => error.fmt(f),
            Self::Violation(violation) => violation.fmt(f),
            Self::Overdue(what) => write!(f, "{what} did not come in time"),
            Self::Drained => f.write_str("the server is going down"),
        }
    }
}

impl From<ProtocolError> for End {
    fn from(violation: ProtocolError) -> Self {
        Self::Violation(violation)
    }
}

/// What the requests of a connection share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) gateway: Gateway,
    /// Who asks.
    pub(super) tenant: Tenant,
    /// A permit for each request that is being read.
    pub(super) uploads: Arc<Semaphore>,
}

/// Serves a connection to its end, and closes it.
pub(super) async fn run(
    connection: Connection,
    gateway: Gateway,
    tenant: Tenant,
    drain: watch::Receiver<Drain>,
) -> End {
    let end = converse(&connection, gateway, tenant, drain).await;
    // The requests' tasks were aborted on the way here: their generations end with them.
    connection.close(code(end.code()), end.to_string().as_bytes());
    end
}

async fn converse(
    connection: &Connection,
    gateway: Gateway,
    tenant: Tenant,
    mut drain: watch::Receiver<Drain>,
) -> End {
    let (goaway, goaways) = mpsc::channel(1);
    let control = control::run(connection, hello(&gateway), goaways);
    tokio::pin!(control);
    let shared = Shared {
        gateway,
        tenant,
        uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
    };
    let mut requests: JoinSet<Result<(), ProtocolError>> = JoinSet::new();
    let mut unused_since = Instant::now();
    let mut first_unserved_stream = 0;
    let mut draining: Drain = None;
    loop {
        if draining.is_none()
            && let Some(limit) = *drain.borrow_and_update()
        {
            draining = Some(limit);
            let drain_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
            // There is room: this is the only one.
            let _ = goaway.try_send(GoAway {
                first_unserved_stream,
                drain_ms,
            });
        }
        if draining.is_some() && requests.is_empty() {
            return End::Drained;
        }
        tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok((send, receive)) => {
                    if draining.is_none() {
                        first_unserved_stream = next_stream(&send);
                    }
                    requests.spawn(request(shared.clone(), draining, send, receive));
                }
                Err(error) => return End::Lost(error),
            },
            // A panic of a request has reset its stream on its way out.
            Some(outcome) = requests.join_next(), if !requests.is_empty() => {
                unused_since = Instant::now();
                if let Ok(Err(violation)) = outcome {
                    return End::Violation(violation);
                }
            }
            end = &mut control => return end,
            Ok(()) = drain.changed(), if draining.is_none() => {}
            () = tokio::time::sleep_until(unused_since + UNUSED_MAX), if requests.is_empty() => {
                return End::Overdue("a request");
            }
        }
    }
}

async fn request(
    shared: Shared,
    draining: Drain,
    send: SendStream,
    receive: RecvStream,
) -> Result<(), ProtocolError> {
    if draining.is_none() {
        return answer::serve(shared, send, receive).await;
    }
    answer::refuse_draining(send).await;
    Ok(())
}

/// Ids of a client's bidi streams are 0, 4, 8... Source: RFC 9000, section 2.1.
fn next_stream(stream: &SendStream) -> u64 {
    4 * (stream.id().index() + 1)
}

fn hello(gateway: &Gateway) -> Hello {
    let served = gateway.served();
    Hello {
        agent: concat!("outstation/", env!("CARGO_PKG_VERSION")).to_owned(),
        requests_max: REQUESTS_MAX,
        generate_bytes_max: GENERATE_BYTES_MAX,
        model: served.id.clone(),
        context_tokens_max: served.context_tokens_max,
    }
}
