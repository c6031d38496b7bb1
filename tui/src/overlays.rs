//! What lies on top of the panes: help and questions; and the last line, with the keys.

use crate::commands::COMMANDS;
use crate::dialog::Dialog;
use crate::figures::{printable, width, wrap};
use crate::panes;
use crate::state::{Overlay, Pane};
use crate::view::View;
use cbfs_core::api::Severity;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Clear;

/// A box of at most this size in the middle.
fn centred(frame: &Frame<'_>, width: u16, height: u16) -> Rect {
    let all = frame.area();
    let (width, height) = (width.min(all.width), height.min(all.height));
    Rect::new(
        (all.width - width) / 2,
        (all.height - height) / 2,
        width,
        height,
    )
}

/// A cleared box with lines that can be scrolled.
pub(crate) fn text_box(
    frame: &mut Frame<'_>,
    view: View<'_>,
    area: Rect,
    title: &str,
    lines: Vec<Line<'static>>,
    scroll: u16,
) {
    frame.render_widget(Clear, area);
    let inside = usize::from(area.height.saturating_sub(2));
    let last = lines.len().saturating_sub(inside);
    let first = usize::from(scroll).min(last);
    let note = if last == 0 {
        "Esc".to_owned()
    } else {
        let shown = (first + inside).min(lines.len());
        format!("{shown}/{} Esc", lines.len())
    };
    let joined = crate::glyphs::Glyphs {
        joins: false,
        ..*view.glyphs
    };
    let view = View {
        glyphs: &joined,
        ..view
    };
    let inner = view.frame(frame, area, title, &note, true);
    view.lines(
        frame,
        inner,
        lines.into_iter().skip(first).take(inside).collect(),
    );
}

/// All keys.
pub(crate) fn help(frame: &mut Frame<'_>, view: View<'_>, scroll: u16) {
    let area = centred(
        frame,
        76,
        u16::try_from(COMMANDS.len() + 2).unwrap_or(u16::MAX),
    );
    let columns = usize::from(area.width.saturating_sub(13));
    let mut lines = Vec::new();
    for command in COMMANDS {
        for (n, text) in wrap(command.help, columns).into_iter().enumerate() {
            let key = if n == 0 { command.shown } else { "" };
            lines.push(Line::from(vec![
                Span::styled(format!(" {} ", view.fit(key, 9)), view.theme.key),
                Span::raw(text),
            ]));
        }
    }
    text_box(frame, view, area, "Keys", lines, scroll);
}

/// A question.
pub(crate) fn dialog(frame: &mut Frame<'_>, view: View<'_>, dialog: &Dialog) {
    let columns = 68.min(frame.area().width);
    let inside = usize::from(columns.saturating_sub(4));
    let mut lines = vec![Line::default()];
    for text in &dialog.text {
        for line in wrap(&printable(text), inside) {
            lines.push(Line::from(format!(" {line}")));
        }
    }
    lines.push(Line::default());
    for (n, field) in dialog.fields.iter().enumerate() {
        let focused = n == dialog.focus;
        let style = if focused {
            view.theme.focus
        } else {
            view.theme.dim
        };
        let mark = if focused { view.glyphs.selected } else { " " };
        lines.push(Line::from(Span::styled(
            format!("{mark}{}:", view.cut(&printable(&field.label), inside)),
            style,
        )));
        // The end of a long answer is what is being typed.
        let value = printable(&field.value);
        let mut shown: String = value.chars().rev().take(inside.saturating_sub(3)).collect();
        shown = shown.chars().rev().collect();
        let cursor = if focused { "_" } else { "" };
        lines.push(Line::from(format!("  {shown}{cursor}")));
    }
    lines.push(Line::default());
    if let Some(refusal) = &dialog.refusal {
        for line in wrap(&printable(refusal), inside) {
            let text = format!(" {} {line}", view.glyphs.failed);
            lines.push(Line::from(Span::styled(text, view.theme.bad)));
        }
    } else {
        let keys = if dialog.fields.len() > 1 {
            " Enter go on  Tab next field  Esc leave it"
        } else {
            " Enter go on  Esc leave it"
        };
        lines.push(Line::from(Span::styled(keys.to_owned(), view.theme.dim)));
    }
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    let area = centred(frame, columns, height);
    // What does not fit is the explanation, not the field.
    let scroll = height.saturating_sub(area.height);
    let title = if dialog.destructive {
        format!("{} {}", view.glyphs.warning, dialog.title)
    } else {
        dialog.title.clone()
    };
    text_box(frame, view, area, &title, lines, scroll);
}

/// The last line: the filter being typed, a word about the last action, or the keys.
pub(crate) fn bottom_line(view: View<'_>, columns: u16) -> Line<'static> {
    let columns = usize::from(columns);
    let state = view.state;
    if matches!(state.overlay, Some(Overlay::Filter)) {
        let text = format!(
            "filter: {}_   Enter keeps it, Esc shows all",
            printable(state.filter(state.focus))
        );
        return Line::from(Span::styled(view.cut(&text, columns), view.theme.focus));
    }
    if let Some(notice) = state.notice.as_ref().filter(|_| state.overlay.is_none()) {
        let (sign, style) = match notice.severity {
            Severity::Info => (view.glyphs.done, view.theme.ok),
            severity => (
                view.glyphs.of_severity(severity),
                panes::severity_style(view, severity),
            ),
        };
        let text = format!("{sign} {}", printable(&notice.text));
        return Line::from(Span::styled(view.cut(&text, columns), style));
    }
    match state.overlay {
        Some(Overlay::Help { .. } | Overlay::Detail { .. }) => {
            let text = "Esc back  Up Down PgUp PgDn scroll";
            Line::from(Span::styled(view.cut(text, columns), view.theme.dim))
        }
        Some(Overlay::Dialog(_)) => Line::default(),
        _ => key_bar(view, state.focus, columns),
    }
}

fn key_bar(view: View<'_>, pane: Pane, columns: usize) -> Line<'static> {
    let mut spans = Vec::new();
    let mut used = 0;
    let offered = COMMANDS
        .iter()
        .filter(|c| !c.label.is_empty() && c.is_offered_in(pane));
    for command in offered {
        let text = width(command.shown) + 1 + width(command.label) + 2;
        if used + text > columns + 2 {
            break;
        }
        used += text;
        spans.push(Span::styled(command.shown, view.theme.key));
        spans.push(Span::styled(
            format!(" {}  ", command.label),
            view.theme.dim,
        ));
    }
    Line::from(spans)
}
