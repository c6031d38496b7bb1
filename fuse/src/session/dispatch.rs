//! From fuser's requests to calls of a [`FileSystem`] and back.
//!
//! Every operation is called on the session thread with [`Patience::Never`]. When it must wait,
//! its arguments are copied and it is called again with [`Patience::MayWait`] on a worker, which
//! answers. A panic in the file system is caught, logged and answered EIO: the kernel, and the
//! program that waits in it, always get an answer.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answer::{
    answer_attributes, answer_data, answer_empty, answer_entry, answer_seek, answer_statistics,
    answer_written, answer_xattr,
};
use super::calls::{guarded, patiently};
use super::conversion::{Entry, checked, entry, known, nanos_from_fuser};
use super::kernel_cache::KernelCache;
use super::listing::{Listing, Plain, Plus, Unattributed};
use super::privileges::{take_privileges_away, with_privileges_dropped};
use super::workers::Workers;
use super::{Clock, REQUEST_SIZE};
use crate::{Caller, Errno, FileSystem, OpResult, Patience, Refusal, SetAttributes};

/// What the session asks of the kernel, each only if it is offered. Not asked for, on purpose:
/// WRITEBACK_CACHE (a killed daemon would lose acknowledged writes), AUTO_INVAL_DATA (only this
/// session changes the files; followers invalidate explicitly), POSIX_LOCKS and FLOCK_LOCKS (locks stay in the kernel),
/// ATOMIC_O_TRUNC (needs open), EXPORT_SUPPORT, ABORT_ERROR.
///
/// HANDLE_KILLPRIV_V2: without it the kernel asks for `security.capability` before every single write. With
/// it, it asks once per inode, and the session takes the suid and sgid bits away where the kernel says so (see
/// `privileges`).
///
/// READDIRPLUS_AUTO: the first request of a listing brings attributes, the following ones only if
/// entries are being stat'ed meanwhile. So `ls -l` gets them all, and `find` in a directory of a
/// million names does not load a million inodes.
const WANTED: [InitFlags; 14] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_SETXATTR_EXT,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
];

/// Readahead and similar requests the kernel may have under way at once.
const MAX_BACKGROUND: u16 = 64;

const RENAME_FLAGS: u32 =
    RenameFlags::RENAME_NOREPLACE.bits() | RenameFlags::RENAME_EXCHANGE.bits();
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// `FUSE_SETXATTR_ACL_KILL_SGID`.
const KILL_SGID: u32 = 1;
/// The most one copy_file_range answers: the count travels in 32 bits, and whole pages let the
/// caller go on well.
const COPY_MAX: u64 = 0xffff_f000;

/// Serves a file system to fuser.
pub(super) struct Dispatcher {
    fs: Arc<dyn FileSystem>,
    workers: Arc<Workers>,
    clock: Clock,
    unattributed: Arc<Unattributed>,
    kernel: Arc<KernelCache>,
    /// The kernel says with each access ACL whether the sgid bit goes (Linux 5.13 and later).
    kill_sgid_is_told: bool,
    /// Called when no session thread is left.
    at_end: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// Call the file system now; when it must wait, copy the named byte slices and call it again on a
/// worker. Either way the answer function sends the reply.
macro_rules! serve {
    ($self:ident, $op:literal, $reply:ident, $answer:expr, [$($bytes:ident),*],
     |$fs:ident, $patience:ident| $call:expr) => {{
        let answer = $answer;
        match $self.attempt($op, |$fs, $patience| $call) {
            Some(result) => answer($reply, result),
            None => {
                $(let $bytes = $bytes.to_vec();)*
                $self.later(move |$fs| {
                    let result = patiently($op, |$patience| {
                        $(let $bytes = $bytes.as_slice();)*
                        $call
                    });
                    answer($reply, result);
                });
            }
        }
    }};
}

impl Dispatcher {
    pub(super) fn new(
        fs: Arc<dyn FileSystem>,
        workers: Arc<Workers>,
        clock: Clock,
        kernel: Arc<KernelCache>,
        at_end: Box<dyn FnOnce() + Send + Sync>,
    ) -> Dispatcher {
        let unattributed = Arc::default();
        Dispatcher {
            fs,
            workers,
            clock,
            unattributed,
            kernel,
            kill_sgid_is_told: false,
            at_end: Some(at_end),
        }
    }

