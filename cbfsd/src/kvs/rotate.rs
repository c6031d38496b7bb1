//! Write-behind: flushing the dirty tables into `active`, and the rotation at a cut.
//!
//! Order of a rotation, each step redone or recognised after a crash:
//!
//! 1. under the gate: the `Cut` record goes to the journal, `hot` is swapped out;
//! 2. its rows go into `active` in one transaction that also says which snapshot closed it;
//! 3. `active` is checkpointed, renamed to `frozen-<n>`; a new `active` is begun.
//!
//! A crash before 2 commits: replay meets the `Cut` record and rotates there. Between 2 and 3: the
//! `closed_by` mark is found at open.

use super::file::{Committed, KvsFile};
use super::table::Table;
use super::{Files, Kvs, Tables};
use crate::failpoints::{self, reach};
use crate::journal::{Event, Journal};
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::ids::{SnapshotNumber, Xid};
use cbfs_core::inode::Timestamp;
use cbfs_core::layers::Stack;
use parking_lot::MutexGuard;
use std::path::Path;
use std::sync::Arc;

/// Rows moved into the cache under one hold of the tables' lock.
const RETIRE_CHUNK: usize = 512;

/// A file closed by a cut.
#[derive(Clone)]
pub struct Frozen {
    /// Its generation.
    pub generation: u64,
    /// The file.
    pub file: Arc<KvsFile>,
    /// The snapshot whose cut closed it.
    pub number: SnapshotNumber,
    /// The last operation in it: the cut.
    pub cut: Xid,
    /// The last operation before it.
    pub from: Xid,
}

/// A cut that was taken and whose rows still wait in `flushing`: the next holder of the flush lock
/// completes the rotation before anything else, so that rows from before and after a cut never mix.
pub struct PendingCut {
    number: SnapshotNumber,
    committed: Committed,
    /// The closed file, once that step is done: a failure behind it does not repeat it.
    frozen: Option<Frozen>,
}

/// The flush lock: one flush, rotation or fold at a time.
pub type FlushLock<'a> = MutexGuard<'a, Option<PendingCut>>;

impl Kvs {
    /// Write the dirty rows to `active`. `sync` makes the journal durable up to an xid: SQLite must
    /// never know more than the journal after a power loss.
    pub fn flush(&self, sync: &dyn Fn(Xid) -> Result<()>, cache_limit: usize) -> Result<()> {
        self.lock_flush(sync, cache_limit).map(drop)
    }

