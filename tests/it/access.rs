//! Who may come in: keys over HTTP, certificates over QUIC, TLS over TCP, and what a box refuses to be.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::server::{Server, exchange, get, outstation, until};

fn config(folder: &Path, access: &str) -> String {
    let path = folder.join("box.toml");
    let state = folder.join("state");
    let text = format!(
        "[state]\nfolder = '{}'\n[access]\n{access}",
        state.display()
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn keys(config: &str, arguments: &[&str]) -> Output {
    let mut command = outstation();
    command
        .arg("keys")
        .args(arguments)
        .args(["--config", config]);
    command.output().unwrap()
}

fn made(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Status and error code of a chat, with headers.
fn chat(address: SocketAddr, headers: &str) -> (u16, String) {
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":2}"#;
    let (status, answer) = exchange(
        address,
        &format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
            body.len()
        ),
    );
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let code = answer["error"]["code"].as_str().unwrap_or_default();
    (status, code.to_owned())
}

#[test]
fn with_keys_nobody_comes_in_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "");
    let kiosk = made(keys(&config, &["add", "kiosk", "--tenant", "hall-3"]));
    let night = made(keys(&config, &["add", "night", "--class", "batch"]));
    assert!(kiosk.starts_with("osk-") && kiosk != night, "{kiosk}");
    let listed = made(keys(&config, &["list"]));
    assert!(
        listed.contains("hall-3") && !listed.contains(&kiosk[4..]),
        "{listed}"
    );
    let again = keys(&config, &["add", "kiosk"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("revoke it first"));

    let server = Server::start(&["--config", &config]);
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    assert_eq!(chat(server.http, &bearer(&kiosk)).0, 200);
    assert_eq!(chat(server.http, &bearer(&night)).0, 200);
    let refused = (401, "invalid_api_key".to_owned());
    let wrong = format!("osk-{}", "0".repeat(64));
    for headers in [
        String::new(),
        bearer(&wrong),
        bearer(&kiosk[..20]),
        bearer(""),
        format!("Authorization: Basic {kiosk}\r\n"),
        format!("Authorization: {kiosk}\r\n"),
    ] {
        assert_eq!(chat(server.http, &headers), refused, "{headers}");
    }
    // Whether it is up is no secret; what it does is this machine's, and whoever's has a key.
    for path in ["/health", "/ready", "/status"] {
        assert_eq!(get(server.http, path).0, 200, "{path}");
    }
    assert_eq!(get(server.http, "/v1/models").0, 401);
    let through_a_proxy = |path: &str, key: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: box.example\r\nX-Forwarded-For: 198.51.100.7\r\n{key}\
             Connection: close\r\n\r\n"
        );
        exchange(server.http, &request).0
    };
    assert_eq!(through_a_proxy("/status", ""), 401);
    assert_eq!(through_a_proxy("/status", &bearer(&kiosk)), 200);
    // Looking at the models is one thing, ordering another.
    assert_eq!(through_a_proxy("/models", ""), 401);
    assert_eq!(through_a_proxy("/models", &bearer(&kiosk)), 404);
    assert_eq!(through_a_proxy("/models/pin", &bearer(&kiosk)), 403);

    // A key that is added opens without a restart, and one that is revoked does not any more.
    let late = made(keys(&config, &["add", "late"]));
    until("the new key opens", || {
        chat(server.http, &bearer(&late)).0 == 200
    });
    made(keys(&config, &["revoke", "kiosk"]));
    until("the revoked key opens nothing", || {
        chat(server.http, &bearer(&kiosk)) == refused
    });
    assert_eq!(chat(server.http, &bearer(&night)).0, 200);
    // Without any key left it is locked, not open.
    for name in ["night", "late"] {
        made(keys(&config, &["revoke", name]));
    }
    until("nobody comes in", || {
        chat(server.http, &bearer(&night)) == refused
    });
    assert_eq!(chat(server.http, ""), refused);
}

#[test]
fn a_public_address_without_credentials_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("fleet");
    let (certificate, key) = authority.issue(folder.path(), "box", "127.0.0.1");
    let own = format!("certificate = '{certificate}'\nprivate_key = '{key}'\n");
    let clients = format!("client_authority = '{}'\n", authority.file(folder.path()));
    let serve = |access: &str, flags: [&str; 4]| {
        let config = config(folder.path(), access);
        let mut serve = outstation();
        serve.args(["serve", "--config", &config]).args(flags);
        let output = serve.output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{access}");
        String::from_utf8(output.stderr).unwrap()
    };
    let quic = ["--listen", "0.0.0.0:0", "--http", "127.0.0.1:0"];
    let http = ["--listen", "127.0.0.1:0", "--http", "[::]:0"];
    for (access, flags, expected) in [
        ("", quic, "set access.certificate"),
        (&*own, quic, "set access.client_authority"),
        ("", http, "set access.certificate"),
        (&*own, http, "outstation keys add"),
        (&*clients, quic, "set access.certificate"),
        ("certificate = 'x.pem'\n", quic, "go together"),
    ] {
        let said = serve(access, flags);
        assert!(said.contains(expected), "{access}: {said}");
    }
    let missing = own.replace(&certificate, "/nowhere.pem");
    let said = serve(
        &missing,
        ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"],
    );
    assert!(said.contains("/nowhere.pem"), "{said}");
}

