//! Backing files: one sparse file per large file, same offsets, at `data/<xx>/<ino>-<file>`. `file`
//! is a number that is never used twice for an inode, so a file that was truncated to nothing and
//! written again gets a fresh one, and the old one can wait for its removal to be durable.
//!
//! Ordering: a backing file is removed only after the journal record that made it useless is durable
//! ([`BackingFiles::reap`]); else a power loss could bring the name back without the contents.

use crate::failpoints::{self, reach};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Result};
use cbfs_core::ids::{Ino, Xid};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Open files kept for reuse.
const OPEN_FILES: usize = 512;

type Id = (Ino, u64);

/// The backing files of an instance.
pub struct BackingFiles {
    dir: PathBuf,
    open: Mutex<FxHashMap<Id, Arc<File>>>,
    state: Mutex<State>,
    /// Held while useless files are being removed.
    reaping: Mutex<()>,
    /// Whether `allocated` is kept.
    counted: AtomicBool,
    /// Bytes on disk of all files: a sum of differences, which may be short of zero for a moment.
    allocated: AtomicI64,
}

#[derive(Default)]
struct State {
    /// Written since their last fdatasync; the number grows with every write, so that a sync knows
    /// whether it saw the last one.
    dirty: FxHashMap<Id, u64>,
    /// Created, and their directory entry not yet fsynced.
    fresh: FxHashSet<Id>,
    /// Useless once the journal is durable up to the xid.
    doomed: Vec<Doomed>,
}

struct Doomed {
    id: Id,
    xid: Xid,
    /// On disk.
    bytes: u64,
}

