//! The KVS of an instance: a small stack of its own. In memory, newest first: `hot` (dirty), `flushing`
//! (dirty, being written out), `cache` (clean). On disk: `active-<n>.sqlite` (what changed since
//! the last cut), at most a few `frozen-<n>.sqlite` (being persisted), `main.sqlite` (everything
//! resident). Below it the stack of immutable layers, empty for a new file system. A slave is a KVS
//! without files: its tables only cache the stack.
//!
//! What a crash leaves: the files are as of `committed_xid`; the journal has the rest. A rotation
//! is redone from the `closed_by` mark, a fold is idempotent and is run again.

mod bound;
mod file;
mod fold;
pub(crate) mod inspect;
mod load;
mod rotate;
pub mod table;
pub mod tables;

pub use file::{Committed, KvsFile};
pub use fold::{has_changes, merge_frozen};
pub use rotate::{FlushLock, Frozen};
pub use table::{Dentry, Inode, NameKey, name_key};
pub use tables::{Counters, Found, Miss, Tables};

use cbfs_core::error::{Context, Result};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::layers::{Layer, Stack};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files up to this size live inline in the KVS; larger ones have a backing file.
pub const INLINE_MAX: u64 = 16 << 10;

/// Bound on clean rows until [`Kvs::limit_cache`] sets another.
const DEFAULT_CACHE_LIMIT: usize = 32 << 20;

/// The files of a KVS and what is below, newest first. Replaced as a whole, never changed.
pub struct Files {
    /// Takes the flushes; `None` on a slave.
    pub active: Option<Arc<KvsFile>>,
    /// Generation of `active`.
    pub generation: u64,
    /// Closed by a cut, newest first.
    pub frozen: Vec<Frozen>,
    /// Everything resident; `None` on a slave.
    pub main: Option<Arc<KvsFile>>,
    /// The immutable layers below; `None` when the file system began here.
    pub base: Option<Arc<Stack>>,
    /// All of the above as one layer.
    pub stack: Stack,
}

impl Files {
    fn new(
        active: Option<Arc<KvsFile>>,
        generation: u64,
        frozen: Vec<Frozen>,
        main: Option<Arc<KvsFile>>,
        base: Option<Arc<Stack>>,
        block_size: u64,
    ) -> Files {
        let mut layers: Vec<Arc<dyn Layer>> = Vec::new();
        layers.extend(active.iter().map(|f| Arc::clone(f) as Arc<dyn Layer>));
        layers.extend(frozen.iter().map(|f| Arc::clone(&f.file) as Arc<dyn Layer>));
        layers.extend(main.iter().map(|f| Arc::clone(f) as Arc<dyn Layer>));
        layers.extend(base.iter().map(|s| Arc::clone(s) as Arc<dyn Layer>));
        let stack = Stack::new(layers, block_size);
        Files {
            active,
            generation,
            frozen,
            main,
            base,
            stack,
        }
    }

    /// The KVS's own files, newest first.
    pub fn own(&self) -> impl Iterator<Item = &Arc<KvsFile>> {
        self.active
            .iter()
            .chain(self.frozen.iter().map(|f| &f.file))
            .chain(self.main.iter())
    }

    /// The files below the cut that closed generation `generation`, itself included, as one layer.
    pub fn at_cut(&self, generation: u64, block_size: u64) -> Stack {
        let mut layers: Vec<Arc<dyn Layer>> = Vec::new();
        let below = self.frozen.iter().filter(|f| f.generation <= generation);
        layers.extend(below.map(|f| Arc::clone(&f.file) as Arc<dyn Layer>));
        layers.extend(self.main.iter().map(|f| Arc::clone(f) as Arc<dyn Layer>));
        layers.extend(self.base.iter().map(|s| Arc::clone(s) as Arc<dyn Layer>));
        Stack::new(layers, block_size)
    }

