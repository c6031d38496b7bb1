//! The change log as people read it: records of the published logs, with path names.
//!
//! Records name inodes and directories by number. [`PathTracker`] starts from a snapshot's names and
//! follows what the records do to them, so each path is the one at that moment: whoever wants the
//! paths of a range has to give it all records from the end of that snapshot on.

use crate::cloud_snapshot::Scratch;
use crate::error::{Context, Error, Result};
use crate::format::log::{LogEvent, LogRecord, Place};
use crate::format::manifest::Manifest;
use crate::ids::{Ino, Xid};
use crate::layers::Layer;
use crate::layers::paths::join;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};

/// No path has more directories than this: a deeper one is a loop.
const MAX_DEPTH: usize = 1 << 16;

/// Call `each` with the records of a snapshot's log, in order; a snapshot in which nothing changed
/// has none.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] names the object, and the line that is no record; those of the bucket
/// and of `each`.
pub fn read_log(
    bucket: &dyn crate::bucket::Bucket,
    manifest: &Manifest,
    scratch: &Scratch,
    mut each: impl FnMut(LogRecord) -> Result<()>,
) -> Result<()> {
    let Some(object) = &manifest.log else {
        return Ok(());
    };
    let path = scratch.database(bucket, &manifest.fs, object)?;
    let unreadable = || format!("{} could not be read", path.display());
    let lines = BufReader::new(File::open(&path).context(unreadable)?).split(b'\n');
    for (line, number) in lines.zip(1u64..) {
        let record = parse_line(&line.context(unreadable)?)
            .map_err(|e| e.context(format!("line {number} of object {} is damaged", object.key)))?;
        each(record)?;
    }
    Ok(())
}

/// One line of a log.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when it is no record.
pub fn parse_line(line: &[u8]) -> Result<LogRecord> {
    serde_json::from_slice(line)
        .map_err(|e| Error::damage("a line of the change log is no record").because(e))
}

/// A record with the paths of what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The record.
    pub record: LogRecord,
    /// For each of its events what it is about.
    pub paths: Vec<EventPaths>,
}

/// Paths of an event: relative, the root's is empty; `None` where it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPaths {
    /// The file; of a rename its old path. One of several where it has several names.
    pub path: Option<Vec<u8>>,
    /// The new path of a rename.
    pub to: Option<Vec<u8>>,
}

impl EventPaths {
    /// Whether it is about `wanted` or anything below it.
    pub fn concern(&self, wanted: &[u8]) -> bool {
        let below = |path: &Vec<u8>| {
            let rest = path.strip_prefix(wanted);
            wanted.is_empty() || rest.is_some_and(|rest| rest.first().is_none_or(|b| *b == b'/'))
        };
        self.path.iter().chain(&self.to).any(below)
    }
}

/// A name of an inode.
type Name = (Ino, Vec<u8>);

/// Follows names through records.
pub struct PathTracker<'a> {
    base: Option<&'a dyn Layer>,
    /// What the names that changed mean now.
    changed: HashMap<Name, Option<Ino>>,
    /// The names of inodes that were asked for.
    names: HashMap<Ino, BTreeSet<Name>>,
    /// The last path of inodes that lost their last name.
    lost: HashMap<Ino, Vec<u8>>,
}

impl std::fmt::Debug for PathTracker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PathTracker").finish_non_exhaustive()
    }
}

