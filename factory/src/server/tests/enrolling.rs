use outstation_wire::code::EnrolmentCode;
use outstation_wire::uplink::{ALPN_UPLINK, Enrolled};
use rustls_pki_types::CertificateDer;

use super::*;
use crate::clock::unix_ms;
use crate::registry::{Code, Registry};

/// A code that a factory gave out, good for so many milliseconds more.
async fn code(site: &Site, secret: &[u8; 10], good_ms: i64) -> String {
    let code = EnrolmentCode::new(*secret, site.keys().authority());
    let given = Code {
        name: "mast 7".to_owned(),
        expires_unix_ms: unix_ms().saturating_add_signed(good_ms),
    };
    Registry::new(site.store())
        .add_code(&code.lookup(), &given)
        .await
        .unwrap();
    code.to_string()
}

fn enrolled(answer: FactoryMessage) -> Enrolled {
    match answer {
        FactoryMessage::Enrolled(enrolled) => enrolled,
        other => panic!("not enrolled: {other:?}"),
    }
}

#[tokio::test]
async fn u23_a_code_is_good_for_one_box_once_and_for_its_retries() {
    let site = Site::new();
    let replica = site.replica();
    let code = code(&site, b"0123456789", 60_000).await;
    let mut trial = TrialBox::fresh(&site.keys()).unwrap();
    let first = enrolled(trial.enrol(replica.address, &code).await.unwrap());
    assert_eq!(first.name, "mast 7");
    assert_eq!(first.authority, site.keys().authority().to_vec());
    assert_eq!(first.segment_key, site.keys().segment.public());
    // U-24: the answer was lost, and the box asks again, of another replica.
    let again = enrolled(trial.enrol(site.replica().address, &code).await.unwrap());
    assert_eq!(again, first);
    let other = TrialBox::fresh(&site.keys()).unwrap();
    let (code_kind, no) = refused(other.enrol(replica.address, &code).await.unwrap());
    assert_eq!(code_kind, RefusedCode::Code);
    assert!(no.message.contains("used by another box"), "{}", no.message);

    // The certificate is good for what it is for.
    trial.appliance = first.appliance.try_into().unwrap();
    trial.certificate = Some(CertificateDer::from(first.certificate));
    let (_endpoint, connection) = replica.call(&trial).await;
    stored(send(&connection, &trial, 1, 10_000).await);
    // Nothing in the store gives the code away.
    for key in site.objects("enrol").await {
        let text = String::from_utf8(site.bytes(&key).await).unwrap();
        assert!(
            !text.contains("0123456789") && !key.contains(&code),
            "{key}: {text}"
        );
        assert!(
            !text.contains(&crate::store::hex(b"0123456789")),
            "{key}: {text}"
        );
    }
}

#[tokio::test]
async fn u23_codes_that_are_old_mistyped_or_invented_are_refused() {
    let site = Site::new();
    let replica = site.replica();
    let old = code(&site, b"0000000000", -1).await;
    let good = code(&site, b"1111111111", 60_000).await;
    let mistyped = good.replace(&good[..1], if good.starts_with('7') { "8" } else { "7" });
    let invented = EnrolmentCode::new([3; 10], site.keys().authority()).to_string();
    let cases = [
        (old, "too old"),
        (mistyped, "group 1"),
        (invented, "gave out no such code"),
    ];
    for (code, what) in cases {
        let trial = TrialBox::fresh(&site.keys()).unwrap();
        let (kind, no) = refused(trial.enrol(replica.address, &code).await.unwrap());
        assert_eq!(kind, RefusedCode::Code);
        assert!(no.message.contains(what), "{}", no.message);
    }
}

#[tokio::test]
async fn u1_without_a_certificate_nobody_offers_segments() {
    let site = Site::new();
    let replica = site.replica();
    let nobody = TrialBox::fresh(&site.keys()).unwrap();
    let (_endpoint, connection) = nobody.connect(replica.address, ALPN_UPLINK).await.unwrap();
    let closed = connection.closed().await.to_string();
    assert!(closed.contains("enrol it first"), "{closed}");
    // A certificate of another authority does not even get that far.
    let mut stranger = TrialBox::enrolled(&Site::new().keys(), APPLIANCE).unwrap();
    stranger.authority = site.keys().authority().clone();
    let call = stranger
        .call(replica.address, trial::hello(EPOCH, 1, [9; 16]))
        .await;
    assert!(call.is_err());
}
