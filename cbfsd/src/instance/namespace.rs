//! Operations on names: lookup, creation, removal, links, renames.

use super::acl::{self, Acl};
use super::commit::{Decision, Stop};
use super::{Instance, RESERVED_NAME};
use crate::journal::Event;
use crate::kvs::{Dentry, Inode, name_key};
use cbfs_core::ids::Ino;
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_core::names::NAME_MAX;
use cbfs_fuse::{Attributes, Caller, Errno, OpResult, Reparented};

/// `RENAME_NOREPLACE` and `RENAME_EXCHANGE` of renameat2(2).
const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

const SGID: u16 = 0o2000;

/// A place for a name.
type Place<'a> = (Ino, &'a [u8]);

/// What a new inode is to be.
pub(super) struct NewInode<'a> {
    pub kind: FileKind,
    /// Permission bits asked for.
    pub mode: u16,
    pub umask: u16,
    pub rdev: u32,
    pub target: Option<&'a [u8]>,
}

impl Decision<'_> {
    /// A live inode.
    pub(super) fn live(&self, ino: Ino) -> Result<Inode, Stop> {
        let inode = self.tables.inode_row(ino)?;
        if inode.row.gone {
            Err(Errno::ENOENT.into())
        } else {
            Ok(inode)
        }
    }

    /// A directory in which names can be made and removed.
    fn directory(&self, ino: Ino) -> Result<InodeRow, Stop> {
        let row = self.live(ino)?.row;
        if row.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        if row.nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        Ok(row)
    }

    fn name(&self, (parent, name): Place<'_>) -> Result<Option<Dentry>, Stop> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        Ok(self.tables.dentry(parent, &name_key(name))?)
    }

    fn existing(&self, at: Place<'_>) -> Result<(Ino, FileKind), Stop> {
        match self.name(at)? {
            Some(Dentry {
                ino: Some(ino),
                kind,
                ..
            }) => Ok((ino, kind)),
            _ => Err(Errno::ENOENT.into()),
        }
    }

    /// A name under which something new may appear.
    fn free_name(&self, at: Place<'_>) -> Result<(), Stop> {
        if at.0 == Ino::ROOT && at.1 == RESERVED_NAME {
            return Err(Errno::EPERM.into());
        }
        if self.name(at)?.is_some() {
            Err(Errno::EEXIST.into())
        } else {
            Ok(())
        }
    }

    fn link_event(&mut self, at: Place<'_>, ino: Ino, kind: FileKind) {
        self.events.push(Event::DentryLink {
            parent: at.0,
            name: at.1.to_vec(),
            ino,
            kind,
        });
    }

    fn unlink_event(&mut self, at: Place<'_>, kind: FileKind) {
        self.events.push(Event::DentryUnlink {
            parent: at.0,
            name: at.1.to_vec(),
            kind,
        });
    }

    /// A directory's row after names were added (or removed): its size counts them, its link count
    /// its subdirectories.
    fn parent_event(&mut self, mut row: InodeRow, names: i64, directories: i64) {
        row.size = row.size.saturating_add_signed(names);
        row.nlink = i64::from(row.nlink)
            .saturating_add(directories)
            .clamp(0, u32::MAX.into()) as u32;
        row.mtime = self.time;
        row.ctime = self.time;
        self.events.push(Event::InodeUpdate(row));
    }

    /// An inode that lost a name.
    fn lost_name(&mut self, ino: Ino) -> Result<(), Stop> {
        let mut row = self.live(ino)?.row;
        row.nlink = if row.kind == FileKind::Directory {
            0
        } else {
            row.nlink.saturating_sub(1)
        };
        row.ctime = self.time;
        self.events.push(Event::InodeUpdate(row));
        Ok(())
    }
}

fn as_subdirectory(kind: FileKind) -> i64 {
    i64::from(kind == FileKind::Directory)
}

