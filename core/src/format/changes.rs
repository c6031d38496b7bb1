//! The metadata tarball's documents: `.cbfs/snapshot.json`, what the snapshot is, and
//! `.cbfs/changes.jsonl`, every row that changed, one JSON object a line (`docs/format.md`).
//!
//! Together with the contents in the data tarballs they say all that the layer says: layers can
//! be rebuilt from tarballs alone, and `jq` reads them.

use super::epoch::BaseSnapshot;
use super::manifest::XidRange;
use super::{FORMAT, Features};
use crate::error::{Context, Error, Result};
use crate::handle::Handle;
use crate::ids::{Epoch, Ino, SnapshotNumber, Xid};
use crate::inode::{FileKind, InodeRow};
use crate::layers::{DentryRow, HoleRow, XattrRow};
use crate::names::{JsonName, from_hex, name_hash, to_hex};
use crate::snapshot::SnapshotKind;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};

/// Member name of [`SnapshotRecord`].
pub const SNAPSHOT_MEMBER: &str = ".cbfs/snapshot.json";
/// Member name of the changes.
pub const CHANGES_MEMBER: &str = ".cbfs/changes.jsonl";

/// Member name of the attributes of an inode that has no member under its path.
pub fn attributes_member(ino: Ino) -> String {
    format!(".cbfs/attributes/{ino}")
}

/// Member name of a patch: the bytes of `ino` from `offset` on.
pub fn patch_member(ino: Ino, offset: u64) -> String {
    format!(".cbfs/patch/{ino}/{offset}")
}

/// `.cbfs/snapshot.json`: which snapshot this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Format of this document and of the changes beside it.
    pub format: u32,
    /// Features a reader must know.
    pub features: Features,
    /// The file system.
    pub fs: Handle,
    /// The snapshot's number.
    pub number: SnapshotNumber,
    /// The epoch of the master that made it.
    pub epoch: Epoch,
    /// The attempt whose objects these are.
    pub attempt: String,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who asked for it.
    pub kind: SnapshotKind,
    /// The transactions in it since the parent.
    pub xid: XidRange,
    /// The snapshot it builds on; `None` (null) for the first.
    pub parent: Option<BaseSnapshot>,
    /// RFC 3339, as in the manifest.
    pub created_at: String,
    /// Bytes per block, as in the config object: what `CBFS.blk` counts.
    pub block_size: u64,
}

impl SnapshotRecord {
    /// The current format number, for writers. [`super::parse`] reads the document.
    pub const FORMAT: u32 = FORMAT;
}

/// How a member of a data tarball gives an inode's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberForm {
    /// The whole file; it replaces all that was.
    File,
    /// One block, to be written at `offset`.
    Patch,
    /// A further name of a file of the same snapshot.
    HardLink,
    /// A symlink.
    Symlink,
    /// A fifo or a device.
    Special,
    /// A directory.
    Directory,
}

/// A target or path as JSON: text where it is UTF-8, else hex under a second key. Which keys is up
/// to the owner.
fn split(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(to_hex(bytes))),
    }
}

fn join(text: Option<&String>, hex: Option<&String>, what: &str) -> Result<Vec<u8>> {
    text.map(|t| t.as_bytes().to_vec())
        .or_else(|| hex.and_then(|h| from_hex(h)))
        .ok_or_else(|| Error::damage(format!("a row of the changes has no {what}")))
}

/// A changed directory entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DentryChange {
    /// The directory.
    pub parent: Ino,
    /// The name.
    #[serde(flatten)]
    pub name: JsonName,
    /// What it names; null: the name is gone.
    pub ino: Option<Ino>,
    /// Kind of the inode.
    pub kind: FileKind,
    /// The operation that changed it.
    pub xid: Xid,
}

/// A new symlink's target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChange {
    /// The symlink.
    pub ino: Ino,
    /// The target, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The target in hex, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_hex: Option<String>,
}

/// A changed extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XattrChange {
    /// The inode.
    pub ino: Ino,
    /// The full name.
    #[serde(flatten)]
    pub name: JsonName,
    /// The value in base64 (RFC 4648, padded); null: removed.
    pub value: Option<String>,
    /// The operation that changed it.
    pub xid: Xid,
}

