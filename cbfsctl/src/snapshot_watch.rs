//! Watching a snapshot request until it has come as far as one wants.
//!
//! The request is asked for every 100 ms. On a terminal a line of progress follows it; elsewhere
//! every transition is one line, read from the request's status log, so that none is missed
//! however short it was. A daemon that goes away is waited for: requests survive it.

use crate::client::DaemonClient;
use crate::interrupt::Interrupt;
use crate::output::{Outcome, Output, to_the_second};
use crate::progress::Progress;
use crate::quantities;
use cbfs_core::api::SnapshotInfo;
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::snapshot::{SnapshotState, StatusEvent, StatusLine};
use cbfs_core::{Error, ErrorKind};
use std::time::{Duration, Instant};

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(100);
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
    let started = Instant::now();
    let mut progress = Progress::new(output, 1);
    let mut seen: Option<SnapshotInfo> = None;
    let mut lines_told = 0;
    let mut away_since: Option<Instant> = None;
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
                progress.update(done, total, || in_words(&info, started.elapsed()));
                if info.state >= watch.until {
                    progress.finish();
                    return verdict(info);
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
        interrupt.pause(INTERVAL)?;
    }
}

/// The request at its end, or as far as was wanted.
fn verdict(info: SnapshotInfo) -> Outcome<SnapshotInfo> {
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
        StatusEvent::CancelRequested => "withdrawn".to_owned(),
        StatusEvent::Attempt { .. }
        | StatusEvent::Cut { .. }
        | StatusEvent::Planned { .. }
        | StatusEvent::Progress { .. }
        | StatusEvent::ObjectMade { .. }
        | StatusEvent::ObjectSent { .. } => return None,
    };
    Some(format!("{what} ({})", to_the_second(&line.at)))
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

/// How the request stands, on one line. `elapsed` is the time watched so far.
pub(crate) fn in_words(info: &SnapshotInfo, elapsed: Duration) -> String {
    use quantities::{bytes, count};
    let mut text = format!(
        "snapshot {} {} {}",
        info.number,
        glyph(info.state),
        info.state.name()
    );
    match info.state {
        SnapshotState::Queued if info.queue_place > 0 => {
            text += &format!(", place {}", info.queue_place);
        }
        SnapshotState::Writing => {
            text += &format!(
                "  {}/{} files  {}/{}",
                count(info.files_done),
                count(info.files_total),
                bytes(info.bytes_done),
                bytes(info.bytes_total)
            );
        }
        SnapshotState::Written | SnapshotState::Copying => {
            text += &format!(
                "  {}/{} objects  {}/{}",
                count(info.objects_sent),
                count(info.objects_made),
                bytes(info.sent_bytes),
                bytes(info.made_bytes)
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
        .map(|s| in_words(&info(s), Duration::from_millis(1500)))
        .to_vec();
        insta::assert_snapshot!(lines.join("\n"), @r"
        snapshot 3 … queued, place 2  1.50 s
        snapshot 3 ▶ collected  1.50 s
        snapshot 3 ▶ writing  1,200/4,800 files  1.0 MiB/4.0 MiB  1.50 s
        snapshot 3 ▶ copying  4/5 objects  1.0 MiB/3.0 MiB  1.50 s
        snapshot 3 ✔ complete
        snapshot 3 ✖ failed
        ");
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
        match verdict(failed) {
            Err(crate::output::Stop::Error(e)) => {
                assert_eq!(e.kind(), ErrorKind::Failed);
                assert_eq!(e.causes(), ["403 Forbidden"]);
            }
            other => panic!("{other:?}"),
        }
        assert!(verdict(info("complete")).is_ok());
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
