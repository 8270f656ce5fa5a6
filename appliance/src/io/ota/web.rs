//! A web server of static files: HTTP/1.1, with TLS where the address says https, one connection that is kept.

use std::sync::Arc;

use axum::http::{HeaderMap, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::source::{Meter, SILENCE_MAX, SourceError, Want};

/// A server and the folder on it.
pub struct Web {
    host: String,
    port: u16,
    /// Without a slash at its end.
    base: String,
    tls: Option<TlsConnector>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}{}", self.host, self.port, self.base)
    }
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Not what it should look like.
    #[error("`{0}` is no address of a web server: write it like https://models.example.org/ota")]
    Address(String),
    /// Who is to be believed is not known.
    #[error("no certificates to check the server by: {0}")]
    Roots(String),
    /// They cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Web {
    /// A server by its address. `authority` is who signs its certificate, if not somebody whom the system knows.
    pub fn new(
        address: &str,
        authority: Option<CertificateDer<'static>>,
    ) -> Result<Self, WebError> {
        let wrong = || WebError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authorities = uri.authority().ok_or_else(wrong)?;
        let host = authorities.host().trim_matches(['[', ']']).to_owned();
        let tls = if secure {
            Some(connector(authority)?)
        } else {
            None
        };
        Ok(Self {
            host,
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            base: uri.path().trim_end_matches('/').to_owned(),
            tls,
            connection: None,
        })
    }

    pub(super) async fn fetch(
        &mut self,
        path: &str,
        want: Want,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), SourceError> {
        let mut meter = Meter::new(path, want);
        let response = self.ask(path, want, &meter).await?;
        let (parts, mut body) = response.into_parts();
        match (parts.status, want) {
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => {
                // The connection stays usable only when the answer was read.
                self.connection = None;
                return Err(SourceError::Missing {
                    path: path.to_owned(),
                });
            }
            (StatusCode::OK, Want::Whole { .. }) => {}
            (StatusCode::OK, Want::Part { offset: 0, bytes })
                if length(&parts.headers) == Some(bytes) => {}
            (StatusCode::PARTIAL_CONTENT, Want::Part { offset, bytes })
                if content_range(&parts.headers) == Some((offset, bytes)) => {}
            (status, Want::Part { .. }) if status.is_success() => {
                self.connection = None;
                return Err(SourceError::NoRanges {
                    path: path.to_owned(),
                    status: status.as_u16(),
                });
            }
            (status, _) => {
                self.connection = None;
                let to = parts.headers.get(header::LOCATION);
                let to = to
                    .and_then(|to| to.to_str().ok())
                    .map(|to| format!(", to {to}"));
                return Err(meter.broken(format!(
                    "the server answers {status}{}",
                    to.unwrap_or_default()
                )));
            }
        }
        let read = read(&mut meter, &mut body, take).await;
        if read.is_err() {
            self.connection = None;
        }
        read
    }

    /// Sends a request and waits for the head of the answer; a kept connection that has gone is replaced once.
    async fn ask(
        &mut self,
        path: &str,
        want: Want,
        meter: &Meter<'_>,
    ) -> Result<axum::http::Response<Incoming>, SourceError> {
        let kept = self.connection.take().filter(|kept| !kept.is_closed());
        let fresh = kept.is_none();
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let mut answer = self.send(&mut connection, path, want, meter).await;
        if answer.is_err() && !fresh {
            connection = self.connect().await?;
            answer = self.send(&mut connection, path, want, meter).await;
        }
        let answer = answer?;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn send(
        &self,
        connection: &mut SendRequest<Empty<Bytes>>,
        path: &str,
        want: Want,
        meter: &Meter<'_>,
    ) -> Result<axum::http::Response<Incoming>, SourceError> {
        let mut request = Request::get(format!("{}/{}", self.base, encode(path)))
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(
                header::USER_AGENT,
                concat!("outstation/", env!("CARGO_PKG_VERSION")),
            )
            // What is signed are the bytes of the file.
            .header(header::ACCEPT_ENCODING, "identity");
        if let Want::Part { offset, bytes } = want {
            request = request.header(
                header::RANGE,
                format!("bytes={offset}-{}", offset + bytes - 1),
            );
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| meter.broken(error))?;
        meter
            .wait(connection.ready())
            .await?
            .map_err(|error| meter.broken(error))?;
        meter
            .wait(connection.send_request(request))
            .await?
            .map_err(|error| meter.broken(error))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, SourceError> {
        let away = |why: String| SourceError::Away(format!("{}:{}: {why}", self.host, self.port));
        let connect = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            let _ = stream.set_nodelay(true);
            let Some(tls) = &self.tls else {
                return handshake(TokioIo::new(stream)).await;
            };
            let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
            let stream = tls.connect(name, stream).await?;
            handshake(TokioIo::new(stream)).await
        };
        match tokio::time::timeout(SILENCE_MAX, connect).await {
            Ok(connected) => connected.map_err(|error| away(error.to_string())),
            Err(_) => Err(away("it does not answer".to_owned())),
        }
    }
}

async fn handshake<T>(stream: T) -> std::io::Result<SendRequest<Empty<Bytes>>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let shaken = http1::handshake(stream).await;
    let (sender, connection) = shaken.map_err(std::io::Error::other)?;
    // Ends with the sender.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn read(
    meter: &mut Meter<'_>,
    body: &mut Incoming,
    take: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<(), SourceError> {
    while let Some(frame) = meter.wait(body.frame()).await? {
        let frame = frame.map_err(|error| meter.broken(error))?;
        if let Some(bytes) = frame.data_ref() {
            meter.take(bytes.len())?;
            take(bytes);
        }
    }
    meter.end()
}

fn connector(authority: Option<CertificateDer<'static>>) -> Result<TlsConnector, WebError> {
    let mut roots = RootCertStore::empty();
    if let Some(authority) = authority {
        roots.add(authority)?;
    } else {
        let known = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(known.certs);
        if roots.is_empty() {
            let why = known.errors.first().map(ToString::to_string);
            let none =
                "the system has none: install ca-certificates, or say models.authority".to_owned();
            return Err(WebError::Roots(why.unwrap_or(none)));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Offset and length of the part that came.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, _) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

/// A path as it may stand in a request: what is not plain is percent-encoded; slashes stay, and what is encoded stays.
fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/@%!$&'()*+,;=:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&outstation_wire::hex::hex(&[byte]).to_uppercase());
        }
    }
    out
}
