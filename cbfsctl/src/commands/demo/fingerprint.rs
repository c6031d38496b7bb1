//! The fingerprint of a tree: every attribute that a snapshot must keep, and the BLAKE3 of every
//! file's contents. Two trees with the same fingerprint are the same to any program that does not
//! look at inode numbers, change times or access times.

use crate::interrupt::Interrupt;
use crate::output::Outcome;
use cbfs_core::Result;
use cbfs_core::error::Context;
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// What one name of a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Type and permission bits, as `st_mode`.
    mode: u32,
    uid: u32,
    gid: u32,
    /// Of directories 0: how large a directory is is the file system's own business.
    size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    nlink: u64,
    rdev: u64,
    /// Symlink target.
    target: Option<Vec<u8>>,
    /// All extended attributes, by name.
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// BLAKE3 of a regular file's contents.
    contents: Option<[u8; 32]>,
    /// The first other name of the same inode, of files with several.
    same_as: Option<PathBuf>,
}

impl Entry {
    /// Whether it is a regular file.
    pub(super) fn is_file(&self) -> bool {
        self.contents.is_some()
    }

    /// Whether its owner may write to it.
    pub(super) fn is_writable(&self) -> bool {
        self.mode & 0o200 != 0
    }

    /// Names of what differs.
    fn differs_in(&self, other: &Entry) -> Vec<&'static str> {
        let checks = [
            ("mode", self.mode == other.mode),
            ("owner", (self.uid, self.gid) == (other.uid, other.gid)),
            ("size", self.size == other.size),
            ("mtime", self.mtime == other.mtime),
            ("nlink", self.nlink == other.nlink),
            ("device", self.rdev == other.rdev),
            ("symlink target", self.target == other.target),
            ("xattrs", self.xattrs == other.xattrs),
            ("contents", self.contents == other.contents),
            ("hard links", self.same_as == other.same_as),
        ];
        checks
            .into_iter()
            .filter(|(_, same)| !same)
            .map(|(name, _)| name)
            .collect()
    }
}

/// The fingerprint of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// By path below the root; the root itself is the empty path.
    pub(super) entries: BTreeMap<PathBuf, Entry>,
    /// Bytes of contents read.
    pub(super) bytes: u64,
}

impl Fingerprint {
    /// Walk the tree under `root`. `tick` hears of entries and bytes so far.
    ///
    /// # Errors
    /// Anything that cannot be read, by path: a fingerprint has no gaps.
    pub(super) fn take(
        root: &Path,
        interrupt: &Interrupt,
        tick: &mut dyn FnMut(u64, u64),
    ) -> Outcome<Fingerprint> {
        let mut walk = Walk {
            root,
            interrupt,
            tick,
            found: Fingerprint::default(),
            first_names: HashMap::new(),
            buffer: vec![0; CHUNK],
        };
        walk.visit(Path::new(""))?;
        Ok(walk.found)
    }

    /// How `other` differs, a line per path, in order.
    pub(super) fn differences(&self, other: &Fingerprint) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, entry) in &self.entries {
            match other.entries.get(path) {
                None => lines.push(format!("{}: missing", path.display())),
                Some(found) if found != entry => {
                    lines.push(format!(
                        "{}: {}",
                        path.display(),
                        entry.differs_in(found).join(", ")
                    ));
                }
                Some(_) => {}
            }
        }
        for path in other
            .entries
            .keys()
            .filter(|p| !self.entries.contains_key(*p))
        {
            lines.push(format!("{}: should not be there", path.display()));
        }
        lines
    }
}

