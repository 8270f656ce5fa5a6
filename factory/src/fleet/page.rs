//! The page: one document, nothing from elsewhere, no script.

use std::fmt::Write as _;

use super::{Shown, State, Totals, age, size};

/// Rows of the page. The rest is in `/api/devices`.
const ROWS_MAX: usize = 500;
/// Seconds between two looks.
const REFRESH_S: u32 = 10;

/// The page. `boxes` are all, sorted; `only` leaves those of one state.
pub fn page(boxes: &[Shown], totals: &Totals, only: Option<State>) -> String {
    let mut html = String::with_capacity(8_192 + boxes.len().min(ROWS_MAX) * 1_024);
    let shown: Vec<_> = boxes
        .iter()
        .filter(|shown| only.is_none_or(|state| shown.state == state))
        .collect();
    let _ = write!(
        html,
        "<!doctype html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=refresh content={REFRESH_S}><title>{}</title><style>{STYLE}</style></head><body>\
         <header><h1>Outstation fleet</h1><p>{}</p></header>",
        title(totals, boxes.len()),
        headline(totals, boxes.len()),
    );
    if boxes.is_empty() {
        html.push_str(
            "<section class=empty><h2>No boxes yet</h2><p>Make a code here, and type it on the box:</p>\
             <pre>outstation-factory devices add --name NAME\noutstation enrol --factory HOST:4434 CODE</pre></section>",
        );
    } else {
        tiles(&mut html, totals);
        filters(&mut html, totals, boxes.len(), only);
        table(&mut html, &shown);
    }
    html.push_str(
        "<footer><a href=/api/devices>JSON</a> <a href=/metrics>metrics</a></footer></body></html>",
    );
    html
}

fn title(totals: &Totals, boxes: usize) -> String {
    match worst(totals) {
        0 => format!("{boxes} boxes"),
        bad => format!("({bad}) {boxes} boxes"),
    }
}

fn worst(totals: &Totals) -> usize {
    let [clone, trouble, silent, ..] = totals.boxes;
    clone + trouble + silent
}

fn headline(totals: &Totals, boxes: usize) -> String {
    match (boxes, worst(totals)) {
        (0, _) => String::new(),
        (_, 0) => "all is well".to_owned(),
        (_, 1) => "1 box wants a look".to_owned(),
        (_, bad) => format!("{bad} boxes want a look"),
    }
}

fn tiles(html: &mut String, totals: &Totals) {
    let boxes: usize = totals.boxes.iter().sum();
    let tiles = [
        ("boxes", boxes.to_string()),
        ("connected here", totals.connected.to_string()),
        ("waiting in spools", size(totals.spool_bytes)),
        (
            "taken here, a second",
            format!("{:.1} MB", totals.ingest_bytes_per_s / 1e6),
        ),
        ("segments missing", totals.segments_missing.to_string()),
        ("records lost", totals.records_lost.to_string()),
    ];
    html.push_str("<dl>");
    for (name, value) in tiles {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    html.push_str("</dl>");
}

fn filters(html: &mut String, totals: &Totals, boxes: usize, only: Option<State>) {
    let here = |on: bool| if on { " aria-current=page" } else { "" };
    let _ = write!(
        html,
        "<nav><a href=/{}>all {boxes}</a>",
        here(only.is_none())
    );
    for (state, count) in State::ALL.into_iter().zip(totals.boxes) {
        if count > 0 || only == Some(state) {
            let word = state.word();
            let on = here(only == Some(state));
            let _ = write!(
                html,
                "<a href=\"/?state={word}\"{on}><i class={word}></i>{word} {count}</a>"
            );
        }
    }
    html.push_str("</nav>");
}

fn table(html: &mut String, boxes: &[&Shown]) {
    html.push_str(
        "<table><thead><tr><th>box<th>state<th class=n>last contact<th>serves<th>release<th class=n>waiting\
         <th class=n>stored<th>program, machine</tr></thead><tbody>",
    );
    for shown in boxes.iter().take(ROWS_MAX) {
        row(html, shown);
    }
    html.push_str("</tbody></table>");
    if boxes.len() > ROWS_MAX {
        let more = boxes.len() - ROWS_MAX;
        let _ = write!(
            html,
            "<p>and {more} more: see <a href=/api/devices>JSON</a></p>"
        );
    }
}

fn row(html: &mut String, shown: &Shown) {
    let name = if shown.name.is_empty() {
        "(no name)"
    } else {
        &shown.name
    };
    let last = match shown.last_contact_ms_ago {
        _ if shown.connected => "connected".to_owned(),
        Some(ago) => format!("{} ago", age(ago)),
        None => "never".to_owned(),
    };
    let waiting = match shown.spool_segments {
        0 => "nothing".to_owned(),
        segments => format!("{}<small>{segments} seg.</small>", size(shown.spool_bytes)),
    };
    let stored = match shown.segments_stored {
        0 => "–".to_owned(),
        segments => format!("{}<small>{segments} seg.</small>", size(shown.bytes_stored)),
    };
    let word = shown.state.word();
    let _ = write!(
        html,
        "<tr class=\"{word}\"><td class=name><b>{}</b><small title=\"{}\">{}</small>\
         <td data-is=state><span class=state><i class={word}></i>{word}</span>\
         <td class=n data-is=\"last contact\">{last}<td data-is=serves>{}\
         <td data-is=release>{}<td class=n data-is=waiting>{waiting}<td class=n data-is=stored>{stored}\
         <td data-is=program>{}<small>{}</small></tr>",
        escape(name),
        escape(&shown.appliance),
        escape(shown.appliance.get(..8).unwrap_or(&shown.appliance)),
        or_dash(&shown.model),
        or_dash(&shown.release()),
        or_dash(&shown.agent),
        escape(&shown.hardware),
    );
    if !shown.trouble.is_empty() {
        let all: Vec<_> = shown
            .trouble
            .iter()
            .map(|trouble| escape(trouble))
            .collect();
        let _ = write!(
            html,
            "<tr class=\"why {word}\"><td colspan=8>{}</tr>",
            all.join(" · ")
        );
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "–".to_owned()
    } else {
        escape(text)
    }
}

/// Text that boxes chose, as text.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // They would turn the text around them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

const STYLE: &str = include_str!("page.css");
