//! Layers on top of each other, read as one. The rules stand in [`super`]; this is the one place
//! that carries them out.
//!
//! Names need no rule for removed directories: a directory is empty before it goes, so each of its
//! entries has a tombstone of its own.

use super::ranges::Ranges;
use super::{DentryRow, ExtentRow, HoleRow, Layer, SourceRow, XattrRow};
use crate::error::{Error, Result};
use crate::ids::{Ino, SnapshotNumber};
use crate::inode::InodeRow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A stack of layers, newest first.
///
/// A stack is a [`Layer`] itself, so that a KVS can stand on it. Two answers serve another purpose
/// than those of a single layer: [`Layer::extents`] tells which blocks have data and where it came
/// from, [`Layer::holes`] which bytes read as zero although a block with data covers them. Contents
/// are built from [`Stack::content`] only; so layers with file data of their own must be
/// members of the same stack, never stand on a nested one.
pub struct Stack {
    layers: Vec<Arc<dyn Layer>>,
    block_size: u64,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("layers", &self.layers.len())
            .field("block_size", &self.block_size)
            .finish()
    }
}

/// The recipe for one block of a file: take the section's raw bytes from `extent.offset`, spread
/// them over the bytes `0..len` of the block outside of `holes`, zero the rest, then zero
/// `zeroes`. [`assemble`] does it. Ranges are byte offsets within the block, sorted, not
/// overlapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockContent {
    /// The block.
    pub blk: u64,
    /// The extent of exactly this block (`n` is 1); `None` when the block is all zeros.
    pub extent: Option<ExtentRow>,
    /// Bytes of the block that the extent describes: less than a block where the file ended when
    /// the extent was made. What lies behind in the section belongs to something else.
    pub len: u64,
    /// Bytes that the section lacks.
    pub holes: Vec<(u64, u64)>,
    /// Bytes that later layers made zero.
    pub zeroes: Vec<(u64, u64)>,
}

impl BlockContent {
    fn zero(blk: u64) -> BlockContent {
        BlockContent {
            blk,
            extent: None,
            len: 0,
            holes: Vec::new(),
            zeroes: Vec::new(),
        }
    }
}

/// Build the bytes `range` of a block from the decompressed section its extent names (any bytes when it
/// has none). `range` ends at the block size, or less at the end of the file. Only they are copied.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when the section is too short for what the layers say of the block, also
/// outside of `range`.
pub fn assemble(
    content: &BlockContent,
    section_raw: &[u8],
    range: Range<usize>,
) -> Result<Vec<u8>> {
    let wanted = range.end.saturating_sub(range.start);
    let mut bytes = Vec::with_capacity(wanted);
    let Some(extent) = content.extent else {
        bytes.resize(wanted, 0);
        return Ok(bytes);
    };
    let short = || {
        Error::damage(format!(
            "section {} of snapshot {} has {} bytes, too few for block {} of inode {}",
            extent.section,
            extent.snapshot,
            section_raw.len(),
            content.blk,
            extent.ino
        ))
    };
    let index = |offset: u64| usize::try_from(offset).map_err(|_| short());
    // Where a byte of the block lies in `bytes`.
    let place = |at: usize| at.clamp(range.start, range.end) - range.start;
    let mut rest = section_raw.get(index(extent.offset)?..).ok_or_else(short)?;
    let mut position = 0;
    for &(hole_from, hole_to) in content.holes.iter().chain([&(content.len, content.len)]) {
        let data = hole_from.checked_sub(position).ok_or_else(short)?;
        let (data, behind) = rest.split_at_checked(index(data)?).ok_or_else(short)?;
        let start = index(position)?;
        let (from, to) = (place(start), place(start + data.len()));
        if from < to {
            let skipped = range.start.saturating_sub(start);
            bytes.resize(from, 0);
            bytes.extend_from_slice(&data[skipped..skipped + (to - from)]);
        }
        (rest, position) = (behind, hole_to);
    }
    bytes.resize(wanted, 0);
    for &(from, to) in &content.zeroes {
        let (from, to) = (place(index(from)?), place(index(to)?));
        bytes[from..to].fill(0);
    }
    Ok(bytes)
}

impl Stack {
    /// A stack of `layers`, newest first, of a file system with blocks of `block_size` bytes
    /// (not 0). No layers at all is an empty file system.
    pub fn new(layers: Vec<Arc<dyn Layer>>, block_size: u64) -> Stack {
        Stack {
            layers,
            block_size: block_size.max(1),
        }
    }

