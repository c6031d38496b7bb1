//! What a status log says about a snapshot request.

use super::{FailureType, SnapshotKind, SnapshotState, StatusEvent, StatusLine};
use crate::api::SnapshotInfo;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber, Xid};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The events this version knows; others are from a newer one.
const KNOWN_EVENTS: [&str; 13] = [
    "requested",
    "attempt",
    "state",
    "cut",
    "planned",
    "progress",
    "object_made",
    "object_sent",
    "retry",
    "fs_deleted",
    "cancel_requested",
    "objects_removed",
    "failure",
];

/// How a request stands: the sum of the lines of its status log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// Its number.
    pub number: SnapshotNumber,
    /// Its name.
    pub name: Option<String>,
    /// Who asked.
    pub kind: SnapshotKind,
    /// Epoch of the master.
    pub epoch: Epoch,
    /// Where it stands.
    pub state: SnapshotState,
    /// RFC 3339 time at which each state was entered last.
    pub state_times: BTreeMap<SnapshotState, String>,
    /// RFC 3339 time of the request.
    pub requested_at: String,
    /// RFC 3339 time of the last line.
    pub updated_at: String,
    /// The id of the last attempt.
    pub attempt: Option<String>,
    /// The boot id of the machine at the last attempt.
    pub boot_id: Option<String>,
    /// The cut's xid; `None` again once the request is back in the queue.
    pub xid: Option<Xid>,
    /// Inodes to persist.
    pub inodes: u64,
    /// Files to persist.
    pub files_total: u64,
    /// Files persisted in this attempt.
    pub files_done: u64,
    /// Bytes to persist, uncompressed.
    pub bytes_total: u64,
    /// Bytes persisted in this attempt, uncompressed.
    pub bytes_done: u64,
    /// Objects made in this attempt: key below the file system's prefix, and bytes as stored.
    pub made: BTreeMap<String, u64>,
    /// Objects of this attempt that arrived in the bucket, likewise.
    pub sent: BTreeMap<String, u64>,
    /// Requests to the bucket that failed and were to be tried again.
    pub retries: u64,
    /// RFC 3339 time since when nothing has worked; `None` while all is well. How long a request is
    /// tried is counted from here.
    pub failing_since: Option<String>,
    /// Attempts that failed since the request was accepted or retried.
    pub failed_attempts: u64,
    /// Withdrawn, but not yet in a final state.
    pub cancel_requested: bool,
    /// Why it failed, or the reason of the last retry; `None` once complete.
    pub reason: Option<String>,
    /// Type of the failure, while it stands.
    pub failure: Option<FailureType>,
    /// Lines of kinds this version does not know (a newer CBFS wrote them); they were skipped.
    pub unknown_events: u64,
}

impl SnapshotStatus {
    /// Parse a status log. A last line without a newline was torn by a crash (or is being written)
    /// and is ignored; events this version does not know are counted and skipped.
    ///
    /// # Errors
    /// [`ErrorKind::Damage`] naming the line when one is no status line, comes in an impossible
    /// order, or there is none at all; [`ErrorKind::FormatTooNew`] when one has a state, kind or
    /// failure type of a newer version: what that means for the request cannot be guessed.
    pub fn parse(bytes: &[u8]) -> Result<SnapshotStatus> {
        let mut status = None;
        for (index, text) in complete_lines(bytes).enumerate() {
            read_line(&mut status, text).map_err(|e| match e.kind() {
                ErrorKind::FormatTooNew => {
                    e.context(format!("line {} is of a newer CBFS", index + 1))
                }
                _ => Error::damage(format!("line {} is damaged: {e}", index + 1)).because(e),
            })?;
        }
        status.ok_or_else(|| Error::damage("there is no complete line in it"))
    }

    /// The status that a `Requested` line begins.
    pub(super) fn begin(line: &StatusLine) -> Result<SnapshotStatus> {
        let StatusEvent::Requested {
            number,
            name,
            kind,
            epoch,
        } = &line.event
        else {
            return Err(Error::damage("a status log begins with the request"));
        };
        Ok(SnapshotStatus {
            number: *number,
            name: name.clone(),
            kind: *kind,
            epoch: *epoch,
            state: SnapshotState::Queued,
            state_times: BTreeMap::new(),
            requested_at: line.at.clone(),
            updated_at: line.at.clone(),
            attempt: None,
            boot_id: None,
            xid: None,
            inodes: 0,
            files_total: 0,
            files_done: 0,
            bytes_total: 0,
            bytes_done: 0,
            made: BTreeMap::new(),
            sent: BTreeMap::new(),
            retries: 0,
            failing_since: None,
            failed_attempts: 0,
            cancel_requested: false,
            reason: None,
            failure: None,
            unknown_events: 0,
        })
    }

