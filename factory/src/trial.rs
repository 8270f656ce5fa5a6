//! A box as far as a factory sees it: for tests, and to measure a replica. It has no spool and no mercy.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outstation_wire::segment::{
    Class, Footer, FrameHead, HEADER_BYTES, Header, TAG_BYTES, WrappedKey,
};
use outstation_wire::uplink::{
    self, ALPN_ENROL, ALPN_UPLINK, BoxMessage, Enrol, FACTORY_NAME, FactoryMessage, Fetch, FromBox,
    FromFactory, Hello, Offer, Refused,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::keys::{Keys, Request};

/// What a box needs to call.
pub struct TrialBox {
    /// Its identity.
    pub appliance: [u8; 16],
    /// Its key.
    pub key: KeyPair,
    /// Its certificate; none before it is enrolled.
    pub certificate: Option<CertificateDer<'static>>,
    /// Whom it believes.
    pub authority: CertificateDer<'static>,
}

impl std::fmt::Debug for TrialBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrialBox")
            .field("appliance", &self.appliance)
            .finish_non_exhaustive()
    }
}

/// Why a trial went wrong.
pub type TrialError = Box<dyn std::error::Error + Send + Sync>;

/// An offered segment, before its bytes.
#[derive(Debug)]
pub struct Upload {
    /// What the factory said to the offer.
    pub answer: FactoryMessage,
    send: SendStream,
    receive: RecvStream,
}

impl TrialBox {
    /// With a key, and no certificate.
    pub fn fresh(keys: &Keys) -> Result<Self, TrialError> {
        Ok(Self {
            appliance: [0; 16],
            key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
            certificate: None,
            authority: keys.authority().clone(),
        })
    }

    /// With a certificate from the factory's own keys.
    pub fn enrolled(keys: &Keys, appliance: [u8; 16]) -> Result<Self, TrialError> {
        let mut trial = Self::fresh(keys)?;
        let request = Request::parse(&trial.request()?)?;
        trial.appliance = appliance;
        trial.certificate = Some(keys.issue(request, &appliance, "trial")?);
        Ok(trial)
    }

    /// PKCS #10, DER.
    pub fn request(&self) -> Result<Vec<u8>, TrialError> {
        let request = CertificateParams::default().serialize_request(&self.key)?;
        Ok(request.der().to_vec())
    }

    /// Connects.
    pub async fn connect(
        &self,
        factory: SocketAddr,
        alpn: &[u8],
    ) -> Result<(Endpoint, Connection), TrialError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut tls = match &self.certificate {
            Some(certificate) => {
                let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
                tls.with_client_auth_cert(vec![certificate.clone()], key)?
            }
            None => tls.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let mut transport = TransportConfig::default();
        transport
            .send_window(1 << 20)
            .keep_alive_interval(Some(Duration::from_secs(5)))
            .max_concurrent_bidi_streams(VarInt::from_u32(0));
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let connection = endpoint
            .connect_with(config, factory, FACTORY_NAME)?
            .await?;
        Ok((endpoint, connection))
    }

    /// Connects and says Hello, which must be welcome. The endpoint must be kept as long as the connection.
    pub async fn call(
        &self,
        factory: SocketAddr,
        hello: Hello,
    ) -> Result<(Endpoint, Connection), TrialError> {
        let (endpoint, connection) = self.connect(factory, ALPN_UPLINK).await?;
        match ask(&connection, BoxMessage::Hello(Box::new(hello))).await? {
            FactoryMessage::Welcome(_) => Ok((endpoint, connection)),
            other => Err(format!("no Welcome: {other:?}").into()),
        }
    }

    /// Asks for a certificate.
    pub async fn enrol(
        &self,
        factory: SocketAddr,
        code: &str,
    ) -> Result<FactoryMessage, TrialError> {
        let (_endpoint, connection) = self.connect(factory, ALPN_ENROL).await?;
        let enrol = Enrol {
            code: code.to_owned(),
            certificate_request: self.request()?,
            hardware: "a trial".to_owned(),
        };
        ask(&connection, BoxMessage::Enrol(enrol)).await
    }

    /// A segment of this box with frames of noise, as large as said or a little less.
    pub fn segment(&self, epoch: [u8; 16], class: Class, seq: u64, bytes: usize) -> Vec<u8> {
        let header = Header {
            appliance: self.appliance,
            epoch,
            class,
            seq,
            record_seq: seq * 1000,
            boot: 1,
            created_unix_ms: 0,
            key: WrappedKey {
                recipient: [0; 8],
                encapsulated: [0; 32],
                ciphertext: [0; 48],
            },
        };
        segment(&header, bytes)
    }
}

