//! Certificates and their keys, as far as this user may read them.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::doctor::facts::{Certificate, Read, Validity};
use crate::io::tls;
use crate::io::uplink::Membership;

/// The box's own, with its key.
pub fn identity(certificate: &Path, key: Option<&Path>) -> Certificate {
    let key = key.and_then(|key| PrivateKeyDer::from_pem_file(tls::place(key).ok()?).ok());
    Certificate {
        name: "certificate",
        place: certificate.display().to_string(),
        read: read(certificate, key.as_ref()),
        mend: "Get another (docs/access.md), then `systemctl reload outstation`".to_owned(),
    }
}

/// Who signs those of clients.
pub fn authority(file: &Path) -> Certificate {
    Certificate {
        name: "client_authority",
        place: file.display().to_string(),
        read: read(file, None),
        mend: "Clients over QUIC are refused: renew it, then `systemctl reload outstation`"
            .to_owned(),
    }
}

/// What the factory knows this box by.
pub fn member(state: &Path, membership: &Membership) -> Certificate {
    Certificate {
        name: "uplink_certificate",
        place: state.join("uplink/certificate.der").display().to_string(),
        read: judge(&membership.certificate, Some(&membership.key)),
        mend:
            "Enrol the box anew: `outstation enrol` after `uplink/` in the state folder is removed"
                .to_owned(),
    }
}

fn read(file: &Path, key: Option<&PrivateKeyDer<'static>>) -> Read<Validity> {
    let Ok(file) = tls::place(file) else {
        // systemd shows credentials to the service alone.
        return Read::Denied;
    };
    // The leaf is the first.
    let first = CertificateDer::pem_file_iter(&file)
        .and_then(|mut all| all.next().unwrap_or(Err(pem::Error::NoItemsFound)));
    match first {
        Ok(certificate) => judge(&certificate, key),
        Err(pem::Error::Io(e)) if e.kind() == ErrorKind::NotFound => Read::Absent,
        Err(pem::Error::Io(e)) if e.kind() == ErrorKind::PermissionDenied => Read::Denied,
        Err(e) => {
            let bytes = fs::metadata(&file).map_or(0, |metadata| metadata.len());
            Read::Broken(format!(
                "{} ({bytes} bytes) has no certificate in PEM: {e}",
                file.display()
            ))
        }
    }
}

fn judge(der: &CertificateDer<'static>, key: Option<&PrivateKeyDer<'static>>) -> Read<Validity> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Read::Broken("the certificate cannot be read: it is no X.509".to_owned());
    };
    let validity = certificate.validity();
    let matches = |key: &PrivateKeyDer<'static>| {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(key.clone_key());
        key.is_ok_and(|key| {
            CertifiedKey::new(vec![der.clone()], key)
                .keys_match()
                .is_ok()
        })
    };
    Read::There(Validity {
        not_before_unix_s: validity.not_before.timestamp(),
        not_after_unix_s: validity.not_after.timestamp(),
        key_matches: key.map(matches),
    })
}
