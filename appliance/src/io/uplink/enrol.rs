//! Joining a fleet: the code says which factory may hear its secret, and the factory signs this box's key.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outstation_wire::code::{CodeError, EnrolmentCode};
use outstation_wire::hex::hex;
use outstation_wire::uplink::{ALPN_ENROL, BoxMessage, Enrol, Enrolled, FactoryMessage};
use rcgen::CertificateParams;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use super::dial::{self, DialError};
use super::membership::{self, Factory, Membership, MembershipError};

/// Why a box did not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It is a member already.
    #[error(
        "this box is already enrolled as `{name}` at {factory}: nothing was changed. To move it, stop `outstation serve` \
         and remove {folder}"
    )]
    Already {
        /// What it is called.
        name: String,
        /// Where.
        factory: String,
        /// What to remove.
        folder: String,
    },
    /// The code is no code.
    #[error("{0}")]
    Code(#[from] CodeError),
    /// Somebody else answers.
    #[error(
        "who answers at {factory} did not make this code, so it was told nothing: check the address, and that the code \
         is of this factory"
    )]
    Stranger {
        /// As said.
        factory: String,
    },
    /// The factory says no.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// Whether another try may help.
        later: bool,
    },
    /// The factory's answer does not fit.
    #[error("the factory's answer cannot be used: {0}")]
    Answer(&'static str),
    /// No connection.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The files.
    #[error("{0}")]
    Files(#[from] MembershipError),
    /// The request could not be made.
    #[error("cannot make a certificate request: {0}")]
    Request(#[from] rcgen::Error),
}

/// How long the factory may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Joins, and writes what it takes under the state folder. Safe to repeat after any failure (U-24).
pub async fn enrol(factory: &str, code: &str, state: &Path) -> Result<Factory, EnrolError> {
    if let Some(member) = Membership::read(state)? {
        return Err(EnrolError::Already {
            name: member.factory.name,
            factory: member.factory.factory,
            folder: state.join("uplink").display().to_string(),
        });
    }
    let parsed = EnrolmentCode::parse(code)?;
    let key = membership::key(state)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Fingerprint {
        code: parsed,
        provider: provider.clone(),
        seen: Mutex::default(),
    });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(DialError::from)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_ENROL.to_vec()];
    let dialled = match dial::connect(factory, tls, PATIENCE).await {
        Err(_) if verifier.seen() == Seen::Stranger => {
            let factory = factory.to_owned();
            return Err(EnrolError::Stranger { factory });
        }
        dialled => dialled?,
    };
    let request = CertificateParams::default().serialize_request(&key)?;
    let ask = Enrol {
        // As the factory writes it, whatever was typed.
        code: parsed.to_string(),
        certificate_request: request.der().to_vec(),
        hardware: hardware(),
    };
    let (mut send, mut receive) = dialled
        .connection
        .open_bi()
        .await
        .map_err(DialError::from)?;
    dial::write(&mut send, BoxMessage::Enrol(ask)).await?;
    let answer = dial::read(&mut receive, PATIENCE).await?;
    dialled.close().await;
    let enrolled = match answer {
        FactoryMessage::Enrolled(enrolled) => enrolled,
        FactoryMessage::Refused(refused) => {
            return Err(EnrolError::Refused {
                later: refused.retry_after_ms > 0,
                message: refused.message,
            });
        }
        _ => return Err(EnrolError::Answer("it is no answer to Enrol")),
    };
    let member = member(factory, enrolled, &key.serialize_der(), verifier.seen())?;
    member.write(state)?;
    Ok(member.factory)
}

/// Checks that an answer fits together, before anything is written.
fn member(
    factory: &str,
    enrolled: Enrolled,
    key: &[u8],
    seen: Seen,
) -> Result<Membership, EnrolError> {
    let authority = CertificateDer::from(enrolled.authority);
    if seen != Seen::Factory(authority.clone()) {
        return Err(EnrolError::Answer(
            "its authority is not the one whose fingerprint is in the code",
        ));
    }
    if enrolled.appliance.len() != 16 || enrolled.segment_key.len() != 32 {
        return Err(EnrolError::Answer("its identity or key has another length"));
    }
    let certificate = CertificateDer::from(enrolled.certificate);
    let key = PrivatePkcs8KeyDer::from(key.to_vec()).into();
    let member = Membership {
        factory: Factory {
            factory: factory.to_owned(),
            appliance: hex(&enrolled.appliance),
            name: enrolled.name,
            segment_key: hex(&enrolled.segment_key),
        },
        certificate,
        key,
        authority,
    };
    // rustls compares certificate and key.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(DialError::from)?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(vec![member.certificate.clone()], member.key.clone_key())
        .map_err(|_| EnrolError::Answer("its certificate is not for this box's key"))?;
    Ok(member)
}

/// The machine, for people.
pub fn hardware() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let memory = kib.map_or_else(String::new, |kib| {
        format!(", {}", crate::config::ByteSize(kib << 10))
    });
    format!("{}, {cores} cores{memory}", std::env::consts::ARCH)
}

/// Believes the factory whose authority has the fingerprint of the code, and nobody else (U-22).
#[derive(Debug)]
struct Fingerprint {
    code: EnrolmentCode,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

/// Who answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Nobody,
    Stranger,
    Factory(CertificateDer<'static>),
}

impl Fingerprint {
    fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn see(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

impl ServerCertVerifier for Fingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.see(Seen::Stranger);
        let authority = intermediates
            .last()
            .ok_or(CertificateError::UnknownIssuer)?;
        if !self.code.is_from(authority) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let authority = authority.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        self.see(Seen::Factory(authority));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has TLS 1.3 alone".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
