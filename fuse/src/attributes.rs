//! What a file system tells of its inodes.

use std::time::Duration;

/// Attributes of an inode, as stat(2) tells them. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number, also the FUSE node id.
    pub ino: u64,
    /// `st_mode`: kind and permission bits.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `st_rdev`.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size.
    pub blksize: u32,
    /// Last access.
    pub atime: i64,
    /// Last change of contents.
    pub mtime: i64,
    /// Last change of attributes.
    pub ctime: i64,
    /// Creation.
    pub btime: i64,
}

/// What setattr is to change; `None` leaves a field alone. The session has resolved "now".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// New permission bits (lower 12 bits).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New access time, nanoseconds since 1970.
    pub atime: Option<i64>,
    /// New modification time.
    pub mtime: Option<i64>,
    /// New change time (only sent by some kernels; otherwise "now").
    pub ctime: Option<i64>,
}

/// How long the kernel may keep what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePolicy {
    /// Names that exist.
    pub entry: Duration,
    /// Names that do not exist.
    pub negative: Duration,
    /// Attributes.
    pub attributes: Duration,
}

/// One entry of a directory listing.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where to go on after this entry (63 bit).
    pub cookie: u64,
    /// `(st_mode >> 12) & 0xf`.
    pub kind: u32,
    /// The name.
    pub name: &'a [u8],
}

/// What statfs(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemStatistics {
    /// Bytes per unit of the next three fields.
    pub block_size: u32,
    /// Size of the file system.
    pub blocks: u64,
    /// Free.
    pub free: u64,
    /// Free for ordinary users.
    pub available: u64,
    /// Inodes, used and free.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u32,
}
