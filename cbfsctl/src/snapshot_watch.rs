//! Watching a snapshot request until it has come as far as one wants.
//!
//! The request is asked for every 100 ms, more often in its first second. On a terminal a line of progress follows it; elsewhere
//! every transition is one line, read from the request's status log, so that none is missed
//! however short it was. A daemon that goes away is waited for: requests survive it.

use crate::client::DaemonClient;
use crate::interrupt::Interrupt;
use crate::output::{Outcome, Output, printable, to_the_second};
use crate::progress::Progress;
use crate::quantities;
use cbfs_core::api::{Health, SnapshotInfo};
use cbfs_core::handle::Handle;
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::snapshot::{SnapshotState, StatusEvent, StatusLine};
use cbfs_core::{Error, ErrorKind};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two questions at most.
const INTERVAL: Duration = Duration::from_millis(100);
/// And at least: most snapshots of little change are done within a tenth of a second.
const SHORT_INTERVAL: Duration = Duration::from_millis(5);
/// How long the daemon may be away before watching gives up.
const DAEMON_GRACE: Duration = Duration::from_secs(10);

/// What to watch, and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch<'a> {
    /// Full handle.
    pub(crate) fs: &'a str,
    /// The request.
    pub(crate) number: SnapshotNumber,
    /// Stop when it has come this far.
    pub(crate) until: SnapshotState,
    /// Stop when this much time has passed.
    pub(crate) timeout: Option<Duration>,
    /// Send every change as a JSON line to stdout.
    pub(crate) stream: bool,
}

/// Follow the request until it has reached `watch.until` (or anything after it), and tell how
/// it stands then.
///
/// # Errors
/// [`ErrorKind::Failed`] when it failed or was cancelled; [`ErrorKind::Partial`] when the time
/// is over: the request goes on; `Interrupted` likewise.
pub(crate) fn follow(
    watch: Watch<'_>,
    client: &DaemonClient,
    interrupt: &Interrupt,
    output: &mut Output,
) -> Outcome<SnapshotInfo> {
    interrupt.during(|| follow_until(watch, client, interrupt, output))
}

fn follow_until(
    watch: Watch<'_>,
    client: &DaemonClient,
    interrupt: &Interrupt,
    output: &mut Output,
) -> Outcome<SnapshotInfo> {
    let started = Instant::now();
    let mut progress = Progress::new(output, 1);
    let mut seen: Option<SnapshotInfo> = None;
    let mut lines_told = 0;
    let mut away_since: Option<Instant> = None;
    let mut pace = Pace::default();
    loop {
        match client.snapshot(watch.fs, watch.number) {
            Ok(info) => {
                away_since = None;
                if seen.as_ref() != Some(&info) {
                    if watch.stream {
                        output.json_line(&info)?;
                    }
                    let moved = seen
                        .as_ref()
                        .is_none_or(|s| (s.state, s.retries) != (info.state, info.retries));
                    if moved && output.is_chatty() && !output.err_is_terminal() {
                        tell_transitions(watch, client, &info, &mut lines_told, output);
                    }
                    seen = Some(info.clone());
                }
                let (done, total) = share_done(&info);
                pace.note(started.elapsed(), &info);
                progress.update(done, total, || {
                    in_words(&info, started.elapsed(), &pace.in_words(&info))
                });
                if info.state >= watch.until {
                    progress.finish();
                    let fenced = is_lost(info.state) && is_fenced(client, &info.fs);
                    return verdict(info, fenced);
                }
            }
            Err(e) if e.kind() == ErrorKind::DaemonUnreachable && seen.is_some() => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= DAEMON_GRACE {
                    return Err(e.into());
                }
                progress.update(0, 1, || "the daemon is away, waiting for it".to_owned());
            }
            Err(e) => return Err(e.into()),
        }
        if let Some(timeout) = watch.timeout
            && started.elapsed() >= timeout
        {
            let state = seen.as_ref().map_or("unknown", |s| s.state.name());
            return Err(Error::new(
                ErrorKind::Partial,
                format!(
                    "snapshot {} is {state} after {} s, not yet {}",
                    watch.number,
                    timeout.as_secs_f64(),
                    watch.until.name()
                ),
            )
            .hint(format!(
                "it goes on; follow it with `cbfsctl snapshot watch {}@{}`",
                watch.fs, watch.number
            ))
            .into());
        }
        // The end is told within a tenth of the time it took.
        interrupt.pause((started.elapsed() / 10).clamp(SHORT_INTERVAL, INTERVAL))?;
    }
}

