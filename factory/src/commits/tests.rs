use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;

#[test]
fn ranges_are_sets() {
    let mut state = 1_u64;
    for _ in 0..200 {
        let mut ranges = Ranges::default();
        let mut truth = BTreeSet::new();
        for _ in 0..40 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let number = (state >> 33) % 50;
            ranges.insert(number);
            truth.insert(number);
            assert!(ranges.is_sound(), "{ranges:?}");
        }
        assert_eq!(ranges.count(), truth.len() as u64);
        for number in 0..60 {
            assert_eq!(ranges.contains(number), truth.contains(&number));
            let one: Ranges = [number].into_iter().collect();
            assert_eq!(ranges.overlaps(&one), truth.contains(&number));
            assert_eq!(one.overlaps(&ranges), truth.contains(&number));
        }
        let mut twice = ranges.clone();
        twice.extend(&ranges);
        assert_eq!(twice, ranges);
    }
    let ends: Ranges = [u64::MAX, 0, u64::MAX - 1].into_iter().collect();
    assert_eq!(
        serde_json::to_string(&ends).unwrap(),
        format!("[[0,0],[{},{}]]", u64::MAX - 1, u64::MAX)
    );
}

fn output(key: &str) -> Output {
    Output {
        key: key.to_owned(),
        table: "gap".to_owned(),
        day: "2026-03-01".to_owned(),
        ..Output::default()
    }
}

fn adds(key: &str) -> Commit {
    Commit {
        outputs: vec![output(key)],
        ..Commit::default()
    }
}

fn removes(key: &str) -> Commit {
    Commit {
        removed: vec![key.to_owned()],
        ..Commit::default()
    }
}

fn log(writer: &str) -> (Store, Log) {
    let store = Store::new(Arc::new(InMemory::new()));
    (store.clone(), Log::new(store, writer))
}

#[tokio::test(start_paused = true)]
async fn of_two_writers_one_wins_and_the_other_reads() {
    let (store, one) = log("one");
    let other = Log::new(store, "other");
    let mut ahead = one.read().await.unwrap();
    let mut behind = ahead.clone();
    assert_eq!(
        one.append(&mut ahead, adds("a")).await.unwrap(),
        Append::Won
    );
    assert_eq!(
        other.append(&mut behind, adds("b")).await.unwrap(),
        Append::Lost
    );
    assert_eq!(behind.number(), 0, "what was lost is not applied");
    other.catch_up(&mut behind).await.unwrap();
    assert_eq!(behind, ahead);
    assert_eq!(
        other.append(&mut behind, adds("b")).await.unwrap(),
        Append::Won
    );
    assert_eq!(one.read().await.unwrap(), behind);
    assert_eq!(behind.files().len(), 2);
    // Who repeats its own commit, for it does not know that it counts, wins again.
    let mut again = ahead.clone();
    assert_eq!(
        other.append(&mut again, adds("b")).await.unwrap(),
        Append::Won
    );
    assert_eq!(again, behind);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_follow_is_never_written() {
    let (store, log) = log("one");
    let mut state = log.read().await.unwrap();
    log.append(&mut state, adds("a")).await.unwrap();
    log.append(&mut state, removes("a")).await.unwrap();
    let taken = |seq| Commit {
        streams: [("b/e/p0".to_owned(), [seq].into_iter().collect())].into(),
        ..Commit::default()
    };
    log.append(&mut state, taken(5)).await.unwrap();
    let wrong = [
        (adds("a"), "it adds a, which was removed"),
        (taken(5), "it takes records of b/e/p0 a second time"),
    ];
    for (commit, reason) in wrong {
        let error = log
            .append(&mut state, commit)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(state.number(), 3);
    let next = store.get_if_there(&commit_key(4)).await.unwrap();
    assert!(next.is_none());
    // A name that is deleted is free to be written by whoever is late, but never counts under the same generation.
    assert_eq!(state.generation(), 2);
    assert!(!state.admits(0, &adds("b")));
    assert!(state.admits(2, &adds("b")));
    assert!(!state.admits(2, &taken(5)));
    assert!(!state.admits(2, &removes("a")));
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_another_kind_is_named() {
    let (store, log) = log("one");
    let broken = |bytes: &'static str| {
        let (store, log) = (store.clone(), log.clone());
        async move {
            let key = commit_key(1);
            store
                .overwrite(&key, PutPayload::from(bytes))
                .await
                .unwrap();
            log.read().await.unwrap_err().to_string()
        }
    };
    let said = broken("{}").await;
    assert_eq!(
        said,
        "commits/00000000000000000001.json is not what this program writes (missing field `format` at line 1 column \
         2): restore it, or use a later program"
    );
    let said = broken(r#"{"format":2,"number":1,"unix_ms":0,"writer":""}"#).await;
    assert!(said.contains("its format is 2, not 1"), "{said}");
    let said = broken(r#"{"format":1,"number":3,"unix_ms":0,"writer":""}"#).await;
    assert!(said.contains("it says 3, not 1"), "{said}");
}
