//! A bucket in a directory: `file:///DIR`. An object is a file whose path below the directory is
//! its key.
//!
//! Creating an object: temporary file in `.tmp` at the root (same file system), contents, fsync,
//! linkat(2) to its name, fsync of the folder, unlink of the temporary. The link is the commit:
//! it fails when the name is taken, so of several creators exactly one wins, on a network file
//! system too. A crash before it leaves a stray file in `.tmp`, which a later open removes when it
//! is older than a day; a crash after it leaves the object whole.
//!
//! A folder is used only after its own entry and those of the folders above it are durable. Who
//! is told that an object exists already can rely on it to survive: the folder is fsynced before
//! that answer too, because the creator may have died between link and fsync.
//!
//! All access goes through the directory opened first ([`beneath`]), so no symlink and no `..`
//! leads out of it. Before each operation its path must still lead to that directory: an unmounted
//! disk must not look like an empty bucket.

mod beneath;
#[cfg(test)]
mod tests;

use super::key::refusal;
use super::{Body, Bucket, BucketError, BucketResult, BucketUrl, Key, ObjectInfo};
use crate::inode::Timestamp;
use beneath::{Beneath, DIRECTORY, open_one};
use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The folder of temporary files; no object can have it in its key.
const TEMPORARY: &str = ".tmp";

/// Seconds after which a temporary file is taken for the leftover of a crash. Its writer changes
/// the time with each write, so a slow upload is not mistaken for one.
const STALE_AFTER_SECS: i64 = 24 * 3600;

/// Objects: 0644 & umask; folders: what mkdir(1) makes.
const OBJECT_MODE: Mode = Mode::from_raw_mode(0o644);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

/// How many folders are remembered as durable. Forgetting one costs an fsync per level.
const REMEMBERED_FOLDERS: usize = 4096;

/// A bucket in a directory of this machine (or of one it mounts).
#[derive(Debug)]
pub struct FileBucket {
    url: BucketUrl,
    path: PathBuf,
    read_only: bool,
    beneath: Beneath,
    /// Device and inode number of the directory.
    identity: (u64, u64),
    /// Folders whose entries, up to the root, were fsynced by us.
    durable_folders: Mutex<HashSet<String>>,
    /// Makes names in `.tmp`; random start, so that processes rarely collide.
    next_temporary: AtomicU64,
}

