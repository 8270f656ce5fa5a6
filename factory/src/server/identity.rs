//! Who is at the other end: the identity in a certificate that TLS has verified (U-3).

use outstation_wire::uplink::IDENTITY_PREFIX;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::keys::unhex;

/// Of a connection. `None`: it showed no certificate, or the factory's own.
pub(super) fn of(connection: &quinn::Connection) -> Option<[u8; 16]> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    in_certificate(chain.first()?)
}

fn in_certificate(der: &[u8]) -> Option<[u8; 16]> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => unhex(uri.strip_prefix(IDENTITY_PREFIX)?),
            _ => None,
        })
}
