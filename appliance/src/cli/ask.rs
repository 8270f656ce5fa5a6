//! `outstation ask`: one question to a running box, over QUIC; the answer is printed as it comes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use outstation_client::{
    Chat, ChatMessage, Class, ClientError, ClientIdentity, ClientOptions, Done, ErrorCode, Event,
    Generate, Generation, Prompt, Sampling, Session, Trust,
};

use super::exit::{self, Failure};
use crate::io::tls;

/// Arguments of `ask`.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// The question.
    prompt: String,
    /// The box.
    #[arg(
        long,
        value_name = "quic://HOST:PORT",
        default_value = "quic://127.0.0.1:4433"
    )]
    url: String,
    /// PEM file of the certificate to trust. Default: the one that a box on this machine leaves for it.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of this client's certificate, for boxes that ask for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Name of the model; the box's own choice without it.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Most tokens of the answer.
    #[arg(long, value_name = "N", default_value_t = 256)]
    tokens: u32,
    /// 0 is greedy.
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Seed of the draw.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How long it can wait.
    #[arg(long, value_enum, default_value_t)]
    class: AskClass,
    /// Milliseconds after which the answer is worthless.
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u32>,
    /// The prompt is continued as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Print TTFT, TPOT and the box's own times to stderr.
    #[arg(long)]
    stats: bool,
}

/// The protocol's classes.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum AskClass {
    #[default]
    Interactive,
    Standard,
    Batch,
}

impl AskClass {
    fn class(self) -> Class {
        match self {
            Self::Interactive => Class::Interactive,
            Self::Standard => Class::Standard,
            Self::Batch => Class::Batch,
        }
    }
}

pub(super) fn ask(args: &AskArgs) -> Result<(), Failure> {
    let (host, port) = host_and_port(&args.url)?;
    let trust = trust(args.ca.as_deref(), port)?;
    super::runtime()?.block_on(ask_box(args, host, port, trust))
}

async fn ask_box(args: &AskArgs, host: &str, port: u16, trust: Trust) -> Result<(), Failure> {
    let address = resolve(host, port).await?;
    let options = ClientOptions {
        identity: identity(args.certificate.as_deref(), args.key.as_deref())?,
        ..ClientOptions::default()
    };
    let session = Session::connect(address, host, trust, options)
        .await
        .map_err(|e| failure(&e))?;
    let sent = Instant::now();
    let outcome = match session.generate(request(args)).await {
        Ok(mut answer) => print_answer(&mut answer, sent).await,
        Err(error) => Err(failure(&error)),
    };
    session.close().await;
    let stats = outcome?;
    if args.stats {
        eprintln!("{}", stats.line());
    }
    Ok(())
}

fn request(args: &AskArgs) -> Generate {
    let prompt = if args.raw {
        Prompt::Text(args.prompt.clone())
    } else {
        let content = args.prompt.clone();
        Prompt::Chat(Chat {
            messages: vec![ChatMessage {
                role: "user".into(),
                content,
            }],
        })
    };
    // One request on a connection of its own: any id is unique.
    Generate {
        request_id: vec![0; 16],
        model: args.model.clone().unwrap_or_default(),
        prompt: Some(prompt),
        max_tokens: Some(args.tokens),
        class: Some(args.class.class().into()),
        deadline_ms: args.deadline_ms,
        sampling: Some(Sampling {
            temperature: args.temperature,
            seed: args.seed,
            ..Sampling::default()
        }),
        ..Generate::default()
    }
}

/// What the client measured, and what the box says.
struct Stats {
    ttft: Option<Duration>,
    e2e: Duration,
    tokens: u64,
    done: Done,
}

async fn print_answer(answer: &mut Generation, sent: Instant) -> Result<Stats, Failure> {
    let (mut ttft, mut last_token, mut tokens) = (None, sent, 0);
    loop {
        match answer.next().await.map_err(|e| failure(&e))? {
            Some(Event::Tokens { text, count, .. }) => {
                if count > 0 {
                    last_token = Instant::now();
                    ttft.get_or_insert(last_token - sent);
                    tokens += count;
                }
                super::show(&text)?;
            }
            Some(Event::Accepted(_)) => {}
            Some(Event::Done(done)) => {
                super::show("\n")?;
                return Ok(Stats {
                    ttft,
                    e2e: last_token - sent,
                    tokens,
                    done,
                });
            }
            None => unreachable!("an answer ends with Done or an error"),
        }
    }
}

