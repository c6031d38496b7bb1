//! Operations on file contents: read, write, truncate, allocate, punch, seek, copy.
//!
//! Order of a write: stripe of the inode, (fresh backing file filled,) gate, blocks preserved, journal,
//! tables, data, gate left. The journal comes before the data because a block that changed on disk
//! without a record would be missing from the next snapshot; the other way round is harmless.
//!
//! Longer than other files: the operations share these steps, which are private to keep their order in one place.

use super::Instance;
use super::below::{Absent, Below, Held};
use super::commit::{Gate, Stop};
use crate::data::data_ranges;
use crate::failpoints::{self, reach};
use crate::journal::Event;
use crate::kvs::{INLINE_MAX, Inode};
use crate::space::Space;
use cbfs_core::error::{Error, Result};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_fuse::{Errno, OpResult, Patience};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use serde_bytes::ByteBuf;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Mode bits of fallocate(2).
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 0x10;

/// Bytes that one copy_file_range(2) copies at most.
pub(super) const COPY_PIECE: u64 = 1 << 20;

/// Whether fallocate(2) in this mode takes space.
pub(super) fn takes_space(mode: u32) -> bool {
    mode & PUNCH_HOLE == 0
}

/// A day in nanoseconds: relatime refreshes an access time that is older.
const DAY: i64 = 24 * 3600 * 1_000_000_000;

