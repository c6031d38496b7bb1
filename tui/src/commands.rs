//! The keys: one table, from which the key bar, the help and the dispatch are made. The first line that fits a
//! key counts.

use crate::state::Pane;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The next pane.
    NextPane,
    /// The pane before.
    PreviousPane,
    /// One row down or up, or a page, or to an end.
    Move(Step),
    /// A closer look at what is selected.
    Open,
    /// Back: what lies on top, then the filter, then the zoom.
    Back,
    /// Show only what contains a text.
    Filter,
    /// Sort by the next column.
    Sort,
    /// Sort the other way round.
    Reverse,
    /// The pane alone on the screen.
    Zoom,
    /// Ask for a snapshot.
    CreateSnapshot,
    /// Withdraw a request.
    Cancel,
    /// Take up a failed request again.
    Retry,
    /// Delete a snapshot.
    Delete,
    /// Mount.
    Mount,
    /// Unmount.
    Umount,
    /// Move a slave that follows to the newest snapshot.
    Follow,
    /// Make a node the master.
    Promote,
    /// Look at the bucket again, and try lost daemons at once.
    Refresh,
    /// All keys.
    Help,
    /// Leave.
    Quit,
}

/// How far the selection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many rows; up is negative.
    Rows(i32),
    /// So many pages.
    Pages(i32),
    /// To the first row.
    First,
    /// To the last.
    Last,
}

/// Where a key works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    Everywhere,
    /// In panes with rows.
    Rows,
    /// Where a file system or one of its snapshots is selected.
    FileSystem,
    /// On a snapshot.
    Snapshot,
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// The keys that do it.
    pub keys: &'static [Key],
    /// The keys, for people.
    pub shown: &'static str,
    /// One word for the key bar; empty: it is only in the help.
    pub label: &'static str,
    /// A sentence for the help.
    pub help: &'static str,
    /// Where it works.
    pub scope: Scope,
    /// What it does.
    pub action: Action,
}

/// A key with its modifiers.
pub type Key = (KeyCode, KeyModifiers);

const fn plain(code: KeyCode) -> Key {
    (code, KeyModifiers::NONE)
}

const fn letter(c: char) -> Key {
    (KeyCode::Char(c), KeyModifiers::NONE)
}

const fn control(c: char) -> Key {
    (KeyCode::Char(c), KeyModifiers::CONTROL)
}

