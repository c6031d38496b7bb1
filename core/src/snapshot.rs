//! Snapshot requests: kinds, states, and the status log that is the one truth about a request.
//!
//! The log is one file `status/<number:010>.jsonl` of the instance: one JSON line per event,
//! fsynced where something is built upon it. [`StatusLog`] is the only writer, [`SnapshotStatus::parse`] the only parser; `show`,
//! `watch`, the TUI and recovery all derive from the parsed status. A crash can tear the last
//! line; the parser ignores a last line without a newline, and the writer cuts it off on reopen.

mod log;
mod status;

pub use log::{StatusLog, up_to_written};
pub use status::SnapshotStatus;

use crate::ids::{Epoch, SnapshotNumber, Xid};
use serde::{Deserialize, Serialize};

/// Who asked for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// A person or script.
    User,
    /// The schedule.
    Periodic,
    /// The KVS filling up.
    Pressure,
    /// The last one before an instance goes away.
    Final,
}

/// States of a request. Entered in this order; `Failed` and `Cancelled` from any before
/// `Complete`; `Failed` and `Cancelled` are left again by a retry (back to `Queued`: a new cut).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotState {
    /// Persisted request; its place in the queue is known. Entered by the API.
    Queued,
    /// The cut is made; what to persist is known. Entered by the snapshot thread.
    Collected,
    /// The persister makes tarballs; finished ones upload already.
    Writing,
    /// Every object is made.
    Written,
    /// The last objects are on their way.
    Copying,
    /// The manifest exists and the epoch was still ours after it.
    Complete,
    /// Given up; see the failure.
    Failed,
    /// Withdrawn by a person, or the master was fenced.
    Cancelled,
}

impl SnapshotState {
    /// The name used in JSON, on the command line and on screen.
    pub fn name(self) -> &'static str {
        match self {
            SnapshotState::Queued => "queued",
            SnapshotState::Collected => "collected",
            SnapshotState::Writing => "writing",
            SnapshotState::Written => "written",
            SnapshotState::Copying => "copying",
            SnapshotState::Complete => "complete",
            SnapshotState::Failed => "failed",
            SnapshotState::Cancelled => "cancelled",
        }
    }

    /// The inverse of [`SnapshotState::name`].
    pub fn from_name(name: &str) -> Option<SnapshotState> {
        use SnapshotState::*;
        [
            Queued, Collected, Writing, Written, Copying, Complete, Failed, Cancelled,
        ]
        .into_iter()
        .find(|s| s.name() == name)
    }

    /// Whether nothing more happens by itself.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            SnapshotState::Complete | SnapshotState::Failed | SnapshotState::Cancelled
        )
    }

    /// Whether the state machine may go from `self` to `to`.
    pub fn may_become(self, to: SnapshotState) -> bool {
        use SnapshotState::*;
        match (self, to) {
            (Complete, _) => false,
            (Failed | Cancelled, Queued) => true,
            (Failed | Cancelled, _) => false,
            (_, Failed | Cancelled) => true,
            (Queued, Collected)
            | (Collected, Writing | Queued)
            | (Writing, Written | Collected | Queued)
            | (Written, Copying | Collected | Queued)
            | (Copying, Complete | Collected | Queued) => true,
            _ => false,
        }
    }
}

/// Whether a failure may pass by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureType {
    /// Worth retrying.
    Transient,
    /// Needs a person.
    Permanent,
}

/// One line of the status log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusLine {
    /// RFC 3339, by the node's clock.
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub event: StatusEvent,
}

/// What the status log records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum StatusEvent {
    /// The request was accepted (always the first line).
    Requested {
        /// Its number.
        number: SnapshotNumber,
        /// Its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Who asked.
        kind: SnapshotKind,
        /// Epoch of the master.
        epoch: Epoch,
    },
    /// An attempt begins, or goes on under its id after a restart of the daemon.
    Attempt {
        /// Its random id.
        attempt: String,
        /// Boot id of the machine: preserved data is not trusted after a reboot.
        boot_id: String,
        /// Objects of it that were finished before the restart, and are kept; absent: it begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<u64>,
        /// Why an attempt that was under way is not continued.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anew_because: Option<String>,
    },
    /// The state changed.
    State {
        /// To this.
        state: SnapshotState,
    },
    /// The cut.
    Cut {
        /// The last transaction in the snapshot.
        xid: Xid,
        /// How long writers were held, in microseconds; older logs do not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held_us: Option<u64>,
    },
    /// What is to be done, known after collecting.
    Planned {
        /// Inodes created, changed or removed.
        inodes: u64,
        /// Files with data to persist.
        files: u64,
        /// Bytes of data to persist, uncompressed.
        bytes: u64,
    },
    /// Counters of the persister, at most a few per second.
    Progress {
        /// Files persisted so far.
        files: u64,
        /// Bytes persisted so far, uncompressed.
        bytes: u64,
    },
    /// An object is made and waits in the proxy cache.
    ObjectMade {
        /// Key relative to the file system's prefix.
        key: String,
        /// Bytes as stored.
        size: u64,
    },
    /// An object has arrived in the bucket.
    ObjectSent {
        /// Key relative to the file system's prefix.
        key: String,
        /// Bytes as stored.
        size: u64,
    },
    /// A request to the bucket failed and will be tried again.
    Retry {
        /// What was tried.
        what: String,
        /// Why it failed.
        reason: String,
        /// Milliseconds until the next try.
        wait_ms: u64,
    },
    /// The file system was found deleted (`fs delete`): the request waits until that is taken back. What failed
    /// before, and the time spent waiting, do not count against it.
    FsDeleted,
    /// A person withdrew the request while it was being carried out; `State` `cancelled` follows once the
    /// step at hand has ended, or `complete` when the manifest existed already.
    CancelRequested,
    /// The request has failed or was cancelled, and what it had sent was removed from the bucket, as well as
    /// that went. Comes after the final state.
    ObjectsRemoved {
        /// Objects removed (or found absent).
        objects: u64,
        /// Their bytes as stored.
        bytes: u64,
        /// Objects that may still be there: garbage collection's.
        left: u64,
        /// Why they are left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The attempt failed; a `State` line with `failed` or an earlier state follows.
    Failure {
        /// Whether it may pass.
        failure: FailureType,
        /// Why.
        reason: String,
    },
}
