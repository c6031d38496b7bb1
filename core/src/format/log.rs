//! `log.jsonl.zst`: the change log of a snapshot. One JSON object a line:
//! `{"xid":…,"time":"RFC 3339","events":[{"create":{…}}, …]}`; names that are not UTF-8 as
//! `name_hex`; contents of writes are left out.

use crate::ids::{Epoch, Ino, SnapshotNumber, Xid};
use crate::inode::{FileKind, InodeRow};
use crate::names::JsonName;
use serde::{Deserialize, Serialize};

/// One operation, as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Its number.
    pub xid: Xid,
    /// When, by the node's clock, as RFC 3339.
    pub time: String,
    /// What it did.
    pub events: Vec<LogEvent>,
}

/// Attributes of an inode after an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // as in the inode row
pub struct Attributes {
    pub ino: Ino,
    pub kind: FileKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub mtime: String,
    #[serde(default)]
    pub ctime: String,
}

impl Attributes {
    /// Those of a row.
    pub fn of(row: &InodeRow) -> Attributes {
        Attributes {
            ino: row.ino,
            kind: row.kind,
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            nlink: row.nlink,
            size: row.size,
            mtime: row.mtime.to_rfc3339(),
            ctime: row.ctime.to_rfc3339(),
        }
    }
}

/// A name and the directory it stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub parent: Ino,
    /// The name.
    #[serde(flatten)]
    pub name: JsonName,
}

impl Place {
    /// Encode.
    pub fn of(parent: Ino, name: &[u8]) -> Place {
        Place {
            parent,
            name: JsonName::new(name),
        }
    }
}

/// A part of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // names of fields as in the rows
#[serde(rename_all = "snake_case")]
pub enum LogEvent {
    /// An inode came into being.
    Create(Attributes),
    /// Attributes of an inode, all of them after the operation.
    Update(Attributes),
    /// An inode ended.
    Destroy { ino: Ino },
    /// A name came.
    Link {
        ino: Ino,
        kind: FileKind,
        #[serde(flatten)]
        at: Place,
    },
    /// A name went.
    Unlink {
        kind: FileKind,
        #[serde(flatten)]
        at: Place,
    },
    /// A name moved.
    Rename { ino: Ino, from: Place, to: Place },
    /// A symlink got its target.
    Target {
        ino: Ino,
        #[serde(flatten)]
        target: JsonName,
    },
    /// An extended attribute was set; `size` is that of its value.
    Setxattr {
        ino: Ino,
        size: usize,
        #[serde(flatten)]
        name: JsonName,
    },
    /// An extended attribute was removed.
    Removexattr {
        ino: Ino,
        #[serde(flatten)]
        name: JsonName,
    },
    /// Bytes were written.
    Write { ino: Ino, offset: u64, length: u64 },
    /// A small file moved to a backing file.
    Spill { ino: Ino, file: u64 },
    /// The size was set.
    Truncate { ino: Ino, size: u64 },
    /// Bytes became a hole.
    Hole { ino: Ino, from: u64, to: u64 },
    /// A snapshot was cut here.
    Cut { snapshot: SnapshotNumber },
    /// A new epoch began.
    Epoch { epoch: Epoch },
}
