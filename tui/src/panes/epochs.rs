//! Epochs of the selected file system, the present one first.

use crate::bucket_view::EpochView;
use crate::figures::{date_and_time, printable};
use crate::layout::{first_row, rows_in};
use crate::state::Pane;
use crate::view::View;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

pub(super) fn draw(frame: &mut Frame<'_>, view: View<'_>, area: Rect) {
    let pane = Pane::Epochs;
    let state = view.state;
    let title = match state.selected_instance() {
        Some((_, watched)) => format!("Epochs: {}", watched.info.fs.tag),
        None => "Epochs".to_owned(),
    };
    let inner = view.frame(frame, area, &title, "", state.focus == pane);
    let Some(look) = state.selected_look() else {
        return;
    };
    let epochs = &look.view.epochs;
    if epochs.is_empty() {
        let text = match (&look.error, look.ended) {
            (Some(error), _) => format!(
                "the bucket cannot be read from here: {}",
                printable(&error.message)
            ),
            (None, None) => "looking at the bucket".to_owned(),
            (None, Some(_)) => "it was never mounted".to_owned(),
        };
        view.lines(frame, inner, view.empty(&text, inner.width));
        return;
    }
    let height = rows_in(pane, area);
    let selected = state.epoch.min(epochs.len() - 1);
    let first = first_row(selected, epochs.len(), height);
    let newest_first = epochs.iter().rev().enumerate().skip(first).take(height);
    let lines = newest_first.map(|(n, epoch)| row(view, epoch, n == 0, n == selected, inner.width));
    view.lines(frame, inner, lines.collect());
}

fn row(
    view: View<'_>,
    epoch: &EpochView,
    present: bool,
    selected: bool,
    columns: u16,
) -> Line<'static> {
    let (mark, style) = view.mark(selected && view.state.focus == Pane::Epochs, Pane::Epochs);
    let claim = &epoch.claim;
    let (sign, word, word_style) = if present {
        (view.glyphs.live, "master", view.theme.ok)
    } else {
        (view.glyphs.dead, "former", view.theme.dim)
    };
    let since = date_and_time(&claim.claimed_at);
    let (host, since) = if columns < 60 {
        (8, since.get(..10).unwrap_or(&since).to_owned())
    } else {
        (16, since)
    };
    let spans = vec![
        Span::raw(mark),
        Span::raw(view.fit_right(&claim.epoch.to_string(), 4)),
        Span::styled(format!(" {sign} {word} "), word_style),
        Span::raw(view.fit(&printable(&claim.host), host)),
        Span::styled(format!(" {since}  "), view.theme.dim),
        Span::styled(start(epoch), view.theme.dim),
    ];
    view.row(spans, style, columns)
}

/// How it began.
pub(crate) fn start(epoch: &EpochView) -> String {
    match epoch.base {
        Some(base) => format!(
            "promoted from snapshot {} of epoch {}",
            base.number, base.epoch
        ),
        None if epoch.claim.epoch.0 == 1 => "the first".to_owned(),
        None => "promoted; its base is not written yet".to_owned(),
    }
}