fn is_lost(state: SnapshotState) -> bool {
    matches!(state, SnapshotState::Failed | SnapshotState::Cancelled)
}

/// Whether this node's master was superseded; `false` also where the daemon does not say.
fn is_fenced(client: &DaemonClient, fs: &Handle) -> bool {
    let instances = client.instances().unwrap_or_default();
    let mut of_fs = instances.iter().filter(|i| i.fs == *fs);
    of_fs.any(|i| i.health == Health::Fenced)
}

/// The request at its end, or as far as was wanted. Of a fenced master there is no next one.
fn verdict(info: SnapshotInfo, fenced: bool) -> Outcome<SnapshotInfo> {
    let what = match info.state {
        SnapshotState::Failed => "failed",
        SnapshotState::Cancelled => "was cancelled",
        _ => return Ok(info),
    };
    let error = Error::failed(format!("snapshot {} of {} {what}", info.number, info.fs));
    let error = match info.reason {
        Some(reason) => error.because(reason),
        None => error,
    };
    if fenced {
        let text = "this node is not the master any more: `cbfsctl instance export FS -o FILE` saves what no snapshot has";
        let hint = text.replace("FS", &info.fs.to_string());
        return Err(error.hint(hint).into());
    }
    Err(error
        .hint(format!(
            "what it held is part of the next snapshot; `cbfsctl snapshot retry {}@{}` takes this one up \
             again",
            info.fs, info.number
        ))
        .into())
}

/// Print the transitions that were not yet told. Where the log cannot be had, the state that was
/// just seen stands in for it: watching must not fail for a line of text.
fn tell_transitions(
    watch: Watch<'_>,
    client: &DaemonClient,
    info: &SnapshotInfo,
    told: &mut usize,
    output: &mut Output,
) {
    match client.snapshot_log(watch.fs, watch.number) {
        Ok(log) => {
            let lines: Vec<String> = log.iter().filter_map(transition).collect();
            for line in lines.iter().skip(*told) {
                output.message(format_args!("snapshot {}: {line}", watch.number));
            }
            *told = lines.len().max(*told);
        }
        Err(_) => output.message(format_args!(
            "snapshot {}: {}",
            watch.number,
            info.state.name()
        )),
    }
}

/// A line of the status log as a line of text; `None` for mere progress.
fn transition(line: &StatusLine) -> Option<String> {
    let what = match &line.event {
        StatusEvent::Requested { .. } => "requested".to_owned(),
        StatusEvent::State { state } => state.name().to_owned(),
        StatusEvent::Retry {
            what,
            reason,
            wait_ms,
        } => {
            let wait = quantities::duration(Duration::from_millis(*wait_ms));
            format!("{what} failed, again in {wait}: {reason}")
        }
        StatusEvent::Failure { reason, .. } => format!("attempt failed: {reason}"),
        StatusEvent::FsDeleted | StatusEvent::CancelRequested => event_in_words(&line.event),
        StatusEvent::Attempt {
            kept: Some(kept), ..
        } => format!("taken up, {kept} objects kept"),
        StatusEvent::Attempt {
            anew_because: Some(why),
            ..
        } => format!("begun anew: {why}"),
        StatusEvent::ObjectsRemoved { .. } => event_in_words(&line.event),
        StatusEvent::Attempt { .. }
        | StatusEvent::Cut { .. }
        | StatusEvent::Planned { .. }
        | StatusEvent::Progress { .. }
        | StatusEvent::ObjectMade { .. }
        | StatusEvent::ObjectSent { .. } => return None,
    };
    Some(format!("{what} ({})", to_the_second(&line.at)))
}

