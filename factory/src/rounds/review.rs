//! A page on which a person says what the right answers are, one case after the other.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Form, Router};
use serde::Deserialize;
use tokio::net::TcpListener;

use super::folder::{chats, of, rounds};
use super::label::{LABELS, Label, append, id, labels};
use super::{RoundError, cases};
use crate::chat::Chat;
use crate::fleet::escape;

/// What a page knows.
struct Page {
    /// The loop's folder.
    work: PathBuf,
    /// Who says what is right.
    person: String,
    /// What a form must bring that was shown here: others cannot send one.
    secret: String,
    /// One answer at a time.
    writing: Mutex<()>,
}

/// Shows the page until the task is dropped.
pub async fn serve(work: PathBuf, person: String, listener: TcpListener) -> std::io::Result<()> {
    let mut secret = [0; 16];
    aws_lc_rs::rand::fill(&mut secret).map_err(std::io::Error::other)?;
    let page = Arc::new(Page {
        work,
        person,
        secret: crate::store::hex(&secret),
        writing: Mutex::new(()),
    });
    axum::serve(listener, routes(page)).await
}

fn routes(page: Arc<Page>) -> Router {
    Router::new()
        .route("/", get(show).post(take))
        .with_state(page)
}

/// A case that waits, and where it is.
struct Waiting {
    round: u32,
    case: Chat,
    /// How many wait.
    left: usize,
}

impl Page {
    /// The first case of the round under way that has no label.
    fn next(&self) -> Result<Option<Waiting>, RoundError> {
        let rounds = rounds(&self.work)?;
        let Some(round) = rounds.last().filter(|round| round.ended.is_none()) else {
            return Ok(None);
        };
        let round = round.number;
        let known = labels(&of(&self.work, round, LABELS))?;
        let cases = chats(&of(&self.work, round, cases::CASES))?.unwrap_or_default();
        let mut open: Vec<_> = cases
            .into_iter()
            .filter(|case| !known.contains_key(id(case)))
            .collect();
        if open.is_empty() {
            return Ok(None);
        }
        let left = open.len();
        Ok(Some(Waiting {
            round,
            case: open.swap_remove(0),
            left,
        }))
    }
}

/// What a form says.
#[derive(Deserialize)]
struct Said {
    secret: String,
    round: u32,
    id: String,
    answer: String,
    what: String,
}

async fn show(State(page): State<Arc<Page>>) -> Response {
    match page.next() {
        Ok(waiting) => {
            let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'";
            let headers = [
                (header::CACHE_CONTROL, "no-store"),
                (header::CONTENT_SECURITY_POLICY, policy),
                (header::REFERRER_POLICY, "no-referrer"),
            ];
            (headers, Html(html(&page, waiting.as_ref()))).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn take(State(page): State<Arc<Page>>, Form(said): Form<Said>) -> Response {
    if said.secret != page.secret {
        let text = "this form is of another start of the page: load it anew";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let answer = match said.what.as_str() {
        "skip" => None,
        _ => Some(said.answer.replace("\r\n", "\n").trim().to_owned()),
    };
    if answer.as_deref() == Some("") {
        let text = "an answer is not empty: go back, write one, or skip the case";
        return (StatusCode::UNPROCESSABLE_ENTITY, text).into_response();
    }
    let label = Label {
        id: said.id,
        answer,
        by: page.person.clone(),
    };
    let file = of(&page.work, said.round, LABELS);
    let written = {
        let _one = page.writing.lock().unwrap_or_else(PoisonError::into_inner);
        append(&file, &[label])
    };
    match written {
        Ok(()) => Redirect::to("/").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

const STYLE: &str = include_str!("review.css");

fn html(page: &Page, waiting: Option<&Waiting>) -> String {
    let body = match waiting {
        None => "<p>No case waits. <code>outstation-factory loop --once</code> goes on with what was said.</p>"
            .to_owned(),
        Some(waiting) => form(page, waiting),
    };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Review</title><style>{STYLE}</style><main><h1>What is the right answer?</h1>{body}</main>"
    )
}

fn form(page: &Page, waiting: &Waiting) -> String {
    let (before, answer) = waiting.case.split();
    let mut said = String::new();
    for message in before {
        let (role, content) = (escape(&message.role), escape(&message.content));
        let _ = write!(said, "<p class=said><b>{role}</b> {content}</p>");
    }
    let flags = waiting.case.metadata.get("flags");
    let flags = flags
        .and_then(|flags| flags.as_array())
        .into_iter()
        .flatten();
    let flags: Vec<_> = flags
        .filter_map(|flag| Some(escape(flag.as_str()?)))
        .collect();
    format!(
        "<p>{} cases wait. This one was flagged: {}.</p>{said}\
         <form method=post><input type=hidden name=secret value='{}'><input type=hidden name=round value='{}'>\
         <input type=hidden name=id value='{}'><label for=answer>The box answered this. Correct it, or leave it if it is \
         right.</label><textarea id=answer name=answer rows=5 autofocus>{}</textarea>\
         <button name=what value=save>This is right</button> <button name=what value=skip>Skip</button></form>",
        waiting.left,
        flags.join(", "),
        page.secret,
        waiting.round,
        escape(id(&waiting.case)),
        escape(answer),
    )
}
