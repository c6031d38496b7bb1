//! Contents that are only in the stack below: of a slave all of them, of a promoted master what has not
//! been changed in its epoch.
//!
//! A file is in one of three states. *Inline*: a row `inline` has all of it. *Backing*: it has a backing file, and
//! the rows `block` say which blocks are in it; the others are below. *Only below*: neither. What is below
//! ends at the smallest size that the file has had in this epoch (`min_size` of the KVS's own rows): past it
//! there are zeros. Inodes of this epoch have nothing below.
//!
//! Order when a block comes here because part of it changes: the bytes from below and, where the whole block is
//! new, the new ones are written to the backing file; the file is synced if any byte came from below; then the
//! record that makes the block resident goes to the journal. Until then nobody reads that part of the backing
//! file. So neither a crash nor power loss can put zeros in the place of bytes that the bucket has.
//!
//! Nothing here waits for the bucket with a lock held: an operation that needs a block from there ends with
//! [`Refusal::MustWait`], lets go of everything, and is done anew once the block is in memory ([`Held`]). What is
//! below never changes, so a block once held stays good.

use super::Instance;
use crate::data::data_ranges;
use crate::failpoints::{self, reach};
use crate::kvs::Inode;
use crate::tiering::seek::{seek_data, seek_hole};
use crate::tiering::tier_in::{BlockAnswer, Warmed};
use cbfs_core::error::{Error, Result};
use cbfs_core::ids::Ino;
use cbfs_core::inode::FileKind;
use cbfs_core::layers::Layer;
use cbfs_fuse::{Errno, OpResult, Patience, Refusal};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Files whose residency is remembered.
const REMEMBERED: usize = 4096;

/// Zeros of this many bytes at multiples of it stay holes in a backing file.
const GRAIN: usize = 4096;

/// What of a file is below.
#[derive(Debug)]
pub(super) struct Below {
    /// Bytes from here on are not below.
    end: u64,
    /// Blocks that are here.
    resident: BTreeSet<u64>,
}

impl Below {
    /// The byte behind the last that block `blk` has below, when it is not here.
    fn absent_to(&self, blk: u64, size: u64, block_size: u64) -> Option<u64> {
        let start = blk.saturating_mul(block_size);
        let stop = self.end.min(size).min(start.saturating_add(block_size));
        (start < stop && !self.resident.contains(&blk)).then_some(stop)
    }

    /// Those of `blocks` that have anything below and are not here.
    fn absent_of(&self, blocks: Range<u64>, size: u64, block_size: u64) -> Vec<Range<u64>> {
        let stop = blocks.end.min(self.end.min(size).div_ceil(block_size));
        let (mut absent, mut from) = (Vec::new(), blocks.start);
        if from >= stop {
            return absent;
        }
        for here in self.resident.range(from..stop).copied().chain([stop]) {
            if from < here {
                absent.push(from..here);
            }
            from = here + 1;
        }
        absent
    }
}

/// Parts of blocks that are in memory for the operation at hand.
#[derive(Default)]
pub(super) struct Held {
    /// By block, and where in it the bytes begin.
    have: FxHashMap<(Ino, u64, usize), Vec<u8>>,
    wanted: Option<(Ino, u64, Range<usize>)>,
}

/// A block that is not here.
pub(super) struct Absent {
    pub(super) blk: u64,
    /// What is below of it, where some of that stays.
    pub(super) base: Option<Vec<u8>>,
}

/// The memory of [`Instance::below`]. Inode numbers are never reused. An entry follows the changes of a file that is only
/// below or has a backing file; that of a file that became inline is false, and dropped before it can be asked.
pub(super) type Residency = Mutex<FxHashMap<Ino, Arc<Mutex<Below>>>>;