    /// Whether `event` may come next.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: the state machine does not allow it
    /// ([`SnapshotState::may_become`]; the first state is `queued`), or it is a second request.
    pub fn check(&self, event: &StatusEvent) -> Result<()> {
        let conflict = |text| Err(Error::new(ErrorKind::Conflict, text));
        match event {
            StatusEvent::Requested { .. } => {
                conflict(format!("snapshot {} is requested already", self.number))
            }
            StatusEvent::State { state } => {
                let (from, to) = (self.state, *state);
                let first = self.state_times.is_empty();
                if first && to == SnapshotState::Queued || !first && from.may_become(to) {
                    return Ok(());
                }
                let (from, to) = (from.name(), to.name());
                conflict(format!(
                    "snapshot {} is {from} and cannot become {to}",
                    self.number
                ))
            }
            StatusEvent::CancelRequested if self.state.is_final() => {
                let state = self.state.name();
                conflict(format!("snapshot {} is {state} already", self.number))
            }
            _ => Ok(()),
        }
    }

    /// Add a line.
    ///
    /// # Errors
    /// Those of [`SnapshotStatus::check`]; then nothing changed.
    pub fn apply(&mut self, line: &StatusLine) -> Result<()> {
        self.check(&line.event)?;
        self.updated_at.clone_from(&line.at);
        match &line.event {
            StatusEvent::Requested { .. } => {} // refused by `check`
            StatusEvent::Attempt {
                attempt, boot_id, ..
            } => {
                // What was made belongs to its attempt. An attempt that is resumed under its id
                // keeps it: what arrived is not sent again.
                if self.attempt.as_ref() != Some(attempt) {
                    self.made.clear();
                    self.sent.clear();
                    self.files_done = 0;
                    self.bytes_done = 0;
                }
                self.attempt = Some(attempt.clone());
                self.boot_id = Some(boot_id.clone());
            }
            StatusEvent::State { state } => self.enter(*state, &line.at),
            StatusEvent::Cut { xid, .. } => self.xid = Some(*xid),
            StatusEvent::Planned {
                inodes,
                files,
                bytes,
            } => {
                (self.inodes, self.files_total, self.bytes_total) = (*inodes, *files, *bytes);
            }
            StatusEvent::Progress { files, bytes } => {
                (self.files_done, self.bytes_done) = (*files, *bytes);
            }
            StatusEvent::ObjectMade { key, size } => {
                self.made.insert(key.clone(), *size);
            }
            StatusEvent::ObjectSent { key, size } => {
                self.sent.insert(key.clone(), *size);
                // What arrives shows that the bucket works. An attempt that failed stands all the same:
                // the next one may fail at the same place.
                if self.failed_attempts == 0 {
                    self.failing_since = None;
                }
            }
            StatusEvent::Retry { reason, .. } => {
                self.retries = self.retries.saturating_add(1);
                self.failing_since.get_or_insert_with(|| line.at.clone());
                self.reason = Some(reason.clone());
            }
            StatusEvent::FsDeleted => self.begin_to_count_anew(),
            StatusEvent::CancelRequested => self.cancel_requested = true,
            StatusEvent::ObjectsRemoved { left, .. } => {
                if *left == 0 {
                    self.sent.clear();
                }
            }
            StatusEvent::Failure { failure, reason } => {
                self.failure = Some(*failure);
                self.failed_attempts = self.failed_attempts.saturating_add(1);
                self.failing_since.get_or_insert_with(|| line.at.clone());
                self.reason = Some(reason.clone());
            }
        }
        Ok(())
    }

    /// How long nothing has worked is counted from the next failure.
    fn begin_to_count_anew(&mut self) {
        self.failing_since = None;
        self.failed_attempts = 0;
    }

