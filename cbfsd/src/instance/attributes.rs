//! Attributes and extended attributes: getattr, setattr, the xattr calls, statfs.

use super::Instance;
use super::acl::{self, Acl};
use super::commit::{Decision, Stop};
use crate::journal::Event;
use crate::kvs::Inode;
use cbfs_core::ids::Ino;
use cbfs_core::inode::{FileKind, InodeRow, Timestamp};
use cbfs_core::names::NAME_MAX;
use cbfs_fuse::{Attributes, Errno, FileSystemStatistics, OpResult, Patience, SetAttributes};

/// Flags of setxattr(2).
const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;

/// Largest value of an extended attribute, as the VFS limits it (`XATTR_SIZE_MAX`).
const XATTR_VALUE_MAX: usize = 64 << 10;

/// Preferred I/O size told to programs.
const IO_SIZE: u32 = 4096;

impl Instance {
    /// An inode's attributes as stat(2) tells them.
    pub(super) fn attributes(&self, inode: &Inode) -> OpResult<Attributes> {
        let row = &inode.row;
        let blocks = match (row.kind, inode.file) {
            (FileKind::File, 0) => row.size.div_ceil(512),
            // Some of it may be below: a program that takes few blocks for holes must read on.
            (FileKind::File, _) if self.may_be_below(row.ino) => row.size.div_ceil(512),
            (FileKind::File, file) => {
                use std::os::unix::fs::MetadataExt;
                let open = self.backing.get(row.ino, file);
                open.and_then(|f| f.metadata())
                    .map_err(|e| self.io_refusal("a backing file could not be examined", &e))?
                    .blocks()
            }
            _ => 0,
        };
        Ok(Attributes {
            ino: row.ino.0,
            mode: row.st_mode(),
            nlink: row.nlink,
            uid: row.uid,
            gid: row.gid,
            rdev: row.rdev,
            size: row.size,
            blocks,
            blksize: IO_SIZE,
            atime: row.atime.0,
            mtime: row.mtime.0,
            ctime: row.ctime.0,
            btime: row.btime.0,
        })
    }

    pub(super) fn op_getattr(&self, ino: Ino) -> OpResult<Attributes> {
        let inode = self.read(|tables| tables.inode_row(ino))?;
        if inode.row.gone {
            return Err(Errno::ESTALE.into());
        }
        self.attributes(&inode)
    }

    pub(super) fn op_setattr(
        &self,
        patience: Patience,
        ino: Ino,
        change: &SetAttributes,
    ) -> OpResult<Attributes> {
        let apply = |row: &mut InodeRow, now: Timestamp| {
            if let Some(mode) = change.mode {
                row.mode = (mode & 0o7777) as u16;
            }
            row.uid = change.uid.unwrap_or(row.uid);
            row.gid = change.gid.unwrap_or(row.gid);
            if change.size.is_some() {
                row.mtime = now;
            }
            row.atime = change.atime.map_or(row.atime, Timestamp);
            row.mtime = change.mtime.map_or(row.mtime, Timestamp);
            row.ctime = change.ctime.map_or(now, Timestamp);
        };
        if let Some(size) = change.size {
            let inode = self.op_truncate(patience, ino, size, apply)?;
            if change.mode.is_none() {
                return self.attributes(&inode);
            }
        }
        let (inode, _) = self.commit(|d| {
            let mut inode = d.live(ino)?;
            apply(&mut inode.row, d.time);
            if change.size.is_some() {
                // Done already by the truncation, at its own time.
                inode.row.mtime = d.live(ino)?.row.mtime;
            }
            if change.mode.is_some() && inode.row.kind != FileKind::Symlink {
                mask_acl(d, &inode.row)?;
            }
            d.events.push(Event::InodeUpdate(inode.row));
            Ok(inode)
        })?;
        self.attributes(&inode)
    }

    pub(super) fn op_readlink(&self, ino: Ino) -> OpResult<Vec<u8>> {
        let (inode, target) = self.read(|tables| {
            let inode = tables.inode_row(ino)?;
            let symlink = inode.row.kind == FileKind::Symlink && !inode.row.gone;
            let target = if symlink {
                Some(tables.link(ino)?)
            } else {
                None
            };
            Ok((inode, target))
        })?;
        let target = target.ok_or(Errno::EINVAL)?;
        self.touch_atime(&inode.row);
        Ok(target.to_vec())
    }

