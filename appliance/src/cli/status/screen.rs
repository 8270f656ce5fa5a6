//! The live view, as a function of what was seen and of the area that there is.
//!
//! Eight colours and the characters of the oldest consoles are enough for it: it is also shown on the first console of
//! a box without a desktop.

use std::fmt::Write as _;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Sparkline, Table, Widget};

use super::watch::Watch;
use crate::config::ByteSize;
use crate::status::{Releases, Status, percent, resident, span};

/// What a terminal's font has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Font {
    /// Bars in eight heights.
    Full,
    /// The characters of a PC's console: bars in two heights.
    Console,
}

/// What is drawn.
pub(super) struct Screen<'a> {
    pub(super) watch: &'a Watch,
    pub(super) now_unix_s: u64,
    pub(super) font: Font,
}

/// Lines of the newest errors that are shown.
const ERROR_LINES: usize = 3;
/// Releases that are shown.
const MODEL_ROWS: usize = 6;

impl Widget for Screen<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let Some((status, releases)) = &self.watch.latest else {
            let [head, body, foot] = Layout::vertical([
                Constraint::Length(1),
                Constraint::Fill(1),
                Constraint::Length(1),
            ])
            .areas(area);
            self.head(None, head, buffer);
            Paragraph::new("nothing was heard yet").render(body, buffer);
            foot_line(foot, buffer);
            return;
        };
        let rows = models(status, releases.as_ref());
        let lines = notes(status);
        let height = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX);
        let [head, speed, gauges, table, words, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(4),
            Constraint::Length(4),
            Constraint::Length(height(rows.len()) + 2),
            Constraint::Length(height(lines.len())),
            Constraint::Length(1),
        ])
        .areas(area);
        self.head(Some(status), head, buffer);
        self.speed(status, speed, buffer);
        gauge_rows(status, gauges, buffer);
        let widths = [
            Constraint::Length(10),
            Constraint::Length(24),
            Constraint::Fill(1),
        ];
        Table::new(rows, widths)
            .block(Block::bordered().title(" models "))
            .render(table, buffer);
        Paragraph::new(lines).render(words, buffer);
        foot_line(foot, buffer);
    }
}

impl Screen<'_> {
    fn head(&self, status: Option<&Status>, area: Rect, buffer: &mut Buffer) {
        let silence = self.watch.silence(self.now_unix_s);
        let alarm = Style::new().fg(Color::White).bg(Color::Red);
        let (text, style) = match (silence, status) {
            (Some(silence), _) => (silence, alarm),
            (None, None) => (format!("asks {}", self.watch.address), Style::new()),
            (None, Some(status)) => {
                let model = status.model.as_ref().map_or("no model", |model| &model.id);
                let up = span(status.uptime_s);
                let (ready, style) = if status.ready {
                    ("ready", Style::new().fg(Color::Black).bg(Color::Green))
                } else {
                    ("NOT ready", alarm)
                };
                let address = &self.watch.address;
                (format!("{model} at {address}: {ready}, up for {up}"), style)
            }
        };
        Paragraph::new(format!(" {text}"))
            .style(style.add_modifier(Modifier::BOLD))
            .render(area, buffer);
    }

    fn speed(&self, status: &Status, area: Rect, buffer: &mut Buffer) {
        let now = self
            .watch
            .rate
            .map_or("-".to_owned(), |rate| format!("{rate:.1}"));
        let title = format!(
            " {now} tokens/s; {} of answers, {} of prompts since the start ",
            status.generated_tokens, status.prompt_tokens
        );
        let block = Block::bordered().title(title);
        let columns = usize::from(block.inner(area).width);
        // What is older than the screen is wide is not shown.
        let skipped = self.watch.rates.len().saturating_sub(columns);
        let rates: Vec<u64> = self.watch.rates.iter().skip(skipped).copied().collect();
        let bars = match self.font {
            Font::Full => bar::NINE_LEVELS,
            Font::Console => bar::THREE_LEVELS,
        };
        Sparkline::default()
            .block(block)
            .bar_set(bars)
            .style(Style::new().fg(Color::Cyan))
            .data(rates)
            .render(area, buffer);
    }
}

fn foot_line(area: Rect, buffer: &mut Buffer) {
    Paragraph::new("q, Esc or Ctrl-C leaves; `outstation doctor` says what is wrong")
        .style(Style::new().add_modifier(Modifier::DIM))
        .render(area, buffer);
}

