//! The words of the demo: numbered steps with their times.

use crate::output::{Outcome, Output, Style};
use crate::quantities;
use serde::Serialize;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// A step as `--json` tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Step {
    step: usize,
    what: String,
    seconds: f64,
}

/// Tells the story on stdout; with `--json` it keeps it for the end, with `--quiet` to itself.
pub(super) struct Narrator<'a> {
    /// The streams.
    pub(super) output: &'a mut Output,
    steps: Vec<Step>,
    started: Instant,
    step_started: Instant,
}

impl<'a> Narrator<'a> {
    /// A narrator; the clock of the first step runs.
    pub(super) fn new(output: &'a mut Output) -> Narrator<'a> {
        let now = Instant::now();
        Narrator {
            output,
            steps: Vec::new(),
            started: now,
            step_started: now,
        }
    }

    /// The style of what is told.
    pub(super) fn style(&self) -> Style {
        self.output.style()
    }

    /// Time since the last step.
    pub(super) fn elapsed(&self) -> Duration {
        self.step_started.elapsed()
    }

    /// Something beside the steps.
    pub(super) fn say(&mut self, text: impl Display) -> Outcome {
        if self.output.is_chatty() {
            self.output.line(text)
        } else {
            Ok(())
        }
    }

    /// A step is done, `took` long; the clock of the next one runs.
    pub(super) fn done_in(&mut self, took: Duration, what: impl Into<String>) -> Outcome {
        let (what, step) = (what.into(), self.steps.len() + 1);
        let line = step_line(self.style(), step, &what, took);
        self.steps.push(Step {
            step,
            what,
            seconds: took.as_secs_f64(),
        });
        self.step_started = Instant::now();
        self.say(line)
    }

    /// A step is done, since the one before.
    pub(super) fn done(&mut self, what: impl Into<String>) -> Outcome {
        self.done_in(self.elapsed(), what)
    }

    /// A detail of the step just told.
    pub(super) fn detail(&mut self, text: impl Display) -> Outcome {
        let line = self.style().dim(format_args!("      {text}"));
        self.say(line)
    }

    /// The steps, for `--json`, and the time since the beginning.
    pub(super) fn into_steps(self) -> (Vec<Step>, Duration) {
        (self.steps, self.started.elapsed())
    }

    /// Time since the beginning.
    pub(super) fn total(&self) -> Duration {
        self.started.elapsed()
    }
}

fn step_line(style: Style, step: usize, what: &str, took: Duration) -> String {
    let time = style.dim(format_args!("({})", quantities::duration(took)));
    format!("{} {step:>2}  {what} {time}", style.good("✔"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_number_words_and_time() {
        let line = step_line(
            Style::PLAIN,
            3,
            "copied 12 files",
            Duration::from_millis(4120),
        );
        assert_eq!(line, "✔  3  copied 12 files (4.12 s)");
    }
}
