//! What of its layers and tarballs a snapshot still reads.

use super::OpenLayer;
use crate::error::Result;
use crate::ids::{Ino, SnapshotNumber};
use crate::layers::rows::{DENTRY_COLUMNS, all, dentry_from_row, number};
use crate::layers::{DentryRow, ExtentRow, Layer, Stack};
use std::collections::{BTreeMap, BTreeSet};

/// Visit all extents that files of the snapshot are read from, by inode and block. `layers` are
/// those of `stack`. Memory: 8 bytes for each file with contents.
///
/// # Errors
/// Those of the layers and of `visit`.
pub fn live_extents(
    layers: &[OpenLayer],
    stack: &Stack,
    mut visit: impl FnMut(&ExtentRow) -> Result<()>,
) -> Result<()> {
    for ino in inodes(layers, "SELECT DISTINCT ino FROM extent")? {
        let size = match stack.inode(ino)? {
            Some(row) if !row.gone => row.size,
            _ => continue,
        };
        let blocks = size.div_ceil(stack.block_size());
        for extent in stack.extents(ino, 0, blocks)? {
            visit(&extent)?;
        }
    }
    Ok(())
}

/// The inodes that any row of these layers is about, sorted: every inode that changed in them.
pub fn inodes_touched(layers: &[OpenLayer]) -> Result<Vec<Ino>> {
    let sql = "SELECT ino FROM inode UNION SELECT ino FROM dentry WHERE ino IS NOT NULL
               UNION SELECT ino FROM link UNION SELECT ino FROM xattr
               UNION SELECT ino FROM extent UNION SELECT ino FROM hole";
    inodes(layers, sql)
}

/// The names that any of these layers has a row for, tombstones included: every name that changed in them. Newest
/// layer first, in each by (parent, hash, name).
pub fn names_touched(layers: &[OpenLayer]) -> Result<Vec<DentryRow>> {
    let sql = format!("SELECT {DENTRY_COLUMNS} FROM dentry ORDER BY parent, hash, name");
    let mut found = Vec::new();
    for layer in layers {
        let of_layer = layer
            .database
            .with(|conn| all(conn, &sql, [], dentry_from_row))?;
        found.extend(of_layer);
    }
    Ok(found)
}

fn inodes(layers: &[OpenLayer], sql: &str) -> Result<Vec<Ino>> {
    let mut found = Vec::new();
    for layer in layers {
        let of_layer = layer
            .database
            .with(|conn| all(conn, sql, [], |row| Ok(Ino(number(row, 0)?))))?;
        found.extend(of_layer);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Numbers of sections, by the snapshot that made them.
pub type LiveSections = BTreeMap<SnapshotNumber, BTreeSet<u64>>;

/// The sections that files of the snapshot are read from, by the snapshot that made them. Some 30
/// bytes each.
pub fn live_sections(layers: &[OpenLayer], stack: &Stack) -> Result<LiveSections> {
    let mut live = LiveSections::new();
    live_extents(layers, stack, |extent| {
        let sections = live.entry(extent.snapshot).or_default();
        sections.extend((0..extent.n).map(|i| extent.section.saturating_add(i)));
        Ok(())
    })?;
    Ok(live)
}