    /// Call without patience; `None` when the operation must wait.
    fn attempt<T>(
        &self,
        op: &'static str,
        call: impl FnOnce(&dyn FileSystem, Patience) -> OpResult<T>,
    ) -> Option<Result<T, Errno>> {
        match guarded(op, || call(&*self.fs, Patience::Never)) {
            Ok(value) => Some(Ok(value)),
            Err(Refusal::Errno(errno)) => Some(Err(errno)),
            Err(Refusal::MustWait) => None,
        }
    }

    /// Run `job` on a worker.
    fn later(&self, job: impl FnOnce(&dyn FileSystem) + Send + 'static) {
        let fs = Arc::clone(&self.fs);
        self.workers.submit(Box::new(move || job(&*fs)));
    }

    fn list(&self, op: &'static str, ino: u64, cookie: u64, mut listing: impl Listing) {
        let first = self.attempt(op, |fs, patience| {
            list_into(fs, patience, ino, cookie, &mut listing)
        });
        match first {
            Some(result) => listing.answer(result),
            None if listing.begun() => listing.answer(Ok(())),
            None => self.later(move |fs| {
                let result = patiently(op, |patience| {
                    list_into(fs, patience, ino, cookie, &mut listing)
                });
                listing.answer(result);
            }),
        }
    }

