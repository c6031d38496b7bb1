//! Folding a frozen file into `main` once its snapshot is complete: in bounded batches, in the
//! background, while readers still find the frozen file above. Cost follows the frozen file, not
//! `main`. Idempotent: a crash in the middle runs it again.

use super::file::open_closed;
use super::{Frozen, Kvs, KvsFile};
use crate::failpoints::{self, reach};
use cbfs_core::error::{Context, Result};
use cbfs_core::layers::{rows, schema};
use rusqlite::Connection;
use rusqlite::types::Value;
use std::path::Path;

/// Rows per transaction.
const BATCH: usize = 1000;

/// Pages in the write-ahead log of `main` before they go into the file.
const FOLD_WAL_PAGES: i64 = 1000;

/// How the rows of one table go from a frozen file into `main`.
struct Step {
    /// Reads the frozen file. The last column tells whether the row is alive (1) or a tombstone.
    select: String,
    /// Takes a live row, without the last column.
    put: String,
    /// Takes a tombstone's key columns (the first `keys` of the row).
    remove: &'static [&'static str],
    keys: usize,
}

impl Kvs {
    /// Fold a frozen file into `main` and drop it. The oldest goes first.
    pub fn fold(&self, frozen: &Frozen) -> Result<()> {
        let files = self.files();
        let Some(main) = &files.main else {
            return Ok(());
        };
        let path = frozen.file.path();
        let describe = || format!("{} could not be folded", path.display());
        let source = open_closed(path)?;
        // On a full disk a long write-ahead log is what a fold fails on.
        main.with(|conn| Ok(conn.pragma_update(None, "wal_autocheckpoint", FOLD_WAL_PAGES)?))?;
        for step in steps(files.base.is_some()) {
            run(&source, main, &step).map_err(|e| e.context(describe()))?;
            reach(failpoints::FOLD_BETWEEN_STEPS);
        }
        reach(failpoints::FOLD_BEFORE_MARK);
        main.with(|conn| {
            let tx = conn.unchecked_transaction()?;
            for key in ["committed_xid", "next_ino", "inodes", "bytes", "last_cut"] {
                if let Some(value) = rows::meta(&source, key)? {
                    rows::put_meta(&tx, key, &value)?;
                }
            }
            rows::put_meta(&tx, "generation", &frozen.generation.to_string())?;
            Ok(tx.commit()?)
        })?;
        reach(failpoints::FOLD_MARKED);
        main.checkpoint()?;
        reach(failpoints::FOLD_BEFORE_REMOVAL);
        self.drop_frozen(frozen.generation);
        std::fs::remove_file(path).context(|| format!("{} could not be removed", path.display()))
    }
}

/// One file with the changes of several frozen ones (oldest first): what a snapshot persists when those
/// before it failed. An older result at `path` is overwritten.
pub fn merge_frozen(parts: &[Frozen], path: &Path) -> Result<()> {
    let Some((oldest, newer)) = parts.split_first() else {
        return Ok(());
    };
    let describe = || format!("{} could not be made", path.display());
    for suffix in ["", "-wal", "-shm"] {
        let mut side = path.as_os_str().to_owned();
        side.push(suffix);
        match std::fs::remove_file(&side) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(describe),
            _ => {}
        }
    }
    std::fs::copy(oldest.file.path(), path).context(describe)?;
    let merged = KvsFile::open(path)?;
    for part in newer {
        let source = open_closed(part.file.path())?;
        for step in steps(true) {
            run(&source, &merged, &step).map_err(|e| e.context(describe()))?;
        }
    }
    reach(failpoints::MERGE_BEFORE_CLOSE);
    merged.freeze(path).map(drop)
}

/// Whether a frozen file holds any change at all.
pub fn has_changes(path: &Path) -> Result<bool> {
    let conn = open_closed(path)?;
    let sql = "SELECT EXISTS(SELECT 1 FROM inode) OR EXISTS(SELECT 1 FROM dentry) \
               OR EXISTS(SELECT 1 FROM xattr)";
    Ok(conn.query_row(sql, [], |r| r.get(0))?)
}

