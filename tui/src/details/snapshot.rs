//! A snapshot: what it is, how long each state took, and its status log.

use super::Page;
use crate::figures::{Moment, bytes, clock, count, date_and_time, printable, span, time_of_day};
use crate::panes::snapshots::state_style;
use crate::snapshot_rows::kind_word;
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::Handle;
use cbfs_core::snapshot::{SnapshotState, StatusEvent, StatusLine};
use ratatui::text::{Line, Span};

pub(super) fn tell(page: &mut Page<'_>, daemon: usize, fs: &Handle, id: BaseSnapshot) -> String {
    let view = page.view;
    let state = view.state;
    let title = format!("Snapshot {} of {}", id.number, fs.tag);
    let request = state
        .request(daemon, fs, id.number)
        .filter(|r| r.epoch == id.epoch);
    let looks = state.buckets.iter().filter(|(key, _)| key.fs == *fs);
    let manifest = looks
        .flat_map(|(_, look)| look.view.manifests.get(&id))
        .next();
    if request.is_none() && manifest.is_none() {
        page.gone("the snapshot");
        return title;
    }
    if let Some(r) = request {
        let sign = view.glyphs.of_snapshot(r.state);
        let word = if r.cancelling {
            "cancelling"
        } else {
            r.state.name()
        };
        page.styled_fact(
            "state",
            &format!("{sign} {word}"),
            state_style(view, r.state),
        );
        if let Some(reason) = &r.reason {
            let style = if r.state == SnapshotState::Failed {
                view.theme.bad
            } else {
                view.theme.warning
            };
            page.styled_fact("reason", reason, style);
        }
        if let Some(name) = &r.name {
            page.fact("name", name);
        }
        page.fact(
            "asked for",
            format!(
                "{} by {}",
                date_and_time(&r.requested_at),
                kind_word(r.kind)
            ),
        );
        if let Some(xid) = r.xid {
            page.fact("cut at xid", xid.to_string());
        }
        page.fact("inodes", count(r.inodes));
        page.fact(
            "files",
            format!("{} of {}", count(r.files_done), count(r.files_total)),
        );
        page.fact(
            "contents",
            format!("{} of {}", bytes(r.bytes_done), bytes(r.bytes_total)),
        );
        page.fact(
            "objects",
            format!(
                "{} of {} sent, {} of {}",
                r.objects_sent,
                r.objects_made,
                bytes(r.sent_bytes),
                bytes(r.made_bytes)
            ),
        );
        if r.retries > 0 {
            page.styled_fact("retries", &count(r.retries), view.theme.warning);
        }
    }
    if let Some(m) = manifest {
        if request.is_none() {
            page.fact("state", format!("{} complete", view.glyphs.done));
            page.fact("name", m.name.as_deref().unwrap_or("none"));
            page.fact("kind", kind_word(m.kind));
        }
        page.fact(
            "made",
            format!("{} in epoch {}", date_and_time(&m.created_at), id.epoch),
        );
        page.fact("added", format!("{} in the bucket", bytes(m.stored_bytes)));
        page.fact(
            "holds",
            format!("{} in {} inodes", bytes(m.logical_bytes), count(m.inodes)),
        );
    }
    let Some(log) = state
        .log
        .as_ref()
        .filter(|l| l.of == (daemon, fs.clone(), id.number))
    else {
        page.head("Its request was carried out elsewhere: no status log here");
        return title;
    };
    match &log.lines {
        Ok(lines) => {
            durations(page, lines);
            page.head("Status log");
            for line in lines {
                entry(page, line);
            }
        }
        Err(error) => {
            page.head("The status log could not be read");
            page.text(&error.message, view.theme.bad);
        }
    }
    title
}

/// How long it was in each state.
fn durations(page: &mut Page<'_>, lines: &[StatusLine]) {
    let mut entered: Vec<(SnapshotState, Moment)> = Vec::new();
    for line in lines {
        let state = match &line.event {
            StatusEvent::Requested { .. } => SnapshotState::Queued,
            StatusEvent::State { state } => *state,
            _ => continue,
        };
        let again = entered.last().is_some_and(|(last, _)| *last == state);
        if !again {
            entered.extend(Moment::parse(&line.at).map(|at| (state, at)));
        }
    }
    if entered.is_empty() {
        return;
    }
    page.head("Time in each state");
    for (n, (state, at)) in entered.iter().enumerate() {
        if state.is_final() {
            continue;
        }
        let until = entered
            .get(n + 1)
            .map_or(page.view.state.now, |(_, next)| *next);
        page.fact(state.name(), format!("{:>6}", span(until.since(*at))));
    }
}

fn entry(page: &mut Page<'_>, line: &StatusLine) {
    let view = page.view;
    let (text, style) = match &line.event {
        StatusEvent::Requested { kind, .. } => (
            format!("requested by {}", kind_word(*kind)),
            view.theme.text,
        ),
        StatusEvent::Attempt { attempt, .. } => (format!("attempt {attempt}"), view.theme.dim),
        StatusEvent::State { state } => (
            format!("{} {}", view.glyphs.of_snapshot(*state), state.name()),
            state_style(view, *state),
        ),
        StatusEvent::Cut { xid, held_us } => {
            let held = held_us.map(|us| format!(", writers held for {us} µs"));
            (
                format!("cut at xid {xid}{}", held.unwrap_or_default()),
                view.theme.text,
            )
        }
        StatusEvent::Planned {
            inodes,
            files,
            bytes: b,
        } => {
            let text = format!(
                "planned {} inodes, {} files, {}",
                count(*inodes),
                count(*files),
                bytes(*b)
            );
            (text, view.theme.text)
        }
        StatusEvent::Progress { .. } => return,
        StatusEvent::ObjectMade { key, size } => {
            (format!("made {} ({})", key, bytes(*size)), view.theme.dim)
        }
        StatusEvent::ObjectSent { key, size } => {
            (format!("sent {} ({})", key, bytes(*size)), view.theme.dim)
        }
        StatusEvent::Retry {
            what,
            reason,
            wait_ms,
        } => {
            let text = format!("{what} again in {}: {reason}", clock(*wait_ms));
            (text, view.theme.warning)
        }
        StatusEvent::ObjectsRemoved {
            objects,
            bytes: b,
            left,
            ..
        } => {
            let text = format!(
                "removed {} objects ({}) from the bucket, {} left to garbage collection",
                count(*objects),
                bytes(*b),
                count(*left)
            );
            (text, view.theme.dim)
        }
        StatusEvent::FsDeleted => (
            "waits: the file system is deleted".to_owned(),
            view.theme.warning,
        ),
        StatusEvent::CancelRequested => ("withdrawn".to_owned(), view.theme.warning),
        StatusEvent::Failure { failure, reason } => {
            let kind = format!("{failure:?}").to_lowercase();
            (format!("{kind} failure: {reason}"), view.theme.bad)
        }
    };
    let time = format!(" {}  ", time_of_day(&line.at));
    let room = page.columns.saturating_sub(12).max(10);
    for (n, part) in crate::figures::wrap(&printable(&text), room)
        .into_iter()
        .enumerate()
    {
        let head = if n == 0 {
            time.clone()
        } else {
            " ".repeat(time.len())
        };
        page.lines.push(Line::from(vec![
            Span::styled(head, view.theme.dim),
            Span::styled(part, style),
        ]));
    }
}
