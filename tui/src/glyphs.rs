//! The signs that stand for states, and what frames and bars are drawn with: Unicode, or ASCII where the
//! terminal has nothing else. A sign never stands alone: the word is beside it.

use cbfs_core::api::{Health, Severity};
use cbfs_core::snapshot::SnapshotState;
use ratatui::symbols::border;

/// One set of signs; each takes one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glyphs {
    /// All is well, done.
    pub done: &'static str,
    /// At work.
    pub running: &'static str,
    /// Waits.
    pub waiting: &'static str,
    /// Failed.
    pub failed: &'static str,
    /// Needs attention.
    pub warning: &'static str,
    /// Fenced, cancelled.
    pub barred: &'static str,
    /// A live connection, a present master.
    pub live: &'static str,
    /// A lost connection, a former master.
    pub dead: &'static str,
    /// The selected row.
    pub selected: &'static str,
    /// Between steps.
    pub step: &'static str,
    /// At the cut of a text.
    pub ellipsis: &'static str,
    /// Between parts of a line.
    pub separator: &'static str,
    /// Held.
    pub held: &'static str,
    /// Sorted upwards, downwards.
    pub sorted: [&'static str; 2],
    /// The full part of a bar, and the rest.
    pub bar: [&'static str; 2],
    /// Levels of a sparkline, from nothing on.
    pub levels: [&'static str; 9],
    /// Frames.
    pub border: border::Set<'static>,
    /// Whether neighbours' frames can be joined.
    pub joins: bool,
}

/// For terminals with a UTF-8 locale.
pub const UNICODE: Glyphs = Glyphs {
    done: "✔",
    running: "▶",
    waiting: "◦",
    failed: "✖",
    warning: "⚠",
    barred: "⊘",
    live: "●",
    dead: "○",
    selected: "▸",
    step: "›",
    ellipsis: "…",
    separator: "·",
    held: "⚑",
    sorted: ["▲", "▼"],
    bar: ["█", "░"],
    levels: [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    border: border::PLAIN,
    joins: true,
};

/// For all others.
pub const ASCII: Glyphs = Glyphs {
    done: "+",
    running: ">",
    waiting: ".",
    failed: "x",
    warning: "!",
    barred: "#",
    live: "*",
    dead: "o",
    selected: ">",
    step: ">",
    ellipsis: "~",
    separator: "-",
    held: "H",
    sorted: ["^", "v"],
    bar: ["#", "."],
    levels: [" ", ".", ".", ":", ":", "+", "+", "#", "#"],
    border: border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    },
    joins: false,
};

impl Glyphs {
    /// Of a snapshot's state.
    pub fn of_snapshot(&self, state: SnapshotState) -> &'static str {
        match state {
            SnapshotState::Queued => self.waiting,
            SnapshotState::Collected
            | SnapshotState::Writing
            | SnapshotState::Written
            | SnapshotState::Copying => self.running,
            SnapshotState::Complete => self.done,
            SnapshotState::Failed => self.failed,
            SnapshotState::Cancelled => self.barred,
        }
    }

    /// Of an instance's health.
    pub fn of_health(&self, health: Health) -> &'static str {
        match health {
            Health::Ok => self.done,
            Health::Degraded => self.warning,
            Health::Fenced => self.barred,
            Health::Poisoned => self.failed,
        }
    }

    /// Of a note's severity.
    pub fn of_severity(&self, severity: Severity) -> &'static str {
        match severity {
            Severity::Info => self.separator,
            Severity::Warning => self.warning,
            Severity::Error => self.failed,
        }
    }
}

/// The health in a word.
pub fn health_word(health: Health) -> &'static str {
    match health {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Fenced => "fenced",
        Health::Poisoned => "poisoned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::width;

    #[test]
    fn every_sign_takes_one_column() {
        for g in [UNICODE, ASCII] {
            let mut all = vec![
                g.done,
                g.running,
                g.waiting,
                g.failed,
                g.warning,
                g.barred,
                g.live,
                g.dead,
                g.selected,
                g.step,
                g.ellipsis,
                g.separator,
                g.held,
            ];
            all.extend(g.sorted.iter().chain(&g.bar).chain(&g.levels));
            for sign in all {
                assert_eq!(width(sign), 1, "{sign}");
            }
        }
        let ascii = [
            ASCII.done,
            ASCII.failed,
            ASCII.ellipsis,
            ASCII.border.top_left,
        ];
        assert!(ascii.iter().all(|s| s.is_ascii()));
    }
}
