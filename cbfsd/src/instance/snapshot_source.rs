//! The mounted instance as the tiering-out agent sees it: the cut, the file system as of the cut, the
//! blocks as of the cut.

use super::Instance;
use crate::data::{Preserved, data_ranges};
use crate::kvs::Frozen;
use crate::tiering::persister::{BlockBytes, MountedInstance};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::ids::{Ino, SnapshotNumber, Xid};
use cbfs_core::layers::Layer;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Holes are kept at multiples of this many bytes.
const GRAIN: u64 = 4096;

/// The file system as of a cut, for the persister.
pub struct AtCut {
    instance: Arc<Instance>,
    preserved: Arc<Preserved>,
    view: Arc<dyn Layer>,
}

impl Instance {
    /// Cut for snapshot `number`: writers are held only while the journal takes the record and the
    /// dirty tables are swapped out. From here on, blocks of the snapshot are preserved before
    /// they change. Answers the frozen file that the cut closed, and how long writers were held: from the
    /// moment at which none was let in any more, so the end of the slowest that was in is part of it.
    pub fn cut(self: &Arc<Self>, number: SnapshotNumber) -> Result<(Frozen, Duration)> {
        let Some(journal) = &self.journal else {
            return Err(Error::failed("a slave cannot cut a snapshot"));
        };
        let sync = |xid: Xid| self.sync_journal(xid).map(drop);
        let limit = self.options.cache_limit;
        // Most of the dirty rows go out before the gate closes.
        let mut flush = self.kvs.lock_flush(&sync, limit)?;
        // What is before the cut stands in segments that go when the snapshot is complete.
        {
            let _tables = self.kvs.tables();
            let rolled = journal.lock().roll();
            rolled.context(|| "a journal segment could not be begun".into())?;
        }
        // Copies of a cut that a power loss undid: the new one has the same generation.
        let left = self
            .dir
            .join("frozen")
            .join(Preserved::dir_name(self.kvs.files().generation));
        durable_file::remove_dir_all(&left)?;
        let place = self.dir.join("frozen");
        Preserved::make_place(&place, self.kvs.files().generation)?;
        let held = Instant::now();
        let held = {
            let _gate = self.gate.write();
            let generation = self.kvs.files().generation;
            let cut = self.kvs.tables().xid.next();
            // In place before the gate opens: the first write after the cut must see it.
            let preserved = Preserved::open(&place, generation, cut, false);
            let taken = self
                .kvs
                .cut(&mut flush, &mut journal.lock(), number, self.clock.now())?;
            debug_assert_eq!(taken, cut);
            *self.preserved.write() = Some(Arc::new(preserved));
            held
        }
        .elapsed();
        self.kvs.rotate(&mut flush, &sync, limit)?;
        drop(flush);
        Ok((self.frozen_of(number)?, held))
    }

    /// The frozen file that the cut of `number` closed.
    pub fn frozen_of(&self, number: SnapshotNumber) -> Result<Frozen> {
        let files = self.kvs.files();
        let found = files.frozen.iter().find(|f| f.number == number).cloned();
        found.ok_or_else(|| Error::failed(format!("the cut of snapshot {number} is not here")))
    }

    /// Take up preserving for a cut of an earlier run of the daemon, before the mount is back.
    pub fn resume_preserving(&self, frozen: &Frozen) -> Result<()> {
        let place = self.dir.join("frozen");
        Preserved::make_place(&place, frozen.generation)?;
        let preserved = Preserved::open(&place, frozen.generation, frozen.cut, true);
        *self.preserved.write() = Some(Arc::new(preserved));
        Ok(())
    }

