//! The files of a KVS as they lie there, without changing a byte: what the consistency checker looks
//! at. An interrupted rotation or fold is understood, as at open, but not finished.

use super::file::{Committed, KvsFile, open_closed};
use super::rotate::{active_name, committed_above, frozen_name, generations};
use super::{Files, Frozen, Kvs};
use cbfs_core::error::{Error, Result};
use cbfs_core::layers::{Stack, rows};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What lies in a KVS directory.
pub(crate) struct Inspected {
    /// A KVS on the files; its tables are as of the last flush. Nothing may be flushed.
    pub(crate) kvs: Kvs,
    /// Frozen files that `main` has already: the next start removes them.
    pub(crate) left_over: Vec<PathBuf>,
    /// Generations that should have a file and have none.
    pub(crate) missing: Vec<u64>,
    /// `main` is not there although it must be.
    pub(crate) without_main: bool,
}

/// A connection that reads a file and its WAL, and writes neither.
pub(crate) fn open_untouched(path: &Path) -> Result<Connection> {
    let mut wal = OsString::from(path);
    wal.push("-wal");
    if !std::fs::metadata(&wal).is_ok_and(|about| about.len() > 0) {
        return open_closed(path);
    }
    // Without locks and alone, SQLite keeps the index of the WAL in memory instead of in a file; the
    // lock on the state directory is what keeps others out.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags_and_vfs(path, flags, c"unix-none")?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    conn.set_prepared_statement_cache_capacity(rows::STATEMENT_CACHE);
    Ok(conn)
}

/// One file; `None` when it is not there or nothing was ever committed to it.
fn open_file(path: &Path) -> Result<Option<Arc<KvsFile>>> {
    if !path.exists() {
        return Ok(None);
    }
    let describe = |e: Error| e.context(format!("{} could not be read", path.display()));
    let conn = open_untouched(path).map_err(describe)?;
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))
        .map_err(|e| describe(e.into()))?;
    if tables == 0 {
        return Ok(None);
    }
    rows::check_format(&conn, &path.display().to_string())?;
    Ok(Some(Arc::new(KvsFile::of(path, conn))))
}

/// Look at the files in `dir`; `base` and `floor` as for [`Kvs::open`].
pub(crate) fn inspect(
    dir: &Path,
    base: Option<Arc<Stack>>,
    floor: Committed,
    block_size: u64,
) -> Result<Inspected> {
    let main = open_file(&dir.join("main.sqlite"))?;
    let folded = match &main {
        Some(main) => main.with(|conn| rows::meta(conn, "generation"))?,
        None => None,
    };
    let folded: u64 = folded.and_then(|t| t.parse().ok()).unwrap_or(0);
    let mut frozen = Vec::new();
    let mut left_over = Vec::new();
    for generation in generations(dir, "frozen-")? {
        let path = dir.join(frozen_name(generation));
        if generation <= folded {
            left_over.push(path);
            continue;
        }
        let Some(file) = open_file(&path)? else {
            return Err(Error::damage(format!("{} is empty", path.display())));
        };
        let closed = closed(&file, generation)?;
        frozen.push(
            closed.ok_or_else(|| Error::damage(format!("{} was never closed", path.display())))?,
        );
    }
    let newest_active = generations(dir, "active-")?.pop();
    let mut active = match newest_active {
        Some(generation) => open_file(&dir.join(active_name(generation)))?,
        None => None,
    };
    if let (Some(file), Some(generation)) = (&active, newest_active)
        && let Some(closed) = closed(file, generation)?
    {
        frozen.push(closed);
        active = None;
    }
    frozen.sort_by_key(|f| std::cmp::Reverse(f.generation));
    let newest = frozen
        .first()
        .map_or(0, |f| f.generation)
        .max(newest_active.unwrap_or(0));
    let here = |generation: u64| {
        Some(generation) == newest_active || frozen.iter().any(|f| f.generation == generation)
    };
    let missing = (folded + 1..=newest).filter(|g| !here(*g)).collect();
    let without_main = main.is_none() && (newest > 0 || newest_active.is_some());
    let committed = match active
        .as_ref()
        .map(|a| a.committed())
        .transpose()?
        .flatten()
    {
        Some(committed) => committed,
        None => committed_above(frozen.first(), main.as_deref(), floor)?,
    };
    let files = Files::new(active, newest, frozen, main, base, block_size);
    Ok(Inspected {
        kvs: Kvs::with(dir.to_owned(), files, committed, block_size),
        left_over,
        missing,
        without_main,
    })
}

/// The file as a frozen one, if a cut closed it.
fn closed(file: &Arc<KvsFile>, generation: u64) -> Result<Option<Frozen>> {
    let (Some(number), Some(committed)) = (file.closed_by()?, file.committed()?) else {
        return Ok(None);
    };
    Ok(Some(Frozen {
        generation,
        file: Arc::clone(file),
        number,
        cut: committed.xid,
        from: committed.last_cut,
    }))
}