impl Instance {
    /// The inode a name stands for; counts a kernel lookup.
    pub(super) fn op_lookup(&self, parent: Ino, name: &[u8]) -> OpResult<Attributes> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let key = name_key(name);
        let found = self.read(|tables| match tables.dentry(parent, &key)? {
            Some(Dentry { ino: Some(ino), .. }) => Ok(Some(tables.inode_row(ino)?)),
            _ => Ok(None),
        })?;
        match found {
            Some(inode) if !inode.row.gone => {
                self.count_lookup(inode.row.ino);
                self.attributes(&inode)
            }
            Some(inode) => {
                tracing::error!(instance = %self.id, ino = %inode.row.ino, "a name of a dead inode");
                Err(Errno::EIO.into())
            }
            None => Err(Errno::ENOENT.into()),
        }
    }

    /// Create an inode under a new name; counts a kernel lookup.
    pub(super) fn op_create(
        &self,
        caller: Caller,
        at: Place<'_>,
        new: &NewInode<'_>,
    ) -> OpResult<Attributes> {
        let (inode, _) = self.commit(|d| {
            let parent = d.directory(at.0)?;
            d.free_name(at)?;
            let inherited = d.tables.xattr(at.0, acl::DEFAULT)?;
            let ino = d.tables.next_ino;
            let mut mode = new.mode & 0o7777;
            let mut access = None;
            match inherited.as_deref().and_then(Acl::parse) {
                Some(default) if new.kind != FileKind::Symlink => {
                    (mode, access) = default.inherit(mode);
                }
                _ => mode &= !new.umask,
            }
            let gid = if parent.mode & SGID != 0 {
                if new.kind == FileKind::Directory {
                    mode |= SGID;
                }
                parent.gid
            } else {
                caller.gid
            };
            let row = InodeRow {
                ino,
                kind: new.kind,
                mode,
                uid: caller.uid,
                gid,
                nlink: if new.kind == FileKind::Directory {
                    2
                } else {
                    1
                },
                size: new.target.map_or(0, |t| t.len() as u64),
                rdev: new.rdev,
                atime: d.time,
                mtime: d.time,
                ctime: d.time,
                btime: d.time,
                gone: false,
                ..InodeRow::tombstone(ino, d.tables.xid.next())
            };
            d.events.push(Event::InodeCreate(row));
            if let Some(target) = new.target {
                d.events.push(Event::SymlinkTarget {
                    ino,
                    target: target.to_vec(),
                });
            }
            if let Some(access) = access {
                let (name, value) = (acl::ACCESS.to_vec(), access.to_bytes());
                d.events.push(Event::XattrSet { ino, name, value });
            }
            if let (Some(default), FileKind::Directory) = (&inherited, new.kind) {
                let (name, value) = (acl::DEFAULT.to_vec(), default.to_vec());
                d.events.push(Event::XattrSet { ino, name, value });
            }
            d.link_event(at, ino, new.kind);
            d.parent_event(parent, 1, as_subdirectory(new.kind));
            Ok(Inode { row, file: 0 })
        })?;
        self.count_lookup(inode.row.ino);
        self.attributes(&inode)
    }

    /// Another name for an inode; counts a kernel lookup.
    pub(super) fn op_link(&self, ino: Ino, at: Place<'_>) -> OpResult<Attributes> {
        let (inode, _) = self.commit(|d| {
            let parent = d.directory(at.0)?;
            let mut inode = d.live(ino)?;
            if inode.row.kind == FileKind::Directory {
                return Err(Errno::EPERM.into());
            }
            // A file without a name is not in snapshots: it cannot come back.
            if inode.row.nlink == 0 {
                return Err(Errno::ENOENT.into());
            }
            d.free_name(at)?;
            inode.row.nlink = inode.row.nlink.checked_add(1).ok_or(Errno::EMLINK)?;
            inode.row.ctime = d.time;
            d.events.push(Event::InodeUpdate(inode.row));
            d.link_event(at, ino, inode.row.kind);
            d.parent_event(parent, 1, 0);
            Ok(inode)
        })?;
        self.count_lookup(ino);
        self.attributes(&inode)
    }

    /// Remove a name of anything but a directory.
    pub(super) fn op_unlink(&self, at: Place<'_>) -> OpResult<()> {
        let (ino, _) = self.commit(|d| {
            let parent = d.directory(at.0)?;
            let (ino, kind) = d.existing(at)?;
            if kind == FileKind::Directory {
                return Err(Errno::EISDIR.into());
            }
            d.unlink_event(at, kind);
            d.lost_name(ino)?;
            d.parent_event(parent, -1, 0);
            Ok(ino)
        })?;
        self.destroy_if_unused(ino);
        Ok(())
    }

    /// Remove an empty directory.
    pub(super) fn op_rmdir(&self, at: Place<'_>) -> OpResult<()> {
        let (ino, _) = self.commit(|d| {
            let parent = d.directory(at.0)?;
            let (ino, kind) = d.existing(at)?;
            if kind != FileKind::Directory {
                return Err(Errno::ENOTDIR.into());
            }
            if d.live(ino)?.row.size != 0 {
                return Err(Errno::ENOTEMPTY.into());
            }
            d.unlink_event(at, kind);
            d.lost_name(ino)?;
            d.parent_event(parent, -1, -1);
            Ok(ino)
        })?;
        self.destroy_if_unused(ino);
        Ok(())
    }

    /// rename(2), renameat2(2).
    pub(super) fn op_rename(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        flags: u32,
    ) -> OpResult<Reparented> {
        if flags & !(NOREPLACE | EXCHANGE) != 0 || flags == NOREPLACE | EXCHANGE {
            return Err(Errno::EINVAL.into());
        }
        if flags & EXCHANGE == 0 {
            self.settle_before_replace(from, to)?;
        }
        let (renamed, _) = self.commit(|d| decide_rename(d, from, to, flags))?;
        if let Some(ino) = renamed.unnamed {
            self.destroy_if_unused(ino);
        }
        let elsewhere = from.0 != to.0;
        Ok(renamed
            .directories
            .map(|ino| ino.filter(|_| elsewhere).map(|ino| ino.0)))
    }

    /// As safe as ext4's `auto_da_alloc`: what replaces an existing file is on disk before the
    /// rename can be (inline contents are, with the journal itself).
    fn settle_before_replace(&self, from: Place<'_>, to: Place<'_>) -> OpResult<()> {
        let (old, new) = (name_key(from.1), name_key(to.1));
        let file = self.read(|tables| {
            let moved = tables.dentry(from.0, &old)?.and_then(|d| d.ino);
            match (moved, tables.dentry(to.0, &new)?) {
                (Some(ino), Some(_)) => Ok(Some(tables.inode_row(ino)?)),
                _ => Ok(None),
            }
        })?;
        match file {
            Some(Inode { row, file }) if file != 0 => self
                .backing
                .sync(row.ino, file)
                .map_err(|e| self.sync_failed(&e)),
            _ => Ok(()),
        }
    }
}

