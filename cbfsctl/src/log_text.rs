//! Records of the change log as lines.

use crate::path_text::path_text;
use cbfs_core::change_log::{EventPaths, Resolved, inode_of};
use cbfs_core::format::log::{LogEvent, Place};
use cbfs_core::names::JsonName;

/// `TIME XID WHAT PATH DETAILS`, a line for each event that tells something of its own. Attributes
/// that changed along with something else (sizes, times, link counts) are left out. With `only`,
/// events about other paths are too.
pub(crate) fn lines(resolved: &Resolved, only: Option<&[u8]>) -> Vec<String> {
    let record = &resolved.record;
    let along = |event: &LogEvent| matches!(event, LogEvent::Update(_) | LogEvent::Spill { .. });
    let nothing_else = record.events.iter().all(along);
    let named = |event: &LogEvent| {
        let ino = inode_of(event);
        let links = record.events.iter();
        links
            .filter(|e| matches!(e, LogEvent::Link { .. }))
            .any(|e| inode_of(e) == ino)
    };
    let renames = |place: &Place| {
        let mut renames = record.events.iter();
        renames
            .any(|e| matches!(e, LogEvent::Rename { from, to, .. } if from == place || to == place))
    };
    let mut out = Vec::new();
    for (event, paths) in record.events.iter().zip(&resolved.paths) {
        let redundant = match event {
            LogEvent::Create(_) => false,
            // A rename tells both of its names.
            LogEvent::Unlink { at, .. } | LogEvent::Link { at, .. } if renames(at) => true,
            // A new file is told by its creation.
            LogEvent::Link { ino, .. } => record
                .events
                .iter()
                .any(|e| matches!(e, LogEvent::Create(row) if row.ino == *ino)),
            LogEvent::Destroy { .. } => !record
                .events
                .iter()
                .all(|e| matches!(e, LogEvent::Destroy { .. }) || along(e)),
            LogEvent::Target { .. } => named(event),
            event => along(event) && !nothing_else,
        };
        if redundant || only.is_some_and(|path| !paths.concern(path)) {
            continue;
        }
        let (what, detail) = told(event);
        let path = path_of(event, paths);
        let line = format!("{} {} {what:<11} {path}  {detail}", record.time, record.xid);
        out.push(line.trim_end().to_owned());
    }
    out
}

fn path_of(event: &LogEvent, paths: &EventPaths) -> String {
    let path = match (&paths.path, inode_of(event)) {
        (Some(path), _) => path_text(path),
        (None, Some(ino)) => format!("inode {ino}"),
        (None, None) => String::new(),
    };
    match &paths.to {
        Some(to) => format!("{path} -> {}", path_text(to)),
        None => path,
    }
}

fn told(event: &LogEvent) -> (&'static str, String) {
    let name = |name: &JsonName| {
        let bytes = name.bytes().unwrap_or_default();
        bytes.escape_ascii().to_string()
    };
    match event {
        LogEvent::Create(row) => (
            "create",
            format!("{:?} {:04o} {}:{}", row.kind, row.mode, row.uid, row.gid).to_lowercase(),
        ),
        LogEvent::Update(row) => (
            "attributes",
            format!(
                "{:04o} {}:{} {} bytes",
                row.mode, row.uid, row.gid, row.size
            ),
        ),
        LogEvent::Destroy { .. } => ("destroy", String::new()),
        LogEvent::Link { .. } => ("link", String::new()),
        LogEvent::Unlink { .. } => ("unlink", String::new()),
        LogEvent::Rename { .. } => ("rename", String::new()),
        LogEvent::Target { target, .. } => ("symlink", format!("-> {}", name(target))),
        LogEvent::Setxattr { size, name: n, .. } => {
            ("setxattr", format!("{} ({size} bytes)", name(n)))
        }
        LogEvent::Removexattr { name: n, .. } => ("removexattr", name(n)),
        LogEvent::Write { offset, length, .. } => ("write", format!("{length} bytes at {offset}")),
        LogEvent::Spill { .. } => ("spill", String::new()),
        LogEvent::Truncate { size, .. } => ("truncate", format!("to {size} bytes")),
        LogEvent::Hole { from, to, .. } => (
            "hole",
            format!("{} bytes at {from}", to.saturating_sub(*from)),
        ),
        LogEvent::Cut { snapshot } => ("cut", format!("snapshot {snapshot}")),
        LogEvent::Epoch { epoch } => ("epoch", format!("{epoch}")),
    }
}
