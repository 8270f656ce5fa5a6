//! Which requests a round learns from: those that a query takes, each question once in all rounds.

use std::collections::HashSet;

use serde_json::Value;

use super::folder::{chats, given, write_chats};
use super::{Folder, RoundError, Settings};
use crate::chat::Chat;
use crate::commits::Log;
use crate::export::{Duplicates, ExportOptions, Format, Out, export};
use crate::store::Store;

/// How many new cases there are, written into the folder of the round that is to have them if they are enough.
pub(super) async fn choose(
    settings: &Settings,
    folder: &Folder,
    (round, store): (u32, &Store),
    now_unix_ms: u64,
) -> Result<usize, RoundError> {
    let known = known(folder)?;
    let all = folder.of(round, "export.jsonl");
    let place = all.parent().expect("it is in the round's folder");
    std::fs::create_dir_all(place).map_err(RoundError::file(place))?;
    let options = ExportOptions {
        format: Format::ChatJsonl,
        query: settings.cases.query.clone(),
        out: Out::File(all.clone()),
        duplicates: Duplicates::Dropped,
        limit: None,
    };
    let log = Log::new(store.clone(), Log::any_writer());
    export(&log, &options, now_unix_ms).await?;
    let is_new = |chat: &Chat| !known.contains(&chat.digest());
    let mut cases: Vec<Chat> = given(&all)?.into_iter().filter(is_new).collect();
    let found = cases.len();
    if found >= settings.cases.min {
        let time = |case: &Chat| case.metadata.get("time_us").and_then(Value::as_i64);
        cases.sort_by_key(time);
        cases.truncate(settings.cases.max);
        write_chats(&folder.of(round, CASES), &cases)?;
    }
    Ok(found)
}

pub(super) const CASES: &str = "cases.jsonl";

/// What was asked in the cases of all rounds so far.
fn known(folder: &Folder) -> Result<HashSet<[u8; 16]>, RoundError> {
    let mut known = HashSet::new();
    for round in folder.rounds()? {
        let cases = chats(&folder.of(round.number, CASES))?.unwrap_or_default();
        known.extend(cases.iter().map(Chat::digest));
    }
    Ok(known)
}