/// Any event of a status log in words.
pub(crate) fn event_in_words(event: &StatusEvent) -> String {
    use quantities::{bytes, count, plural};
    match event {
        StatusEvent::Requested { kind, epoch, .. } => {
            let kind = format!("{kind:?}").to_lowercase();
            format!("requested ({kind}) in epoch {epoch}")
        }
        StatusEvent::Attempt {
            attempt,
            kept,
            anew_because,
            ..
        } => match (kept, anew_because) {
            (Some(kept), _) => format!("attempt {attempt} goes on, {kept} objects kept"),
            (None, Some(why)) => format!("attempt {attempt}, anew: {why}"),
            (None, None) => format!("attempt {attempt}"),
        },
        StatusEvent::State { state } => format!("{} {}", glyph(*state), state.name()),
        StatusEvent::Cut { xid, held_us } => {
            let held = held_us.map_or_else(String::new, |us| format!(", writers held for {us} µs"));
            format!("cut after transaction {xid}{held}")
        }
        StatusEvent::Planned {
            inodes,
            files,
            bytes: size,
        } => format!(
            "planned: {}, {} with {}",
            plural(*inodes, "inode", "inodes"),
            plural(*files, "file", "files"),
            bytes(*size)
        ),
        StatusEvent::Progress { files, bytes: done } => {
            format!("{} files, {} done", count(*files), bytes(*done))
        }
        StatusEvent::ObjectMade { key, size } => {
            format!("made {} ({})", printable(key), bytes(*size))
        }
        StatusEvent::ObjectSent { key, size } => {
            format!("sent {} ({})", printable(key), bytes(*size))
        }
        StatusEvent::Retry {
            what,
            reason,
            wait_ms,
        } => {
            let wait = quantities::duration(Duration::from_millis(*wait_ms));
            let (what, reason) = (printable(what), printable(reason));
            format!("{what} failed, again in {wait}: {reason}")
        }
        StatusEvent::FsDeleted => "waits: the file system is deleted".to_owned(),
        StatusEvent::CancelRequested => "withdrawn".to_owned(),
        StatusEvent::ObjectsRemoved {
            objects,
            bytes: size,
            left,
            reason,
        } => {
            let gone = plural(*objects, "object", "objects");
            let mut text = format!("{gone} ({}) removed from the bucket", bytes(*size));
            if *left > 0 {
                let reason = printable(reason.as_deref().unwrap_or("no reason told"));
                text += &format!(", {} left: {reason}", count(*left));
            }
            text
        }
        StatusEvent::Failure { failure, reason } => {
            let failure = format!("{failure:?}").to_lowercase();
            format!("attempt failed ({failure}): {}", printable(reason))
        }
    }
}

/// How much of the work is done, of how much: making the objects weighs as much as sending them.
fn share_done(info: &SnapshotInfo) -> (u64, u64) {
    const WHOLE: u64 = 1000;
    let part = |done: u64, total: u64| match total {
        0 => 0,
        _ => (u128::from(done.min(total)) * u128::from(WHOLE / 2) / u128::from(total)) as u64,
    };
    let done = match info.state {
        SnapshotState::Queued | SnapshotState::Collected => 0,
        SnapshotState::Writing => part(info.bytes_done, info.bytes_total),
        SnapshotState::Written | SnapshotState::Copying => {
            WHOLE / 2 + part(info.sent_bytes, info.made_bytes)
        }
        SnapshotState::Complete => WHOLE,
        SnapshotState::Failed | SnapshotState::Cancelled => 0,
    };
    (done, WHOLE)
}

