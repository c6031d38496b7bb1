//! What daemons tell.

use super::{own_event, with_hint};
use crate::figures::Moment;
use crate::message::{Effect, News};
use crate::state::{Daemon, DetailOf, EventLine, Link, Overlay, REQUESTS_KEPT, State, Watched};
use cbfs_core::api::{DaemonEvent, DaemonStatus, InstanceInfo, Severity, SnapshotInfo};
use cbfs_core::handle::Handle;
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::snapshot::SnapshotState;
use std::collections::BTreeSet;

/// A log that is shown is read again at most so often, in milliseconds.
const LOG_PAUSE: u64 = 1_000;

pub(super) fn news(state: &mut State, place: usize, news: News) -> Vec<Effect> {
    if place >= state.daemons.len() {
        return Vec::new();
    }
    match news {
        News::Status(status) => {
            heard(state, place);
            take_status(state, place, *status);
            Vec::new()
        }
        News::Requests(fs, requests) => {
            heard(state, place);
            let daemon = &mut state.daemons[place];
            daemon.requests.retain(|(of, _), _| *of != fs);
            for request in requests {
                take_request(daemon, state.now, request);
            }
            bound_requests(daemon);
            state.rows_are_stale = true;
            Vec::new()
        }
        News::Event(event) => {
            heard(state, place);
            match *event {
                DaemonEvent::Snapshot { snapshot } => take_snapshot(state, place, snapshot),
                DaemonEvent::Instance { instance } => {
                    take_instance(state, place, instance);
                    Vec::new()
                }
                DaemonEvent::Note { note } => {
                    state.events.push(EventLine {
                        daemon: Some(place),
                        note,
                    });
                    Vec::new()
                }
            }
        }
        News::Lost(error, retry_in) => {
            let now = state.now;
            let retry_at = Moment(now.0.saturating_add_unsigned(retry_in));
            let daemon = &mut state.daemons[place];
            let since = match daemon.link {
                Link::Lost { since, .. } => since,
                Link::Connecting | Link::Connected { .. } => now,
            };
            let was_there = matches!(daemon.link, Link::Connected { .. });
            daemon.link = Link::Lost {
                since,
                error: error.clone(),
                retry_at,
            };
            daemon.meters.clear();
            if was_there {
                let text = format!("the daemon of {} went away", daemon.name());
                let mut causes = vec![error.message];
                causes.extend(with_hint(error.causes, error.hint));
                own_event(state, Some(place), None, Severity::Error, text, causes);
            }
            Vec::new()
        }
    }
}

fn heard(state: &mut State, place: usize) {
    let now = state.now;
    let daemon = &mut state.daemons[place];
    let before = std::mem::replace(&mut daemon.link, Link::Connected { heard: now });
    if let Link::Lost { since, .. } = before
        && daemon.node.is_some()
    {
        let away = crate::figures::span(now.since(since));
        let text = format!("the daemon of {} is back after {away}", daemon.name());
        own_event(state, Some(place), None, Severity::Info, text, Vec::new());
        // It may have changed things meanwhile.
        state
            .buckets
            .values_mut()
            .for_each(|look| look.stale = true);
    }
}

fn take_status(state: &mut State, place: usize, status: DaemonStatus) {
    let now = state.now;
    let daemon = &mut state.daemons[place];
    daemon.node = Some(status.node);
    daemon.version = Some(status.version);
    daemon.started_at = Some(status.started_at);
    let present: BTreeSet<&String> = status.instances.iter().map(|i| &i.id).collect();
    daemon.instances.retain(|id, _| present.contains(id));
    for info in status.instances {
        record(daemon, now, info);
    }
    for request in status.snapshots {
        take_request(daemon, now, request);
    }
    bound_requests(daemon);
    state.rows_are_stale = true;
    forget_buckets(state);
}

fn record(daemon: &mut Daemon, now: Moment, info: InstanceInfo) {
    match daemon.instances.get_mut(&info.id) {
        Some(watched) => watched.record(now, info),
        None => {
            let mut watched = Watched::new(info.clone());
            watched.record(now, info.clone());
            daemon.instances.insert(info.id, watched);
        }
    }
}

