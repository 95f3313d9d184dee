//! Progress of what takes long, on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Nobody wants to see what is done by then.
const LATE: Duration = Duration::from_millis(400);

/// A bar that appears when something takes long, and goes away at the end.
pub struct Progress {
    what: &'static str,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            since: Instant::now(),
            bar: None,
        }
    }

    /// So much is done.
    pub fn at(&mut self, done: u64, all: u64) {
        if self.bar.is_none() && self.since.elapsed() >= LATE {
            let style =
                ProgressStyle::with_template("{msg} [{bar:40}] {percent:>3}% {eta:>4} left");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(all).with_message(self.what);
            bar.set_style(style.progress_chars("=> "));
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
