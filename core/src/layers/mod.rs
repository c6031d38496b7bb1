//! Layers: what changed, as a database. One schema for the index of a snapshot, for the KVS of a
//! master, and for merged layers; one read trait over all of them.
//!
//! Rules of reading, shared by every implementation (DESIGN: layers):
//!
//! - A stack is read newest first. A row or tombstone in a higher layer hides the same key below;
//!   an `inode` row with `gone` hides all rows of that inode below (inode numbers are never reused,
//!   so nothing above can mean another file).
//! - Bytes at or past an inode row's `min_size` read as zero in the layers below that row.
//! - A `hole` range reads as zero in the layers below. Within its own layer it only says that
//!   those bytes hold no data; an `extent` always describes the block's whole content at the cut:
//!   its section holds the block's bytes **without** the hole ranges of the same layer.
//! - A `zero` range reads as zero on top of the extents of its own layer: their sections do hold bytes
//!   there. Only merged layers have any ([`merge`]): an extent of a lower layer and the hole that a
//!   higher one made in its middle are in one layer then. Holes and zeros of a layer never overlap.
//! - Scans are merges on the primary key.

mod database;
pub mod merge;
pub mod paths;
mod ranges;
pub mod rows;
pub mod schema;
mod stack;

pub use database::{LayerDb, open_immutable};
pub(crate) use database::{create_for_building, finish_building};
pub use stack::{BlockContent, Stack, assemble};

use crate::error::Result;
use crate::ids::{Ino, SnapshotNumber, Xid};
use crate::inode::{FileKind, InodeRow};

/// One directory entry, or its tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DentryRow {
    /// The directory.
    pub parent: Ino,
    /// [`crate::names::name_hash`] of `name`: order within the directory, and cookie.
    pub hash: u64,
    /// The name.
    pub name: Vec<u8>,
    /// What it names; `None` is a tombstone.
    pub ino: Option<Ino>,
    /// Kind of the inode (of the former one, in a tombstone).
    pub kind: FileKind,
    /// The operation that wrote this row.
    pub xid: Xid,
}

/// One extended attribute, or its tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XattrRow {
    /// The inode.
    pub ino: Ino,
    /// Full name, with its `user.` or other prefix.
    pub name: Vec<u8>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The operation that wrote this row.
    pub xid: Xid,
}

/// Where the content of `n` consecutive blocks lies: block `blk + i` is in section `section + i`
/// of `snapshot`, from byte `offset` of the decompressed section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentRow {
    /// The file.
    pub ino: Ino,
    /// First block (in units of the file system's block size).
    pub blk: u64,
    /// How many blocks.
    pub n: u64,
    /// The snapshot whose tarballs hold them.
    pub snapshot: SnapshotNumber,
    /// Section of the first block.
    pub section: u64,
    /// Byte offset within the decompressed section; 0 unless `n` is 1.
    pub offset: u64,
    /// The last operation that changed any of the blocks.
    pub xid: Xid,
}

/// Bytes `from..to` of a file that hold no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoleRow {
    /// The file.
    pub ino: Ino,
    /// First byte.
    pub from: u64,
    /// The byte after the last.
    pub to: u64,
    /// The operation that made the hole.
    pub xid: Xid,
}

/// Where to find the TOC of a snapshot that extents of a layer point at (table `source`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRow {
    /// The snapshot.
    pub snapshot: SnapshotNumber,
    /// Key of its TOC object, relative to the file system's prefix.
    pub toc_key: String,
    /// Bytes of the TOC object as stored.
    pub toc_size: u64,
    /// BLAKE3 of the TOC object as stored, hex.
    pub toc_blake3: String,
}

/// Read access to a layer, the KVS, or a stack of them. Answers are of one layer as it stands: for
/// a single layer `None` means "not in this layer, ask below"; tombstones are answered as such. For
/// a [`Stack`] hidden rows are already left out, but tombstones at its top are still told.
pub trait Layer: Send + Sync {
    /// The attributes of an inode.
    fn inode(&self, ino: Ino) -> Result<Option<InodeRow>>;

    /// One name in a directory.
    fn dentry(&self, parent: Ino, name: &[u8]) -> Result<Option<DentryRow>>;

    /// Up to `limit` entries of a directory in the order of (hash, name), after the position
    /// `after` (exclusive; `None` from the start). Tombstones included. Fewer than `limit` rows
    /// means the end.
    fn scan_dir(
        &self,
        parent: Ino,
        after: Option<(u64, &[u8])>,
        limit: usize,
    ) -> Result<Vec<DentryRow>>;

    /// All entries (and tombstones) that name `ino`, in the order of (parent, hash, name).
    /// Tombstones do not remember what they named: those of a layer are not included.
    fn names_of(&self, ino: Ino) -> Result<Vec<DentryRow>>;

    /// The target of a symlink.
    fn link(&self, ino: Ino) -> Result<Option<Vec<u8>>>;

    /// The extended attributes of an inode, by name; tombstones included.
    fn xattrs(&self, ino: Ino) -> Result<Vec<XattrRow>>;

    /// The extents that cover any of the blocks `from..to`, by block.
    fn extents(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<ExtentRow>>;

    /// The holes that cover any of the bytes `from..to`, by offset.
    fn holes(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<HoleRow>>;

    /// The bytes within `from..to` that are zero on top of this layer's own extents, by offset; whole
    /// rows. Only merged layers have any.
    fn zeroes(&self, _ino: Ino, _from: u64, _to: u64) -> Result<Vec<HoleRow>> {
        Ok(Vec::new())
    }

    /// Where the TOC of `snapshot` lies, if this layer knows.
    fn source(&self, snapshot: SnapshotNumber) -> Result<Option<SourceRow>>;
}
