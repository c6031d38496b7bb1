//! One in-memory table set of the KVS: rows of inodes, names, attributes and inline contents.
//! Three of them stack up above the SQLite files: `hot` (dirty, being written), `flushing` (dirty,
//! frozen while it is written out) and `cache` (clean).

use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_core::names::name_hash;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An inode as the KVS holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Its attributes.
    pub row: InodeRow,
    /// Number of its backing file; 0 when its contents are inline (or in the stack below).
    pub file: u64,
}

/// Position of a name within its directory.
pub type NameKey = (u64, Box<[u8]>);

/// The key of a name.
pub fn name_key(name: &[u8]) -> NameKey {
    (name_hash(name), name.into())
}

/// What a name stands for; `ino` `None` is a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dentry {
    /// The inode.
    pub ino: Option<Ino>,
    /// Its kind.
    pub kind: FileKind,
    /// The operation that wrote this.
    pub xid: Xid,
}

/// Value of an extended attribute; `None` is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// The value.
    pub value: Option<Arc<[u8]>>,
    /// The operation that wrote this.
    pub xid: Xid,
}

/// Contents of an inline file; `None` hides what lies below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    /// The bytes: at most as many as the file's size, the rest is zeros.
    pub data: Option<Arc<Vec<u8>>>,
    /// The operation that wrote this.
    pub xid: Xid,
}

/// Rough cost of a row in memory beside its variable part, for the memory bound.
const INODE_BYTES: usize = 200;
const DENTRY_BYTES: usize = 96;
const SMALL_BYTES: usize = 80;

/// A set of rows.
#[derive(Debug, Default)]
pub struct Table {
    /// Inodes.
    pub inodes: FxHashMap<Ino, Inode>,
    /// Names by directory.
    pub dentries: FxHashMap<Ino, BTreeMap<NameKey, Dentry>>,
    /// Targets of symlinks.
    pub links: FxHashMap<Ino, Arc<[u8]>>,
    /// Extended attributes by inode.
    pub xattrs: FxHashMap<Ino, BTreeMap<Vec<u8>, Xattr>>,
    /// Inline contents.
    pub inline: FxHashMap<Ino, Inline>,
    /// Files whose backing file changed: its number, 0 when they are inline again.
    pub backing: FxHashMap<Ino, u64>,
    /// Blocks of backing files, and when they were last written.
    pub blocks: FxHashMap<Ino, BTreeMap<u64, Xid>>,
    /// Where directories were last linked: for `..` while the row is not in the files yet.
    pub parents: FxHashMap<Ino, Ino>,
    /// Only in `cache`: directories all of whose names are known here (or above).
    pub complete: FxHashSet<Ino>,
    /// Only in `cache`: directories too large to be loaded whole.
    pub large: FxHashSet<Ino>,
    rows: usize,
    bytes: usize,
}

