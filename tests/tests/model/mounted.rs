//! The same operations on a mounted file system.

use crate::operation::{
    Allocation, Operation as O, Place, Renaming, Setting, Special, Stamp, crowd_name,
};
use crate::reference::{Answer, Outcome, Tree, UMASK, count_done, target};
use crate::strategy::SLOTS;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// More names than any crowd has.
pub(crate) const MOST_IN_CROWD: u32 = 640;

/// A mount, and the files that are open on it.
#[derive(Debug)]
pub(crate) struct Mounted {
    root: PathBuf,
    slots: [Option<File>; SLOTS],
}

fn errno(e: &io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or_else(|| panic!("no errno: {e}"))
}

impl Mounted {
    /// The file system mounted on `root`.
    pub(crate) fn new(root: &Path) -> Mounted {
        rustix::process::umask(Mode::from_raw_mode(UMASK));
        Mounted {
            root: root.to_owned(),
            slots: [const { None }; SLOTS],
        }
    }

    /// Close all open files. Of a dead mount they answer errors, which say nothing.
    pub(crate) fn close_all(&mut self) {
        self.slots = [const { None }; SLOTS];
    }

    pub(crate) fn path(&self, place: &Place) -> PathBuf {
        place.below(&self.root)
    }

    fn open(&self, place: &Place, flags: OFlags, mode: u32) -> Result<File, Errno> {
        // Never follow a link out of the model, never wait for the other end of a pipe.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(self.path(place), flags, Mode::from_raw_mode(mode)).map(File::from)
    }

    fn slot(&self, slot: usize) -> Result<&File, Errno> {
        self.slots[slot].as_ref().ok_or(Errno::BADF)
    }

    fn mknod(&self, place: &Place, special: Special, mode: u32, is_root: bool) -> Outcome {
        let (kind, device) = match special {
            Special::Device if is_root => (FileType::CharacterDevice, DEVICE),
            Special::Fifo | Special::Device => (FileType::Fifo, 0),
            Special::Socket => (FileType::Socket, 0),
        };
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::mknodat(CWD, self.path(place), kind, mode, device).map(|()| Answer::Done)
    }