    /// Flush, and keep the lock that keeps other flushes out: what [`Kvs::cut`] needs.
    pub fn lock_flush(
        &self,
        sync: &dyn Fn(Xid) -> Result<()>,
        cache_limit: usize,
    ) -> Result<FlushLock<'_>> {
        let mut lock = self.flush.lock();
        let Some(active) = self.rotate(&mut lock, sync, cache_limit)? else {
            return Ok(lock);
        };
        // Rows of a flush that failed go together with what came after them.
        let (table, committed) = {
            let mut tables = self.tables();
            if let Some(failed) = tables.flushing.take() {
                let newer = std::mem::take(&mut tables.hot);
                tables.hot = merge(&failed, newer);
            }
            if tables.hot.is_empty() {
                return Ok(lock);
            }
            let committed = committed(&tables);
            (swap_out(&mut tables), committed)
        };
        reach(failpoints::FLUSH_SWAPPED);
        sync(committed.xid)?;
        reach(failpoints::FLUSH_JOURNAL_SYNCED);
        active.write(&table, &committed, None)?;
        reach(failpoints::FLUSH_COMMITTED);
        self.retire(&table, cache_limit);
        Ok(lock)
    }

    /// Let the file that takes flushes catch up, when much was flushed: see [`KvsFile::checkpoint_ahead`]. No flush and no
    /// rotation meanwhile.
    pub fn checkpoint_ahead(&self) -> Result<()> {
        let _no_flush = self.flush.lock();
        let active = self.files().active.clone();
        active.map_or(Ok(()), |active| active.checkpoint_ahead())
    }

    /// Give the space that deleted rows left in the files back to the disk.
    pub fn shrink(&self) -> Result<()> {
        let _no_flush = self.flush.lock();
        let files = self.files();
        let growing = files.active.iter().chain(&files.main);
        growing.into_iter().try_for_each(|file| file.shrink())
    }

    /// Take the cut for snapshot `number`: the caller holds the gate exclusively, so that no
    /// operation is half done. After it the gate may be left; [`Kvs::rotate`] must follow.
    pub fn cut(
        &self,
        lock: &mut FlushLock<'_>,
        journal: &mut Journal,
        number: SnapshotNumber,
        time: Timestamp,
    ) -> Result<Xid> {
        reach(failpoints::CUT_BEFORE_RECORD);
        let mut tables = self.tables();
        let xid = tables.xid.next();
        journal
            .append(xid, time, &[Event::Cut { number }])
            .context(|| "the cut could not be journaled".into())?;
        reach(failpoints::CUT_JOURNALED);
        self.begin_cut(&mut tables, lock, number, xid);
        Ok(xid)
    }

    /// A cut met in the journal during replay: rotate now.
    pub fn replay_cut(&self, number: SnapshotNumber, xid: Xid, cache_limit: usize) -> Result<()> {
        let mut lock = self.flush.lock();
        self.begin_cut(&mut self.tables(), &mut lock, number, xid);
        self.rotate(&mut lock, &|_| Ok(()), cache_limit).map(drop)
    }

    fn begin_cut(
        &self,
        tables: &mut Tables,
        lock: &mut FlushLock<'_>,
        number: SnapshotNumber,
        xid: Xid,
    ) {
        tables.xid = xid;
        // `last_cut` of a closed file is the cut before the one that closed it.
        let committed = committed(tables);
        tables.last_cut = xid;
        swap_out(tables);
        **lock = Some(PendingCut {
            number,
            committed,
            frozen: None,
        });
    }

    /// Complete a cut that was taken, if there is one: write the rows out, freeze `active`, begin a
    /// new one. Answers the file that takes flushes now (`None` on a slave). On error the cut
    /// stays pending and is completed by the next call.
    pub fn rotate(
        &self,
        lock: &mut FlushLock<'_>,
        sync: &dyn Fn(Xid) -> Result<()>,
        cache_limit: usize,
    ) -> Result<Option<Arc<KvsFile>>> {
        let files = self.files();
        let Some(active) = files.active.clone() else {
            return Ok(None);
        };
        let Some(PendingCut {
            number,
            committed,
            frozen: done,
        }) = lock.as_mut()
        else {
            return Ok(Some(active));
        };
        let table = self.tables().flushing.clone().unwrap_or_default();
        let frozen = match done {
            Some(frozen) => frozen.clone(),
            None => {
                sync(committed.xid)?;
                reach(failpoints::ROTATE_BEFORE_ROWS);
                if active.closed_by()? != Some(*number) {
                    active.write(&table, committed, Some(*number))?;
                }
                reach(failpoints::ROTATE_MARKED);
                let frozen = freeze(&self.dir, &active, files.generation, *number, committed)?;
                done.insert(frozen).clone()
            }
        };
        reach(failpoints::ROTATE_FROZEN);
        let next = Arc::new(KvsFile::open(
            &self.dir.join(active_name(files.generation + 1)),
        )?);
        reach(failpoints::ROTATE_NEW_ACTIVE);
        let mut all = vec![frozen];
        all.extend(files.frozen.iter().cloned());
        *self.files.write() = Arc::new(Files::new(
            Some(Arc::clone(&next)),
            files.generation + 1,
            all,
            files.main.clone(),
            files.base.clone(),
            self.block_size,
        ));
        **lock = None;
        self.retire(&table, cache_limit);
        Ok(Some(next))
    }

    /// Replace the list of frozen files (after a fold).
    pub(super) fn drop_frozen(&self, generation: u64) {
        let mut slot = self.files.write();
        let files = Arc::clone(&slot);
        let keep = files
            .frozen
            .iter()
            .filter(|f| f.generation != generation)
            .cloned()
            .collect();
        *slot = Arc::new(Files::new(
            files.active.clone(),
            files.generation,
            keep,
            files.main.clone(),
            files.base.clone(),
            self.block_size,
        ));
    }

    /// Move written rows from `flushing` into the cache, a chunk at a time.
    fn retire(&self, table: &Table, cache_limit: usize) {
        // Before the first row enters the cache: whoever read the files before the commit must not
        // put an older row over it.
        self.tables().generation += 1;
        let mut batch = Retire {
            kvs: self,
            left: 0,
            tables: None,
        };
        for inode in table.inodes.values() {
            batch.tables().cache.put_inode(*inode);
        }
        for (parent, names) in &table.dentries {
            for (key, dentry) in names {
                let cache = &mut batch.tables().cache;
                if dentry.ino.is_none() && cache.complete.contains(parent) {
                    cache.remove_dentry(*parent, key);
                } else {
                    cache.put_dentry(*parent, key.clone(), *dentry);
                }
            }
        }
        for (ino, target) in &table.links {
            batch.tables().cache.put_link(*ino, Arc::clone(target));
        }
        for (ino, all) in &table.xattrs {
            let cache = &mut batch.tables().cache;
            // Rows of an inode whose attributes are not all known would look like all of them.
            if cache.xattrs.contains_key(ino) {
                for (name, xattr) in all {
                    cache.put_xattr(*ino, name.clone(), xattr.clone());
                }
            }
        }
        for (ino, inline) in &table.inline {
            batch.tables().cache.put_inline(*ino, inline.clone());
        }
        drop(batch);
        {
            let mut tables = self.tables();
            tables.flushing = None;
            tables.generation += 1;
        }
        self.bound_cache(cache_limit);
    }
}

