//! Types of the daemon's HTTP API (JSON over a Unix socket). `/v1/…` mirrors the nouns of the
//! command line.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`DaemonStatus`] |
//! | `GET /v1/instances` | | `[`[`InstanceInfo`]`]` |
//! | `GET /v1/instances/{id}` | | [`InstanceInfo`] |
//! | `GET /v1/instances/{id}/unpublished` | | [`UnpublishedInfo`] of a fenced master |
//! | `GET /v1/instances/{id}/export` | | the same as a tar |
//! | `POST /v1/instances/{id}/demote` | [`RetireRequest`] | [`InstanceInfo`] of the slave that takes its mount, or `null` |
//! | `POST /v1/instances/{id}/delete` | [`RetireRequest`] | [`InstanceInfo`] as it was |
//! | `POST /v1/instances/{id}/warm` | [`WarmRequest`] | [`WarmInfo`], once the contents are here |
//! | `POST /v1/mounts` | [`MountRequest`] | [`InstanceInfo`] |
//! | `POST /v1/umounts` | [`UmountRequest`] | [`InstanceInfo`] |
//! | `POST /v1/slaves/{id}/refresh` | | [`InstanceInfo`], once the follower has looked and moved |
//! | `POST /v1/snapshots` | [`SnapshotRequest`] | [`SnapshotInfo`] |
//! | `GET /v1/snapshots/{fs}` | | `[`[`SnapshotInfo`]`]` requests this daemon knows |
//! | `GET /v1/snapshots/{fs}/{number}` | | [`SnapshotInfo`] |
//! | `GET /v1/snapshots/{fs}/{number}/log` | | the status log so far, JSON lines |
//! | `POST /v1/snapshots/{fs}/{number}/cancel` | | [`SnapshotInfo`]; one that is carried out is `cancelling` at first |
//! | `POST /v1/snapshots/{fs}/{number}/retry` | | [`SnapshotInfo`] |
//! | `POST /v1/snapshots/{fs}/{number}/retry/dry-run` | | [`SnapshotInfo`] as it stands, unless a retry would be refused |
//! | `POST /v1/snapshots/{fs}/schedule` | | [`ScheduleInfo`]; the settings are read from the bucket anew |
//! | `GET /v1/log/{fs}?from=XID` | | the master's change log from there on, as far as it is still local: JSON lines as in `log.jsonl.zst`; with `&follow=true` it goes on |
//! | `POST /v1/epochs/{fs}/promote` | [`PromoteRequest`] | [`PromotionInfo`]; answers when this node's master is open (or, with `dry_run`, what would be done) |
//! | `GET /v1/epochs/{fs}/promote` | | [`PromotionInfo`] of the promotion under way |
//! | `GET /v1/events` | | server-sent events, data = [`DaemonEvent`]; notes have an id, and with a header `Last-Event-ID` (which may be empty) those after it that the daemon still has come first |
//! | `POST /v1/reload` | | [`ReloadInfo`]; `cbfsd.toml` is read anew, as on SIGHUP |
//! | `POST /v1/shutdown` | | `{}`; unmounts nothing: mounts come back with the next daemon |
//! | `GET /metrics` | | Prometheus text |
//!
//! `{fs}` is a full handle. An error answer has a 4xx or 5xx status and an [`ErrorBody`].

use crate::bucket::BucketTraffic;
use crate::error::{Error, ErrorKind};
use crate::format::epoch::{BaseSnapshot, EpochClaim};
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber, Xid};
use crate::snapshot::{FailureType, SnapshotKind, SnapshotState};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Role of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves the file system read-write.
    Master,
    /// Serves one snapshot read-only.
    Slave,
}

/// Health of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is well.
    Ok,
    /// It works, but something needs attention (bucket unreachable, a snapshot failed).
    Degraded,
    /// Superseded by a later epoch: read-only.
    Fenced,
    /// A failed fsync or a panicked worker: reads go on, writes get EIO.
    Poisoned,
}