    /// The first inode made after the cut before the one that closed `generation`: what is below that generation's file
    /// has no row of it, nor of any later one. `None` when no file of the KVS is below.
    pub fn first_new_inode(&self, generation: u64) -> Result<Option<Ino>> {
        let below = self.frozen.iter().find(|f| f.generation < generation);
        let below = below.map(|f| &f.file).or(self.main.as_ref());
        let committed = below.map(|file| file.committed()).transpose()?;
        Ok(committed.flatten().map(|committed| committed.next_ino))
    }
}

/// The KVS.
pub struct Kvs {
    dir: PathBuf,
    tables: Mutex<Tables>,
    files: RwLock<Arc<Files>>,
    flush: Mutex<Option<rotate::PendingCut>>,
    block_size: u64,
    /// Bound on clean rows that reads bring in, in bytes.
    cache_limit: AtomicUsize,
}

impl Kvs {
    /// Open the KVS in `dir` (created if need be) on top of `base`. The tables are as of
    /// [`Tables::xid`]: the caller replays the journal from there.
    ///
    /// `floor` is the state of a KVS that has no rows yet: its first xid and inode number.
    pub fn open(
        dir: &Path,
        base: Option<Arc<Stack>>,
        floor: Committed,
        block_size: u64,
    ) -> Result<Kvs> {
        cbfs_core::durable_file::create_dir_all(dir)
            .context(|| format!("{} could not be created", dir.display()))?;
        let (files, committed) = rotate::open_files(dir, base, floor, block_size)?;
        let kvs = Kvs::with(dir.to_owned(), files, committed, block_size);
        let mut orphans = Vec::new();
        for file in kvs.files().own() {
            orphans.extend(file.orphans()?);
        }
        for ino in orphans {
            kvs.load(&Miss::Inode(ino))?;
            let mut tables = kvs.tables.lock();
            if tables
                .inode_row(ino)
                .is_ok_and(|i| i.row.nlink == 0 && !i.row.gone)
            {
                tables.orphans.insert(ino);
            }
        }
        Ok(kvs)
    }

    /// A KVS without files, for a slave: only caches `base`.
    pub fn read_only(base: Arc<Stack>, counters: Counters, block_size: u64) -> Kvs {
        let files = Files::new(None, 0, Vec::new(), None, Some(base), block_size);
        let committed = Committed {
            xid: Xid(0),
            next_ino: Ino(0),
            inodes: counters.inodes,
            bytes: counters.bytes,
            last_cut: Xid(0),
        };
        Kvs::with(PathBuf::new(), files, committed, block_size)
    }

    fn with(dir: PathBuf, files: Files, committed: Committed, block_size: u64) -> Kvs {
        let tables = Tables {
            hot: Default::default(),
            flushing: None,
            cache: Default::default(),
            generation: 0,
            xid: committed.xid,
            next_ino: committed.next_ino,
            last_cut: committed.last_cut,
            orphans: Default::default(),
            counters: Counters {
                inodes: committed.inodes,
                bytes: committed.bytes,
            },
            block_size,
        };
        Kvs {
            dir,
            tables: Mutex::new(tables),
            files: RwLock::new(Arc::new(files)),
            flush: Mutex::new(None),
            block_size,
            cache_limit: AtomicUsize::new(DEFAULT_CACHE_LIMIT),
        }
    }

    /// Bound the clean rows that reads bring in, in bytes.
    pub fn limit_cache(&self, bytes: usize) {
        self.cache_limit.store(bytes, Ordering::Relaxed);
    }

    /// The in-memory tables. Hold for microseconds; never wait for a file under it.
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock()
    }

    /// The files as they stand.
    pub fn files(&self) -> Arc<Files> {
        Arc::clone(&self.files.read())
    }

    /// Bytes per block of a backing file.
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Run a read of the tables until nothing it needs is missing.
    pub fn read<T>(&self, mut f: impl FnMut(&Tables) -> Found<T>) -> Result<T> {
        loop {
            let miss = match f(&self.tables.lock()) {
                Ok(value) => return Ok(value),
                Err(miss) => miss,
            };
            self.load(&miss)?;
        }
    }
}