/// Holds the tables' lock for a chunk of rows, then lets others in.
struct Retire<'a> {
    kvs: &'a Kvs,
    left: usize,
    tables: Option<MutexGuard<'a, Tables>>,
}

impl<'a> Retire<'a> {
    fn tables(&mut self) -> &mut Tables {
        if self.left == 0 {
            self.tables = None;
            self.left = RETIRE_CHUNK;
        }
        self.left -= 1;
        self.tables.get_or_insert_with(|| self.kvs.tables())
    }
}

fn swap_out(tables: &mut Tables) -> Arc<Table> {
    let table = Arc::new(std::mem::take(&mut tables.hot));
    tables.flushing = Some(Arc::clone(&table));
    table
}

fn committed(tables: &Tables) -> Committed {
    Committed {
        xid: tables.xid,
        next_ino: tables.next_ino,
        inodes: tables.counters.inodes,
        bytes: tables.counters.bytes,
        last_cut: tables.last_cut,
    }
}

/// `newer` over `older`, for rows whose flush failed.
fn merge(older: &Table, newer: Table) -> Table {
    let mut all = newer;
    for inode in older.inodes.values() {
        if !all.inodes.contains_key(&inode.row.ino) {
            all.put_inode(*inode);
        }
    }
    for (parent, names) in &older.dentries {
        for (key, dentry) in names {
            if !all
                .dentries
                .get(parent)
                .is_some_and(|d| d.contains_key(key))
            {
                all.put_dentry(*parent, key.clone(), *dentry);
            }
        }
    }
    for (ino, target) in &older.links {
        if !all.links.contains_key(ino) {
            all.put_link(*ino, Arc::clone(target));
        }
    }
    for (ino, xattrs) in &older.xattrs {
        for (name, xattr) in xattrs {
            if !all.xattrs.get(ino).is_some_and(|x| x.contains_key(name)) {
                all.put_xattr(*ino, name.clone(), xattr.clone());
            }
        }
    }
    for (ino, inline) in &older.inline {
        if !all.inline.contains_key(ino) {
            all.put_inline(*ino, inline.clone());
        }
    }
    for (ino, file) in &older.backing {
        if !all.backing.contains_key(ino) {
            all.put_backing(*ino, *file);
        }
    }
    for (ino, parent) in &older.parents {
        all.parents.entry(*ino).or_insert(*parent);
    }
    for (ino, blocks) in &older.blocks {
        for (blk, xid) in blocks {
            if !all.blocks.get(ino).is_some_and(|b| b.contains_key(blk)) {
                all.put_block(*ino, *blk, *xid);
            }
        }
    }
    all
}

