use super::*;

fn keys() -> (Keys, String) {
    let mut keys = Keys::default();
    let secret = keys
        .add("kiosk", "hall-3", Class::Standard, &[7; 32], 1_800_000_000)
        .unwrap();
    (keys, secret)
}

#[test]
fn a_key_opens_until_it_is_revoked_and_no_other_does() {
    let (mut keys, secret) = keys();
    let grant = keys.grant(&secret).unwrap();
    assert_eq!((&*grant.name, grant.class), ("kiosk", Class::Standard));
    assert_eq!(grant.tenant, Tenant::named("hall-3"));
    for wrong in [
        "",
        "osk-",
        &secret[..secret.len() - 1],
        &format!("{secret}0"),
    ] {
        assert_eq!(keys.grant(wrong), None, "{wrong}");
    }
    let other = keys
        .add("other", "hall-3", Class::Batch, &[8; 32], 0)
        .unwrap();
    keys.revoke("kiosk").unwrap();
    assert_eq!(keys.grant(&secret), None);
    assert!(keys.grant(&other).is_some());
}

/// What is on the disk opens nothing: neither the secret nor its digest is a key.
#[test]
fn the_file_has_no_secret_and_reads_back() {
    let (keys, secret) = keys();
    let json = String::from_utf8(keys.to_json()).unwrap();
    assert!(!json.contains(&secret[PREFIX.len()..]), "{json}");
    let read = Keys::parse(json.as_bytes()).unwrap();
    assert_eq!(read, keys);
    assert_eq!(read.grant(&keys.keys[0].digest), None);
    assert!(read.grant(&secret).is_some());
}

#[test]
fn a_key_s_class_is_the_least_patient_that_it_may_ask_for() {
    let (keys, secret) = keys();
    let grant = keys.grant(&secret).unwrap();
    assert_eq!(grant.class(Class::Interactive), Class::Standard);
    assert_eq!(grant.class(Class::Batch), Class::Batch);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_to_do() {
    let (mut keys, _) = keys();
    let mut add = |name: &str, tenant: &str| {
        let added = keys.add(name, tenant, Class::Batch, &[1; 32], 0);
        added.unwrap_err().to_string()
    };
    assert!(add("kiosk", "a").contains("revoke it first"));
    assert!(add("two words", "a").contains("is no name"));
    assert!(add("a", "").contains("is no name"));
    assert!(keys.revoke("nobody").is_err());
    for bad in [
        "{}",
        "{\"keys\": [{\"name\": \"a\"}]}",
        &String::from_utf8(keys.to_json())
            .unwrap()
            .replace("\"digest\": \"", "\"digest\": \"x"),
    ] {
        let error = Keys::parse(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, KeysError::Damaged(_)), "{bad}: {error}");
    }
}
