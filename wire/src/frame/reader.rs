//! Frames out of bytes as they come.

use super::order::Order;
use super::{
    Frame, FrameType, GENERATE_BYTES_MAX, ProtocolError, StreamRole, UNKNOWN_BYTES_MAX, varint,
};

/// Reads the frames of one stream, and holds its writer to the order of its role.
///
/// Calling order: [`push`](Self::push) what came, [`poll_frame`](Self::poll_frame) until it gives `None`, repeat; at
/// the end of the stream [`finish`](Self::finish) once. After an error every call gives the same error.
///
/// Memory: what was pushed and not yet polled, plus at most one frame that is not whole. A frame that is too long or
/// out of order is refused by its header (P-7), before more of it is taken.
#[derive(Debug)]
pub struct FrameReader {
    order: Order,
    generate_bytes_max: u64,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are done with.
    start: usize,
    /// Bytes still to come of a frame that is skipped.
    skip: u64,
    /// Bytes of unknown frames since the last known one.
    unknown_bytes: u64,
    failed: Option<ProtocolError>,
}

/// The header at the front of the buffer.
struct Header {
    id: u64,
    own_bytes: usize,
    body_bytes: u64,
}

impl FrameReader {
    /// A reader at the start of a stream.
    pub fn new(role: StreamRole) -> Self {
        Self {
            order: Order::new(role),
            generate_bytes_max: GENERATE_BYTES_MAX,
            buffer: Vec::new(),
            start: 0,
            skip: 0,
            unknown_bytes: 0,
            failed: None,
        }
    }

    /// Lowers the most bytes of a Generate body to what this server announced.
    #[must_use]
    pub fn with_generate_bytes_max(mut self, bytes_max: u64) -> Self {
        self.generate_bytes_max = bytes_max.min(GENERATE_BYTES_MAX);
        self
    }

    /// Takes the next bytes of the stream, in order.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        // A skipped body is never stored (P-6).
        let skip = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        self.skip -= skip as u64;
        self.buffer.extend_from_slice(&bytes[skip..]);
    }

    /// The next whole frame; `None` if more bytes are needed.
    pub fn poll_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let outcome = self.advance();
        if let Err(error) = &outcome {
            self.failed = Some(error.clone());
            self.buffer = Vec::new();
            self.start = 0;
        }
        outcome
    }

    /// The stream ended cleanly. Call it after `poll_frame` gave `None`.
    pub fn finish(&self) -> Result<(), ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let frame_open = self.skip > 0 || self.start < self.buffer.len();
        self.order.finish(frame_open)
    }

    /// Bytes that wait for the rest of their frame.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn advance(&mut self) -> Result<Option<Frame>, ProtocolError> {
        // Each turn takes at least the two bytes of a header, so the buffer bounds the loop.
        while self.skip == 0 {
            let Some(header) = self.header() else {
                return Ok(None);
            };
            self.order.permit(header.id)?;
            let Some(kind) = FrameType::from_id(header.id) else {
                self.skip_unknown(&header)?;
                continue;
            };
            let bytes_max = self.bytes_max(kind);
            if header.body_bytes > bytes_max {
                return Err(ProtocolError::TooBig {
                    kind,
                    bytes: header.body_bytes,
                    bytes_max,
                });
            }
            let body_bytes = usize::try_from(header.body_bytes).expect("it is below bytes_max");
            let body_start = self.start + header.own_bytes;
            let Some(body) = self.buffer.get(body_start..body_start + body_bytes) else {
                return Ok(None);
            };
            let frame = Frame::decode_body(kind, body)?;
            self.order.note(&frame)?;
            self.start = body_start + body_bytes;
            self.unknown_bytes = 0;
            return Ok(Some(frame));
        }
        Ok(None)
    }

    fn header(&self) -> Option<Header> {
        let bytes = &self.buffer[self.start..];
        let (id, id_bytes) = varint::read(bytes)?;
        let (body_bytes, length_bytes) = varint::read(&bytes[id_bytes..])?;
        Some(Header {
            id,
            own_bytes: id_bytes + length_bytes,
            body_bytes,
        })
    }

    fn skip_unknown(&mut self, header: &Header) -> Result<(), ProtocolError> {
        // Both are below 2^62 and the sum so far below UNKNOWN_BYTES_MAX: no overflow.
        self.unknown_bytes += header.own_bytes as u64 + header.body_bytes;
        if self.unknown_bytes > UNKNOWN_BYTES_MAX {
            return Err(ProtocolError::TooMuchUnknown {
                id: header.id,
                bytes: self.unknown_bytes,
                bytes_max: UNKNOWN_BYTES_MAX,
            });
        }
        let body_start = self.start + header.own_bytes;
        let here = (self.buffer.len() - body_start) as u64;
        let dropped = here.min(header.body_bytes);
        self.skip = header.body_bytes - dropped;
        self.start = body_start + usize::try_from(dropped).expect("it is in the buffer");
        Ok(())
    }

    fn bytes_max(&self, kind: FrameType) -> u64 {
        match kind {
            FrameType::Generate => self.generate_bytes_max,
            _ => kind.bytes_max(),
        }
    }
}
