use super::*;

fn code() -> EnrolmentCode {
    EnrolmentCode::new(*b"0123456789", b"an authority")
}

#[test]
fn u21_what_is_shown_is_read_again_however_it_is_typed() {
    let shown = code().to_string();
    assert_eq!(shown.len(), GROUPS * GROUP_SYMBOLS + GROUPS - 1, "{shown}");
    let typed = shown
        .to_lowercase()
        .replace('-', " ")
        .replace('0', "o")
        .replace('1', "l");
    for text in [shown.clone(), shown.replace('-', ""), typed] {
        assert_eq!(EnrolmentCode::parse(&text), Ok(code()), "{text}");
    }
    assert!(code().is_from(b"an authority"));
    assert!(!code().is_from(b"another"));
}

#[test]
fn u21_every_wrong_symbol_and_every_swap_is_found_in_its_group() {
    let shown: Vec<char> = code().to_string().chars().filter(|c| *c != '-').collect();
    for at in 0..shown.len() {
        let group = at / GROUP_SYMBOLS + 1;
        let wrong = |text: Vec<char>| match EnrolmentCode::parse(&text.iter().collect::<String>()) {
            Err(CodeError::Group { group: found, .. }) => assert_eq!(found, group),
            other => panic!("{other:?} at {at}"),
        };
        for symbol in ALPHABET
            .iter()
            .map(|s| char::from(*s))
            .filter(|s| *s != shown[at])
        {
            let mut text = shown.clone();
            text[at] = symbol;
            wrong(text);
        }
        let next = at + 1;
        if next / GROUP_SYMBOLS == at / GROUP_SYMBOLS
            && next < shown.len()
            && shown[at] != shown[next]
        {
            let mut text = shown.clone();
            text.swap(at, next);
            wrong(text);
        }
    }
}

#[test]
fn u21_swapped_groups_and_lost_symbols_are_named() {
    let shown = code().to_string();
    let mut groups: Vec<&str> = shown.split('-').collect();
    groups.swap(2, 4);
    let error = EnrolmentCode::parse(&groups.join("-")).unwrap_err();
    assert!(
        matches!(error, CodeError::Group { group: 3, .. }),
        "{error}"
    );
    let error = EnrolmentCode::parse(&shown[1..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a code has 7 groups of 6 symbols, 42 in all; this one has 41"
    );
    let error = EnrolmentCode::parse(&shown.replacen(&shown[7..8], "u", 1)).unwrap_err();
    assert!(
        matches!(error, CodeError::Character { character: 'u', .. }),
        "{error}"
    );
}
