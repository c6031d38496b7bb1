//! `log.jsonl.zst` (`cbfs_core::format::log`): the change log of a snapshot, from the journal.

use crate::journal::{Event, Record, read_range};
use cbfs_core::error::{Context, Result};
use cbfs_core::format::ObjectRef;
use cbfs_core::format::log::{Attributes, LogEvent, LogRecord, Place};
use cbfs_core::format::manifest::XidRange;
use cbfs_core::frames::HashingWriter;
use cbfs_core::names::JsonName;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Write the records of `range` to `path` (compressed, not fsynced) and answer the object `key`.
pub fn write(
    journal: &Path,
    range: XidRange,
    path: &Path,
    key: String,
    level: i32,
) -> Result<ObjectRef> {
    let describe = || format!("the change log {} could not be written", path.display());
    let file = File::create(path).context(describe)?;
    let file = HashingWriter::new(file);
    let mut out = zstd::Encoder::new(BufWriter::new(file), level).context(describe)?;
    let mut line = Vec::new();
    read_range(journal, range.from, range.to, |record| {
        line.clear();
        serde_json::to_writer(&mut line, &log_record(&record)).context(describe)?;
        line.push(b'\n');
        out.write_all(&line).context(describe)
    })?;
    let file = out
        .finish()
        .and_then(|b| b.into_inner().map_err(|e| e.into_error()));
    let (_, stored) = file.context(describe)?.finish();
    Ok(stored.at(key))
}

/// Translate a record of the journal.
pub fn log_record(record: &Record) -> LogRecord {
    LogRecord {
        xid: record.xid,
        time: record.time.to_rfc3339(),
        events: record.events.iter().filter_map(log_event).collect(),
    }
}

fn log_event(event: &Event) -> Option<LogEvent> {
    Some(match event {
        Event::InodeCreate(row) => LogEvent::Create(Attributes::of(row)),
        Event::InodeUpdate(row) => LogEvent::Update(Attributes::of(row)),
        Event::InodeDestroy { ino } => LogEvent::Destroy { ino: *ino },
        Event::DentryLink {
            parent,
            name,
            ino,
            kind,
        } => LogEvent::Link {
            ino: *ino,
            kind: *kind,
            at: Place::of(*parent, name),
        },
        Event::DentryUnlink { parent, name, kind } => LogEvent::Unlink {
            kind: *kind,
            at: Place::of(*parent, name),
        },
        Event::Rename {
            ino,
            from_parent,
            from_name,
            to_parent,
            to_name,
        } => LogEvent::Rename {
            ino: *ino,
            from: Place::of(*from_parent, from_name),
            to: Place::of(*to_parent, to_name),
        },
        Event::SymlinkTarget { ino, target } => LogEvent::Target {
            ino: *ino,
            target: JsonName::new(target),
        },
        Event::XattrSet { ino, name, value } => LogEvent::Setxattr {
            ino: *ino,
            size: value.len(),
            name: JsonName::new(name),
        },
        Event::XattrRemove { ino, name } => LogEvent::Removexattr {
            ino: *ino,
            name: JsonName::new(name),
        },
        Event::Write {
            ino,
            offset,
            length,
            ..
        } => LogEvent::Write {
            ino: *ino,
            offset: *offset,
            length: *length,
        },
        Event::Spill { ino, file } => LogEvent::Spill {
            ino: *ino,
            file: *file,
        },
        Event::Truncate { ino, size } => LogEvent::Truncate {
            ino: *ino,
            size: *size,
        },
        Event::Hole { ino, from, to } => LogEvent::Hole {
            ino: *ino,
            from: *from,
            to: *to,
        },
        Event::Cut { number } => LogEvent::Cut { snapshot: *number },
        Event::Epoch { epoch } => LogEvent::Epoch { epoch: *epoch },
        Event::SyncMark { .. } => return None,
    })
}
