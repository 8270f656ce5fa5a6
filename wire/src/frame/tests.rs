use expect_test::{Expect, expect};

use super::*;

/// One of each frame, with every field set; first what its role sends first.
#[expect(
    clippy::too_many_lines,
    reason = "a list of one of each reads best whole"
)]
fn samples() -> Vec<(StreamRole, Frame)> {
    let sampling = Sampling {
        temperature: Some(0.7),
        top_k: Some(40),
        top_p: Some(0.9),
        min_p: Some(0.05),
        repetition_penalty: Some(1.1),
        presence_penalty: Some(0.5),
        frequency_penalty: Some(-0.5),
        seed: Some(u64::MAX),
        logit_bias: vec![LogitBias {
            token: 7,
            bias: -100.0,
        }],
    };
    let generate = |prompt| Generate {
        request_id: (0..16).collect(),
        model: "tiny".into(),
        prompt: Some(prompt),
        max_tokens: Some(64),
        min_tokens: 2,
        ignore_eos: true,
        sampling: Some(sampling.clone()),
        stop: vec!["\n\n".into(), "END".into()],
        want_token_ids: true,
        deadline_ms: Some(500),
        class: Some(Class::Batch.into()),
        workload_id: "upkeep".into(),
        conversation_id: "c-1".into(),
    };
    let chat = Chat {
        messages: vec![ChatMessage {
            role: "user".into(),
            content: "Grüß Gott".into(),
        }],
    };
    let ids = TokenIds {
        ids: vec![0, 1, 300, u32::MAX],
    };
    let tokens = Tokens {
        seq: 0,
        n: 2,
        ids: Some(vec![151_643, 9]),
        text: "für".into(),
    };
    vec![
        (
            StreamRole::ServerControl,
            Frame::Hello(Hello {
                agent: "outstation/0".into(),
                requests_max: 32,
                generate_bytes_max: GENERATE_BYTES_MAX,
                model: "tiny".into(),
                context_tokens_max: 4096,
            }),
        ),
        (
            StreamRole::Request,
            Frame::Generate(generate(Prompt::Text("once upon".into()))),
        ),
        (
            StreamRole::Request,
            Frame::Generate(generate(Prompt::TokenIds(ids))),
        ),
        (
            StreamRole::Request,
            Frame::Generate(generate(Prompt::Chat(chat))),
        ),
        (
            StreamRole::Response,
            Frame::Accepted(Accepted {
                first_token_us: 1234,
                queued_before: 2,
            }),
        ),
        (StreamRole::Response, Frame::Tokens(tokens)),
        (
            StreamRole::Response,
            Frame::Done(Done {
                finish_reason: FinishReason::Length.into(),
                usage: Some(Usage {
                    prompt_tokens: 9,
                    completion_tokens: 64,
                    cached_tokens: 8,
                }),
                timings_us: Some(TimingsMicros {
                    queue: 1,
                    prefill: 2,
                    decode: 3,
                }),
            }),
        ),
        (
            StreamRole::Response,
            Frame::Error(ErrorFrame {
                retry_after_ms: Some(40),
                retryable: true,
                ..ErrorFrame::new(ErrorCode::Overloaded, "full: come back in 40 ms")
            }),
        ),
        (
            StreamRole::ServerControl,
            Frame::GoAway(GoAway {
                first_unserved_stream: 12,
                drain_ms: 5000,
            }),
        ),
        (StreamRole::ClientControl, Frame::Ping(*b"12345678")),
        (StreamRole::ClientControl, Frame::Pong(*b"87654321")),
    ]
}

/// A reader at the place where `frame` may come.
fn reader_for(role: StreamRole, frame: &Frame) -> FrameReader {
    let mut reader = FrameReader::new(role);
    let control = matches!(role, StreamRole::ClientControl | StreamRole::ServerControl);
    if control && !matches!(frame, Frame::Hello(_)) {
        reader.push(&bytes(&Frame::Hello(Hello::default())));
        assert!(reader.poll_frame().expect("Hello comes first").is_some());
    }
    reader
}

fn bytes(frame: &Frame) -> Vec<u8> {
    frame.to_bytes().expect("a sample fits its maximum")
}

