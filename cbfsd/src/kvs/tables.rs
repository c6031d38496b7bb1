//! The in-memory tables as a whole, and how an operation changes them. Authoritative for
//! everything not yet in SQLite; all of it is behind one mutex that is held for microseconds.
//!
//! Reads answer [`Miss`] when a row is not in memory; the caller leaves the lock, loads the row
//! from the files ([`super::Kvs::load`]) and starts over. So nothing under the lock waits for SQLite.

use super::table::{Dentry, Inline, Inode, NameKey, Table, Xattr, name_key};
use crate::journal::Event;
use cbfs_core::error::{Error, Result};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::{FileKind, InodeRow, Timestamp};
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A row that is not in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// An inode.
    Inode(Ino),
    /// A name in a directory.
    Dentry(Ino, NameKey),
    /// The extended attributes of an inode.
    Xattrs(Ino),
    /// The contents of an inline file.
    Inline(Ino),
    /// The target of a symlink.
    Link(Ino),
}

/// Result of a read of memory.
pub type Found<T> = Result<T, Miss>;

/// What is counted of the file system as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inodes alive.
    pub inodes: u64,
    /// Sum of the sizes of regular files.
    pub bytes: u64,
}

/// The tables.
pub struct Tables {
    /// Dirty rows, being written.
    pub hot: Table,
    /// Dirty rows while they are written to SQLite.
    pub flushing: Option<Arc<Table>>,
    /// Clean rows.
    pub cache: Table,
    /// Raised whenever rows begin to move from `flushing` to `cache`, and when they have: a row read from the files, or taken
    /// out of the cache, before that may be stale. So it is odd meanwhile.
    pub generation: u64,
    /// The last operation applied.
    pub xid: Xid,
    /// The next inode number.
    pub next_ino: Ino,
    /// The last operation before the present `active` file: rows older than this start a new
    /// `min_size`.
    pub last_cut: Xid,
    /// Inodes without a name that are still alive.
    pub orphans: FxHashSet<Ino>,
    /// Sums.
    pub counters: Counters,
    /// Bytes per block of a backing file.
    pub block_size: u64,
}

impl Tables {
    /// Whether rows of a flush are moving into the cache.
    pub(super) fn is_retiring(&self) -> bool {
        !self.generation.is_multiple_of(2)
    }

    /// An inode, dead or alive; `None` is "never was".
    pub fn inode_row(&self, ino: Ino) -> Found<Inode> {
        if let Some(inode) = self.hot.inodes.get(&ino) {
            return Ok(*inode);
        }
        if let Some(inode) = self.flushing.as_ref().and_then(|t| t.inodes.get(&ino)) {
            return Ok(*inode);
        }
        self.cache.inodes.get(&ino).copied().ok_or(Miss::Inode(ino))
    }