/// Bytes of the state at hand: done, of how many.
fn work_of(info: &SnapshotInfo) -> Option<(u64, u64)> {
    match info.state {
        SnapshotState::Writing => Some((info.bytes_done, info.bytes_total)),
        SnapshotState::Written | SnapshotState::Copying => Some((info.sent_bytes, info.made_bytes)),
        _ => None,
    }
}

/// How fast the work of a state goes, over the last seconds.
#[derive(Debug, Default)]
struct Pace {
    state: Option<SnapshotState>,
    /// When, and how many bytes were done then; oldest first.
    samples: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// Rates are over this much time.
    const WINDOW: Duration = Duration::from_secs(5);

    fn note(&mut self, at: Duration, info: &SnapshotInfo) {
        let Some((done, _)) = work_of(info) else {
            self.samples.clear();
            return;
        };
        // A new state counts something else, and a new attempt from the start.
        let back = self
            .samples
            .back()
            .is_some_and(|(_, before)| done < *before);
        if self.state.replace(info.state) != Some(info.state) || back {
            self.samples.clear();
        }
        self.samples.push_back((at, done));
        while self.samples.len() > 2 && self.samples[1].0 + Pace::WINDOW <= at {
            self.samples.pop_front();
        }
    }

    /// `, RATE, TIME left`, as far as known.
    fn in_words(&self, info: &SnapshotInfo) -> String {
        let ends = self.samples.front().zip(self.samples.back());
        let (Some((first, last)), Some((done, total))) = (ends, work_of(info)) else {
            return String::new();
        };
        let rate = quantities::per_second(last.1.saturating_sub(first.1), last.0 - first.0);
        if rate == 0 {
            return String::new();
        }
        let left = total.saturating_sub(done).div_ceil(rate);
        let rate = quantities::bytes(rate);
        format!("  {rate}/s  {}:{:02} left", left / 60, left % 60)
    }
}

/// The glyph of a state; always beside its name.
pub(crate) fn glyph(state: SnapshotState) -> &'static str {
    match state {
        SnapshotState::Queued => "…",
        SnapshotState::Collected
        | SnapshotState::Writing
        | SnapshotState::Written
        | SnapshotState::Copying => "▶",
        SnapshotState::Complete => "✔",
        SnapshotState::Failed => "✖",
        SnapshotState::Cancelled => "⊘",
    }
}

