//! A snapshot as files below a directory.

use super::{Entry, FileData, Sink};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::inode::{FileKind, Timestamp};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    lsetxattr, mknodat, utimensat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// What the system did not allow to be set; everything else is exact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Owners.
    pub owners: u64,
    /// Extended attributes.
    pub xattrs: u64,
    /// Devices that were not made.
    pub devices: u64,
    /// The first of them, in words.
    pub first: Option<String>,
}

/// Writes below a directory that is empty or new, which only its owner can enter until all is done.
/// Nothing is fsynced. Owners, privileged attributes and devices that an unprivileged user may not
/// make are counted, not errors, as `tar` has it.
#[derive(Debug)]
pub struct DirectorySink {
    root: PathBuf,
    is_root: bool,
    refused: Refused,
}

impl DirectorySink {
    /// Write below `root`.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when there is something in it already.
    pub fn new(root: &Path) -> Result<DirectorySink> {
        match fs::read_dir(root).map(|mut entries| entries.next().is_some()) {
            Ok(true) => {
                let text = format!("{} is not empty", root.display());
                return Err(Error::new(ErrorKind::Conflict, text)
                    .hint("export into a new or an empty directory"));
            }
            Ok(false) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context(|| format!("{} cannot be used", root.display())),
        }
        Ok(DirectorySink {
            root: root.to_owned(),
            is_root: rustix::process::geteuid().is_root(),
            refused: Refused::default(),
        })
    }

    /// What could not be set.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    fn path(&self, relative: &[u8]) -> PathBuf {
        match relative {
            b"" => self.root.clone(),
            _ => self.root.join(OsStr::from_bytes(relative)),
        }
    }

    /// Owner, mode, attributes and times, in the order in which they do not undo each other.
    fn attributes(&mut self, entry: &Entry<'_>, path: &Path) -> Result<()> {
        let row = entry.row;
        let failed = |what: &str| format!("{what} of {} could not be set", path.display());
        let (uid, gid) = (Uid::from_raw(row.uid), Gid::from_raw(row.gid));
        match chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::PERM | Errno::INVAL) if !self.is_root => {
                self.refused.owners += 1;
                self.note(|| failed("the owner"));
                // The group alone may be allowed.
                let _ = chownat(CWD, path, None, Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            }
            answer => answer.context(|| failed("the owner"))?,
        }
        for (name, value) in entry.xattrs {
            let name = OsStr::from_bytes(name);
            match lsetxattr(path, name, value, XattrFlags::empty()) {
                Err(Errno::PERM | Errno::NOTSUP | Errno::ACCESS) => {
                    self.refused.xattrs += 1;
                    let what = format!("the attribute {}", name.display());
                    self.note(|| failed(&what));
                }
                answer => answer.context(|| failed("an extended attribute"))?,
            }
        }
        if row.kind != FileKind::Symlink {
            let mode = Mode::from_raw_mode(u32::from(row.mode));
            chmodat(CWD, path, mode, AtFlags::empty()).context(|| failed("the mode"))?;
        }
        let times = Timestamps {
            last_access: timespec(row.atime),
            last_modification: timespec(row.mtime),
        };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).context(|| failed("the time"))
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        self.refused.first.get_or_insert_with(text);
    }
}

impl Sink for DirectorySink {
    fn directory(&mut self, entry: Entry<'_>) -> Result<()> {
        let path = self.path(entry.path);
        let failed = || format!("the directory {} could not be made", path.display());
        if entry.path.is_empty() {
            let mut builder = DirBuilder::new();
            return builder
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .context(failed);
        }
        // Its true attributes come last: it may not be writable.
        DirBuilder::new().mode(0o700).create(&path).context(failed)
    }

    fn leave_directory(&mut self, entry: Entry<'_>) -> Result<()> {
        let path = self.path(entry.path);
        self.attributes(&entry, &path)
    }

    fn file(&mut self, entry: Entry<'_>, data: &mut FileData<'_, '_>) -> Result<()> {
        let path = self.path(entry.path);
        let failed = || format!("{} could not be written", path.display());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file: File = options.open(&path).context(failed)?;
        file.set_len(entry.row.size).context(failed)?;
        data.read(|offset, bytes| file.write_all_at(bytes, offset).context(failed))?;
        drop(file);
        self.attributes(&entry, &path)
    }

    fn hard_link(&mut self, entry: Entry<'_>, first: &[u8]) -> Result<()> {
        let (path, first) = (self.path(entry.path), self.path(first));
        match fs::hard_link(&first, &path) {
            // The first name was a device that could not be made.
            Err(e)
                if e.kind() == std::io::ErrorKind::NotFound
                    && first.symlink_metadata().is_err() =>
            {
                Ok(())
            }
            answer => answer.context(|| format!("the hard link {} failed", path.display())),
        }
    }

    fn symlink(&mut self, entry: Entry<'_>, target: &[u8]) -> Result<()> {
        let path = self.path(entry.path);
        symlink(OsStr::from_bytes(target), &path)
            .context(|| format!("the symlink {} could not be made", path.display()))?;
        self.attributes(&entry, &path)
    }

    fn special(&mut self, entry: Entry<'_>) -> Result<()> {
        let path = self.path(entry.path);
        let kind = match entry.row.kind {
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Socket => FileType::Socket,
            _ => FileType::Fifo,
        };
        let mode = Mode::from_raw_mode(0o600);
        match mknodat(CWD, &path, kind, mode, u64::from(entry.row.rdev)) {
            Err(Errno::PERM) if !self.is_root => {
                self.refused.devices += 1;
                self.note(|| format!("{} could not be made", path.display()));
                Ok(())
            }
            answer => {
                answer.context(|| format!("{} could not be made", path.display()))?;
                self.attributes(&entry, &path)
            }
        }
    }
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec {
        tv_sec: time.secs(),
        tv_nsec: i64::from(time.nanos()),
    }
}
