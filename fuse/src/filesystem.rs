//! The trait a file system implements to be served.

use crate::{Attributes, CachePolicy, DirectoryEntry, Errno, FileSystemStatistics, SetAttributes};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Effective user (fsuid).
    pub uid: u32,
    /// Effective group (fsgid).
    pub gid: u32,
    /// Thread id; 0 for kernel work such as write-back.
    pub pid: u32,
}

/// Whether an operation may wait for the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Called on a session thread: answer [`Refusal::MustWait`] rather than wait.
    Never,
    /// Called on a worker thread: may wait, for a bounded time.
    MayWait,
}

/// Why an operation was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The answer is this error.
    Errno(Errno),
    /// It needs the bucket: call again with [`Patience::MayWait`]. Nothing was changed.
    MustWait,
}

impl From<Errno> for Refusal {
    fn from(e: Errno) -> Refusal {
        Refusal::Errno(e)
    }
}

/// Result of an operation.
pub type OpResult<T> = Result<T, Refusal>;

/// Directories whose parent an operation changed.
pub type Reparented = [Option<u64>; 2];

/// Takes the entries of a directory listing.
pub trait DirectorySink {
    /// Add an entry with its attributes where the request wants them (`attributes` is only called
    /// then; `None` from it lists the entry without). Returns `false` when the reply is full and the entry was not
    /// taken. An entry that was taken with attributes counts as a lookup of its inode, unless its
    /// name is `.` or `..`.
    fn push(
        &mut self,
        entry: DirectoryEntry<'_>,
        attributes: &mut dyn FnMut() -> Option<Attributes>,
    ) -> bool;
}

/// A file system. All methods are called from several threads at once. Names are 1 to 255 bytes
/// without `/` and NUL; permission checks are the kernel's (`default_permissions`).
///
/// Every `Ok` of `lookup`, `mknod`, `mkdir`, `symlink` and `link`, and every entry taken by a sink with
/// attributes, raises the kernel's lookup count of that inode by one; `forget` lowers it. An inode
/// without names lives until its count is 0.
pub trait FileSystem: Send + Sync + 'static {
    /// How long the kernel may keep answers.
    fn cache_policy(&self) -> CachePolicy;

    /// [`FileSystem::cache_policy`] for one inode: its attributes, names that stand for it, and names that a
    /// directory has not. For a listing the policy of the directory holds for all its entries.
    fn cache_policy_of(&self, _ino: u64) -> CachePolicy {
        self.cache_policy()
    }

    /// The inode a name stands for. `ENOENT` is cached as [`CachePolicy::negative`] says.
    fn lookup(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<Attributes>;

    /// The kernel drops `count` lookups of an inode.
    fn forget(&self, ino: u64, count: u64);

    /// Attributes.
    fn getattr(&self, patience: Patience, ino: u64) -> OpResult<Attributes>;

    /// Change attributes; answers all of them after the change.
    fn setattr(
        &self,
        patience: Patience,
        caller: Caller,
        ino: u64,
        change: &SetAttributes,
    ) -> OpResult<Attributes>;

    /// The target of a symlink.
    fn readlink(&self, patience: Patience, ino: u64) -> OpResult<Vec<u8>>;

    /// Create a regular file or special file; `mode` has the kind, `umask` is not yet applied.
    fn mknod(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> OpResult<Attributes>;

    /// Create a directory.
    fn mkdir(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
    ) -> OpResult<Attributes>;

    /// Create a symlink.
    fn symlink(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        target: &[u8],
    ) -> OpResult<Attributes>;

    /// Another name for an inode.
    fn link(&self, patience: Patience, ino: u64, at: (u64, &[u8])) -> OpResult<Attributes>;

    /// Remove a name of anything but a directory.
    fn unlink(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<()>;

    /// Remove an empty directory.
    fn rmdir(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<()>;

    /// rename(2) with the flags of renameat2(2) (`RENAME_NOREPLACE` 1, `RENAME_EXCHANGE` 2). Answers the directories
    /// that came to lie in another one: the kernel's listing of them has an old `..`.
    fn rename(
        &self,
        patience: Patience,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
    ) -> OpResult<Reparented>;

    /// Up to `size` bytes from `offset`; fewer only at the end of the file.
    fn read(&self, patience: Patience, ino: u64, offset: u64, size: u32) -> OpResult<Vec<u8>>;

    /// Write all of `data` at `offset`, or fail.
    fn write(&self, patience: Patience, ino: u64, offset: u64, data: &[u8]) -> OpResult<()>;

    /// Make a file's (or directory's) changes survive power loss.
    fn fsync(&self, patience: Patience, ino: u64, datasync: bool) -> OpResult<()>;

    /// List a directory from after `cookie` (0 is the start), `.` and `..` included.
    fn readdir(
        &self,
        patience: Patience,
        ino: u64,
        cookie: u64,
        sink: &mut dyn DirectorySink,
    ) -> OpResult<()>;

    /// Statistics.
    fn statfs(&self) -> OpResult<FileSystemStatistics>;

    /// Set an extended attribute; `flags` as in setxattr(2) (`XATTR_CREATE` 1, `XATTR_REPLACE` 2).
    /// `kill_sgid` comes with an access ACL whose caller is neither privileged nor in the file's
    /// group: the sgid bit goes, as with chmod(2).
    fn setxattr(
        &self,
        patience: Patience,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> OpResult<()>;

    /// The value of an extended attribute; `ENODATA` when it has none of that name.
    fn getxattr(&self, patience: Patience, ino: u64, name: &[u8]) -> OpResult<Vec<u8>>;

    /// Names of all extended attributes.
    fn listxattr(&self, patience: Patience, ino: u64) -> OpResult<Vec<Vec<u8>>>;

    /// Remove an extended attribute.
    fn removexattr(&self, patience: Patience, ino: u64, name: &[u8]) -> OpResult<()>;

    /// fallocate(2), with its mode bits.
    fn fallocate(
        &self,
        patience: Patience,
        ino: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> OpResult<()>;

    /// lseek(2) with `SEEK_DATA` (3) or `SEEK_HOLE` (4); `ENXIO` past the end.
    fn seek(&self, patience: Patience, ino: u64, offset: u64, whence: u32) -> OpResult<u64>;

    /// copy_file_range(2); answers the bytes copied.
    fn copy_range(
        &self,
        patience: Patience,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> OpResult<u64>;
}
