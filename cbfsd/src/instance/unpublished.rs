//! What a master has that no complete snapshot has: told and saved when it was superseded. The answers are those of a
//! fenced instance, in which nothing changes any more.

use super::Instance;
use crate::kvs::KvsFile;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_core::layers::{Layer, Stack};
use cbfs_core::names::JsonName;
use cbfs_core::tarball::{END_OF_ARCHIVE, Member, MemberKind, padding};
use cbfs_fuse::{Patience, Refusal};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::sync::Arc;

/// The member that lists what was removed: JSON lines.
const REMOVED: &[u8] = b".cbfs/removed.jsonl";

/// Bytes read of a file at once.
const PIECE: u32 = 1 << 20;

/// A directory this deep is in a cycle.
const DEEPEST: usize = 4096;

/// Changes since the last complete snapshot, by path.
#[derive(Debug, Default)]
pub struct Unpublished {
    /// Created or changed, with its inode; parents before what is in them. Directories only where they are new.
    pub changed: BTreeMap<Vec<u8>, Ino>,
    /// Names that the last complete snapshot has and this instance has not.
    pub removed: BTreeSet<Vec<u8>>,
}

/// A line of [`REMOVED`].
#[derive(Serialize)]
struct Removed {
    path: JsonName,
}

impl Instance {
    /// What came after transaction `published`. Cost: the rows that changed.
    pub fn unpublished(&self, published: Xid) -> Result<Unpublished> {
        self.flush()?;
        let files = self.kvs().files();
        let (mut new, mut old): (Vec<Arc<KvsFile>>, Vec<Arc<dyn Layer>>) = (Vec::new(), Vec::new());
        new.extend(files.active.iter().cloned());
        for frozen in &files.frozen {
            if frozen.cut > published {
                new.push(Arc::clone(&frozen.file));
            } else {
                old.push(Arc::clone(&frozen.file) as Arc<dyn Layer>);
            }
        }
        old.extend(files.main.iter().map(|f| Arc::clone(f) as Arc<dyn Layer>));
        old.extend(files.base.iter().map(|s| Arc::clone(s) as Arc<dyn Layer>));
        let before = Stack::new(old, self.kvs().block_size());
        let now = &files.stack;
        let mut inodes = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for file in &new {
            inodes.extend(file.inodes()?);
            gone.extend(file.removed_names()?);
        }
        let mut found = Unpublished::default();
        let (mut paths_now, mut paths_before) = (Paths::of(now), Paths::of(&before));
        for ino in inodes {
            let Some(row) = now.inode(ino)?.filter(|row| !row.gone) else {
                continue;
            };
            let names = now.names_of(ino)?;
            let names = names.into_iter().filter(|d| d.ino == Some(ino));
            let mut paths = Vec::new();
            for name in names {
                if let Some(path) = paths_now.path(name.parent, &name.name)? {
                    paths.push((name, path));
                }
            }
            if row.kind == FileKind::Directory {
                // One in which names came and went is no change to save.
                let old = before.inode(ino)?.filter(|old| !old.gone);
                let same =
                    |old: &InodeRow| (old.mode, old.uid, old.gid) == (row.mode, row.uid, row.gid);
                let mut there = false;
                for (name, _) in &paths {
                    let was = before.dentry(name.parent, &name.name)?.and_then(|d| d.ino);
                    there |= was == Some(ino);
                }
                if there && old.as_ref().is_some_and(same) {
                    continue;
                }
            }
            found
                .changed
                .extend(paths.into_iter().map(|(_, path)| (path, ino)));
        }
        for (parent, name) in gone {
            let is = now.dentry(parent, &name)?.and_then(|d| d.ino);
            let was = before.dentry(parent, &name)?.and_then(|d| d.ino);
            if is.is_none()
                && was.is_some()
                && let Some(path) = paths_before.path(parent, &name)?
            {
                found.removed.insert(path);
            }
        }
        Ok(found)
    }

