//! One layer out of a run of adjacent ones: it reads exactly as the run did, above whatever lies below
//! the run and below whatever lies above it.
//!
//! All tables are merged as streams in the order of their primary keys: memory depends on the number
//! of layers, not on their sizes. What differs from copying rows:
//!
//! - `inode.min_size` is the smallest of the run's rows.
//! - A tombstone of an inode takes the rows of the layers at and below it along.
//! - Extents, holes and truncations of several layers become extents, `hole` and `zero` rows of one
//!   (see [`contents`]).
//! - Where nothing lies below the run, tombstones and holes without an extent are left out.
//!
//! One case cannot be said in one layer: an inode that was removed and came back within the run (an
//! unlinked open file that got a name again) hides what lies below the run, and yet is alive. Such a
//! run answers [`Merged::NeedsBottom`]: together with everything below it can be merged.

mod contents;
mod cursor;
#[cfg(test)]
mod tests;

use super::{DentryRow, LayerDb, XattrRow, open_immutable, rows, schema};
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::inode::InodeRow;
use cursor::{Cursor, Removals, Statements, same_keys};
use rusqlite::Connection;
use std::path::Path;

/// Rows between two looks at [`Run::stop`].
const ROWS_PER_LOOK: u64 = 1024;

/// What is to be merged.
pub struct Run<'a> {
    /// Files of finished layers, newest first; at least one.
    pub layers: &'a [&'a Path],
    /// Whether nothing lies below the last of them.
    pub bottom: bool,
    /// Bytes per block of the file system; not 0.
    pub block_size: u64,
    /// Asked now and then: whether to give up.
    pub stop: &'a dyn Fn() -> bool,
}

/// How a merge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// The layer is complete; it is not fsynced.
    Made,
    /// This inode can be merged only in a run that reaches the bottom. There is no layer.
    NeedsBottom(Ino),
}

/// Merge a run into a new layer at `target`, which must not exist. It is not fsynced. After
/// [`Merged::NeedsBottom`], an error or a crash what is at `target` is worthless.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when the layers are of several file systems, out of order or
/// contradict themselves; else those of the disk; and when `stop` said so.
pub fn merge(run: &Run<'_>, target: &Path) -> Result<Merged> {
    let mut conns = Vec::with_capacity(run.layers.len());
    for path in run.layers {
        let what = format!("layer {}", path.display());
        let conn =
            open_immutable(path).map_err(|e| e.context(format!("{what} could not be opened")))?;
        rows::check_format(&conn, &what)?;
        conns.push(conn);
    }
    let layer = LayerDb::create(target)?;
    let merged = layer.with(|out| merge_tables(run, &conns, out))?;
    if merged == Merged::Made {
        layer.finish()?;
    }
    Ok(merged)
}

fn merge_tables(run: &Run<'_>, conns: &[Connection], out: &Connection) -> Result<Merged> {
    let mut patience = Patience { run, rows: 0 };
    merge_meta(conns, out)?;
    // Filled row by row the index's pages would be written over and over.
    let index: String = out.query_row(
        "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = 'dentry_ino'",
        [],
        |row| row.get(0),
    )?;
    out.execute_batch("DROP INDEX dentry_ino")?;
    if let Some(ino) = merge_inodes(&mut patience, conns, out)? {
        return Ok(Merged::NeedsBottom(ino));
    }
    merge_dentries(&mut patience, conns, out)?;
    merge_links(&mut patience, conns, out)?;
    merge_xattrs(&mut patience, conns, out)?;
    merge_sources(&mut patience, conns, out)?;
    contents::merge(&mut patience, conns, out)?;
    out.execute_batch(&index)?;
    Ok(Merged::Made)
}

/// Counts rows, to look at [`Run::stop`].
struct Patience<'a> {
    run: &'a Run<'a>,
    rows: u64,
}

impl Patience<'_> {
    fn row(&mut self) -> Result<()> {
        self.rows += 1;
        if self.rows.is_multiple_of(ROWS_PER_LOOK) && (self.run.stop)() {
            return Err(Error::failed("merging layers was stopped"));
        }
        Ok(())
    }
}

/// `fs`, and the ranges from the oldest to the newest.
fn merge_meta(conns: &[Connection], out: &Connection) -> Result<()> {
    let (Some(newest), Some(oldest)) = (conns.first(), conns.last()) else {
        return Err(Error::failed("there is no layer to merge"));
    };
    let value = |conn: &Connection, key: &str| -> Result<String> {
        rows::meta(conn, key)?
            .ok_or_else(|| Error::damage(format!("a layer to be merged does not say its {key:?}")))
    };
    let number = |conn: &Connection, key: &str| -> Result<u64> {
        let text = value(conn, key)?;
        text.parse()
            .map_err(|_| Error::damage(format!("{key:?} of a layer is {text:?}")))
    };
    let fs = value(newest, "fs")?;
    for pair in conns.windows(2) {
        if value(&pair[1], "fs")? != fs {
            return Err(Error::damage("layers of two file systems cannot be merged"));
        }
        if number(&pair[0], "from")? <= number(&pair[1], "to")? {
            return Err(Error::damage("the layers to be merged are out of order"));
        }
    }
    rows::put_meta(out, "fs", &fs)?;
    for key in ["from", "xid_from"] {
        rows::put_meta(out, key, &value(oldest, key)?)?;
    }
    for key in ["to", "xid_to"] {
        rows::put_meta(out, key, &value(newest, key)?)?;
    }
    Ok(())
}

