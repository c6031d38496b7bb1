//! Rates of the selected instance, each as a sparkline of the last minutes.

use crate::figures::{bytes, count};
use crate::history::Series;
use crate::state::{Pane, Watched};
use crate::view::View;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

/// Name, rates, and whether they are bytes.
type Rate = (&'static str, fn(&Watched) -> &Series, bool);

/// The first ones are shown where there is little room.
const RATES: [Rate; 7] = [
    ("read", |w| &w.read, true),
    ("write", |w| &w.written, true),
    ("changes", |w| &w.changes, false),
    ("sent", |w| &w.sent, true),
    ("received", |w| &w.received, true),
    ("PUT", |w| &w.puts, false),
    ("GET", |w| &w.gets, false),
];

pub(super) fn draw(frame: &mut Frame<'_>, view: View<'_>, area: Rect) {
    let pane = Pane::Throughput;
    let inner = view.frame(frame, area, "Throughput", "", view.state.focus == pane);
    let Some((_, watched)) = view.state.selected_instance() else {
        return;
    };
    let width = usize::from(inner.width);
    let spark = width.saturating_sub(1 + 9 + 1 + 7 + 1);
    let rates = RATES.iter().take(usize::from(inner.height));
    let lines = rates.map(|(name, series, is_bytes)| {
        let series = series(watched);
        let now = if *is_bytes {
            format!("{}/s", bytes(series.now()))
        } else {
            format!("{}/s", count(series.now()))
        };
        Line::from(vec![
            Span::styled(format!(" {}", view.fit(name, 9)), view.theme.dim),
            Span::styled(view.sparkline(&series.last(spark), spark), view.theme.gauge),
            Span::raw(format!(" {}", view.fit_right(&now, 8))),
        ])
    });
    view.lines(frame, inner, lines.collect());
}
