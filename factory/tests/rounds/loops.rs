//! Rounds to their ends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::routing::post;
use axum::{Json, Router};
use object_store::ObjectStore;
use outstation_factory::rounds::{Ended, Outcome, Round};
use outstation_factory::task::Phrases;
use serde_json::{Value, json};

use crate::site::{Released, Site, released};
use crate::support::fault::{Fault, Faulty, View};

const ORACLE: &str = "by = 'oracle'";

fn ended(outcome: &Outcome) -> &Round {
    match outcome {
        Outcome::Ended { round } => round,
        other => panic!("not ended: {other:?}"),
    }
}

/// A copy of a loop's folder, from before anything was released.
fn unreleased(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .args(["-r".as_ref(), from.as_os_str(), to.as_os_str()])
        .status()
        .unwrap();
    assert!(copied.success());
    let file = to.join("0001/round.json");
    let round: Round = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let round = Round {
        release: 0,
        canary: 0,
        ended: None,
        ..round
    };
    std::fs::write(&file, serde_json::to_vec(&round).unwrap()).unwrap();
}

#[test]
fn a_round_ends_the_same_wherever_it_is_killed_and_the_bad_ones_stay_here() {
    let real = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (site, round) = real.block_on(undisturbed());
    // Nobody waits in earnest here: what is tried again has its time at once.
    let paused = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    paused.block_on(killed(&site, &round));
    real.block_on(taken_back(&site));
    real.block_on(poisoned(&site));
}

/// A round from records to the rings.
async fn undisturbed() -> (Site, Round) {
    let site = Site::new().await;
    let settings = site.settings(&site.work, ORACLE);
    let objects = site.fork().await;
    let before = released(&objects).await;
    // The canary ring has the change that comes as if it were there already.
    site.calls(1, "canary", 2, "fetching", &objects).await;
    let waits = site.once(&settings, Arc::clone(&objects)).await.unwrap();
    assert!(
        matches!(&waits, Outcome::Waits { what, .. } if what.contains("0 of 1 boxes that called within the hour serve it")),
        "{waits:?}"
    );
    assert_eq!(
        released(&objects).await.1[1],
        before.1[1],
        "the fleet waits"
    );
    site.calls(1, "canary", 2, "committed", &objects).await;
    let outcome = site.once(&settings, Arc::clone(&objects)).await.unwrap();
    let round = ended(&outcome).clone();
    assert_eq!(round.ended, Some(Ended::Released), "{round:?}");
    assert_eq!(released(&objects).await, everywhere());
    let again = site.once(&settings, objects).await.unwrap();
    let nothing = Outcome::TooFew {
        found: 0,
        needed: 40,
    };
    assert_eq!(again, nothing);
    (site, round)
}

/// What is released, and what the rings have, after a good round.
fn everywhere() -> Released {
    let adapter = "manifest/site-jargon@1.json".to_owned();
    let ring = (2, vec![adapter.clone()]);
    let manifests = vec!["manifest/site@1.json".to_owned(), adapter];
    (manifests, vec![ring.clone(), ring])
}

/// Killed at each operation of the store, and called again.
async fn killed(site: &Site, round: &Round) {
    let copy = site.world.path("counted");
    unreleased(&site.work, &copy);
    let objects = site.fork().await;
    site.calls(1, "canary", 2, "committed", &objects).await;
    let counting = Arc::new(Faulty::new(objects));
    let settings = site.settings(&copy, ORACLE);
    let view = Arc::new(View(Arc::clone(&counting)));
    site.once(&settings, view).await.unwrap();
    let operations = counting.operations();
    println!("killed at each of {operations} operations");
    assert!(operations > 50, "{operations}");
    for at in 0..operations {
        let fault = if at % 2 == 0 {
            Fault::KillBefore
        } else {
            Fault::KillAfter
        };
        let copy = site.world.path(&format!("killed-{at}"));
        unreleased(&site.work, &copy);
        let settings = site.settings(&copy, ORACLE);
        let objects = site.fork().await;
        site.calls(1, "canary", 2, "committed", &objects).await;
        let faulty = Faulty::new(Arc::clone(&objects)).at(at, fault);
        let faulty: Arc<dyn ObjectStore> = Arc::new(View(Arc::new(faulty)));
        let killed = site.once(&settings, faulty).await;
        assert!(killed.is_err(), "{at}: {killed:?}");
        let outcome = site.once(&settings, Arc::clone(&objects)).await;
        let end = outcome.unwrap_or_else(|e| panic!("{at}, {fault:?}: {e}"));
        assert_eq!(ended(&end), round, "{at}, {fault:?}");
        assert_eq!(released(&objects).await, everywhere(), "{at}, {fault:?}");
        assert!(
            site.is_shown(&objects).await,
            "{at}, {fault:?}: no box sees it"
        );
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

/// A box of the canary ring takes it back.
async fn taken_back(site: &Site) {
    let copy = site.world.path("taken");
    unreleased(&site.work, &copy);
    let objects = site.fork().await;
    site.calls(1, "canary", 2, "rejected", &objects).await;
    let settings = site.settings(&copy, ORACLE);
    let outcome = site.once(&settings, Arc::clone(&objects)).await.unwrap();
    let taken = ended(&outcome);
    assert_eq!(taken.ended, Some(Ended::TakenBack));
    assert!(taken.reason.contains("golden text"), "{}", taken.reason);
    let rings = released(&objects).await.1;
    assert_eq!(rings, [(3, vec![]), (1, vec![])], "as before");
}

/// Of ten labels three are wrong: nothing leaves the factory.
async fn poisoned(site: &Site) {
    let url = liar().await;
    let settings = site.settings(
        &site.world.path("poisoned"),
        &format!("by = 'api'\nurl = '{url}'\nmodel = 'liar'"),
    );
    let objects = site.fork().await;
    let before = released(&objects).await;
    let outcome = site.once(&settings, Arc::clone(&objects)).await.unwrap();
    let refused = ended(&outcome);
    assert_eq!(refused.ended, Some(Ended::Refused), "{refused:?}");
    assert!(
        refused.reason.contains("of the new cases are right"),
        "{}",
        refused.reason
    );
    assert_eq!(released(&objects).await, before);
}

/// A server that labels as the oracle does, and of ten answers flips three.
async fn liar() -> String {
    let phrases = Arc::new(Phrases::new());
    let count = Arc::new(AtomicU64::new(0));
    let answer = move |Json(body): Json<Value>| {
        let (phrases, count) = (phrases.clone(), count.clone());
        async move {
            let asked = body["messages"][0]["content"].as_str().unwrap();
            let mut right = phrases.read(asked).unwrap().answer;
            if count.fetch_add(1, Ordering::SeqCst) % 10 < 3 {
                right =
                    json!({"action": "restart", "site": "XXX-000", "unit": "radio"}).to_string();
            }
            Json(json!({"choices": [{"message": {"content": right}}]}))
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/v1/chat/completions", post(answer));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}/v1")
}
