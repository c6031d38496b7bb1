//! The first line: which daemons, whether they answer, and what is selected.

use crate::figures::{span, width};
use crate::state::{Daemon, Link};
use crate::view::View;
use cbfs_core::api::Role;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// A daemon that was not heard of for so long is told to be slow, in milliseconds.
const SLOW: u64 = 4_000;

pub(crate) fn line(view: View<'_>, columns: u16) -> Line<'static> {
    let columns = usize::from(columns);
    let mut spans = vec![Span::styled("cbfs", view.theme.focus), Span::raw(" ")];
    let daemons = &view.state.daemons;
    for (n, daemon) in daemons.iter().enumerate() {
        if n > 0 {
            spans.push(Span::styled(
                format!(" {} ", view.glyphs.separator),
                view.theme.dim,
            ));
        }
        let (text, style) = link(view, daemon, daemons.len() > 1);
        spans.push(Span::raw(format!("{} ", daemon.name())));
        spans.push(Span::styled(text, style));
    }
    let used: usize = spans.iter().map(|s| width(&s.content)).sum();
    let right = selected(view);
    if used > columns {
        let text: String = spans.iter().map(|s| s.content.as_ref()).collect();
        return Line::from(view.cut(&text, columns));
    }
    if !right.is_empty() && used + width(&right) + 2 <= columns {
        let gap = columns - used - width(&right);
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::styled(right, view.theme.title));
    }
    Line::from(spans)
}

fn link(view: View<'_>, daemon: &Daemon, short: bool) -> (String, Style) {
    let (glyphs, theme, now) = (view.glyphs, view.theme, view.state.now);
    match &daemon.link {
        Link::Connecting => (format!("{} connecting", glyphs.waiting), theme.dim),
        Link::Connected { heard } if now.since(*heard) >= SLOW => {
            let text = format!(
                "{} no answer for {}",
                glyphs.warning,
                span(now.since(*heard))
            );
            (text, theme.warning)
        }
        Link::Connected { .. } => (format!("{} connected", glyphs.live), theme.ok),
        Link::Lost { since, .. } if short => {
            let text = format!("{} lost {}", glyphs.failed, span(now.since(*since)));
            (text, theme.bad)
        }
        Link::Lost {
            since, retry_at, ..
        } => {
            let next = retry_at.since(now).div_ceil(1000);
            let text = format!(
                "{} disconnected for {}, next try in {next}s",
                glyphs.failed,
                span(now.since(*since)),
            );
            (text, theme.bad)
        }
    }
}

fn selected(view: View<'_>) -> String {
    let Some((_, watched)) = view.state.selected_instance() else {
        return String::new();
    };
    let info = &watched.info;
    let role = match info.role {
        Role::Master => "MASTER",
        Role::Slave => "SLAVE",
    };
    format!("{}  epoch {} {role}", info.fs.tag, info.epoch)
}