impl Instance {
    /// Do an operation that may need blocks from below; they are fetched while it holds nothing.
    pub(super) fn with_blocks<T>(
        &self,
        patience: Patience,
        mut operation: impl FnMut(&mut Held) -> OpResult<T>,
    ) -> OpResult<T> {
        let mut held = Held::default();
        loop {
            let refused = match operation(&mut held) {
                Err(refusal @ Refusal::MustWait) if patience == Patience::MayWait => refusal,
                done => return done,
            };
            let (Some((ino, blk, range)), Some(tier_in)) = (held.wanted.take(), &self.tier_in)
            else {
                return Err(refused);
            };
            let start = range.start;
            let fetched = tier_in.block(ino, blk, range, true);
            if tier_in.damage_has_changed() {
                self.tell_health();
            }
            match fetched.map_err(|e| self.eio(&e))? {
                BlockAnswer::Ready(bytes) => drop(held.have.insert((ino, blk, start), bytes)),
                BlockAnswer::WouldWait => return Err(Errno::EIO.into()),
            }
        }
    }

    /// Fetch what of these files is not here, to stay ([`crate::tiering::tier_in::TierIn::warm`]). What is no file, or none any
    /// more, needs nothing. Waits for the bucket.
    ///
    /// # Errors
    /// As that; [`cbfs_core::ErrorKind::Failed`] when what is here cannot be told.
    pub fn warm(&self, files: &[Ino], given_up: &AtomicBool) -> Result<Warmed> {
        let base = self.kvs.files().base.clone();
        let (Some(tier_in), Some(base)) = (&self.tier_in, base) else {
            return Ok(Warmed::default());
        };
        let block_size = self.kvs.block_size();
        let mut wanted = Vec::new();
        for ino in files {
            // The row and what is remembered of the file belong together: both under the stripe.
            let (inode, below) = {
                let _stripe = self.stripe(*ino).read();
                let inode = self.kvs.read(|tables| tables.inode_row(*ino))?;
                if inode.row.gone || inode.row.kind != FileKind::File {
                    continue;
                }
                let below = self.below(&inode).map_err(|_| {
                    Error::failed(format!("what is here of inode {ino} is not known"))
                })?;
                (inode, below)
            };
            let Some(below) = below else { continue };
            let size = inode.row.size;
            let last = size.min(below.lock().end).div_ceil(block_size);
            if last == 0 {
                continue;
            }
            // What has data only: a sparse file may have more blocks than anybody can count.
            for extent in base.extents(*ino, 0, last)? {
                let blocks = extent.blk..last.min(extent.blk.saturating_add(extent.n));
                let absent = below.lock().absent_of(blocks, size, block_size);
                wanted.extend(absent.into_iter().map(|range| (*ino, range)));
            }
        }
        let warmed = tier_in.warm(&wanted, given_up);
        if tier_in.damage_has_changed() {
            self.tell_health();
        }
        warmed
    }

    /// Nothing is kept of what is below any more: the directory is about to be removed.
    pub fn end_cache(&self) {
        if let Some(tier_in) = &self.tier_in {
            tier_in.end_cache();
        }
    }

    /// Whether anything of this inode may be below a master.
    pub(super) fn may_be_below(&self, ino: Ino) -> bool {
        self.tier_in.is_some() && (self.journal.is_none() || ino < Ino::first_of(self.epoch))
    }

    /// Whether the contents are neither inline nor in a backing file.
    pub(super) fn is_only_below(&self, inode: &Inode) -> OpResult<bool> {
        if inode.file != 0 || !self.may_be_below(inode.row.ino) {
            return Ok(false);
        }
        let inline = self.read(|tables| tables.inline(inode.row.ino))?;
        Ok(inline.is_none())
    }

    /// What of a file is below; `None` when nothing is. Under the inode's stripe.
    pub(super) fn below(&self, inode: &Inode) -> OpResult<Option<Arc<Mutex<Below>>>> {
        let ino = inode.row.ino;
        if !self.may_be_below(ino) {
            return Ok(None);
        }
        if inode.file == 0 && !self.is_only_below(inode)? {
            // Inline contents cover what is below, and no change of them is noted in what is remembered of before: what
            // makes a backing file of them comes by here first, under the stripe.
            self.residency.lock().remove(&ino);
            return Ok(None);
        }
        let known = self.residency.lock().get(&ino).cloned();
        let below = match known {
            Some(below) => below,
            None => {
                let loaded = self.load_below(inode).map_err(|e| self.eio(&e))?;
                let loaded = Arc::new(Mutex::new(loaded));
                let mut all = self.residency.lock();
                if all.len() >= REMEMBERED {
                    all.clear();
                }
                all.insert(ino, Arc::clone(&loaded));
                loaded
            }
        };
        let nothing = below.lock().end == 0;
        Ok((!nothing).then_some(below))
    }