/// What a rename did.
#[derive(Default)]
struct Renamed {
    /// The inode that lost its name.
    unnamed: Option<Ino>,
    /// Directories that have another name.
    directories: [Option<Ino>; 2],
}

fn decide_rename(
    d: &mut Decision<'_>,
    from: Place<'_>,
    to: Place<'_>,
    flags: u32,
) -> Result<Renamed, Stop> {
    let from_dir = d.directory(from.0)?;
    let to_dir = d.directory(to.0)?;
    let (ino, kind) = d.existing(from)?;
    if to.0 == Ino::ROOT && to.1 == RESERVED_NAME {
        return Err(Errno::EPERM.into());
    }
    let target = match d.name(to)? {
        Some(Dentry {
            ino: Some(ino),
            kind,
            ..
        }) => Some((ino, kind)),
        _ => None,
    };
    if flags & EXCHANGE != 0 {
        let Some((other, other_kind)) = target else {
            return Err(Errno::ENOENT.into());
        };
        if other == ino {
            return Ok(Renamed::default());
        }
        exchange(
            d,
            (from, from_dir, ino, kind),
            (to, to_dir, other, other_kind),
        )?;
        return Ok(Renamed {
            unnamed: None,
            directories: [directory(ino, kind), directory(other, other_kind)],
        });
    }
    if let Some((old, old_kind)) = target {
        if flags & NOREPLACE != 0 {
            return Err(Errno::EEXIST.into());
        }
        // Two names of one inode: POSIX says that nothing happens.
        if old == ino {
            return Ok(Renamed::default());
        }
        match (kind == FileKind::Directory, old_kind == FileKind::Directory) {
            (true, false) => return Err(Errno::ENOTDIR.into()),
            (false, true) => return Err(Errno::EISDIR.into()),
            (true, true) if d.live(old)?.row.size != 0 => return Err(Errno::ENOTEMPTY.into()),
            _ => {}
        }
        d.lost_name(old)?;
    }
    let mut moved = d.live(ino)?.row;
    moved.ctime = d.time;
    d.events.push(Event::InodeUpdate(moved));
    d.unlink_event(from, kind);
    d.link_event(to, ino, kind);
    d.events.push(rename_event(ino, from, to));
    let subdirectory = as_subdirectory(kind);
    let replaced = target.map_or(0, |(_, old_kind)| as_subdirectory(old_kind));
    let gained = i64::from(target.is_none());
    if from.0 == to.0 {
        d.parent_event(from_dir, gained - 1, -replaced);
    } else {
        d.parent_event(from_dir, -1, -subdirectory);
        d.parent_event(to_dir, gained, subdirectory - replaced);
    }
    Ok(Renamed {
        unnamed: target.map(|(old, _)| old),
        directories: [directory(ino, kind), None],
    })
}

/// The inode, if it is a directory.
fn directory(ino: Ino, kind: FileKind) -> Option<Ino> {
    (kind == FileKind::Directory).then_some(ino)
}

type Side<'a> = (Place<'a>, InodeRow, Ino, FileKind);

fn exchange(d: &mut Decision<'_>, a: Side<'_>, b: Side<'_>) -> Result<(), Stop> {
    let (a_at, a_dir, a_ino, a_kind) = a;
    let (b_at, b_dir, b_ino, b_kind) = b;
    for ino in [a_ino, b_ino] {
        let mut row = d.live(ino)?.row;
        row.ctime = d.time;
        d.events.push(Event::InodeUpdate(row));
    }
    d.link_event(b_at, a_ino, a_kind);
    d.link_event(a_at, b_ino, b_kind);
    d.events.push(rename_event(a_ino, a_at, b_at));
    d.events.push(rename_event(b_ino, b_at, a_at));
    if a_at.0 == b_at.0 {
        d.parent_event(a_dir, 0, 0);
    } else {
        let shift = as_subdirectory(b_kind) - as_subdirectory(a_kind);
        d.parent_event(a_dir, 0, shift);
        d.parent_event(b_dir, 0, -shift);
    }
    Ok(())
}

fn rename_event(ino: Ino, from: Place<'_>, to: Place<'_>) -> Event {
    Event::Rename {
        ino,
        from_parent: from.0,
        from_name: from.1.to_vec(),
        to_parent: to.0,
        to_name: to.1.to_vec(),
    }
}
