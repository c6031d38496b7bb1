//! One SQLite file of the KVS: `active-<n>` (what changed since the last cut), `frozen-<n>` (being
//! persisted) or `main` (everything resident). Layer-shaped (see `cbfs_core::layers::schema`), with
//! the KVS's own tables beside. One connection and one mutex per file: a second connection would not
//! see uncommitted rows, and a long reader would stop checkpoints.
//!
//! WAL with `synchronous=NORMAL`: a transaction survives the daemon's death at once and power
//! loss after [`KvsFile::checkpoint`]; until then the journal has it.

use super::table::{Dentry, Inline, Inode, Table, Xattr};
use super::tables::Counters;
use crate::failpoints::{self, reach};
use cbfs_core::error::{Context, Result};
use cbfs_core::ids::{Epoch, Ino, SnapshotNumber, Xid};
use cbfs_core::inode::InodeRow;
use cbfs_core::layers::{
    DentryRow, ExtentRow, HoleRow, Layer, SourceRow, XattrRow, open_immutable, rows, schema,
};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows written under one hold of the mutex: between two such chunks readers get their turn.
const CHUNK: usize = 1000;

/// Fewer unused pages than this are not worth the work of giving them back.
const UNUSED_PAGES: i64 = 64;

/// A WAL with less than this is not worth a checkpoint of its own (two fsyncs), in bytes of rows.
const WORTH_A_CHECKPOINT: usize = 4 << 20;

/// A file of the KVS.
pub struct KvsFile {
    path: PathBuf,
    conn: Mutex<Connection>,
    /// About how much was written since the last checkpoint, in bytes of rows.
    unchecked: AtomicUsize,
}

/// What the last flush into a file recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The last operation in the file.
    pub xid: Xid,
    /// The next inode number.
    pub next_ino: Ino,
    /// Inodes alive.
    pub inodes: u64,
    /// Sum of file sizes.
    pub bytes: u64,
    /// The last operation before the file was begun: the parent's cut.
    pub last_cut: Xid,
}

impl Committed {
    /// The state of a KVS without rows, of a master that begins with this epoch, on a snapshot in which `base` was
    /// counted.
    pub fn floor_of(epoch: Epoch, base: Option<Counters>) -> Committed {
        let base = base.unwrap_or_default();
        Committed {
            xid: Xid::floor_of(epoch),
            next_ino: Ino::first_of(epoch),
            inodes: base.inodes,
            bytes: base.bytes,
            last_cut: Xid::floor_of(epoch),
        }
    }
}

