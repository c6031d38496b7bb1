//! What comes in and what goes out of [`crate::update::update`]: everything that happens is a message, everything
//! that is to be done an effect.

use crate::bucket_view::{BucketView, ViewKey};
use cbfs_core::api::{
    DaemonEvent, DaemonStatus, ErrorBody, ErrorDetail, MountRequest, PromotionInfo, SnapshotInfo,
    SnapshotRequest, UmountRequest,
};
use cbfs_core::error::Error;
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::snapshot::StatusLine;
use crossterm::event::{KeyEvent, MouseEvent};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Message {
    /// A key was pressed.
    Key(KeyEvent),
    /// The mouse did something.
    Mouse(MouseEvent),
    /// The terminal has another size: columns, rows.
    Resize(u16, u16),
    /// A second has passed.
    Tick,
    /// A daemon (by its place among the sockets) was heard of.
    Daemon(usize, News),
    /// An action came to its end.
    Done {
        /// The daemon it was for.
        daemon: usize,
        /// The file system it was about.
        fs: Option<Handle>,
        /// What was done (`snapshot 7 is asked for`), or what was tried and why it failed.
        result: Result<String, (String, Failure)>,
        /// Whether the bucket looks otherwise now.
        bucket_changed: bool,
    },
    /// The bucket was looked at.
    Bucket(ViewKey, Result<Box<BucketView>, Failure>),
    /// A status log was read.
    Log {
        /// The daemon that has it.
        daemon: usize,
        /// The file system.
        fs: Handle,
        /// Whose.
        number: SnapshotNumber,
        /// Its lines.
        result: Result<Vec<StatusLine>, Failure>,
    },
    /// What a promotion would do: daemon, previous epoch, plan.
    Plan(usize, Epoch, Box<PromotionInfo>),
    /// The process is asked to end.
    Quit,
}

/// What a daemon tells, or that it does not.
#[derive(Debug, Clone)]
pub enum News {
    /// How all stands.
    Status(Box<DaemonStatus>),
    /// All requests for snapshots of a file system.
    Requests(Handle, Vec<SnapshotInfo>),
    /// An event.
    Event(Box<DaemonEvent>),
    /// It does not answer; the next try follows after so many milliseconds.
    Lost(Failure, u64),
}

/// An error as it is shown.
pub type Failure = ErrorDetail;

/// The error as it is shown.
pub fn failure(error: &Error) -> Failure {
    ErrorBody::from(error).error
}

/// Something to be done, outside of the state and without waiting for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask a daemon for a snapshot.
    CreateSnapshot(usize, SnapshotRequest),
    /// Withdraw a request.
    Cancel(usize, Handle, SnapshotNumber),
    /// Take up a failed or cancelled request again.
    Retry(usize, Handle, SnapshotNumber),
    /// Mark a snapshot deleted, in its bucket.
    DeleteSnapshot(usize, ViewKey, BaseSnapshot),
    /// Mount.
    Mount(usize, MountRequest),
    /// Unmount.
    Umount(usize, UmountRequest),
    /// Let a slave that follows look for a newer snapshot, by its id.
    RefreshSlave(usize, String),
    /// Ask what a promotion would do; the previous epoch must be this.
    PlanPromotion(usize, Handle, Epoch),
    /// Promote: the previous epoch must be this.
    Promote(usize, Handle, Epoch),
    /// Look at a bucket; what is known already need not be read again.
    LookAtBucket(ViewKey, Box<BucketView>),
    /// Read the status log of a request.
    ReadLog(usize, Handle, SnapshotNumber),
    /// Try to reach a daemon now.
    Reconnect(usize),
}