impl FileBucket {
    /// Open the directory `path` (absolute) as a bucket. Unless `read_only` a temporary file is
    /// created, linked, fsynced and removed to see that objects can be created, and leftovers of
    /// crashed writers are removed. A full disk is no obstacle: reading and deleting must go on.
    ///
    /// # Errors
    /// [`BucketError::Unreachable`] when there is no such directory, [`BucketError::Invalid`] when it
    /// is not a directory or the path not absolute, [`BucketError::Denied`] when we may not read it
    /// (or write it), [`BucketError::Unsupported`] when its file system has no hard links.
    pub fn open(path: &Path, read_only: bool) -> BucketResult<FileBucket> {
        let shown = path.display();
        if !path.is_absolute() {
            let what = format!("the directory {shown} of a bucket must be an absolute path");
            return Err(BucketError::Invalid { what });
        }
        let url = BucketUrl::File {
            path: path.to_owned(),
        };
        // The path itself may lead through symlinks: the operator chose it.
        let root = fs::open(path, DIRECTORY, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => BucketError::Unreachable {
                what: format!("the directory {shown} does not exist"),
                source: None,
            },
            Errno::NOTDIR => BucketError::Invalid {
                what: format!("{shown} is not a directory"),
            },
            e => failure(format!("the directory {shown}"), e),
        })?;
        let opening = |e| failure(format!("the directory {shown}"), e);
        let stat = metadata(&root).map_err(opening)?;
        let beneath = Beneath::new(root).map_err(opening)?;
        let seed = std::hash::RandomState::new().build_hasher().finish();
        let bucket = FileBucket {
            url,
            path: path.to_owned(),
            read_only,
            beneath,
            identity: (stat.dev(), stat.ino()),
            durable_folders: Mutex::default(),
            next_temporary: AtomicU64::new(seed),
        };
        if !read_only {
            bucket.probe()?;
        }
        Ok(bucket)
    }

    /// Show that objects can be created here, then tidy `.tmp`.
    fn probe(&self) -> BucketResult<()> {
        let what = || format!("the directory {}", self.path.display());
        let temporary = match self.temporary() {
            Err(e @ BucketError::Full { .. }) => {
                tracing::warn!(bucket = %self.url, "cannot test whether the bucket is writable: {e}");
                return Ok(());
            }
            other => other?,
        };
        let folder = temporary.folder.as_fd();
        let twin = format!("{}.twin", temporary.name);
        let linked = fs::linkat(folder, &temporary.name, folder, &twin, AtFlags::empty())
            .and_then(|()| fs::unlinkat(folder, &twin, AtFlags::empty()));
        match linked {
            Ok(()) | Err(Errno::NOSPC | Errno::DQUOT) => {}
            // We own the file, so EPERM means: no hard links here (FAT, some FUSE file systems).
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                return Err(BucketError::Unsupported {
                    what: format!(
                        "{} is on a file system without hard links: it cannot refuse a second \
                         creator of an object",
                        what()
                    ),
                });
            }
            Err(e) => return Err(failure(what(), e)),
        }
        fs::fsync(folder).map_err(|e| failure(what(), e))?;
        // The age of leftovers is told by the clock that stamped them, whose ever that is.
        let now = temporary
            .file
            .metadata()
            .map_err(|e| io(what(), e))?
            .mtime();
        remove_stale(&temporary.folder, now).map_err(|e| failure(what(), e))
    }

    /// Whether the directory is still the one that was opened.
    fn check_root(&self) -> BucketResult<()> {
        let gone = |why: &str, source| BucketError::Unreachable {
            what: format!("the directory {} {why}", self.path.display()),
            source,
        };
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => Ok(()),
            Ok(_) => Err(gone(
                "is not the one that was opened (unmounted or replaced?)",
                None,
            )),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(gone("is gone", None)),
            Err(e) => Err(gone("cannot be reached", Some(e))),
        }
    }

    /// Before each operation on `key`.
    fn check(&self, key: &Key) -> BucketResult<()> {
        if is_temporary(key.as_str()) {
            let what = format!("{key} is no key of a file bucket: {TEMPORARY} is its own folder");
            return Err(BucketError::InvalidKey { what });
        }
        self.check_root()
    }

    fn check_writable(&self) -> BucketResult<()> {
        if self.read_only {
            let what = format!("{} for writing (it was opened read-only)", self.url);
            return Err(BucketError::Denied { what, source: None });
        }
        Ok(())
    }

    /// "No such object": unless the whole bucket went away meanwhile.
    fn absent(&self, key: &Key) -> BucketError {
        match self.check_root() {
            Ok(()) => BucketError::NotFound { key: key.clone() },
            Err(e) => e,
        }
    }

    /// A failed operation on an object.
    fn failed(&self, key: &Key, e: Errno) -> BucketError {
        match e {
            Errno::NOENT => match self.check_root() {
                Ok(()) => failure(format!("object {key}"), e),
                Err(gone) => gone,
            },
            _ => failure(format!("object {key}"), e),
        }
    }

    /// Open the file of an object that exists; anything but a regular file is no object.
    fn open_object(&self, key: &Key, flags: OFlags) -> BucketResult<(File, Metadata)> {
        self.check(key)?;
        match self.beneath.open(key.as_str(), flags | OFlags::CLOEXEC) {
            Ok(fd) => {
                let file = File::from(fd);
                let stat = file
                    .metadata()
                    .map_err(|e| io(format!("object {key}"), e))?;
                if stat.is_file() {
                    Ok((file, stat))
                } else {
                    Err(self.absent(key))
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NXIO) => Err(self.absent(key)),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    fn open_for_reading(&self, key: &Key) -> BucketResult<(File, Metadata)> {
        // O_NONBLOCK: a foreign fifo in the directory must not hang us.
        self.open_object(key, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// The folder `path`, created where missing, its entry durable.
    fn durable_folder(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        if path.is_empty() || self.durable_folders.lock().contains(path) {
            match self.beneath.open(path, DIRECTORY) {
                Err(Errno::NOENT) => {}
                other => return other,
            }
        }
        // From the deepest folder that is known to be durable.
        let known = self.known_folder(path);
        let mut rest = path;
        let mut folder = None;
        if let Some(known) = known {
            match self.beneath.open(known, DIRECTORY) {
                Ok(found) => {
                    rest = &path[known.len() + 1..];
                    folder = Some(found);
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
        let mut folder = match folder {
            Some(folder) => folder,
            None => self.beneath.open("", DIRECTORY)?,
        };
        for segment in rest.split('/') {
            let next = match open_one(&folder, segment, DIRECTORY) {
                Err(Errno::NOENT) => match fs::mkdirat(&folder, segment, FOLDER_MODE) {
                    Ok(()) | Err(Errno::EXIST) => open_one(&folder, segment, DIRECTORY)?,
                    Err(e) => return Err(e),
                },
                other => other?,
            };
            // Also when it existed: whoever made it may not have come to this yet.
            fs::fsync(&folder)?;
            folder = next;
        }
        let mut known = self.durable_folders.lock();
        if known.len() >= REMEMBERED_FOLDERS {
            known.clear();
        }
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        known.extend(above.chain([path]).map(str::to_owned));
        Ok(folder)
    }

    /// The deepest folder above `path` whose entry we made durable.
    fn known_folder<'p>(&self, path: &'p str) -> Option<&'p str> {
        let known = self.durable_folders.lock();
        let above = path.rmatch_indices('/').map(|(at, _)| &path[..at]);
        above.into_iter().find(|folder| known.contains(*folder))
    }

    /// A new empty file in `.tmp`.
    fn temporary(&self) -> BucketResult<Temporary> {
        let fail = |e| match self.check_root() {
            Ok(()) => failure(format!("a temporary file in {}", self.path.display()), e),
            Err(gone) => gone,
        };
        let folder = match open_one(self.beneath.root(), TEMPORARY, DIRECTORY) {
            Err(Errno::NOENT) => {
                match fs::mkdirat(self.beneath.root(), TEMPORARY, FOLDER_MODE) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(fail(e)),
                }
                open_one(self.beneath.root(), TEMPORARY, DIRECTORY).map_err(fail)?
            }
            other => other.map_err(fail)?,
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Another process may use the same name: then the next one.
        for _ in 0..64 {
            let name = format!(
                "{:016x}",
                self.next_temporary.fetch_add(1, Ordering::Relaxed)
            );
            match fs::openat(&folder, &name, flags, OBJECT_MODE) {
                Ok(fd) => {
                    return Ok(Temporary {
                        folder,
                        name,
                        file: File::from(fd),
                    });
                }
                Err(Errno::EXIST | Errno::INTR) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Err(fail(Errno::EXIST))
    }

    /// A temporary file that holds `body`, fsynced.
    fn write_temporary(&self, key: &Key, body: Body<'_>) -> BucketResult<Temporary> {
        let mut temporary = self.temporary()?;
        let writing = |e| io(format!("object {key}"), e);
        match body {
            Body::Bytes(bytes) => temporary.file.write_all(bytes).map_err(writing)?,
            Body::File(path) => {
                let reading = |source| BucketError::Io {
                    what: format!(
                        "{}, the contents of object {key}, could not be read",
                        path.display()
                    ),
                    source,
                };
                let mut from = File::open(path).map_err(reading)?;
                let promised = from.metadata().map_err(reading)?.len();
                // In the kernel (copy_file_range, sendfile) where that works.
                let copied = std::io::copy(&mut from, &mut temporary.file).map_err(writing)?;
                if copied != promised {
                    return Err(reading(std::io::Error::other(format!(
                        "it changed from {promised} to {copied} bytes while it was read"
                    ))));
                }
            }
        }
        temporary.file.sync_all().map_err(writing)?;
        Ok(temporary)
    }

    /// What stands at `name` in `folder`.
    fn stands_at(&self, folder: &OwnedFd, key: &Key) -> BucketResult<Option<FileType>> {
        match fs::statat(folder, key.split().1, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    /// The answer to a creator who found the name taken.
    fn taken(&self, folder: &OwnedFd, key: &Key) -> BucketResult<BucketError> {
        match self.stands_at(folder, key)? {
            Some(FileType::RegularFile) | None => {
                fs::fsync(folder).map_err(|e| self.failed(key, e))?;
                Ok(BucketError::AlreadyExists { key: key.clone() })
            }
            Some(_) => Ok(foreign(key)),
        }
    }

    /// All objects whose key starts with `prefix`; those with a `/` after it only where `deep`.
    fn walk(&self, prefix: &str, deep: bool) -> BucketResult<Vec<ObjectInfo>> {
        self.check_root()?;
        let (folder, start) = match prefix.rsplit_once('/') {
            // No object has such a key.
            Some((folder, _)) if refusal(folder).is_some() || is_temporary(folder) => {
                return Ok(Vec::new());
            }
            Some(both) => both,
            None => ("", prefix),
        };
        let mut found = Vec::new();
        let mut waiting = vec![(folder.to_owned(), start)];
        while let Some((folder, start)) = waiting.pop() {
            let fail = |e| failure(format!("listing {}/{folder}", self.path.display()), e);
            let dir = match self.beneath.open(&folder, DIRECTORY) {
                // Never there, or removed since its parent was read.
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                other => other.map_err(fail)?,
            };
            for entry in Dir::read_from(&dir).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let Ok(name) = entry.file_name().to_str() else {
                    continue;
                };
                if !name.starts_with(start) || (folder.is_empty() && name == TEMPORARY) {
                    continue;
                }
                let path = if folder.is_empty() {
                    name.to_owned()
                } else {
                    format!("{folder}/{name}")
                };
                // Also leaves out `.` and `..`.
                let Ok(key) = Key::new(path) else { continue };
                match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                        FileType::Directory if deep => waiting.push((key.into(), "")),
                        FileType::RegularFile => found.push(ObjectInfo {
                            key,
                            size: u64::try_from(stat.st_size).unwrap_or(0),
                            modified: Timestamp::from_parts(
                                stat.st_mtime,
                                stat.st_mtime_nsec as u32,
                            ),
                        }),
                        _ => {}
                    },
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(fail(e)),
                }
            }
        }
        // A bucket that vanished while it was read must not look like one with few objects.
        self.check_root()?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}

impl Bucket for FileBucket {
    fn url(&self) -> &BucketUrl {
        &self.url
    }

    fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
        self.check_writable()?;
        self.check(key)?;
        let (path, name) = key.split();
        let folder = self.durable_folder(path).map_err(|e| self.failed(key, e))?;
        // Spares a retry the writing of a large body; the link decides.
        if self.stands_at(&folder, key)?.is_some() {
            return Err(self.taken(&folder, key)?);
        }
        let temporary = self.write_temporary(key, body)?;
        match fs::linkat(
            &temporary.folder,
            &temporary.name,
            &folder,
            name,
            AtFlags::empty(),
        ) {
            Ok(()) => fs::fsync(&folder).map_err(|e| self.failed(key, e)),
            Err(Errno::EXIST) => Err(self.taken(&folder, key)?),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
        self.check_writable()?;
        self.check(key)?;
        let (path, name) = key.split();
        let folder = self.durable_folder(path).map_err(|e| self.failed(key, e))?;
        match self.stands_at(&folder, key)? {
            None | Some(FileType::RegularFile) => {}
            Some(_) => return Err(foreign(key)),
        }
        let temporary = self.write_temporary(key, Body::Bytes(body))?;
        fs::renameat(&temporary.folder, &temporary.name, &folder, name)
            .and_then(|()| fs::fsync(&folder))
            .map_err(|e| self.failed(key, e))
    }

    fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        let (mut file, stat) = self.open_for_reading(key)?;
        let fail = |e| io(format!("object {key}"), e);
        let mut bytes = Vec::new();
        reserve(&mut bytes, stat.len()).map_err(fail)?;
        file.read_to_end(&mut bytes).map_err(fail)?;
        Ok(bytes)
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
        let (file, stat) = self.open_for_reading(key)?;
        let short = |size: u64| BucketError::Damaged {
            key: key.clone(),
            why: format!("it has {size} bytes, {len} from offset {offset} were expected"),
        };
        // Before memory is taken: `len` comes from a document and may be damaged itself.
        if offset.checked_add(len).is_none_or(|end| end > stat.len()) {
            return Err(short(stat.len()));
        }
        let fail = |e| io(format!("object {key}"), e);
        let mut bytes = Vec::new();
        reserve(&mut bytes, len).map_err(fail)?;
        bytes.resize(len as usize, 0); // reserved, so it fits
        file.read_exact_at(&mut bytes, offset)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => BucketError::Damaged {
                    key: key.clone(),
                    why: "it became shorter while it was read".to_owned(),
                },
                _ => fail(e),
            })?;
        Ok(bytes)
    }

    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        match self.open_object(key, OFlags::PATH) {
            Ok((_, stat)) => Ok(Some(ObjectInfo {
                key: key.clone(),
                size: stat.len(),
                modified: Timestamp::from_parts(stat.mtime(), stat.mtime_nsec() as u32),
            })),
            Err(BucketError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.walk(prefix, true)
    }

    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.walk(prefix, false)
    }

    fn delete(&self, key: &Key) -> BucketResult<()> {
        self.check_writable()?;
        self.check(key)?;
        let (path, name) = key.split();
        let absent = || match self.absent(key) {
            BucketError::NotFound { .. } => Ok(()),
            gone => Err(gone),
        };
        let folder = match self.beneath.open(path, DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR) => return absent(),
            other => other.map_err(|e| self.failed(key, e))?,
        };
        match self.stands_at(&folder, key)? {
            Some(FileType::RegularFile) => {}
            None | Some(FileType::Directory) => return absent(),
            Some(_) => return Err(foreign(key)),
        }
        match fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => absent(),
            Err(e) => Err(self.failed(key, e)),
        }
    }
}

/// A file in `.tmp`, removed when dropped: its object, if it became one, is another link to it.
#[derive(Debug)]
struct Temporary {
    folder: OwnedFd,
    name: String,
    file: File,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        match fs::unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {} // ENOENT: renamed to its place
            // Harmless: a later open removes it.
            Err(e) => tracing::warn!("temporary file {} stays: {e}", self.name),
        }
    }
}

