//! Names, inodes and contents as a whole: every name has its inode, every inode its names, every
//! directory hangs on the root, every file has contents of one kind.

use super::finding::{FindingKind, Place, Report};
use super::rows::{Merged, escaped};
use crate::kvs::Kvs;
use cbfs_core::error::Result;
use cbfs_core::ids::Ino;

/// Numbers of `FileKind`, in SQL.
const DIRECTORY: &str = "4";
const FILE: &str = "8";
const SYMLINK: &str = "10";

/// Ask all questions.
pub(super) fn check(merged: &Merged, kvs: &Kvs, report: &mut Report) -> Result<()> {
    let sql = |text: &str| {
        text.replace("DIRECTORY", DIRECTORY)
            .replace("SYMLINK", SYMLINK)
            .replace("FILE", FILE)
    };
    report.checked.inodes = merged.number("SELECT count(*) FROM inode")?;
    report.checked.names = merged.number("SELECT count(*) FROM dentry")?;
    report.checked.bytes = merged.number(&sql(
        "SELECT coalesce(sum(size), 0) FROM inode WHERE kind=FILE",
    ))?;
    report.checked.orphans = merged.number("SELECT count(*) FROM inode WHERE nlink=0")?;

    let root = merged.number(&sql(
        "SELECT count(*) FROM inode WHERE ino=1 AND kind=DIRECTORY",
    ))?;
    // A daemon that died while it made a new file system makes the root at the next start.
    let empty = report.checked.inodes == 0 && report.checked.names == 0;
    if root == 0 && !empty {
        let text = "there is no root directory";
        report.damage(FindingKind::RootMissing, text, Place::ino(Ino::ROOT, None));
    }
    names(merged, report, &sql)?;
    link_counts(merged, report, &sql)?;
    contents(merged, report, &sql)?;
    numbers(merged, kvs, report)
}

type Sql<'a> = &'a dyn Fn(&str) -> String;

fn names(merged: &Merged, report: &mut Report, sql: Sql<'_>) -> Result<()> {
    let query = "SELECT d.parent, d.name, d.ino FROM dentry d LEFT JOIN inode i ON i.ino=d.ino \
                 WHERE i.ino IS NULL";
    merged.ask(query, |parent, row| {
        let (name, ino): (Vec<u8>, i64) = (row.get(1)?, row.get(2)?);
        let text = format!(
            "the name \"{}\" stands for inode {ino}, which does not exist",
            escaped(&name)
        );
        report.damage(FindingKind::NameWithoutInode, text, merged.place(parent)?);
        Ok(())
    })?;
    let query = "SELECT d.ino, d.kind, i.kind FROM dentry d JOIN inode i ON i.ino=d.ino \
                 WHERE i.kind<>d.kind";
    merged.ask(query, |ino, row| {
        let (said, is): (i64, i64) = (row.get(1)?, row.get(2)?);
        let text = format!("a name of inode {ino} says kind {said}, the inode is {is}");
        report.damage(FindingKind::NameKind, text, merged.place(ino)?);
        Ok(())
    })?;
    let query = sql(
        "SELECT DISTINCT d.parent FROM dentry d LEFT JOIN inode i ON i.ino=d.parent \
         WHERE i.ino IS NULL OR i.kind<>DIRECTORY",
    );
    merged.ask(&query, |parent, _| {
        let text = format!("there are names in inode {parent}, which is no directory");
        report.damage(
            FindingKind::NameWithoutDirectory,
            text,
            merged.place(parent)?,
        );
        Ok(())
    })?;
    let query = sql("WITH RECURSIVE below(ino) AS (SELECT 1 UNION \
           SELECT d.ino FROM below JOIN dentry d ON d.parent=below.ino WHERE d.kind=DIRECTORY) \
         SELECT ino FROM inode WHERE kind=DIRECTORY AND nlink>0 \
           AND ino NOT IN (SELECT ino FROM below)");
    merged.ask(&query, |ino, _| {
        let text = format!("directory {ino} cannot be reached from the root");
        report.damage(FindingKind::Unreachable, text, Place::ino(ino, None));
        Ok(())
    })
}

