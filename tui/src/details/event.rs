//! An event with all its causes.

use super::Page;
use crate::figures::date_and_time;
use crate::panes::{severity_style, severity_word};

pub(super) fn tell(page: &mut Page<'_>, number: u64) -> String {
    let view = page.view;
    let Some(event) = view.state.events.get(number) else {
        page.gone("the event");
        return "Event".to_owned();
    };
    let note = &event.note;
    page.fact("at", date_and_time(&note.at));
    let style = severity_style(view, note.severity);
    let sign = view.glyphs.of_severity(note.severity);
    page.styled_fact(
        "severity",
        &format!("{sign} {}", severity_word(note.severity)),
        style,
    );
    match event.daemon.and_then(|d| view.state.daemons.get(d)) {
        Some(daemon) => page.fact("node", daemon.node.clone().unwrap_or_else(|| daemon.name())),
        None => page.fact("node", "seen from here"),
    }
    if let Some(fs) = &note.fs {
        page.fact("file system", fs.to_string());
    }
    if let Some(snapshot) = note.snapshot {
        page.fact("snapshot", snapshot.to_string());
    }
    page.head("What happened");
    page.text(&note.text, view.theme.text);
    if !note.causes.is_empty() {
        page.head("Why");
        for cause in &note.causes {
            page.text(cause, view.theme.text);
        }
    }
    "Event".to_owned()
}