    /// Remove preserved copies of former snapshots; `keep` is the generation that goes on.
    pub fn discard_preserved_but(&self, keep: Option<u64>) -> Result<()> {
        let dir = self.dir.join("frozen");
        let describe = || format!("{} could not be listed", dir.display());
        let keep = keep.map(Preserved::dir_name);
        for entry in std::fs::read_dir(&dir).context(describe)? {
            let entry = entry.context(describe)?;
            if Some(entry.file_name().to_string_lossy().into_owned()) != keep {
                durable_file::remove_dir_all(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The snapshot needs nothing preserved any more.
    pub fn stop_preserving(&self) -> Result<()> {
        let preserved = {
            // Operations that keep a block do so inside the gate: none may be half-way when the place for it goes, as
            // the write it precedes would fail.
            let _gate = self.gate.write();
            self.preserved.write().take()
        };
        preserved.map_or(Ok(()), |p| p.discard())
    }

    /// The file system as of the cut that is being persisted.
    pub fn at_cut(self: &Arc<Self>) -> Result<AtCut> {
        let preserved = self
            .preserved()
            .ok_or_else(|| Error::failed("no snapshot is being persisted"))?;
        let block_size = self.kvs.block_size();
        let view = self.kvs.files().at_cut(preserved.generation, block_size);
        Ok(AtCut {
            instance: Arc::clone(self),
            preserved,
            view: Arc::new(view),
        })
    }
}

impl MountedInstance for AtCut {
    fn at_cut(&self) -> Arc<dyn Layer> {
        Arc::clone(&self.view)
    }

    fn first_new_inode(&self) -> Result<Ino> {
        let files = self.instance.kvs.files();
        let known = files.first_new_inode(self.preserved.generation)?;
        Ok(known.unwrap_or(Ino::first_of(self.instance.epoch)))
    }

    fn backing_file(&self, ino: Ino) -> Result<u64> {
        let files = self.instance.kvs.files();
        let frozen = files
            .frozen
            .iter()
            .filter(|f| f.generation <= self.preserved.generation);
        for file in frozen.map(|f| &f.file).chain(&files.main) {
            if let Some(number) = file.backing(ino)? {
                return Ok(number);
            }
        }
        Err(Error::damage(format!(
            "inode {ino} has blocks but no backing file"
        )))
    }

    fn block_holes(&self, ino: Ino, file: u64, blk: u64, len: usize) -> Result<Vec<(u64, u64)>> {
        let describe = || format!("block {blk} of inode {ino} could not be searched for holes");
        let _stripe = self.instance.stripe(ino).read();
        let (source, from) = self.block_source(ino, file, blk).context(describe)?;
        let data = data_ranges(&source, from, from + len as u64).context(describe)?;
        Ok(holes_between(&data, from, len))
    }

    fn read_block(&self, ino: Ino, file: u64, blk: u64, len: usize) -> Result<BlockBytes> {
        let describe = || format!("block {blk} of inode {ino} could not be read");
        // Writers of this inode wait: what is read is either untouched or has a copy.
        let _stripe = self.instance.stripe(ino).read();
        let (source, from) = self.block_source(ino, file, blk).context(describe)?;
        read_with_holes(&source, from, len).context(describe)
    }
}

impl AtCut {
    /// The file that has the block as of the cut, and from which byte. Under the inode's stripe.
    fn block_source(&self, ino: Ino, file: u64, blk: u64) -> io::Result<(Arc<File>, u64)> {
        if let Some(copy) = self.preserved.copy_of(ino, blk)? {
            return Ok((Arc::new(copy), 0));
        }
        let source = self.instance.backing.get(ino, file)?;
        Ok((source, blk * self.instance.kvs.block_size()))
    }
}

/// `len` bytes from `from`, zeros past the end, and which of them are holes.
fn read_with_holes(file: &File, from: u64, len: usize) -> io::Result<BlockBytes> {
    let mut bytes = vec![0; len];
    let data = data_ranges(file, from, from + len as u64)?;
    for (start, stop) in &data {
        let (mut done, stop) = ((start - from) as usize, (stop - from) as usize);
        while done < stop {
            match file.read_at(&mut bytes[done..stop], from + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
    }
    Ok(BlockBytes {
        bytes,
        holes: holes_between(&data, from, len),
    })
}

/// What lies between data ranges, relative to `from`, shrunk to the grain that holes are kept in.
fn holes_between(data: &[(u64, u64)], from: u64, len: usize) -> Vec<(u64, u64)> {
    let len = len as u64;
    let mut holes = Vec::new();
    let mut at = 0;
    for (start, stop) in data
        .iter()
        .map(|(a, b)| (a - from, b - from))
        .chain([(len, len)])
    {
        let hole = (
            u64::next_multiple_of(at, GRAIN),
            if start == len {
                len
            } else {
                start / GRAIN * GRAIN
            },
        );
        if hole.0 < hole.1 {
            holes.push(hole);
        }
        at = stop;
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{MasterParams, Options};
    use cbfs_core::clock::System;
    use cbfs_core::ids::Epoch;
    use std::thread;

    #[test]
    fn the_place_of_preserved_blocks_stays_while_an_operation_may_keep_one() {
        let dir = tempfile::tempdir().unwrap();
        let params = MasterParams {
            id: "home".into(),
            dir: dir.path().to_owned(),
            epoch: Epoch(1),
            published: Xid(0),
            block_size: 1 << 20,
            base: None,
            options: Options {
                ballast: Some(0),
                ..Options::default()
            },
            clock: Arc::new(System),
            inherited: None,
        };
        let instance = Instance::open_master(params).unwrap();
        let frozen = dir.path().join("frozen");
        Preserved::make_place(&frozen, 1).unwrap();
        let preserved = Preserved::open(&frozen, 1, Xid(1), false);
        *instance.preserved.write() = Some(Arc::new(preserved));
        let place = frozen.join(Preserved::dir_name(1));

        // A write that has decided to keep a block.
        let gate = instance.gate.read();
        thread::scope(|scope| {
            let stopping = scope.spawn(|| instance.stop_preserving());
            // Who waits at the gate lets nobody else in.
            while !stopping.is_finished() && instance.gate.try_read().is_some() {
                thread::yield_now();
            }
            assert!(place.exists(), "the write would fail");
            assert!(instance.preserved.read().is_some());
            drop(gate);
            stopping.join().unwrap().unwrap();
        });
        assert!(!place.exists());
        assert!(instance.preserved.read().is_none());
        instance.close().unwrap();
    }
}