/// Bytes that hold no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoleChange {
    /// The file.
    pub ino: Ino,
    /// First byte.
    pub from: u64,
    /// The byte after the last.
    pub to: u64,
    /// The operation that made the hole.
    pub xid: Xid,
}

/// Where an inode's contents are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberChange {
    /// The inode.
    pub ino: Ino,
    /// The member's path, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The member's path in hex, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// Number of the data tarball, from 1.
    pub tarball: u32,
    /// What it is.
    pub form: MemberForm,
    /// Where a patch begins in the file, in bytes; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes of a patch; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The `xid` of each extent row that points into the member, in their order. Where the blocks
    /// lie is told by the tarball; when they were written stands only here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<Xid>,
}

/// One line of the changes. Lines come in the order of these variants, rows of a table in the
/// order of their primary keys, members in the order in which they lie in the tarballs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "lowercase")]
pub enum Change {
    /// The attributes of an inode, or its tombstone.
    Inode(InodeRow),
    /// A directory entry, or its tombstone.
    Dentry(DentryChange),
    /// A symlink's target.
    Link(LinkChange),
    /// An extended attribute, or its tombstone.
    Xattr(XattrChange),
    /// Bytes that hold no data.
    Hole(HoleChange),
    /// Where contents are.
    Member(MemberChange),
}

impl Change {
    /// The line for a dentry row.
    pub fn dentry(row: &DentryRow) -> Change {
        let DentryRow {
            parent,
            name,
            ino,
            kind,
            xid,
            ..
        } = row;
        let name = JsonName::new(name);
        Change::Dentry(DentryChange {
            parent: *parent,
            name,
            ino: *ino,
            kind: *kind,
            xid: *xid,
        })
    }

    /// The line for a symlink's target.
    pub fn link(ino: Ino, bytes: &[u8]) -> Change {
        let (target, target_hex) = split(bytes);
        Change::Link(LinkChange {
            ino,
            target,
            target_hex,
        })
    }

    /// The line for an attribute.
    pub fn xattr(row: &XattrRow) -> Change {
        let value = row.value.as_ref().map(|v| STANDARD.encode(v));
        let name = JsonName::new(&row.name);
        Change::Xattr(XattrChange {
            ino: row.ino,
            name,
            value,
            xid: row.xid,
        })
    }

    /// The line for a hole.
    pub fn hole(row: &HoleRow) -> Change {
        Change::Hole(HoleChange {
            ino: row.ino,
            from: row.from,
            to: row.to,
            xid: row.xid,
        })
    }

    /// The line for a member; `patch` is offset and size of one.
    pub fn member(
        ino: Ino,
        path: &[u8],
        tarball: u32,
        form: MemberForm,
        patch: Option<(u64, u64)>,
    ) -> Change {
        let (path, path_hex) = split(path);
        let (offset, size) = patch.unzip();
        Change::Member(MemberChange {
            ino,
            path,
            path_hex,
            tarball,
            form,
            offset,
            size,
            xids: Vec::new(),
        })
    }

    /// A member's line with the xids of its extents; other lines stay as they are.
    #[must_use]
    pub fn with_xids(mut self, of_extents: Vec<Xid>) -> Change {
        if let Change::Member(member) = &mut self {
            member.xids = of_extents;
        }
        self
    }
}

impl DentryChange {
    /// As a row. [`crate::ErrorKind::Damage`] when it has no name.
    pub fn row(&self) -> Result<DentryRow> {
        let name = self.name.bytes();
        let name = name.ok_or_else(|| Error::damage("a dentry of the changes has no name"))?;
        let DentryChange {
            parent,
            ino,
            kind,
            xid,
            ..
        } = *self;
        Ok(DentryRow {
            parent,
            hash: name_hash(&name),
            name,
            ino,
            kind,
            xid,
        })
    }
}

impl LinkChange {
    /// The target's bytes. [`crate::ErrorKind::Damage`] when it has none.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        join(self.target.as_ref(), self.target_hex.as_ref(), "target")
    }
}

impl MemberChange {
    /// The path's bytes. [`crate::ErrorKind::Damage`] when it has none.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        join(self.path.as_ref(), self.path_hex.as_ref(), "path")
    }
}