pub(super) fn active_name(generation: u64) -> String {
    format!("active-{generation:06}.sqlite")
}

pub(super) fn frozen_name(generation: u64) -> String {
    format!("frozen-{generation:06}.sqlite")
}

fn freeze(
    dir: &Path,
    active: &KvsFile,
    generation: u64,
    number: SnapshotNumber,
    committed: &Committed,
) -> Result<Frozen> {
    let file = active.freeze(&dir.join(frozen_name(generation)))?;
    Ok(Frozen {
        generation,
        file: Arc::new(file),
        number,
        cut: committed.xid,
        from: committed.last_cut,
    })
}

/// Open whatever lies in the directory and finish an interrupted rotation.
pub(super) fn open_files(
    dir: &Path,
    base: Option<Arc<Stack>>,
    floor: Committed,
    block_size: u64,
) -> Result<(Files, Committed)> {
    let main = Arc::new(KvsFile::open(&dir.join("main.sqlite"))?);
    let folded = main.with(|conn| cbfs_core::layers::rows::meta(conn, "generation"))?;
    let folded: u64 = folded.and_then(|t| t.parse().ok()).unwrap_or(0);
    let mut actives = generations(dir, "active-")?;
    let mut frozen = Vec::new();
    for generation in generations(dir, "frozen-")? {
        if generation <= folded {
            // A crash between the fold and the removal: what is in it is in `main`, and what `main`
            // has since is newer.
            let path = dir.join(frozen_name(generation));
            std::fs::remove_file(&path)
                .context(|| format!("{} could not be removed", path.display()))?;
            continue;
        }
        let file = KvsFile::open_frozen(&dir.join(frozen_name(generation)))?;
        let (Some(committed), Some(number)) = (file.committed()?, file.closed_by()?) else {
            return Err(Error::damage(format!(
                "{} was never closed",
                file.path().display()
            )));
        };
        let (file, from) = (Arc::new(file), committed.last_cut);
        frozen.push(Frozen {
            generation,
            file,
            number,
            cut: committed.xid,
            from,
        });
    }
    let newest_frozen = frozen.iter().map(|f| f.generation).max().unwrap_or(0);
    let mut generation = actives.pop().unwrap_or(newest_frozen.max(folded) + 1);
    let mut active = KvsFile::open(&dir.join(active_name(generation)))?;
    if let (Some(number), Some(committed)) = (active.closed_by()?, active.committed()?) {
        frozen.push(freeze(dir, &active, generation, number, &committed)?);
        generation += 1;
        active = KvsFile::open(&dir.join(active_name(generation)))?;
    }
    frozen.sort_by_key(|f| std::cmp::Reverse(f.generation));
    let committed = match active.committed()? {
        Some(committed) => committed,
        None => committed_above(frozen.first(), Some(&main), floor)?,
    };
    let files = Files::new(
        Some(Arc::new(active)),
        generation,
        frozen,
        Some(main),
        base,
        block_size,
    );
    Ok((files, committed))
}

/// Where an `active` begins in which nothing is committed yet: at the cut that closed the one before.
pub(super) fn committed_above(
    newest: Option<&Frozen>,
    main: Option<&KvsFile>,
    floor: Committed,
) -> Result<Committed> {
    let below = match newest {
        Some(newest) => newest.file.committed()?,
        None => main.map(KvsFile::committed).transpose()?.flatten(),
    };
    Ok(below.map_or(floor, |closed| Committed {
        last_cut: closed.xid,
        ..closed
    }))
}

pub(super) fn generations(dir: &Path, prefix: &str) -> Result<Vec<u64>> {
    let describe = || format!("{} could not be listed", dir.display());
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).context(describe)? {
        let name = entry.context(describe)?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|n| n.strip_prefix(prefix))
            .and_then(|n| n.strip_suffix(".sqlite"))
            .and_then(|n| n.parse().ok());
        out.extend(number);
    }
    out.sort_unstable();
    Ok(out)
}