/// An instance of a file system on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// `HANDLE` for a master, `HANDLE@NUMBER` for a slave, `HANDLE@latest` for one that follows.
    pub id: String,
    /// The file system.
    pub fs: Handle,
    /// Where its objects live.
    pub bucket: String,
    /// Master or slave.
    pub role: Role,
    /// The master's epoch; of a slave the epoch of its snapshot.
    pub epoch: Epoch,
    /// The slave's snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotNumber>,
    /// Of a slave that follows: how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub following: Option<FollowInfo>,
    /// Where it is mounted; `None` when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<PathBuf>,
    /// How it is.
    pub health: Health,
    /// Why `health` is not `ok`, and what to do; empty when it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The last transaction answered.
    pub xid: Xid,
    /// The last transaction known to survive power loss.
    pub durable_xid: Xid,
    /// The last complete snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_snapshot: Option<SnapshotNumber>,
    /// When that one was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_snapshot_at: Option<String>,
    /// When the next periodic snapshot is due, RFC 3339; `None` without a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_periodic: Option<String>,
    /// Requests whose status log is damaged: how they stand is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged_logs: Vec<DamagedLog>,
    /// Transactions since the cut of the last complete snapshot.
    pub unpublished: u64,
    /// Inodes, as statfs tells them.
    pub inodes: u64,
    /// Bytes of the instance's state directory in use: KVS and journal, with a limit also large
    /// files.
    pub local_bytes: u64,
    /// Bound on data, KVS and journal, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvs_limit: Option<u64>,
    /// Bytes of dirty rows in memory.
    pub dirty_bytes: u64,
    /// Bytes of all files, as statfs tells them.
    #[serde(default)]
    pub logical_bytes: u64,
    /// Bytes that the disk of the state directory leaves.
    #[serde(default)]
    pub free_bytes: u64,
    /// Bytes of the proxy cache: objects on their way to or from the bucket.
    #[serde(default)]
    pub proxy_bytes: u64,
    /// What went through the mount, and to and from the bucket.
    #[serde(default)]
    pub traffic: Traffic,
}

/// A request that cannot be told about, as its status log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedLog {
    /// The request.
    pub number: SnapshotNumber,
    /// Which file it is, and what is wrong with it.
    pub problem: String,
}

/// Counts of an instance since its daemon started: a rate is the difference of two answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Bytes read on the mount that the kernel did not have in its cache.
    pub read_bytes: u64,
    /// Bytes written on the mount.
    pub written_bytes: u64,
    /// Objects created or replaced in the bucket, tries again included.
    pub puts: u64,
    /// Objects, or ranges of them, read from the bucket, tries again included.
    pub gets: u64,
    /// Other requests to the bucket.
    pub other_requests: u64,
    /// Requests to the bucket that failed.
    pub failed_requests: u64,
    /// Bytes of objects sent.
    pub sent_bytes: u64,
    /// Bytes of objects received.
    pub received_bytes: u64,
}

/// How far a slave that follows new snapshots is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowInfo {
    /// It looks for a new one this often, in seconds.
    pub interval: u64,
    /// When it last saw what the bucket has, RFC 3339; `None` when it has not yet since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<String>,
    /// Snapshots that it knows to be newer than the one it shows: it is on its way, or cannot (see `problems`).
    pub behind: u64,
    /// When the latest of these was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_since: Option<String>,
    /// Since when the bucket has not answered, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable_since: Option<String>,
}

/// Status of a daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Version of CBFS.
    pub version: String,
    /// Stable id of the node.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// RFC 3339.
    pub started_at: String,
    /// State directory.
    pub state_dir: PathBuf,
    /// All instances.
    pub instances: Vec<InstanceInfo>,
    /// Requests for snapshots that are not in a final state, and failed ones.
    pub snapshots: Vec<SnapshotInfo>,
    /// What this daemon has asked of buckets since it started.
    #[serde(default)]
    pub buckets: Vec<BucketTraffic>,
    /// Promotions under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub promotions: Vec<PromotionInfo>,
}