/// All keys, the most wanted ones first: the key bar shows as many as fit.
pub const COMMANDS: &[Command] = &[
    Command {
        keys: &[letter('?'), plain(KeyCode::F(1))],
        shown: "?",
        label: "help",
        help: "this list",
        scope: Scope::Everywhere,
        action: Action::Help,
    },
    Command {
        keys: &[letter('q'), control('c')],
        shown: "q",
        label: "quit",
        help: "leave; also Ctrl-C",
        scope: Scope::Everywhere,
        action: Action::Quit,
    },
    Command {
        keys: &[plain(KeyCode::Tab), plain(KeyCode::Right)],
        shown: "Tab",
        label: "pane",
        help: "the next pane; also Right, and 1 to 6",
        scope: Scope::Everywhere,
        action: Action::NextPane,
    },
    Command {
        keys: &[plain(KeyCode::BackTab), plain(KeyCode::Left)],
        shown: "Shift-Tab",
        label: "",
        help: "the pane before; also Left",
        scope: Scope::Everywhere,
        action: Action::PreviousPane,
    },
    Command {
        keys: &[plain(KeyCode::Enter)],
        shown: "Enter",
        label: "open",
        help: "details of what is selected",
        scope: Scope::Everywhere,
        action: Action::Open,
    },
    Command {
        keys: &[letter('s')],
        shown: "s",
        label: "snapshot",
        help: "make a snapshot of the selected file system",
        scope: Scope::FileSystem,
        action: Action::CreateSnapshot,
    },
    Command {
        keys: &[letter('c')],
        shown: "c",
        label: "cancel",
        help: "withdraw the selected request",
        scope: Scope::Snapshot,
        action: Action::Cancel,
    },
    Command {
        keys: &[letter('t')],
        shown: "t",
        label: "retry",
        help: "try a failed or cancelled request again",
        scope: Scope::Snapshot,
        action: Action::Retry,
    },
    Command {
        keys: &[letter('d'), plain(KeyCode::Delete)],
        shown: "d",
        label: "delete",
        help: "delete the selected snapshot; its name is to be typed",
        scope: Scope::Snapshot,
        action: Action::Delete,
    },
    Command {
        keys: &[letter('m')],
        shown: "m",
        label: "mount",
        help: "mount the selected file system, or snapshot read-only",
        scope: Scope::FileSystem,
        action: Action::Mount,
    },
    Command {
        keys: &[letter('u')],
        shown: "u",
        label: "umount",
        help: "unmount the selected instance",
        scope: Scope::FileSystem,
        action: Action::Umount,
    },
    Command {
        keys: &[letter('f')],
        shown: "f",
        label: "follow",
        help: "move a slave that follows to the newest snapshot now",
        scope: Scope::FileSystem,
        action: Action::Follow,
    },
    Command {
        keys: &[letter('p')],
        shown: "p",
        label: "promote",
        help: "make the selected node the master; shows what may be lost first",
        scope: Scope::FileSystem,
        action: Action::Promote,
    },
    Command {
        keys: &[letter('/')],
        shown: "/",
        label: "filter",
        help: "show only rows that contain a text; Esc shows all again",
        scope: Scope::Rows,
        action: Action::Filter,
    },
    Command {
        keys: &[letter('o')],
        shown: "o",
        label: "sort",
        help: "sort by the next column",
        scope: Scope::Rows,
        action: Action::Sort,
    },
    Command {
        keys: &[letter('O')],
        shown: "O",
        label: "",
        help: "sort the other way round",
        scope: Scope::Rows,
        action: Action::Reverse,
    },
    Command {
        keys: &[letter('z')],
        shown: "z",
        label: "zoom",
        help: "this pane alone, or all panes again",
        scope: Scope::Everywhere,
        action: Action::Zoom,
    },
    Command {
        keys: &[letter('r'), plain(KeyCode::F(5))],
        shown: "r",
        label: "refresh",
        help: "look at the bucket again; try lost daemons at once",
        scope: Scope::Everywhere,
        action: Action::Refresh,
    },
    Command {
        keys: &[plain(KeyCode::Esc), plain(KeyCode::Backspace)],
        shown: "Esc",
        label: "",
        help: "back: close what lies on top, drop the filter, end the zoom",
        scope: Scope::Everywhere,
        action: Action::Back,
    },
    Command {
        keys: &[plain(KeyCode::Down), letter('j')],
        shown: "Down",
        label: "",
        help: "one row down; also j",
        scope: Scope::Rows,
        action: Action::Move(Step::Rows(1)),
    },
    Command {
        keys: &[plain(KeyCode::Up), letter('k')],
        shown: "Up",
        label: "",
        help: "one row up; also k",
        scope: Scope::Rows,
        action: Action::Move(Step::Rows(-1)),
    },
    Command {
        keys: &[plain(KeyCode::PageDown), letter(' ')],
        shown: "PgDn",
        label: "",
        help: "a page down; also Space",
        scope: Scope::Rows,
        action: Action::Move(Step::Pages(1)),
    },
    Command {
        keys: &[plain(KeyCode::PageUp)],
        shown: "PgUp",
        label: "",
        help: "a page up",
        scope: Scope::Rows,
        action: Action::Move(Step::Pages(-1)),
    },
    Command {
        keys: &[plain(KeyCode::Home), letter('g')],
        shown: "Home",
        label: "",
        help: "to the first row, and stay there; also g",
        scope: Scope::Rows,
        action: Action::Move(Step::First),
    },
    Command {
        keys: &[plain(KeyCode::End), letter('G')],
        shown: "End",
        label: "",
        help: "to the last row; also G",
        scope: Scope::Rows,
        action: Action::Move(Step::Last),
    },
];

impl Command {
    /// Whether the key bar shows it in this pane.
    pub fn is_offered_in(&self, pane: Pane) -> bool {
        match self.scope {
            Scope::Everywhere => true,
            Scope::Rows => pane.has_rows(),
            Scope::FileSystem => matches!(pane, Pane::FileSystems | Pane::Snapshots),
            Scope::Snapshot => pane == Pane::Snapshots,
        }
    }
}

/// What a key does. (Shift is in the character itself.)
pub fn action_of(key: KeyEvent) -> Option<Action> {
    let modifiers = key.modifiers - KeyModifiers::SHIFT;
    let found = COMMANDS
        .iter()
        .find(|c| c.keys.contains(&(key.code, modifiers)));
    found.map(|c| c.action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_key_does_two_things() {
        let keys: Vec<String> = COMMANDS
            .iter()
            .flat_map(|c| c.keys)
            .map(|k| format!("{k:?}"))
            .collect();
        let different: BTreeSet<&String> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
    }

    #[test]
    fn every_key_has_words() {
        for command in COMMANDS {
            assert!(!command.help.is_empty() && !command.shown.is_empty());
            assert!(command.label.len() <= 8, "{}", command.label);
        }
    }

    #[test]
    fn keys_mean_actions() {
        let key = |code, modifiers| action_of(KeyEvent::new(code, modifiers));
        let quit = Some(Action::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), quit);
        assert_eq!(
            key(KeyCode::Char('O'), KeyModifiers::SHIFT),
            Some(Action::Reverse)
        );
        assert_eq!(key(KeyCode::Char('x'), KeyModifiers::ALT), None);
    }
}
