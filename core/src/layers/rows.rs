//! Reading and writing the rows of the layer tables: free functions on a SQLite connection, shared
//! by [`super::LayerDb`], the KVS and the persister. All statements are prepared once per
//! connection and cached.
//!
//! Integers: SQLite's are signed. [`Ino`], [`Xid`], sizes and hashes are stored by a bit cast. As
//! the upper 16 bits of an ino or xid are the epoch, and SQLite orders negative numbers first, the
//! order in SQL equals the order of the numbers only while epochs stay below 0x8000: whoever
//! claims an epoch must refuse a higher one. Hashes have 63 bits and sizes stay below 2^63.
//!
//! Errors: what cannot be decoded (an unknown kind, a number out of range, a column of another
//! type) is [`ErrorKind::Damage`]; the caller adds which database it was.
//!
//! Writers replace the row of the same primary key. None of them opens a transaction: many rows
//! belong into one of the caller's, sorted by primary key.

use super::schema::{APPLICATION_ID, FORMAT, TABLES};
use super::{DentryRow, ExtentRow, HoleRow, SourceRow, XattrRow};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Ino, SnapshotNumber, Xid};
use crate::inode::{FileKind, InodeRow, Timestamp};
use crate::names::name_hash;
use rusqlite::types::FromSql;
use rusqlite::{Connection, Params, Row, params};

/// Statements a connection should keep prepared: all of this module and a few of the caller's.
pub const STATEMENT_CACHE: usize = 64;

/// The columns of `dentry` in the order of [`dentry_from_row`].
pub const DENTRY_COLUMNS: &str = "parent, hash, name, ino, kind, xid";
/// The columns of `xattr` in the order of [`xattr_from_row`].
pub const XATTR_COLUMNS: &str = "ino, name, value, xid";
/// The columns of `extent` in the order of [`extent_from_row`].
pub const EXTENT_COLUMNS: &str = "ino, blk, n, snapshot, section, offset, xid";
/// The columns of `hole` in the order of [`hole_from_row`].
pub const HOLE_COLUMNS: &str = "ino, byte_from, byte_to, xid";
/// The columns of `source` in the order of [`source_from_row`].
pub const SOURCE_COLUMNS: &str = "snapshot, toc_key, toc_size, toc_blake3";

/// Create the layer tables in an empty database and mark it as a layer of this format. Run it
/// inside a transaction where a half-created database would matter.
pub fn create_tables(conn: &Connection) -> Result<()> {
    conn.execute_batch(TABLES)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", FORMAT)?;
    Ok(())
}

/// Refuse a database that is no layer of a format this version reads; `what` names it.
///
/// # Errors
/// [`ErrorKind::FormatTooNew`] for a newer format, [`ErrorKind::Damage`] for anything that is no
/// layer at all.
pub fn check_format(conn: &Connection, what: &str) -> Result<()> {
    check_database(conn, what, "layer", APPLICATION_ID, FORMAT)
}

/// [`check_format`] for any kind of database CBFS writes.
pub(crate) fn check_database(
    conn: &Connection,
    what: &str,
    kind: &str,
    application_id: i64,
    format: i64,
) -> Result<()> {
    let pragma = |name: &str| -> Result<i64> {
        conn.pragma_query_value(None, name, |row| row.get(0))
            .map_err(|e| Error::from(e).context(format!("{what} could not be opened")))
    };
    if pragma("application_id")? != application_id {
        return Err(Error::damage(format!("{what} is no {kind} of CBFS")));
    }
    match pragma("user_version")? {
        found if found > format => Err(Error::new(
            ErrorKind::FormatTooNew,
            format!("{what} has {kind} format {found}, this CBFS reads up to {format}"),
        )
        .hint("upgrade CBFS on this machine")),
        found if found < 1 => Err(Error::damage(format!(
            "{what} is a {kind} without a format"
        ))),
        _ => Ok(()),
    }
}

/// The attributes of an inode; `None` when it has no row here.
pub fn inode(conn: &Connection, ino: Ino) -> Result<Option<InodeRow>> {
    first(
        conn,
        "SELECT ino, xid, kind, mode, uid, gid, nlink, size, min_size, rdev, atime, mtime, ctime,
         btime, gone FROM inode WHERE ino = ?1",
        params![cast(ino.0)],
        inode_from_row,
    )
}