    fn load_below(&self, inode: &Inode) -> Result<Below> {
        let ino = inode.row.ino;
        let mut end = u64::MAX;
        let mut resident = BTreeSet::new();
        // Memory before the files: rows leave it only when they are in them.
        {
            let tables = self.kvs.tables();
            for table in [Some(&tables.hot), tables.flushing.as_deref()]
                .into_iter()
                .flatten()
            {
                if let Some(row) = table.inodes.get(&ino) {
                    end = end.min(row.row.min_size);
                }
                if let Some(blocks) = table.blocks.get(&ino) {
                    resident.extend(blocks.keys());
                }
            }
        }
        for file in self.kvs.files().own() {
            if let Some(row) = file.inode(ino)? {
                end = end.min(row.min_size);
            }
            if inode.file != 0 {
                resident.extend(file.blocks_of(ino)?);
            }
        }
        Ok(Below { end, resident })
    }

    /// Blocks came here, and a record says so.
    pub(super) fn now_here(&self, below: &Mutex<Below>, blocks: impl Iterator<Item = u64>) {
        below.lock().resident.extend(blocks);
    }

    /// The file was cut to `size` (or had it before it grew), and a record says so.
    pub(super) fn now_ends(&self, below: &Mutex<Below>, size: u64) {
        let mut below = below.lock();
        below.end = below.end.min(size);
    }

    /// The bytes `range` of a block as the stack below has it.
    fn held_block(
        &self,
        held: &mut Held,
        ino: Ino,
        blk: u64,
        range: Range<usize>,
    ) -> OpResult<Vec<u8>> {
        if let Some(bytes) = held.have.get(&(ino, blk, range.start))
            && let Some(bytes) = bytes.get(..range.len())
        {
            return Ok(bytes.to_vec());
        }
        let Some(tier_in) = &self.tier_in else {
            return Ok(vec![0; range.len()]);
        };
        match tier_in
            .block(ino, blk, range.clone(), false)
            .map_err(|e| self.eio(&e))?
        {
            BlockAnswer::Ready(bytes) => Ok(bytes),
            BlockAnswer::WouldWait => {
                held.wanted = Some((ino, blk, range));
                Err(Refusal::MustWait)
            }
        }
    }

    /// Fill `bytes` with what is below of the contents from `offset`. Bytes of blocks that are here, and those past
    /// the end, stay as they are.
    pub(super) fn fill_from_below(
        &self,
        held: &mut Held,
        inode: &Inode,
        below: &Mutex<Below>,
        offset: u64,
        bytes: &mut [u8],
    ) -> OpResult<()> {
        let block_size = self.kvs.block_size();
        let end = offset + bytes.len() as u64;
        for blk in offset / block_size..end.div_ceil(block_size) {
            let Some(stop) = below.lock().absent_to(blk, inode.row.size, block_size) else {
                continue;
            };
            let start = blk * block_size;
            let (from, to) = (offset.max(start), end.min(start + block_size));
            let known = stop.clamp(from, to);
            let part = &mut bytes[(from - offset) as usize..(to - offset) as usize];
            let (below, behind) = part.split_at_mut((known - from) as usize);
            if !below.is_empty() {
                let range = (from - start) as usize..(known - start) as usize;
                below.copy_from_slice(&self.held_block(held, inode.row.ino, blk, range)?);
            }
            // A backing file has nothing good where a block is not here.
            behind.fill(0);
        }
        Ok(())
    }

