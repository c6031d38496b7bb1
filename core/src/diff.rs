//! What differs between two snapshots, from their indexes alone: no contents are read.
//!
//! Layers that both stacks share at their bottom say the same in both, so only inodes that the other
//! layers touch are compared: when one snapshot builds on the other, the cost is in proportion to
//! what changed between them; without any shared layer all inodes are compared.
//!
//! Inodes are compared, not paths: a renamed directory is one entry, and what lies in it is none. An
//! inode that took the place of another one of the same kind at the same path (as editors save files)
//! is one that changed. *Contents* differ when the size or the blocks that are read do: a block that
//! was written anew with the same bytes counts as changed. Access times are not compared, nor the
//! times of directories in which names came or went.

use crate::cloud_snapshot::{CloudSnapshot, OpenLayer, inodes_touched, names_touched};
use crate::error::Result;
use crate::ids::{Ino, SnapshotNumber};
use crate::inode::{FileKind, InodeRow};
use crate::layers::paths::Paths;
use crate::layers::{Layer, Stack};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is only in the first snapshot.
    Removed,
    /// It is only in the second.
    Added,
    /// Its contents (or a symlink's target) differ.
    Changed,
    /// It had another path in the first snapshot.
    Renamed,
    /// Only its attributes differ.
    Metadata,
}

/// In what a path that is in both snapshots differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// Size or blocks of a file, target of a symlink.
    Contents,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Extended attributes, ACLs among them.
    Xattrs,
    /// Time of the last change of contents.
    Mtime,
    /// Time of the last change of attributes; told only when nothing else differs.
    Ctime,
    /// Device number.
    Device,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What became of it.
    pub change: Change,
    /// The path in the second snapshot, of what was removed the one in the first. Relative; the
    /// root's is empty.
    pub path: Vec<u8>,
    /// The path in the first snapshot of what was renamed.
    pub from: Option<Vec<u8>>,
    /// The inode in the second snapshot, of what was removed in the first.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Bytes in the first snapshot, if it is there.
    pub old_size: Option<u64>,
    /// Bytes in the second snapshot, if it is there.
    pub size: Option<u64>,
    /// What differs, sorted.
    pub differs: Vec<Aspect>,
}

/// All differences, by the bytes of `path`; of one path, what was removed comes first.
///
/// # Errors
/// Those of the layers.
pub fn diff(first: &CloudSnapshot, second: &CloudSnapshot) -> Result<Vec<Entry>> {
    let (a, b) = own_layers(first.layers(), second.layers());
    Comparison::of(first.stack(), second.stack(), &[a, b])?.run()
}

/// The layers of each that the other does not have below it: what the others say is the same in both.
pub fn own_layers<'l>(
    first: &'l [OpenLayer],
    second: &'l [OpenLayer],
) -> (&'l [OpenLayer], &'l [OpenLayer]) {
    let pairs = first.iter().rev().zip(second.iter().rev());
    let shared = pairs.take_while(|(a, b)| a.object == b.object).count();
    (
        &first[..first.len() - shared],
        &second[..second.len() - shared],
    )
}

/// A name of an inode.
type Name = (Ino, Vec<u8>);

struct Comparison<'a> {
    a: &'a Stack,
    b: &'a Stack,
    /// Inodes that may differ.
    candidates: BTreeSet<Ino>,
    /// Directories in which names came or went.
    stirred: HashSet<Ino>,
    old_paths: Paths<'a>,
    new_paths: Paths<'a>,
    entries: Vec<Entry>,
}

