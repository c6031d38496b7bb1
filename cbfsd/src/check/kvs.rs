//! The KVS files: all there, of this format, and whole as SQLite sees it.

use super::finding::{FindingKind, Place, Report};
use crate::kvs::Committed;
use crate::kvs::inspect::{Inspected, inspect, open_untouched};
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::layers::Stack;
use std::path::Path;
use std::sync::Arc;

/// What a KVS file consists of, as far as it is used here.
const TABLES: [&str; 8] = [
    "inode", "dentry", "link", "xattr", "meta", "inline", "backing", "block",
];

/// Look at each file, then at all as one; `None` when there is nothing to look at rows in.
pub(super) fn check_files(
    dir: &Path,
    base: Option<Arc<Stack>>,
    floor: Committed,
    block_size: u64,
    report: &mut Report,
) -> Result<Option<Inspected>> {
    if !dir.is_dir() {
        let text = "the KVS is missing";
        report.damage(FindingKind::KvsFileMissing, text, Place::file(dir));
        return Ok(None);
    }
    let mut whole = true;
    let describe = || format!("{} could not be listed", dir.display());
    for entry in std::fs::read_dir(dir).context(describe)? {
        let path = entry.context(describe)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !name.ends_with(".sqlite") {
            continue;
        }
        if name.starts_with("merged-") {
            let text = "what an interrupted attempt merged; it is made anew";
            report.note(FindingKind::LeftOver, text, Place::file(&path));
            continue;
        }
        if let Some(problem) = quick_check(&path)? {
            whole = false;
            report.damage(FindingKind::KvsFileDamaged, problem, Place::file(&path));
        }
    }
    if !whole {
        return Ok(None);
    }
    let inspected = match inspect(dir, base, floor, block_size) {
        Ok(inspected) => inspected,
        Err(e) if is_damage(&e) => {
            report.damage(FindingKind::KvsFileDamaged, told(&e), Place::file(dir));
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    for path in &inspected.left_over {
        let text = "a frozen file that is in main already";
        report.note(FindingKind::LeftOver, text, Place::file(path));
    }
    for generation in &inspected.missing {
        let text = format!("generation {generation} is missing: what changed between two cuts");
        report.damage(FindingKind::KvsFileMissing, text, Place::file(dir));
    }
    if inspected.without_main {
        let text = "main.sqlite is missing";
        report.damage(
            FindingKind::KvsFileMissing,
            text,
            Place::file(&dir.join("main.sqlite")),
        );
    }
    let gaps = inspected.without_main || !inspected.missing.is_empty();
    Ok(Some(inspected).filter(|_| !gaps))
}

/// What SQLite says against a file.
fn quick_check(path: &Path) -> Result<Option<String>> {
    let ask = || -> Result<String> {
        let conn = open_untouched(path)?;
        let names = "SELECT group_concat(name) FROM sqlite_schema WHERE type='table'";
        let tables: Option<String> = conn.query_row(names, [], |r| r.get(0))?;
        // None at all: the daemon died before it made them.
        let tables = tables.unwrap_or_else(|| TABLES.join(","));
        if let Some(lost) = TABLES
            .iter()
            .find(|t| tables.split(',').all(|there| there != **t))
        {
            return Ok(format!("the table {lost} is missing"));
        }
        Ok(conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?)
    };
    match ask() {
        Ok(answer) if answer == "ok" => Ok(None),
        Ok(answer) => Ok(Some(answer)),
        Err(e) if is_damage(&e) => Ok(Some(told(&e))),
        Err(e) => Err(e.context(format!("{} could not be checked", path.display()))),
    }
}

fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Damage | ErrorKind::FormatTooNew)
}

fn told(e: &Error) -> String {
    let mut text = e.to_string();
    for cause in e.causes() {
        text.push_str(": ");
        text.push_str(&cause);
    }
    text
}
