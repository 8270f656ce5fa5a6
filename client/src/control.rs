//! The control streams: Hello, Ping and GoAway.
//!
//! One task owns both, so that no write to them can be cancelled half way.

use outstation_wire::frame::{Frame, FrameReader, GoAway, Hello, ProtocolError, StreamRole};
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt};
use tokio::sync::{mpsc, watch};

/// What the server has said on its control stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerState {
    pub(crate) hello: Option<Hello>,
    pub(crate) goaway: Option<GoAway>,
    /// The rule that it broke, for which the connection was closed.
    pub(crate) violation: Option<ProtocolError>,
}

/// Most bytes taken from a stream at once.
pub(crate) const READ_BYTES_MAX: usize = 16 * 1024;

/// Serves the control streams until the connection ends.
pub(crate) async fn run(
    connection: Connection,
    hello: Hello,
    state: watch::Sender<ServerState>,
    pings: mpsc::Receiver<()>,
) {
    let mut control = Control {
        connection: connection.clone(),
        state,
        reader: FrameReader::new(StreamRole::ServerControl),
        pings_sent: 0,
    };
    // Ok is the connection's end, which its other users see for themselves.
    if let Err(violation) = control.converse(hello, pings).await {
        close_for(&connection, &violation);
        control
            .state
            .send_modify(|state| state.violation = Some(violation));
    }
}

/// Closes the connection for a violation of the peer's (P-22).
pub(crate) fn close_for(connection: &Connection, violation: &ProtocolError) {
    let code = VarInt::from_u32(violation.close_code().code());
    connection.close(code, violation.to_string().as_bytes());
}

struct Control {
    connection: Connection,
    state: watch::Sender<ServerState>,
    reader: FrameReader,
    pings_sent: u64,
}

impl Control {
    async fn converse(
        &mut self,
        hello: Hello,
        mut pings: mpsc::Receiver<()>,
    ) -> Result<(), ProtocolError> {
        let Ok(mut send) = self.connection.open_uni().await else {
            return Ok(());
        };
        let _ = send.set_priority(CONTROL_PRIORITY);
        if !write(&mut send, &Frame::Hello(hello)).await {
            return Ok(());
        }
        let mut receive: Option<RecvStream> = None;
        let connection = self.connection.clone();
        loop {
            tokio::select! {
                accepted = connection.accept_uni(), if receive.is_none() => match accepted {
                    Ok(stream) => receive = Some(stream),
                    Err(_) => return Ok(()),
                },
                chunk = read(&mut receive), if receive.is_some() => match chunk {
                    Ok(Some(chunk)) => {
                        self.reader.push(&chunk.bytes);
                        if !self.handle_frames(&mut send).await? {
                            return Ok(());
                        }
                    }
                    // P-4: both are the end of a stream that must not end.
                    Ok(None) | Err(ReadError::Reset(_)) => return self.reader.finish(),
                    Err(_) => return Ok(()),
                },
                Some(()) = pings.recv() => {
                    self.pings_sent += 1;
                    if !write(&mut send, &Frame::Ping(self.pings_sent.to_be_bytes())).await {
                        return Ok(());
                    }
                }
                _ = connection.closed() => return Ok(()),
            }
        }
    }

    /// `false`: the connection has ended.
    async fn handle_frames(&mut self, send: &mut SendStream) -> Result<bool, ProtocolError> {
        while let Some(frame) = self.reader.poll_frame()? {
            match frame {
                Frame::Hello(hello) => self.state.send_modify(|state| state.hello = Some(hello)),
                Frame::GoAway(goaway) => {
                    self.state.send_modify(|state| state.goaway = Some(goaway));
                }
                // P-20
                Frame::Ping(bytes) => {
                    if !write(send, &Frame::Pong(bytes)).await {
                        return Ok(false);
                    }
                }
                Frame::Pong(_) => {}
                other => unreachable!("{other:?} is not permitted on a control stream"),
            }
        }
        Ok(true)
    }
}

/// Above every answer, so that a GoAway or Pong does not wait behind text.
const CONTROL_PRIORITY: i32 = 100;

async fn read(stream: &mut Option<RecvStream>) -> Result<Option<quinn::Chunk>, ReadError> {
    let stream = stream.as_mut().expect("the branch is off without a stream");
    stream.read_chunk(READ_BYTES_MAX, true).await
}

/// `false`: the connection has ended, or the server stopped our control stream, which ends it soon.
async fn write(send: &mut SendStream, frame: &Frame) -> bool {
    let bytes = frame.to_bytes().expect("control frames are small");
    send.write_all(&bytes).await.is_ok()
}