    /// Do it. `tree` says what this user may ask for.
    pub(crate) fn perform(&mut self, operation: &O, tree: &Tree) -> Outcome {
        let done = |()| Answer::Done;
        let io_done = |result: io::Result<()>| result.map(done).map_err(|e| errno(&e));
        match operation {
            O::Create { at, mode } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                self.open(at, flags, tree.allowed_mode(*mode))?;
                Ok(Answer::Done)
            }
            O::Mkdir { at, mode } => {
                let mode = Mode::from_raw_mode(tree.allowed_mode(*mode));
                rustix::fs::mkdir(self.path(at), mode).map(done)
            }
            O::Mknod { at, mode, special } => {
                let is_root = cbfs_tests::tools::is_root();
                self.mknod(at, *special, tree.allowed_mode(*mode), is_root)
            }
            O::Symlink { at, length } => {
                rustix::fs::symlink(target(*length), self.path(at)).map(done)
            }
            O::Link { from, to } => rustix::fs::link(self.path(from), self.path(to)).map(done),
            O::Unlink { at } => rustix::fs::unlink(self.path(at)).map(done),
            O::Rmdir { at } => rustix::fs::rmdir(self.path(at)).map(done),
            O::Rename { from, to, how } => {
                let flags = match how {
                    Renaming::Plain => RenameFlags::empty(),
                    Renaming::NoReplace => RenameFlags::NOREPLACE,
                    Renaming::Exchange => RenameFlags::EXCHANGE,
                };
                let (from, to) = (self.path(from), self.path(to));
                rustix::fs::renameat_with(CWD, from, CWD, to, flags).map(done)
            }
            O::Write {
                at,
                offset,
                bytes,
                create,
            } => {
                let create = if *create {
                    OFlags::CREATE
                } else {
                    OFlags::empty()
                };
                let file = self.open(at, OFlags::WRONLY | create, 0o644)?;
                io_done(file.write_all_at(&bytes.make(), *offset))
            }
            O::Append { at, bytes } => {
                let mut file = self.open(at, OFlags::WRONLY | OFlags::APPEND, 0)?;
                io_done(io::Write::write_all(&mut file, &bytes.make()))
            }
            O::Truncate { at, size } => {
                let file = self.open(at, OFlags::WRONLY, 0)?;
                rustix::fs::ftruncate(&file, *size).map(done)
            }
            O::Allocate {
                at,
                how,
                offset,
                length,
            } => {
                let file = self.open(at, OFlags::WRONLY, 0)?;
                let keep = FallocateFlags::KEEP_SIZE;
                let flags = match how {
                    Allocation::Grow => FallocateFlags::empty(),
                    Allocation::Keep => keep,
                    Allocation::Punch => FallocateFlags::PUNCH_HOLE | keep,
                    Allocation::Zero => FallocateFlags::ZERO_RANGE,
                    Allocation::ZeroKeep => FallocateFlags::ZERO_RANGE | keep,
                };
                rustix::fs::fallocate(&file, flags, *offset, *length).map(done)
            }
            O::CopyRange {
                from,
                to,
                from_offset,
                to_offset,
                length,
            } => {
                let from = self.open(from, OFlags::RDONLY, 0)?;
                let to = self.open(to, OFlags::WRONLY, 0)?;
                copy((&from, *from_offset), (&to, *to_offset), *length)
            }
            O::SetXattr {
                at,
                name,
                value,
                how,
            } => {
                let flags = match how {
                    Setting::Any => XattrFlags::empty(),
                    Setting::Create => XattrFlags::CREATE,
                    Setting::Replace => XattrFlags::REPLACE,
                };
                let name = tree.xattr_name(name);
                rustix::fs::lsetxattr(self.path(at), name, &value.make(), flags).map(done)
            }
            O::RemoveXattr { at, name } => {
                rustix::fs::lremovexattr(self.path(at), tree.xattr_name(name)).map(done)
            }
            O::Chmod { at, mode } => {
                let mode = fs::Permissions::from_mode(tree.allowed_mode(*mode));
                io_done(fs::set_permissions(self.path(at), mode))
            }
            O::Chown { at, uid, gid } => {
                io_done(std::os::unix::fs::lchown(self.path(at), Some(*uid), *gid))
            }
            O::SetTimes { at, atime, mtime } => {
                let times = Timestamps {
                    last_access: atime.map_or(OMIT, timespec),
                    last_modification: timespec(*mtime),
                };
                let path = self.path(at);
                rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map(done)
            }
            O::Read { at } => whole(&self.open(at, OFlags::RDONLY, 0)?),
            O::List { at } => {
                let entries = fs::read_dir(self.path(at)).map_err(|e| errno(&e))?;
                let mut names = BTreeSet::new();
                for entry in entries {
                    let name = entry.map_err(|e| errno(&e))?.file_name().into_vec();
                    assert!(names.insert(name), "a name was listed twice");
                }
                Ok(Answer::Names(names))
            }
            O::Fsync { at } => rustix::fs::fsync(self.open(at, OFlags::RDONLY, 0)?).map(done),
            O::Open { slot, at } => {
                let file = self.open(at, OFlags::RDWR | OFlags::CREATE, 0o644)?;
                self.slots[*slot] = Some(file);
                Ok(Answer::Done)
            }
            O::WriteOpen {
                slot,
                offset,
                bytes,
            } => io_done(self.slot(*slot)?.write_all_at(&bytes.make(), *offset)),
            O::TruncateOpen { slot, size } => {
                rustix::fs::ftruncate(self.slot(*slot)?, *size).map(done)
            }
            O::ReadOpen { slot } => whole(self.slot(*slot)?),
            O::Close { slot } => match self.slots[*slot].take() {
                Some(_) => Ok(Answer::Done),
                None => Err(Errno::BADF),
            },
            O::Crowd { at, count } => {
                let made = (0..*count).map(|n| {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                    let mode = tree.allowed_mode(0o644);
                    self.open(&at.join(&crowd_name(n)), flags, mode)
                        .map(|_| Answer::Done)
                });
                count_done(made, Errno::EXIST)
            }
            O::Disperse { at, every } => {
                let names = (0..MOST_IN_CROWD).step_by(*every as usize);
                let gone = names
                    .map(|n| rustix::fs::unlink(self.path(&at.join(&crowd_name(n)))).map(done));
                count_done(gone, Errno::NOENT)
            }
            O::Snapshot { .. } | O::CompareSnapshot { .. } | O::Kill | O::Restart | O::Remount => {
                unreachable!("not an operation on files")
            }
        }
    }
}

/// A device nobody drives.
pub(crate) const DEVICE: u64 = 240 << 8 | 77;

const OMIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: UTIME_OMIT,
};

fn timespec((tv_sec, tv_nsec): Stamp) -> Timespec {
    Timespec { tv_sec, tv_nsec }
}

/// All bytes of an open file.
fn whole(file: &File) -> Outcome {
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len();
        bytes.resize(at + (1 << 20), 0);
        let read = file.read_at(&mut bytes[at..], at as u64);
        let n = read.map_err(|e| errno(&e))?;
        bytes.truncate(at + n);
        if n == 0 {
            return Ok(Answer::Bytes(Arc::new(bytes)));
        }
    }
}

/// As cp(1) does it: again until all is copied that was there at the beginning.
fn copy(from: (&File, u64), to: (&File, u64), length: u64) -> Outcome {
    let size = from.0.metadata().map_err(|e| errno(&e))?.len();
    let wanted = length.min(size.saturating_sub(from.1));
    let (mut read, mut write) = (from.1, to.1);
    let mut done = 0;
    loop {
        let rest = (wanted - done) as usize;
        let places = (Some(&mut read), Some(&mut write));
        // Also with nothing left: whether it may is an answer, too.
        let n = rustix::fs::copy_file_range(from.0, places.0, to.0, places.1, rest)?;
        done += n as u64;
        if n == 0 || done == wanted {
            return Ok(Answer::Count(done));
        }
    }
}
