//! Parts of tarballs that were fetched in advance, to stay: of the tarball `KEY` in a sparse file `KEY.warm`, where they
//! lie in the object. Nothing says which are there: who reads one verifies it, as it must anyway, and what fails that is not
//! there. So nothing is fsynced, and a crash costs only work.

use super::{ProxyCache, TMP};
use cbfs_core::error::{Context, Result};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// End of the names of files with parts of a tarball.
const WARM: &str = ".warm";

impl ProxyCache {
    /// Where parts of the object `key` stand that were asked for in advance. It need not exist.
    ///
    /// # Errors
    /// As [`ProxyCache::path_of`].
    pub fn warm_path_of(&self, key: &str) -> Result<PathBuf> {
        let mut path = self.path_of(key)?.into_os_string();
        path.push(WARM);
        Ok(path.into())
    }

    /// Keep a verified part of an object, from `offset`. Not durable: after a power loss it may be fetched again.
    ///
    /// # Errors
    /// Those of the disk and of [`ProxyCache::writing`].
    pub fn keep_part(&self, key: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let path = self.warm_path_of(key)?;
        let _writing = self.writing()?;
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            let mut options = File::options();
            let file = options
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            file.write_all_at(bytes, offset)
        };
        write().context(|| format!("{} could not be written", path.display()))
    }

    /// Bytes that the disk leaves.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn free_bytes(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&self.dir).map_err(io::Error::from);
        let found = found.context(|| format!("{} could not be examined", self.dir.display()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Take over what another cache has and this one has not, by hard links: each file is only ever replaced by a rename,
    /// but for parts of tarballs, which are verified whenever they are read.
    ///
    /// # Errors
    /// Those of the disk; some files are taken over then, others not.
    pub fn adopt(&self, other: &ProxyCache) -> Result<()> {
        link_all(&other.dir, &other.dir.join(TMP), &self.dir).context(|| {
            let (from, to) = (other.dir.display(), self.dir.display());
            format!("{from} could not be linked into {to}")
        })
    }
}

/// Whether these are parts of a tarball, in a folder where something else is kept: the TOC that they are found by.
pub(super) fn is_beside(path: &Path, kept: &HashSet<PathBuf>) -> bool {
    path.to_str().is_some_and(|name| name.ends_with(WARM))
        && kept.iter().any(|other| other.parent() == path.parent())
}

fn link_all(from: &Path, left_out: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, there) = (entry.path(), to.join(entry.file_name()));
        if path == left_out {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&there)?;
            link_all(&path, left_out, &there)?;
            continue;
        }
        match fs::hard_link(&path, &there) {
            // One that is removed meanwhile is fetched when it is needed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
    }
    Ok(())
}