impl Table {
    /// Rows in it, roughly.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Memory it takes, roughly, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    fn added(&mut self, new: bool, bytes: usize) {
        if new {
            self.rows += 1;
            self.bytes += bytes;
        }
    }

    /// Set an inode.
    pub fn put_inode(&mut self, inode: Inode) {
        let new = self.inodes.insert(inode.row.ino, inode).is_none();
        self.added(new, INODE_BYTES);
    }

    /// Set a name.
    pub fn put_dentry(&mut self, parent: Ino, key: NameKey, dentry: Dentry) {
        let bytes = DENTRY_BYTES + key.1.len();
        let new = self
            .dentries
            .entry(parent)
            .or_default()
            .insert(key, dentry)
            .is_none();
        self.added(new, bytes);
    }

    /// Drop a name, where absence means the same as a tombstone.
    pub fn remove_dentry(&mut self, parent: Ino, key: &NameKey) {
        if let Some(names) = self.dentries.get_mut(&parent)
            && names.remove(key).is_some()
        {
            self.rows = self.rows.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(DENTRY_BYTES + key.1.len());
        }
    }

    /// Set the target of a symlink.
    pub fn put_link(&mut self, ino: Ino, target: Arc<[u8]>) {
        let bytes = SMALL_BYTES + target.len();
        let new = self.links.insert(ino, target).is_none();
        self.added(new, bytes);
    }

    /// Set an extended attribute.
    pub fn put_xattr(&mut self, ino: Ino, name: Vec<u8>, xattr: Xattr) {
        let bytes = SMALL_BYTES + name.len() + xattr.value.as_ref().map_or(0, |v| v.len());
        let new = self
            .xattrs
            .entry(ino)
            .or_default()
            .insert(name, xattr)
            .is_none();
        self.added(new, bytes);
    }

    /// Say that an inode has no attributes beyond those here (only in `cache`).
    pub fn touch_xattrs(&mut self, ino: Ino) {
        if let std::collections::hash_map::Entry::Vacant(slot) = self.xattrs.entry(ino) {
            slot.insert(BTreeMap::new());
            self.added(true, SMALL_BYTES);
        }
    }

    /// Set inline contents.
    pub fn put_inline(&mut self, ino: Ino, inline: Inline) {
        let after = inline.data.as_ref().map_or(0, |d| d.len());
        let before = self.inline.insert(ino, inline);
        let new = before.is_none();
        self.added(new, SMALL_BYTES);
        let old = before.and_then(|b| b.data).map_or(0, |d| d.len());
        self.bytes = self.bytes + after - old.min(self.bytes + after);
    }

    /// Take `bytes` of inline contents off the account: their row was emptied in place.
    pub fn forget_inline_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Note that a file's backing file changed.
    pub fn put_backing(&mut self, ino: Ino, file: u64) {
        let new = self.backing.insert(ino, file).is_none();
        self.added(new, 32);
    }

    /// Set when a block was last written.
    pub fn put_block(&mut self, ino: Ino, blk: u64, xid: Xid) {
        let new = self
            .blocks
            .entry(ino)
            .or_default()
            .insert(blk, xid)
            .is_none();
        self.added(new, 32);
    }

    /// Keep a clean table below `limit` bytes: the contents of inline files go first, then half of the
    /// rows, then all (one huge directory is dropped or kept as a whole). Afterwards there is room
    /// for a while: what this costs is spread over many rows. Goes through all rows: not for a lock that others wait for.
    pub fn bound(&mut self, limit: usize) {
        if self.bytes <= limit {
            return;
        }
        let enough = limit / 4 * 3;
        self.drop_inline();
        if self.bytes > enough {
            self.shrink();
        }
        if self.bytes > enough {
            self.take_rows();
        }
    }

    /// Take everything out but which directories are large. Costs nothing.
    pub fn take_rows(&mut self) -> Table {
        let large = std::mem::take(&mut self.large);
        std::mem::replace(
            self,
            Table {
                large,
                ..Table::default()
            },
        )
    }

    /// Put the rows of `newer`, a clean table too, over those here.
    pub fn cover_with(&mut self, newer: &Table) {
        for inode in newer.inodes.values() {
            self.put_inode(*inode);
        }
        for (parent, names) in &newer.dentries {
            for (key, dentry) in names {
                self.put_dentry(*parent, key.clone(), *dentry);
            }
        }
        for (ino, target) in &newer.links {
            self.put_link(*ino, Arc::clone(target));
        }
        for (ino, all) in &newer.xattrs {
            self.touch_xattrs(*ino);
            for (name, xattr) in all {
                self.put_xattr(*ino, name.clone(), xattr.clone());
            }
        }
        for (ino, inline) in &newer.inline {
            self.put_inline(*ino, inline.clone());
        }
        self.complete.extend(&newer.complete);
        self.large.extend(&newer.large);
    }

    /// Forget everything about directories' completeness and drop about half of the rows: the
    /// bound on memory of a clean table. Which half is arbitrary: the kernel's own caches above keep
    /// what is hot.
    fn shrink(&mut self) {
        fn halve<K: Copy + Eq + std::hash::Hash, V>(map: &mut FxHashMap<K, V>) {
            let mut keep = false;
            map.retain(|_, _| {
                keep = !keep;
                keep
            });
            map.shrink_to_fit();
        }
        halve(&mut self.inodes);
        halve(&mut self.dentries);
        halve(&mut self.links);
        halve(&mut self.xattrs);
        halve(&mut self.inline);
        halve(&mut self.backing);
        halve(&mut self.blocks);
        self.complete.retain(|ino| self.dentries.contains_key(ino));
        self.recount();
    }

    /// Drop the contents of inline files only (the bulk of a clean table).
    fn drop_inline(&mut self) {
        self.inline = FxHashMap::default();
        self.recount();
    }

    fn recount(&mut self) {
        let dentries: usize = self.dentries.values().map(BTreeMap::len).sum();
        let names: usize = self
            .dentries
            .values()
            .flat_map(|d| d.keys())
            .map(|(_, name)| name.len())
            .sum();
        let xattrs: usize = self.xattrs.values().map(|x| x.len().max(1)).sum();
        let blocks: usize = self.blocks.values().map(BTreeMap::len).sum();
        let inline: usize = self
            .inline
            .values()
            .filter_map(|i| i.data.as_ref())
            .map(|d| d.len())
            .sum();
        let small = self.links.len() + xattrs + self.inline.len() + self.backing.len();
        self.rows = self.inodes.len() + dentries + small + blocks;
        self.bytes = self.inodes.len() * INODE_BYTES
            + dentries * DENTRY_BYTES
            + names
            + small * SMALL_BYTES
            + blocks * 32
            + inline;
    }
}
