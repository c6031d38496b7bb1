//! What of the things the kernel knows is different in another snapshot.
//!
//! Only what differs and is known matters: what the kernel has never heard of it cannot have wrong. So the cost
//! is that of the smaller set: rows of the layers that only the next snapshot has, or inodes the kernel knows.

use cbfs_core::cloud_snapshot::{OpenLayer, inodes_touched, names_touched};
use cbfs_core::diff::{own_layers, same_contents};
use cbfs_core::error::Result;
use cbfs_core::ids::Ino;
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_core::layers::{DentryRow, Layer, Stack};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names read from a directory at a time.
const CHUNK: usize = 4096;

/// A snapshot as the layers it is read from.
#[derive(Debug, Clone)]
pub struct Layers {
    /// Newest first. None when the stack is more than layers.
    pub layers: Arc<[OpenLayer]>,
    /// The same as one.
    pub stack: Arc<Stack>,
}

/// What may differ.
pub(super) enum Candidates {
    /// What the rows of some layers are about: the next snapshot builds on the present one.
    Rows {
        inodes: FxHashSet<Ino>,
        names: FxHashMap<Ino, Vec<Vec<u8>>>,
    },
    /// Anything: layers were merged, or the snapshots are of two branches.
    Anything,
}

impl Candidates {
    /// Between two snapshots. Cost: the rows that only the next one has.
    pub(super) fn between(present: &Layers, next: &Layers) -> Result<Candidates> {
        let (gone, new) = own_layers(&present.layers, &next.layers);
        if !gone.is_empty() || present.layers.is_empty() {
            return Ok(Candidates::Anything);
        }
        let inodes = inodes_touched(new)?.into_iter().collect();
        let mut names: FxHashMap<Ino, Vec<Vec<u8>>> = FxHashMap::default();
        for row in names_touched(new)? {
            names.entry(row.parent).or_default().push(row.name);
        }
        Ok(Candidates::Rows { inodes, names })
    }
}

/// What the kernel has wrong once the next snapshot is served.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Files whose contents are others, or that are gone.
    pub(super) files: Vec<Ino>,
    /// Inodes that are the same but for their attributes.
    pub(super) attributes: Vec<Ino>,
    /// Directories that have other names in them.
    pub(super) directories: Vec<Ino>,
    /// Names that stand for another file now, or for none.
    pub(super) names: Vec<(Ino, Vec<u8>)>,
}

impl Difference {
    /// Add what differs of these inodes, which the kernel knows.
    pub(super) fn add(
        &mut self,
        known: &[Ino],
        candidates: &Candidates,
        present: &Stack,
        next: &Stack,
    ) -> Result<()> {
        for ino in known {
            match candidates {
                Candidates::Rows { inodes, names } => {
                    if inodes.contains(ino) {
                        self.inode(*ino, present, next)?;
                    }
                    if let Some(names) = names.get(ino) {
                        self.some_names(*ino, names, present, next)?;
                    }
                }
                Candidates::Anything => {
                    let directory = self.inode(*ino, present, next)?;
                    if directory {
                        self.all_names(*ino, present, next)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Answers whether it is a directory.
    fn inode(&mut self, ino: Ino, present: &Stack, next: &Stack) -> Result<bool> {
        let alive =
            |stack: &Stack| Ok::<_, cbfs_core::Error>(stack.inode(ino)?.filter(|r| !r.gone));
        let Some(old) = alive(present)? else {
            // It is of an older snapshot still, and held by its instance.
            return Ok(false);
        };
        let directory = old.kind == FileKind::Directory;
        match alive(next)? {
            Some(new) => {
                if old.kind == FileKind::File && !same_contents((present, &old), (next, &new))? {
                    self.file(ino, present)?;
                } else if !same_attributes(&old, &new) {
                    self.attributes.push(ino);
                }
            }
            None if directory => self.attributes.push(ino),
            // Who has it open goes on reading, as after unlink(2).
            None => self.file(ino, present)?,
        }
        Ok(directory)
    }

    fn file(&mut self, ino: Ino, present: &Stack) -> Result<()> {
        self.files.push(ino);
        let names = present.names_of(ino)?.into_iter();
        let own = names.filter(|row| row.ino == Some(ino));
        self.names.extend(own.map(|row| (row.parent, row.name)));
        Ok(())
    }

    fn some_names(
        &mut self,
        parent: Ino,
        names: &[Vec<u8>],
        present: &Stack,
        next: &Stack,
    ) -> Result<()> {
        let mut stirred = false;
        for name in names {
            let of = |stack: &Stack| {
                Ok::<_, cbfs_core::Error>(stack.dentry(parent, name)?.and_then(|d| d.ino))
            };
            if of(present)? != of(next)? {
                stirred = true;
                self.names.push((parent, name.clone()));
            }
        }
        if stirred {
            self.directories.push(parent);
        }
        Ok(())
    }

    fn all_names(&mut self, parent: Ino, present: &Stack, next: &Stack) -> Result<()> {
        let (mut before, after) = (listing(present, parent)?, listing(next, parent)?);
        let mut changed = Vec::new();
        for (name, ino) in after {
            if before.remove(&name) != Some(ino) {
                changed.push(name);
            }
        }
        changed.extend(before.into_keys());
        if !changed.is_empty() {
            self.directories.push(parent);
        }
        self.names
            .extend(changed.into_iter().map(|name| (parent, name)));
        Ok(())
    }
}

/// The names of a directory and what they stand for.
fn listing(stack: &Stack, parent: Ino) -> Result<BTreeMap<Vec<u8>, Ino>> {
    let mut all = BTreeMap::new();
    let mut after: Option<(u64, Vec<u8>)> = None;
    loop {
        let from = after.as_ref().map(|(hash, name)| (*hash, name.as_slice()));
        let rows: Vec<DentryRow> = stack.scan_dir(parent, from, CHUNK)?;
        let end = rows.len() < CHUNK;
        after = rows.last().map(|row| (row.hash, row.name.clone()));
        for row in rows {
            if let Some(ino) = row.ino {
                all.insert(row.name, ino);
            }
        }
        if end {
            return Ok(all);
        }
    }
}

/// Whether the kernel is told the same of both.
fn same_attributes(old: &InodeRow, new: &InodeRow) -> bool {
    // Neither of them is told.
    let new = InodeRow {
        xid: old.xid,
        min_size: old.min_size,
        ..*new
    };
    *old == new
}