/// One name of a directory, or its tombstone.
pub fn dentry(conn: &Connection, parent: Ino, name: &[u8]) -> Result<Option<DentryRow>> {
    first(
        conn,
        "SELECT parent, hash, name, ino, kind, xid FROM dentry
         WHERE parent = ?1 AND hash = ?2 AND name = ?3",
        params![cast(parent.0), cast(name_hash(name)), name],
        dentry_from_row,
    )
}

const SCAN_FROM_START: &str = "SELECT parent, hash, name, ino, kind, xid FROM dentry
     WHERE parent = ?1 ORDER BY hash, name LIMIT ?2";
const SCAN_AFTER: &str = "SELECT parent, hash, name, ino, kind, xid FROM dentry
     WHERE parent = ?1 AND (hash, name) > (?2, ?3) ORDER BY hash, name LIMIT ?4";

/// Up to `limit` entries of a directory, tombstones included, in the order of (hash, name), after
/// the position `after`. A walk along the primary key: its cost does not depend on the size of the
/// directory.
pub fn scan_dir(
    conn: &Connection,
    parent: Ino,
    after: Option<(u64, &[u8])>,
    limit: usize,
) -> Result<Vec<DentryRow>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    match after {
        None => all(
            conn,
            SCAN_FROM_START,
            params![cast(parent.0), limit],
            dentry_from_row,
        ),
        Some((hash, name)) => all(
            conn,
            SCAN_AFTER,
            params![cast(parent.0), clamp(hash), name, limit],
            dentry_from_row,
        ),
    }
}

const NAMES_OF: &str = "SELECT parent, hash, name, ino, kind, xid FROM dentry
     WHERE ino = ?1 ORDER BY parent, hash, name";

/// All entries that name `ino`, in the order of (parent, hash, name).
pub fn names_of(conn: &Connection, ino: Ino) -> Result<Vec<DentryRow>> {
    all(conn, NAMES_OF, params![cast(ino.0)], dentry_from_row)
}

/// The target of a symlink.
pub fn link(conn: &Connection, ino: Ino) -> Result<Option<Vec<u8>>> {
    first(
        conn,
        "SELECT target FROM link WHERE ino = ?1",
        params![cast(ino.0)],
        |row| column(row, 0),
    )
}

/// The extended attributes of an inode by name, tombstones included.
pub fn xattrs(conn: &Connection, ino: Ino) -> Result<Vec<XattrRow>> {
    all(
        conn,
        "SELECT ino, name, value, xid FROM xattr WHERE ino = ?1 ORDER BY name",
        params![cast(ino.0)],
        xattr_from_row,
    )
}

// Extents of one database never overlap: besides those that start in the range only the last one
// that starts before it can reach into it.
const EXTENTS: &str = "SELECT ino, blk, n, snapshot, section, offset, xid FROM extent
     WHERE ino = ?1 AND blk < ?3 AND blk + n > ?2
     AND blk >= coalesce((SELECT max(blk) FROM extent WHERE ino = ?1 AND blk <= ?2), ?2)
     ORDER BY blk";

/// The extents that cover any of the blocks `from..to`, by block; whole rows, not cut to the range.
pub fn extents(conn: &Connection, ino: Ino, from: u64, to: u64) -> Result<Vec<ExtentRow>> {
    all(
        conn,
        EXTENTS,
        params![cast(ino.0), clamp(from), clamp(to)],
        extent_from_row,
    )
}

/// The holes that cover any of the bytes `from..to`, by offset; whole rows, not cut to the range.
/// They may overlap each other (a KVS writes them as they happen), so all rows of the inode that
/// start before `to` are looked at.
pub fn holes(conn: &Connection, ino: Ino, from: u64, to: u64) -> Result<Vec<HoleRow>> {
    all(
        conn,
        "SELECT ino, byte_from, byte_to, xid FROM hole
         WHERE ino = ?1 AND byte_from < ?3 AND byte_to > ?2 ORDER BY byte_from",
        params![cast(ino.0), clamp(from), clamp(to)],
        hole_from_row,
    )
}

/// The zeros on top of extents that cover any of the bytes `from..to`, by offset; whole rows.
pub fn zeroes(conn: &Connection, ino: Ino, from: u64, to: u64) -> Result<Vec<HoleRow>> {
    all(
        conn,
        "SELECT ino, byte_from, byte_to, xid FROM zero
         WHERE ino = ?1 AND byte_from < ?3 AND byte_to > ?2 ORDER BY byte_from",
        params![cast(ino.0), clamp(from), clamp(to)],
        hole_from_row,
    )
}