    /// How many layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Bytes per block.
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// How to build each of the blocks `from..to` of a file: one answer per block, in order. The
    /// caller bounds the range (by the file's size, and by what it can use at once).
    ///
    /// # Errors
    /// Those of the layers; [`crate::ErrorKind::Damage`] when a layer has data of a file without
    /// attributes.
    pub fn content(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<BlockContent>> {
        let mut blocks: Vec<BlockContent> = (from..to).map(BlockContent::zero).collect();
        self.walk(ino, from, to, &mut |found| {
            let size = self.size_at(found.layer, ino)?;
            let extent = found.extent;
            let (start, end) = self.bytes(extent.blk, extent.blk.saturating_add(extent.n));
            let mut holes = Ranges::default();
            for hole in self.layers[found.layer].holes(ino, start, end)? {
                holes.insert(hole.from, hole.to);
            }
            for i in 0..extent.n {
                let blk = extent.blk + i;
                let (start, end) = self.bytes(blk, blk.saturating_add(1));
                let data_end = size.clamp(start, end);
                let relative = |ranges: Vec<(u64, u64)>| -> Vec<(u64, u64)> {
                    ranges
                        .into_iter()
                        .map(|(a, b)| (a - start, b - start))
                        .collect()
                };
                let place = usize::try_from(blk - from)
                    .ok()
                    .and_then(|at| blocks.get_mut(at));
                if let Some(block) = place {
                    *block = BlockContent {
                        blk,
                        extent: Some(part_of(&extent, blk, blk + 1)),
                        len: data_end - start,
                        holes: relative(holes.within(start, data_end)),
                        zeroes: relative(found.zeroes.within(start, end)),
                    };
                }
            }
            Ok(())
        })?;
        Ok(blocks)
    }

    /// Visit, from the newest layer down, the extents that the blocks `from..to` are read from:
    /// each block at most once, none that later layers made all zero.
    fn walk(
        &self,
        ino: Ino,
        from: u64,
        to: u64,
        visit: &mut dyn FnMut(Found<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut wanted = Ranges::default(); // blocks that no layer so far decided
        wanted.insert(from, to);
        let mut zeroes = Ranges::default(); // bytes that the layers so far made zero
        for (index, layer) in self.layers.iter().enumerate() {
            let Some((first, last)) = wanted.hull() else {
                break;
            };
            let row = layer.inode(ino)?;
            if row.is_some_and(|row| row.gone) {
                break;
            }
            let (first_byte, last_byte) = self.bytes(first, last);
            for zero in layer.zeroes(ino, first_byte, last_byte)? {
                zeroes.insert(zero.from, zero.to);
            }
            wanted.remove_covered(&zeroes, self.block_size, first_byte, last_byte);
            for extent in layer.extents(ino, first, last)? {
                for (a, b) in wanted.within(extent.blk, extent.blk.saturating_add(extent.n)) {
                    visit(Found {
                        layer: index,
                        extent: part_of(&extent, a, b),
                        zeroes: &zeroes,
                    })?;
                    wanted.remove(a, b);
                }
            }
            for hole in layer.holes(ino, first_byte, last_byte)? {
                zeroes.insert(hole.from, hole.to);
            }
            if let Some(row) = row {
                zeroes.insert(row.min_size, u64::MAX);
            }
            wanted.remove_covered(&zeroes, self.block_size, first_byte, last_byte);
        }
        Ok(())
    }

    /// The file's size as of layer `index`: an inode row stands where the attributes changed last.
    fn size_at(&self, index: usize, ino: Ino) -> Result<u64> {
        for layer in &self.layers[index..] {
            match layer.inode(ino)? {
                Some(row) if row.gone => break,
                Some(row) => return Ok(row.size),
                None => {}
            }
        }
        Err(Error::damage(format!(
            "a layer has data of inode {ino}, but none has its attributes"
        )))
    }

    /// The bytes of the blocks `from..to`.
    fn bytes(&self, from: u64, to: u64) -> (u64, u64) {
        (
            from.saturating_mul(self.block_size),
            to.saturating_mul(self.block_size),
        )
    }

    /// Whether layer `layer` says that `ino` is gone, which hides all below.
    fn is_gone(layer: &dyn Layer, ino: Ino) -> Result<bool> {
        Ok(layer.inode(ino)?.is_some_and(|row| row.gone))
    }
}

/// An extent that blocks are read from, and what lies on top of it.
struct Found<'a> {
    layer: usize,
    extent: ExtentRow,
    zeroes: &'a Ranges,
}

/// The blocks `from..to` of an extent; they must lie in it.
fn part_of(extent: &ExtentRow, from: u64, to: u64) -> ExtentRow {
    ExtentRow {
        blk: from,
        n: to - from,
        section: extent.section.saturating_add(from - extent.blk),
        ..*extent
    }
}

impl Layer for Stack {
    /// The newest row. Its `min_size` is the smallest of all rows of the inode in the stack: what
    /// the stack as one layer says of the layers below it. (It starts at 0 in the layer that
    /// created the file, below which there is nothing.)
    fn inode(&self, ino: Ino) -> Result<Option<InodeRow>> {
        let mut answer: Option<InodeRow> = None;
        for layer in &self.layers {
            let Some(row) = layer.inode(ino)? else {
                continue;
            };
            let newest = answer.get_or_insert(row);
            newest.min_size = newest.min_size.min(row.min_size);
            if row.gone || newest.min_size == 0 {
                break;
            }
        }
        Ok(answer)
    }

