//! Snapshots of the selected file system: the rows, and below them the state machine of the one at work.

use super::filtered;
use crate::figures::{bytes, clock, printable, rate, short_time_or_date, time_or_date, width};
use crate::layout::{first_row, has_progress, rows_in};
use crate::snapshot_rows::{SnapshotOrder, SnapshotRow, kind_word};
use crate::state::{Pane, State};
use crate::view::View;
use cbfs_core::api::SnapshotInfo;
use cbfs_core::snapshot::SnapshotState;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// The way of a snapshot, in order.
pub(crate) const WAY: [SnapshotState; 6] = [
    SnapshotState::Queued,
    SnapshotState::Collected,
    SnapshotState::Writing,
    SnapshotState::Written,
    SnapshotState::Copying,
    SnapshotState::Complete,
];

pub(super) fn draw(frame: &mut Frame<'_>, view: View<'_>, area: Rect) {
    let pane = Pane::Snapshots;
    let state = view.state;
    let title = match state.selected_instance() {
        Some((_, watched)) => format!("Snapshots: {}", watched.info.fs.tag),
        None => "Snapshots".to_owned(),
    };
    let note = match filtered(view, pane) {
        filter if !filter.is_empty() => filter,
        _ => next_periodic(view),
    };
    let inner = view.frame(frame, area, &title, &note, state.focus == pane);
    let mut lines = vec![heads(view, inner.width)];
    let height = rows_in(pane, area);
    let selected = state.snapshot_index();
    let first = first_row(selected, state.snapshot_rows.len(), height);
    let rows = state
        .snapshot_rows
        .iter()
        .enumerate()
        .skip(first)
        .take(height);
    lines.extend(rows.map(|(n, r)| row(view, r, n == selected, inner.width)));
    if state.snapshot_rows.is_empty() {
        let text = match state.filter(pane) {
            "" => "none yet: s makes one",
            _ => "nothing fits the filter; Esc shows all",
        };
        lines.extend(view.empty(text, inner.width));
    }
    view.lines(frame, inner, lines);
    if has_progress(area) && inner.height > 3 {
        let below = Rect {
            y: inner.bottom() - 2,
            height: 2,
            ..inner
        };
        view.lines(frame, below, progress(view, inner.width));
    }
}

fn next_periodic(view: View<'_>) -> String {
    let state = view.state;
    let instance = state.selected_instance();
    let master = instance.and_then(|((place, _), w)| state.master_of(&w.info.fs, place));
    match master.and_then(|(_, w)| w.info.next_periodic.as_ref()) {
        Some(at) => format!("next {}", time_or_date(at, state.now)),
        None => String::new(),
    }
}

fn heads(view: View<'_>, columns: u16) -> Line<'static> {
    let (order, reversed) = view.state.snapshot_order;
    let sign = view.glyphs.sorted[usize::from(!reversed)];
    let head = |text: &str, of: SnapshotOrder| {
        if order == of {
            format!("{text}{sign}")
        } else {
            text.to_owned()
        }
    };
    let text = format!(
        " {} {} {} {} {}",
        view.fit_right(&head("NO", SnapshotOrder::Number), 5),
        view.fit(&head("STATE", SnapshotOrder::State), 12),
        view.fit(
            if columns < 64 { "ASKED" } else { "ASKED FOR" },
            asked_for(columns)
        ),
        view.fit_right(&head("SIZE", SnapshotOrder::Size), 5),
        head("NAME", SnapshotOrder::Name),
    );
    Line::from(Span::styled(
        view.cut(&text, usize::from(columns)),
        view.theme.dim,
    ))
}

/// Columns of the time: what needs them more gets them where there are few.
fn asked_for(columns: u16) -> usize {
    match columns {
        0..45 => 0,
        45..64 => 8,
        _ => 10,
    }
}

fn row(view: View<'_>, row: &SnapshotRow, selected: bool, columns: u16) -> Line<'static> {
    let (mark, style) = view.mark(selected, Pane::Snapshots);
    let request = request_of(view.state, row);
    let word = match request {
        Some(r) if r.cancelling => "cancelling",
        _ => row.state.name(),
    };
    let state = format!("{} {word}", view.glyphs.of_snapshot(row.state));
    let size = match row.state {
        SnapshotState::Complete if row.kind.is_some() => bytes(row.bytes),
        _ => String::new(),
    };
    let name = remark(view, row, request);
    let asked_width = asked_for(columns);
    let asked = if asked_width < 10 {
        short_time_or_date(&row.at, view.state.now)
    } else {
        time_or_date(&row.at, view.state.now)
    };
    let used = 1 + 5 + 1 + 12 + 1 + asked_width + 1 + 5 + 1;
    let held = if row.held {
        format!("{} held ", view.glyphs.held)
    } else {
        String::new()
    };
    let room = usize::from(columns).saturating_sub(used + width(&held));
    let spans = vec![
        Span::raw(mark),
        Span::raw(view.fit_right(&row.id.number.to_string(), 5)),
        Span::raw(" "),
        Span::styled(view.fit(&state, 12), state_style(view, row.state)),
        Span::styled(
            format!(" {} ", view.fit(&asked, asked_width)),
            view.theme.dim,
        ),
        Span::raw(format!("{} ", view.fit_right(&size, 5))),
        Span::styled(held, view.theme.warning),
        Span::raw(view.cut(&name, room)),
    ];
    view.row(spans, style, columns)
}

fn request_of<'a>(state: &'a State, row: &SnapshotRow) -> Option<&'a SnapshotInfo> {
    let (_, watched) = state.selected_instance()?;
    state.request(row.daemon?, &watched.info.fs, row.id.number)
}