fn link_counts(merged: &Merged, report: &mut Report, sql: Sql<'_>) -> Result<()> {
    let query = sql(
        "SELECT ino, nlink, (SELECT count(*) FROM dentry d WHERE d.ino=i.ino) AS names \
         FROM inode i WHERE kind<>DIRECTORY AND nlink<>names",
    );
    merged.ask(&query, |ino, row| {
        let (nlink, names): (i64, i64) = (row.get(1)?, row.get(2)?);
        let text = format!("inode {ino} counts {nlink} links and has {names} names");
        report.damage(FindingKind::LinkCount, text, merged.place(ino)?);
        Ok(())
    })?;
    let query = sql(
        "SELECT i.ino, i.nlink, i.size, coalesce(c.entries, 0), coalesce(c.directories, 0), \
           (SELECT count(*) FROM dentry d WHERE d.ino=i.ino) \
         FROM inode i LEFT JOIN (SELECT parent, count(*) AS entries, \
           count(*) FILTER (WHERE kind=DIRECTORY) AS directories FROM dentry GROUP BY parent) c \
           ON c.parent=i.ino \
         WHERE i.kind=DIRECTORY",
    );
    merged.ask(&query, |ino, row| {
        let number = |at: usize| -> Result<i64> { Ok(row.get(at)?) };
        let (nlink, size, entries, directories, names) =
            (number(1)?, number(2)?, number(3)?, number(4)?, number(5)?);
        let named = names > 0 || ino == Ino::ROOT;
        let wanted = if named { 2 + directories } else { 0 };
        // Removed, and kept by an open descriptor.
        if nlink != wanted {
            let text = format!("directory {ino} counts {nlink} links instead of {wanted}");
            report.damage(FindingKind::LinkCount, text, merged.place(ino)?);
        }
        if size != entries {
            let text = format!("directory {ino} counts {size} entries and has {entries}");
            report.damage(FindingKind::DirectorySize, text, merged.place(ino)?);
        }
        if names > 1 || (ino == Ino::ROOT && names > 0) {
            let text = format!("directory {ino} has {names} names");
            report.damage(FindingKind::DirectoryNames, text, merged.place(ino)?);
        }
        Ok(())
    })
}

fn contents(merged: &Merged, report: &mut Report, sql: Sql<'_>) -> Result<()> {
    let mut tell = |kind: FindingKind, query: &str, what: &str| {
        merged.ask(&sql(query), |ino, _| {
            report.damage(kind, format!("inode {ino} {what}"), merged.place(ino)?);
            Ok(())
        })
    };
    tell(
        FindingKind::SymlinkTarget,
        "SELECT i.ino FROM inode i LEFT JOIN link l ON l.ino=i.ino \
         WHERE i.kind=SYMLINK AND (l.length IS NULL OR l.length<>i.size)",
        "is a symlink without its target",
    )?;
    tell(
        FindingKind::InlineLength,
        "SELECT i.ino FROM inode i JOIN inline c ON c.ino=i.ino WHERE c.length>i.size",
        "has more contents than its size says",
    )?;
    tell(
        FindingKind::ContentsTwice,
        "SELECT i.ino FROM inode i JOIN inline c ON c.ino=i.ino JOIN backing b ON b.ino=i.ino",
        "has contents inline and in a backing file",
    )?;
    tell(
        FindingKind::ContentsMissing,
        "SELECT i.ino FROM inode i LEFT JOIN inline c ON c.ino=i.ino \
         LEFT JOIN backing b ON b.ino=i.ino \
         WHERE i.kind=FILE AND c.ino IS NULL AND b.ino IS NULL \
         AND i.ino NOT IN (SELECT ino FROM below)",
        "is a file without contents",
    )?;
    tell(
        FindingKind::BackingRow,
        "SELECT b.ino FROM backing b LEFT JOIN inode i ON i.ino=b.ino \
         WHERE i.ino IS NULL OR i.kind<>FILE",
        "has a backing file and is no file",
    )?;
    tell(
        FindingKind::XattrWithoutInode,
        "SELECT DISTINCT x.ino FROM xattr x LEFT JOIN inode i ON i.ino=x.ino WHERE i.ino IS NULL",
        "has extended attributes and does not exist",
    )
}

/// What the next operation will count on.
fn numbers(merged: &Merged, kvs: &Kvs, report: &mut Report) -> Result<()> {
    let tables = kvs.tables();
    if merged.last_ino >= tables.next_ino {
        let text = format!(
            "inode {} exists, and {} is the next",
            merged.last_ino, tables.next_ino
        );
        report.damage(
            FindingKind::NumberReused,
            text,
            Place::ino(merged.last_ino, None),
        );
    }
    if merged.last_xid > tables.xid {
        let text = format!(
            "a row is of transaction {}, and {} is the last",
            merged.last_xid, tables.xid
        );
        report.damage(FindingKind::NumberReused, text, Place::default());
    }
    let (inodes, bytes) = (report.checked.inodes, report.checked.bytes);
    if (tables.counters.inodes, tables.counters.bytes) != (inodes, bytes) {
        let text = format!(
            "{} inodes and {} bytes are counted, {inodes} and {bytes} are there",
            tables.counters.inodes, tables.counters.bytes
        );
        report.damage(FindingKind::Counters, text, Place::default());
    }
    Ok(())
}
