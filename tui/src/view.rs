//! The screen, as a function of the state.

use crate::figures::{self, cut, fit, fit_right};
use crate::glyphs::Glyphs;
use crate::layout;
use crate::state::{Overlay, Pane, State};
use crate::theme::Theme;
use crate::{details, overlays, panes};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::symbols::merge::MergeStrategy;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

/// How everything looks.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Colours.
    pub theme: Theme,
    /// Signs.
    pub glyphs: Glyphs,
}

/// What a part of the screen is drawn from.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) state: &'a State,
    pub(crate) theme: &'a Theme,
    pub(crate) glyphs: &'a Glyphs,
}

/// Draw all of it.
pub fn draw(frame: &mut Frame<'_>, state: &State, look: &Look) {
    let view = View {
        state,
        theme: &look.theme,
        glyphs: &look.glyphs,
    };
    let size = frame.area();
    if size.width == 0 || size.height == 0 {
        return;
    }
    let top = Rect { height: 1, ..size };
    frame.render_widget(Paragraph::new(panes::header::line(view, size.width)), top);
    let all = layout::panes(state);
    // The one with the keys last: its frame is not painted over.
    for focused in [false, true] {
        for (pane, area) in &all {
            if (*pane == state.focus) == focused {
                panes::draw(frame, view, *pane, *area);
            }
        }
    }
    if size.height > 1 {
        let bottom = Rect {
            y: size.height - 1,
            height: 1,
            ..size
        };
        frame.render_widget(
            Paragraph::new(overlays::bottom_line(view, size.width)),
            bottom,
        );
    }
    match &state.overlay {
        None | Some(Overlay::Filter) => {}
        Some(Overlay::Help { scroll }) => overlays::help(frame, view, *scroll),
        Some(Overlay::Detail { of, scroll }) => details::draw(frame, view, of, *scroll),
        Some(Overlay::Dialog(dialog)) => overlays::dialog(frame, view, dialog),
    }
}

impl<'a> View<'a> {
    /// A frame with titles at its left and right; its inside.
    pub(crate) fn frame(
        self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        note: &str,
        focused: bool,
    ) -> Rect {
        let (border, style) = if focused {
            (self.theme.focus, self.theme.focus)
        } else {
            (self.theme.border, self.theme.title)
        };
        let room = usize::from(area.width.saturating_sub(4));
        let title = cut(title, room, self.glyphs.ellipsis);
        let left = room.saturating_sub(figures::width(&title) + 1);
        let mut block = Block::bordered()
            .border_set(self.glyphs.border)
            .border_style(border)
            .title_top(Line::from(Span::styled(title, style)));
        if !note.is_empty() && left > 3 {
            let note = Span::styled(cut(note, left, self.glyphs.ellipsis), self.theme.dim);
            block = block.title_top(Line::from(note).right_aligned());
        }
        if self.glyphs.joins {
            block = block.merge_borders(MergeStrategy::Exact);
        }
        let inner = block.inner(area);
        frame.render_widget(block, area);
        inner
    }

    /// Lines from the top of an area.
    pub(crate) fn lines(self, frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
        frame.render_widget(Paragraph::new(lines), area);
    }

    /// A word in the middle of nothing.
    pub(crate) fn empty(self, text: &str, width: u16) -> Vec<Line<'static>> {
        let lines = figures::wrap(text, usize::from(width.saturating_sub(2)));
        let styled = |l| Line::from(Span::styled(format!(" {l}"), self.theme.dim));
        lines.into_iter().map(styled).collect()
    }

    /// The text in exactly so many columns.
    pub(crate) fn fit(self, text: &str, columns: usize) -> String {
        fit(text, columns, self.glyphs.ellipsis)
    }

    /// As [`View::fit`], at the right end.
    pub(crate) fn fit_right(self, text: &str, columns: usize) -> String {
        fit_right(text, columns, self.glyphs.ellipsis)
    }

    /// The text in at most so many columns.
    pub(crate) fn cut(self, text: &str, columns: usize) -> String {
        cut(text, columns, self.glyphs.ellipsis)
    }

    /// The mark in front of a row, and the style of a selected one.
    pub(crate) fn mark(self, selected: bool, pane: Pane) -> (&'static str, Option<Style>) {
        if !selected {
            return (" ", None);
        }
        let focused = self.state.focus == pane;
        let style = if focused {
            self.theme.selected
        } else {
            self.theme.marked
        };
        (self.glyphs.selected, Some(style))
    }

    /// A row of spans; a selected one in one style over its whole width.
    pub(crate) fn row(
        self,
        spans: Vec<Span<'static>>,
        selected: Option<Style>,
        width: u16,
    ) -> Line<'static> {
        let Some(style) = selected else {
            return Line::from(spans);
        };
        let text: String = spans.iter().map(|s| s.content.as_ref()).collect();
        Line::from(Span::styled(self.fit(&text, usize::from(width)), style))
    }

    /// A bar of `width` columns, `part` of it full.
    pub(crate) fn bar(self, part: f64, width: usize) -> (String, String) {
        let part = if part.is_finite() {
            part.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let full = (part * width as f64).round() as usize;
        let [on, off] = self.glyphs.bar;
        (on.repeat(full), off.repeat(width - full))
    }

    /// A sparkline of the last rates, right-aligned in `width` columns.
    pub(crate) fn sparkline(self, rates: &[u64], width: usize) -> String {
        let rates = &rates[rates.len().saturating_sub(width)..];
        let top = rates.iter().copied().max().unwrap_or(0).max(1);
        let levels = self.glyphs.levels;
        let signs: String = rates
            .iter()
            .map(|rate| {
                // Something is never drawn as nothing.
                let level = (rate * 8).div_ceil(top).min(8) as usize;
                levels[level]
            })
            .collect();
        fit_right(&signs, width, "")
    }
}
