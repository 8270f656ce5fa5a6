//! What a box leaves on its disk: everything for the factory, nothing for a thief.

use std::path::{Path, PathBuf};

use outstation_wire::record::{Body, Inference, Record};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::{Found, Frames, Header};
use prost::Message as _;
use serde_json::json;

use crate::server::{Server, post};

/// A box that belongs to a factory which does not answer.
pub(crate) struct Enrolled {
    folder: tempfile::TempDir,
    key: FactoryKey,
}

impl Enrolled {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = FactoryKey::generate();
        let uplink = folder.path().join("state/uplink");
        std::fs::create_dir_all(&uplink).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["box".to_owned()]).unwrap();
        let certificate = made.cert.der();
        let digits = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(String::new(), |all, b| format!("{all}{b:02x}"))
        };
        let factory = json!({
            "factory": "127.0.0.1:9",
            "appliance": digits(&[7; 16]),
            "name": "a box",
            "segment_key": digits(&key.public()),
        });
        std::fs::write(uplink.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(uplink.join("certificate.der"), certificate).unwrap();
        std::fs::write(uplink.join("authority.der"), certificate).unwrap();
        std::fs::write(uplink.join("factory.json"), factory.to_string()).unwrap();
        Self { folder, key }
    }

    pub(crate) fn serve(&self, log: &str) -> Server {
        let config = self.folder.path().join("box.toml");
        let state = self.folder.path().join("state");
        let text = format!("[state]\nfolder = {:?}\n[log]\n{log}\n", state.display());
        std::fs::write(&config, text).unwrap();
        Server::start(&["--config", config.to_str().unwrap()])
    }

    /// Every request in the spool, as the factory reads it.
    pub(crate) fn requests(&self) -> Vec<Inference> {
        let mut requests = Vec::new();
        for path in files(&self.folder.path().join("state/spool")) {
            if path.extension().is_none_or(|kind| kind != "seg") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let header = Header::decode(&bytes).unwrap();
            let key = self
                .key
                .unwrap(&header.key, &header.appliance, &header.epoch)
                .unwrap();
            for found in Frames::new(&bytes, &header) {
                if let Found::Frame {
                    head, ciphertext, ..
                } = found
                {
                    let mut plain = ciphertext.to_vec();
                    let record = Record::decode(key.open(&head, &mut plain).unwrap()).unwrap();
                    if let Some(Body::Inference(request)) = record.body {
                        requests.push(*request);
                    }
                }
            }
        }
        requests
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes
        .windows(word.len())
        .any(|window| window == word.as_bytes())
}

/// Asks with words that nothing else has, and gives the answer's text.
pub(crate) fn ask(server: &Server) -> String {
    let question = json!({
        "messages": [{"role": "user", "content": "the purple heron of KEL-042 writes to jo@example.org"}],
        "max_tokens": 12, "ignore_eos": true, "metadata": {"workload_id": "birds"},
    });
    let (code, body) = post(server.http, "/v1/chat/completions", &question);
    assert_eq!(code, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    body["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn no_word_of_a_prompt_is_in_any_file_of_a_box() {
    let enrolled = Enrolled::new();
    let server = enrolled.serve("content_tenants = [\"anonymous\"]\ncontent_share = 1.0");
    let answer = ask(&server);
    server.terminate();
    assert_eq!(server.wait().0, Some(0));

    for path in files(enrolled.folder.path()) {
        let bytes = std::fs::read(&path).unwrap();
        for word in ["purple heron", "jo@example", "KEL-042", &answer] {
            assert!(!contains(&bytes, word), "{} has `{word}`", path.display());
        }
    }

    let requests = enrolled.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    let content = request.content.as_ref().expect("its tenant allowed it");
    let said = "the purple heron of KEL-042 writes to [EMAIL_1]";
    assert_eq!(content.input[0].content, said);
    assert_eq!(content.output, answer);
    assert_eq!(content.redactions[0].kind, "email");
    assert_eq!(request.workload, "birds");
    assert_eq!(
        (request.output_tokens, &*request.finish_reason),
        (12, "length")
    );
    let signals = request.signals.expect("tokens were drawn");
    assert!(
        signals.entropy_mean > 0.0 && signals.mean_nll > 0.0,
        "{signals:?}"
    );
    assert!(request.first_chunk_us > 0 && request.decode_us > 0);
}

#[test]
fn who_asks_again_was_not_helped_and_another_user_is_somebody_else() {
    let enrolled = Enrolled::new();
    let server = enrolled.serve("content_tenants = [\"anonymous\"]");
    for user in ["heron-1", "heron-2", "heron-2"] {
        let question = json!({
            "messages": [{"role": "user", "content": "what is the load of sector three"}],
            "max_tokens": 4, "ignore_eos": true, "safety_identifier": user,
        });
        let (code, body) = post(server.http, "/v1/chat/completions", &question);
        assert_eq!(code, 200, "{body}");
    }
    server.terminate();
    assert_eq!(server.wait().0, Some(0));

    let requests = enrolled.requests();
    let again = |it: &Inference| it.flags.iter().any(|flag| flag == "retry");
    let again: Vec<bool> = requests.iter().map(again).collect();
    assert_eq!(again, [false, false, true]);
    for path in files(enrolled.folder.path()) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            !contains(&bytes, "heron-"),
            "{} names a user",
            path.display()
        );
    }
}

#[test]
fn words_of_who_did_not_allow_it_are_not_written_down_at_all() {
    let enrolled = Enrolled::new();
    let server = enrolled.serve("content_tenants = [\"t-0123456789abcdef\"]\ncontent_share = 1.0");
    ask(&server);
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
    let requests = enrolled.requests();
    assert_eq!(requests.len(), 1, "there are numbers of it");
    assert!(requests[0].content.is_none());
    assert_eq!(requests[0].content_withheld, "not_allowed");
    assert_eq!(requests[0].tenant, "anonymous");
}

#[test]
fn a_box_whose_spool_cannot_be_used_serves_on() {
    let enrolled = Enrolled::new();
    // A file where the spool's folder should be.
    std::fs::write(enrolled.folder.path().join("state/spool"), "in the way").unwrap();
    let server = enrolled.serve("durability = \"sync\"");
    ask(&server);
    let status = server.status();
    assert_eq!(status["log"]["writing"], false, "{status}");
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
}