fn bytes_of(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

impl BackingFiles {
    /// Open the directory, creating it and its 256 subdirectories durably if need be.
    pub fn open_dir(dir: &Path) -> Result<BackingFiles> {
        let make = || -> io::Result<()> {
            durable_file::create_dir_all(dir)?;
            if dir.join("ff").is_dir() {
                return Ok(());
            }
            for n in 0..=255u8 {
                match fs::create_dir(dir.join(format!("{n:02x}"))) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => {}
                }
            }
            durable_file::sync_dir(dir)
        };
        make().context(|| format!("{} could not be created", dir.display()))?;
        Ok(BackingFiles::none(dir))
    }

    /// Those of an instance that has none and makes none; nothing is created.
    pub fn none(dir: &Path) -> BackingFiles {
        BackingFiles {
            dir: dir.to_owned(),
            open: Mutex::default(),
            state: Mutex::default(),
            reaping: Mutex::default(),
            counted: AtomicBool::new(false),
            allocated: AtomicI64::new(0),
        }
    }

    /// Where a file lies below the directory of backing files.
    pub fn path_in(dir: &Path, ino: Ino, file: u64) -> PathBuf {
        dir.join(format!("{:02x}/{:x}-{file:x}", ino.0 & 0xff, ino.0))
    }

    /// Which file a path names, if it is one that [`BackingFiles::path_in`] makes.
    pub fn id_of(path: &Path) -> Option<(Ino, u64)> {
        let (ino, file) = path.file_name()?.to_str()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        Some((Ino(hex(ino)?), hex(file)?))
    }

    fn path(&self, (ino, file): Id) -> PathBuf {
        BackingFiles::path_in(&self.dir, ino, file)
    }

    /// A file, open for reading and writing.
    pub fn get(&self, ino: Ino, file: u64) -> io::Result<Arc<File>> {
        let id = (ino, file);
        if let Some(open) = self.open.lock().get(&id) {
            return Ok(Arc::clone(open));
        }
        let opened = Arc::new(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path(id))?,
        );
        Ok(self.keep(id, opened))
    }

    fn keep(&self, id: Id, file: Arc<File>) -> Arc<File> {
        let mut open = self.open.lock();
        if open.len() >= OPEN_FILES {
            let mut keep = false;
            open.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        Arc::clone(open.entry(id).or_insert(file))
    }

    /// Make a fresh file with these contents; a leftover of a crash under the same number is
    /// overwritten. Durable only after [`BackingFiles::sync`].
    pub fn create(&self, ino: Ino, file: u64, contents: &[u8]) -> io::Result<Arc<File>> {
        let id = (ino, file);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let created = options.open(self.path(id))?;
        self.counting(&created, || created.write_all_at(contents, 0))?;
        let mut state = self.state.lock();
        state.fresh.insert(id);
        *state.dirty.entry(id).or_insert(0) += 1;
        drop(state);
        Ok(self.keep(id, Arc::new(created)))
    }

    /// Note that a file was written; to be called after the write.
    pub fn mark_dirty(&self, ino: Ino, file: u64) {
        *self.state.lock().dirty.entry((ino, file)).or_insert(0) += 1;
    }

    /// Give back the space of a file that [`BackingFiles::create`] made, or began, and that no record
    /// refers to. The empty file stays for the next mount to sweep: its number may be
    /// used again at once, and then the file of that name must be the one that others have open.
    pub fn discard(&self, ino: Ino, file: u64) {
        let path = self.path((ino, file));
        let emptied = File::options()
            .write(true)
            .open(&path)
            .and_then(|f| self.counting(&f, || f.set_len(0)));
        match emptied {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), "a useless file takes space: {e}");
            }
            _ => {}
        }
    }

    /// Do what changes the space that a file takes, and count the difference.
    pub fn counting<T>(&self, file: &File, change: impl FnOnce() -> T) -> T {
        if !self.counted.load(Ordering::SeqCst) {
            return change();
        }
        let before = bytes_of(file);
        let done = change();
        if let (Ok(before), Ok(after)) = (before, bytes_of(file)) {
            let difference = after as i64 - before as i64;
            self.allocated.fetch_add(difference, Ordering::SeqCst);
        }
        done
    }

    /// Begin to count the bytes that all files take on disk. Not while files are written.
    pub fn count(&self) -> Result<()> {
        let _reaping = self.reaping.lock();
        if self.counted.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let mut sum = 0;
        self.each(&mut |id| {
            // Removed meanwhile is fine: its removal is counted.
            let bytes = fs::metadata(self.path(id)).map_or(0, |m| m.blocks() * 512);
            sum += bytes as i64;
            Ok(())
        })?;
        self.allocated.fetch_add(sum, Ordering::SeqCst);
        Ok(())
    }

    /// Bytes on disk of all files, once they are counted; before that 0.
    pub fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::SeqCst).max(0) as u64
    }

    /// Bytes on disk of useless files that no pending snapshot keeps.
    pub fn doomed_bytes(&self, pending_cut: Option<Xid>) -> u64 {
        let state = self.state.lock();
        let going = state
            .doomed
            .iter()
            .filter(|d| pending_cut.is_none_or(|cut| d.id.1 > cut.0));
        going.map(|d| d.bytes).sum()
    }

    /// Make a file's contents, and its existence, survive power loss. A file that was not written
    /// since its last sync costs nothing.
    pub fn sync(&self, ino: Ino, file: u64) -> Result<()> {
        let id = (ino, file);
        let (version, fresh) = {
            let state = self.state.lock();
            let Some(version) = state.dirty.get(&id) else {
                return Ok(());
            };
            (*version, state.fresh.contains(&id))
        };
        let path = self.path(id);
        let sync = || -> io::Result<()> {
            self.get(ino, file)?.sync_data()?;
            match path.parent() {
                Some(dir) if fresh => durable_file::sync_dir(dir),
                _ => Ok(()),
            }
        };
        match sync() {
            Ok(()) => {}
            // Removed meanwhile: nothing is left that could be lost.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context(|| format!("{} could not be synced", path.display())),
        }
        let mut state = self.state.lock();
        state.fresh.remove(&id);
        if state.dirty.get(&id) == Some(&version) {
            state.dirty.remove(&id);
        }
        Ok(())
    }

    /// Make the existence of files created so far survive power loss (not their contents).
    pub fn sync_fresh_dirs(&self) -> Result<()> {
        let fresh: Vec<Id> = self.state.lock().fresh.iter().copied().collect();
        let mut dirs: Vec<PathBuf> = fresh
            .iter()
            .filter_map(|id| self.path(*id).parent().map(Path::to_owned))
            .collect();
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs {
            durable_file::sync_dir(&dir)
                .context(|| format!("{} could not be synced", dir.display()))?;
        }
        let mut state = self.state.lock();
        for id in fresh {
            state.fresh.remove(&id);
        }
        Ok(())
    }

    /// Sync all files written so far.
    pub fn sync_all(&self) -> Result<()> {
        let all: Vec<Id> = self.state.lock().dirty.keys().copied().collect();
        all.into_iter()
            .try_for_each(|(ino, file)| self.sync(ino, file))
    }

    /// A file became useless with transaction `xid`.
    pub fn doom(&self, ino: Ino, file: u64, xid: Xid) {
        let id = (ino, file);
        self.open.lock().remove(&id);
        let bytes = fs::metadata(self.path(id)).map_or(0, |m| m.blocks() * 512);
        self.state.lock().doomed.push(Doomed { id, xid, bytes });
    }

    /// Whether useless files still take space. A removal under way is waited for.
    pub fn holds_space(&self) -> bool {
        let _reaping = self.reaping.lock();
        !self.state.lock().doomed.is_empty()
    }

    /// Remove the useless files whose uselessness is durable (`synced`), but for those that a
    /// pending snapshot may still read: created at or before its cut.
    pub fn reap(&self, synced: Xid, pending_cut: Option<Xid>) -> Result<()> {
        let _reaping = self.reaping.lock();
        let mut ready = Vec::new();
        self.state.lock().doomed.retain(|Doomed { id, xid, .. }| {
            let keep = *xid > synced || pending_cut.is_some_and(|cut| id.1 <= cut.0);
            if !keep {
                ready.push(*id);
            }
            keep
        });
        for id in ready {
            {
                let mut state = self.state.lock();
                state.dirty.remove(&id);
                state.fresh.remove(&id);
            }
            self.open.lock().remove(&id);
            reach(failpoints::REAP_BEFORE_REMOVAL);
            self.remove(id)?;
        }
        Ok(())
    }

    fn remove(&self, id: Id) -> Result<()> {
        let path = self.path(id);
        let counted = self.counted.load(Ordering::SeqCst);
        let bytes = counted
            .then(|| fs::metadata(&path).ok())
            .flatten()
            .map_or(0, |m| m.blocks() * 512);
        match fs::remove_file(&path) {
            Ok(()) => {
                self.allocated.fetch_sub(bytes as i64, Ordering::SeqCst);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).context(|| format!("{} could not be removed", path.display())),
        }
    }

    /// Remove what a crash left behind: every file that `wanted` does not know.
    pub fn sweep(&self, wanted: &dyn Fn(Ino, u64) -> Result<bool>) -> Result<()> {
        self.each(&mut |(ino, file)| {
            if wanted(ino, file)? {
                Ok(())
            } else {
                self.remove((ino, file))
            }
        })
    }

    fn each(&self, visit: &mut dyn FnMut(Id) -> Result<()>) -> Result<()> {
        let describe = || format!("{} could not be listed", self.dir.display());
        for sub in fs::read_dir(&self.dir).context(describe)? {
            let sub = sub.context(describe)?.path();
            for entry in fs::read_dir(&sub).context(describe)? {
                let path = entry.context(describe)?.path();
                if let Some(id) = BackingFiles::id_of(&path) {
                    visit(id)?;
                }
            }
        }
        Ok(())
    }
}
