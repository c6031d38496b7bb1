//! Closer looks, one file each: facts in two columns, then what there is to read.

mod cache;
mod epochs;
mod event;
mod instance;
mod snapshot;

use crate::figures::{printable, wrap};
use crate::layout;
use crate::overlays::text_box;
use crate::state::DetailOf;
use crate::view::View;
use ratatui::Frame;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Columns of the names of facts.
const NAMES: usize = 14;

pub(crate) fn draw(frame: &mut Frame<'_>, view: View<'_>, of: &DetailOf, scroll: u16) {
    let area = layout::body(view.state.size).intersection(frame.area());
    if area.height < 3 || area.width < 20 {
        return;
    }
    let mut page = Page {
        view,
        columns: usize::from(area.width - 3),
        lines: Vec::new(),
    };
    let title = match of {
        DetailOf::Instance(key) => instance::tell(&mut page, key),
        DetailOf::Cache(key) => cache::tell(&mut page, key),
        DetailOf::Snapshot(daemon, fs, id) => snapshot::tell(&mut page, *daemon, fs, *id),
        DetailOf::Epochs(key) => epochs::tell(&mut page, key),
        DetailOf::Event(number) => event::tell(&mut page, *number),
    };
    text_box(frame, view, area, &title, page.lines, scroll);
}

/// Lines that are being written.
struct Page<'a> {
    view: View<'a>,
    columns: usize,
    lines: Vec<Line<'static>>,
}

impl Page<'_> {
    /// A fact.
    fn fact(&mut self, name: &str, value: impl AsRef<str>) {
        let style = self.view.theme.text;
        self.styled_fact(name, value.as_ref(), style);
    }

    /// A fact in a colour.
    fn styled_fact(&mut self, name: &str, value: &str, style: Style) {
        let room = self.columns.saturating_sub(NAMES + 1).max(10);
        for (n, line) in wrap(&printable(value), room).into_iter().enumerate() {
            let name = if n == 0 { name } else { "" };
            self.lines.push(Line::from(vec![
                Span::styled(
                    format!(" {}", self.view.fit(name, NAMES)),
                    self.view.theme.dim,
                ),
                Span::styled(line, style),
            ]));
        }
    }

    /// A line between parts.
    fn head(&mut self, text: &str) {
        self.lines.push(Line::default());
        self.lines.push(Line::from(Span::styled(
            format!(" {text}"),
            self.view.theme.title,
        )));
    }

    /// A text over the whole width.
    fn text(&mut self, text: &str, style: Style) {
        for line in wrap(&printable(text), self.columns.saturating_sub(1)) {
            self.lines
                .push(Line::from(Span::styled(format!(" {line}"), style)));
        }
    }

    /// It is not there any more.
    fn gone(&mut self, what: &str) {
        let text = format!("{what} is not there any more");
        let style = self.view.theme.dim;
        self.text(&text, style);
    }
}