impl KvsFile {
    /// Open for reading and writing, creating it if need be.
    pub fn open(path: &Path) -> Result<KvsFile> {
        let describe = || format!("the KVS file {} could not be opened", path.display());
        let missing = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len() == 0,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
            Err(e) => return Err(e).context(describe),
        };
        if missing {
            create(path)
                .context(|| format!("the KVS file {} could not be created", path.display()))?;
        }
        let conn = Connection::open(path).context(describe)?;
        conn.set_prepared_statement_cache_capacity(64);
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-8192;
             PRAGMA wal_autocheckpoint=16000; PRAGMA busy_timeout=5000;",
        )
        .context(describe)?;
        rows::check_format(&conn, &path.display().to_string())?;
        Ok(KvsFile::of(path, conn))
    }

    /// Open one that nobody writes any more.
    pub fn open_frozen(path: &Path) -> Result<KvsFile> {
        let conn = open_closed(path)?;
        rows::check_format(&conn, &path.display().to_string())?;
        Ok(KvsFile::of(path, conn))
    }

    /// Around a connection that is ready for use.
    pub(super) fn of(path: &Path, conn: Connection) -> KvsFile {
        KvsFile {
            path: path.to_owned(),
            conn: Mutex::new(conn),
            unchecked: AtomicUsize::new(0),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Run `f` on the connection, alone.
    pub fn with<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        f(&self.conn.lock())
    }

    /// What the last flush recorded; `None` before the first.
    pub fn committed(&self) -> Result<Option<Committed>> {
        self.with(|conn| {
            let number = |key: &str| -> Result<Option<u64>> {
                Ok(rows::meta(conn, key)?.and_then(|text| text.parse().ok()))
            };
            let Some(xid) = number("committed_xid")? else {
                return Ok(None);
            };
            Ok(Some(Committed {
                xid: Xid(xid),
                next_ino: Ino(number("next_ino")?.unwrap_or_default()),
                inodes: number("inodes")?.unwrap_or_default(),
                bytes: number("bytes")?.unwrap_or_default(),
                last_cut: Xid(number("last_cut")?.unwrap_or_default()),
            }))
        })
    }

    /// The snapshot whose cut closed this file, if one did.
    pub fn closed_by(&self) -> Result<Option<SnapshotNumber>> {
        let text = self.with(|conn| rows::meta(conn, "closed_by"))?;
        Ok(text.and_then(|t| t.parse().ok()).map(SnapshotNumber))
    }

    /// Write a table set and what it stands for in one transaction. Readers of the same file
    /// may see part of it before the commit: the same rows are still in memory above, so nobody asks.
    pub fn write(
        &self,
        table: &Table,
        committed: &Committed,
        closed_by: Option<SnapshotNumber>,
    ) -> Result<()> {
        self.with(|conn| Ok(conn.execute_batch("BEGIN IMMEDIATE")?))?;
        match self.write_rows(table, committed, closed_by) {
            Ok(()) => {
                reach(failpoints::FLUSH_BEFORE_COMMIT);
                self.with(|conn| Ok(conn.execute_batch("COMMIT")?))?;
                self.unchecked.fetch_add(table.bytes(), Ordering::Relaxed);
                Ok(())
            }
            Err(e) => {
                let undone = self.with(|conn| Ok(conn.execute_batch("ROLLBACK")?));
                if let Err(undo) = undone {
                    tracing::warn!(file = %self.path.display(), "rollback failed too: {undo}");
                }
                Err(e)
            }
        }
    }

    fn write_rows(
        &self,
        table: &Table,
        committed: &Committed,
        closed_by: Option<SnapshotNumber>,
    ) -> Result<()> {
        // Sorted: scattered single updates are SQLite's weak spot.
        let mut inodes: Vec<&Inode> = table.inodes.values().collect();
        inodes.sort_unstable_by_key(|i| i.row.ino);
        self.chunks(&inodes, |conn, inode| rows::put_inode(conn, &inode.row))?;

        let mut parents: Vec<_> = table.dentries.iter().collect();
        parents.sort_unstable_by_key(|(parent, _)| **parent);
        let dentries: Vec<_> = parents
            .into_iter()
            .flat_map(|(p, names)| names.iter().map(move |n| (*p, n)))
            .collect();
        self.chunks(&dentries, |conn, (parent, (key, dentry))| {
            put_dentry(conn, *parent, key.0, &key.1, dentry)
        })?;

        let mut links: Vec<_> = table.links.iter().collect();
        links.sort_unstable_by_key(|(ino, _)| **ino);
        self.chunks(&links, |conn, (ino, target)| {
            rows::put_link(conn, **ino, target)
        })?;

        let mut xattrs: Vec<_> = table.xattrs.iter().collect();
        xattrs.sort_unstable_by_key(|(ino, _)| **ino);
        self.chunks(&xattrs, |conn, (ino, all)| {
            all.iter()
                .try_for_each(|(name, xattr)| put_xattr(conn, **ino, name, xattr))
        })?;

        let mut inline: Vec<_> = table.inline.iter().collect();
        inline.sort_unstable_by_key(|(ino, _)| **ino);
        self.chunks(&inline, |conn, (ino, inline)| {
            put_inline(conn, **ino, inline)
        })?;

        let mut backing: Vec<_> = table.backing.iter().collect();
        backing.sort_unstable();
        self.chunks(&backing, |conn, (ino, file)| {
            let mut put =
                conn.prepare_cached("INSERT OR REPLACE INTO backing(ino, file) VALUES(?,?)")?;
            put.execute(params![ino.0 as i64, **file as i64])?;
            Ok(())
        })?;

        let mut blocks: Vec<_> = table.blocks.iter().collect();
        blocks.sort_unstable_by_key(|(ino, _)| **ino);
        self.chunks(&blocks, |conn, (ino, all)| {
            let sql = "INSERT OR REPLACE INTO block(ino, blk, xid) VALUES(?,?,?)";
            let mut put = conn.prepare_cached(sql)?;
            for (blk, xid) in *all {
                put.execute(params![ino.0 as i64, *blk as i64, xid.0 as i64])?;
            }
            Ok(())
        })?;

        self.with(|conn| {
            rows::put_meta(conn, "committed_xid", &committed.xid.to_string())?;
            rows::put_meta(conn, "next_ino", &committed.next_ino.to_string())?;
            rows::put_meta(conn, "inodes", &committed.inodes.to_string())?;
            rows::put_meta(conn, "bytes", &committed.bytes.to_string())?;
            rows::put_meta(conn, "last_cut", &committed.last_cut.to_string())?;
            match closed_by {
                Some(number) => rows::put_meta(conn, "closed_by", &number.to_string()),
                None => Ok(()),
            }
        })
    }

    fn chunks<T>(&self, all: &[T], put: impl Fn(&Connection, &T) -> Result<()>) -> Result<()> {
        all.chunks(CHUNK)
            .try_for_each(|chunk| self.with(|conn| chunk.iter().try_for_each(|row| put(conn, row))))
    }

    /// Move the WAL into the file and fsync both: everything committed so far survives power loss.
    pub fn checkpoint(&self) -> Result<()> {
        self.with(|conn| {
            let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))?;
            if busy != 0 {
                return Err(cbfs_core::Error::failed(format!(
                    "the KVS file {} is busy",
                    self.path.display()
                )));
            }
            self.unchecked.store(0, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Move what is in the WAL into the file, as far as readers let it, when it is much. On a connection of its own: readers
    /// and the writer of the file go on meanwhile. What [`KvsFile::checkpoint`] has to do later is less by that; a snapshot
    /// waits for that one.
    pub fn checkpoint_ahead(&self) -> Result<()> {
        let much = self.unchecked.load(Ordering::Relaxed);
        if much < WORTH_A_CHECKPOINT {
            return Ok(());
        }
        // Also when it fails: the next time is after as much again.
        self.unchecked.fetch_sub(much, Ordering::Relaxed);
        let describe = || format!("the WAL of {} could not be moved", self.path.display());
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags).context(describe)?;
        conn.pragma_update(None, "synchronous", "NORMAL")
            .and_then(|()| conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())))
            .context(describe)
    }

    /// Give the pages that deleted rows left back to the disk. Nobody writes meanwhile.
    pub fn shrink(&self) -> Result<()> {
        self.checkpoint()?;
        loop {
            let unused: i64 =
                self.with(|conn| Ok(conn.query_row("PRAGMA freelist_count", [], |r| r.get(0))?))?;
            if unused < UNUSED_PAGES {
                return Ok(());
            }
            self.with(|conn| {
                let mut vacuum = conn.prepare(&format!("PRAGMA incremental_vacuum({CHUNK})"))?;
                let mut pages = vacuum.query([])?;
                while pages.next()?.is_some() {}
                Ok(())
            })?;
            self.checkpoint()?;
            let left: i64 =
                self.with(|conn| Ok(conn.query_row("PRAGMA freelist_count", [], |r| r.get(0))?))?;
            if left >= unused {
                // A file of before it was made to shrink.
                return Ok(());
            }
        }
    }

    /// Close the file for good and give it the name of a frozen one: a single file from then on that
    /// never changes. May be called again after an error. Readers that hold this `KvsFile` go on.
    pub fn freeze(&self, to: &Path) -> Result<KvsFile> {
        if self.path.exists() {
            self.with(|conn| Ok(conn.pragma_update(None, "synchronous", "NORMAL")?))?;
            self.checkpoint()?;
            // No side files are left that SQLite would look for under the old name. All pages are in
            // the file and durable; this changes a byte of its header, which is fsynced alone. (SQLite
            // would fsync journal, directory and file, and rotations are what small snapshots wait for.)
            self.with(|conn| {
                conn.pragma_update(None, "synchronous", "OFF")?;
                Ok(conn.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(()))?)
            })?;
            cbfs_core::durable_file::sync_file(&self.path)
                .context(|| format!("{} could not be made durable", self.path.display()))?;
        }
        if self.path != to && self.path.exists() {
            reach(failpoints::ROTATE_BEFORE_RENAME);
            std::fs::rename(&self.path, to)
                .inspect(|()| reach(failpoints::ROTATE_RENAMED))
                .and_then(|()| match to.parent() {
                    Some(dir) => cbfs_core::durable_file::sync_dir(dir),
                    None => Ok(()),
                })
                .context(|| format!("{} could not be renamed", self.path.display()))?;
        }
        KvsFile::open_frozen(to)
    }

    /// Inline contents: `None` when this file says nothing.
    pub fn inline(&self, ino: Ino) -> Result<Option<Inline>> {
        self.with(|conn| {
            let mut get = conn.prepare_cached("SELECT data, xid FROM inline WHERE ino=?")?;
            let row = get.query_row([ino.0 as i64], |r| {
                let data: Option<Vec<u8>> = r.get(0)?;
                Ok(Inline {
                    data: data.map(Arc::new),
                    xid: Xid(r.get::<_, i64>(1)? as u64),
                })
            });
            Ok(row.optional()?)
        })
    }

    /// The backing file's number: `None` when this file says nothing.
    pub fn backing(&self, ino: Ino) -> Result<Option<u64>> {
        self.with(|conn| {
            let mut get = conn.prepare_cached("SELECT file FROM backing WHERE ino=?")?;
            let row = get.query_row([ino.0 as i64], |r| r.get::<_, i64>(0));
            Ok(row.optional()?.map(|n| n as u64))
        })
    }

    /// When a block was last written: `None` when this file says nothing.
    pub fn block(&self, ino: Ino, blk: u64) -> Result<Option<Xid>> {
        self.with(|conn| {
            let mut get = conn.prepare_cached("SELECT xid FROM block WHERE ino=? AND blk=?")?;
            let row = get.query_row([ino.0 as i64, blk as i64], |r| r.get::<_, i64>(0));
            Ok(row.optional()?.map(|n| Xid(n as u64)))
        })
    }

    /// The blocks of `ino` that this file has rows of.
    pub fn blocks_of(&self, ino: Ino) -> Result<Vec<u64>> {
        self.with(|conn| {
            let mut get = conn.prepare_cached("SELECT blk FROM block WHERE ino=?")?;
            let all = get.query_map([ino.0 as i64], |r| Ok(r.get::<_, i64>(0)? as u64))?;
            Ok(all.collect::<Result<_, _>>()?)
        })
    }

    /// The inodes that this file holds as alive.
    pub fn inodes(&self) -> Result<Vec<Ino>> {
        self.with(|conn| {
            let mut get = conn.prepare("SELECT ino FROM inode WHERE gone = 0")?;
            let all = get.query_map([], |r| Ok(Ino(r.get::<_, i64>(0)? as u64)))?;
            Ok(all.collect::<Result<_, _>>()?)
        })
    }

    /// Names that this file has tombstones of.
    pub fn removed_names(&self) -> Result<Vec<(Ino, Vec<u8>)>> {
        self.with(|conn| {
            let mut get = conn.prepare("SELECT parent, name FROM dentry WHERE ino IS NULL")?;
            let all = get.query_map([], |r| Ok((Ino(r.get::<_, i64>(0)? as u64), r.get(1)?)))?;
            Ok(all.collect::<Result<_, _>>()?)
        })
    }

    /// Whether any block of `ino` stands in this file.
    pub fn has_blocks(&self, ino: Ino) -> Result<bool> {
        self.with(|conn| {
            let mut get = conn.prepare_cached("SELECT 1 FROM block WHERE ino=? LIMIT 1")?;
            Ok(get
                .query_row([ino.0 as i64], |_| Ok(()))
                .optional()?
                .is_some())
        })
    }

    /// Inodes without a name that this file holds as alive.
    pub fn orphans(&self) -> Result<Vec<Ino>> {
        self.with(|conn| {
            let mut get = conn.prepare("SELECT ino FROM inode WHERE nlink = 0 AND gone = 0")?;
            let all = get.query_map([], |r| Ok(Ino(r.get::<_, i64>(0)? as u64)))?;
            Ok(all.collect::<Result<_, _>>()?)
        })
    }
}