/// What the last column says: how far it is, why it failed, or its name.
fn remark(view: View<'_>, row: &SnapshotRow, request: Option<&SnapshotInfo>) -> String {
    let name = row.name.as_deref().map(printable);
    let first = match (row.state, request) {
        (SnapshotState::Complete, _) => {
            return match (name, row.kind) {
                (Some(name), _) => name,
                (None, Some(kind)) => kind_word(kind).to_owned(),
                (None, None) => String::new(),
            };
        }
        (SnapshotState::Failed, Some(r)) => r.reason.as_deref().map(printable),
        (SnapshotState::Queued, Some(r)) if r.queue_place > 0 => {
            Some(format!("{} before it", r.queue_place))
        }
        (SnapshotState::Queued | SnapshotState::Cancelled | SnapshotState::Failed, _) => None,
        (_, Some(r)) => Some(short_progress(view, r)),
        (_, None) => None,
    };
    let parts: Vec<String> = first.into_iter().chain(name).collect();
    parts.join(&format!(" {} ", view.glyphs.separator))
}

fn short_progress(view: View<'_>, r: &SnapshotInfo) -> String {
    let (done, total) = amounts(r);
    let mut text = format!("{:>3}%", percent(done, total));
    if let Some((rate, left)) = speed(view.state, r, done, total) {
        text += &format!(" {rate}");
        if let Some(left) = left {
            text += &format!(" {left}");
        }
    }
    text
}

/// Bytes done and to be done in the state at hand.
fn amounts(r: &SnapshotInfo) -> (u64, u64) {
    match r.state {
        SnapshotState::Collected => (0, r.bytes_total),
        SnapshotState::Writing => (r.bytes_done, r.bytes_total),
        _ => (r.sent_bytes, r.made_bytes),
    }
}

fn percent(done: u64, total: u64) -> u64 {
    (done.saturating_mul(100))
        .checked_div(total)
        .unwrap_or(0)
        .min(100)
}

/// Rate and remaining time.
fn speed(
    state: &State,
    r: &SnapshotInfo,
    done: u64,
    total: u64,
) -> Option<(String, Option<String>)> {
    let key = (r.fs.clone(), r.number);
    let meter = state.daemons.iter().find_map(|d| d.meters.get(&key))?;
    let per_second = meter.per_second()?;
    let left = meter.time_for(total.saturating_sub(done)).map(clock);
    Some((rate(per_second), left))
}

/// The request to tell more about: the selected one while it is at work, else the one at work, else the
/// selected one.
fn told(state: &State) -> Option<&SnapshotRow> {
    let at_work = |r: &&SnapshotRow| !r.state.is_final() && r.state != SnapshotState::Queued;
    let selected = state.selected_snapshot();
    selected
        .filter(at_work)
        .or_else(|| state.snapshot_rows.iter().find(at_work))
        .or(selected)
}