/// Remove the files in `.tmp` that nobody wrote to for a day before `now` (seconds).
fn remove_stale(folder: &OwnedFd, now: i64) -> rustix::io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Ok(stat) = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && now.saturating_sub(stat.st_mtime) > STALE_AFTER_SECS {
            match fs::unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) => tracing::info!("removed the temporary file {name:?} of a crashed writer"),
                Err(Errno::NOENT) => {}
                Err(e) => tracing::warn!("stale temporary file {name:?} stays: {e}"),
            }
        }
    }
    Ok(())
}

/// Whether a key or folder lies in `.tmp`.
fn is_temporary(path: &str) -> bool {
    path.split('/').next() == Some(TEMPORARY)
}

fn metadata(fd: &OwnedFd) -> rustix::io::Result<Metadata> {
    let as_errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    File::from(fd.try_clone().map_err(as_errno)?)
        .metadata()
        .map_err(as_errno)
}

/// Reserve `len` bytes, or say so: the size of a foreign file must not abort the process.
fn reserve(bytes: &mut Vec<u8>, len: u64) -> std::io::Result<()> {
    let too_large = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
    let len = usize::try_from(len).map_err(|_| too_large())?;
    bytes.try_reserve_exact(len).map_err(|_| too_large())
}

/// The refusal to touch what is neither a file nor a folder of ours.
fn foreign(key: &Key) -> BucketError {
    BucketError::Denied {
        what: format!("{key} (what stands there in the bucket's directory is not an object)"),
        source: None,
    }
}