    /// What a name stands for; `None` is "nothing".
    pub fn dentry(&self, parent: Ino, key: &NameKey) -> Found<Option<Dentry>> {
        let of = |table: &Table| {
            table
                .dentries
                .get(&parent)
                .and_then(|d| d.get(key))
                .copied()
        };
        let found = of(&self.hot)
            .or_else(|| self.flushing.as_deref().and_then(of))
            .or_else(|| of(&self.cache));
        match found {
            Some(Dentry { ino: None, .. }) => Ok(None),
            Some(dentry) => Ok(Some(dentry)),
            None if self.cache.complete.contains(&parent) => Ok(None),
            None => Err(Miss::Dentry(parent, key.clone())),
        }
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Found<Option<Arc<[u8]>>> {
        let of = |table: &Table| table.xattrs.get(&ino).and_then(|x| x.get(name)).cloned();
        if let Some(xattr) = of(&self.hot).or_else(|| self.flushing.as_deref().and_then(of)) {
            return Ok(xattr.value);
        }
        match self.cache.xattrs.get(&ino) {
            Some(all) => Ok(all.get(name).and_then(|x| x.value.clone())),
            None => Err(Miss::Xattrs(ino)),
        }
    }

    /// All extended attributes.
    pub fn xattrs(&self, ino: Ino) -> Found<BTreeMap<Vec<u8>, Arc<[u8]>>> {
        let mut all = self
            .cache
            .xattrs
            .get(&ino)
            .ok_or(Miss::Xattrs(ino))?
            .clone();
        for table in self.flushing.as_deref().into_iter().chain([&self.hot]) {
            if let Some(changes) = table.xattrs.get(&ino) {
                all.extend(changes.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
        }
        Ok(all
            .into_iter()
            .filter_map(|(name, x)| Some((name, x.value?)))
            .collect())
    }

    /// The inline contents of a file; `None` when it has none in the KVS (its contents, if any,
    /// are in the stack below).
    pub fn inline(&self, ino: Ino) -> Found<Option<Arc<Vec<u8>>>> {
        let of = |table: &Table| table.inline.get(&ino).cloned();
        of(&self.hot)
            .or_else(|| self.flushing.as_deref().and_then(of))
            .or_else(|| of(&self.cache))
            .map(|inline| inline.data)
            .ok_or(Miss::Inline(ino))
    }

    /// When the inline contents of a file were last written, if that is known in memory.
    pub fn inline_xid(&self, ino: Ino) -> Option<Xid> {
        let of = |table: &Table| table.inline.get(&ino).map(|i| i.xid);
        of(&self.hot)
            .or_else(|| self.flushing.as_deref().and_then(of))
            .or_else(|| of(&self.cache))
    }

    /// When a block was last written, where that is in the dirty tables.
    pub fn dirty_block(&self, ino: Ino, blk: u64) -> Option<Xid> {
        let of = |table: &Table| table.blocks.get(&ino).and_then(|b| b.get(&blk)).copied();
        of(&self.hot).or_else(|| self.flushing.as_deref().and_then(of))
    }

    /// The target of a symlink.
    pub fn link(&self, ino: Ino) -> Found<Arc<[u8]>> {
        let of = |table: &Table| table.links.get(&ino).cloned();
        of(&self.hot)
            .or_else(|| self.flushing.as_deref().and_then(of))
            .or_else(|| of(&self.cache))
            .ok_or(Miss::Link(ino))
    }

    /// Memory of the dirty rows, in bytes.
    pub fn dirty_bytes(&self) -> usize {
        self.hot.bytes() + self.flushing.as_ref().map_or(0, |t| t.bytes())
    }

    /// What `events` need in memory before they can be applied.
    pub fn needs(&self, events: &[Event]) -> Found<()> {
        for event in events {
            match event {
                Event::InodeUpdate(row) => drop(self.inode_row(row.ino)?),
                Event::Write { ino, data, .. } => {
                    self.inode_row(*ino)?;
                    if data.is_some() {
                        self.inline(*ino)?;
                    }
                }
                Event::Spill { ino, .. } => {
                    self.inode_row(*ino)?;
                    self.inline(*ino)?;
                }
                Event::InodeDestroy { ino } | Event::Hole { ino, .. } => {
                    self.inode_row(*ino)?;
                }
                Event::Truncate { ino, size } => {
                    let inode = self.inode_row(*ino)?;
                    if inode.file == 0 && *size > 0 && *size < inode.row.size {
                        self.inline(*ino)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Apply an operation: the same code for a live one and for its replay. Whatever
    /// [`Tables::needs`] names must be in memory.
    pub fn apply(&mut self, xid: Xid, time: Timestamp, events: &[Event]) -> Result<()> {
        for event in events {
            self.apply_one(xid, time, event).map_err(|miss| {
                Error::damage(format!(
                    "transaction {xid} needs a row that does not exist: {miss:?}"
                ))
            })?;
        }
        self.xid = xid;
        Ok(())
    }

    fn apply_one(&mut self, xid: Xid, time: Timestamp, event: &Event) -> Found<()> {
        match event {
            Event::InodeCreate(row) => {
                self.next_ino = self.next_ino.max(Ino(row.ino.0 + 1));
                self.counters.inodes += 1;
                // A new inode has no attributes and a new directory no names: no file needs asking.
                self.cache.touch_xattrs(row.ino);
                match row.kind {
                    FileKind::Directory => drop(self.cache.complete.insert(row.ino)),
                    FileKind::File => {
                        self.hot.put_inline(
                            row.ino,
                            Inline {
                                data: Some(Arc::default()),
                                xid,
                            },
                        );
                    }
                    _ => {}
                }
                self.put(Inode { row: *row, file: 0 }, xid);
            }
            Event::InodeUpdate(row) => {
                let before = self.inode_row(row.ino)?;
                self.count_bytes(&before.row, row);
                self.put(
                    Inode {
                        row: *row,
                        file: before.file,
                    },
                    xid,
                );
            }
            Event::InodeDestroy { ino } => {
                let before = self.inode_row(*ino)?;
                if !before.row.gone {
                    self.counters.inodes = self.counters.inodes.saturating_sub(1);
                }
                let row = InodeRow::tombstone(*ino, xid);
                self.count_bytes(&before.row, &row);
                self.hot.put_inline(*ino, Inline { data: None, xid });
                if before.file != 0 {
                    self.hot.put_backing(*ino, 0);
                }
                self.put(Inode { row, file: 0 }, xid);
            }
            Event::DentryLink {
                parent,
                name,
                ino,
                kind,
            } => {
                let dentry = Dentry {
                    ino: Some(*ino),
                    kind: *kind,
                    xid,
                };
                self.hot.put_dentry(*parent, name_key(name), dentry);
                if *kind == FileKind::Directory {
                    self.hot.parents.insert(*ino, *parent);
                }
            }
            Event::DentryUnlink { parent, name, kind } => {
                let dentry = Dentry {
                    ino: None,
                    kind: *kind,
                    xid,
                };
                self.hot.put_dentry(*parent, name_key(name), dentry);
            }
            Event::SymlinkTarget { ino, target } => {
                self.hot.put_link(*ino, target.as_slice().into())
            }
            Event::XattrSet { ino, name, value } => {
                let xattr = Xattr {
                    value: Some(value.as_slice().into()),
                    xid,
                };
                self.hot.put_xattr(*ino, name.clone(), xattr);
            }
            Event::XattrRemove { ino, name } => {
                self.hot
                    .put_xattr(*ino, name.clone(), Xattr { value: None, xid });
            }
            Event::Write {
                ino,
                offset,
                length,
                data,
            } => {
                let mut inode = self.inode_row(*ino)?;
                let before = inode.row;
                let end = offset + length;
                if let Some(bytes) = data {
                    let mut content = self.take_inline(*ino)?;
                    let whole = Arc::make_mut(&mut content);
                    if whole.len() < end as usize {
                        whole.resize(end as usize, 0);
                    }
                    whole[*offset as usize..end as usize].copy_from_slice(bytes);
                    self.hot.put_inline(
                        *ino,
                        Inline {
                            data: Some(content),
                            xid,
                        },
                    );
                } else {
                    for blk in offset / self.block_size..end.div_ceil(self.block_size) {
                        self.hot.put_block(*ino, blk, xid);
                    }
                }
                inode.row.size = inode.row.size.max(end);
                inode.row.mtime = time;
                inode.row.ctime = time;
                self.count_bytes(&before, &inode.row);
                self.put(inode, xid);
            }
            Event::Spill { ino, file } => {
                let mut inode = self.inode_row(*ino)?;
                // Contents that are only in the stack below stay there, block by block.
                if self.inline(*ino)?.is_some() {
                    for blk in 0..inode.row.size.div_ceil(self.block_size) {
                        self.hot.put_block(*ino, blk, xid);
                    }
                }
                self.hot.put_inline(*ino, Inline { data: None, xid });
                inode.file = *file;
                self.hot.put_backing(*ino, *file);
                self.put(inode, xid);
            }
            Event::Truncate { ino, size } => self.apply_truncate(xid, *ino, *size)?,
            Event::Hole { ino, from, to } => {
                for blk in from / self.block_size..to.div_ceil(self.block_size) {
                    self.hot.put_block(*ino, blk, xid);
                }
            }
            Event::Cut { .. } => self.last_cut = xid,
            Event::Rename { .. } | Event::Epoch { .. } | Event::SyncMark { .. } => {}
        }
        Ok(())
    }

    fn apply_truncate(&mut self, xid: Xid, ino: Ino, size: u64) -> Found<()> {
        let mut inode = self.inode_row(ino)?;
        let before = inode.row;
        if size == 0 {
            if inode.file != 0 {
                inode.file = 0;
                self.hot.put_backing(ino, 0);
            }
            self.hot.put_inline(
                ino,
                Inline {
                    data: Some(Arc::default()),
                    xid,
                },
            );
        } else if inode.file == 0 && size < inode.row.size && self.inline(ino)?.is_some() {
            // (Contents that are only in the stack below stay there: `min_size` cuts them.)
            let mut content = self.take_inline(ino)?;
            if content.len() as u64 > size {
                Arc::make_mut(&mut content).truncate(size as usize);
            }
            self.hot.put_inline(
                ino,
                Inline {
                    data: Some(content),
                    xid,
                },
            );
        } else if inode.file != 0 && size < inode.row.size && !size.is_multiple_of(self.block_size)
        {
            // The tail of the last block is zero from now on: the block has changed.
            self.hot.put_block(ino, size / self.block_size, xid);
        }
        inode.row.size = size;
        self.count_bytes(&before, &inode.row);
        self.put(inode, xid);
        Ok(())
    }

    /// The inline contents, taken out of `hot` where they are there, so that a write need not copy.
    fn take_inline(&mut self, ino: Ino) -> Found<Arc<Vec<u8>>> {
        if let Some(inline) = self.hot.inline.get_mut(&ino)
            && let Some(data) = &mut inline.data
        {
            // The length stays accounted until `put_inline` replaces the row.
            let taken = std::mem::take(data);
            self.hot.forget_inline_bytes(taken.len());
            return Ok(taken);
        }
        Ok(self.inline(ino)?.unwrap_or_default())
    }

    /// Store an inode that `xid` changed: keeps `min_size` and the orphan list.
    fn put(&mut self, mut inode: Inode, xid: Xid) {
        let row = &mut inode.row;
        row.xid = xid;
        if let Ok(before) = self.inode_row(row.ino) {
            let base = if before.row.xid <= self.last_cut {
                before.row.size
            } else {
                before.row.min_size
            };
            row.min_size = base.min(row.size);
        } else {
            row.min_size = 0;
        }
        if row.nlink == 0 && !row.gone {
            self.orphans.insert(row.ino);
        } else {
            self.orphans.remove(&row.ino);
        }
        self.hot.put_inode(inode);
    }

    fn count_bytes(&mut self, before: &InodeRow, after: &InodeRow) {
        let size = |row: &InodeRow| {
            if row.kind == FileKind::File && !row.gone {
                row.size
            } else {
                0
            }
        };
        self.counters.bytes = (self.counters.bytes + size(after)).saturating_sub(size(before));
    }
}