/// Answers an inode that needs the bottom.
fn merge_inodes(
    patience: &mut Patience<'_>,
    conns: &[Connection],
    out: &Connection,
) -> Result<Option<Ino>> {
    let columns = schema::INODE_COLUMNS;
    let sql = format!("SELECT {columns} FROM inode ORDER BY ino");
    let mut statements = Statements::prepare(conns, &sql)?;
    let mut cursors = statements.cursors(rows::inode_from_row)?;
    let mut back_again = None;
    let bottom = patience.run.bottom;
    same_keys(
        &mut cursors,
        |a: &InodeRow, b| a.ino.cmp(&b.ino),
        |group| {
            patience.row()?;
            let Some((_, newest)) = group.first() else {
                return Ok(());
            };
            let mut row = *newest;
            for (_, older) in group.iter() {
                row.min_size = row.min_size.min(older.min_size);
                if older.gone {
                    break;
                }
            }
            if !bottom && !row.gone && group.iter().any(|(_, older)| older.gone) {
                back_again.get_or_insert(row.ino);
            }
            if bottom && row.gone {
                return Ok(());
            }
            rows::put_inode(out, &row)
        },
    )?;
    Ok(back_again)
}

fn merge_dentries(
    patience: &mut Patience<'_>,
    conns: &[Connection],
    out: &Connection,
) -> Result<()> {
    let columns = rows::DENTRY_COLUMNS;
    let sql = format!("SELECT {columns} FROM dentry ORDER BY parent, hash, name");
    let mut statements = Statements::prepare(conns, &sql)?;
    let mut cursors = statements.cursors(rows::dentry_from_row)?;
    let bottom = patience.run.bottom;
    let order = |a: &DentryRow, b: &DentryRow| {
        (a.parent, a.hash, &a.name).cmp(&(b.parent, b.hash, &b.name))
    };
    same_keys(&mut cursors, order, |group| {
        patience.row()?;
        match group.first() {
            Some((_, row)) if row.ino.is_some() || !bottom => rows::put_dentry(out, row),
            _ => Ok(()),
        }
    })
}

fn merge_links(patience: &mut Patience<'_>, conns: &[Connection], out: &Connection) -> Result<()> {
    let mut removed = Statements::prepare(conns, Removals::SQL)?;
    let mut removed = Removals::new(&mut removed)?;
    let mut statements = Statements::prepare(conns, "SELECT ino, target FROM link ORDER BY ino")?;
    let mut cursors = statements.cursors(|row| {
        let target: Vec<u8> = rows::column(row, 1)?;
        Ok((Ino(rows::number(row, 0)?), target))
    })?;
    same_keys(
        &mut cursors,
        |a: &(Ino, Vec<u8>), b| a.0.cmp(&b.0),
        |group| {
            patience.row()?;
            match group.first() {
                Some((layer, (ino, target))) if *layer < removed.of(*ino)? => {
                    rows::put_link(out, *ino, target)
                }
                _ => Ok(()),
            }
        },
    )
}

fn merge_xattrs(patience: &mut Patience<'_>, conns: &[Connection], out: &Connection) -> Result<()> {
    let mut removed = Statements::prepare(conns, Removals::SQL)?;
    let mut removed = Removals::new(&mut removed)?;
    let columns = rows::XATTR_COLUMNS;
    let sql = format!("SELECT {columns} FROM xattr ORDER BY ino, name");
    let mut statements = Statements::prepare(conns, &sql)?;
    let mut cursors = statements.cursors(rows::xattr_from_row)?;
    let bottom = patience.run.bottom;
    let order = |a: &XattrRow, b: &XattrRow| (a.ino, &a.name).cmp(&(b.ino, &b.name));
    same_keys(&mut cursors, order, |group| {
        patience.row()?;
        match group.first() {
            Some((layer, row))
                if (row.value.is_some() || !bottom) && *layer < removed.of(row.ino)? =>
            {
                rows::put_xattr(out, row)
            }
            _ => Ok(()),
        }
    })
}

fn merge_sources(
    patience: &mut Patience<'_>,
    conns: &[Connection],
    out: &Connection,
) -> Result<()> {
    let columns = rows::SOURCE_COLUMNS;
    let sql = format!("SELECT {columns} FROM source ORDER BY snapshot");
    let mut statements = Statements::prepare(conns, &sql)?;
    let mut cursors: Vec<Cursor<'_, _>> = statements.cursors(rows::source_from_row)?;
    same_keys(
        &mut cursors,
        |a, b| a.snapshot.cmp(&b.snapshot),
        |group| {
            patience.row()?;
            group
                .first()
                .map_or(Ok(()), |(_, row)| rows::put_source(out, row))
        },
    )
}
