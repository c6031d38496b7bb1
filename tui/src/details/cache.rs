//! KVS, proxy cache and traffic of an instance.

use super::Page;
use crate::figures::{bytes, count};
use crate::panes::waiting;
use crate::state::InstanceKey;

pub(super) fn tell(page: &mut Page<'_>, key: &InstanceKey) -> String {
    let view = page.view;
    let Some(watched) = view.state.watched(key) else {
        page.gone("the instance");
        return key.1.clone();
    };
    let info = &watched.info;
    page.lines.push(ratatui::text::Line::default());
    page.fact(
        "KVS",
        format!(
            "{} on disk: journal, rows, contents",
            bytes(info.local_bytes)
        ),
    );
    match info.kvs_limit {
        Some(limit) => {
            let part = info.local_bytes.saturating_mul(100) / limit.max(1);
            page.fact("limit", format!("{} ({part}% used)", bytes(limit)));
        }
        None => page.fact("limit", "none but the disk"),
    }
    page.fact("disk", format!("{} free", bytes(info.free_bytes)));
    page.fact(
        "dirty rows",
        format!("{} in memory, not yet in SQLite", bytes(info.dirty_bytes)),
    );
    let unsafe_xids = info.xid.0.saturating_sub(info.durable_xid.0);
    page.fact(
        "not durable",
        format!(
            "{} changes would be lost by a power loss now",
            count(unsafe_xids)
        ),
    );
    page.fact(
        "unpublished",
        format!(
            "{} changes would be lost with the disk",
            count(info.unpublished)
        ),
    );
    page.head("Proxy cache");
    page.fact("objects", bytes(info.proxy_bytes));
    page.fact("to be sent", bytes(waiting(view.state, info)));
    page.head("Traffic since the daemon started");
    let t = info.traffic;
    page.fact(
        "mount",
        format!(
            "{} read, {} written",
            bytes(t.read_bytes),
            bytes(t.written_bytes)
        ),
    );
    page.fact(
        "bucket",
        format!(
            "{} sent, {} received",
            bytes(t.sent_bytes),
            bytes(t.received_bytes)
        ),
    );
    page.fact(
        "requests",
        format!(
            "{} PUT, {} GET, {} others",
            count(t.puts),
            count(t.gets),
            count(t.other_requests)
        ),
    );
    let style = if t.failed_requests > 0 {
        view.theme.warning
    } else {
        view.theme.text
    };
    page.styled_fact("failed", &count(t.failed_requests), style);
    page.head("Now, per second");
    let (w, b) = (watched, bytes);
    page.fact(
        "mount",
        format!(
            "{} read, {} written, {} changes",
            b(w.read.now()),
            b(w.written.now()),
            count(w.changes.now())
        ),
    );
    page.fact(
        "bucket",
        format!(
            "{} sent, {} received, {} PUT, {} GET",
            b(w.sent.now()),
            b(w.received.now()),
            count(w.puts.now()),
            count(w.gets.now())
        ),
    );
    format!("KVS and proxy: {}", info.fs.tag)
}