/// A segment with this header and frames of noise.
pub fn segment(header: &Header, bytes: usize) -> Vec<u8> {
    const RECORD_BYTES: usize = 16 << 10;
    let mut file = header.encode().to_vec();
    let checksum = header.checksum();
    let mut frames: u32 = 0;
    let mut noise = blake3::Hasher::new();
    noise.update(&header.encode());
    let mut noise = noise.finalize_xof();
    let footer_bytes = outstation_wire::segment::FOOTER_BYTES;
    while file.len() + footer_bytes + outstation_wire::segment::frame_bytes(RECORD_BYTES)
        <= bytes.max(HEADER_BYTES)
    {
        let mut ciphertext = vec![0; RECORD_BYTES + TAG_BYTES];
        noise.fill(&mut ciphertext);
        let head = FrameHead {
            ciphertext_bytes: u32::try_from(ciphertext.len()).expect("it is small"),
            record_seq: header.record_seq + u64::from(frames),
        };
        file.extend_from_slice(&head.encode(checksum, &ciphertext));
        file.extend_from_slice(&ciphertext);
        file.resize(file.len().next_multiple_of(8), 0);
        frames += 1;
    }
    let last = header.record_seq + u64::from(frames.saturating_sub(1));
    let footer = Footer {
        frames,
        record_seq_first: if frames == 0 { 0 } else { header.record_seq },
        record_seq_last: if frames == 0 { 0 } else { last },
        bytes: file.len() as u64,
        digest: *blake3::hash(&file).as_bytes(),
    };
    file.extend_from_slice(&footer.encode(checksum));
    file
}

/// A Hello of this epoch.
pub fn hello(epoch: [u8; 16], boot: u64, nonce: [u8; 16]) -> Hello {
    Hello {
        epoch: epoch.to_vec(),
        boot,
        boot_nonce: nonce.to_vec(),
        agent: "trial/1".to_owned(),
        ..Hello::default()
    }
}

/// What is said of a segment.
pub fn offer(epoch: [u8; 16], class: Class, seq: u64, segment: &[u8]) -> Offer {
    Offer {
        epoch: epoch.to_vec(),
        class: class.number().into(),
        seq,
        bytes: segment.len() as u64,
        digest: blake3::hash(segment).as_bytes().to_vec(),
    }
}

/// One message on a stream of its own, and the answer. The stream stays half open until the answer is there.
pub async fn ask(
    connection: &Connection,
    message: BoxMessage,
) -> Result<FactoryMessage, TrialError> {
    let (mut send, mut receive) = connection.open_bi().await?;
    write(&mut send, message).await?;
    read(&mut receive).await
}

impl Upload {
    /// Offers.
    pub async fn offer(connection: &Connection, offer: Offer) -> Result<Self, TrialError> {
        let (mut send, mut receive) = connection.open_bi().await?;
        write(&mut send, BoxMessage::Offer(offer)).await?;
        let answer = read(&mut receive).await?;
        Ok(Self {
            answer,
            send,
            receive,
        })
    }

    /// Where to go on, if it is to go on.
    pub fn offset(&self) -> Option<usize> {
        match &self.answer {
            FactoryMessage::Resume(resume) => usize::try_from(resume.offset).ok(),
            _ => None,
        }
    }

    /// Sends bytes, until the factory wants no more: what it says is on the other half.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), TrialError> {
        match self.send.write_all(bytes).await {
            Err(quinn::WriteError::Stopped(_)) => Ok(()),
            written => Ok(written?),
        }
    }

    /// Ends it, and waits for the answer.
    pub async fn finish(mut self) -> Result<FactoryMessage, TrialError> {
        let _ = self.send.finish();
        read(&mut self.receive).await
    }

    /// Waits for an answer without an end.
    pub async fn answer(mut self) -> Result<FactoryMessage, TrialError> {
        read(&mut self.receive).await
    }

    /// Breaks it off, after all that was written has arrived.
    pub async fn cut(mut self) -> Result<FactoryMessage, TrialError> {
        // An end before the end: everything before it was delivered.
        self.send.finish()?;
        read(&mut self.receive).await
    }
}

/// Fetches a part of a released file: the length of all of it, and the bytes; or a no.
pub async fn fetch(
    connection: &Connection,
    fetch: Fetch,
) -> Result<Result<(u64, Vec<u8>), Refused>, TrialError> {
    let (mut send, mut receive) = connection.open_bi().await?;
    write(&mut send, BoxMessage::Fetch(fetch)).await?;
    match read(&mut receive).await? {
        FactoryMessage::File(file) => {
            let bytes = receive.read_to_end(FETCH_BYTES_MAX).await?;
            Ok(Ok((file.bytes, bytes)))
        }
        FactoryMessage::Refused(refused) => Ok(Err(refused)),
        other => Err(format!("no file: {other:?}").into()),
    }
}

/// What a trial keeps of a file.
const FETCH_BYTES_MAX: usize = 64 << 20;

/// Offers a segment and sends what is wanted of it.
pub async fn send(
    connection: &Connection,
    offer: Offer,
    segment: &[u8],
) -> Result<FactoryMessage, TrialError> {
    let mut upload = Upload::offer(connection, offer).await?;
    let Some(offset) = upload.offset() else {
        return Ok(upload.answer);
    };
    upload.write(&segment[offset..]).await?;
    upload.finish().await
}

async fn write(send: &mut SendStream, message: BoxMessage) -> Result<(), TrialError> {
    let message = FromBox {
        message: Some(message),
    };
    Ok(send.write_all(&uplink::encode(&message)).await?)
}

async fn read(receive: &mut RecvStream) -> Result<FactoryMessage, TrialError> {
    let mut prefix = [0; 4];
    receive.read_exact(&mut prefix).await?;
    let mut body = vec![0; uplink::length(prefix)?];
    receive.read_exact(&mut body).await?;
    let message: FromFactory = uplink::decode(&body)?;
    message.message.ok_or_else(|| "an empty message".into())
}
