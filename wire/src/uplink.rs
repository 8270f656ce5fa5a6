//! Between a box and its factory, over QUIC: `docs/uplink.md` is the specification.
//!
//! ```text
//! ALPN outstation-uplink/1, both sides with certificates of the factory's authority
//!   first stream of the box     Hello ─▶            ◀─ Welcome        and so again whenever there is news
//!   a stream for each segment   Offer ─▶  ◀─ Resume   bytes from there, FIN ─▶   ◀─ Stored      or at once ◀─ Stored
//!   a stream for each range     Fetch ─▶  ◀─ File     ◀─ bytes, FIN                of what is released
//! ALPN outstation-enrol/1, the box has no certificate yet
//!   one stream                  Enrol ─▶            ◀─ Enrolled
//! ```
//!
//! Each message has its length before it, a u32, little-endian. Any answer may be `Refused` instead.

pub use prost::Message;

/// The name of the protocol in the TLS handshake.
pub const ALPN_UPLINK: &[u8] = b"outstation-uplink/1";

/// The same for a box that has no certificate yet.
pub const ALPN_ENROL: &[u8] = b"outstation-enrol/1";

/// The name in the factory's certificate, whatever its address is (U-2).
pub const FACTORY_NAME: &str = "factory.outstation.internal";

/// What stands before the 32 hexadecimal digits of a box's identity in its certificate, a URI of its subject's
/// alternative names (U-3).
pub const IDENTITY_PREFIX: &str = "urn:outstation:";

/// Bytes of a message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// From the box.
#[derive(Clone, PartialEq, Message)]
pub struct FromBox {
    /// Which.
    #[prost(oneof = "BoxMessage", tags = "1, 2, 3, 4")]
    pub message: Option<BoxMessage>,
}

/// What a box says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum BoxMessage {
    /// Who is there and how it is.
    #[prost(message, tag = "1")]
    Hello(Box<Hello>),
    /// A segment that it has.
    #[prost(message, tag = "2")]
    Offer(Offer),
    /// It wants to belong to the fleet.
    #[prost(message, tag = "3")]
    Enrol(Enrol),
    /// It wants a part of a released file.
    #[prost(message, tag = "4")]
    Fetch(Fetch),
}

/// From the factory.
#[derive(Clone, PartialEq, Message)]
pub struct FromFactory {
    /// Which.
    #[prost(oneof = "FactoryMessage", tags = "1, 2, 3, 4, 5, 6")]
    pub message: Option<FactoryMessage>,
}

/// What a factory says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FactoryMessage {
    /// The answer to `Hello`.
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    /// Send the segment, from here.
    #[prost(message, tag = "2")]
    Resume(Resume),
    /// The segment is stored for good.
    #[prost(message, tag = "3")]
    Stored(Stored),
    /// The answer to `Enrol`.
    #[prost(message, tag = "4")]
    Enrolled(Enrolled),
    /// No.
    #[prost(message, tag = "5")]
    Refused(Refused),
    /// The answer to `Fetch`: the bytes follow.
    #[prost(message, tag = "6")]
    File(File),
}

/// Who is there and how it is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// The spool that it writes: 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub epoch: Vec<u8>,
    /// Starts of the program since the spool was made.
    #[prost(uint64, tag = "2")]
    pub boot: u64,
    /// Drawn at this start: 16 bytes. Two machines from one disk image differ in it.
    #[prost(bytes = "vec", tag = "3")]
    pub boot_nonce: Vec<u8>,
    /// Program and version.
    #[prost(string, tag = "4")]
    pub agent: String,
    /// The model that it serves.
    #[prost(string, tag = "5")]
    pub model: String,
    /// Its BLAKE3.
    #[prost(bytes = "vec", tag = "6")]
    pub model_digest: Vec<u8>,
    /// Machine, for people: architecture, cores, memory, accelerator.
    #[prost(string, tag = "7")]
    pub hardware: String,
    /// Milliseconds since 1970, by its clock.
    #[prost(uint64, tag = "8")]
    pub unix_ms: u64,
    /// Bytes that wait in the spool.
    #[prost(uint64, tag = "9")]
    pub spool_bytes: u64,
    /// Segments that wait.
    #[prost(uint64, tag = "10")]
    pub spool_segments: u64,
    /// Records lost since the spool was made, as gaps say.
    #[prost(uint64, tag = "11")]
    pub records_lost: u64,
    /// Requests served since start.
    #[prost(uint64, tag = "12")]
    pub requests_served: u64,
    /// What is wrong with it, in a sentence; empty if nothing is.
    #[prost(string, tag = "13")]
    pub trouble: String,
    /// What it follows of what is released; empty if nothing.
    #[prost(string, tag = "14")]
    pub ring: String,
    /// The counter of the rollout that it acts on.
    #[prost(uint64, tag = "15")]
    pub rollout: u64,
    /// The target of the manifest that it acts on.
    #[prost(string, tag = "16")]
    pub manifest: String,
    /// How far it is with it.
    #[prost(enumeration = "ReleasePhase", tag = "17")]
    pub phase: i32,
    /// Why it gave that up, for people.
    #[prost(string, tag = "18")]
    pub reason: String,
}

