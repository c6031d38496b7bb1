//! `log.jsonl.zst`: the change log of a snapshot, from the journal. One JSON object a line:
//! `{"xid":…,"time":"RFC 3339","events":[{"create":{…}}, …]}`; names that are not UTF-8 as
//! `name_hex`; contents of writes are left out.

use crate::journal::{Event, Record, read_range};
use cbfs_core::error::{Context, Result};
use cbfs_core::format::ObjectRef;
use cbfs_core::format::manifest::XidRange;
use cbfs_core::inode::InodeRow;
use cbfs_core::names::JsonName;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Write the records of `range` to `path` and answer the object `key`.
pub fn write(journal: &Path, range: XidRange, path: &Path, key: String, level: i32) -> Result<ObjectRef> {
    let describe = || format!("the change log {} could not be written", path.display());
    let file = File::create(path).context(describe)?;
    let mut out = zstd::Encoder::new(BufWriter::new(file), level).context(describe)?;
    read_range(journal, range.from, range.to, |record| {
        let mut line = serde_json::to_vec(&record_json(&record)).context(describe)?;
        line.push(b'\n');
        out.write_all(&line).context(describe)
    })?;
    let file = out.finish().and_then(|b| b.into_inner().map_err(|e| e.into_error()));
    file.and_then(|f| f.sync_all()).context(describe)?;
    let made = File::open(path).context(describe)?;
    Ok(cbfs_core::frames::StoredObject::of(made).context(describe)?.at(key))
}

/// A record as people read it.
pub fn record_json(record: &Record) -> Value {
    json!({
        "xid": record.xid,
        "time": record.time.to_rfc3339(),
        "events": record.events.iter().map(event_json).collect::<Vec<_>>(),
    })
}

fn named(mut object: Value, name: &[u8]) -> Value {
    let name = JsonName::new(name);
    if let Value::Object(map) = &mut object {
        if let Some(text) = name.name {
            map.insert("name".into(), text.into());
        }
        if let Some(hex) = name.name_hex {
            map.insert("name_hex".into(), hex.into());
        }
    }
    object
}

fn attributes(row: &InodeRow) -> Value {
    json!({
        "ino": row.ino, "kind": row.kind, "mode": row.mode, "uid": row.uid, "gid": row.gid,
        "nlink": row.nlink, "size": row.size, "mtime": row.mtime.to_rfc3339(),
    })
}

fn event_json(event: &Event) -> Value {
    match event {
        Event::InodeCreate(row) => json!({ "create": attributes(row) }),
        Event::InodeUpdate(row) => json!({ "update": attributes(row) }),
        Event::InodeDestroy { ino } => json!({ "destroy": { "ino": ino } }),
        Event::DentryLink { parent, name, ino, kind } => {
            json!({ "link": named(json!({ "parent": parent, "ino": ino, "kind": kind }), name) })
        }
        Event::DentryUnlink { parent, name, kind } => {
            json!({ "unlink": named(json!({ "parent": parent, "kind": kind }), name) })
        }
        Event::Rename { ino, from_parent, from_name, to_parent, to_name } => json!({ "rename": {
            "ino": ino,
            "from": named(json!({ "parent": from_parent }), from_name),
            "to": named(json!({ "parent": to_parent }), to_name),
        } }),
        Event::SymlinkTarget { ino, target } => {
            json!({ "target": named(json!({ "ino": ino }), target) })
        }
        Event::XattrSet { ino, name, value } => {
            json!({ "setxattr": named(json!({ "ino": ino, "size": value.len() }), name) })
        }
        Event::XattrRemove { ino, name } => {
            json!({ "removexattr": named(json!({ "ino": ino }), name) })
        }
        Event::Write { ino, offset, length, .. } => {
            json!({ "write": { "ino": ino, "offset": offset, "length": length } })
        }
        Event::Spill { ino, file } => json!({ "spill": { "ino": ino, "file": file } }),
        Event::Truncate { ino, size } => json!({ "truncate": { "ino": ino, "size": size } }),
        Event::Hole { ino, from, to } => json!({ "hole": { "ino": ino, "from": from, "to": to } }),
        Event::Cut { number } => json!({ "cut": { "snapshot": number } }),
        Event::Epoch { epoch } => json!({ "epoch": { "epoch": epoch } }),
        Event::SyncMark { .. } => Value::Null,
    }
}
