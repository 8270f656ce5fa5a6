//! Whom a client believes to be its outstation.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::ClientError;

/// Who the client is, for boxes that ask for a certificate.
#[derive(Debug, Clone)]
pub struct ClientIdentity(Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>);

impl ClientIdentity {
    /// A certificate chain, leaf first, and its key, both PEM.
    ///
    /// **Errors**: either has not what it should.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, ClientError> {
        let Trust::Roots(chain) = Trust::from_pem(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| ClientError::Trust {
            what: format!("a private key that cannot be read ({error})"),
        })?;
        Ok(Self(Arc::new((chain, key))))
    }

    pub(crate) fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.0.0.clone(), self.0.1.clone_key())
    }
}

/// Whom to trust. There is no way to trust everybody.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Servers whose certificate is one of these, or signed by one of these.
    Roots(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// The certificates of a PEM file.
    ///
    /// **Errors**: no certificate in it, or one that cannot be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ClientError> {
        let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| ClientError::Trust {
                what: format!("a PEM file that cannot be read ({error})"),
            })?;
        if roots.is_empty() {
            return Err(ClientError::Trust {
                what: "a PEM file without a certificate".to_owned(),
            });
        }
        Ok(Self::Roots(roots))
    }

    pub(crate) fn into_roots(self) -> Result<RootCertStore, ClientError> {
        let Self::Roots(certificates) = self;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| ClientError::Trust {
                what: format!("a certificate ({error})"),
            })?;
        }
        Ok(roots)
    }
}
