//! Reading the frozen file.

use cbfs_core::error::{Error, Result};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::InodeRow;
use cbfs_core::layers::rows;
use cbfs_core::layers::schema::INODE_COLUMNS;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

/// Page cache of a connection to the frozen file, in KiB (negative is SQLite's way to say so).
/// The file is not mapped: mapped pages would count as the daemon's memory.
const CACHE_KIB: i64 = -16 << 10;

/// What the frozen file has of one inode.
pub(super) struct InodeFacts {
    pub(super) row: InodeRow,
    /// Inline data and the operation that wrote it.
    pub(super) inline: Option<(Vec<u8>, Xid)>,
    pub(super) backing: Option<u64>,
}

/// Own read-only connection to the frozen file.
pub(super) struct Frozen {
    pub(super) conn: Connection,
    /// Whether the tables have any row at all: mostly they do not, and need no look-ups then.
    has_xattrs: bool,
    has_holes: bool,
    has_extents: bool,
}

impl Frozen {
    pub(super) fn open(path: &Path) -> Result<Frozen> {
        let open = || -> Result<Frozen> {
            let conn = cbfs_core::layers::open_immutable(path)?;
            rows::check_format(&conn, &format!("the frozen layer {}", path.display()))?;
            conn.pragma_update(None, "mmap_size", 0)?;
            conn.pragma_update(None, "cache_size", CACHE_KIB)?;
            let any = |table: &str| -> Result<bool> {
                let sql = format!("SELECT EXISTS (SELECT 1 FROM {table})");
                Ok(conn.query_row(&sql, [], |row| row.get(0))?)
            };
            let (has_xattrs, has_holes) = (any("xattr")?, any("hole")?);
            let has_extents = any("extent")?;
            Ok(Frozen {
                conn,
                has_xattrs,
                has_holes,
                has_extents,
            })
        };
        open().map_err(|e| {
            e.context(format!(
                "the frozen layer {} could not be opened",
                path.display()
            ))
        })
    }

    pub(super) fn has_xattrs(&self) -> bool {
        self.has_xattrs
    }

    pub(super) fn has_holes(&self) -> bool {
        self.has_holes
    }

    pub(super) fn has_extents(&self) -> bool {
        self.has_extents
    }

    /// What is here of the inodes `from..=to`, by number: one scan instead of several look-ups for each.
    pub(super) fn inodes(&self, from: Ino, to: Ino) -> Result<Vec<InodeFacts>> {
        let sql = format!(
            "SELECT {}, l.data, l.xid, b.file FROM inode i LEFT JOIN inline l ON l.ino = i.ino
             LEFT JOIN backing b ON b.ino = i.ino WHERE i.ino BETWEEN ?1 AND ?2 ORDER BY i.ino",
            qualified(INODE_COLUMNS)
        );
        let after = INODE_COLUMNS.split(',').count();
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut found = statement.query(params![from.0 as i64, to.0 as i64])?;
        let mut all = Vec::new();
        while let Some(row) = found.next()? {
            let inode = rows::inode_from_row(row)?;
            let wrong = |e| {
                Error::damage(format!("inline data of inode {} is no blob", inode.ino)).because(e)
            };
            let data = row.get_ref(after)?.as_blob_or_null().map_err(wrong)?;
            let inline = match data {
                Some(data) => {
                    let xid = Xid(row.get::<_, i64>(after + 1)? as u64);
                    Some((data.to_vec(), xid))
                }
                None => None,
            };
            let backing: Option<i64> = row.get(after + 2)?;
            all.push(InodeFacts {
                row: inode,
                inline,
                backing: backing.map(|file| file as u64).filter(|file| *file != 0),
            });
        }
        Ok(all)
    }

    /// The row of an inode that the plan found here.
    pub(super) fn inode(&self, ino: Ino) -> Result<InodeRow> {
        rows::inode(&self.conn, ino)?
            .ok_or_else(|| Error::damage(format!("inode {ino} vanished from the frozen layer")))
    }

    /// How many blocks below `end` have rows.
    pub(super) fn count_blocks(&self, ino: Ino, end: u64) -> Result<u64> {
        let sql = "SELECT count(*) FROM block WHERE ino = ?1 AND blk < ?2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let count: i64 =
            statement.query_row(params![ino.0 as i64, bound(end)], |row| row.get(0))?;
        Ok(count as u64)
    }

    /// The blocks below `end` that have rows, and the operations that last wrote them.
    pub(super) fn blocks(&self, ino: Ino, end: u64) -> Result<Vec<(u64, Xid)>> {
        let sql = "SELECT blk, xid FROM block WHERE ino = ?1 AND blk < ?2 ORDER BY blk";
        let mut statement = self.conn.prepare_cached(sql)?;
        let found = statement.query_map(params![ino.0 as i64, bound(end)], |row| {
            Ok((
                row.get::<_, i64>(0)? as u64,
                Xid(row.get::<_, i64>(1)? as u64),
            ))
        })?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    /// The backing file of `ino`, if the row is here.
    pub(super) fn backing(&self, ino: Ino) -> Result<Option<u64>> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT file FROM backing WHERE ino = ?1")?;
        let file: Option<i64> = statement
            .query_row(params![ino.0 as i64], |row| row.get(0))
            .optional()?;
        Ok(file.map(|file| file as u64).filter(|file| *file != 0))
    }
}

/// The columns of the table `inode`, as `i`.
fn qualified(columns: &str) -> String {
    let names = columns.split(',').map(|name| format!("i.{}", name.trim()));
    names.collect::<Vec<_>>().join(", ")
}

fn bound(end: u64) -> i64 {
    i64::try_from(end).unwrap_or(i64::MAX)
}