fn steps(with_base: bool) -> Vec<Step> {
    let columns = schema::INODE_COLUMNS;
    // `main` covers the whole epoch: its min_size is the smallest of all ranges.
    let put_inode = format!(
        "INSERT INTO inode({columns}) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) \
         ON CONFLICT(ino) DO UPDATE SET xid=excluded.xid, kind=excluded.kind, mode=excluded.mode, \
         uid=excluded.uid, gid=excluded.gid, nlink=excluded.nlink, size=excluded.size, \
         min_size=min(min_size, excluded.min_size), rdev=excluded.rdev, atime=excluded.atime, \
         mtime=excluded.mtime, ctime=excluded.ctime, btime=excluded.btime, gone=excluded.gone"
    );
    // Inodes that came and went within the file leave nothing behind.
    let lasting = "WHERE ino NOT IN (SELECT ino FROM inode WHERE gone = 1)";
    // With a stack below, a tombstone must stay as a row; without, its key just goes.
    let alive = |condition: &str| {
        if with_base {
            "1".to_owned()
        } else {
            condition.to_owned()
        }
    };
    vec![
        // What an inode's end or a new backing file makes meaningless goes first.
        Step {
            select: "SELECT ino, 0 FROM inode WHERE gone = 1".into(),
            put: String::new(),
            remove: &[
                "DELETE FROM xattr WHERE ino = ?",
                "DELETE FROM link WHERE ino = ?",
                "DELETE FROM block WHERE ino = ?",
            ],
            keys: 1,
        },
        Step {
            select: "SELECT ino, 0 FROM backing".into(),
            put: String::new(),
            remove: &["DELETE FROM block WHERE ino = ?"],
            keys: 1,
        },
        Step {
            select: format!("SELECT {columns}, {} FROM inode", alive("gone = 0")),
            put: put_inode,
            remove: &["DELETE FROM inode WHERE ino = ?"],
            keys: 1,
        },
        Step {
            select: format!(
                "SELECT parent, hash, name, ino, kind, xid, {} FROM dentry",
                alive("ino IS NOT NULL")
            ),
            put: "INSERT OR REPLACE INTO dentry(parent, hash, name, ino, kind, xid) \
                  VALUES(?,?,?,?,?,?)"
                .into(),
            remove: &["DELETE FROM dentry WHERE parent = ? AND hash = ? AND name = ?"],
            keys: 3,
        },
        Step {
            select: format!("SELECT ino, target, 1 FROM link {lasting}"),
            put: "INSERT OR REPLACE INTO link(ino, target) VALUES(?,?)".into(),
            remove: &[],
            keys: 1,
        },
        Step {
            select: format!(
                "SELECT ino, name, value, xid, {} FROM xattr {lasting}",
                alive("value IS NOT NULL")
            ),
            put: "INSERT OR REPLACE INTO xattr(ino, name, value, xid) VALUES(?,?,?,?)".into(),
            remove: &["DELETE FROM xattr WHERE ino = ? AND name = ?"],
            keys: 2,
        },
        // Nothing below `main` has inline or backing rows: their tombstones always go.
        Step {
            select: "SELECT ino, data, xid, data IS NOT NULL FROM inline".into(),
            put: "INSERT OR REPLACE INTO inline(ino, data, xid) VALUES(?,?,?)".into(),
            remove: &["DELETE FROM inline WHERE ino = ?"],
            keys: 1,
        },
        Step {
            select: "SELECT ino, file, file <> 0 FROM backing".into(),
            put: "INSERT OR REPLACE INTO backing(ino, file) VALUES(?,?)".into(),
            remove: &["DELETE FROM backing WHERE ino = ?"],
            keys: 1,
        },
        Step {
            select: format!("SELECT ino, blk, xid, 1 FROM block {lasting}"),
            put: "INSERT OR REPLACE INTO block(ino, blk, xid) VALUES(?,?,?)".into(),
            remove: &[],
            keys: 2,
        },
    ]
}

fn run(source: &Connection, main: &KvsFile, step: &Step) -> Result<()> {
    let mut select = source.prepare(&step.select)?;
    let width = select.column_count();
    let mut found = select.query([])?;
    let mut batch: Vec<Vec<Value>> = Vec::with_capacity(BATCH);
    loop {
        let row = found.next()?;
        let ended = row.is_none();
        if let Some(row) = row {
            batch.push((0..width).map(|i| row.get(i)).collect::<Result<_, _>>()?);
        }
        if batch.len() == BATCH || (ended && !batch.is_empty()) {
            main.with(|conn| write_batch(conn, step, &batch))?;
            batch.clear();
        }
        if ended {
            return Ok(());
        }
    }
}

fn write_batch(conn: &Connection, step: &Step, batch: &[Vec<Value>]) -> Result<()> {
    let tx = conn.unchecked_transaction()?;
    for row in batch {
        let Some((alive, values)) = row.split_last() else {
            continue;
        };
        if *alive == Value::Integer(1) {
            tx.prepare_cached(&step.put)?
                .execute(rusqlite::params_from_iter(values))?;
        } else {
            for sql in step.remove {
                let keys = rusqlite::params_from_iter(&values[..step.keys]);
                tx.prepare_cached(sql)?.execute(keys)?;
            }
        }
    }
    Ok(tx.commit()?)
}
