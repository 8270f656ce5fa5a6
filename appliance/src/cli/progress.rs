//! Bars for what takes longer than two seconds, where a person watches.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that shows itself once the work has lasted two seconds and stderr is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
    label: &'static str,
}

impl Progress {
    pub(super) fn new(label: &'static str, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta}");
        bar.set_style(style.expect("a constant template"));
        Self {
            bar,
            started: Instant::now(),
            shown: false,
            label,
        }
    }

    pub(super) fn set(&mut self, done: u64, total: u64) {
        if !self.shown && self.started.elapsed() > Duration::from_secs(2) {
            self.shown = true;
            self.bar.set_message(self.label);
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