/// How the request stands, on one line; what people look for first stands first, as the line is cut off at the terminal's edge.
/// `elapsed` is the time watched so far, `pace` what [`Pace::in_words`] says.
pub(crate) fn in_words(info: &SnapshotInfo, elapsed: Duration, pace: &str) -> String {
    use quantities::{bytes, count};
    let mut text = format!(
        "snapshot {} {} {}",
        info.number,
        glyph(info.state),
        info.state.name()
    );
    text += pace;
    match info.state {
        SnapshotState::Queued if info.queue_place > 0 => {
            text += &format!(", place {}", info.queue_place);
        }
        SnapshotState::Writing => {
            text += &format!(
                "  {}/{}  {}/{} files",
                bytes(info.bytes_done),
                bytes(info.bytes_total),
                count(info.files_done),
                count(info.files_total)
            );
        }
        SnapshotState::Written | SnapshotState::Copying => {
            text += &format!(
                "  {}/{}  {}/{} objects",
                bytes(info.sent_bytes),
                bytes(info.made_bytes),
                count(info.objects_sent),
                count(info.objects_made)
            );
        }
        _ => {}
    }
    if info.cancelling {
        text += ", being cancelled";
    }
    if !info.state.is_final() {
        text += &format!("  {}", quantities::duration(elapsed));
        if info.retries > 0 {
            let reason = info.reason.as_deref().unwrap_or("no reason told");
            text += &format!("  retry {}: {reason}", info.retries);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(state: &str) -> SnapshotInfo {
        serde_json::from_value(serde_json::json!({
            "fs": "home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3", "number": 3, "kind": "user",
            "state": state, "epoch": 1, "requested_at": "2025-01-01T00:00:00Z",
            "updated_at": "2025-01-01T00:00:01Z", "queue_place": if state == "queued" { 2 } else { 0 },
            "files_done": 1200, "files_total": 4800, "bytes_done": 1 << 20, "bytes_total": 4 << 20,
            "objects_made": 5, "objects_sent": 4, "made_bytes": 3 << 20, "sent_bytes": 1 << 20,
        }))
        .unwrap()
    }

    #[test]
    fn every_state_is_told_in_words() {
        let lines: Vec<String> = [
            "queued",
            "collected",
            "writing",
            "copying",
            "complete",
            "failed",
        ]
        .map(|s| {
            let pace = if s == "writing" {
                "  2.0 MiB/s  0:02 left"
            } else {
                ""
            };
            in_words(&info(s), Duration::from_millis(1500), pace)
        })
        .to_vec();
        insta::assert_snapshot!(lines.join("\n"), @r"
        snapshot 3 … queued, place 2  1.50 s
        snapshot 3 ▶ collected  1.50 s
        snapshot 3 ▶ writing  2.0 MiB/s  0:02 left  1.0 MiB/4.0 MiB  1,200/4,800 files  1.50 s
        snapshot 3 ▶ copying  1.0 MiB/3.0 MiB  4/5 objects  1.50 s
        snapshot 3 ✔ complete
        snapshot 3 ✖ failed
        ");
    }

    #[test]
    fn rate_and_time_left_are_those_of_the_last_seconds_of_this_state() {
        let mut pace = Pace::default();
        let mut writing = info("writing");
        let mut told = Vec::new();
        for (second, mib) in [(0, 0), (1, 1), (2, 2), (10, 2), (11, 3)] {
            writing.bytes_done = mib << 20;
            pace.note(Duration::from_secs(second), &writing);
            told.push(pace.in_words(&writing));
        }
        let wanted = [
            "",
            "  1.0 MiB/s  0:03 left",
            "  1.0 MiB/s  0:02 left",
            "",
            "  114 KiB/s  0:10 left",
        ];
        assert_eq!(told, wanted);
        // Sending is something else than writing.
        let copying = info("copying");
        pace.note(Duration::from_secs(12), &copying);
        assert_eq!(pace.in_words(&copying), "");
    }

    #[test]
    fn progress_never_runs_backwards_through_the_states() {
        let shares: Vec<u64> = [
            "queued",
            "collected",
            "writing",
            "written",
            "copying",
            "complete",
        ]
        .map(|s| share_done(&info(s)).0)
        .to_vec();
        assert!(shares.is_sorted(), "{shares:?}");
    }

    #[test]
    fn a_failed_snapshot_is_an_error_with_its_reason() {
        let mut failed = info("failed");
        failed.reason = Some("403 Forbidden".to_owned());
        match verdict(failed.clone(), false) {
            Err(crate::output::Stop::Error(e)) => {
                assert_eq!(e.kind(), ErrorKind::Failed);
                assert_eq!(e.causes(), ["403 Forbidden"]);
            }
            other => panic!("{other:?}"),
        }
        assert!(verdict(info("complete"), false).is_ok());
        // What a fenced master has belongs to no next snapshot.
        match verdict(failed, true) {
            Err(crate::output::Stop::Error(e)) => {
                let hint = e.hint_text().unwrap();
                assert!(hint.contains("instance export") && !hint.contains("retry"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn transitions_are_told_and_counters_are_not() {
        let at = "2025-01-01T00:00:01.25Z".to_owned();
        let tell = |event| {
            transition(&StatusLine {
                at: at.clone(),
                event,
            })
        };
        let state = StatusEvent::State {
            state: SnapshotState::Copying,
        };
        assert_eq!(tell(state).unwrap(), "copying (2025-01-01T00:00:01Z)");
        assert_eq!(tell(StatusEvent::Progress { files: 1, bytes: 1 }), None);
    }
}