/// What a fenced master has that no complete snapshot has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpublishedInfo {
    /// Names of files and directories that were created or changed.
    pub changed: u64,
    /// Names that were removed.
    pub removed: u64,
    /// The first hundred of them.
    pub changed_paths: Vec<String>,
    /// The first hundred of them.
    pub removed_paths: Vec<String>,
}

/// Body of the requests that take an instance from a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireRequest {
    /// Give up what no complete snapshot has.
    #[serde(default)]
    pub discard: bool,
}

/// Body of `POST /v1/instances/{id}/warm`: files of its mount by inode number, at most [`WarmRequest::MOST`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmRequest {
    /// As stat(2) on the mount tells them.
    pub inodes: Vec<u64>,
}

impl WarmRequest {
    /// Inodes of one request. A client that ends the connection ends the work.
    pub const MOST: usize = 256;
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarmInfo {
    /// Files whose contents are on this node now, but for those in `failed`.
    pub files: u64,
    /// Bytes, as they are stored, that were fetched from the bucket.
    pub fetched_bytes: u64,
    /// Bytes, as they are stored, that were kept here before.
    pub kept_bytes: u64,
    /// Files of which something could not be fetched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<WarmFailure>,
}

/// A file that could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmFailure {
    /// Its inode number.
    pub inode: u64,
    /// Why.
    pub error: ErrorDetail,
}

/// Body of `POST /v1/epochs/{fs}/promote`; `{fs}` may also be a TAG or a UUID prefix here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteRequest {
    /// Where the file system lives; not needed when this node has an instance of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The epoch of the master that is to be replaced: must be the latest.
    pub previous_epoch: Epoch,
    /// Only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// How far a promotion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromotionStep {
    /// Nothing was done.
    Planned,
    /// Noted on this node; the epoch may not be claimed yet. A restart of the daemon forgets it unless it is.
    Noted,
    /// The epoch is ours: the former master is fenced. It goes on by itself until this node is master.
    Sealed,
    /// This node has the master.
    Master,
}

/// A promotion, planned, under way or done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionInfo {
    /// The file system.
    pub fs: Handle,
    /// Where it lives.
    pub bucket: String,
    /// The epoch that this node gets.
    pub epoch: Epoch,
    /// How far it is.
    pub step: PromotionStep,
    /// Who held the epoch before; `None` once that does not matter any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<EpochClaim>,
    /// The last that was heard of the former master, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sign: Option<String>,
    /// It was heard of a moment ago.
    #[serde(default)]
    pub looks_alive: bool,
    /// The snapshot that the new epoch starts from: of a plan the last one so far. `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseSnapshot>,
    /// When that was made, RFC 3339: what the former master did after it is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_created_at: Option<String>,
    /// The mount of a slave that turns read-write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<PathBuf>,
    /// Why the last try did not get further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Mount a file system or a snapshot of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// The file system: full handle, TAG or UUID prefix.
    pub fs: String,
    /// Its bucket URL; may be left out for an instance that exists on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The snapshot (number, name or `latest`); only for a slave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Absolute path of an empty directory.
    pub mount_point: PathBuf,
    /// As what.
    pub role: Role,
    /// Of a slave: move to each new snapshot, and look for one every so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<u64>,
    /// Mount over a directory that is not empty.
    #[serde(default)]
    pub non_empty: bool,
    /// Never update access times.
    #[serde(default)]
    pub noatime: bool,
    /// From now on a master keeps at most this many bytes of data, KVS and journal; 0 lifts the
    /// limit. Left out, what was set before stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvs_limit: Option<u64>,
    /// Become master in a store that lets several creators of an object win: a person sees to it that there is one
    /// master.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub i_prevent_split_brain: bool,
}

/// Unmount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UmountRequest {
    /// A mount point (absolute path), an instance id, or a file system that has one mount.
    pub target: String,
    /// Detach now even when files are open.
    #[serde(default)]
    pub lazy: bool,
}

