//! Rows that come up in the order of the tarballs, but are needed in the order of inodes.
//!
//! A scratch database in the attempt's folder; it is removed when dropped, and by whoever removes
//! the folder after a crash.

use cbfs_core::error::{Context, Result};
use cbfs_core::ids::{Ino, SnapshotNumber, Xid};
use cbfs_core::layers::{ExtentRow, HoleRow};
use rusqlite::{Connection, params};
use std::fs;
use std::path::{Path, PathBuf};

/// File name of the scratch database.
const NAME: &str = "staging.sqlite";

/// Extents and holes of the members, in any order.
pub(super) struct Staging {
    conn: Connection,
    path: PathBuf,
}

impl Staging {
    pub(super) fn create(dir: &Path) -> Result<Staging> {
        let path = dir.join(NAME);
        let create = || -> Result<Connection> {
            let conn = Connection::open(&path)?;
            conn.execute_batch(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
                 PRAGMA locking_mode = EXCLUSIVE; PRAGMA temp_store = FILE;
                 CREATE TABLE extent(ino, blk, n, snapshot, section, offset, xid);
                 CREATE TABLE hole(ino, byte_from, byte_to, xid);
                 BEGIN",
            )?;
            Ok(conn)
        };
        let conn = create().context(|| format!("{} could not be created", path.display()))?;
        Ok(Staging { conn, path })
    }

    pub(super) fn extent(&mut self, row: &ExtentRow) -> Result<()> {
        self.conn
            .prepare_cached("INSERT INTO extent VALUES (?1,?2,?3,?4,?5,?6,?7)")?
            .execute(params![
                row.ino.0 as i64,
                row.blk as i64,
                row.n as i64,
                row.snapshot.0 as i64,
                row.section as i64,
                row.offset as i64,
                row.xid.0 as i64,
            ])?;
        Ok(())
    }

    pub(super) fn hole(&mut self, row: &HoleRow) -> Result<()> {
        self.conn
            .prepare_cached("INSERT INTO hole VALUES (?1,?2,?3,?4)")?
            .execute(params![
                row.ino.0 as i64,
                row.from as i64,
                row.to as i64,
                row.xid.0 as i64
            ])?;
        Ok(())
    }

    /// All extents by (inode, block).
    pub(super) fn extents(&self, mut each: impl FnMut(ExtentRow) -> Result<()>) -> Result<()> {
        let sql =
            "SELECT ino, blk, n, snapshot, section, offset, xid FROM extent ORDER BY ino, blk";
        let mut statement = self.conn.prepare(sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let number = |index| -> Result<u64> { Ok(row.get::<_, i64>(index)? as u64) };
            each(ExtentRow {
                ino: Ino(number(0)?),
                blk: number(1)?,
                n: number(2)?,
                snapshot: SnapshotNumber(number(3)?),
                section: number(4)?,
                offset: number(5)?,
                xid: Xid(number(6)?),
            })?;
        }
        Ok(())
    }

    /// All holes by (inode, first byte).
    pub(super) fn holes(&self, mut each: impl FnMut(HoleRow) -> Result<()>) -> Result<()> {
        let sql = "SELECT ino, byte_from, byte_to, xid FROM hole ORDER BY ino, byte_from";
        let mut statement = self.conn.prepare(sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let number = |index| -> Result<u64> { Ok(row.get::<_, i64>(index)? as u64) };
            let (ino, xid) = (Ino(number(0)?), Xid(number(3)?));
            each(HoleRow {
                ino,
                from: number(1)?,
                to: number(2)?,
                xid,
            })?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), error = %e, "scratch data stays behind");
        }
    }
}