    /// The blocks that a change of `from..to` touches and that are not here, with their contents below where some
    /// of those stay.
    pub(super) fn absent(
        &self,
        held: &mut Held,
        inode: &Inode,
        below: Option<&Mutex<Below>>,
        (from, to): (u64, u64),
    ) -> OpResult<Vec<Absent>> {
        let Some(below) = below else {
            return Ok(Vec::new());
        };
        let block_size = self.kvs.block_size();
        let mut absent = Vec::new();
        for blk in from / block_size..to.div_ceil(block_size) {
            let Some(stop) = below.lock().absent_to(blk, inode.row.size, block_size) else {
                continue;
            };
            let start = blk * block_size;
            let whole = inode.row.size.min(start.saturating_add(block_size));
            let base = if from <= start && to >= whole {
                None
            } else if from <= start && to >= stop {
                Some(Vec::new()) // nothing of it stays, but zeros follow
            } else {
                let length = (stop - start) as usize;
                Some(self.held_block(held, inode.row.ino, blk, 0..length)?)
            };
            absent.push(Absent { blk, base });
        }
        Ok(absent)
    }

    /// Like [`Instance::absent`] for a range that is to become zeros: only blocks that have data below.
    pub(super) fn absent_data(
        &self,
        held: &mut Held,
        inode: &Inode,
        below: Option<&Mutex<Below>>,
        (from, to): (u64, u64),
    ) -> OpResult<Vec<Absent>> {
        let base = self.kvs.files().base.clone();
        let (Some(below), Some(base)) = (below, base) else {
            return Ok(Vec::new());
        };
        let block_size = self.kvs.block_size();
        let to = to.min(below.lock().end);
        let (first, last) = (from / block_size, to.div_ceil(block_size));
        let mut absent = Vec::new();
        if first < last {
            let ino = inode.row.ino;
            for extent in base.extents(ino, first, last).map_err(|e| self.eio(&e))? {
                for blk in extent.blk..extent.blk + extent.n {
                    let bytes = (
                        from.max(blk * block_size),
                        to.min((blk + 1).saturating_mul(block_size)),
                    );
                    absent.extend(self.absent(held, inode, Some(below), bytes)?);
                }
            }
        }
        Ok(absent)
    }

    /// Put what is below of the blocks into the backing file, and sync it. Nothing refers to those parts of it
    /// yet.
    pub(super) fn bring(
        &self,
        inode: &Inode,
        (number, file): (u64, &File),
        absent: &[Absent],
    ) -> OpResult<()> {
        let ino = inode.row.ino;
        let block_size = self.kvs.block_size();
        let mut brought = false;
        for Absent { blk, base } in absent {
            let Some(base) = base else { continue };
            let written = self.backing.counting(file, || {
                write_sparse(file, blk * block_size, block_size, base)
            });
            written.map_err(|e| self.io_refusal("a backing file could not be written", &e))?;
            brought = true;
        }
        if brought {
            self.backing.mark_dirty(ino, number);
            let synced = self.backing.sync(ino, number);
            synced.map_err(|e| self.sync_failed(&e))?;
            reach(failpoints::BLOCK_BROUGHT);
        }
        Ok(())
    }

    /// The first byte at or after `offset` that is data (or in a hole), of a file that is only below. `None`: only a
    /// hole follows.
    pub(super) fn seek_below(
        &self,
        inode: &Inode,
        below: &Mutex<Below>,
        offset: u64,
        data: bool,
    ) -> OpResult<Option<u64>> {
        let files = self.kvs.files();
        let Some(base) = &files.base else {
            return Ok(None);
        };
        let end = below.lock().end.min(inode.row.size);
        let ino = inode.row.ino;
        let found = match (data, offset < end) {
            (true, true) => seek_data(base, ino, offset, end),
            (true, false) => Ok(None),
            (false, true) => seek_hole(base, ino, offset, end).map(Some),
            (false, false) => Ok(Some(offset)),
        };
        found.map_err(|e| self.eio(&e))
    }

