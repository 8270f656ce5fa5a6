use std::os::unix::fs::PermissionsExt as _;

use outstation::io::uplink::enrol::{EnrolError, enrol};
use outstation::io::uplink::membership::Membership;

use crate::site::Site;

#[tokio::test]
async fn u20_a_box_joins_and_its_files_are_private() {
    let site = Site::new();
    let replica = site.any_replica();
    let member = site.member(&replica).await;
    assert_eq!(member.factory.name, "mast 7");
    assert_eq!(
        member.factory.segment_key(),
        Some(site.keys().segment.public())
    );
    let mut names = Vec::new();
    for entry in std::fs::read_dir(site.state().join("uplink")).expect("it is there") {
        let entry = entry.expect("it can be read");
        let mode = entry
            .metadata()
            .expect("it can be read")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().expect("our own names"));
    }
    names.sort();
    assert_eq!(
        names,
        [
            "authority.der",
            "certificate.der",
            "factory.json",
            "key.pem"
        ]
    );
    let code = site.code([2; 10], 60_000).await;
    let again = enrol(&replica.address.to_string(), &code, &site.state()).await;
    let error = again.expect_err("it is a member").to_string();
    assert!(error.contains("already enrolled as `mast 7`"), "{error}");
}

#[tokio::test]
async fn u24_a_box_whose_answer_was_lost_is_the_same_box() {
    let site = Site::new();
    let replica = site.any_replica();
    let code = site.code([1; 10], 60_000).await;
    let first = site.join(&replica, &code).await;
    // Power was cut before the last file.
    std::fs::remove_file(site.state().join("uplink/factory.json")).expect("it was there");
    assert!(
        Membership::read(&site.state())
            .expect("nothing is damaged")
            .is_none()
    );
    let again = site.join(&replica, &code).await;
    assert_eq!(again.factory, first.factory);
}

#[tokio::test]
async fn u22_a_stranger_is_told_nothing() {
    let (site, other) = (Site::new(), Site::new());
    let stranger = other.any_replica();
    let code = site.code([1; 10], 60_000).await;
    let error = enrol(&stranger.address.to_string(), &code, &site.state()).await;
    let error = error.expect_err("it is not the factory");
    assert!(matches!(error, EnrolError::Stranger { .. }), "{error}");
    assert!(
        !stranger.factory.metrics.text().contains("refusals_total{"),
        "it heard no code"
    );
}

#[tokio::test]
async fn u25_each_mistake_has_its_sentence() {
    let site = Site::new();
    let replica = site.any_replica();
    let old = site.code([3; 10], -1).await;
    let good = site.code([4; 10], 60_000).await;
    let mut mistyped = good.clone();
    let wrong = if mistyped.ends_with('7') { "8" } else { "7" };
    mistyped.replace_range(good.len() - 1.., wrong);
    for (code, what) in [
        (&old, "too old"),
        (&mistyped, "group 7"),
        (&good[1..].to_owned(), "has 41"),
    ] {
        let error = enrol(&replica.address.to_string(), code, &site.state()).await;
        let error = error.expect_err("the code is wrong").to_string();
        assert!(error.contains(what), "{error}");
    }
    let other = site.folder.path().join("other");
    enrol(&replica.address.to_string(), &good, &other)
        .await
        .expect("it joins");
    let error = enrol(&replica.address.to_string(), &good, &site.state()).await;
    let error = error.expect_err("the code was used").to_string();
    assert!(error.contains("used by another box"), "{error}");
}