impl<'a> PathTracker<'a> {
    /// Start from the names in `base`; from an empty file system without one.
    pub fn new(base: Option<&'a dyn Layer>) -> PathTracker<'a> {
        PathTracker {
            base,
            changed: HashMap::new(),
            names: HashMap::new(),
            lost: HashMap::new(),
        }
    }

    /// Follow the next record, and find its paths.
    ///
    /// # Errors
    /// Those of the base.
    pub fn follow(&mut self, record: LogRecord) -> Result<Resolved> {
        let mut paths = Vec::with_capacity(record.events.len());
        for event in &record.events {
            paths.push(self.event(event)?);
        }
        // What was made in this record had no name before it.
        for (event, found) in record.events.iter().zip(&mut paths) {
            if let (None, Some(ino)) = (&found.path, inode_of(event)) {
                found.path = self.path(ino)?;
            }
        }
        Ok(Resolved { record, paths })
    }

    fn event(&mut self, event: &LogEvent) -> Result<EventPaths> {
        let mut found = EventPaths::default();
        match event {
            LogEvent::Link { ino, at, .. } => {
                let Some(name) = name_of(at) else {
                    return Ok(found);
                };
                self.add(*ino, name.clone())?;
                found.path = self.path_of(&name)?;
            }
            LogEvent::Unlink { at, .. } => {
                let Some(name) = name_of(at) else {
                    return Ok(found);
                };
                found.path = self.path_of(&name)?;
                self.remove(&name)?;
            }
            LogEvent::Rename { ino, from, to } => {
                let (Some(from), Some(to)) = (name_of(from), name_of(to)) else {
                    return Ok(found);
                };
                found.path = self.path_of(&from)?;
                if self.means(&from)? == Some(*ino) {
                    self.remove(&from)?;
                }
                self.add(*ino, to.clone())?;
                found.to = self.path_of(&to)?;
            }
            other => {
                if let Some(ino) = inode_of(other) {
                    found.path = self.path(ino)?;
                }
            }
        }
        Ok(found)
    }

    /// What a name means now.
    fn means(&self, name: &Name) -> Result<Option<Ino>> {
        if let Some(ino) = self.changed.get(name) {
            return Ok(*ino);
        }
        match self.base {
            Some(base) => Ok(base.dentry(name.0, &name.1)?.and_then(|row| row.ino)),
            None => Ok(None),
        }
    }

    fn names(&mut self, ino: Ino) -> Result<&mut BTreeSet<Name>> {
        if !self.names.contains_key(&ino) {
            let mut found = BTreeSet::new();
            if let Some(base) = self.base {
                let rows = base.names_of(ino)?.into_iter();
                let rows = rows.filter(|row| row.ino == Some(ino));
                found.extend(rows.map(|row| (row.parent, row.name)));
                found.retain(|name| !self.changed.contains_key(name));
            }
            self.names.insert(ino, found);
        }
        Ok(self.names.entry(ino).or_default())
    }

    fn add(&mut self, ino: Ino, name: Name) -> Result<()> {
        self.remove(&name)?; // what it replaces
        self.names(ino)?.insert(name.clone());
        self.lost.remove(&ino);
        self.changed.insert(name, Some(ino));
        Ok(())
    }

    fn remove(&mut self, name: &Name) -> Result<()> {
        if let Some(ino) = self.means(name)? {
            let path = self.path_of(name)?;
            let names = self.names(ino)?;
            names.remove(name);
            if let (true, Some(path)) = (names.is_empty(), path) {
                self.lost.insert(ino, path);
            }
        }
        self.changed.insert(name.clone(), None);
        Ok(())
    }

    /// A path of an inode, or the last one it had.
    fn path(&mut self, ino: Ino) -> Result<Option<Vec<u8>>> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut at = ino;
        let mut path = loop {
            if at == Ino::ROOT {
                break Vec::new();
            }
            if let Some(name) = self.names(at)?.first().cloned() {
                parts.push(name.1);
                at = name.0;
            } else {
                match self.lost.get(&at) {
                    Some(path) => break path.clone(),
                    None => return Ok(None),
                }
            }
            if parts.len() > MAX_DEPTH {
                let text = format!("inode {ino} is not below the root");
                return Err(Error::damage(text));
            }
        };
        for part in parts.into_iter().rev() {
            path = join(&path, &part);
        }
        Ok(Some(path))
    }

    fn path_of(&mut self, (parent, name): &Name) -> Result<Option<Vec<u8>>> {
        Ok(self.path(*parent)?.map(|path| join(&path, name)))
    }
}

fn name_of(place: &Place) -> Option<Name> {
    Some((place.parent, place.name.bytes()?))
}

/// The inode an event is about.
pub fn inode_of(event: &LogEvent) -> Option<Ino> {
    match event {
        LogEvent::Create(row) | LogEvent::Update(row) => Some(row.ino),
        LogEvent::Destroy { ino }
        | LogEvent::Link { ino, .. }
        | LogEvent::Rename { ino, .. }
        | LogEvent::Target { ino, .. }
        | LogEvent::Setxattr { ino, .. }
        | LogEvent::Removexattr { ino, .. }
        | LogEvent::Write { ino, .. }
        | LogEvent::Spill { ino, .. }
        | LogEvent::Truncate { ino, .. }
        | LogEvent::Hole { ino, .. } => Some(*ino),
        LogEvent::Unlink { .. } | LogEvent::Cut { .. } | LogEvent::Epoch { .. } => None,
    }
}