/// Somebody who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn file(&self, folder: &Path) -> String {
        let path = folder.join("authority.pem");
        fs::write(&path, self.0.pem()).unwrap();
        path.display().to_string()
    }

    /// A certificate for an address, and its key, as files.
    fn issue(&self, folder: &Path, name: &str, address: &str) -> (String, String) {
        let mut params = CertificateParams::new([address.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let path = |end: &str| folder.join(format!("{name}.{end}"));
        let put = |path: PathBuf, text: String| {
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        (
            put(path("pem"), certificate.pem()),
            put(path("key"), key.serialize_pem()),
        )
    }
}

#[test]
fn over_quic_a_certificate_of_the_authority_opens_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (certificate, key) = ours.issue(folder.path(), "box", "127.0.0.1");
    let authority = ours.file(folder.path());
    let access = format!(
        "certificate = '{certificate}'\nprivate_key = '{key}'\nclient_authority = '{authority}'\n"
    );
    let config = config(folder.path(), &access);
    let server = Server::start(&["--config", &config]);
    let app = ours.issue(folder.path(), "app", "app.example");
    let stranger = theirs.issue(folder.path(), "stranger", "app.example");
    let ask = |identity: Option<&(String, String)>| {
        let mut arguments = vec!["--ca", &*authority, "--tokens", "2", "hi"];
        if let Some((certificate, key)) = identity {
            arguments.extend(["--certificate", certificate, "--key", key]);
        }
        let output = server.ask(&arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error)
    };
    assert_eq!(ask(Some(&app)).0, Some(0));
    for identity in [None, Some(&stranger)] {
        let (code, error) = ask(identity);
        assert_eq!(code, Some(69), "{error}");
        assert!(error.contains("does not know this client"), "{error}");
    }
    // Over TCP it is TLS with the same certificate, for whoever has it; in the clear for this machine alone.
    assert_eq!(chat(server.http, "").0, 200);
    assert_eq!(over_tls(server.http, &authority), 200);
}

/// Status of `/health` over TLS, as Python sees it.
fn over_tls(address: SocketAddr, authority: &str) -> u16 {
    let script = "import ssl, sys, urllib.request\n\
                  context = ssl.create_default_context(cafile=sys.argv[2])\n\
                  print(urllib.request.urlopen(sys.argv[1], context=context).status)";
    let url = format!("https://{address}/health");
    let mut python = Command::new("python3");
    let output = python
        .args(["-c", script, &url, authority])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("{error}"))
}

#[test]
fn credentials_of_systemd_are_a_certificate_and_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("site");
    authority.issue(folder.path(), "box", "127.0.0.1");
    let access = "certificate = 'credential:box.pem'\nprivate_key = 'credential:box.key'\n";
    let config = config(folder.path(), access);
    let loaded = ("CREDENTIALS_DIRECTORY", folder.path());
    let server = Server::start_with(&["--config", &config], &[loaded]);
    assert_eq!(over_tls(server.http, &authority.file(folder.path())), 200);

    let mut without = outstation();
    without.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let output = without.args(["--config", &config]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{error}");
    assert!(
        error.contains("credential:box.pem") && error.contains("LoadCredential="),
        "{error}"
    );
}

#[test]
fn certificates_are_read_again_without_a_dropped_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (certificate, key) = old.issue(folder.path(), "box", "127.0.0.1");
    let access = format!("certificate = '{certificate}'\nprivate_key = '{key}'\n");
    let config = config(folder.path(), &access);
    let server = Server::start(&["--config", &config]);
    let old_authority = old.file(folder.path());
    // A stream that runs over the change, on a connection from before it.
    let mut running = TcpStream::connect(server.http).unwrap();
    let body =
        json!({"prompt": "a long answer", "max_tokens": 400, "ignore_eos": true, "stream": true});
    running
        .write_all(crate::server::post_text("/v1/completions", &body).as_bytes())
        .unwrap();
    let mut first = [0; 64];
    running.read_exact(&mut first).unwrap();
    let ask = |authority: &str| {
        let output = server.ask(&["--ca", authority, "--tokens", "2", "hi"]);
        output.status.code()
    };
    assert_eq!(ask(&old_authority), Some(0));
    new.issue(folder.path(), "box", "127.0.0.1");
    let elsewhere = tempfile::tempdir().unwrap();
    let new_authority = new.file(elsewhere.path());
    assert_eq!(ask(&new_authority), Some(69), "it shows the old one");
    server.signal("-HUP");
    until("it shows the new one", || ask(&new_authority) == Some(0));
    assert_eq!(over_tls(server.http, &new_authority), 200);
    let mut rest = String::new();
    running.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("[DONE]"), "the stream went on to its end");
    // What cannot be read leaves what was there.
    fs::write(&certificate, "no certificate").unwrap();
    server.signal("-HUP");
    assert_eq!(ask(&new_authority), Some(0));
    assert_eq!(get(server.http, "/health").0, 200);
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn others_must_speak_tls_and_give_no_orders() {
    let Some(own) = own_address() else {
        println!("SKIP: this machine has no address but loopback");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("fleet");
    let (certificate, key) = authority.issue(folder.path(), "box", &own.to_string());
    let access = format!("certificate = '{certificate}'\nprivate_key = '{key}'\n");
    let config = config(folder.path(), &access);
    let secret = made(keys(&config, &["add", "kiosk"]));
    let server = Server::start(&["--config", &config, "--http", "0.0.0.0:0"]);
    let address = SocketAddr::new(own, server.http.port());
    let (status, said) = get(address, "/health");
    assert_eq!(status, 400, "{said}");
    assert!(said.contains("speaks TLS"), "{said}");
    assert_eq!(over_tls(address, &authority.file(folder.path())), 200);
    let here = SocketAddr::new([127, 0, 0, 1].into(), server.http.port());
    assert_eq!(
        chat(here, &format!("Authorization: Bearer {secret}\r\n")).0,
        200
    );
}