impl Stats {
    /// TPOT = (E2E − TTFT) / (tokens − 1).
    fn line(&self) -> String {
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        let ttft = self.ttft.unwrap_or_default();
        let tpot = match self.tokens {
            0 | 1 => "no second token".to_owned(),
            n => format!(
                "{:.2} ms",
                ms(self.e2e.saturating_sub(ttft)) / (n - 1) as f64
            ),
        };
        let usage = self.done.usage.unwrap_or_default();
        let inside = self.done.timings_us.unwrap_or_default();
        let inside_ms = |us| ms(Duration::from_micros(us));
        format!(
            "{} prompt + {} answer tokens · TTFT {:.1} ms · TPOT {tpot} · in the box: queue {:.1} ms, prefill \
             {:.1} ms, decode {:.1} ms",
            usage.prompt_tokens,
            usage.completion_tokens,
            ms(ttft),
            inside_ms(inside.queue),
            inside_ms(inside.prefill),
            inside_ms(inside.decode),
        )
    }
}

fn host_and_port(url: &str) -> Result<(&str, u16), Failure> {
    let bad = || {
        let message = format!(
            "`{url}` is not an address: write quic://HOST:PORT, like quic://127.0.0.1:4433"
        );
        Failure::new(exit::USAGE, message)
    };
    let rest = url.strip_prefix("quic://").ok_or_else(bad)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').ok_or_else(bad)?,
        None => host,
    };
    if host.is_empty() {
        return Err(bad());
    }
    Ok((host, port))
}

async fn resolve(host: &str, port: u16) -> Result<SocketAddr, Failure> {
    let unknown = |why: String| {
        Failure::new(
            exit::UNAVAILABLE,
            format!("no address for `{host}` ({why}): check the name in --url"),
        )
    };
    let mut addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|e| unknown(e.to_string()))?;
    addresses
        .next()
        .ok_or_else(|| unknown("none found".to_owned()))
}

fn trust(ca: Option<&Path>, port: u16) -> Result<Trust, Failure> {
    let unavailable = |message: String| Failure::new(exit::UNAVAILABLE, message);
    let (pem, path) = if let Some(path) = ca {
        let unread = |e| unavailable(format!("cannot read {}: {e}", path.display()));
        (std::fs::read(path).map_err(unread)?, path.to_owned())
    } else {
        let pem = tls::read_loopback_certificate(port).map_err(|e| unavailable(e.to_string()))?;
        (pem, tls::loopback_certificate_path(port))
    };
    Trust::from_pem(&pem)
        .map_err(|e| Failure::new(exit::BAD_INPUT, e.to_string()).at(path.display()))
}

fn identity(
    certificate: Option<&Path>,
    key: Option<&Path>,
) -> Result<Option<ClientIdentity>, Failure> {
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return Ok(None);
    };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|e| {
            Failure::new(
                exit::BAD_INPUT,
                format!("cannot read {}: {e}", path.display()),
            )
        })
    };
    ClientIdentity::from_pem(&read(certificate)?, &read(key)?)
        .map(Some)
        .map_err(|e| Failure::new(exit::BAD_INPUT, e.to_string()).at(certificate.display()))
}

fn failure(error: &ClientError) -> Failure {
    let code = match error.error_code() {
        Some(ErrorCode::BadRequest | ErrorCode::NoModel) => exit::BAD_INPUT,
        _ => exit::UNAVAILABLE,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_explained() {
        let read = |url| host_and_port(url).map_err(|failure| failure.code);
        assert_eq!(
            read("quic://127.0.0.1:4433").ok(),
            Some(("127.0.0.1", 4433))
        );
        assert_eq!(read("quic://[::1]:5/").ok(), Some(("::1", 5)));
        assert_eq!(
            read("quic://box.example:443").ok(),
            Some(("box.example", 443))
        );
        for bad in [
            "127.0.0.1:4433",
            "quic://box",
            "quic://:1",
            "quic://box:99999",
            "quic://[::1:5",
        ] {
            assert_eq!(read(bad), Err(exit::USAGE), "{bad}");
        }
    }

    #[test]
    fn tpot_is_the_gap_after_the_first_token() {
        let stats = Stats {
            ttft: Some(Duration::from_millis(50)),
            e2e: Duration::from_millis(150),
            tokens: 11,
            done: Done::default(),
        };
        assert!(
            stats.line().contains("TTFT 50.0 ms · TPOT 10.00 ms"),
            "{}",
            stats.line()
        );
    }
}
