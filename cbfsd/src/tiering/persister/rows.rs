//! The layer and the list of changes: all rows that the frozen layer has, without what only the
//! KVS needs, plus what [`super::contents`] found out.
//!
//! The tables of names and attributes are copied while the tarballs are being made ([`RowCopy`]);
//! extents, holes and sources follow when they are known ([`OpenLayer::finish`]), and the lines of
//! members come last in the list of changes ([`OpenChanges::finish`]).

use super::frozen::Frozen;
use super::ledger::members_name;
use super::plan::Plan;
use super::staging::Staging;
use super::{Job, cancelled, remove};
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::format::changes::{Change, write_change};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::InodeRow;
use cbfs_core::layers::schema::INODE_COLUMNS;
use cbfs_core::layers::{ExtentRow, HoleRow, LayerDb, SourceRow, rows};
use rusqlite::{Connection, Row};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Name of the layer before it is compressed.
const PLAIN_LAYER: &str = "layer.sqlite";
/// Name of the list of changes until it is in the metadata tarball.
const CHANGES: &str = "changes.jsonl";

/// The copying of all rows that do not depend on the tarballs.
pub(super) struct RowCopy;

impl RowCopy {
    /// Copy them, on a connection of its own. `orphans` (ascending) become tombstones.
    pub(super) fn run(
        job: &Job<'_>,
        dir: &Path,
        orphans: &[Ino],
        stop: &dyn Fn() -> bool,
    ) -> Result<Copied> {
        let frozen = Frozen::open(job.frozen)?;
        let layer = LayerDb::create(&dir.join(PLAIN_LAYER))?;
        let path = dir.join(CHANGES);
        let file = File::create_new(&path)
            .context(|| format!("{} could not be created", path.display()))?;
        let mut changes = BufWriter::with_capacity(1 << 18, file);
        let gone = |ino: Ino| orphans.binary_search(&ino).is_ok();
        layer.with(|conn| {
            let index = drop_index(conn)?;
            let source = &frozen.conn;
            each(
                source,
                &format!("SELECT {INODE_COLUMNS} FROM inode ORDER BY ino"),
                stop,
                |row| {
                    let mut inode = rows::inode_from_row(row)?;
                    if gone(inode.ino) {
                        inode = InodeRow::tombstone(inode.ino, inode.xid);
                    }
                    rows::put_inode(conn, &inode)?;
                    write_change(&mut changes, &Change::Inode(inode))
                },
            )?;
            let columns = rows::DENTRY_COLUMNS;
            let sql = format!("SELECT {columns} FROM dentry ORDER BY parent, hash, name");
            each(source, &sql, stop, |row| {
                let dentry = rows::dentry_from_row(row)?;
                rows::put_dentry(conn, &dentry)?;
                write_change(&mut changes, &Change::dentry(&dentry))
            })?;
            each(
                source,
                "SELECT ino, target FROM link ORDER BY ino",
                stop,
                |row| {
                    let (ino, target) =
                        (Ino(row.get::<_, i64>(0)? as u64), row.get::<_, Vec<u8>>(1)?);
                    if gone(ino) {
                        return Ok(());
                    }
                    rows::put_link(conn, ino, &target)?;
                    write_change(&mut changes, &Change::link(ino, &target))
                },
            )?;
            let sql = format!(
                "SELECT {} FROM xattr ORDER BY ino, name",
                rows::XATTR_COLUMNS
            );
            each(source, &sql, stop, |row| {
                let xattr = rows::xattr_from_row(row)?;
                if gone(xattr.ino) {
                    return Ok(());
                }
                rows::put_xattr(conn, &xattr)?;
                write_change(&mut changes, &Change::xattr(&xattr))
            })?;
            Ok(conn.execute_batch(&index)?)
        })?;
        Ok(Copied {
            layer: OpenLayer(layer),
            changes: OpenChanges { out: changes, path },
        })
    }
}

/// What [`RowCopy::run`] made.
pub(super) struct Copied {
    pub(super) layer: OpenLayer,
    pub(super) changes: OpenChanges,
}

/// The layer without extents, holes and sources.
pub(super) struct OpenLayer(LayerDb);

/// The list of changes without holes and members.
pub(super) struct OpenChanges {
    out: BufWriter<File>,
    path: PathBuf,
}

impl OpenLayer {
    /// Add what the tarballs brought, and `sources`. Answers the path of the layer, closed, neither
    /// compressed nor fsynced.
    pub(super) fn finish(
        self,
        job: &Job<'_>,
        staging: &Staging,
        sources: &[SourceRow],
    ) -> Result<PathBuf> {
        let path = self.0.path().to_owned();
        self.0.with(|conn| {
            let mut last: Option<ExtentRow> = None;
            staging.extents(|extent| {
                check_apart(last.as_ref(), &extent)?;
                last = Some(extent);
                rows::put_extent(conn, &extent)
            })?;
            staging.holes(|hole| rows::put_hole(conn, &hole))?;
            for source in sources {
                rows::put_source(conn, source)?;
            }
            rows::put_meta(conn, "fs", &job.fs.to_string())?;
            rows::put_meta(conn, "from", &job.number.to_string())?;
            rows::put_meta(conn, "to", &job.number.to_string())?;
            rows::put_meta(conn, "xid_from", &job.xid.from.to_string())?;
            rows::put_meta(conn, "xid_to", &job.xid.to.to_string())
        })?;
        self.0.finish()?;
        Ok(path)
    }
}