/// The manifests whose logs have transactions from `from` to `to` (both included), oldest first.
pub fn covering(manifests: Vec<Manifest>, from: Xid, to: Xid) -> Vec<Manifest> {
    let mut found = manifests;
    found.retain(|m| m.xid.from <= to && m.xid.to >= from);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SnapshotNumber;
    use crate::inode::FileKind;
    use crate::layers::{DentryRow, LayerDb, rows};
    use crate::names::name_hash;

    fn record(xid: u64, events: Vec<LogEvent>) -> LogRecord {
        let time = String::new();
        LogRecord {
            xid: Xid(xid),
            time,
            events,
        }
    }

    fn link(ino: u64, parent: u64, name: &[u8]) -> LogEvent {
        LogEvent::Link {
            ino: Ino(ino),
            kind: FileKind::File,
            at: Place::of(Ino(parent), name),
        }
    }

    fn unlink(parent: u64, name: &[u8]) -> LogEvent {
        LogEvent::Unlink {
            kind: FileKind::File,
            at: Place::of(Ino(parent), name),
        }
    }

    fn rename(ino: u64, from: (u64, &[u8]), to: (u64, &[u8])) -> LogEvent {
        LogEvent::Rename {
            ino: Ino(ino),
            from: Place::of(Ino(from.0), from.1),
            to: Place::of(Ino(to.0), to.1),
        }
    }

    fn write(ino: u64) -> LogEvent {
        LogEvent::Write {
            ino: Ino(ino),
            offset: 0,
            length: 1,
        }
    }

    #[test]
    fn paths_are_those_of_the_moment() {
        let base = LayerDb::in_memory();
        let name = |parent: u64, name: &[u8], ino: u64| DentryRow {
            parent: Ino(parent),
            hash: name_hash(name),
            name: name.to_vec(),
            ino: Some(Ino(ino)),
            kind: FileKind::File,
            xid: Xid(1),
        };
        base.with(|conn| {
            rows::put_dentry(conn, &name(1, b"d", 2))?;
            rows::put_dentry(conn, &name(2, b"old", 3))
        })
        .unwrap();
        let mut tracker = PathTracker::new(Some(&base));
        let mut told = |events: Vec<LogEvent>| -> Vec<String> {
            let resolved = tracker.follow(record(1, events)).unwrap();
            let text = |path: Option<Vec<u8>>| path.map(|p| String::from_utf8(p).unwrap());
            let paths = resolved.paths.into_iter();
            paths
                .map(|p| match (text(p.path), text(p.to)) {
                    (Some(from), Some(to)) => format!("{from}>{to}"),
                    (path, _) => path.unwrap_or("?".into()),
                })
                .collect()
        };
        assert_eq!(told(vec![write(3)]), ["d/old"]);
        // What is made in a record is named by it.
        assert_eq!(told(vec![write(4), link(4, 2, b"new")]), ["d/new", "d/new"]);
        assert_eq!(told(vec![rename(2, (1, b"d"), (1, b"e"))]), ["d>e"]);
        assert_eq!(told(vec![write(3), write(4)]), ["e/old", "e/new"]);
        // One replaces the other, which is known by its last path until it ends.
        let events = vec![rename(4, (2, b"new"), (2, b"old")), write(4)];
        assert_eq!(told(events), ["e/new>e/old", "e/old"]);
        let events = vec![write(3), LogEvent::Destroy { ino: Ino(3) }];
        assert_eq!(told(events), ["e/old", "e/old"]);
        assert_eq!(told(vec![unlink(2, b"old"), write(4)]), ["e/old", "e/old"]);
        assert_eq!(told(vec![write(99)]), ["?"]);
        let number = SnapshotNumber(1);
        assert_eq!(told(vec![LogEvent::Cut { snapshot: number }]), ["?"]);
    }

    #[test]
    fn two_files_that_change_places_keep_their_paths_apart() {
        let mut tracker = PathTracker::new(None);
        let made = vec![link(5, 1, b"a"), link(6, 1, b"b")];
        tracker.follow(record(1, made)).unwrap();
        let exchange = vec![
            rename(5, (1, b"a"), (1, b"b")),
            rename(6, (1, b"b"), (1, b"a")),
        ];
        tracker.follow(record(2, exchange)).unwrap();
        let resolved = tracker.follow(record(3, vec![write(5), write(6)])).unwrap();
        let paths: Vec<_> = resolved
            .paths
            .into_iter()
            .map(|p| p.path.unwrap())
            .collect();
        assert_eq!(paths, [b"b", b"a"]);
    }

    #[test]
    fn a_path_concerns_itself_and_what_lies_below() {
        let paths = |path: &[u8]| EventPaths {
            path: Some(path.to_vec()),
            to: None,
        };
        assert!(paths(b"a/b").concern(b"a"));
        assert!(paths(b"a").concern(b"a"));
        assert!(paths(b"x").concern(b""));
        assert!(!paths(b"ab").concern(b"a"));
        assert!(!EventPaths::default().concern(b"a"));
    }
}