impl<'a> Comparison<'a> {
    /// Find the candidates in the layers that are not shared.
    fn of(a: &'a Stack, b: &'a Stack, layers: &[&[OpenLayer]]) -> Result<Comparison<'a>> {
        let mut candidates = BTreeSet::new();
        let mut stirred = HashSet::new();
        for layers in layers {
            candidates.extend(inodes_touched(layers)?);
            for row in names_touched(layers)? {
                let (old, new) = (
                    a.dentry(row.parent, &row.name)?.and_then(|d| d.ino),
                    b.dentry(row.parent, &row.name)?.and_then(|d| d.ino),
                );
                if old != new {
                    stirred.insert(row.parent);
                    candidates.extend([old, new].into_iter().flatten());
                }
            }
        }
        Ok(Comparison {
            a,
            b,
            candidates,
            stirred,
            old_paths: Paths::new(a),
            new_paths: Paths::new(b),
            entries: Vec::new(),
        })
    }

    fn run(mut self) -> Result<Vec<Entry>> {
        for ino in std::mem::take(&mut self.candidates) {
            self.inode(ino)?;
        }
        self.join_replaced()?;
        self.entries
            .sort_by(|x, y| (&x.path, x.change, x.ino).cmp(&(&y.path, y.change, y.ino)));
        Ok(self.entries)
    }

    fn inode(&mut self, ino: Ino) -> Result<()> {
        let (old, new) = (alive(self.a, ino)?, alive(self.b, ino)?);
        let (before, after) = (names(self.a, ino)?, names(self.b, ino)?);
        let kept: Vec<Name> = before.intersection(&after).cloned().collect();
        let mut lost: Vec<Name> = before.difference(&after).cloned().collect();
        let mut gained: Vec<Name> = after.difference(&before).cloned().collect();
        if let (Some(old), Some(new)) = (old, new) {
            let mut differs = self.aspects(&old, &new)?;
            for (from, to) in renamed(&mut lost, &mut gained) {
                let (Some(from), Some(path)) = (self.old_path(&from)?, self.new_path(&to)?) else {
                    continue;
                };
                differs.retain(|aspect| *aspect != Aspect::Ctime);
                let change = Change::Renamed;
                let from = Some(from);
                self.push(change, path, from, Some(&old), Some(&new), differs.clone());
            }
            if before != after {
                differs.retain(|aspect| *aspect != Aspect::Ctime);
            }
            if let Some(change) = change_of(&differs) {
                for name in &kept {
                    if let Some(path) = self.new_path(name)? {
                        let differs = differs.clone();
                        self.push(change, path, None, Some(&old), Some(&new), differs);
                    }
                }
            }
        }
        for (names, row, change) in [(lost, old, Change::Removed), (gained, new, Change::Added)] {
            let Some(row) = row else { continue };
            for name in names {
                let (path, old, new) = match change {
                    Change::Removed => (self.old_path(&name)?, Some(&row), None),
                    _ => (self.new_path(&name)?, None, Some(&row)),
                };
                if let Some(path) = path {
                    self.push(change, path, None, old, new, Vec::new());
                }
            }
        }
        Ok(())
    }

    /// What was removed and what was added under the same path are one, if of the same kind.
    fn join_replaced(&mut self) -> Result<()> {
        let mut removed: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        let mut entries = Vec::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            match entry.change {
                Change::Removed => drop(removed.insert(entry.path.clone(), entry)),
                _ => entries.push(entry),
            }
        }
        for mut entry in entries {
            let same_kind = |old: &&Entry| old.kind == entry.kind;
            if entry.change == Change::Added
                && removed.get(&entry.path).filter(same_kind).is_some()
                && let Some(gone) = removed.remove(&entry.path)
                && let (Some(old), Some(new)) =
                    (alive(self.a, gone.ino)?, alive(self.b, entry.ino)?)
            {
                let mut differs = self.aspects(&old, &new)?;
                differs.retain(|aspect| *aspect != Aspect::Ctime);
                let Some(change) = change_of(&differs) else {
                    continue;
                };
                (entry.change, entry.differs) = (change, differs);
                entry.old_size = gone.old_size;
            }
            self.entries.push(entry);
        }
        self.entries.extend(removed.into_values());
        Ok(())
    }

    /// In what an inode (or the one that replaced it) differs.
    fn aspects(&self, old: &InodeRow, new: &InodeRow) -> Result<Vec<Aspect>> {
        let is_dir = new.kind == FileKind::Directory;
        let stirred = is_dir
            && (old.ino != new.ino
                || self.stirred.contains(&old.ino)
                || self.stirred.contains(&new.ino));
        let contents = match new.kind {
            FileKind::File => !self.same_contents(old, new)?,
            FileKind::Symlink => self.a.link(old.ino)? != self.b.link(new.ino)?,
            _ => false,
        };
        let found = [
            (Aspect::Contents, contents),
            (Aspect::Mode, old.mode != new.mode),
            (Aspect::Owner, (old.uid, old.gid) != (new.uid, new.gid)),
            (
                Aspect::Xattrs,
                xattrs(self.a, old.ino)? != xattrs(self.b, new.ino)?,
            ),
            (Aspect::Mtime, !stirred && old.mtime != new.mtime),
            (Aspect::Device, old.rdev != new.rdev),
        ];
        let mut differs: Vec<Aspect> = found
            .into_iter()
            .filter_map(|(aspect, differs)| differs.then_some(aspect))
            .collect();
        if differs.is_empty() && !stirred && old.ctime != new.ctime {
            differs.push(Aspect::Ctime);
        }
        Ok(differs)
    }

    fn same_contents(&self, old: &InodeRow, new: &InodeRow) -> Result<bool> {
        same_contents((self.a, old), (self.b, new))
    }

    fn old_path(&mut self, (parent, name): &Name) -> Result<Option<Vec<u8>>> {
        path_of(&mut self.old_paths, *parent, name)
    }

    fn new_path(&mut self, (parent, name): &Name) -> Result<Option<Vec<u8>>> {
        path_of(&mut self.new_paths, *parent, name)
    }

    fn push(
        &mut self,
        change: Change,
        path: Vec<u8>,
        from: Option<Vec<u8>>,
        old: Option<&InodeRow>,
        new: Option<&InodeRow>,
        differs: Vec<Aspect>,
    ) {
        let Some(row) = new.or(old) else { return };
        // The size of a directory is how many names it has: that is told by these.
        let size = |row: &InodeRow| (row.kind == FileKind::File).then_some(row.size);
        self.entries.push(Entry {
            change,
            path,
            from,
            ino: row.ino,
            kind: row.kind,
            old_size: old.and_then(size),
            size: new.and_then(size),
            differs,
        });
    }
}

