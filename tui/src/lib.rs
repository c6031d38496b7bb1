//! The live view of one or more daemons in a terminal: `cbfsctl tui` and `cbfs-tui`.
//!
//! Three parts that know little of each other. **Workers** ([`workers`]) talk to daemons and buckets on threads of
//! their own and send [`message::Message`]s. [`update::update`] is the one place where the [`state::State`] changes;
//! it is pure and answers [`message::Effect`]s for the workers. [`view::draw`] makes the screen from the state.
//! So nothing that is shown ever waits for a daemon, and each screen and each key can be tested without one.
//!
//! Everything that grows has a bound (see [`history`] and [`state`]); only rows that are on the screen are built.

pub mod arguments;
pub mod bucket_view;
pub mod commands;
mod details;
pub mod dialog;
pub mod figures;
pub mod glyphs;
pub mod history;
pub mod layout;
pub mod message;
mod overlays;
mod panes;
pub mod snapshot_rows;
pub mod state;
mod terminal;
pub mod theme;
pub mod update;
pub mod view;
mod workers;

pub use arguments::Arguments;
pub use terminal::run;