/// Whether any file has zeros on top of extents.
pub(crate) fn has_zeroes(conn: &Connection) -> Result<bool> {
    let found = first(
        conn,
        "SELECT EXISTS(SELECT 1 FROM zero)",
        params![],
        |row| column::<i64>(row, 0),
    )?;
    Ok(found == Some(1))
}

/// Where the TOC of `snapshot` lies.
pub fn source(conn: &Connection, snapshot: SnapshotNumber) -> Result<Option<SourceRow>> {
    first(
        conn,
        "SELECT snapshot, toc_key, toc_size, toc_blake3 FROM source WHERE snapshot = ?1",
        params![cast(snapshot.0)],
        source_from_row,
    )
}

/// A value of the `meta` table, as text.
pub fn meta(conn: &Connection, key: &str) -> Result<Option<String>> {
    let found: Option<Option<String>> = first(
        conn,
        "SELECT CAST(value AS TEXT) FROM meta WHERE key = ?1",
        params![key],
        |row| column(row, 0),
    )?;
    Ok(found.flatten())
}

/// Write an inode row or tombstone.
pub fn put_inode(conn: &Connection, row: &InodeRow) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO inode VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)",
        params![
            cast(row.ino.0),
            cast(row.xid.0),
            row.kind.code(),
            row.mode,
            row.uid,
            row.gid,
            row.nlink,
            cast(row.size),
            cast(row.min_size),
            row.rdev,
            row.atime.0,
            row.mtime.0,
            row.ctime.0,
            row.btime.0,
            row.gone,
        ],
    )
}

/// Write a directory entry or tombstone. `row.hash` must be the hash of `row.name`.
pub fn put_dentry(conn: &Connection, row: &DentryRow) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO dentry VALUES (?1,?2,?3,?4,?5,?6)",
        params![
            cast(row.parent.0),
            cast(row.hash),
            row.name,
            row.ino.map(|ino| cast(ino.0)),
            row.kind.code(),
            cast(row.xid.0),
        ],
    )
}

/// Write the target of a symlink.
pub fn put_link(conn: &Connection, ino: Ino, target: &[u8]) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO link VALUES (?1,?2)",
        params![cast(ino.0), target],
    )
}

/// Write an extended attribute or tombstone.
pub fn put_xattr(conn: &Connection, row: &XattrRow) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO xattr VALUES (?1,?2,?3,?4)",
        params![cast(row.ino.0), row.name, row.value, cast(row.xid.0)],
    )
}

/// Write an extent. It must not overlap another one of the same inode; one that starts at the same
/// block is replaced.
pub fn put_extent(conn: &Connection, row: &ExtentRow) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO extent VALUES (?1,?2,?3,?4,?5,?6,?7)",
        params![
            cast(row.ino.0),
            cast(row.blk),
            cast(row.n),
            cast(row.snapshot.0),
            cast(row.section),
            cast(row.offset),
            cast(row.xid.0),
        ],
    )
}

/// Write a hole. One that starts at the same byte is replaced, also by a shorter one.
pub fn put_hole(conn: &Connection, row: &HoleRow) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO hole VALUES (?1,?2,?3,?4)",
        params![
            cast(row.ino.0),
            cast(row.from),
            cast(row.to),
            cast(row.xid.0)
        ],
    )
}

/// Write a range of zeros on top of extents; it must not overlap another one, nor a hole.
pub fn put_zero(conn: &Connection, row: &HoleRow) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO zero VALUES (?1,?2,?3,?4)",
        params![
            cast(row.ino.0),
            cast(row.from),
            cast(row.to),
            cast(row.xid.0)
        ],
    )
}

/// Write where the TOC of a snapshot lies.
pub fn put_source(conn: &Connection, row: &SourceRow) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO source VALUES (?1,?2,?3,?4)",
        params![
            cast(row.snapshot.0),
            row.toc_key,
            cast(row.toc_size),
            row.toc_blake3
        ],
    )
}

/// Write a value of the `meta` table.
pub fn put_meta(conn: &Connection, key: &str, value: &str) -> Result<()> {
    put(
        conn,
        "INSERT OR REPLACE INTO meta VALUES (?1,?2)",
        params![key, value],
    )
}

