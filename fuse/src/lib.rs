//! The [`FileSystem`] trait and the FUSE session that serves one. Knows nothing of KVS or cloud:
//! the transport (today `/dev/fuse` through fuser) can change behind this crate's API.
//!
//! Node ids are inode numbers and there are no handles: `open`, `opendir` and `create` are
//! answered ENOSYS once, after which the kernel opens files without asking (no-open) and
//! creates them with `mknod`. Whatever must wait for the bucket is moved off the session
//! threads: an operation is first called with [`Patience::Never`]; when it answers
//! [`Refusal::MustWait`] the session calls it again with [`Patience::MayWait`] on a worker thread.

mod attributes;
mod errno;
mod filesystem;
mod session;

pub use attributes::{
    Attributes, CachePolicy, DirectoryEntry, FileSystemStatistics, SetAttributes,
};
pub use errno::Errno;
pub use filesystem::{Caller, DirectorySink, FileSystem, OpResult, Patience, Refusal, Reparented};
pub use session::{MountOptions, Notifier, Session, detach_stale, is_mount_point, is_stale};