/// How far a box is with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ReleasePhase {
    /// It acts on none.
    Idle = 0,
    /// Bytes come in, or are there and wait for their time.
    Fetching = 1,
    /// It is loaded, tested, or serves a share of the requests.
    Trial = 2,
    /// It passed, and serves.
    Committed = 3,
    /// It was taken back, and will not be tried again.
    Rejected = 4,
}

/// The answer to `Hello`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Welcome {
    /// Milliseconds since 1970: the floor of the box's clock from here on.
    #[prost(uint64, tag = "1")]
    pub unix_ms: u64,
    /// Another machine writes the same spool: begin a new one. What was sealed is taken, and kept apart.
    #[prost(bool, tag = "2")]
    pub new_epoch: bool,
    /// When to say `Hello` again.
    #[prost(uint32, tag = "3")]
    pub hello_interval_s: u32,
    /// Bytes a second that the factory takes from this box; 0 is no limit.
    #[prost(uint64, tag = "4")]
    pub upload_bytes_per_s_max: u64,
}

/// A segment that a box has.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Offer {
    /// Its spool.
    #[prost(bytes = "vec", tag = "1")]
    pub epoch: Vec<u8>,
    /// 0, 1 or 2.
    #[prost(uint32, tag = "2")]
    pub class: u32,
    /// Its place in its class.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// Bytes of the file.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    /// BLAKE3 of the file.
    #[prost(bytes = "vec", tag = "5")]
    pub digest: Vec<u8>,
}

/// Send the segment, from here.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Resume {
    /// Bytes that the factory has from an earlier try.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
}

/// The segment is stored for good.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Stored {
    /// BLAKE3 of what is stored. The box compares before it deletes.
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    /// Bytes of what is stored.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Where.
    #[prost(string, tag = "3")]
    pub key: String,
}

/// It wants to belong to the fleet.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Enrol {
    /// The one-time code.
    #[prost(string, tag = "1")]
    pub code: String,
    /// PKCS #10 request for its key, DER.
    #[prost(bytes = "vec", tag = "2")]
    pub certificate_request: Vec<u8>,
    /// Machine, for people.
    #[prost(string, tag = "3")]
    pub hardware: String,
}

/// It belongs to the fleet.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Enrolled {
    /// Its identity: 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub appliance: Vec<u8>,
    /// The name that the operator gave it.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its certificate, DER.
    #[prost(bytes = "vec", tag = "3")]
    pub certificate: Vec<u8>,
    /// The factory's authority, DER.
    #[prost(bytes = "vec", tag = "4")]
    pub authority: Vec<u8>,
    /// What segments are encrypted to: an X25519 public key of 32 bytes.
    #[prost(bytes = "vec", tag = "5")]
    pub segment_key: Vec<u8>,
}

/// A part of a released file.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Fetch {
    /// Its path: under `metadata/`, `targets/` or `packs/`.
    #[prost(string, tag = "1")]
    pub path: String,
    /// From here on.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// At most so many bytes.
    #[prost(uint64, tag = "3")]
    pub bytes_max: u64,
}

/// The answer to `Fetch`: the bytes come after it on the stream, up to its end.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct File {
    /// Length of the whole file.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
}

/// No.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refused {
    /// What kind of no.
    #[prost(enumeration = "RefusedCode", tag = "1")]
    pub code: i32,
    /// What happened, and what to do.
    #[prost(string, tag = "2")]
    pub message: String,
    /// When it may be worth another try; 0 is never without a change.
    #[prost(uint64, tag = "3")]
    pub retry_after_ms: u64,
}

/// Kinds of no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RefusedCode {
    /// Made by a later version.
    Unknown = 0,
    /// The store does not answer: come back.
    Unavailable = 1,
    /// The message makes no sense.
    Malformed = 2,
    /// The bytes are not those that were offered.
    Digest = 3,
    /// Another segment with the same place is stored: another machine writes the same spool.
    Conflict = 4,
    /// The code is unknown, used or too old.
    Code = 5,
    /// The box does not belong here any more.
    Revoked = 6,
    /// Too much at once: come back.
    Busy = 7,
    /// There is no such file.
    Missing = 8,
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// Longer than any message.
    #[error("a message of {bytes} bytes, at most {MESSAGE_BYTES_MAX} are possible")]
    Long {
        /// What the length says.
        bytes: usize,
    },
    /// No protobuf.
    #[error("a message does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// A message with its length before it.
pub fn encode(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).expect("messages are short");
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// A message from the bytes after its length.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, UplinkError> {
    Ok(M::decode(body)?)
}

impl Refused {
    /// When it may be worth another try. `None`: not without a change.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        (self.retry_after_ms > 0).then(|| std::time::Duration::from_millis(self.retry_after_ms))
    }
}

/// The length before a message, checked.
pub fn length(prefix: [u8; 4]) -> Result<usize, UplinkError> {
    let bytes = u32::from_le_bytes(prefix) as usize;
    if bytes > MESSAGE_BYTES_MAX {
        return Err(UplinkError::Long { bytes });
    }
    Ok(bytes)
}