/// Decode the columns [`super::schema::INODE_COLUMNS`].
pub fn inode_from_row(row: &Row<'_>) -> Result<InodeRow> {
    Ok(InodeRow {
        ino: Ino(number(row, 0)?),
        xid: Xid(number(row, 1)?),
        kind: kind(row, 2)?,
        mode: narrow(row, 3)?,
        uid: narrow(row, 4)?,
        gid: narrow(row, 5)?,
        nlink: narrow(row, 6)?,
        size: number(row, 7)?,
        min_size: number(row, 8)?,
        rdev: narrow(row, 9)?,
        atime: Timestamp(column(row, 10)?),
        mtime: Timestamp(column(row, 11)?),
        ctime: Timestamp(column(row, 12)?),
        btime: Timestamp(column(row, 13)?),
        gone: column::<i64>(row, 14)? != 0,
    })
}

/// Decode the columns [`DENTRY_COLUMNS`].
pub fn dentry_from_row(row: &Row<'_>) -> Result<DentryRow> {
    Ok(DentryRow {
        parent: Ino(number(row, 0)?),
        hash: number(row, 1)?,
        name: column(row, 2)?,
        ino: column::<Option<i64>>(row, 3)?.map(|ino| Ino(ino as u64)),
        kind: kind(row, 4)?,
        xid: Xid(number(row, 5)?),
    })
}

/// Decode the columns [`XATTR_COLUMNS`].
pub fn xattr_from_row(row: &Row<'_>) -> Result<XattrRow> {
    Ok(XattrRow {
        ino: Ino(number(row, 0)?),
        name: column(row, 1)?,
        value: column(row, 2)?,
        xid: Xid(number(row, 3)?),
    })
}

/// Decode the columns [`EXTENT_COLUMNS`].
pub fn extent_from_row(row: &Row<'_>) -> Result<ExtentRow> {
    Ok(ExtentRow {
        ino: Ino(number(row, 0)?),
        blk: number(row, 1)?,
        n: number(row, 2)?,
        snapshot: SnapshotNumber(number(row, 3)?),
        section: number(row, 4)?,
        offset: number(row, 5)?,
        xid: Xid(number(row, 6)?),
    })
}

/// Decode the columns [`HOLE_COLUMNS`].
pub fn hole_from_row(row: &Row<'_>) -> Result<HoleRow> {
    Ok(HoleRow {
        ino: Ino(number(row, 0)?),
        from: number(row, 1)?,
        to: number(row, 2)?,
        xid: Xid(number(row, 3)?),
    })
}

/// Decode the columns [`SOURCE_COLUMNS`].
pub fn source_from_row(row: &Row<'_>) -> Result<SourceRow> {
    Ok(SourceRow {
        snapshot: SnapshotNumber(number(row, 0)?),
        toc_key: column(row, 1)?,
        toc_size: number(row, 2)?,
        toc_blake3: column(row, 3)?,
    })
}

/// A number as SQLite stores it: same 64 bits.
pub(crate) fn cast(number: u64) -> i64 {
    number as i64
}

/// A bound of a range as SQLite compares it: "no bound" must stay above everything.
fn clamp(bound: u64) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}

pub(crate) fn number(row: &Row<'_>, index: usize) -> Result<u64> {
    Ok(column::<i64>(row, index)? as u64)
}

pub(crate) fn narrow<T: TryFrom<i64>>(row: &Row<'_>, index: usize) -> Result<T> {
    let value: i64 = column(row, index)?;
    T::try_from(value).map_err(|_| {
        let name = row.as_ref().column_name(index).unwrap_or("?").to_owned();
        Error::damage(format!(
            "column {name} holds {value}, which is out of range"
        ))
    })
}

fn kind(row: &Row<'_>, index: usize) -> Result<FileKind> {
    let code: u32 = narrow(row, index)?;
    FileKind::from_code(code)
        .ok_or_else(|| Error::damage(format!("a row has the unknown file kind {code}")))
}

/// A column; [`ErrorKind::Damage`] when it is of another type than CBFS wrote.
pub fn column<T: FromSql>(row: &Row<'_>, index: usize) -> Result<T> {
    row.get(index)
        .map_err(|e| Error::damage("a column is of another type than CBFS wrote").because(e))
}

/// The first row of a query, decoded.
pub(crate) fn first<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    decode: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(decode).transpose()
}

/// All rows of a query, decoded.
pub(crate) fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    decode: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(decode(row)?);
    }
    Ok(out)
}