fn progress(view: View<'_>, columns: u16) -> Vec<Line<'static>> {
    let Some(row) = told(view.state) else {
        return Vec::new();
    };
    let request = request_of(view.state, row);
    let columns = usize::from(columns).saturating_sub(2);
    let mut lines = vec![way(view, row, columns)];
    let Some(r) = request else { return lines };
    let line = match r.state {
        SnapshotState::Collected
        | SnapshotState::Writing
        | SnapshotState::Written
        | SnapshotState::Copying => bar_line(view, r, columns),
        SnapshotState::Failed => {
            let reason = r.reason.as_deref().map(printable).unwrap_or_default();
            Line::from(Span::styled(
                format!(" {}", view.cut(&reason, columns)),
                view.theme.bad,
            ))
        }
        SnapshotState::Complete => {
            let text = format!(
                " {} files, {} read, {} objects, {} sent",
                r.files_done,
                bytes(r.bytes_done),
                r.objects_sent,
                bytes(r.sent_bytes)
            );
            Line::from(Span::styled(view.cut(&text, columns), view.theme.dim))
        }
        SnapshotState::Queued | SnapshotState::Cancelled => Line::default(),
    };
    lines.push(line);
    lines
}

/// The state machine: what is passed, where it stands, what is to come.
fn way(view: View<'_>, row: &SnapshotRow, columns: usize) -> Line<'static> {
    let number = format!(" {} ", row.id.number);
    let at = WAY.iter().position(|s| *s == row.state);
    let words: usize = WAY.iter().map(|s| s.name().len() + 2).sum();
    let all = number.len() + words + 3 * (WAY.len() - 1);
    let narrow = all > columns;
    let mut spans = vec![Span::styled(number, view.theme.title)];
    let Some(at) = at else {
        let text = format!(
            "{} {}",
            view.glyphs.of_snapshot(row.state),
            row.state.name()
        );
        spans.push(Span::styled(text, state_style(view, row.state)));
        return Line::from(spans);
    };
    let last = WAY.len() - 1;
    for (n, state) in WAY.iter().enumerate() {
        let (glyph, style) = if n < at || at == last {
            (view.glyphs.done, view.theme.ok)
        } else if n == at {
            (view.glyphs.of_snapshot(*state), view.theme.active)
        } else {
            (view.glyphs.waiting, view.theme.dim)
        };
        if narrow && n != at {
            spans.push(Span::styled(format!("{glyph} "), style));
            continue;
        }
        if n > 0 && !narrow {
            spans.push(Span::styled(
                format!(" {} ", view.glyphs.step),
                view.theme.dim,
            ));
        }
        let gap = if narrow { " " } else { "" };
        spans.push(Span::styled(
            format!("{glyph} {}{gap}", state.name()),
            style,
        ));
    }
    if narrow {
        spans.push(Span::styled(
            format!("step {} of {}", at + 1, last + 1),
            view.theme.dim,
        ));
    }
    Line::from(spans)
}

fn bar_line(view: View<'_>, r: &SnapshotInfo, columns: usize) -> Line<'static> {
    let (done, total) = amounts(r);
    let mut text = format!(" {:>3}%", percent(done, total));
    text += &format!("  {} of {}", bytes(done), bytes(total));
    if r.state != SnapshotState::Writing && r.state != SnapshotState::Collected {
        text += &format!("  {}/{} objects", r.objects_sent, r.objects_made);
    }
    if let Some((rate, left)) = speed(view.state, r, done, total) {
        text += &format!("  {rate}");
        if let Some(left) = left {
            text += &format!("  {left} left");
        }
    }
    let text = view.cut(&text, columns);
    let room = columns.saturating_sub(width(&text) + 1).min(40);
    let part = if total == 0 {
        0.0
    } else {
        done as f64 / total as f64
    };
    let (on, off) = view.bar(part, room);
    Line::from(vec![
        Span::raw(" "),
        Span::styled(on, view.theme.active),
        Span::styled(off, view.theme.dim),
        Span::raw(text),
    ])
}

/// The colour of a state.
pub(crate) fn state_style(view: View<'_>, state: SnapshotState) -> Style {
    match state {
        SnapshotState::Complete => view.theme.ok,
        SnapshotState::Failed => view.theme.bad,
        SnapshotState::Cancelled => view.theme.warning,
        SnapshotState::Queued => view.theme.dim,
        _ => view.theme.active,
    }
}
