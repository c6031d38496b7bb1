//! The instance as FUSE serves it. Errno is chosen here and in the operations, nowhere below.

use super::Instance;
use super::contents::{COPY_PIECE, takes_space};
use super::namespace::NewInode;
use super::room::{NAME_COST, write_cost};
use cbfs_core::ids::Ino;
use cbfs_core::inode::FileKind;
use cbfs_fuse::{
    Attributes, CachePolicy, Caller, DirectorySink, Errno, FileSystem, FileSystemStatistics,
    OpResult, Patience, Reparented, SetAttributes,
};
use std::time::Duration;

/// A master's answers stay true until it changes them itself, and the kernel sees those changes; a
/// slave's snapshot does not change.
const FOREVER: Duration = Duration::from_secs(30 * 24 * 3600);

fn kind_of(mode: u32) -> FileKind {
    match (mode >> 12) & 0xf {
        0 => FileKind::File,
        code => FileKind::from_code(code).unwrap_or(FileKind::File),
    }
}

impl FileSystem for Instance {
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy {
            entry: FOREVER,
            negative: FOREVER,
            attributes: FOREVER,
        }
    }

    fn lookup(&self, _: Patience, parent: u64, name: &[u8]) -> OpResult<Attributes> {
        self.op_lookup(Ino(parent), name)
    }

    fn forget(&self, ino: u64, count: u64) {
        self.forgotten(Ino(ino), count);
    }

    fn getattr(&self, _: Patience, ino: u64) -> OpResult<Attributes> {
        self.op_getattr(Ino(ino))
    }

    fn setattr(
        &self,
        patience: Patience,
        _: Caller,
        ino: u64,
        change: &SetAttributes,
    ) -> OpResult<Attributes> {
        let set = || self.op_setattr(patience, Ino(ino), change);
        match change.size.and_then(|s| self.resize_cost(Ino(ino), s)) {
            Some(cost) => self.taking(cost, set),
            None => self.freeing(set),
        }
    }

    fn readlink(&self, _: Patience, ino: u64) -> OpResult<Vec<u8>> {
        self.op_readlink(Ino(ino))
    }

    fn mknod(
        &self,
        _: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> OpResult<Attributes> {
        let kind = kind_of(mode);
        if matches!(kind, FileKind::Directory | FileKind::Symlink) {
            return Err(Errno::EINVAL.into());
        }
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let new = NewInode {
            kind,
            mode: (mode & 0o7777) as u16,
            umask: (umask & 0o777) as u16,
            rdev: if device { rdev } else { 0 },
            target: None,
        };
        self.taking(NAME_COST, || {
            self.op_create(caller, (Ino(at.0), at.1), &new)
        })
    }

    fn mkdir(
        &self,
        _: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
    ) -> OpResult<Attributes> {
        let new = NewInode {
            kind: FileKind::Directory,
            mode: (mode & 0o7777) as u16,
            umask: (umask & 0o777) as u16,
            rdev: 0,
            target: None,
        };
        self.taking(NAME_COST, || {
            self.op_create(caller, (Ino(at.0), at.1), &new)
        })
    }

    fn symlink(
        &self,
        _: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        target: &[u8],
    ) -> OpResult<Attributes> {
        let new = NewInode {
            kind: FileKind::Symlink,
            mode: 0o777,
            umask: 0,
            rdev: 0,
            target: Some(target),
        };
        self.taking(NAME_COST, || {
            self.op_create(caller, (Ino(at.0), at.1), &new)
        })
    }

    fn link(&self, _: Patience, ino: u64, at: (u64, &[u8])) -> OpResult<Attributes> {
        self.taking(NAME_COST, || self.op_link(Ino(ino), (Ino(at.0), at.1)))
    }

    fn unlink(&self, _: Patience, parent: u64, name: &[u8]) -> OpResult<()> {
        self.freeing(|| self.op_unlink((Ino(parent), name)))
    }

    fn rmdir(&self, _: Patience, parent: u64, name: &[u8]) -> OpResult<()> {
        self.freeing(|| self.op_rmdir((Ino(parent), name)))
    }

    fn rename(
        &self,
        _: Patience,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
    ) -> OpResult<Reparented> {
        self.freeing(|| self.op_rename((Ino(from.0), from.1), (Ino(to.0), to.1), flags))
    }

    fn read(&self, patience: Patience, ino: u64, offset: u64, size: u32) -> OpResult<Vec<u8>> {
        let answer = self.op_read(patience, Ino(ino), offset, size);
        if let Ok(bytes) = &answer {
            self.traffic.read(bytes.len());
        }
        answer
    }

    fn write(&self, patience: Patience, ino: u64, offset: u64, data: &[u8]) -> OpResult<()> {
        let length = data.len() as u64;
        let cost = write_cost(length, offset.saturating_add(length));
        let answer = self.taking(cost, || self.op_write(patience, Ino(ino), offset, data));
        if answer.is_ok() {
            self.traffic.written(length);
        }
        answer
    }

    fn fsync(&self, _: Patience, ino: u64, _datasync: bool) -> OpResult<()> {
        self.op_fsync(Ino(ino))
    }

    fn readdir(
        &self,
        _: Patience,
        ino: u64,
        cookie: u64,
        sink: &mut dyn DirectorySink,
    ) -> OpResult<()> {
        self.op_readdir(Ino(ino), cookie, sink)
    }

    fn statfs(&self) -> OpResult<FileSystemStatistics> {
        self.op_statfs()
    }

    fn setxattr(
        &self,
        _: Patience,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> OpResult<()> {
        let cost = NAME_COST + 2 * value.len() as u64;
        self.taking(cost, || {
            self.op_setxattr(Ino(ino), name, value, flags, kill_sgid)
        })
    }

    fn getxattr(&self, _: Patience, ino: u64, name: &[u8]) -> OpResult<Vec<u8>> {
        self.op_getxattr(Ino(ino), name)
    }

    fn listxattr(&self, _: Patience, ino: u64) -> OpResult<Vec<Vec<u8>>> {
        self.op_listxattr(Ino(ino))
    }

    fn removexattr(&self, _: Patience, ino: u64, name: &[u8]) -> OpResult<()> {
        self.freeing(|| self.op_removexattr(Ino(ino), name))
    }

    fn fallocate(
        &self,
        patience: Patience,
        ino: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> OpResult<()> {
        let allocate = || self.op_fallocate(patience, Ino(ino), offset, length, mode);
        if takes_space(mode) {
            self.taking(self.allocation_cost(Ino(ino), offset, length), allocate)
        } else {
            self.freeing(allocate)
        }
    }

    fn seek(&self, _: Patience, ino: u64, offset: u64, whence: u32) -> OpResult<u64> {
        self.op_seek(Ino(ino), offset, whence)
    }

    fn copy_range(
        &self,
        patience: Patience,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> OpResult<u64> {
        // A piece at a time.
        let piece = length.min(COPY_PIECE);
        let cost = write_cost(piece, to.1.saturating_add(piece));
        self.taking(cost, || {
            self.op_copy_range(patience, (Ino(from.0), from.1), (Ino(to.0), to.1), length)
        })
    }
}