    pub(super) fn op_setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> OpResult<()> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Errno::ERANGE.into());
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(Errno::E2BIG.into());
        }
        self.commit(|d| {
            let mut row = d.live(ino)?.row;
            let existing = d.tables.xattr(ino, name)?;
            match (flags, &existing) {
                (XATTR_CREATE, Some(_)) => return Err(Errno::EEXIST.into()),
                (XATTR_REPLACE, None) => return Err(Errno::ENODATA.into()),
                _ => {}
            }
            let mut stored = Some(value.to_vec());
            if name == acl::ACCESS {
                let acl = Acl::parse(value).ok_or(Errno::EINVAL)?;
                let (mode, rest) = acl.into_access(row.mode);
                row.mode = mode;
                if kill_sgid {
                    row.mode &= !0o2000;
                }
                stored = rest.map(|acl| acl.to_bytes());
            } else if name == acl::DEFAULT {
                if row.kind != FileKind::Directory {
                    return Err(Errno::EACCES.into());
                }
                Acl::parse(value).ok_or(Errno::EINVAL)?;
            }
            row.ctime = d.time;
            match stored {
                Some(value) => {
                    d.events.push(Event::XattrSet {
                        ino,
                        name: name.to_vec(),
                        value,
                    });
                }
                None if existing.is_some() => {
                    d.events.push(Event::XattrRemove {
                        ino,
                        name: name.to_vec(),
                    });
                }
                None => {}
            }
            d.events.push(Event::InodeUpdate(row));
            Ok(())
        })?;
        Ok(())
    }

    pub(super) fn op_getxattr(&self, ino: Ino, name: &[u8]) -> OpResult<Vec<u8>> {
        let value = self.read(|tables| tables.xattr(ino, name))?;
        Ok(value.ok_or(Errno::ENODATA)?.to_vec())
    }

    pub(super) fn op_listxattr(&self, ino: Ino) -> OpResult<Vec<Vec<u8>>> {
        let all = self.read(|tables| tables.xattrs(ino))?;
        Ok(all.into_keys().collect())
    }

    pub(super) fn op_removexattr(&self, ino: Ino, name: &[u8]) -> OpResult<()> {
        self.commit(|d| {
            let mut row = d.live(ino)?.row;
            if d.tables.xattr(ino, name)?.is_none() {
                return Err(Errno::ENODATA.into());
            }
            row.ctime = d.time;
            d.events.push(Event::XattrRemove {
                ino,
                name: name.to_vec(),
            });
            d.events.push(Event::InodeUpdate(row));
            Ok(())
        })?;
        Ok(())
    }

    /// A limit bounds what df tells; else the disk of the state directory does. What writers may not
    /// use is not free, and what deleted files still hold is.
    pub(super) fn op_statfs(&self) -> OpResult<FileSystemStatistics> {
        let examined = |e| self.io_refusal("the state directory could not be examined", &e);
        let disk = rustix::fs::statvfs(&self.dir).map_err(|e| examined(e.into()))?;
        let unit = disk.f_frsize.max(512);
        let (total, free) = match &self.space {
            Some(space) => {
                let room = space.room(self.measured()).map_err(examined)?;
                (room.total / unit, room.left / unit)
            }
            None => (disk.f_blocks, 0),
        };
        let inodes = self.kvs.tables().counters.inodes;
        Ok(FileSystemStatistics {
            block_size: u32::try_from(unit).unwrap_or(4096),
            blocks: total,
            free,
            available: free,
            files: inodes + disk.f_ffree,
            files_free: disk.f_ffree,
            name_max: NAME_MAX as u32,
        })
    }
}

/// chmod of an inode with an access ACL: the ACL follows the mode.
fn mask_acl(d: &mut Decision<'_>, row: &InodeRow) -> Result<(), Stop> {
    if let Some(acl) = d
        .tables
        .xattr(row.ino, acl::ACCESS)?
        .as_deref()
        .and_then(Acl::parse)
    {
        let value = acl.with_mode(row.mode).to_bytes();
        d.events.push(Event::XattrSet {
            ino: row.ino,
            name: acl::ACCESS.to_vec(),
            value,
        });
    }
    Ok(())
}