fn take_instance(state: &mut State, place: usize, info: InstanceInfo) {
    let now = state.now;
    let fs = info.fs.clone();
    let daemon = &mut state.daemons[place];
    // A slave that was unmounted is no more; the next status says so.
    record(daemon, now, info);
    state.rows_are_stale = true;
    for (key, look) in &mut state.buckets {
        if key.fs == fs {
            look.stale = true; // an epoch may have changed hands
        }
    }
}

fn take_snapshot(state: &mut State, place: usize, snapshot: SnapshotInfo) -> Vec<Effect> {
    let now = state.now;
    let key = (snapshot.fs.clone(), snapshot.number);
    if snapshot.state == SnapshotState::Complete {
        for (view, look) in &mut state.buckets {
            if view.fs == snapshot.fs {
                look.stale = true;
            }
        }
    }
    take_request(&mut state.daemons[place], now, snapshot);
    bound_requests(&mut state.daemons[place]);
    state.rows_are_stale = true;
    read_log_again(state, place, key)
}

/// The status log that is shown has grown.
fn read_log_again(
    state: &mut State,
    place: usize,
    (fs, number): (Handle, SnapshotNumber),
) -> Vec<Effect> {
    let shown = matches!(
        &state.overlay,
        Some(Overlay::Detail { of: DetailOf::Snapshot(d, f, id), .. })
            if *d == place && *f == fs && id.number == number
    );
    let now = state.now;
    let ended = state
        .request(place, &fs, number)
        .is_some_and(|r| r.state.is_final());
    match &mut state.log {
        Some(log)
            if shown
                && log.of == (place, fs.clone(), number)
                && (ended || now.since(log.asked) >= LOG_PAUSE) =>
        {
            log.asked = now;
            vec![Effect::ReadLog(place, fs, number)]
        }
        _ => Vec::new(),
    }
}

/// Bytes that tell how far a request is: of the persister while it writes, then of the uploader.
fn moved_bytes(request: &SnapshotInfo) -> u64 {
    match request.state {
        SnapshotState::Writing => request.bytes_done,
        _ => request.sent_bytes,
    }
}

fn take_request(daemon: &mut Daemon, now: Moment, request: SnapshotInfo) {
    let key = (request.fs.clone(), request.number);
    let before = daemon.requests.get(&key);
    // Status and event cross: what is final stays so, unless it was asked for again.
    let crossed = before.is_some_and(|b| b.updated_at > request.updated_at);
    if crossed {
        return;
    }
    let at_work = !request.state.is_final() && request.state != SnapshotState::Queued;
    if at_work {
        if before.is_some_and(|b| b.state != request.state) {
            daemon.meters.remove(&key);
        }
        let meter = daemon.meters.entry(key.clone()).or_default();
        meter.record(now, moved_bytes(&request));
    } else {
        daemon.meters.remove(&key);
    }
    daemon.requests.insert(key, request);
}

fn bound_requests(daemon: &mut Daemon) {
    if daemon.requests.len() <= REQUESTS_KEPT {
        return;
    }
    // Some more than need be, so that this is not done for each that comes.
    let excess = daemon.requests.len() - REQUESTS_KEPT * 9 / 10;
    let finals = daemon.requests.iter().filter(|(_, r)| r.state.is_final());
    let mut oldest: Vec<_> = finals
        .map(|(key, r)| (r.requested_at.clone(), key.clone()))
        .collect();
    oldest.sort();
    for (_, key) in oldest.into_iter().take(excess) {
        daemon.requests.remove(&key);
    }
}

/// Buckets whose file systems no daemon has any more.
fn forget_buckets(state: &mut State) {
    let daemons = &state.daemons;
    state.buckets.retain(|key, _| {
        let mut all = daemons.iter().flat_map(|d| d.instances.values());
        all.any(|w| w.info.fs == key.fs && w.info.bucket == key.bucket)
    });
}
