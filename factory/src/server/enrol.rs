//! A box joins: a code that was given out, for a certificate (U-20 to U-25).

use std::sync::Arc;
use std::time::Duration;

use outstation_wire::code::EnrolmentCode;
use outstation_wire::uplink::{BoxMessage, Enrol, Enrolled, FactoryMessage, Refused, RefusedCode};

use super::{CLOSE_NO_ERROR, CLOSE_PROTOCOL, Factory};
use crate::channel::{self, later, never};
use crate::clock::unix_ms;
use crate::ingest::unavailable;
use crate::keys::{Request, unhex};
use crate::registry::{Enrolment, Used};
use crate::store::hex;

/// From the handshake to the end.
const ENROL_MAX: Duration = Duration::from_secs(20);
/// Characters of a description that are kept.
const HARDWARE_CHARS_MAX: usize = 200;

pub(super) async fn run(connection: &quinn::Connection, factory: &Arc<Factory>) {
    let talk = async {
        let Ok((mut send, mut receive)) = connection.accept_bi().await else {
            return;
        };
        let Ok(Some(BoxMessage::Enrol(enrol))) = channel::read(&mut receive, ENROL_MAX).await
        else {
            connection.close(CLOSE_PROTOCOL, b"the first message must be Enrol");
            return;
        };
        let answer = match answer(&enrol, factory).await {
            Ok(enrolled) => FactoryMessage::Enrolled(enrolled),
            Err(refused) => {
                factory.metrics.refused(refused.code);
                tracing::info!(remote = %connection.remote_address(), "no enrolment: {}", refused.message);
                FactoryMessage::Refused(refused)
            }
        };
        if channel::send(&mut send, answer).await.is_ok() && send.finish().is_ok() {
            // The box closes when it has the answer.
            connection.closed().await;
        }
    };
    let _ = tokio::time::timeout(ENROL_MAX, talk).await;
    connection.close(CLOSE_NO_ERROR, b"");
}

async fn answer(enrol: &Enrol, factory: &Factory) -> Result<Enrolled, Refused> {
    let no = |message: &str| never(RefusedCode::Code, message);
    let code = EnrolmentCode::parse(&enrol.code).map_err(|e| no(&e.to_string()))?;
    let request = Request::parse(&enrol.certificate_request).map_err(|e| {
        never(
            RefusedCode::Malformed,
            format!("the certificate request cannot be used: {e}"),
        )
    })?;
    let lookup = code.lookup();
    let registry = &factory.registry;
    let Some(given) = registry.code(&lookup).await.map_err(unavailable)? else {
        return Err(no(
            "the factory gave out no such code: ask for one, `outstation-factory devices add` makes it",
        ));
    };
    let key = hex(&request.key_digest());
    let used = match registry.used(&lookup).await.map_err(unavailable)? {
        Some(used) => used,
        None if given.expires_unix_ms <= unix_ms() => {
            return Err(no(
                "the code is too old: ask for another, `outstation-factory devices add` makes it",
            ));
        }
        None => {
            let fresh = issue(enrol, request, &given.name, &key, factory)?;
            registry
                .use_code(&lookup, fresh)
                .await
                .map_err(unavailable)?
        }
    };
    // U-24: the same key is the same box, whose answer was lost.
    if used.key != key {
        return Err(no(
            "the code was used by another box: ask for another, `outstation-factory devices add` makes it",
        ));
    }
    let enrolment = Enrolment {
        name: given.name.clone(),
        unix_ms: used.unix_ms,
        hardware: used.hardware,
        key: used.key,
    };
    registry
        .enrolled(&used.appliance, &enrolment)
        .await
        .map_err(unavailable)?;
    let damaged = || {
        later(
            RefusedCode::Unavailable,
            "the factory's registry is damaged",
            ENROL_MAX,
        )
    };
    let appliance: [u8; 16] = unhex(&used.appliance).ok_or_else(damaged)?;
    let certificate = bytes(&used.certificate).ok_or_else(damaged)?;
    factory.metrics.enrolments.inc();
    tracing::info!(name = given.name, appliance = used.appliance, "enrolled");
    Ok(Enrolled {
        appliance: appliance.to_vec(),
        name: given.name,
        certificate,
        authority: factory.keys.authority().to_vec(),
        segment_key: factory.keys.segment.public().to_vec(),
    })
}

fn issue(
    enrol: &Enrol,
    request: Request,
    name: &str,
    key: &str,
    factory: &Factory,
) -> Result<Used, Refused> {
    let mut appliance = [0; 16];
    aws_lc_rs::rand::fill(&mut appliance).expect("the system has random bytes");
    let certificate = factory
        .keys
        .issue(request, &appliance, name)
        .map_err(|error| {
            tracing::warn!(%error, "no certificate");
            never(RefusedCode::Malformed, "the factory cannot sign this key")
        })?;
    Ok(Used {
        appliance: hex(&appliance),
        key: key.to_owned(),
        certificate: hex(&certificate),
        unix_ms: unix_ms(),
        hardware: enrol.hardware.chars().take(HARDWARE_CHARS_MAX).collect(),
    })
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
