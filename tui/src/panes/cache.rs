//! KVS and proxy cache of the selected instance.

use crate::figures::{bytes, count, counted};
use crate::state::{Pane, State};
use crate::view::View;
use cbfs_core::api::{InstanceInfo, Role};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

pub(super) fn draw(frame: &mut Frame<'_>, view: View<'_>, area: Rect) {
    let pane = Pane::Cache;
    let inner = view.frame(frame, area, "KVS and proxy", "", view.state.focus == pane);
    let lines = match view.state.selected_instance() {
        Some((_, watched)) => lines(view, &watched.info, inner.width),
        None => Vec::new(),
    };
    view.lines(frame, inner, lines);
}

/// Bytes of finished objects that are not in the bucket yet.
pub(crate) fn waiting(state: &State, info: &InstanceInfo) -> u64 {
    let requests = state.daemons.iter().flat_map(|d| d.requests.values());
    let open = requests.filter(|r| r.fs == info.fs && !r.state.is_final());
    open.map(|r| r.made_bytes.saturating_sub(r.sent_bytes))
        .sum()
}

fn lines(view: View<'_>, info: &InstanceInfo, columns: u16) -> Vec<Line<'static>> {
    let width = usize::from(columns);
    let (whole, of) = match info.kvs_limit {
        Some(limit) => (limit, "limit"),
        None => (info.local_bytes.saturating_add(info.free_bytes), "disk"),
    };
    let part = if whole == 0 {
        0.0
    } else {
        info.local_bytes as f64 / whole as f64
    };
    let style = match part {
        p if p >= 0.95 => view.theme.bad,
        p if p >= 0.80 => view.theme.warning,
        _ => view.theme.gauge,
    };
    let percent = format!("{:>4.0}%", part * 100.0);
    let label = 7;
    let (on, off) = view.bar(part, width.saturating_sub(label + 1 + percent.len()));
    let head = |text: &str| Span::styled(view.fit(&format!(" {text}"), label), view.theme.dim);
    let line = |name: &str, text: String, style: Style| {
        let text = view.cut(&text, width.saturating_sub(label + 1));
        Line::from(vec![head(name), Span::raw(" "), Span::styled(text, style)])
    };
    let plain = view.theme.text;
    let waiting = waiting(view.state, info);
    let proxy = match waiting {
        0 => bytes(info.proxy_bytes),
        waiting => format!("{}, {} to send", bytes(info.proxy_bytes), bytes(waiting)),
    };
    let mut lines = vec![
        Line::from(vec![
            head("local"),
            Span::raw(" "),
            Span::styled(on, style),
            Span::styled(off, view.theme.dim),
            Span::styled(percent, if part < 0.8 { plain } else { style }),
        ]),
        line(
            "",
            format!("{} of {} {of}", bytes(info.local_bytes), bytes(whole)),
            plain,
        ),
        line("proxy", proxy, plain),
    ];
    if info.role == Role::Master {
        let dirty = bytes(info.dirty_bytes);
        lines.push(line("dirty", format!("{dirty} of rows"), plain));
        let new = counted(info.unpublished, "change", "changes");
        lines.push(line("new", new, plain));
    }
    let files = format!(
        "{} in {} inodes",
        bytes(info.logical_bytes),
        count(info.inodes)
    );
    lines.push(line("files", files, plain));
    lines
}