fn io(what: String, e: std::io::Error) -> BucketError {
    match Errno::from_io_error(&e) {
        Some(errno) => failure(what, errno),
        None => BucketError::Io {
            what: format!("{what} could not be read or written"),
            source: e,
        },
    }
}

/// What an errno means to the operator. `what` is a noun phrase.
fn failure(what: String, e: Errno) -> BucketError {
    let source = std::io::Error::from(e);
    match e {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => BucketError::Denied {
            what,
            source: Some(source),
        },
        Errno::LOOP => BucketError::Denied {
            what: format!(
                "{what} (a symbolic link is in its path; none is followed inside a bucket)"
            ),
            source: None,
        },
        Errno::NOSPC | Errno::DQUOT => BucketError::Full { what },
        Errno::STALE
        | Errno::NOTCONN
        | Errno::TIMEDOUT
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::SHUTDOWN
        | Errno::NODEV => BucketError::Unreachable {
            what,
            source: Some(source),
        },
        Errno::NAMETOOLONG => BucketError::InvalidKey {
            what: format!("{what}: a segment of the key is longer than the file system allows"),
        },
        Errno::NOTDIR => BucketError::InvalidKey {
            what: format!("{what}: an object stands where the key has a folder"),
        },
        Errno::XDEV => BucketError::Unsupported {
            what: format!("{what}: another file system is mounted inside the bucket's directory"),
        },
        _ => BucketError::Io {
            what: format!("{what} could not be read or written"),
            source,
        },
    }
}
