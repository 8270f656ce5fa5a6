//! A client of OpenAI's chat API: the box that is judged, and stronger models that label.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::chat::Message;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A server and a model of it.
#[derive(Clone)]
pub struct Api {
    host: String,
    port: u16,
    /// As far as `/v1`, without a slash at its end.
    base: String,
    tls: Option<TlsConnector>,
    key: Option<String>,
    /// What is asked; a box's `default` is whatever it serves.
    pub model: String,
}

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
}
#[derive(Deserialize)]
struct Choice {
    message: Content,
    logprobs: Option<Tokens>,
}
#[derive(Deserialize)]
struct Tokens {
    content: Option<Vec<Token>>,
}
#[derive(Deserialize)]
struct Token {
    logprob: f64,
}
#[derive(Deserialize)]
struct Content {
    content: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Not what it should look like.
    #[error("`{0}` is no address of an API: write it like http://127.0.0.1:8080/v1")]
    Address(String),
    /// Certificates of the system.
    #[error("no certificates to check the server by: {0}")]
    Roots(String),
    /// It cannot be reached, or breaks off.
    #[error("{host}:{port}: {reason}")]
    Broken {
        /// Which.
        host: String,
        /// Its port.
        port: u16,
        /// What happened.
        reason: String,
    },
    /// It answers with an error.
    #[error("{host}:{port} answers {status}: {message}")]
    Refused {
        /// Which.
        host: String,
        /// Its port.
        port: u16,
        /// HTTP's.
        status: u16,
        /// In its words.
        message: String,
    },
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asking {
    /// Tokens of an answer at most.
    pub max_tokens: u32,
    /// How long to wait for all of it.
    pub patience: Duration,
    /// Ask how likely each token was. Not every server says it.
    pub logprobs: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// Its text.
    pub text: String,
    /// How likely the model found it: the product over its tokens, where that was asked for and told.
    pub probability: Option<f64>,
}

impl Api {
    /// A server by its address, as far as `/v1`.
    pub fn new(address: &str, model: &str, key: Option<String>) -> Result<Self, ApiError> {
        let wrong = || ApiError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let host = uri
            .host()
            .ok_or_else(wrong)?
            .trim_matches(['[', ']'])
            .to_owned();
        Ok(Self {
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            host,
            base: uri.path().trim_end_matches('/').to_owned(),
            tls: if secure { Some(connector()?) } else { None },
            key,
            model: model.to_owned(),
        })
    }

    /// The answer to some messages, of the most likely tokens.
    pub async fn chat(&self, messages: &[Message], asking: Asking) -> Result<Said, ApiError> {
        let mut body = json!({
            "model": self.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": asking.max_tokens,
        });
        if asking.logprobs {
            body["logprobs"] = true.into();
        }
        let answer = tokio::time::timeout(
            asking.patience,
            self.post("/chat/completions", body.to_string()),
        )
        .await;
        let bytes =
            answer.map_err(|_| self.broken(format!("no answer in {:?}", asking.patience)))??;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|e| self.broken(e))?;
        let first = answer.choices.into_iter().next();
        let first = first.ok_or_else(|| self.broken("an answer without a choice"))?;
        let tokens = first.logprobs.and_then(|tokens| tokens.content);
        let sum = |tokens: Vec<Token>| tokens.iter().map(|token| token.logprob).sum::<f64>();
        Ok(Said {
            text: first.message.content.unwrap_or_default(),
            probability: tokens.map(|tokens| sum(tokens).exp()),
        })
    }