pub(crate) fn put(conn: &Connection, sql: &str, params: impl Params) -> Result<()> {
    conn.prepare_cached(sql)?.execute(params)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        create_tables(&conn).unwrap();
        conn
    }

    fn plan(conn: &Connection, sql: &str) -> String {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = statement.parameter_count();
        let params = rusqlite::params_from_iter(vec![1i64; count]);
        let lines = statement
            .query_map(params, |row| row.get::<_, String>(3))
            .unwrap();
        lines
            .map(|line| line.unwrap())
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn dentry_row(parent: u64, name: &[u8], ino: Option<u64>) -> DentryRow {
        DentryRow {
            parent: Ino(parent),
            hash: name_hash(name),
            name: name.to_vec(),
            ino: ino.map(Ino),
            kind: FileKind::File,
            xid: Xid(7),
        }
    }

    #[test]
    fn scans_and_lookups_use_their_index_and_never_sort() {
        let conn = database();
        let after = plan(&conn, SCAN_AFTER);
        assert!(after.contains("SEARCH dentry USING PRIMARY KEY"), "{after}");
        assert!(after.contains("(hash,name)>"), "{after}");
        let start = plan(&conn, SCAN_FROM_START);
        assert!(
            start.contains("SEARCH dentry USING PRIMARY KEY (parent=?)"),
            "{start}"
        );
        let names = plan(&conn, NAMES_OF);
        assert!(names.contains("dentry_ino (ino=?)"), "{names}");
        let extents = plan(&conn, EXTENTS);
        assert!(
            extents.contains("SEARCH extent USING PRIMARY KEY (ino=? AND blk>"),
            "{extents}"
        );
        for plan in [after, start, names, extents] {
            assert!(
                !plan.contains("TEMP B-TREE") && !plan.contains("SCAN dentry"),
                "{plan}"
            );
        }
    }

    #[test]
    fn every_row_comes_back_as_written() {
        let conn = database();
        let inode_row = InodeRow {
            ino: Ino(0x7fff_0000_0000_0001),
            xid: Xid(0x7fff_0000_0000_0002),
            kind: FileKind::CharDevice,
            mode: 0o7777,
            uid: u32::MAX,
            gid: u32::MAX - 1,
            nlink: 3,
            size: 1 << 62,
            min_size: 5,
            rdev: u32::MAX,
            atime: Timestamp(-1),
            mtime: Timestamp(i64::MAX),
            ctime: Timestamp(i64::MIN),
            btime: Timestamp(0),
            gone: false,
        };
        let ino = inode_row.ino;
        put_inode(&conn, &inode_row).unwrap();
        assert_eq!(inode(&conn, ino).unwrap(), Some(inode_row));
        put_inode(&conn, &InodeRow::tombstone(ino, Xid(9))).unwrap();
        assert!(inode(&conn, ino).unwrap().unwrap().gone);
        assert_eq!(inode(&conn, Ino(5)).unwrap(), None);

        let entry = dentry_row(1, b"\xff name", Some(5));
        put_dentry(&conn, &entry).unwrap();
        put_dentry(&conn, &dentry_row(1, b"dead", None)).unwrap();
        assert_eq!(
            dentry(&conn, Ino(1), b"\xff name").unwrap(),
            Some(entry.clone())
        );
        assert_eq!(dentry(&conn, Ino(1), b"dead").unwrap().unwrap().ino, None);
        assert_eq!(names_of(&conn, Ino(5)).unwrap(), [entry]);

        put_link(&conn, Ino(6), b"../\xfe").unwrap();
        assert_eq!(link(&conn, Ino(6)).unwrap().unwrap(), b"../\xfe");
        let attribute = XattrRow {
            ino,
            name: b"user.b".to_vec(),
            value: Some(vec![]),
            xid: Xid(3),
        };
        put_xattr(&conn, &attribute).unwrap();
        let dead = XattrRow {
            ino,
            name: b"user.a".to_vec(),
            value: None,
            xid: Xid(3),
        };
        put_xattr(&conn, &dead).unwrap();
        assert_eq!(xattrs(&conn, ino).unwrap(), [dead, attribute]);

        let toc = SourceRow {
            snapshot: SnapshotNumber(4),
            toc_key: "s/x/toc.sqlite.zst".into(),
            toc_size: 77,
            toc_blake3: "ab".into(),
        };
        put_source(&conn, &toc).unwrap();
        assert_eq!(source(&conn, SnapshotNumber(4)).unwrap(), Some(toc));
        put_meta(&conn, "fs", "x").unwrap();
        assert_eq!(meta(&conn, "fs").unwrap().unwrap(), "x");
        assert_eq!(meta(&conn, "other").unwrap(), None);
    }

    #[test]
    fn a_directory_scan_resumes_exactly_after_its_cookie() {
        let conn = database();
        for i in 0..100 {
            put_dentry(&conn, &dentry_row(1, format!("n{i}").as_bytes(), Some(i))).unwrap();
            put_dentry(&conn, &dentry_row(2, format!("n{i}").as_bytes(), None)).unwrap();
        }
        let whole = scan_dir(&conn, Ino(1), None, usize::MAX).unwrap();
        assert_eq!(whole.len(), 100);
        assert!(whole.is_sorted_by_key(|row| (row.hash, row.name.clone())));
        let mut pieces = Vec::new();
        let mut after: Option<(u64, Vec<u8>)> = None;
        loop {
            let position = after.as_ref().map(|(hash, name)| (*hash, name.as_slice()));
            let piece = scan_dir(&conn, Ino(1), position, 7).unwrap();
            let end = piece.len() < 7;
            after = piece
                .last()
                .map(|row| (row.hash, row.name.clone()))
                .or(after);
            pieces.extend(piece);
            if end {
                break;
            }
        }
        assert_eq!(pieces, whole);
        assert_eq!(
            scan_dir(&conn, Ino(1), Some((u64::MAX, b"")), 7).unwrap(),
            []
        );
    }

    #[test]
    fn ranges_find_what_reaches_into_them() {
        let conn = database();
        let extent = |blk, n| ExtentRow {
            ino: Ino(5),
            blk,
            n,
            snapshot: SnapshotNumber(1),
            section: blk,
            offset: 0,
            xid: Xid(1),
        };
        for row in [extent(0, 2), extent(2, 4), extent(10, 1)] {
            put_extent(&conn, &row).unwrap();
        }
        assert_eq!(extents(&conn, Ino(5), 0, u64::MAX).unwrap().len(), 3);
        assert_eq!(extents(&conn, Ino(5), 3, 4).unwrap(), [extent(2, 4)]);
        assert_eq!(
            extents(&conn, Ino(5), 5, 11).unwrap(),
            [extent(2, 4), extent(10, 1)]
        );
        assert_eq!(extents(&conn, Ino(5), 6, 10).unwrap(), []);
        assert_eq!(extents(&conn, Ino(4), 0, u64::MAX).unwrap(), []);
        let hole = |from, to| HoleRow {
            ino: Ino(5),
            from,
            to,
            xid: Xid(1),
        };
        for row in [hole(0, 100), hole(10, 20), hole(50, 60)] {
            put_hole(&conn, &row).unwrap();
        }
        assert_eq!(holes(&conn, Ino(5), 20, 50).unwrap(), [hole(0, 100)]);
        assert_eq!(holes(&conn, Ino(5), 100, u64::MAX).unwrap(), []);
        assert_eq!(holes(&conn, Ino(5), 0, u64::MAX).unwrap().len(), 3);
    }

    #[test]
    fn an_unknown_kind_and_a_wrong_type_are_damage() {
        let conn = database();
        put_inode(&conn, &InodeRow::tombstone(Ino(5), Xid(9))).unwrap();
        for change in ["kind = 3", "mode = 65536", "uid = -1", "size = 'many'"] {
            conn.execute_batch(&format!("SAVEPOINT s; UPDATE inode SET {change}"))
                .unwrap();
            let error = inode(&conn, Ino(5)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damage, "{change}: {error}");
            conn.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
        }
    }

    #[test]
    fn newer_and_foreign_databases_are_refused_by_name() {
        let conn = database();
        check_format(&conn, "layer x").unwrap();
        conn.pragma_update(None, "user_version", FORMAT + 1)
            .unwrap();
        let newer = check_format(&conn, "layer x").unwrap_err();
        assert_eq!(newer.kind(), ErrorKind::FormatTooNew);
        assert!(newer.to_string().contains("layer x"), "{newer}");
        conn.pragma_update(None, "application_id", 0).unwrap();
        assert_eq!(
            check_format(&conn, "layer x").unwrap_err().kind(),
            ErrorKind::Damage
        );
        let empty = Connection::open_in_memory().unwrap();
        assert_eq!(
            check_format(&empty, "layer x").unwrap_err().kind(),
            ErrorKind::Damage
        );
    }
}