fn gauge_rows(status: &Status, area: Rect, buffer: &mut Buffer) {
    let rows: [Rect; 4] = Layout::vertical([Constraint::Length(1); 4]).areas(area);
    let running = format!(
        "{} of {} running, {} waiting",
        status.sequences, status.sequences_max, status.queued
    );
    let used = status.kv_blocks_used();
    let blocks = format!("{used} of {} blocks", status.kv_blocks);
    let planned = status.memory_planned_bytes;
    let memory = format!("{} of {}", resident(status), ByteSize(planned));
    let spool = status.log.as_ref();
    let spooled = spool.map_or_else(
        || "no fleet".to_owned(),
        |log| {
            format!(
                "{} of {}",
                ByteSize(log.bytes()),
                ByteSize(log.spool_bytes_max)
            )
        },
    );
    let gauges = [
        ("sequences", running, status.sequences, status.sequences_max),
        ("kv", blocks, used, status.kv_blocks),
        (
            "memory",
            memory,
            status.memory_resident_bytes.unwrap_or(0),
            planned,
        ),
        (
            "spool",
            spooled,
            spool.map_or(0, crate::status::Log::bytes),
            spool.map_or(0, |log| log.spool_bytes_max),
        ),
    ];
    for ((name, label, part, whole), row) in gauges.into_iter().zip(rows) {
        let columns = [Constraint::Length(10), Constraint::Fill(1)];
        let [left, right] = Layout::horizontal(columns).areas(row);
        Paragraph::new(name).render(left, buffer);
        let share = percent(part, whole).min(100);
        let color = if share >= 95 { Color::Red } else { Color::Blue };
        Gauge::default()
            .gauge_style(Style::new().fg(color).bg(Color::Black))
            .use_unicode(false)
            .percent(u16::try_from(share).unwrap_or(100))
            .label(label)
            .render(right, buffer);
    }
}

fn models<'a>(status: &'a Status, releases: Option<&'a Releases>) -> Vec<Row<'a>> {
    let row = |role: &'static str, name: &str, what: String| {
        Row::new([Cell::new(role), Cell::new(name.to_owned()), Cell::new(what)])
    };
    let Some(releases) = releases else {
        let model = status.model.as_ref().map_or("none", |model| &model.id);
        return vec![row("serves", model, "follows no ring".to_owned())];
    };
    let ring = format!("ring {}, rollout {}", releases.ring, releases.rollout);
    let mut rows = vec![row("serves", releases.serves(), ring)];
    if let Some(candidate) = &releases.candidate {
        rows.push(row("under way", &candidate.release, candidate.words()));
    }
    for (name, release) in &releases.adapters {
        rows.push(row("adapter", release, name.clone()));
    }
    for (release, why) in releases.rejected.iter().rev().take(2) {
        rows.push(row("rejected", release, why.clone()));
    }
    rows.truncate(MODEL_ROWS);
    if let Some(trouble) = &releases.trouble {
        rows.push(row("trouble", "", trouble.clone()));
    }
    rows
}

/// Uplink, energy and the newest errors.
fn notes(status: &Status) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let uplink = match &status.uplink {
        None => "belongs to no fleet".to_owned(),
        Some(uplink) => {
            let mut text = format!("{}: {}", uplink.factory, uplink.words());
            if let Some(trouble) = &uplink.trouble {
                let _ = write!(text, "; {trouble}");
            }
            text
        }
    };
    let trouble = status.uplink.as_ref().is_some_and(|u| u.trouble.is_some());
    let style = if trouble {
        Style::new().fg(Color::Yellow)
    } else {
        Style::new()
    };
    lines.push(Line::styled(format!("{:<10}{uplink}", "uplink"), style));
    let energy = match &status.energy {
        None => "no meter".to_owned(),
        Some(energy) => {
            let watts = energy.watts.map(|watts| format!("{watts:.1} W"));
            let watts = watts.unwrap_or_else(|| "says nothing now".to_owned());
            format!("{watts}, {:.0} J ({})", energy.joules, energy.meter)
        }
    };
    lines.push(Line::from(format!("{:<10}{energy}", "energy")));
    for error in status.last_errors.iter().rev().take(ERROR_LINES) {
        let style = match &*error.level {
            "error" => Style::new().fg(Color::Red),
            _ => Style::new().fg(Color::Yellow),
        };
        let text = format!("{:<10}{}", error.level, error.message);
        lines.push(Line::styled(text, style));
    }
    lines
}

#[cfg(test)]
mod tests;