/// Ask for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// The file system: full handle, TAG or UUID prefix of a master on this node.
    pub fs: String,
    /// Optional unique name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who asks.
    pub kind: SnapshotKind,
}

/// A request for a snapshot, as its status log tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The file system.
    pub fs: Handle,
    /// Its number.
    pub number: SnapshotNumber,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who asked.
    pub kind: SnapshotKind,
    /// Where it stands.
    pub state: SnapshotState,
    /// Epoch of the master.
    pub epoch: Epoch,
    /// Its place in the queue: how many requests are carried out before it (0 when it runs, is next or
    /// is final).
    #[serde(default)]
    pub queue_place: u64,
    /// RFC 3339 time of the request.
    pub requested_at: String,
    /// RFC 3339 time of the last line of the log.
    pub updated_at: String,
    /// The cut's xid, once made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<Xid>,
    /// Inodes to persist (planned).
    #[serde(default)]
    pub inodes: u64,
    /// Files to persist (planned).
    #[serde(default)]
    pub files_total: u64,
    /// Files persisted.
    #[serde(default)]
    pub files_done: u64,
    /// Bytes to persist, uncompressed (planned).
    #[serde(default)]
    pub bytes_total: u64,
    /// Bytes persisted, uncompressed.
    #[serde(default)]
    pub bytes_done: u64,
    /// Objects made so far.
    #[serde(default)]
    pub objects_made: u64,
    /// Objects arrived in the bucket.
    #[serde(default)]
    pub objects_sent: u64,
    /// Bytes of objects made so far.
    #[serde(default)]
    pub made_bytes: u64,
    /// Bytes of objects arrived in the bucket.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Retries so far.
    #[serde(default)]
    pub retries: u64,
    /// Withdrawn: it ends as `cancelled` once the step at hand has ended, or as `complete` when its
    /// manifest existed already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelling: bool,
    /// Why it failed, or the reason of the last retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Type of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureType>,
}

/// What came of reading `cbfsd.toml` anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadInfo {
    /// The file; `None` when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Keys whose new values hold from now on.
    pub applied: Vec<String>,
    /// Keys whose new values hold after a restart of the daemon.
    pub needs_restart: Vec<String>,
}

/// What a master does by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleInfo {
    /// The file system.
    pub fs: Handle,
    /// Version of its settings; 0: none were set.
    pub version: u32,
    /// When snapshots are made, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// What is kept, in words.
    pub retention: String,
}

/// One event of `/v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // one at a time, and gone at once
pub enum DaemonEvent {
    /// A snapshot request changed.
    Snapshot {
        /// How it stands now.
        snapshot: SnapshotInfo,
    },
    /// An instance was mounted, unmounted or changed its health.
    Instance {
        /// How it stands now.
        instance: InstanceInfo,
    },
    /// Something that a person should read.
    Note {
        /// What.
        note: Note,
    },
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Info,
    /// It goes on, but not as it should.
    Warning,
    /// It needs a person.
    Error,
}

/// Something that happened, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// RFC 3339, by the node's clock.
    pub at: String,
    /// How much it matters.
    pub severity: Severity,
    /// The file system it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs: Option<Handle>,
    /// The snapshot it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotNumber>,
    /// What happened.
    pub text: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

/// Body of an error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// An error as JSON, from the API and from `cbfsctl --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// What the operator must do.
    pub kind: ErrorKind,
    /// What failed.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Causes, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
}

impl From<&Error> for ErrorBody {
    fn from(e: &Error) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                kind: e.kind(),
                message: e.to_string(),
                hint: e.hint_text().map(str::to_owned),
                causes: e.causes(),
            },
        }
    }
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Error {
        let detail = body.error;
        let mut error = Error::new(detail.kind, detail.message);
        if let Some(cause) = detail
            .causes
            .into_iter()
            .rev()
            .reduce(|inner, outer| format!("{outer}: {inner}"))
        {
            error = error.because(cause);
        }
        match detail.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
