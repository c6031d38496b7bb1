//! Blocks that a pending snapshot still has to persist are copied to `frozen/<generation>/<ino>-<blk>`
//! on their first overwrite. A copy appears under its name only when it is whole, so that after
//! a killed daemon whatever is there can be trusted; after a power loss nothing is.

use crate::failpoints::{self, reach};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Result};
use cbfs_core::ids::{Ino, Xid};
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use rustix::fs::{SeekFrom, seek};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What is being kept for the snapshot that is being persisted.
pub struct Preserved {
    dir: PathBuf,
    /// The last operation in the snapshot.
    pub cut: Xid,
    /// Generation of the frozen file that the cut closed.
    pub generation: u64,
    /// Blocks that need no (further) copy.
    settled: Mutex<FxHashSet<(Ino, u64)>>,
    /// There may be copies: mostly nothing is overwritten while a snapshot is persisted, and then no
    /// file is looked for.
    copies: AtomicBool,
}

impl Preserved {
    /// Make the place below `dir` for the copies of a generation, or keep what is in it. Not to be
    /// done while writers are held: a disk may take its time.
    pub fn make_place(dir: &Path, generation: u64) -> Result<()> {
        let dir = dir.join(Preserved::dir_name(generation));
        fs::create_dir_all(&dir).context(|| format!("{} could not be created", dir.display()))
    }

    /// Keep copies in the place that [`Preserved::make_place`] made in `dir`. `resumed`: those of an
    /// earlier run of the daemon are there, and count.
    pub fn open(dir: &Path, generation: u64, cut: Xid, resumed: bool) -> Preserved {
        Preserved {
            copies: AtomicBool::new(resumed),
            dir: dir.join(Preserved::dir_name(generation)),
            cut,
            generation,
            settled: Mutex::default(),
        }
    }

    /// Name of the directory that holds the copies of a generation.
    pub fn dir_name(generation: u64) -> String {
        format!("{generation:06}")
    }

    fn path(&self, ino: Ino, blk: u64) -> PathBuf {
        self.dir.join(format!("{:x}-{blk:x}", ino.0))
    }

    /// Before block `blk` of `source` changes: copy it, if the snapshot needs it (`pending` asks
    /// once per block) and has no copy yet.
    pub fn keep(
        &self,
        ino: Ino,
        blk: u64,
        block_size: u64,
        source: &File,
        pending: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        if self.settled.lock().contains(&(ino, blk)) {
            return Ok(());
        }
        let path = self.path(ino, blk);
        if pending()? && !path.exists() {
            // Whoever reads the block waits for the lock that the overwrite is under.
            self.copies.store(true, Ordering::Release);
            let temporary = path.with_extension("tmp");
            copy_block(source, blk * block_size, block_size, &temporary)
                .inspect(|()| reach(failpoints::PRESERVE_COPIED))
                .and_then(|()| fs::rename(&temporary, &path))
                .context(|| format!("block {blk} of inode {ino} could not be preserved"))?;
            reach(failpoints::PRESERVE_KEPT);
        }
        self.settled.lock().insert((ino, blk));
        Ok(())
    }

    /// The copy of a block, if one was made.
    pub fn copy_of(&self, ino: Ino, blk: u64) -> io::Result<Option<File>> {
        if !self.copies.load(Ordering::Acquire) {
            return Ok(None);
        }
        match File::open(self.path(ino, blk)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Drop all copies.
    pub fn discard(&self) -> Result<()> {
        durable_file::remove_dir_all(&self.dir)
    }
}

/// Copy the data of `from..from+length` to the start of a new sparse file of the same shape.
fn copy_block(source: &File, from: u64, length: u64, to: &Path) -> io::Result<()> {
    let copy = File::create(to)?;
    let end = source.metadata()?.len().min(from + length);
    for (start, stop) in data_ranges(source, from, end)? {
        let (mut read, mut write) = (start, start - from);
        while read < stop {
            let want = usize::try_from(stop - read).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(
                source,
                Some(&mut read),
                &copy,
                Some(&mut write),
                want,
            ) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(_) => {
                    let mut bytes = vec![0; want];
                    source.read_exact_at(&mut bytes, read)?;
                    copy.write_all_at(&bytes, write)?;
                    read = stop;
                }
            }
        }
    }
    copy.set_len(end.saturating_sub(from))
}

/// The ranges of `from..to` that hold data, by `SEEK_DATA` and `SEEK_HOLE` (lseek(2)); a file system
/// without them says that all is data.
pub fn data_ranges(file: &File, from: u64, to: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut out = Vec::new();
    let mut at = from;
    while at < to {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => at,
            Err(e) => return Err(e.into()),
        };
        if start >= to {
            break;
        }
        let stop = match seek(file, SeekFrom::Hole(start)) {
            Ok(stop) => stop.min(to),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NXIO) => to,
            Err(e) => return Err(e.into()),
        };
        out.push((start, stop));
        at = stop;
    }
    Ok(out)
}
