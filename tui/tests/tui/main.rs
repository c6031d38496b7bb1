//! The TUI without a terminal and without a daemon: screens as a function of the state, keys and news as pure
//! updates, and a long stream of events. (With both: `tests/tests/tui.rs` of the workspace.)

// Fixtures have nobody to report to but the test that uses them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod acting;
mod fixtures;
mod news;
mod screens;
mod soak;