/// A connection to a file that nobody writes any more. Not mapped: it holds the inline contents too,
/// and whoever reads them all would make the daemon as large as they are.
pub(super) fn open_closed(path: &Path) -> Result<Connection> {
    let conn = open_immutable(path)?;
    conn.pragma_update(None, "mmap_size", 0)?;
    Ok(conn)
}

/// Make an empty KVS file: whole and durable under another name first, so that no crash leaves half of
/// one. (Two fsyncs; SQLite by itself takes ten.)
fn create(path: &Path) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).context(|| format!("{} could not be removed", new.display()));
        }
        _ => {}
    }
    let conn = Connection::open(&new)?;
    conn.execute_batch(
        "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY; PRAGMA auto_vacuum=INCREMENTAL; BEGIN",
    )?;
    rows::create_tables(&conn)?;
    conn.execute_batch(schema::KVS_TABLES)?;
    // Orphans are looked for once per mount; without the index that reads every inode.
    conn.execute_batch("CREATE INDEX orphan ON inode(ino) WHERE nlink = 0 AND gone = 0")?;
    conn.execute_batch("COMMIT; PRAGMA journal_mode=WAL")?;
    conn.close().map_err(|(_, e)| e)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    cbfs_core::durable_file::sync_file(&new)
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| cbfs_core::durable_file::sync_dir(dir))
        .context(|| format!("{} could not be made durable", new.display()))
}

