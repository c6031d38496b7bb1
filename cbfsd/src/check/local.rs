//! What lies beside journal and KVS: backing files, status logs, frozen files, preserved blocks, and
//! objects that wait for their upload.

use super::finding::{FindingKind, Place, Report};
use super::rows::Merged;
use crate::data::{BackingFiles, Preserved};
use crate::kvs::inspect::Inspected;
use cbfs_core::error::{Context, ErrorKind, Result};
use cbfs_core::format::manifest::Manifest;
use cbfs_core::ids::{SnapshotNumber, Xid};
use cbfs_core::snapshot::{SnapshotState, SnapshotStatus};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The requests of an instance.
pub(super) type Requests = BTreeMap<SnapshotNumber, SnapshotStatus>;

/// Every backing file that a file needs is there; others are told.
pub(super) fn check_backing_files(dir: &Path, merged: &Merged, report: &mut Report) -> Result<()> {
    let data = dir.join("data");
    merged.ask("SELECT ino, file FROM backing", |ino, row| {
        let file = row.get::<_, i64>(1)? as u64;
        let path = BackingFiles::path_in(&data, ino, file);
        if !path.is_file() {
            let text = format!(
                "the backing file of inode {ino} is missing: {}",
                path.display()
            );
            report.damage(FindingKind::BackingFileMissing, text, merged.place(ino)?);
        }
        Ok(())
    })?;
    let sql = "SELECT EXISTS(SELECT 1 FROM backing WHERE ino=?1 AND file=?2) \
               OR EXISTS(SELECT 1 FROM at_cut WHERE ino=?1 AND file=?2)";
    let mut used = merged.conn.prepare(sql)?;
    for sub in entries(&data)? {
        for path in entries(&sub)? {
            report.checked.backing_files += 1;
            let known = match BackingFiles::id_of(&path) {
                Some((ino, file)) => used.query_row([ino.0 as i64, file as i64], |r| r.get(0))?,
                None => false,
            };
            if !known {
                let text = "a backing file that no inode has";
                report.note(FindingKind::BackingFileUnused, text, Place::file(&path));
            }
        }
    }
    Ok(())
}

/// The status logs, parsed.
pub(super) fn check_status_logs(dir: &Path, report: &mut Report) -> Result<Requests> {
    let mut requests = Requests::new();
    for path in entries(&dir.join("status"))? {
        if path.extension().is_none_or(|e| e != "jsonl") {
            continue;
        }
        report.checked.requests += 1;
        let bytes = fs::read(&path).context(|| format!("{} could not be read", path.display()))?;
        match SnapshotStatus::parse(&bytes) {
            Ok(status) if path.file_stem() == Some(format!("{:010}", status.number.0).as_ref()) => {
                drop(requests.insert(status.number, status));
            }
            Ok(status) => {
                let text = format!("the log says that it is of snapshot {}", status.number);
                report.damage(FindingKind::StatusLog, text, Place::file(&path));
            }
            Err(e) => report.damage(FindingKind::StatusLog, e.to_string(), Place::file(&path)),
        }
    }
    Ok(requests)
}

/// Frozen files, preserved blocks and objects are those of the requests.
pub(super) fn check_requests(
    dir: &Path,
    requests: &Requests,
    merged: &Merged,
    inspected: &Inspected,
    report: &mut Report,
) -> Result<()> {
    let published = last_complete(dir, report)?;
    let files = inspected.kvs.files();
    for frozen in &files.frozen {
        let path = frozen.file.path();
        if frozen.cut <= published {
            let text = "a frozen file whose snapshot is complete: to be folded into main";
            report.note(FindingKind::LeftOver, text, Place::file(path));
        } else if !requests.contains_key(&frozen.number) && !report.has(FindingKind::StatusLog) {
            let text = format!(
                "a frozen file of snapshot {}, which nobody asked for",
                frozen.number
            );
            report.damage(FindingKind::FrozenUnknown, text, Place::file(path));
        }
    }
    let mut preserving = None;
    for status in requests.values().filter(|s| !s.state.is_final()) {
        let frozen = files.frozen.iter().find(|f| f.number == status.number);
        if status.state == SnapshotState::Queued {
            continue;
        }
        let Some(frozen) = frozen else {
            if status.xid.is_none_or(|cut| cut > published) {
                let text = format!("the cut of snapshot {} is not here any more", status.number);
                report.note(FindingKind::CutMissing, text, Place::default());
            }
            continue;
        };
        preserving = Some(frozen.generation);
        // Whatever its state: an attempt that was interrupted is made anew from the cut.
        let newest = files.frozen.first().map(|f| f.generation);
        if newest == Some(frozen.generation) && frozen.cut > published {
            check_pending(dir, merged, report)?;
        }
        check_objects(dir, status, report);
    }
    check_preserved(dir, preserving, report)
}

/// The last transaction that a complete snapshot has.
fn last_complete(dir: &Path, report: &mut Report) -> Result<Xid> {
    let path = dir.join("last-complete.json");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Xid(0)),
        Err(e) => return Err(e).context(|| format!("{} could not be read", path.display())),
    };
    match cbfs_core::format::parse::<Manifest>(&path.display().to_string(), &bytes) {
        Ok(manifest) => Ok(manifest.xid.to),
        Err(e) if matches!(e.kind(), ErrorKind::Damage | ErrorKind::FormatTooNew) => {
            report.damage(FindingKind::LastComplete, e.to_string(), Place::file(&path));
            Ok(Xid(0))
        }
        Err(e) => Err(e),
    }
}

/// What the newest cut has in backing files is still there, in the file or as preserved blocks.
fn check_pending(dir: &Path, merged: &Merged, report: &mut Report) -> Result<()> {
    let data = dir.join("data");
    let needed = "SELECT ino, file FROM pending JOIN at_cut USING(ino)";
    merged.ask(needed, |ino, row| {
        let path = BackingFiles::path_in(&data, ino, row.get::<_, i64>(1)? as u64);
        if !path.is_file() {
            let text = format!("the snapshot needs {}, which is missing", path.display());
            report.damage(
                FindingKind::PendingContentsMissing,
                text,
                merged.place(ino)?,
            );
        }
        Ok(())
    })
}

/// What the log says is made and not sent. An attempt that was interrupted is made anew, so nothing is
/// lost without it.
fn check_objects(dir: &Path, status: &SnapshotStatus, report: &mut Report) {
    let waiting = status
        .made
        .iter()
        .filter(|(key, _)| !status.sent.contains_key(*key));
    for (key, size) in waiting {
        let path = dir.join("proxy").join(key);
        let there = fs::metadata(&path).map(|about| about.len()).ok();
        if there != Some(*size) {
            let text = format!(
                "an object of snapshot {} that waits for its upload",
                status.number
            );
            report.note(FindingKind::ObjectMissing, text, Place::file(&path));
        }
    }
}

fn check_preserved(dir: &Path, wanted: Option<u64>, report: &mut Report) -> Result<()> {
    let wanted = wanted.map(Preserved::dir_name);
    for path in entries(&dir.join("frozen"))? {
        if path.file_name().map(|n| n.to_string_lossy().into_owned()) != wanted {
            let text = "preserved blocks of no snapshot under way";
            report.note(FindingKind::LeftOver, text, Place::file(&path));
        }
    }
    Ok(())
}

/// The entries of a directory in order; none where there is no directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let describe = || format!("{} could not be listed", dir.display());
    let listed = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(describe)?,
    };
    let mut paths = Vec::new();
    for entry in listed {
        paths.push(entry.context(describe)?.path());
    }
    paths.sort_unstable();
    Ok(paths)
}
