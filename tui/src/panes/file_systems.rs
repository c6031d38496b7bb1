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
    let wide = width >= 40;
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
    let health = format!(
        "{} {}",
        view.glyphs.of_health(info.health),
        health_word(info.health)
    );
    let health_style = health_style(view, info.health);
    let tag_width = if wide {
        width.saturating_sub(34)
    } else {
        width.saturating_sub(20)
    };
    let mut spans = vec![
        Span::raw(mark),
        Span::raw(view.fit(&tag, tag_width)),
        Span::raw(format!(" {access} {} ", view.fit(&standing, 4))),
    ];
    if wide {
        spans.push(Span::raw(format!(
            "{} ",
            view.fit_right(&bytes(info.logical_bytes), 5)
        )));
        let dirty = match info.role {
            Role::Master => format!("{} new", count(info.unpublished)),
            Role::Slave => String::new(),
        };
        spans.push(Span::styled(
            format!("{} ", view.fit_right(&dirty, 10)),
            view.theme.dim,
        ));
        spans.push(Span::styled(view.fit(&health, 10), health_style));
    } else if info.health == Health::Ok {
        let size = format!("{} ", view.glyphs.done);
        spans.push(Span::styled(size, health_style));
        spans.push(Span::raw(view.fit_right(&bytes(info.logical_bytes), 5)));
    } else {
        spans.push(Span::styled(view.fit(&health, 10), health_style));
    }
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