impl Instance {
    /// A live regular file.
    fn regular(&self, ino: Ino) -> OpResult<Inode> {
        let inode = self.read(|tables| tables.inode_row(ino))?;
        match inode.row.kind {
            _ if inode.row.gone => Err(Errno::ESTALE.into()),
            FileKind::File => Ok(inode),
            FileKind::Directory => Err(Errno::EISDIR.into()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn backing_file(&self, inode: &Inode) -> OpResult<Arc<File>> {
        self.backing
            .get(inode.row.ino, inode.file)
            .map_err(|e| self.io_refusal("a backing file could not be opened", &e))
    }

    /// read(2).
    pub(super) fn op_read(
        &self,
        patience: Patience,
        ino: Ino,
        offset: u64,
        size: u32,
    ) -> OpResult<Vec<u8>> {
        let read = self.with_blocks(patience, |held| {
            let _stripe = self.stripe(ino).read();
            let inode = self.regular(ino)?;
            let end = inode.row.size.min(offset.saturating_add(size.into()));
            if offset >= end {
                return Ok(None);
            }
            let mut bytes = vec![0; (end - offset) as usize];
            self.fill(held, &inode, offset, &mut bytes)?;
            Ok(Some((inode, bytes)))
        })?;
        let Some((inode, bytes)) = read else {
            return Ok(Vec::new());
        };
        self.touch_atime(&inode.row);
        Ok(bytes)
    }

    /// Fill `bytes` (zeros so far) with the contents from `offset`, all of it within the file.
    fn fill(&self, held: &mut Held, inode: &Inode, offset: u64, bytes: &mut [u8]) -> OpResult<()> {
        let ino = inode.row.ino;
        if inode.file != 0 {
            let file = self.backing_file(inode)?;
            read_up_to(&file, bytes, offset)
                .map_err(|e| self.io_refusal("a backing file could not be read", &e))?;
        } else if let Some(content) = self.read(|tables| tables.inline(ino))? {
            let from = (offset as usize).min(content.len());
            let to = (from + bytes.len()).min(content.len());
            bytes[..to - from].copy_from_slice(&content[from..to]);
            return Ok(());
        }
        match self.below(inode)? {
            Some(below) => self.fill_from_below(held, inode, &below, offset, bytes),
            None => Ok(()),
        }
    }

    /// Refresh the access time as relatime does: when it is not after the last change, or a day old.
    pub(super) fn touch_atime(&self, row: &InodeRow) {
        // On a full disk records are for what makes room.
        let short = self.space.as_ref().is_none_or(Space::is_short);
        if short || self.options.noatime {
            return;
        }
        let stale = |row: &InodeRow, now: i64| {
            row.atime <= row.mtime
                || row.atime <= row.ctime
                || now.saturating_sub(row.atime.0) >= DAY
        };
        if !stale(row, self.clock.now().0) {
            return;
        }
        let ino = row.ino;
        let touched = self.commit(|d| {
            let mut row = d.live(ino)?.row;
            if stale(&row, d.time.0) {
                row.atime = d.time;
                d.events.push(Event::InodeUpdate(row));
            }
            Ok(())
        });
        if let Err(e) = touched {
            // A full disk must not fail a read; the access time is then simply old.
            tracing::debug!(instance = %self.id, %ino, "the access time was not updated: {e:?}");
        }
    }

    /// write(2).
    pub(super) fn op_write(
        &self,
        patience: Patience,
        ino: Ino,
        offset: u64,
        data: &[u8],
    ) -> OpResult<()> {
        let length = data.len() as u64;
        let end = offset.checked_add(length).filter(|e| *e <= i64::MAX as u64);
        let end = end.ok_or(Errno::EFBIG)?;
        if data.is_empty() {
            return Ok(());
        }
        self.with_blocks(patience, |held| {
            self.write_with(held, ino, (offset, end), data)
        })
    }

    fn write_with(
        &self,
        held: &mut Held,
        ino: Ino,
        (offset, end): (u64, u64),
        data: &[u8],
    ) -> OpResult<()> {
        let length = end - offset;
        let _stripe = self.stripe(ino).write();
        let inode = self.regular(ino)?;
        if inode.file == 0 && end.max(inode.row.size) <= INLINE_MAX {
            return self.write_inline(held, &inode, offset, data);
        }
        let below = self.below(&inode)?;
        let absent = self.absent(held, &inode, below.as_deref(), (offset, end))?;
        let (fresh, rest) = split(&absent, self.kvs.block_size(), (offset, end));
        let spilled = if inode.file == 0 {
            Some(self.prepare_spill(&inode)?)
        } else {
            None
        };
        if let Some(Spill { number, file, .. }) = &spilled {
            self.bring(&inode, (*number, file), &absent)?;
            // Nothing refers to the fresh file yet: it is whole before the record that does.
            self.write_backing(file, data, offset)?;
            self.backing.mark_dirty(ino, *number);
            if self.truncated.lock().contains(&ino) {
                self.barrier.lock().insert((ino, *number));
            }
            reach(failpoints::SPILL_FILLED);
        } else if !absent.is_empty() {
            // The same goes for blocks that are not here yet.
            let file = self.backing_file(&inode)?;
            self.bring(&inode, (inode.file, &file), &absent)?;
            for range in &fresh {
                self.write_part(&file, data, offset, range)?;
            }
            self.backing.mark_dirty(ino, inode.file);
        }
        let gate = self.enter()?;
        let file = match &spilled {
            Some(spill) => Arc::clone(&spill.file),
            None => {
                let file = self.backing_file(&inode)?;
                self.preserve(&inode, &file, offset, end)?;
                if end > inode.row.size {
                    self.cut_stale_tail(&file, inode.row.size)?;
                }
                file
            }
        };
        self.commit_inside(&gate, |d| {
            d.live(ino)?;
            if let Some(spill) = &spilled {
                d.events.push(spill.event());
            }
            d.events.push(Event::Write {
                ino,
                offset,
                length,
                data: None,
            });
            Ok(())
        })?;
        if let Some(below) = &below {
            let block_size = self.kvs.block_size();
            self.now_here(below, offset / block_size..end.div_ceil(block_size));
        }
        match spilled {
            Some(spill) => {
                spill.keep();
                self.truncated.lock().remove(&ino);
            }
            None => {
                reach(failpoints::WRITE_JOURNALED);
                for range in &rest {
                    if let Err(e) = self.write_part(&file, data, offset, range) {
                        self.restore_after_failed_write(&gate, &inode.row, &file);
                        return Err(e);
                    }
                }
                self.backing.mark_dirty(ino, inode.file);
            }
        }
        Ok(())
    }

    fn write_inline(
        &self,
        held: &mut Held,
        inode: &Inode,
        offset: u64,
        data: &[u8],
    ) -> OpResult<()> {
        let ino = inode.row.ino;
        let end = offset + data.len() as u64;
        let covered = offset == 0 && end >= inode.row.size;
        let (offset, data) = if self.is_only_below(inode)? && !covered {
            // The record has all of the contents: there is nothing here that it could change.
            let mut whole = vec![0; inode.row.size.max(end) as usize];
            self.fill(held, inode, 0, &mut whole[..inode.row.size as usize])?;
            whole[offset as usize..end as usize].copy_from_slice(data);
            (0, whole)
        } else {
            (offset, data.to_vec())
        };
        let write = Event::Write {
            ino,
            offset,
            length: data.len() as u64,
            data: Some(ByteBuf::from(data)),
        };
        self.commit(|d| {
            d.live(ino)?;
            d.events.push(write.clone());
            Ok(())
        })?;
        Ok(())
    }

    /// Write the bytes `range` of the file, of which `data` has those from `offset` on.
    fn write_part(
        &self,
        file: &File,
        data: &[u8],
        offset: u64,
        range: &Range<u64>,
    ) -> OpResult<()> {
        let part = (range.start - offset) as usize..(range.end - offset) as usize;
        self.write_backing(file, &data[part], range.start)
    }

    fn write_backing(&self, file: &File, data: &[u8], offset: u64) -> OpResult<()> {
        self.backing
            .counting(file, || file.write_all_at(data, offset))
            .map_err(|e| self.io_refusal("a backing file could not be written", &e))
    }

    /// Nothing of a failed write may show: its size goes back to what it was.
    fn restore_after_failed_write(&self, gate: &Gate<'_>, before: &InodeRow, file: &File) {
        if let Err(e) = self.cut_stale_tail(file, before.size) {
            // The next write that makes the file longer does it.
            tracing::debug!(instance = %self.id, ino = %before.ino, "a failed write takes space: {e:?}");
        }
        let undo = || {
            self.commit_inside(gate, |d| {
                let mut row = d.live(before.ino)?.row;
                row.size = before.size;
                d.events.push(Event::InodeUpdate(row));
                Ok(())
            })
        };
        let mut undone = undo();
        if undone.is_err() && self.space.as_ref().is_some_and(Space::release) {
            undone = undo();
        }
        if undone.is_err() {
            self.poison(&Error::failed("a failed write could not be undone"));
        }
    }

    /// Fill a fresh backing file with the inline contents of a file. Not yet its contents: that
    /// takes a `Spill` event.
    ///
    /// If those contents had already survived in the journal, the fresh file must survive
    /// before the record that makes it the contents does.
    /// Until [`Spill::keep`] it is removed again when the operation fails.
    fn prepare_spill(&self, inode: &Inode) -> OpResult<Spill<'_>> {
        // A slave has no place for one; all others are refused at the gate.
        if self.journal.is_none() {
            return Err(Errno::EROFS.into());
        }
        let ino = inode.row.ino;
        let contents = self.read(|tables| tables.inline(ino))?.unwrap_or_default();
        let (number, written) = {
            let tables = self.kvs.tables();
            (
                tables.xid.next().0,
                tables.inline_xid(ino).unwrap_or(tables.xid),
            )
        };
        let contents = &contents[..contents.len().min(inode.row.size as usize)];
        let created = self.backing.create(ino, number, contents);
        let file = created.map_err(|e| {
            self.backing.discard(ino, number);
            self.io_refusal("a backing file could not be created", &e)
        })?;
        let spill = Spill {
            instance: self,
            ino,
            number,
            file,
            kept: false,
        };
        if !contents.is_empty() && written <= self.synced_xid() {
            self.backing
                .sync(ino, number)
                .map_err(|e| self.sync_failed(&e))?;
        }
        Ok(spill)
    }

    /// A crash between the record of a truncation and the truncation itself leaves old bytes past
    /// the end: cut them off before the file grows over them.
    fn cut_stale_tail(&self, file: &File, size: u64) -> OpResult<()> {
        let cut = || -> io::Result<()> {
            if file.metadata()?.len() > size {
                self.backing.counting(file, || file.set_len(size))
            } else {
                Ok(())
            }
        };
        cut().map_err(|e| self.io_refusal("a backing file could not be cut", &e))
    }

    /// Before bytes `from..to` change: keep the blocks that a pending snapshot still needs.
    fn preserve(&self, inode: &Inode, file: &File, from: u64, to: u64) -> OpResult<()> {
        let Some(preserved) = self.preserved() else {
            return Ok(());
        };
        // A backing file made after the cut has nothing of the snapshot; what the file had before is
        // in another one, kept until the snapshot is done.
        if inode.file > preserved.cut.0 {
            return Ok(());
        }
        let ino = inode.row.ino;
        let block_size = self.kvs.block_size();
        let last = to.min(inode.row.size).div_ceil(block_size);
        for blk in from / block_size..last {
            preserved
                .keep(ino, blk, block_size, file, || {
                    self.is_pending(ino, blk, preserved.cut)
                })
                .map_err(|e| self.eio(&e))?;
        }
        Ok(())
    }

    /// Whether the block is as it was at the cut, and part of what the snapshot must persist.
    fn is_pending(&self, ino: Ino, blk: u64, cut: Xid) -> Result<bool> {
        if let Some(xid) = self.kvs.tables().dirty_block(ino, blk) {
            // `flushing` may still hold rows of before the cut.
            return Ok(xid <= cut);
        }
        let files = self.kvs.files();
        for file in files
            .active
            .iter()
            .chain(files.frozen.iter().map(|f| &f.file))
        {
            if let Some(xid) = file.block(ino, blk)? {
                return Ok(xid <= cut);
            }
        }
        Ok(false)
    }

    /// truncate(2); the attributes that go with it are set by `attributes` in the same operation.
    pub(super) fn op_truncate(
        &self,
        patience: Patience,
        ino: Ino,
        size: u64,
        attributes: impl Fn(&mut InodeRow, cbfs_core::inode::Timestamp),
    ) -> OpResult<Inode> {
        if size > i64::MAX as u64 {
            return Err(Errno::EFBIG.into());
        }
        self.with_blocks(patience, |held| {
            self.truncate_with(held, ino, size, &attributes)
        })
    }

    fn truncate_with(
        &self,
        held: &mut Held,
        ino: Ino,
        size: u64,
        attributes: &impl Fn(&mut InodeRow, cbfs_core::inode::Timestamp),
    ) -> OpResult<Inode> {
        let _stripe = self.stripe(ino).write();
        let inode = self.regular(ino)?;
        let before = inode.row.size;
        let below = self.below(&inode)?;
        let only_below = self.is_only_below(&inode)?;
        if inode.file != 0 && size > 0 && size < before {
            self.bring_tail(held, &inode, below.as_deref(), size)?;
        }
        // What is only below stays there: the size alone cuts it.
        let spilled = if inode.file == 0 && size > INLINE_MAX && !only_below {
            Some(self.prepare_spill(&inode)?)
        } else {
            None
        };
        let gate = self.enter()?;
        let file = match (&spilled, inode.file) {
            (Some(spill), _) => Some(Arc::clone(&spill.file)),
            (None, 0) => None,
            (None, _) => Some(self.backing_file(&inode)?),
        };
        if let Some(file) = &file {
            // Truncated to nothing, the backing file is given up whole, and kept as it is until
            // the snapshot is done.
            if spilled.is_none() && size > 0 {
                self.preserve(&inode, file, size.min(before), before)?;
            }
            if size > before {
                self.cut_stale_tail(file, before)?;
                let grown = file.set_len(size);
                grown.map_err(|e| self.io_refusal("a backing file could not be extended", &e))?;
                reach(failpoints::TRUNCATE_EXTENDED);
            }
        }
        let (after, xid) = self.commit_inside(&gate, |d| {
            let mut after = d.live(ino)?;
            if let Some(spill) = &spilled {
                d.events.push(spill.event());
                after.file = spill.number;
            }
            d.events.push(Event::Truncate { ino, size });
            after.row.size = size;
            attributes(&mut after.row, d.time);
            d.events.push(Event::InodeUpdate(after.row));
            if size == 0 {
                after.file = 0;
            }
            Ok(after)
        })?;
        if let Some(spill) = spilled {
            spill.keep();
        }
        if let Some(below) = &below {
            self.now_ends(below, size);
        }
        if size == 0 && before > 0 {
            self.truncated.lock().insert(ino);
        }
        reach(failpoints::TRUNCATE_JOURNALED);
        match file {
            Some(_) if size == 0 => self.backing.doom(ino, inode.file, xid),
            Some(file) if size < before => {
                let cut = self.backing.counting(&file, || file.set_len(size));
                cut.map_err(|e| self.io_refusal("a backing file could not be cut", &e))?;
                self.backing.mark_dirty(ino, after.file);
            }
            _ => {}
        }
        Ok(after)
    }

    /// Cut to `size`, the last block counts as changed: it must be here.
    fn bring_tail(
        &self,
        held: &mut Held,
        inode: &Inode,
        below: Option<&Mutex<Below>>,
        size: u64,
    ) -> OpResult<()> {
        let block_size = self.kvs.block_size();
        let tail = size / block_size * block_size;
        if tail == size {
            return Ok(());
        }
        let range = (size, inode.row.size.min(tail.saturating_add(block_size)));
        let absent = self.absent(held, inode, below, range)?;
        if absent.is_empty() {
            return Ok(());
        }
        let file = self.backing_file(inode)?;
        self.bring(inode, (inode.file, &file), &absent)
    }

    /// fallocate(2).
    pub(super) fn op_fallocate(
        &self,
        patience: Patience,
        ino: Ino,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> OpResult<()> {
        let end = offset.checked_add(length).filter(|e| *e <= i64::MAX as u64);
        let end = end.ok_or(Errno::EFBIG)?;
        let keep = mode & KEEP_SIZE != 0;
        match mode & !KEEP_SIZE {
            0 => self.allocate(patience, ino, (offset, end), keep),
            PUNCH_HOLE if keep => {
                self.zero(patience, ino, (offset, end), FallocateFlags::PUNCH_HOLE)
            }
            ZERO_RANGE => {
                if !keep && end > self.regular(ino)?.row.size {
                    self.op_truncate(patience, ino, end, |row, now| row.ctime = now)?;
                }
                self.zero(patience, ino, (offset, end), FallocateFlags::ZERO_RANGE)
            }
            _ => Err(Errno::EOPNOTSUPP.into()),
        }
    }

    fn allocate(
        &self,
        patience: Patience,
        ino: Ino,
        (offset, end): (u64, u64),
        keep: bool,
    ) -> OpResult<()> {
        if !keep && end > self.regular(ino)?.row.size {
            self.op_truncate(patience, ino, end, |row, now| {
                row.ctime = now;
                row.mtime = now;
            })?;
        }
        let _stripe = self.stripe(ino).write();
        let inode = self.regular(ino)?;
        if inode.file == 0 {
            return Ok(());
        }
        let file = self.backing_file(&inode)?;
        let allocate = || fallocate(&file, FallocateFlags::KEEP_SIZE, offset, end - offset);
        match self.backing.counting(&file, allocate) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(self.io_refusal("space could not be allocated", &e.into())),
        }
    }

    /// Make bytes `from..to` zero, as a hole or as allocated zeros.
    fn zero(
        &self,
        patience: Patience,
        ino: Ino,
        range: (u64, u64),
        how: FallocateFlags,
    ) -> OpResult<()> {
        self.with_blocks(patience, |held| self.zero_with(held, ino, range, how))
    }

    fn zero_with(
        &self,
        held: &mut Held,
        ino: Ino,
        (from, to): (u64, u64),
        how: FallocateFlags,
    ) -> OpResult<()> {
        let _stripe = self.stripe(ino).write();
        let inode = self.regular(ino)?;
        let to = to.min(inode.row.size);
        if from >= to {
            return Ok(());
        }
        if inode.file == 0 && inode.row.size <= INLINE_MAX {
            return self.write_inline(held, &inode, from, &vec![0; (to - from) as usize]);
        }
        let below = self.below(&inode)?;
        let absent = self.absent_data(held, &inode, below.as_deref(), (from, to))?;
        let spilled = if inode.file == 0 {
            Some(self.prepare_spill(&inode)?)
        } else {
            None
        };
        let (number, file) = match &spilled {
            Some(spill) => (spill.number, Arc::clone(&spill.file)),
            None => (inode.file, self.backing_file(&inode)?),
        };
        self.bring(&inode, (number, &file), &absent)?;
        let gate = self.enter()?;
        self.preserve(&inode, &file, from, to)?;
        let mut ranges = data_ranges(&file, from, to)
            .map_err(|e| self.io_refusal("a backing file could not be searched for data", &e))?;
        let block_size = self.kvs.block_size();
        let here: Vec<u64> = absent.iter().map(|a| a.blk).collect();
        // What has data below is zero from now on, whether the backing file has anything there or not.
        ranges.extend(here.iter().map(|blk| {
            let start = blk * block_size;
            (start.max(from), start.saturating_add(block_size).min(to))
        }));
        self.commit_inside(&gate, |d| {
            let mut row = d.live(ino)?.row;
            if let Some(spill) = &spilled {
                d.events.push(spill.event());
            }
            // Only where there was data: a huge hole in a sparse file costs nothing.
            let holes = ranges
                .iter()
                .map(|&(from, to)| Event::Hole { ino, from, to });
            d.events.extend(holes);
            row.mtime = d.time;
            row.ctime = d.time;
            d.events.push(Event::InodeUpdate(row));
            Ok::<_, Stop>(())
        })?;
        if let Some(spill) = spilled {
            spill.keep();
        }
        if let Some(below) = &below {
            let zeroed = ranges
                .iter()
                .flat_map(|(from, to)| from / block_size..to.div_ceil(block_size));
            self.now_here(below, zeroed);
        }
        reach(failpoints::HOLE_JOURNALED);
        let flags = how | FallocateFlags::KEEP_SIZE;
        let done =
            self.backing
                .counting(&file, || match fallocate(&file, flags, from, to - from) {
                    Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(&file, from, to),
                    other => other.map_err(io::Error::from),
                });
        done.map_err(|e| self.io_refusal("a hole could not be punched", &e))?;
        self.backing.mark_dirty(ino, number);
        Ok(())
    }

    /// lseek(2) with `SEEK_DATA` (3) or `SEEK_HOLE` (4).
    pub(super) fn op_seek(&self, ino: Ino, offset: u64, whence: u32) -> OpResult<u64> {
        let _stripe = self.stripe(ino).read();
        let inode = self.regular(ino)?;
        let size = inode.row.size;
        if offset >= size {
            return Err(Errno::ENXIO.into());
        }
        let data = match whence {
            3 => true,
            4 => false,
            _ => return Err(Errno::EINVAL.into()),
        };
        let below = self.below(&inode)?;
        if inode.file != 0 {
            let file = self.backing_file(&inode)?;
            if let Some(below) = &below {
                let found = self.seek_mixed(&inode, &file, below, offset, data)?;
                return found.ok_or(Errno::ENXIO.into());
            }
            let at = if data {
                SeekFrom::Data(offset)
            } else {
                SeekFrom::Hole(offset)
            };
            return match seek(&file, at) {
                Ok(at) if data && at >= size => Err(Errno::ENXIO.into()),
                Ok(at) => Ok(at.min(size)),
                Err(rustix::io::Errno::NXIO) if data => Err(Errno::ENXIO.into()),
                // The backing file may be shorter than the file: a hole up to the end.
                Err(rustix::io::Errno::NXIO) => Ok(offset),
                Err(e) => Err(self.io_refusal("a backing file could not be searched", &e.into())),
            };
        }
        match &below {
            Some(below) => {
                let found = self.seek_below(&inode, below, offset, data)?;
                found.ok_or(Errno::ENXIO.into())
            }
            None if self.is_only_below(&inode)? && data => Err(Errno::ENXIO.into()),
            None if self.is_only_below(&inode)? => Ok(offset),
            None => Ok(if data { offset } else { size }),
        }
    }

    /// copy_file_range(2): a bounded piece at a time; the kernel comes again for the rest.
    pub(super) fn op_copy_range(
        &self,
        patience: Patience,
        from: (Ino, u64),
        to: (Ino, u64),
        length: u64,
    ) -> OpResult<u64> {
        let want = length.min(COPY_PIECE) as u32;
        let bytes = self.op_read(patience, from.0, from.1, want)?;
        self.op_write(patience, to.0, to.1, &bytes)?;
        Ok(bytes.len() as u64)
    }
}

/// A fresh backing file that no record refers to yet; removed when dropped before
/// [`Spill::keep`], under the same hold of the inode's stripe.
struct Spill<'a> {
    instance: &'a Instance,
    ino: Ino,
    number: u64,
    file: Arc<File>,
    kept: bool,
}

impl Spill<'_> {
    fn event(&self) -> Event {
        let (ino, file) = (self.ino, self.number);
        Event::Spill { ino, file }
    }

    /// The record is in the journal.
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Spill<'_> {
    fn drop(&mut self) {
        // When poisoned, the record may be in the journal although the operation failed.
        if !self.kept && self.instance.poisoned().is_none() {
            self.instance.backing.discard(self.ino, self.number);
        }
    }
}

/// The parts of `from..to` in the absent blocks, and the others.
fn split(
    absent: &[Absent],
    block_size: u64,
    (from, to): (u64, u64),
) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let (mut fresh, mut rest, mut at) = (Vec::new(), Vec::new(), from);
    for Absent { blk, .. } in absent {
        let start = (blk * block_size).max(from);
        let stop = (blk * block_size).saturating_add(block_size).min(to);
        if at < start {
            rest.push(at..start);
        }
        fresh.push(start..stop);
        at = stop;
    }
    if at < to {
        rest.push(at..to);
    }
    (fresh, rest)
}

/// Fill `bytes` from `offset`; past the end of the file they stay as they are.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => return Ok(()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = from;
    while at < to {
        let part = (to - at).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    Ok(())
}
