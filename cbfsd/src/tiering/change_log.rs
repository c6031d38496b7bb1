//! `log.jsonl.zst`: the change log of a snapshot, from the journal. One JSON object a line:
//! `{"xid":…,"time":"RFC 3339","events":[{"create":{…}}, …]}`; names that are not UTF-8 as
//! `name_hex`; contents of writes are left out.

use crate::journal::{Event, Record, read_range};
use cbfs_core::error::{Context, Result};
use cbfs_core::format::ObjectRef;
use cbfs_core::format::manifest::XidRange;
use cbfs_core::ids::{Epoch, Ino, SnapshotNumber, Xid};
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_core::names::JsonName;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Write the records of `range` to `path` (compressed, fsynced) and answer the object `key`.
pub fn write(
    journal: &Path,
    range: XidRange,
    path: &Path,
    key: String,
    level: i32,
) -> Result<ObjectRef> {
    let describe = || format!("the change log {} could not be written", path.display());
    let file = File::create(path).context(describe)?;
    let mut out = zstd::Encoder::new(BufWriter::new(file), level).context(describe)?;
    let mut line = Vec::new();
    read_range(journal, range.from, range.to, |record| {
        line.clear();
        serde_json::to_writer(&mut line, &LogRecord::of(&record)).context(describe)?;
        line.push(b'\n');
        out.write_all(&line).context(describe)
    })?;
    let file = out
        .finish()
        .and_then(|b| b.into_inner().map_err(|e| e.into_error()));
    file.and_then(|f| f.sync_all()).context(describe)?;
    let made = File::open(path).context(describe)?;
    Ok(cbfs_core::frames::StoredObject::of(made)
        .context(describe)?
        .at(key))
}

/// A record as people read it.
#[derive(Debug, Serialize)]
pub struct LogRecord {
    xid: Xid,
    time: String,
    events: Vec<LogEvent>,
}

impl LogRecord {
    /// Translate a record of the journal.
    pub fn of(record: &Record) -> LogRecord {
        LogRecord {
            xid: record.xid,
            time: record.time.to_rfc3339(),
            events: record.events.iter().filter_map(LogEvent::of).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Attributes {
    ino: Ino,
    kind: FileKind,
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: String,
}

impl Attributes {
    fn of(row: &InodeRow) -> Attributes {
        Attributes {
            ino: row.ino,
            kind: row.kind,
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            nlink: row.nlink,
            size: row.size,
            mtime: row.mtime.to_rfc3339(),
        }
    }
}

/// A name and the directory it stands in.
#[derive(Debug, Serialize)]
struct Place {
    parent: Ino,
    #[serde(flatten)]
    name: JsonName,
}

impl Place {
    fn of(parent: Ino, name: &[u8]) -> Place {
        Place {
            parent,
            name: JsonName::new(name),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum LogEvent {
    Create(Attributes),
    Update(Attributes),
    Destroy {
        ino: Ino,
    },
    Link {
        ino: Ino,
        kind: FileKind,
        #[serde(flatten)]
        at: Place,
    },
    Unlink {
        kind: FileKind,
        #[serde(flatten)]
        at: Place,
    },
    Rename {
        ino: Ino,
        from: Place,
        to: Place,
    },
    Target {
        ino: Ino,
        #[serde(flatten)]
        target: JsonName,
    },
    Setxattr {
        ino: Ino,
        size: usize,
        #[serde(flatten)]
        name: JsonName,
    },
    Removexattr {
        ino: Ino,
        #[serde(flatten)]
        name: JsonName,
    },
    Write {
        ino: Ino,
        offset: u64,
        length: u64,
    },
    Spill {
        ino: Ino,
        file: u64,
    },
    Truncate {
        ino: Ino,
        size: u64,
    },
    Hole {
        ino: Ino,
        from: u64,
        to: u64,
    },
    Cut {
        snapshot: SnapshotNumber,
    },
    Epoch {
        epoch: Epoch,
    },
}

impl LogEvent {
    fn of(event: &Event) -> Option<LogEvent> {
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
}