    fn enter(&mut self, state: SnapshotState, at: &str) {
        if self.state.is_final() || state == SnapshotState::Complete {
            // Taken up again by a person, or done: what went wrong before is over.
            self.begin_to_count_anew();
        }
        if state.is_final() {
            if state == SnapshotState::Cancelled && self.cancel_requested {
                self.reason = None; // a person's will needs no other
            }
            self.cancel_requested = false;
        }
        self.state = state;
        self.state_times.insert(state, at.to_owned());
        if state != SnapshotState::Failed {
            self.failure = None; // tried again, done or withdrawn; the reason stays for people
        }
        if state == SnapshotState::Complete {
            self.reason = None;
        }
        // Back in the queue: there will be another cut. What was made stays listed until the next
        // attempt begins, for whoever cleans up after the last one.
        if state == SnapshotState::Queued {
            self.xid = None;
            (self.inodes, self.files_total, self.bytes_total) = (0, 0, 0);
            (self.files_done, self.bytes_done) = (0, 0);
        }
    }

    /// As the API tells it. `queue_place` counts the requests before it; it is told only while
    /// the request is queued.
    pub fn to_info(&self, fs: &Handle, queue_place: u64) -> SnapshotInfo {
        SnapshotInfo {
            fs: fs.clone(),
            number: self.number,
            name: self.name.clone(),
            kind: self.kind,
            state: self.state,
            epoch: self.epoch,
            queue_place: if self.state == SnapshotState::Queued {
                queue_place
            } else {
                0
            },
            requested_at: self.requested_at.clone(),
            updated_at: self.updated_at.clone(),
            xid: self.xid,
            inodes: self.inodes,
            files_total: self.files_total,
            files_done: self.files_done,
            bytes_total: self.bytes_total,
            bytes_done: self.bytes_done,
            objects_made: self.made.len() as u64,
            objects_sent: self.sent.len() as u64,
            made_bytes: total(&self.made),
            sent_bytes: total(&self.sent),
            retries: self.retries,
            cancelling: self.cancel_requested,
            reason: self.reason.clone(),
            failure: self.failure,
        }
    }
}

fn total(objects: &BTreeMap<String, u64>) -> u64 {
    objects
        .values()
        .fold(0, |sum, size| sum.saturating_add(*size))
}

/// Length of the part of `bytes` that ends with a newline.
pub(super) fn complete_len(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1)
}

/// The lines that end with a newline, without it.
fn complete_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes[..complete_len(bytes)]
        .split_inclusive(|b| *b == b'\n')
        .map(|line| &line[..line.len() - 1])
}

fn read_line(status: &mut Option<SnapshotStatus>, text: &[u8]) -> Result<()> {
    /// What every line has, and the words that a newer version may add to.
    #[derive(Deserialize)]
    struct Head {
        at: String,
        event: String,
        #[serde(default)]
        state: Option<serde_json::Value>,
        #[serde(default)]
        kind: Option<serde_json::Value>,
        #[serde(default)]
        failure: Option<serde_json::Value>,
    }
    let no_line = |e: serde_json::Error| Error::damage("it is no status line").because(e);
    let head: Head = serde_json::from_slice(text).map_err(no_line)?;
    if !KNOWN_EVENTS.contains(&head.event.as_str()) {
        // The first line must be understood: without it there is no request.
        let Some(status) = status else {
            return Err(Error::damage("a status log begins with the request"));
        };
        status.unknown_events = status.unknown_events.saturating_add(1);
        status.updated_at = head.at;
        return Ok(());
    }
    match head.event.as_str() {
        "state" => known_word::<SnapshotState>("state", head.state)?,
        "requested" => known_word::<SnapshotKind>("kind", head.kind)?,
        "failure" => known_word::<FailureType>("failure", head.failure)?,
        _ => {}
    }
    let line: StatusLine = serde_json::from_slice(text).map_err(no_line)?;
    match status {
        Some(status) => status.apply(&line),
        None => {
            *status = Some(SnapshotStatus::begin(&line)?);
            Ok(())
        }
    }
}

/// A word that this version does not know is one of a newer version's. Anything but a word is left
/// to the parser of the whole line.
fn known_word<T: serde::de::DeserializeOwned>(
    field: &str,
    value: Option<serde_json::Value>,
) -> Result<()> {
    let Some(serde_json::Value::String(word)) = value else {
        return Ok(());
    };
    match serde_json::from_value::<T>(serde_json::Value::String(word.clone())) {
        Ok(_) => Ok(()),
        Err(_) => {
            let text = format!("this CBFS does not know the {field} {word:?} of a snapshot");
            Err(Error::new(ErrorKind::FormatTooNew, text).hint("upgrade CBFS on this machine"))
        }
    }
}
