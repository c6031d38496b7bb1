//! readdir: a merge of the tables in memory with the files, in the order of the name hash, which is
//! also the cookie. So a listing resumes exactly, whatever changes in between: every entry that
//! stays is told once.
//!
//! Two names of one directory with the same 63-bit hash share a cookie; were a reply to end exactly
//! between them, the second would be left out. With a million names that has a chance of 1 in 10^7
//! to exist at all.

use super::Instance;
use crate::kvs::{Dentry, NameKey};
use cbfs_core::ids::Ino;
use cbfs_core::inode::FileKind;
use cbfs_core::layers::Layer;
use cbfs_core::names::NAME_MAX;
use cbfs_fuse::{DirectoryEntry, DirectorySink, Errno, OpResult};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Entries gathered at a time.
const CHUNK: usize = 256;

/// Cookies after `.` and `..`.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl Instance {
    pub(super) fn op_readdir(
        &self,
        ino: Ino,
        cookie: u64,
        sink: &mut dyn DirectorySink,
    ) -> OpResult<()> {
        let inode = self.read(|tables| tables.inode_row(ino))?;
        if inode.row.gone {
            return Err(Errno::ENOENT.into());
        }
        if inode.row.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        let mut cookie = cookie;
        let directory = FileKind::Directory.code();
        if cookie < DOT {
            let entry = DirectoryEntry {
                ino: ino.0,
                cookie: DOT,
                kind: directory,
                name: b".",
            };
            if !sink.push(entry, &mut || self.attributes(&inode).ok()) {
                return Ok(());
            }
            cookie = DOT;
            self.touch_atime(&inode.row);
        }
        if cookie < DOT_DOT {
            let parent = self.parent_of(ino)?;
            let entry = DirectoryEntry {
                ino: parent.0,
                cookie: DOT_DOT,
                kind: directory,
                name: b"..",
            };
            let attributes = &mut || self.op_getattr(parent).ok();
            if !sink.push(entry, attributes) {
                return Ok(());
            }
            cookie = DOT_DOT;
        }
        loop {
            let entries = self.entries_after(ino, cookie)?;
            let Some(((last, _), _)) = entries.last() else {
                return Ok(());
            };
            cookie = *last;
            for ((hash, name), child) in &entries {
                let Dentry {
                    ino: Some(child),
                    kind,
                    ..
                } = child
                else {
                    continue;
                };
                let entry = DirectoryEntry {
                    ino: child.0,
                    cookie: *hash,
                    kind: kind.code(),
                    name,
                };
                let mut told = false;
                let taken = sink.push(entry, &mut || {
                    let attributes = self.op_getattr(*child).ok();
                    told = attributes.is_some();
                    attributes
                });
                if !taken {
                    return Ok(());
                }
                if told {
                    self.count_lookup(*child);
                }
            }
        }
    }

    /// The next entries after a cookie, tombstones included; none at the end.
    fn entries_after(&self, dir: Ino, cookie: u64) -> OpResult<Vec<(NameKey, Dentry)>> {
        let from = (cookie + 1, Box::<[u8]>::default());
        loop {
            let generation = {
                let tables = self.kvs.tables();
                if tables.cache.complete.contains(&dir) {
                    let memory = [
                        Some(&tables.cache),
                        tables.flushing.as_deref(),
                        Some(&tables.hot),
                    ];
                    let mut merged = BTreeMap::new();
                    let mut horizon: Option<NameKey> = None;
                    for table in memory.into_iter().flatten() {
                        let Some(names) = table.dentries.get(&dir) else {
                            continue;
                        };
                        let mut seen = 0;
                        for (key, dentry) in names.range(from.clone()..).take(CHUNK) {
                            merged.insert(key.clone(), *dentry);
                            seen += 1;
                            if seen == CHUNK {
                                lower(&mut horizon, key);
                            }
                        }
                    }
                    return Ok(up_to(merged, horizon.as_ref()));
                }
                tables.generation
            };
            // Names of one hash stay together: the position is past every possible name of it.
            let past = [0xff; NAME_MAX + 1];
            let rows = self
                .kvs
                .files()
                .stack
                .scan_dir(dir, Some((cookie, &past)), CHUNK)
                .map_err(|e| self.eio(&e))?;
            let tables = self.kvs.tables();
            if tables.generation != generation {
                continue;
            }
            let more = rows.len() == CHUNK;
            let mut merged: BTreeMap<NameKey, Dentry> = BTreeMap::new();
            for row in rows {
                let dentry = Dentry {
                    ino: row.ino,
                    kind: row.kind,
                    xid: row.xid,
                };
                merged.insert((row.hash, row.name.into()), dentry);
            }
            let mut horizon = if more {
                merged.last_key_value().map(|(key, _)| key.clone())
            } else {
                None
            };
            for table in [tables.flushing.as_deref(), Some(&tables.hot)]
                .into_iter()
                .flatten()
            {
                let Some(names) = table.dentries.get(&dir) else {
                    continue;
                };
                let range = (Bound::Included(from.clone()), Bound::Unbounded);
                let mut seen = 0;
                for (key, dentry) in names.range(range).take(CHUNK) {
                    merged.insert(key.clone(), *dentry);
                    seen += 1;
                    if seen == CHUNK {
                        lower(&mut horizon, key);
                    }
                }
            }
            return Ok(up_to(merged, horizon.as_ref()));
        }
    }

    /// The directory that holds a directory.
    fn parent_of(&self, ino: Ino) -> OpResult<Ino> {
        if ino == Ino::ROOT {
            return Ok(ino);
        }
        {
            let tables = self.kvs.tables();
            let memory = [Some(&tables.hot), tables.flushing.as_deref()];
            if let Some(parent) = memory
                .into_iter()
                .flatten()
                .find_map(|t| t.parents.get(&ino))
            {
                return Ok(*parent);
            }
        }
        let names = self
            .kvs
            .files()
            .stack
            .names_of(ino)
            .map_err(|e| self.eio(&e))?;
        // An unlinked directory that is still open has no parent any more.
        Ok(names
            .into_iter()
            .find(|n| n.ino == Some(ino))
            .map_or(ino, |n| n.parent))
    }
}

/// One source was cut short at `key`: nothing past it may be told yet.
fn lower(horizon: &mut Option<NameKey>, key: &NameKey) {
    if horizon.as_ref().is_none_or(|h| key < h) {
        *horizon = Some(key.clone());
    }
}

fn up_to(merged: BTreeMap<NameKey, Dentry>, horizon: Option<&NameKey>) -> Vec<(NameKey, Dentry)> {
    let within = |key: &NameKey| horizon.is_none_or(|h| key <= h);
    merged
        .into_iter()
        .take_while(|(key, _)| within(key))
        .collect()
}