/// Everything that a stream of `role` gives for `input`, the outcome of its end included, as text.
fn read_all(role: StreamRole, input: &[u8]) -> String {
    let mut reader = FrameReader::new(role);
    reader.push(input);
    let mut seen = Vec::new();
    loop {
        match reader.poll_frame() {
            Ok(Some(frame)) => seen.push(frame.kind().to_string()),
            Ok(None) => break,
            Err(error) => {
                seen.push(format!("{}: {error}", error.close_code()));
                return seen.join("\n");
            }
        }
    }
    seen.push(match reader.finish() {
        Ok(()) => "end".to_owned(),
        Err(error) => format!("{}: {error}", error.close_code()),
    });
    seen.join("\n")
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers write expect![..] in place"
)]
fn check(role: StreamRole, frames: &[Frame], expected: Expect) {
    let input: Vec<u8> = frames.iter().flat_map(bytes).collect();
    expected.assert_eq(&read_all(role, &input));
}

fn raw(id: u64, body_bytes: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::write(id, &mut out);
    varint::write(body_bytes, &mut out);
    out.extend_from_slice(body);
    out
}

fn tokens(seq: u64, n: u64) -> Frame {
    Frame::Tokens(Tokens {
        seq,
        n,
        ids: None,
        text: "x".into(),
    })
}

fn done() -> Frame {
    Frame::Done(Done::default())
}

fn generate() -> Frame {
    Frame::Generate(Generate::default())
}

fn hello() -> Frame {
    Frame::Hello(Hello::default())
}

#[test]
fn every_frame_comes_back_as_it_went_p5() {
    for (role, frame) in samples() {
        let mut reader = reader_for(role, &frame);
        reader.push(&bytes(&frame));
        assert_eq!(reader.poll_frame(), Ok(Some(frame)));
        assert_eq!(reader.poll_frame(), Ok(None));
        assert_eq!(reader.buffered_bytes(), 0);
    }
}

#[test]
fn every_cut_waits_for_more_and_may_not_be_the_end_p5() {
    for (role, frame) in samples() {
        let whole = bytes(&frame);
        for cut in 1..whole.len() {
            let mut reader = reader_for(role, &frame);
            reader.push(&whole[..cut]);
            assert_eq!(reader.poll_frame(), Ok(None), "{frame:?} cut at {cut}");
            assert!(reader.finish().is_err(), "{frame:?} cut at {cut}");
            reader.push(&whole[cut..]);
            assert_eq!(reader.poll_frame(), Ok(Some(frame.clone())));
        }
    }
}

