//! What can be done to a file system, and how it is written down for a replay.

use crate::case::Case;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A path below the root, `""` being the root itself. Components are plain names, except `L`,
/// which stands for a name of 255 bytes that is no UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place(pub String);

impl Place {
    /// Its names.
    pub(crate) fn names(&self) -> impl Iterator<Item = Vec<u8>> {
        self.0.split('/').filter(|n| !n.is_empty()).map(name_of)
    }

    /// The path below `root`, without a trailing slash.
    pub(crate) fn below(&self, root: &Path) -> PathBuf {
        self.names().fold(root.to_owned(), |path, name| {
            path.join(OsStr::from_bytes(&name))
        })
    }

    /// The place of a name in this directory.
    pub(crate) fn join(&self, name: &str) -> Place {
        if self.0.is_empty() {
            Place(name.to_owned())
        } else {
            Place(format!("{}/{name}", self.0))
        }
    }

    /// The directory that holds it; of the root, the root.
    pub(crate) fn parent(&self) -> Place {
        let end = self.0.rfind('/').unwrap_or(0);
        Place(self.0[..end].to_owned())
    }
}

fn name_of(component: &str) -> Vec<u8> {
    match component {
        "L" => [0xff].into_iter().chain([b'l'; 254]).collect(),
        plain => plain.as_bytes().to_vec(),
    }
}

/// What a name in a crowd is called.
pub(crate) fn crowd_name(n: u32) -> String {
    format!("one-of-many-{n:04}")
}

/// Kinds of special files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Special {
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device nobody drives; without root a fifo.
    Device,
}

/// How renameat2(2) is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Renaming {
    /// Replaces.
    Plain,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
}

/// How fallocate(2) is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Allocation {
    /// Within the range, growing the file.
    Grow,
    /// Space beyond the end.
    Keep,
    /// A hole.
    Punch,
    /// Zeros, growing the file.
    Zero,
    /// Zeros within the file.
    ZeroKeep,
}

/// How setxattr(2) is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Setting {
    /// Sets or replaces.
    Any,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

/// Seconds and nanoseconds.
pub(crate) type Stamp = (i64, i64);

/// Bytes to write: `length` of them, of a kind that `seed` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bytes {
    pub seed: u64,
    pub length: u64,
}

impl Bytes {
    /// The bytes themselves.
    pub(crate) fn make(self) -> Vec<u8> {
        cbfs_tests::contents::noise(self.seed, self.length as usize)
    }
}

/// One step of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[rustfmt::skip] // one line each
pub(crate) enum Operation {
    Create { at: Place, mode: u32 },
    Mkdir { at: Place, mode: u32 },
    Mknod { at: Place, mode: u32, special: Special },
    Symlink { at: Place, length: usize },
    Link { from: Place, to: Place },
    Unlink { at: Place },
    Rmdir { at: Place },
    Rename { from: Place, to: Place, how: Renaming },
    Write { at: Place, offset: u64, bytes: Bytes, create: bool },
    Append { at: Place, bytes: Bytes },
    Truncate { at: Place, size: u64 },
    Allocate { at: Place, how: Allocation, offset: u64, length: u64 },
    CopyRange { from: Place, to: Place, from_offset: u64, to_offset: u64, length: u64 },
    SetXattr { at: Place, name: String, value: Bytes, how: Setting },
    RemoveXattr { at: Place, name: String },
    Chmod { at: Place, mode: u32 },
    Chown { at: Place, uid: u32, gid: Option<u32> },
    SetTimes { at: Place, atime: Option<Stamp>, mtime: Stamp },
    Read { at: Place },
    List { at: Place },
    Fsync { at: Place },
    /// Open for reading and writing, creating it if need be; what the slot held is closed.
    Open { slot: usize, at: Place },
    WriteOpen { slot: usize, offset: u64, bytes: Bytes },
    TruncateOpen { slot: usize, size: u64 },
    ReadOpen { slot: usize },
    Close { slot: usize },
    /// Many empty files in one directory; those that are there stay.
    Crowd { at: Place, count: u32 },
    /// Remove every `every`th of them.
    Disperse { at: Place, every: u32 },
    /// Take a snapshot; go on once it is cut, or once it is complete.
    Snapshot { complete: bool },
    /// Mount one of the snapshots on another node, and compare.
    CompareSnapshot { nth: usize },
    /// `kill -9` the daemon, start it again, compare.
    Kill,
    /// End the daemon in order, start it again, compare.
    Restart,
    /// Unmount, mount, compare.
    Remount,
}

impl Operation {
    /// The places it names.
    pub(crate) fn places(&self) -> Vec<&Place> {
        use Operation as O;
        match self {
            O::Create { at, .. }
            | O::Mkdir { at, .. }
            | O::Mknod { at, .. }
            | O::Symlink { at, .. }
            | O::Unlink { at }
            | O::Rmdir { at }
            | O::Write { at, .. }
            | O::Append { at, .. }
            | O::Truncate { at, .. }
            | O::Allocate { at, .. }
            | O::SetXattr { at, .. }
            | O::RemoveXattr { at, .. }
            | O::Chmod { at, .. }
            | O::Chown { at, .. }
            | O::SetTimes { at, .. }
            | O::Read { at }
            | O::List { at }
            | O::Fsync { at }
            | O::Open { at, .. }
            | O::Crowd { at, .. }
            | O::Disperse { at, .. } => vec![at],
            O::Link { from, to } | O::Rename { from, to, .. } | O::CopyRange { from, to, .. } => {
                vec![from, to]
            }
            _ => Vec::new(),
        }
    }

    /// Whether it opens what it names, which would wait on a pipe or reach for a device.
    pub(crate) fn opens(&self) -> bool {
        use Operation as O;
        matches!(
            self,
            O::Write { .. }
                | O::Append { .. }
                | O::Truncate { .. }
                | O::Allocate { .. }
                | O::CopyRange { .. }
                | O::Read { .. }
                | O::Fsync { .. }
                | O::Open { .. }
        )
    }
}

/// A case as text: its setting, then one operation a line.
pub(crate) fn print(case: &Case) -> String {
    let line = |value: serde_json::Value| format!("{value}\n");
    let setting =
        serde_json::json!({ "small_tables": case.small_tables, "neighbour": case.neighbour });
    let lines = case.operations.iter();
    std::iter::once(setting)
        .chain(lines.map(|o| serde_json::to_value(o).unwrap()))
        .map(line)
        .collect()
}

/// The inverse of [`print`]. Empty lines and lines that begin with `#` say nothing.
pub(crate) fn parse(text: &str) -> Result<Case, serde_json::Error> {
    #[derive(Deserialize)]
    struct Head {
        small_tables: bool,
        #[serde(default)]
        neighbour: bool,
    }
    let mut lines = text
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
    let head: Head = serde_json::from_str(lines.next().unwrap_or_default())?;
    Ok(Case {
        small_tables: head.small_tables,
        neighbour: head.neighbour,
        operations: lines.map(serde_json::from_str).collect::<Result<_, _>>()?,
    })
}