struct Walk<'a> {
    root: &'a Path,
    interrupt: &'a Interrupt,
    tick: &'a mut dyn FnMut(u64, u64),
    found: Fingerprint,
    /// First path of each inode that has several names.
    first_names: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    fn visit(&mut self, relative: &Path) -> Outcome {
        self.interrupt.check()?;
        let path = self.root.join(relative);
        let entry = self.entry(relative, &path)?;
        let is_directory = entry.mode & 0o170_000 == 0o040_000;
        self.found.entries.insert(relative.to_owned(), entry);
        (self.tick)(self.found.entries.len() as u64, self.found.bytes);
        if !is_directory {
            return Ok(());
        }
        let unreadable = || format!("directory {} could not be read", path.display());
        let mut names = Vec::new();
        for child in fs::read_dir(&path).context(unreadable)? {
            names.push(child.context(unreadable)?.file_name());
        }
        names.sort(); // so that "the first name" of an inode is the same in every walk
        for name in names {
            self.visit(&relative.join(name))?;
        }
        Ok(())
    }

    fn entry(&mut self, relative: &Path, path: &Path) -> Result<Entry> {
        let metadata = fs::symlink_metadata(path)
            .context(|| format!("the attributes of {} could not be read", path.display()))?;
        let kind = metadata.file_type();
        let same_as = if metadata.nlink() > 1 && !kind.is_dir() {
            let first = self
                .first_names
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| relative.to_owned());
            (first != relative).then(|| first.clone())
        } else {
            None
        };
        let target = if kind.is_symlink() {
            let target = fs::read_link(path)
                .context(|| format!("symlink {} could not be read", path.display()))?;
            Some(target.as_os_str().as_bytes().to_vec())
        } else {
            None
        };
        let contents = if kind.is_file() {
            Some(self.hash(path)?)
        } else {
            None
        };
        let is_device = kind.is_block_device() || kind.is_char_device();
        Ok(Entry {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: if kind.is_dir() { 0 } else { metadata.size() },
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            nlink: metadata.nlink(),
            rdev: if is_device { metadata.rdev() } else { 0 },
            target,
            xattrs: xattrs(path)?,
            contents,
            same_as,
        })
    }

    fn hash(&mut self, path: &Path) -> Result<[u8; 32]> {
        let unreadable = || format!("file {} could not be read", path.display());
        let mut file = File::open(path).context(unreadable)?;
        let mut hasher = blake3::Hasher::new();
        loop {
            let n = file.read(&mut self.buffer).context(unreadable)?;
            if n == 0 {
                return Ok(*hasher.finalize().as_bytes());
            }
            hasher.update(&self.buffer[..n]);
            self.found.bytes += n as u64;
        }
    }
}

/// All extended attributes; none where the file system has none.
fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let unreadable = || {
        format!(
            "the extended attributes of {} could not be read",
            path.display()
        )
    };
    let names = match read_growing(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Err(e) => return Err(e).context(unreadable),
    };
    let mut found = BTreeMap::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let value = read_growing(|buffer| rustix::fs::lgetxattr(path, name, buffer));
        found.insert(name.to_vec(), value.context(unreadable)?);
    }
    Ok(found)
}

/// Read into a buffer that grows up to the kernel's limit of 64 KiB.
fn read_growing(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match read(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < (1 << 16) => buffer.resize(1 << 16, 0),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn fingerprint(dir: &Path) -> Fingerprint {
        Fingerprint::take(dir, &Interrupt::default(), &mut |_, _| {}).unwrap()
    }

    #[test]
    fn every_kind_of_change_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/a"), "contents").unwrap();
        fs::hard_link(at("d/a"), at("d/b")).unwrap();
        symlink("d/a", at("s")).unwrap();
        let before = fingerprint(dir.path());
        assert_eq!(before.entries.len(), 5);
        assert!(before.differences(&fingerprint(dir.path())).is_empty());
        let mtime = fs::metadata(at("d/a")).unwrap().modified().unwrap();

        let differs = |what: &str| {
            let lines = before.differences(&fingerprint(dir.path()));
            assert!(
                lines.iter().any(|l| l == what),
                "{what} is not in {lines:?}"
            );
        };
        fs::write(at("d/a"), "contentS").unwrap();
        File::options()
            .write(true)
            .open(at("d/a"))
            .unwrap()
            .set_modified(mtime)
            .unwrap();
        differs("d/a: contents");
        fs::set_permissions(at("d/b"), fs::Permissions::from_mode(0o640)).unwrap();
        differs("d/b: mode, contents");
        fs::remove_file(at("s")).unwrap();
        differs("s: missing");
        symlink("elsewhere", at("t")).unwrap();
        differs("t: should not be there");
        fs::remove_file(at("d/b")).unwrap();
        differs("d/b: missing");
        differs("d/a: mode, nlink, contents");
    }
}
