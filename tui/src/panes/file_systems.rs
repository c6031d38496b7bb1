//! File systems and instances.

use super::filtered;
use crate::figures::{bytes, count};
use crate::glyphs::health_word;
use crate::layout::{first_row, rows_in};
use crate::state::{FileSystemOrder, Link, Pane, Watched};
use crate::view::View;
use cbfs_core::api::{Health, Role};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

pub(super) fn draw(frame: &mut Frame<'_>, view: View<'_>, area: Rect) {
    let pane = Pane::FileSystems;
    let state = view.state;
    let note = match (filtered(view, pane), state.file_system_order) {
        (filter, _) if !filter.is_empty() => filter,
        (_, (order, reversed)) => {
            let word = match order {
                FileSystemOrder::Name => "",
                FileSystemOrder::Health => "health",
                FileSystemOrder::Unpublished => "unpublished",
            };
            match (word, reversed) {
                ("", false) => String::new(),
                (_, reversed) => format!("{word} {}", view.glyphs.sorted[usize::from(!reversed)]),
            }
        }
    };
    let inner = view.frame(frame, area, "File systems", &note, state.focus == pane);
    if state.instance_rows.is_empty() {
        let text = if !state.filter(pane).is_empty() {
            "nothing fits the filter; Esc shows all"
        } else if state
            .daemons
            .iter()
            .all(|d| matches!(d.link, Link::Lost { .. }))
        {
            "no daemon answers"
        } else if state.daemons.iter().any(|d| d.node.is_none()) {
            "waiting for the daemon"
        } else {
            "no file system yet: m mounts one"
        };
        view.lines(frame, inner, view.empty(text, inner.width));
        return;
    }
    let height = rows_in(pane, area);
    let selected = state.instance_index();
    let first = first_row(selected, state.instance_rows.len(), height);
    let rows = state
        .instance_rows
        .iter()
        .enumerate()
        .skip(first)
        .take(height);
    let lines = rows.filter_map(|(n, key)| {
        let watched = state.watched(key)?;
        let node = (state.daemons.len() > 1).then(|| state.daemons[key.0].name());
        Some(row(view, watched, node, n == selected, inner.width))
    });
    view.lines(frame, inner, lines.collect());
}

fn row(
    view: View<'_>,
    watched: &Watched,
    node: Option<String>,
    selected: bool,
    columns: u16,
) -> Line<'static> {
    let info = &watched.info;
    let (mark, style) = view.mark(selected, Pane::FileSystems);
    let width = usize::from(columns);
    let mounted = info.mount_point.is_some();
    let access = match info.role {
        _ if !mounted => "--",
        Role::Master if info.health == Health::Ok || info.health == Health::Degraded => "rw",
        _ => "ro",
    };
    let standing = match info.role {
        Role::Master => format!("e{}", info.epoch),
        Role::Slave => format!("@{}", info.snapshot.map_or(0, |n| n.0)),
    };
    let tag = match node {
        Some(node) => format!("{} {}", info.fs.tag, view.cut(&node, 8)),
        None => info.fs.tag.clone(),
    };
    let health_style = health_style(view, info.health);
    let glyph = view.glyphs.of_health(info.health);
    let health = format!("{glyph} {}", health_word(info.health));
    let size = format!("{} ", view.fit_right(&bytes(info.logical_bytes), 5));
    let new = match info.role {
        Role::Master if width >= 46 => format!("{} new", count(info.unpublished)),
        _ => String::new(),
    };
    let new = if width >= 46 {
        view.fit_right(&new, 10) + " "
    } else {
        new
    };
    // Where both do not fit, what needs attention is told instead of the size.
    let told: Vec<Span<'static>> = if width >= 36 {
        vec![
            Span::raw(size),
            Span::styled(new, view.theme.dim),
            Span::styled(view.fit(&health, 10), health_style),
        ]
    } else if info.health == Health::Ok {
        vec![
            Span::styled(format!("{health} "), health_style),
            Span::raw(size.trim_end().to_owned()),
        ]
    } else {
        vec![Span::styled(view.fit(&health, 10), health_style)]
    };
    let told_width: usize = told.iter().map(|s| crate::figures::width(&s.content)).sum();
    let mut spans = vec![
        Span::raw(mark),
        Span::raw(view.fit(&tag, width.saturating_sub(10 + told_width))),
        Span::raw(format!(" {access} {} ", view.fit(&standing, 4))),
    ];
    spans.extend(told);
    view.row(spans, style, columns)
}

/// The colour of a health.
pub(crate) fn health_style(view: View<'_>, health: Health) -> Style {
    match health {
        Health::Ok => view.theme.ok,
        Health::Degraded => view.theme.warning,
        Health::Fenced | Health::Poisoned => view.theme.bad,
    }
}