    /// The same for a file of which some blocks are in a backing file.
    pub(super) fn seek_mixed(
        &self,
        inode: &Inode,
        file: &File,
        below: &Mutex<Below>,
        offset: u64,
        data: bool,
    ) -> OpResult<Option<u64>> {
        let files = self.kvs.files();
        let Some(base) = &files.base else {
            return Ok(None);
        };
        let (ino, size) = (inode.row.ino, inode.row.size);
        let block_size = self.kvs.block_size();
        let searched = |e| self.io_refusal("a backing file could not be searched", &e);
        let mut at = offset;
        while at < size {
            let blk = at / block_size;
            let stop = ((blk + 1) * block_size).min(size);
            let absent_to = below.lock().absent_to(blk, size, block_size);
            let found = match (absent_to, data) {
                (Some(to), true) if at < to => {
                    seek_data(base, ino, at, to).map_err(|e| self.eio(&e))?
                }
                (Some(to), false) if at < to => {
                    let hole = seek_hole(base, ino, at, to).map_err(|e| self.eio(&e))?;
                    Some(hole).filter(|hole| *hole < stop)
                }
                (Some(_), true) => None,
                (Some(_), false) => Some(at),
                (None, true) => {
                    let ranges = data_ranges(file, at, stop).map_err(searched)?;
                    ranges.first().map(|(from, _)| *from)
                }
                (None, false) => match data_ranges(file, at, stop).map_err(searched)?.first() {
                    Some((from, to)) if *from == at => Some(*to).filter(|hole| *hole < stop),
                    _ => Some(at),
                },
            };
            if found.is_some() {
                return Ok(found);
            }
            at = stop;
        }
        Ok(if data { None } else { Some(size) })
    }
}

/// Write a block, shorter than `block_size` or whole; what lacks is zeros. Zeros become holes where the file system
/// can.
fn write_sparse(file: &File, at: u64, block_size: u64, bytes: &[u8]) -> io::Result<()> {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, punch, at, block_size) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let end = file.metadata()?.len().min(at + block_size);
            let mut whole = bytes.to_vec();
            let stale = end.saturating_sub(at) as usize;
            whole.resize(bytes.len().max(stale), 0);
            return file.write_all_at(&whole, at);
        }
        Err(e) => return Err(e.into()),
    }
    let mut offset = 0;
    while offset < bytes.len() {
        let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == 0);
        let grain = |from: usize| &bytes[from..(from + GRAIN).min(bytes.len())];
        let mut stop = offset + grain(offset).len();
        if is_zero(grain(offset)) {
            offset = stop;
            continue;
        }
        while stop < bytes.len() && !is_zero(grain(stop)) {
            stop += grain(stop).len();
        }
        file.write_all_at(&bytes[offset..stop], at + offset as u64)?;
        offset = stop;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_written_sparsely_reads_as_its_bytes_and_nothing_of_before() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 65536], 0).unwrap();
        let mut block = vec![0; 30000];
        block[5000] = 1;
        block[29999] = 2;
        write_sparse(&file, 0, 32768, &block).unwrap();
        let mut read = vec![9; 65536];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read[..30000], block);
        assert!(read[30000..32768].iter().all(|b| *b == 0));
        assert!(read[32768..].iter().all(|b| *b == 7));
    }

    #[test]
    fn a_block_is_absent_up_to_the_smallest_size_and_only_when_it_is_not_here() {
        let below = Below {
            end: 150,
            resident: BTreeSet::from([0]),
        };
        assert_eq!(below.absent_to(0, 1000, 100), None);
        assert_eq!(below.absent_to(1, 1000, 100), Some(150));
        assert_eq!(below.absent_to(1, 120, 100), Some(120));
        assert_eq!(below.absent_to(2, 1000, 100), None);
    }

    #[test]
    fn absent_ranges_leave_out_what_is_here_and_end_with_what_is_below() {
        let below = Below {
            end: 950,
            resident: BTreeSet::from([0, 3, 4, 8]),
        };
        assert_eq!(below.absent_of(0..100, 2000, 100), [1..3, 5..8, 9..10]);
        assert_eq!(below.absent_of(2..7, 2000, 100), [2..3, 5..7]);
        assert_eq!(below.absent_of(0..100, 201, 100), vec![1..3]);
        assert_eq!(below.absent_of(3..5, 2000, 100), []);
        assert_eq!(below.absent_of(10..100, 2000, 100), []);
        // The same as block by block.
        for blk in 0..12 {
            let absent = below.absent_to(blk, 2000, 100).is_some();
            assert_eq!(
                below.absent_of(blk..blk + 1, 2000, 100).len(),
                usize::from(absent)
            );
        }
    }
}
