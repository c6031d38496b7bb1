//! Records of the change log as lines.

use crate::path_text::path_text;
use cbfs_core::change_log::{EventPaths, Resolved, inode_of};
use cbfs_core::format::log::{LogEvent, Place};
use cbfs_core::names::JsonName;

/// `TIME XID WHAT PATH DETAILS`, a line for each event that tells something of its own. Attributes
/// that changed along with something else (sizes, times, link counts) are left out, and so are
/// access times that moved. With `only`, events about other paths are too.
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
            // Whatever else changes an attribute changes the ctime.
            LogEvent::Update(row) if row.ctime != record.time => true,
            event => along(event) && !nothing_else,
        };
        if redundant || only.is_some_and(|path| !paths.concern(path)) {
            continue;
        }
        let (what, mut detail) = told(event);
        if let (LogEvent::Rename { ino, .. }, Some(to)) = (event, &paths.to) {
            let replaced = record.events.iter().zip(&resolved.paths).any(|(e, p)| {
                let other = inode_of(e).is_some_and(|other| other != *ino);
                other && p.path.as_ref() == Some(to) && !matches!(e, LogEvent::Rename { .. })
            });
            if replaced {
                detail = "replaces another".to_owned();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::change_log::{PathTracker, parse_line};

    #[test]
    fn an_operation_is_a_line_and_what_changed_along_with_it_is_left_out() {
        let records = [
            r#"{"xid":1,"time":"T1","events":[{"create":{"ino":5,"kind":"file","mode":420,"uid":0,"gid":0,"nlink":1,"size":0,"mtime":"T"}},{"link":{"ino":5,"kind":"file","parent":1,"name":"a\nb"}},{"update":{"ino":1,"kind":"directory","mode":493,"uid":0,"gid":0,"nlink":2,"size":1,"mtime":"T"}}]}"#,
            r#"{"xid":2,"time":"T2","events":[{"write":{"ino":5,"offset":0,"length":4}},{"update":{"ino":5,"kind":"file","mode":420,"uid":0,"gid":0,"nlink":1,"size":4,"mtime":"T"}}]}"#,
            r#"{"xid":3,"time":"T3","events":[{"update":{"ino":5,"kind":"file","mode":384,"uid":7,"gid":8,"nlink":1,"size":4,"mtime":"T","ctime":"T3"}}]}"#,
            r#"{"xid":3,"time":"read","events":[{"update":{"ino":5,"kind":"file","mode":384,"uid":7,"gid":8,"nlink":1,"size":4,"mtime":"T","ctime":"T3"}}]}"#,
            r#"{"xid":4,"time":"T4","events":[{"link":{"ino":6,"kind":"file","parent":1,"name":"c"}}]}"#,
            r#"{"xid":5,"time":"T5","events":[{"destroy":{"ino":6}},{"unlink":{"kind":"file","parent":1,"name":"a\nb"}},{"link":{"ino":5,"kind":"file","parent":1,"name":"c"}},{"rename":{"ino":5,"from":{"parent":1,"name":"a\nb"},"to":{"parent":1,"name":"c"}}}]}"#,
            r#"{"xid":6,"time":"T6","events":[{"write":{"ino":99,"offset":8,"length":4}}]}"#,
            r#"{"xid":7,"time":"T7","events":[{"cut":{"snapshot":3}}]}"#,
        ];
        let mut tracker = PathTracker::new(None);
        let mut shown = Vec::new();
        for record in records {
            let record = parse_line(record.as_bytes()).unwrap();
            shown.extend(lines(&tracker.follow(record).unwrap(), None));
        }
        insta::assert_snapshot!(shown.join("\n"), @r#"
        T1 1 create      "/a\nb"  file 0644 0:0
        T2 2 write       "/a\nb"  4 bytes at 0
        T3 3 attributes  "/a\nb"  0600 7:8 4 bytes
        T4 4 link        /c
        T5 5 rename      "/a\nb" -> /c  replaces another
        T6 6 write       inode 99  4 bytes at 8
        T7 7 cut           snapshot 3
        "#);
    }
}