    fn nanos(&self, time: TimeOrNow) -> i64 {
        match time {
            TimeOrNow::Now => (self.clock)(),
            TimeOrNow::SpecificTime(time) => nanos_from_fuser(time),
        }
    }
}

/// One pass over a directory.
fn list_into(
    fs: &dyn FileSystem,
    patience: Patience,
    ino: u64,
    cookie: u64,
    listing: &mut impl Listing,
) -> OpResult<()> {
    listing.set_policy(fs.cache_policy_of(ino));
    fs.readdir(patience, ino, cookie, listing)
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

impl Filesystem for Dispatcher {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in WANTED {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "this kernel's FUSE does not offer it");
            } else if flag == InitFlags::FUSE_SETXATTR_EXT {
                self.kill_sgid_is_told = true;
            }
        }
        // Each refusal carries the nearest value that is accepted. The kernel offers no more
        // readahead than the mount's default; the session raises it after the mount.
        if let Err(nearest) = config.set_max_write(REQUEST_SIZE) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(REQUEST_SIZE) {
            let _ = config.set_max_readahead(nearest);
        }
        if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
            let _ = config.set_max_background(nearest);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes();
        serve!(
            self,
            "lookup",
            reply,
            answer_entry,
            [name],
            |fs, patience| {
                match fs.lookup(patience, parent.0, checked(name)?) {
                    Ok(attributes) => entry(fs, &attributes),
                    Err(Refusal::Errno(Errno::ENOENT)) => {
                        let ttl = fs.cache_policy_of(parent.0).negative;
                        if ttl.is_zero() {
                            Err(Errno::ENOENT.into())
                        } else {
                            Ok(Entry::Negative(ttl))
                        }
                    }
                    Err(refusal) => Err(refusal),
                }
            }
        );
    }

    /// Also called by fuser for each inode of a batch.
    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        let counted = self.unattributed.settle(ino.0, count);
        if counted == 0 {
            return;
        }
        // There is no reply, so nothing to tell: a panic is logged.
        let _ = guarded("forget", || {
            self.fs.forget(ino.0, counted);
            Ok(())
        });
    }

    fn getattr(&self, _r: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        serve!(
            self,
            "getattr",
            reply,
            answer_attributes,
            [],
            |fs, patience| known(fs, &fs.getattr(patience, ino.0)?)
        );
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(request);
        let kill = flags.is_some_and(|flags| flags.contains(BsdFileFlags::KILL_SUIDGID));
        let change = SetAttributes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(|time| self.nanos(time)),
            mtime: mtime.map(|time| self.nanos(time)),
            ctime: ctime.map(nanos_from_fuser),
        };
        serve!(
            self,
            "setattr",
            reply,
            answer_attributes,
            [],
            |fs, patience| {
                let change = if kill {
                    with_privileges_dropped(fs, patience, caller, ino.0, &change)?
                } else {
                    change
                };
                known(fs, &fs.setattr(patience, caller, ino.0, &change)?)
            }
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        serve!(self, "readlink", reply, answer_data, [], |fs, patience| {
            fs.readlink(patience, ino.0)
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.as_bytes(), caller(request));
        serve!(
            self,
            "mknod",
            reply,
            answer_entry,
            [name],
            |fs, patience| {
                let at = (parent.0, checked(name)?);
                entry(fs, &fs.mknod(patience, caller, at, mode, umask, rdev)?)
            }
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.as_bytes(), caller(request));
        serve!(
            self,
            "mkdir",
            reply,
            answer_entry,
            [name],
            |fs, patience| {
                let at = (parent.0, checked(name)?);
                entry(fs, &fs.mkdir(patience, caller, at, mode, umask)?)
            }
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes();
        serve!(
            self,
            "unlink",
            reply,
            answer_empty,
            [name],
            |fs, patience| fs.unlink(patience, parent.0, checked(name)?)
        );
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes();
        serve!(
            self,
            "rmdir",
            reply,
            answer_empty,
            [name],
            |fs, patience| fs.rmdir(patience, parent.0, checked(name)?)
        );
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, target) = (name.as_bytes(), target.as_os_str().as_bytes());
        let caller = caller(request);
        serve!(
            self,
            "symlink",
            reply,
            answer_entry,
            [name, target],
            |fs, patience| {
                let at = (parent.0, checked(name)?);
                entry(fs, &fs.symlink(patience, caller, at, target)?)
            }
        );
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name, flags) = (name.as_bytes(), new_name.as_bytes(), flags.bits());
        let kernel = Arc::clone(&self.kernel);
        serve!(
            self,
            "rename",
            reply,
            answer_empty,
            [name, new_name],
            |fs, patience| {
                if flags & !RENAME_FLAGS != 0 {
                    return Err(Errno::EINVAL.into());
                }
                let from = (parent.0, checked(name)?);
                let to = (new_parent.0, checked(new_name)?);
                for directory in fs.rename(patience, from, to, flags)?.into_iter().flatten() {
                    kernel.forget_listing(directory);
                }
                Ok(())
            }
        );
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = new_name.as_bytes();
        serve!(self, "link", reply, answer_entry, [name], |fs, patience| {
            entry(
                fs,
                &fs.link(patience, ino.0, (new_parent.0, checked(name)?))?,
            )
        });
    }

    /// ENOSYS: the kernel opens files without asking from now on.
    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    /// ENOSYS: the kernel opens directories without asking from now on.
    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    /// ENOSYS: the kernel creates files with mknod from now on.
    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    /// ENOSYS: writes are answered when done, there is nothing to flush at close(2).
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        serve!(self, "read", reply, answer_data, [], |fs, patience| {
            let mut data = fs.read(patience, ino.0, offset, size)?;
            // The kernel fails a read that brings more than it has room for.
            data.truncate(size as usize);
            Ok(data)
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (caller, kernel) = (caller(request), Arc::clone(&self.kernel));
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        serve!(
            self,
            "write",
            reply,
            answer_written,
            [data],
            |fs, patience| {
                let size = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
                if kill {
                    take_privileges_away(fs, patience, caller, ino.0, &kernel)?;
                }
                fs.write(patience, ino.0, offset, data).map(|()| size)
            }
        );
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        serve!(self, "fsync", reply, answer_empty, [], |fs, patience| {
            fs.fsync(patience, ino.0, datasync)
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        serve!(self, "fsyncdir", reply, answer_empty, [], |fs, patience| {
            fs.fsync(patience, ino.0, datasync)
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.list("readdir", ino.0, offset, Plain::new(reply));
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let listing = Plus::new(reply, Arc::clone(&self.unattributed));
        self.list("readdirplus", ino.0, offset, listing);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        serve!(
            self,
            "statfs",
            reply,
            answer_statistics,
            [],
            |fs, _patience| fs.statfs()
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        setxattr_flags: u32,
        reply: ReplyEmpty,
    ) {
        let (name, flags) = (name.as_bytes(), flags.cast_unsigned());
        // A kernel that does not tell leaves it to us, who do not know the caller's groups: rather
        // a bit lost than one kept that must go.
        let kill_sgid = if self.kill_sgid_is_told {
            setxattr_flags & KILL_SGID != 0
        } else {
            request.uid() != 0
        };
        serve!(
            self,
            "setxattr",
            reply,
            answer_empty,
            [name, value],
            |fs, patience| {
                let name = checked(name)?;
                fs.setxattr(patience, ino.0, name, value, flags, kill_sgid)
            }
        );
    }

    fn getxattr(&self, _r: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes();
        let answer = move |reply: ReplyXattr, result| answer_xattr(reply, size, result);
        serve!(self, "getxattr", reply, answer, [name], |fs, patience| {
            fs.getxattr(patience, ino.0, checked(name)?)
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let answer = move |reply: ReplyXattr, result| answer_xattr(reply, size, result);
        serve!(self, "listxattr", reply, answer, [], |fs, patience| {
            let mut list = Vec::new();
            for name in fs.listxattr(patience, ino.0)? {
                list.extend_from_slice(&name);
                list.push(0);
            }
            Ok(list)
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes();
        serve!(
            self,
            "removexattr",
            reply,
            answer_empty,
            [name],
            |fs, patience| fs.removexattr(patience, ino.0, checked(name)?)
        );
    }

    /// ENOSYS: permissions are the kernel's (`default_permissions`).
    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    /// ENOSYS: there is no block device below.
    fn bmap(&self, _r: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    /// ENOTTY: the kernel's word for "no such ioctl on this file".
    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    /// ENOSYS: files are always ready, and the kernel need not ask again.
    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (caller, kernel) = (caller(request), Arc::clone(&self.kernel));
        serve!(
            self,
            "fallocate",
            reply,
            answer_empty,
            [],
            |fs, patience| {
                if caller.uid != 0 {
                    take_privileges_away(fs, patience, caller, ino.0, &kernel)?;
                }
                fs.fallocate(patience, ino.0, offset, length, mode.cast_unsigned())
            }
        );
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        serve!(self, "lseek", reply, answer_seek, [], |fs, patience| {
            if !matches!(whence, SEEK_DATA | SEEK_HOLE) {
                return Err(Errno::EINVAL.into());
            }
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            fs.seek(patience, ino.0, offset, whence.cast_unsigned())
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (caller, kernel) = (caller(request), Arc::clone(&self.kernel));
        serve!(
            self,
            "copy_file_range",
            reply,
            answer_written,
            [],
            |fs, patience| {
                if !flags.is_empty() {
                    return Err(Errno::EINVAL.into());
                }
                if caller.uid != 0 {
                    take_privileges_away(fs, patience, caller, ino_out.0, &kernel)?;
                }
                let (from, to) = ((ino_in.0, offset_in), (ino_out.0, offset_out));
                let copied = fs.copy_range(patience, from, to, len.min(COPY_MAX))?;
                u32::try_from(copied).map_err(|_| Errno::EIO.into())
            }
        );
    }
}
