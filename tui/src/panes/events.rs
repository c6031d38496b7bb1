//! What happened, newest first.

use super::filtered;
use crate::figures::{printable, short_time_or_date, time_or_date};
use crate::layout::{first_row, rows_in};
use crate::state::{EventLine, Pane};
use crate::view::View;
use cbfs_core::api::Severity;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

pub(super) fn draw(frame: &mut Frame<'_>, view: View<'_>, area: Rect) {
    let pane = Pane::Events;
    let state = view.state;
    let note = filtered(view, pane);
    let inner = view.frame(frame, area, "Events", &note, state.focus == pane);
    let height = rows_in(pane, area);
    // Only the rows shown are looked at, and with a filter those before them.
    let selected = match state.event.key {
        None => 0,
        Some(key) => state
            .filtered_events()
            .take_while(|(n, _)| *n > key)
            .count(),
    };
    let first = first_row(selected, state.events.len(), height);
    let rows = state.filtered_events().enumerate().skip(first).take(height);
    let lines: Vec<Line<'_>> = rows
        .map(|(n, (_, event))| row(view, event, n == selected, inner.width))
        .collect();
    if lines.is_empty() {
        let text = match state.filter(pane) {
            "" => "nothing happened yet",
            _ => "nothing fits the filter; Esc shows all",
        };
        view.lines(frame, inner, view.empty(text, inner.width));
        return;
    }
    view.lines(frame, inner, lines);
}

/// Severity in a word of at most five letters.
pub(crate) fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warn",
        Severity::Error => "error",
    }
}

/// Its colour.
pub(crate) fn severity_style(view: View<'_>, severity: Severity) -> Style {
    match severity {
        Severity::Info => view.theme.dim,
        Severity::Warning => view.theme.warning,
        Severity::Error => view.theme.bad,
    }
}

fn row(view: View<'_>, event: &EventLine, selected: bool, columns: u16) -> Line<'static> {
    let note = &event.note;
    let (mark, style) = view.mark(selected && view.state.focus == Pane::Events, Pane::Events);
    let severity = severity_style(view, note.severity);
    let tag = note
        .fs
        .as_ref()
        .map(|fs| fs.tag.clone())
        .unwrap_or_default();
    let mut text = printable(&note.text);
    for cause in &note.causes {
        text = format!("{text}: {}", printable(cause));
    }
    let narrow = columns < 60;
    let (time, time_width) = if narrow {
        (short_time_or_date(&note.at, view.state.now), 8)
    } else {
        (time_or_date(&note.at, view.state.now), 10)
    };
    let sign = view.glyphs.of_severity(note.severity);
    let word = severity_word(note.severity);
    let mut spans = vec![
        Span::raw(mark),
        Span::styled(view.fit(&time, time_width), view.theme.dim),
        Span::styled(format!(" {sign} {} ", view.fit(word, 5)), severity),
    ];
    let mut used = 1 + time_width + 3 + 6;
    if view.state.daemons.len() > 1 {
        let node = event
            .daemon
            .and_then(|d| view.state.daemons.get(d))
            .map(|d| d.name());
        spans.push(Span::styled(
            format!("{} ", view.fit(&node.unwrap_or_default(), 8)),
            view.theme.dim,
        ));
        used += 9;
    }
    if !narrow {
        spans.push(Span::raw(format!("{} ", view.fit(&tag, 8))));
        used += 9;
    }
    let room = usize::from(columns).saturating_sub(used);
    spans.push(Span::raw(view.cut(&text, room)));
    view.row(spans, style, columns)
}