    /// Write them as a pax tar: what changed under its path, and [`REMOVED`]. May wait for the bucket.
    pub fn export_unpublished(&self, what: &Unpublished, out: &mut dyn Write) -> Result<()> {
        let unwritable = || "the tar could not be written".to_owned();
        let mut first: HashMap<Ino, &[u8]> = HashMap::new();
        for (path, ino) in &what.changed {
            let row = self.kvs().read(|tables| tables.inode_row(*ino))?.row;
            let xattrs = self.kvs().read(|tables| tables.xattrs(*ino))?;
            let xattrs: Vec<(Vec<u8>, Vec<u8>)> = xattrs
                .into_iter()
                .map(|(name, value)| (name, value.to_vec()))
                .collect();
            let mut path = path.clone();
            let target;
            let kind = match row.kind {
                FileKind::Socket => continue, // tar has none
                FileKind::Directory => {
                    path.push(b'/');
                    MemberKind::Directory
                }
                FileKind::Symlink => {
                    target = self.kvs().read(|tables| tables.link(*ino))?;
                    MemberKind::Symlink(&target)
                }
                FileKind::Fifo => MemberKind::Fifo,
                FileKind::CharDevice => MemberKind::CharDevice(row.rdev),
                FileKind::BlockDevice => MemberKind::BlockDevice(row.rdev),
                FileKind::File => match first.get(ino) {
                    Some(first) => MemberKind::HardLink(first),
                    None => MemberKind::File { size: row.size },
                },
            };
            let has_contents = matches!(kind, MemberKind::File { .. });
            write_member(out, &row, &path, kind, &xattrs).context(unwritable)?;
            if has_contents {
                self.export_contents(&row, out)?;
            }
            if row.kind == FileKind::File
                && let Some((path, _)) = what.changed.get_key_value(path.as_slice())
            {
                first.entry(*ino).or_insert(path);
            }
        }
        let mut removed = Vec::new();
        for path in &what.removed {
            let line = Removed {
                path: JsonName::new(path),
            };
            serde_json::to_writer(&mut removed, &line).context(unwritable)?;
            removed.push(b'\n');
        }
        let row = InodeRow {
            kind: FileKind::File,
            mode: 0o644,
            size: removed.len() as u64,
            ..InodeRow::tombstone(Ino(0), Xid(0))
        };
        let kind = MemberKind::File { size: row.size };
        write_member(out, &row, REMOVED, kind, &[]).context(unwritable)?;
        out.write_all(&removed).context(unwritable)?;
        out.write_all(&vec![0; padding(row.size)])
            .context(unwritable)?;
        out.write_all(&END_OF_ARCHIVE)
            .and_then(|()| out.flush())
            .context(unwritable)
    }

    fn export_contents(&self, row: &InodeRow, out: &mut dyn Write) -> Result<()> {
        let unwritable = || "the tar could not be written".to_owned();
        let mut at = 0;
        while at < row.size {
            let bytes = self.op_read(Patience::MayWait, row.ino, at, PIECE);
            let bytes = bytes.map_err(|refusal| {
                let errno = match refusal {
                    Refusal::Errno(errno) => errno.0,
                    Refusal::MustWait => 0,
                };
                Error::failed(format!(
                    "inode {} could not be read (errno {errno})",
                    row.ino
                ))
                .hint("the daemon's log says why")
            })?;
            if bytes.is_empty() {
                return Err(Error::damage(format!(
                    "inode {} is shorter than its size",
                    row.ino
                )));
            }
            out.write_all(&bytes).context(unwritable)?;
            at += bytes.len() as u64;
        }
        out.write_all(&vec![0; padding(row.size)])
            .context(unwritable)
    }
}

fn write_member(
    out: &mut dyn Write,
    row: &InodeRow,
    path: &[u8],
    kind: MemberKind<'_>,
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> std::io::Result<()> {
    let mut headers = Vec::new();
    Member {
        path,
        kind,
        mode: row.mode,
        uid: row.uid,
        gid: row.gid,
        mtime: row.mtime,
        atime: row.atime,
        ctime: row.ctime,
        ino: row.ino,
        xid: None,
        blk: None,
        xattrs,
    }
    .encode(&mut headers);
    out.write_all(&headers)
}

/// Paths of directories in a stack, each climbed once.
struct Paths<'a> {
    stack: &'a Stack,
    known: HashMap<Ino, Option<Vec<u8>>>,
}

impl<'a> Paths<'a> {
    fn of(stack: &'a Stack) -> Paths<'a> {
        Paths {
            stack,
            known: HashMap::from([(Ino::ROOT, Some(Vec::new()))]),
        }
    }

    /// The path of a name; `None` when its directory has none.
    fn path(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let directory = self.directory(parent, 0)?;
        Ok(directory.map(|directory| [directory.as_slice(), name].concat()))
    }

    /// With a final `/`, but for the root.
    fn directory(&mut self, ino: Ino, depth: usize) -> Result<Option<Vec<u8>>> {
        if let Some(known) = self.known.get(&ino) {
            return Ok(known.clone());
        }
        if depth > DEEPEST {
            return Err(Error::damage(format!(
                "directory {ino} is not below the root"
            )));
        }
        let names = self.stack.names_of(ino)?;
        let path = match names.into_iter().find(|d| d.ino == Some(ino)) {
            Some(name) => self
                .directory(name.parent, depth + 1)?
                .map(|above| [above.as_slice(), &name.name, b"/"].concat()),
            None => None,
        };
        self.known.insert(ino, path.clone());
        Ok(path)
    }
}
