//! The panes, one file each.

mod cache;
mod epochs;
mod events;
mod file_systems;
pub(crate) mod header;
pub(crate) mod snapshots;
mod throughput;

pub(crate) use cache::waiting;
pub(crate) use epochs::start;
pub(crate) use events::{severity_style, severity_word};
pub(crate) use file_systems::health_style;

use crate::state::Pane;
use crate::view::View;
use ratatui::Frame;
use ratatui::layout::Rect;

pub(crate) fn draw(frame: &mut Frame<'_>, view: View<'_>, pane: Pane, area: Rect) {
    if area.width < 3 || area.height < 3 {
        return;
    }
    match pane {
        Pane::FileSystems => file_systems::draw(frame, view, area),
        Pane::Snapshots => snapshots::draw(frame, view, area),
        Pane::Cache => cache::draw(frame, view, area),
        Pane::Throughput => throughput::draw(frame, view, area),
        Pane::Epochs => epochs::draw(frame, view, area),
        Pane::Events => events::draw(frame, view, area),
    }
}

/// What a title says of a filter.
fn filtered(view: View<'_>, pane: Pane) -> String {
    match view.state.filter(pane) {
        "" => String::new(),
        filter => format!("/{filter}"),
    }
}