    async fn post(&self, path: &str, body: String) -> Result<Bytes, ApiError> {
        let mut request = Request::post(format!("{}{path}", self.base))
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| self.broken(e))?;
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| self.broken(e))?;
        let response = match &self.tls {
            None => self.exchange(stream, request).await?,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|e| self.broken(e))?;
                let stream = tls
                    .connect(name, stream)
                    .await
                    .map_err(|e| self.broken(e))?;
                self.exchange(stream, request).await?
            }
        };
        let (status, bytes) = response;
        if status == 200 {
            return Ok(bytes);
        }
        let error: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
        let message = error.as_ref().and_then(|e| e["error"]["message"].as_str());
        Err(ApiError::Refused {
            host: self.host.clone(),
            port: self.port,
            status,
            message: message.map_or_else(
                || String::from_utf8_lossy(&bytes).chars().take(200).collect(),
                str::to_owned,
            ),
        })
    }

    async fn exchange<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<(u16, Bytes), ApiError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(e))?;
        let driving = tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(e))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let bytes = body.map_err(|e| self.broken(e))?.to_bytes();
        driving.abort();
        Ok((status, bytes))
    }

    fn broken(&self, reason: impl std::fmt::Display) -> ApiError {
        ApiError::Broken {
            host: self.host.clone(),
            port: self.port,
            reason: reason.to_string(),
        }
    }
}

fn connector() -> Result<TlsConnector, ApiError> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(ApiError::Roots(reasons.join("; ")));
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use axum::{Json, Router};
    use serde_json::Value;

    use super::*;

    fn user(content: &str) -> [Message; 1] {
        [Message {
            role: "user".to_owned(),
            content: content.to_owned(),
        }]
    }

    const ASKING: Asking = Asking {
        max_tokens: 7,
        patience: Duration::from_secs(10),
        logprobs: true,
    };

    /// A server that says what it was asked.
    async fn server() -> String {
        let answer = |headers: axum::http::HeaderMap, Json(body): Json<Value>| async move {
            let asked = body["messages"][0]["content"].as_str().unwrap_or_default();
            let key = headers
                .get("authorization")
                .map_or("none", |key| key.to_str().unwrap());
            let said = format!("{asked} {} {} {key}", body["model"], body["max_tokens"]);
            match asked {
                "full" => Err((
                    axum::http::StatusCode::TOO_MANY_REQUESTS,
                    r#"{"error":{"message":"come again"}}"#,
                )),
                "odd" => Ok(Json(json!({"choices": []}))),
                _ => {
                    // As likely as two times even odds, if asked.
                    let half = json!({"logprob": 0.5_f64.ln()});
                    let logprobs = (body["logprobs"] == true)
                        .then(|| json!({"content": [half.clone(), half]}));
                    let choice = json!({"message": {"content": said}, "logprobs": logprobs});
                    Ok(Json(json!({"choices": [choice]})))
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/v1/chat/completions", post(answer));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        format!("http://{address}/v1/")
    }

    #[tokio::test]
    async fn it_asks_and_tells_what_went_wrong() {
        let address = server().await;
        let api = Api::new(&address, "m", Some("secret".to_owned())).unwrap();
        let said = api.chat(&user("hello"), ASKING).await.unwrap();
        assert_eq!(said.text, "hello \"m\" 7 Bearer secret");
        assert!((said.probability.unwrap() - 0.25).abs() < 1e-9);
        let unasked = Asking {
            logprobs: false,
            ..ASKING
        };
        let said = api.chat(&user("hello"), unasked).await.unwrap();
        assert_eq!(said.probability, None);
        let refused = api
            .chat(&user("full"), ASKING)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("answers 429: come again"), "{refused}");
        let odd = api
            .chat(&user("odd"), ASKING)
            .await
            .unwrap_err()
            .to_string();
        assert!(odd.contains("without a choice"), "{odd}");
        let nobody = Api::new("http://127.0.0.1:1/v1", "m", None).unwrap();
        assert!(matches!(
            nobody.chat(&user("x"), ASKING).await,
            Err(ApiError::Broken { .. })
        ));
        for address in ["127.0.0.1:80", "ftp://x/v1", ""] {
            assert!(
                matches!(Api::new(address, "m", None), Err(ApiError::Address(_))),
                "{address}"
            );
        }
    }
}
