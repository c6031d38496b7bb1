//! The one way CBFS replaces or creates a small file durably, and how it removes what may be gone already.

use crate::error::{Context, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replace `path` by `contents`: temporary file in the same directory, fsync, rename, fsync of
/// the directory. After it returns `Ok` the new contents survive power loss; after a crash before
/// that the file is whole, old or new; a stray `.tmp…` file may stay.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let dir = parent(path)?;
    let mut temporary = tempfile::Builder::new().prefix(".tmp").tempfile_in(dir)?;
    temporary.write_all(contents)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    sync_dir(dir)
}

/// fsync a file that is written already (its directory entry is not made durable).
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// fsync a directory, so that entries created, renamed or removed in it survive power loss.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Remove a directory with everything in it, unless it is gone already. Not durable: a crash may bring all or some of it
/// back.
///
/// # Errors
/// Names the directory; some of it may be gone then.
pub fn remove_dir_all(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).context(|| format!("{} could not be removed", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Create `dir` and its missing parents, durably.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let up = parent(dir)?;
    create_dir_all(up)?;
    match fs::create_dir(dir) {
        Ok(()) => sync_dir(up),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(p) => Ok(p),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a path without a parent",
        )),
    }
}
