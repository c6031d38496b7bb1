//! Progress on stderr: appears after 250 ms, at most 30 times a second, never where stderr is no
//! terminal.

use crate::output::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// Work that ends sooner shows nothing.
const APPEARS_AFTER: Duration = Duration::from_millis(250);
/// Redraws per second.
const RATE: u8 = 30;

/// One line of progress.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    /// When to appear; `None` once it has, or where it never will.
    appears_at: Option<Instant>,
}

impl Progress {
    /// A line that `total` units of work fill (0: how much is not known). Off a terminal, and
    /// with `--quiet` or `--json`, it never shows.
    pub(crate) fn new(output: &Output, total: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = if total == 0 {
            "  {spinner} {wide_msg}"
        } else {
            // Cut off at the terminal's edge: a line that wraps cannot be taken away again.
            "  {bar:12} {wide_msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            // the template is ours: were it wrong, indicatif's own would be shown
            bar.set_style(style.progress_chars("━╸ ").tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
        }
        let shows = output.err_is_terminal() && output.is_chatty();
        Progress {
            bar,
            appears_at: shows.then(|| Instant::now() + APPEARS_AFTER),
        }
    }

    /// `done` of `total` units are done; `message` says it in words.
    pub(crate) fn update(&mut self, done: u64, total: u64, message: impl FnOnce() -> String) {
        if self.appears_at.is_some_and(|at| Instant::now() >= at) {
            self.appears_at = None;
            self.bar
                .set_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
        }
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_length(total);
        self.bar.set_position(done.min(total));
        self.bar.set_message(message());
        self.bar.tick();
    }

    /// Take the line away.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