fn put_dentry(conn: &Connection, parent: Ino, hash: u64, name: &[u8], d: &Dentry) -> Result<()> {
    let sql =
        "INSERT OR REPLACE INTO dentry(parent, hash, name, ino, kind, xid) VALUES(?,?,?,?,?,?)";
    let ino = d.ino.map(|i| i.0 as i64);
    conn.prepare_cached(sql)?.execute(params![
        parent.0 as i64,
        hash as i64,
        name,
        ino,
        d.kind.code(),
        d.xid.0 as i64
    ])?;
    Ok(())
}

fn put_xattr(conn: &Connection, ino: Ino, name: &[u8], xattr: &Xattr) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO xattr(ino, name, value, xid) VALUES(?,?,?,?)";
    conn.prepare_cached(sql)?.execute(params![
        ino.0 as i64,
        name,
        xattr.value.as_deref(),
        xattr.xid.0 as i64
    ])?;
    Ok(())
}

fn put_inline(conn: &Connection, ino: Ino, inline: &Inline) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO inline(ino, data, xid) VALUES(?,?,?)";
    let data = inline.data.as_deref().map(Vec::as_slice);
    conn.prepare_cached(sql)?
        .execute(params![ino.0 as i64, data, inline.xid.0 as i64])?;
    Ok(())
}