#[test]
fn every_flipped_bit_is_read_or_refused() {
    let (mut read, mut refused) = (0, 0);
    for (role, frame) in samples() {
        let whole = bytes(&frame);
        for bit in 0..whole.len() * 8 {
            let mut hostile = whole.clone();
            hostile[bit / 8] ^= 1 << (bit % 8);
            let mut reader = reader_for(role, &frame);
            reader.push(&hostile);
            match reader.poll_frame() {
                Ok(Some(other)) => {
                    // What was read has one meaning: its own bytes are read as themselves.
                    let again = bytes(&other);
                    let mut reader = reader_for(role, &other);
                    reader.push(&again);
                    let back = reader.poll_frame().expect("our own bytes are good");
                    assert_eq!(bytes(&back.expect("they are whole")), again);
                    read += 1;
                }
                Ok(None) => {}
                Err(error) => {
                    assert_eq!(reader.poll_frame(), Err(error), "an error stays");
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 100, "only {read} flips were read");
    assert!(refused > 100, "only {refused} flips were refused");
}

#[test]
fn a_length_over_the_maximum_is_refused_by_the_header_alone_p7() {
    let at = |role, id, body_bytes| read_all(role, &raw(id, body_bytes, b""));
    expect![
        "FRAME_TOO_BIG: a Generate frame of 262145 bytes, at most 262144 are allowed: send less"
    ]
    .assert_eq(&at(StreamRole::Request, 0x02, GENERATE_BYTES_MAX + 1));
    expect!["FRAME_TOO_BIG: a Hello frame of 4611686018427387903 bytes, at most 4096 are allowed: send less"]
        .assert_eq(&at(StreamRole::ClientControl, 0x01, varint::VALUE_MAX));
    expect!["FRAME_TOO_BIG: a Tokens frame of 1025 bytes, at most 1024 are allowed: send less"]
        .assert_eq(&at(StreamRole::Response, 0x11, 1025));
}

#[test]
fn a_server_may_allow_smaller_prompts_p7() {
    let mut reader = FrameReader::new(StreamRole::Request).with_generate_bytes_max(100);
    reader.push(&raw(0x02, 101, b""));
    let error = reader.poll_frame().expect_err("101 is more than 100");
    assert_eq!(error.close_code(), CloseCode::FrameTooBig);
}

#[test]
fn unknown_frames_are_skipped_and_never_stored_p6() {
    let mut reader = FrameReader::new(StreamRole::Request);
    reader.push(&raw(0x21 + 0x1f * 5, 60_000, &[7; 1000]));
    for _ in 0..59 {
        assert_eq!(reader.poll_frame(), Ok(None));
        assert_eq!(reader.buffered_bytes(), 0);
        assert!(reader.finish().is_err(), "a skipped frame is cut, too");
        reader.push(&[7; 1000]);
    }
    reader.push(&bytes(&generate()));
    assert_eq!(reader.poll_frame(), Ok(Some(generate())));
    assert_eq!(reader.finish(), Ok(()));
}

#[test]
fn unknown_frames_have_a_limit_that_a_known_one_renews_p6() {
    let half = raw(0x40, 40_000, &vec![0; 40_000]);
    let mut input = [bytes(&tokens(0, 1)), half.clone(), bytes(&tokens(1, 1))].concat();
    input.extend_from_slice(&half);
    input.extend_from_slice(&half);
    expect![[r"
        Tokens
        Tokens
        FRAME_TOO_BIG: 80012 bytes of frames of unknown types in a row (the last is 0x40), at most 65536 are skipped"]]
    .assert_eq(&read_all(StreamRole::Response, &input));
    // Frames without a body count by their headers.
    let empty = raw(0x40, 0, b"").repeat(30_000);
    assert!(read_all(StreamRole::Response, &empty).starts_with("FRAME_TOO_BIG"));
}

#[test]
fn hello_comes_first_on_a_control_stream_p2() {
    let role = StreamRole::ClientControl;
    let ping = Frame::Ping([0; 8]);
    check(
        role,
        &[ping.clone(), hello()],
        expect![
            "PROTOCOL: a frame of type 0x22 on a client control stream before its first frame: Hello was due"
        ],
    );
    check(
        role,
        &[hello(), ping, hello()],
        expect![[r"
            Hello
            Ping
            PROTOCOL: a frame of type 0x1 on a client control stream after Hello: Ping or Pong was due"]],
    );
    expect!["PROTOCOL: a frame of type 0x40 on a client control stream before its first frame: Hello was due"]
        .assert_eq(&read_all(role, &raw(0x40, 0, b"")));
}

#[test]
fn a_control_stream_does_not_end_p4() {
    check(
        StreamRole::ServerControl,
        &[hello()],
        expect![[r"
            Hello
            PROTOCOL: a server control stream ended after Hello: Ping, Pong or GoAway was due"]],
    );
}

#[test]
fn only_a_server_says_goaway_p19() {
    let goaway = Frame::GoAway(GoAway::default());
    check(
        StreamRole::ClientControl,
        &[hello(), goaway],
        expect![[r"
            Hello
            PROTOCOL: a frame of type 0x20 on a client control stream after Hello: Ping or Pong was due"]],
    );
}

#[test]
fn a_request_is_one_generate_p9() {
    let role = StreamRole::Request;
    check(
        role,
        &[generate()],
        expect![[r"
        Generate
        end"]],
    );
    check(
        role,
        &[generate(), generate()],
        expect![[r"
            Generate
            PROTOCOL: a frame of type 0x2 on a request stream after Generate: the end of the stream was due"]],
    );
    check(
        role,
        &[],
        expect!["PROTOCOL: a request stream ended before its first frame: Generate was due"],
    );
    check(
        role,
        &[done()],
        expect![
            "PROTOCOL: a frame of type 0x12 on a request stream before its first frame: Generate was due"
        ],
    );
}

#[test]
fn an_answer_ends_with_done_or_error_p12_p13() {
    let role = StreamRole::Response;
    let accepted = Frame::Accepted(Accepted {
        first_token_us: 1,
        queued_before: 0,
    });
    let error = Frame::Error(ErrorFrame::new(ErrorCode::Internal, "no"));
    check(
        role,
        &[
            accepted.clone(),
            tokens(0, 1),
            tokens(1, 0),
            tokens(1, 3),
            done(),
        ],
        expect![[r"
            Accepted
            Tokens
            Tokens
            Tokens
            Done
            end"]],
    );
    check(
        role,
        &[error],
        expect![[r"
        Error
        end"]],
    );
    check(
        role,
        &[accepted.clone(), tokens(0, 1)],
        expect![[r"
            Accepted
            Tokens
            PROTOCOL: a response stream ended within the answer: Tokens, Done or Error was due"]],
    );
    check(
        role,
        &[tokens(0, 1), accepted],
        expect![[r"
            Tokens
            PROTOCOL: a frame of type 0x10 on a response stream within the answer: Tokens, Done or Error was due"]],
    );
    check(
        role,
        &[done(), tokens(0, 1)],
        expect![[r"
            Done
            PROTOCOL: a frame of type 0x11 on a response stream after Done or Error: the end of the stream was due"]],
    );
}

#[test]
fn a_lost_or_doubled_token_is_seen_p14() {
    check(
        StreamRole::Response,
        &[tokens(0, 2), tokens(3, 1)],
        expect![[r"
            Tokens
            PROTOCOL: a Tokens frame begins at token 3, the one before it ended at 2"]],
    );
    check(
        StreamRole::Response,
        &[tokens(0, 2), tokens(0, 2)],
        expect![[r"
            Tokens
            PROTOCOL: a Tokens frame begins at token 0, the one before it ended at 2"]],
    );
}

#[test]
fn a_body_that_cannot_be_read_is_a_violation_p8() {
    let role = StreamRole::Response;
    let body = |id, body: &[u8]| read_all(role, &raw(id, body.len() as u64, body));
    expect!["PROTOCOL: a Tokens frame that cannot be read: its text is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0"]
        .assert_eq(&body(0x11, &[0, 1, 0, 1, 0xff]));
    expect![
        "PROTOCOL: a Tokens frame that cannot be read: it ends before its text of 9 bytes does"
    ]
    .assert_eq(&body(0x11, &[0, 1, 0, 9, b'x']));
    expect!["PROTOCOL: a Tokens frame that cannot be read: it ends before its token ids does"]
        .assert_eq(&body(0x11, &[0, 2, 1, 9]));
    expect!["PROTOCOL: a Tokens frame that cannot be read: it counts 16383 tokens, at most 256 are allowed"]
        .assert_eq(&body(0x11, &[0, 0x7f, 0xff, 1]));
    assert!(body(0x12, &[0x08]).starts_with("PROTOCOL: a Done frame that cannot be read"));
    // A length that is well formed and wrong.
    let ping = [bytes(&hello()), raw(0x22, 7, &[0; 7])].concat();
    expect![[r"
        Hello
        PROTOCOL: a Ping frame that cannot be read: 7 bytes, it has 8"]]
    .assert_eq(&read_all(StreamRole::ClientControl, &ping));
}

#[test]
fn fields_and_flags_of_a_newer_peer_are_skipped_p8() {
    // Done with field 15 (varint 1) after finish_reason; Tokens with a flag and bytes after the text.
    let done = raw(0x12, 4, &[0x08, 1, 0x78, 1]);
    let tokens = raw(0x11, 7, &[0, 1, 2, 1, b'x', 0xaa, 0xbb]);
    let mut reader = FrameReader::new(StreamRole::Response);
    reader.push(&[tokens, done].concat());
    let expected = Tokens {
        n: 1,
        text: "x".into(),
        ..Tokens::default()
    };
    assert_eq!(reader.poll_frame(), Ok(Some(Frame::Tokens(expected))));
    let Ok(Some(Frame::Done(done))) = reader.poll_frame() else {
        panic!("Done was due");
    };
    assert_eq!(done.finish_reason(), FinishReason::Stop);
}

#[test]
fn a_long_piece_becomes_several_frames_p14_p15() {
    let ids: Vec<u32> = (0..1000).map(|i| i * 4_000_000).collect();
    let text = "übermäßig ".repeat(500);
    for listing in [IdListing::Listed, IdListing::Counted] {
        let (mut seq, mut out) = (5, Vec::new());
        write_tokens(&mut seq, &ids, listing, &text, &mut out);
        assert_eq!(seq, 1005);
        let mut reader = FrameReader::new(StreamRole::Response);
        let lead = Tokens {
            n: 5,
            ..Tokens::default()
        };
        reader.push(&bytes(&Frame::Tokens(lead)));
        assert!(reader.poll_frame().expect("it is good").is_some());
        reader.push(&out);
        let (mut text_back, mut ids_back, mut n) = (String::new(), Vec::new(), 0);
        while let Some(frame) = reader.poll_frame().expect("our own bytes are good") {
            let Frame::Tokens(tokens) = frame else {
                panic!("only Tokens were written");
            };
            n += tokens.n;
            text_back.push_str(&tokens.text);
            ids_back.extend(tokens.ids.into_iter().flatten());
        }
        assert_eq!(n, 1000);
        assert_eq!(text_back, text);
        match listing {
            IdListing::Listed => assert_eq!(ids_back, ids),
            IdListing::Counted => assert!(ids_back.is_empty()),
        }
    }
    let (mut seq, mut out) = (0, Vec::new());
    write_tokens(&mut seq, &[], IdListing::Listed, "", &mut out);
    assert!(out.is_empty(), "nothing to say writes nothing");
}

#[test]
fn we_do_not_write_what_the_peer_must_refuse_p7() {
    let prompt = Prompt::Text("x".repeat(300_000));
    let request = Generate {
        prompt: Some(prompt),
        ..Generate::default()
    };
    let mut out = vec![1, 2, 3];
    let error = Frame::Generate(request)
        .encode(&mut out)
        .expect_err("it is too big");
    expect!["a Generate frame of 300004 bytes, at most 262144 are allowed: send less"]
        .assert_eq(&error.to_string());
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn a_detail_is_cut_at_a_character_p21() {
    let error = ErrorFrame::new(ErrorCode::Internal, &"ß".repeat(10_000));
    assert_eq!(error.detail.len(), DETAIL_BYTES_MAX);
    let error = ErrorFrame {
        retry_after_ms: Some(u64::MAX),
        retryable: true,
        code: u32::MAX,
        ..error
    };
    assert!(Frame::Error(error).to_bytes().is_ok());
}

#[test]
fn a_request_that_no_model_can_serve_is_named_p10() {
    let good = Generate {
        request_id: vec![0; 16],
        prompt: Some(Prompt::Text(String::new())),
        ..Generate::default()
    };
    assert_eq!(good.check(), Ok(()));
    let say = |request: Generate| request.check().expect_err("it is wrong").to_string();
    expect!["request_id has 3 bytes: it must have 16"].assert_eq(&say(Generate {
        request_id: vec![0; 3],
        ..good.clone()
    }));
    expect!["the request has no prompt: send text, token_ids or chat"].assert_eq(&say(Generate {
        prompt: None,
        ..good.clone()
    }));
    expect!["stop has 5 entries, at most 4 are allowed"].assert_eq(&say(Generate {
        stop: vec!["a".into(); 5],
        ..good.clone()
    }));
    let messages = vec![ChatMessage::default(); 1025];
    expect!["chat has 1025 entries, at most 1024 are allowed"].assert_eq(&say(Generate {
        prompt: Some(Prompt::Chat(Chat { messages })),
        ..good
    }));
}

#[test]
fn varints_are_those_of_rfc_9000_p5() {
    // Source: RFC 9000, appendix A.1.
    let known: [(&[u8], u64); 4] = [
        (
            &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
            151_288_809_941_952_652,
        ),
        (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
        (&[0x7b, 0xbd], 15_293),
        (&[0x25], 37),
    ];
    for (encoded, value) in known {
        assert_eq!(varint::read(encoded), Some((value, encoded.len())));
        let mut out = Vec::new();
        varint::write(value, &mut out);
        assert_eq!(out, encoded);
        assert_eq!(varint::read(&encoded[..encoded.len() - 1]), None);
    }
    assert_eq!(
        varint::read(&[0x40, 0x25]),
        Some((37, 2)),
        "longer forms are read"
    );
    for edge in [
        63,
        64,
        16_383,
        16_384,
        (1 << 30) - 1,
        1 << 30,
        varint::VALUE_MAX,
    ] {
        let mut out = Vec::new();
        varint::write(edge, &mut out);
        assert_eq!(
            varint::read(&out),
            Some((edge, varint::encoded_bytes(edge)))
        );
    }
}

#[test]
fn the_document_s_example_is_what_we_write() {
    let example = [0x11, 10, 2, 1, 1, 0x41, 6, 4, 0x20, 0x74, 0x68, 0x65];
    let (mut seq, mut out) = (2, Vec::new());
    write_tokens(&mut seq, &[262], IdListing::Listed, " the", &mut out);
    assert_eq!(out, example);
}

#[test]
fn the_document_has_every_number() {
    let document = include_str!("../../../docs/protocol.md");
    let mut wanted = Vec::new();
    for kind in FrameType::ALL {
        wanted.push(format!(
            "| 0x{:02x} | {kind} | {} |",
            kind.id(),
            kind.bytes_max()
        ));
    }
    for code in ErrorCode::ALL {
        wanted.push(format!("| 0x{:02x} | {code} |", code.code()));
    }
    for code in CloseCode::ALL {
        wanted.push(format!("| 0x{:02x} | {code} |", code.code()));
    }
    for row in wanted {
        assert!(
            document.contains(&row),
            "docs/protocol.md lacks the row {row}"
        );
    }
}