    fn dentry(&self, parent: Ino, name: &[u8]) -> Result<Option<DentryRow>> {
        for layer in &self.layers {
            if let Some(row) = layer.dentry(parent, name)? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn scan_dir(
        &self,
        parent: Ino,
        after: Option<(u64, &[u8])>,
        limit: usize,
    ) -> Result<Vec<DentryRow>> {
        if let [only] = self.layers.as_slice() {
            return only.scan_dir(parent, after, limit);
        }
        // The first `limit` names of the merge are among the first `limit` of each layer.
        let mut merged: BTreeMap<(u64, Vec<u8>), DentryRow> = BTreeMap::new();
        for layer in &self.layers {
            for row in layer.scan_dir(parent, after, limit)? {
                merged.entry((row.hash, row.name.clone())).or_insert(row);
            }
            while merged.len() > limit {
                merged.pop_last();
            }
        }
        Ok(merged.into_values().collect())
    }

    fn names_of(&self, ino: Ino) -> Result<Vec<DentryRow>> {
        let mut names = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            if Stack::is_gone(layer.as_ref(), ino)? {
                break;
            }
            'names: for row in layer.names_of(ino)? {
                for above in &self.layers[..index] {
                    if above.dentry(row.parent, &row.name)?.is_some() {
                        continue 'names;
                    }
                }
                names.push(row);
            }
        }
        names.sort_by(|a, b| (a.parent, a.hash, &a.name).cmp(&(b.parent, b.hash, &b.name)));
        Ok(names)
    }

    fn link(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        for layer in &self.layers {
            if let Some(target) = layer.link(ino)? {
                return Ok(Some(target));
            }
            if Stack::is_gone(layer.as_ref(), ino)? {
                break;
            }
        }
        Ok(None)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<XattrRow>> {
        let mut merged: BTreeMap<Vec<u8>, XattrRow> = BTreeMap::new();
        for layer in &self.layers {
            if Stack::is_gone(layer.as_ref(), ino)? {
                break;
            }
            for row in layer.xattrs(ino)? {
                merged.entry(row.name.clone()).or_insert(row);
            }
        }
        Ok(merged.into_values().collect())
    }

    /// What the blocks are read from: runs of blocks that some layer has data for and no later one
    /// made all zero, cut to `from..to`.
    fn extents(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<ExtentRow>> {
        let mut found = Vec::new();
        self.walk(ino, from, to, &mut |piece| {
            found.push(piece.extent);
            Ok(())
        })?;
        found.sort_by_key(|extent| extent.blk);
        Ok(found)
    }

    /// Bytes that are zero by a hole or a truncation, cut to `from..to`; with the operation (of a
    /// truncation: of the inode row) that made them so. Together with the bytes no extent covers
    /// these are the holes of the file.
    fn holes(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<HoleRow>> {
        let mut found = Vec::new();
        let mut wanted = Ranges::default(); // blocks whose content no layer so far decided
        wanted.insert(from / self.block_size, to.div_ceil(self.block_size));
        for layer in &self.layers {
            let Some((first, last)) = wanted.hull() else {
                break;
            };
            let row = layer.inode(ino)?;
            if row.is_some_and(|row| row.gone) {
                break;
            }
            let mut add = |wanted: &Ranges, hole: HoleRow| {
                for &(a, b) in &wanted.0 {
                    let (a, b) = self.bytes(a, b);
                    let (a, b) = (a.max(hole.from).max(from), b.min(hole.to).min(to));
                    if a < b {
                        found.push(HoleRow {
                            from: a,
                            to: b,
                            ..hole
                        });
                    }
                }
            };
            let (first_byte, last_byte) = self.bytes(first, last);
            for zero in layer.zeroes(ino, first_byte, last_byte)? {
                add(&wanted, zero);
            }
            for hole in layer.holes(ino, first_byte, last_byte)? {
                add(&wanted, hole);
            }
            for extent in layer.extents(ino, first, last)? {
                wanted.remove(extent.blk, extent.blk.saturating_add(extent.n));
            }
            if let Some(row) = row {
                add(
                    &wanted,
                    HoleRow {
                        ino,
                        from: row.min_size,
                        to: u64::MAX,
                        xid: row.xid,
                    },
                );
            }
        }
        found.sort_by_key(|hole| (hole.from, hole.to));
        Ok(found)
    }

    fn source(&self, snapshot: SnapshotNumber) -> Result<Option<SourceRow>> {
        for layer in &self.layers {
            if let Some(row) = layer.source(snapshot)? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