/// Whether two files have the same bytes for sure: the same size, and the same blocks of the same tarballs. The
/// same bytes written anew are not the same.
///
/// # Errors
/// Those of the layers.
pub fn same_contents((a, old): (&Stack, &InodeRow), (b, new): (&Stack, &InodeRow)) -> Result<bool> {
    if old.size != new.size {
        return Ok(false);
    }
    let (before, after) = (reads(a, old)?, reads(b, new)?);
    if before != after {
        return Ok(false);
    }
    // Of a diverged snapshot and the one that took its number the numbers are the same, not the tarballs.
    let snapshots: BTreeSet<SnapshotNumber> = before.runs.iter().map(|run| run.2).collect();
    for snapshot in snapshots {
        if a.source(snapshot)? != b.source(snapshot)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn change_of(differs: &[Aspect]) -> Option<Change> {
    match differs.first()? {
        Aspect::Contents => Some(Change::Changed),
        _ => Some(Change::Metadata),
    }
}

fn path_of(paths: &mut Paths<'_>, parent: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
    if name.is_empty() {
        return Ok(Some(Vec::new())); // the root
    }
    paths.name(parent, name)
}

fn alive(stack: &Stack, ino: Ino) -> Result<Option<InodeRow>> {
    Ok(stack.inode(ino)?.filter(|row| !row.gone))
}

/// All names of an inode; the root's is empty.
fn names(stack: &Stack, ino: Ino) -> Result<BTreeSet<Name>> {
    if ino == Ino::ROOT {
        return Ok(BTreeSet::from([(Ino::ROOT, Vec::new())]));
    }
    let names = stack.names_of(ino)?.into_iter();
    let names = names.filter(|row| row.ino == Some(ino));
    Ok(names.map(|row| (row.parent, row.name)).collect())
}

/// Pair names that went with names that came: those that stayed in their directory or kept their
/// last part first. Pairs are taken out of both lists.
fn renamed(lost: &mut Vec<Name>, gained: &mut Vec<Name>) -> Vec<(Name, Name)> {
    let mut pairs = Vec::new();
    let alike: [fn(&Name, &Name) -> bool; 3] = [|a, b| a.1 == b.1, |a, b| a.0 == b.0, |_, _| true];
    for alike in alike {
        let mut rest = Vec::new();
        for from in lost.drain(..) {
            match gained.iter().position(|to| alike(&from, to)) {
                Some(at) => pairs.push((from, gained.remove(at))),
                None => rest.push(from),
            }
        }
        *lost = rest;
    }
    pairs
}

fn xattrs(stack: &Stack, ino: Ino) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let rows = stack.xattrs(ino)?.into_iter();
    Ok(rows.filter_map(|x| Some((x.name, x.value?))).collect())
}

/// What a file is read from.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reads {
    /// Runs of blocks in consecutive sections: first block, how many, snapshot, section, offset.
    runs: Vec<(u64, u64, SnapshotNumber, u64, u64)>,
    /// Bytes of them that are zero all the same.
    zeroes: Vec<(u64, u64)>,
}

/// Normalised, so that the same file says the same however layers were cut or merged.
fn reads(stack: &Stack, row: &InodeRow) -> Result<Reads> {
    let block_size = stack.block_size();
    let mut found = Reads::default();
    for extent in stack.extents(row.ino, 0, row.size.div_ceil(block_size))? {
        match found.runs.last_mut() {
            Some((blk, n, snapshot, section, offset))
                if *blk + *n == extent.blk
                    && *snapshot == extent.snapshot
                    && section.saturating_add(*n) == extent.section
                    && *offset == 0
                    && extent.offset == 0 =>
            {
                *n += extent.n;
            }
            _ => found.runs.push((
                extent.blk,
                extent.n,
                extent.snapshot,
                extent.section,
                extent.offset,
            )),
        }
    }
    // Blocks with data that follow each other, as bytes.
    let mut covered: Vec<(u64, u64)> = Vec::new();
    for (blk, n, ..) in &found.runs {
        let from = blk.saturating_mul(block_size);
        let to = (blk + n).saturating_mul(block_size).min(row.size);
        match covered.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => covered.push((from, to)),
        }
    }
    for hole in stack.holes(row.ino, 0, row.size)? {
        let first = covered.partition_point(|(_, to)| *to <= hole.from);
        for (from, to) in covered[first..]
            .iter()
            .take_while(|(from, _)| *from < hole.to)
        {
            let (from, to) = (hole.from.max(*from), hole.to.min(*to));
            match found.zeroes.last_mut() {
                Some((_, end)) if *end >= from => *end = (*end).max(to),
                _ => found.zeroes.push((from, to)),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