impl Layer for KvsFile {
    fn inode(&self, ino: Ino) -> Result<Option<InodeRow>> {
        self.with(|conn| rows::inode(conn, ino))
    }

    fn dentry(&self, parent: Ino, name: &[u8]) -> Result<Option<DentryRow>> {
        self.with(|conn| rows::dentry(conn, parent, name))
    }

    fn scan_dir(
        &self,
        parent: Ino,
        after: Option<(u64, &[u8])>,
        limit: usize,
    ) -> Result<Vec<DentryRow>> {
        self.with(|conn| rows::scan_dir(conn, parent, after, limit))
    }

    fn names_of(&self, ino: Ino) -> Result<Vec<DentryRow>> {
        self.with(|conn| rows::names_of(conn, ino))
    }

    fn link(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        self.with(|conn| rows::link(conn, ino))
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<XattrRow>> {
        self.with(|conn| rows::xattrs(conn, ino))
    }

    fn extents(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<ExtentRow>> {
        self.with(|conn| rows::extents(conn, ino, from, to))
    }

    fn holes(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<HoleRow>> {
        self.with(|conn| rows::holes(conn, ino, from, to))
    }

    fn source(&self, snapshot: SnapshotNumber) -> Result<Option<SourceRow>> {
        self.with(|conn| rows::source(conn, snapshot))
    }
}

/// A dentry row as the tables hold it.
pub(super) fn dentry_of(row: &DentryRow) -> Dentry {
    Dentry {
        ino: row.ino,
        kind: row.kind,
        xid: row.xid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(rows: u64, xid: Xid) -> Table {
        let mut table = Table::default();
        for ino in 1..=rows {
            let data = Some(Arc::new(vec![ino as u8; 16 << 10]));
            table.put_inline(Ino(ino), Inline { data, xid });
        }
        table
    }

    #[test]
    fn a_checkpoint_ahead_moves_what_was_flushed_beside_readers_and_a_freeze_has_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("active.sqlite");
        let file = KvsFile::open(&path).unwrap();
        let size = || std::fs::metadata(&path).unwrap().len();
        let committed = Committed::floor_of(Epoch(1), None);

        // Little is left for the cut.
        file.write(&many(10, Xid(1)), &committed, None).unwrap();
        file.checkpoint_ahead().unwrap();
        assert!(size() < 1 << 20);

        file.write(&many(400, Xid(2)), &committed, None).unwrap();
        file.with(|conn| {
            let mut reading = conn.prepare("SELECT ino FROM inline")?;
            let mut rows = reading.query([])?;
            rows.next()?;
            file.checkpoint_ahead()
        })
        .unwrap();
        assert!(size() > 6 << 20, "{}", size());
        assert_eq!(file.unchecked.load(Ordering::Relaxed), 0);

        // The WAL begins anew, and the last rows come with the freeze.
        file.write(&many(2, Xid(3)), &committed, Some(SnapshotNumber(1)))
            .unwrap();
        let frozen = file.freeze(&dir.path().join("frozen.sqlite")).unwrap();
        assert_eq!(frozen.closed_by().unwrap(), Some(SnapshotNumber(1)));
        for (ino, xid) in [(1, 3), (2, 3), (3, 2), (400, 2)] {
            let inline = frozen.inline(Ino(ino)).unwrap().unwrap();
            assert_eq!(inline.xid, Xid(xid));
            assert_eq!(*inline.data.unwrap(), vec![ino as u8; 16 << 10]);
        }
        assert!(!dir.path().join("active.sqlite-wal").exists());
    }
}