impl XattrChange {
    /// As a row. [`crate::ErrorKind::Damage`] when it has no name or the value is no base64.
    pub fn row(&self) -> Result<XattrRow> {
        let name = self.name.bytes();
        let name = name.ok_or_else(|| Error::damage("an xattr of the changes has no name"))?;
        let decode = |text: &String| {
            STANDARD.decode(text).map_err(|e| {
                Error::damage(format!("an xattr of inode {} is no base64", self.ino)).because(e)
            })
        };
        let value = self.value.as_ref().map(decode).transpose()?;
        Ok(XattrRow {
            ino: self.ino,
            name,
            value,
            xid: self.xid,
        })
    }
}

impl HoleChange {
    /// As a row.
    pub fn row(&self) -> HoleRow {
        HoleRow {
            ino: self.ino,
            from: self.from,
            to: self.to,
            xid: self.xid,
        }
    }
}

/// Append one line.
pub fn write_change(out: &mut impl Write, change: &Change) -> Result<()> {
    let failed = || "the list of changes could not be written".to_owned();
    serde_json::to_writer(&mut *out, change).context(failed)?;
    out.write_all(b"\n").context(failed)
}

/// Iterate over the lines of `.cbfs/changes.jsonl`. A line that is no change is
/// [`crate::ErrorKind::Damage`] and named by its number, from 1.
pub fn read_changes(source: impl BufRead) -> impl Iterator<Item = Result<Change>> {
    source.split(b'\n').zip(1u64..).map(|(line, number)| {
        let line = line.context(|| "the list of changes could not be read".to_owned())?;
        serde_json::from_slice(&line).map_err(|e| {
            Error::damage(format!("line {number} of the changes is damaged")).because(e)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_survives_the_round_trip() {
        let name = b"caf\xe9\n".to_vec();
        let (parent, hash, kind, xid) = (Ino(1), name_hash(&name), FileKind::CharDevice, Xid(9));
        let dentry = DentryRow {
            parent,
            hash,
            name: name.clone(),
            ino: None,
            kind,
            xid,
        };
        let xattr = XattrRow {
            ino: Ino(5),
            name,
            value: Some(vec![0, 255, 10]),
            xid,
        };
        let hole = HoleRow {
            ino: Ino(5),
            from: 0,
            to: 1 << 40,
            xid,
        };
        let changes = [
            Change::Inode(InodeRow::tombstone(Ino((1 << 48) + 5), Xid(u64::MAX >> 1))),
            Change::dentry(&dentry),
            Change::link(Ino(6), b"\xff"),
            Change::xattr(&xattr),
            Change::hole(&hole),
            Change::member(Ino(5), b"d/a", 1, MemberForm::HardLink, None),
            Change::member(Ino(5), b"d/\xfe", 1, MemberForm::Patch, Some((4096, 7)))
                .with_xids(vec![Xid(3), Xid(4)]),
        ];
        let mut bytes = Vec::new();
        for change in &changes {
            write_change(&mut bytes, change).unwrap();
        }
        let back: Vec<Change> = read_changes(bytes.as_slice()).map(Result::unwrap).collect();
        assert_eq!(back, changes);
        let (Change::Dentry(d), Change::Link(l), Change::Xattr(x), Change::Member(m)) =
            (&back[1], &back[2], &back[3], &back[6])
        else {
            panic!("other variants");
        };
        assert_eq!(d.row().unwrap(), dentry);
        assert_eq!(l.bytes().unwrap(), b"\xff");
        assert_eq!(x.row().unwrap(), xattr);
        assert_eq!(m.bytes().unwrap(), b"d/\xfe");
    }

    #[test]
    fn lines_look_as_the_format_page_says() {
        let line = |change| {
            let mut bytes = Vec::new();
            write_change(&mut bytes, &change).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(
            line(Change::member(Ino(7), b"d/a", 1, MemberForm::File, None)),
            "{\"row\":\"member\",\"ino\":7,\"path\":\"d/a\",\"tarball\":1,\"form\":\"file\"}\n"
        );
        let damaged = read_changes(&b"{\"row\":\"other\"}\n"[..]).next().unwrap();
        assert_eq!(damaged.unwrap_err().kind(), crate::ErrorKind::Damage);
    }
}