impl OpenLayer {
    /// Remove it: it was made before.
    pub(super) fn discard(self) -> Result<()> {
        remove(self.0.path())
    }
}

impl OpenChanges {
    /// Remove it: it was used before.
    pub(super) fn discard(self) -> Result<()> {
        remove(&self.path)
    }

    /// The lines for holes.
    pub(super) fn holes(&mut self, staging: &Staging) -> Result<()> {
        staging.holes(|hole| write_change(&mut self.out, &Change::hole(&hole)))
    }

    /// Add the lines of the members of `tarballs` tarballs. Answers the path of the whole list.
    pub(super) fn finish(mut self, dir: &Path, tarballs: u32) -> Result<PathBuf> {
        let failed = || "the list of changes could not be written".to_owned();
        for number in 1..=tarballs {
            let path = dir.join(members_name(number));
            let mut members =
                File::open(&path).context(|| format!("{} could not be read", path.display()))?;
            io::copy(&mut members, &mut self.out).context(failed)?;
        }
        self.out.flush().context(failed)?;
        Ok(self.path)
    }
}

/// Stage the extents of older snapshots that the frozen layer has; answers its sources.
pub(super) fn inherited(
    frozen: &Frozen,
    plan: &Plan,
    staging: &mut Staging,
) -> Result<Vec<SourceRow>> {
    if frozen.has_extents() {
        let sql = format!("SELECT {} FROM extent", rows::EXTENT_COLUMNS);
        each(&frozen.conn, &sql, &|| false, |row| {
            let extent = rows::extent_from_row(row)?;
            if plan.orphans.binary_search(&extent.ino).is_ok() {
                Ok(())
            } else {
                staging.extent(&extent)
            }
        })?;
    }
    let mut sources = Vec::new();
    let sql = format!("SELECT {} FROM source", rows::SOURCE_COLUMNS);
    each(&frozen.conn, &sql, &|| false, |row| {
        sources.push(rows::source_from_row(row)?);
        Ok(())
    })?;
    Ok(sources)
}

/// Two extents of a file that overlap would make a reader return stale data.
fn check_apart(last: Option<&ExtentRow>, next: &ExtentRow) -> Result<()> {
    match last {
        Some(last) if last.ino == next.ino && last.blk + last.n > next.blk => {
            Err(Error::damage(format!(
                "inode {} has two places for block {} in one layer",
                next.ino, next.blk
            )))
        }
        _ => Ok(()),
    }
}

/// The index over dentries is made at the end: filled row by row its pages would be written over
/// and over. Returns what makes it again.
fn drop_index(conn: &Connection) -> Result<String> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = 'dentry_ino'";
    let index: String = conn.query_row(sql, [], |row| row.get(0))?;
    conn.execute_batch("DROP INDEX dentry_ino")?;
    Ok(index)
}

fn each(
    conn: &Connection,
    sql: &str,
    stop: &dyn Fn() -> bool,
    mut copy: impl FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let mut statement = conn.prepare(sql)?;
    let mut found = statement.query([])?;
    let mut count = 0u64;
    while let Some(row) = found.next()? {
        if count.is_multiple_of(1024) && stop() {
            return Err(cancelled());
        }
        count += 1;
        copy(row)?;
    }
    Ok(())
}

/// The holes that a patched file has in the frozen layer.
pub(super) fn frozen_holes(frozen: &Frozen, ino: Ino) -> Result<Vec<HoleRow>> {
    if frozen.has_holes() {
        rows::holes(&frozen.conn, ino, 0, u64::MAX)
    } else {
        Ok(Vec::new())
    }
}

/// `holes`, joined where they touch, without the byte ranges `taken` (ascending, apart).
pub(super) fn normalise(mut holes: Vec<HoleRow>, taken: &[(u64, u64)]) -> Vec<HoleRow> {
    holes.sort_unstable_by_key(|hole| hole.from);
    let mut joined: Vec<HoleRow> = Vec::with_capacity(holes.len());
    for hole in holes {
        match joined.last_mut() {
            Some(last) if last.to >= hole.from => {
                last.to = last.to.max(hole.to);
                last.xid = Xid(last.xid.0.max(hole.xid.0));
            }
            _ => joined.push(hole),
        }
    }
    let mut out = Vec::with_capacity(joined.len());
    for hole in joined {
        let mut from = hole.from;
        let first = taken.partition_point(|(_, to)| *to <= hole.from);
        for (start, end) in taken
            .iter()
            .skip(first)
            .take_while(|(start, _)| *start < hole.to)
        {
            if from < *start {
                out.push(HoleRow {
                    from,
                    to: *start,
                    ..hole
                });
            }
            from = from.max(*end);
        }
        if from < hole.to {
            out.push(HoleRow { from, ..hole });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_joined_and_give_way_to_what_was_written_since() {
        let hole = |from, to, xid| HoleRow {
            ino: Ino(5),
            from,
            to,
            xid: Xid(xid),
        };
        let holes = vec![
            hole(50, 90, 3),
            hole(0, 20, 1),
            hole(10, 30, 2),
            hole(200, 300, 4),
        ];
        let out = normalise(holes, &[(5, 8), (25, 60), (250, 400)]);
        let ranges: Vec<_> = out.iter().map(|h| (h.from, h.to, h.xid.0)).collect();
        assert_eq!(ranges, [(0, 5, 2), (8, 25, 2), (60, 90, 3), (200, 250, 4)]);
    }
}
