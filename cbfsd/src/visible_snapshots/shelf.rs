//! The snapshots behind `.cbfs/snapshots`: which there are, and those that are open.
//!
//! An open one is a slave instance without a mount. It is a cache: it can be closed at any time and is opened
//! again when it is needed. At most [`MAX_OPEN`] are open; one that the kernel knows nothing of any more is
//! closed at once.

use crate::instance::{Instance, Options, SlaveParams};
use crate::kvs::Counters;
use crate::tiering::proxy::ProxyCache;
use crate::tiering::snapshot_stack::open_stack;
use crate::tiering::tier_in::TierIn;
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog;
use cbfs_core::clock::Clock;
use cbfs_core::durable_file;
use cbfs_core::error::Result;
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::Handle;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Open snapshots at once.
const MAX_OPEN: usize = 4;

/// For this long the list is not asked for again.
const LIST_IS_FRESH: Duration = Duration::from_secs(1);

/// Memory of an open snapshot for decompressed sections, and for rows, in bytes.
const SECTION_MEMORY: usize = 16 << 20;
const ROW_MEMORY: usize = 8 << 20;

/// Where the snapshots come from.
pub struct Library {
    /// The file system.
    pub fs: Handle,
    /// Its bucket; nothing is asked of it before somebody looks into `.cbfs/snapshots`.
    pub bucket: Arc<dyn Bucket>,
    /// Bytes per block.
    pub block_size: u64,
    /// Clock.
    pub clock: Arc<dyn Clock>,
}

/// The complete snapshots of the current lineage.
#[derive(Debug, Clone, Default)]
pub(super) struct List {
    /// With their names.
    pub(super) all: BTreeMap<BaseSnapshotKey, Option<String>>,
    /// When it last changed, nanoseconds since 1970; never twice the same.
    pub(super) changed: i64,
}

/// Number and epoch, in order.
pub(super) type BaseSnapshotKey = (u64, u16);

pub(super) struct Shelf {
    library: Library,
    /// All files of open snapshots.
    dir: PathBuf,
    /// With the time it was asked for; `None` when it is to be asked for again.
    list: Mutex<Option<(Option<Instant>, Arc<List>)>>,
    /// One listing, or one opening, at a time.
    listing: Mutex<()>,
    opening: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The most recently used last.
    open: Vec<(BaseSnapshot, Arc<OpenSnapshot>)>,
    objects: Option<Arc<Objects>>,
    /// How often the kernel was told of inodes of each.
    known: HashMap<BaseSnapshot, u64>,
    serial: u64,
}

/// An open snapshot. Its files go with it.
pub(super) struct OpenSnapshot {
    pub(super) instance: Arc<Instance>,
    _folder: Folder,
    _objects: Arc<Objects>,
}

/// Objects of all open snapshots: neighbours share most of their layers.
struct Objects {
    proxy: Arc<ProxyCache>,
    _folder: Folder,
}

/// Removes a folder when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = durable_file::remove_dir_all(&self.0) {
            tracing::warn!(causes = ?e.causes(), "files of a closed snapshot stay: {e}");
        }
    }
}

impl Shelf {
    /// In `dir`, which is emptied: what a killed process left there is of no use.
    pub(super) fn new(library: Library, dir: &Path) -> Result<Shelf> {
        durable_file::remove_dir_all(dir)?;
        Ok(Shelf {
            library,
            dir: dir.to_owned(),
            list: Mutex::default(),
            listing: Mutex::default(),
            opening: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// The list, if it is fresh.
    pub(super) fn fresh_list(&self) -> Option<Arc<List>> {
        let list = self.list.lock();
        let (at, list) = list.as_ref()?;
        at.is_some_and(|at| at.elapsed() < LIST_IS_FRESH)
            .then(|| Arc::clone(list))
    }

    /// Ask for the list again at its next use.
    pub(super) fn expire_list(&self) {
        if let Some((at, _)) = &mut *self.list.lock() {
            *at = None;
        }
    }

    /// The list as last seen, however old.
    pub(super) fn any_list(&self) -> Option<Arc<List>> {
        self.list.lock().as_ref().map(|(_, list)| Arc::clone(list))
    }

    /// The list, asked of the bucket: one listing, and a GET for each manifest that is new.
    pub(super) fn list(&self) -> Result<Arc<List>> {
        let _one = self.listing.lock();
        if let Some(list) = self.fresh_list() {
            return Ok(list);
        }
        let library = &self.library;
        let before = self.any_list().unwrap_or_default();
        let mut all = BTreeMap::new();
        for id in catalog::snapshot_ids(&*library.bucket, &library.fs)? {
            let key = (id.number.0, id.epoch.0);
            let name = match before.all.get(&key) {
                Some(name) => name.clone(),
                None => {
                    let (number, epoch) = (id.number, id.epoch);
                    match catalog::load_manifest(&*library.bucket, &library.fs, number, epoch) {
                        Ok(manifest) => manifest.name,
                        Err(e) => {
                            // One bad manifest hides itself only.
                            tracing::warn!(fs = %library.fs, causes = ?e.causes(), "{e}");
                            continue;
                        }
                    }
                }
            };
            all.insert(key, name);
        }
        let changed = if all == before.all && before.changed != 0 {
            before.changed
        } else {
            library.clock.now().0.max(before.changed + 1)
        };
        let list = Arc::new(List { all, changed });
        *self.list.lock() = Some((Some(Instant::now()), Arc::clone(&list)));
        Ok(list)
    }

    /// A snapshot, if it is open.
    pub(super) fn open_one(&self, snapshot: BaseSnapshot) -> Option<Arc<OpenSnapshot>> {
        let mut state = self.state.lock();
        let at = state.open.iter().position(|(id, _)| *id == snapshot)?;
        // Only when another one was used since: this is asked for every request.
        if at + 1 != state.open.len() {
            let entry = state.open.remove(at);
            state.open.push(entry);
        }
        state.open.last().map(|(_, open)| Arc::clone(open))
    }

    /// Open a snapshot; waits for the bucket.
    pub(super) fn open(&self, snapshot: BaseSnapshot) -> Result<Arc<OpenSnapshot>> {
        let _one = self.opening.lock();
        if let Some(open) = self.open_one(snapshot) {
            return Ok(open);
        }
        let Library {
            fs,
            bucket,
            block_size,
            clock,
        } = &self.library;
        let (objects, serial) = {
            let mut state = self.state.lock();
            state.serial += 1;
            (state.objects.clone(), state.serial)
        };
        let objects = match objects {
            Some(objects) => objects,
            None => {
                let folder = Folder(self.dir.join(format!("objects-{serial}")));
                Arc::new(Objects {
                    proxy: Arc::new(ProxyCache::open(&folder.0)?),
                    _folder: folder,
                })
            }
        };
        let manifest = catalog::load_manifest(&**bucket, fs, snapshot.number, snapshot.epoch)?;
        let stack = open_stack(&**bucket, fs, &objects.proxy, &manifest, *block_size)?;
        let stack = Arc::new(stack);
        let tier_in = TierIn::new(
            Arc::clone(bucket),
            fs.clone(),
            Arc::clone(&objects.proxy),
            Arc::clone(&stack),
            SECTION_MEMORY,
        )?;
        // The former one of this number may still be in use.
        let folder = Folder(self.dir.join(format!("{}-{serial}", snapshot.number)));
        let instance = Instance::open_slave(SlaveParams {
            id: format!("{fs}@{}", snapshot.number),
            dir: folder.0.clone(),
            epoch: snapshot.epoch,
            stack,
            tier_in: Arc::new(tier_in),
            counters: Counters {
                inodes: manifest.totals.inodes,
                bytes: manifest.totals.logical_bytes,
            },
            options: Options {
                noatime: true,
                cache_limit: ROW_MEMORY,
                ..Options::default()
            },
            clock: Arc::clone(clock),
            inherited: None,
        })?;
        let open = Arc::new(OpenSnapshot {
            instance,
            _folder: folder,
            _objects: Arc::clone(&objects),
        });
        let mut closed = Vec::new();
        {
            let mut state = self.state.lock();
            state.objects = Some(objects);
            state.open.push((snapshot, Arc::clone(&open)));
            while state.open.len() > MAX_OPEN {
                closed.push(state.open.remove(0));
            }
        }
        drop(closed); // files are removed outside the lock
        Ok(open)
    }

    /// The kernel was told of an inode of a snapshot.
    pub(super) fn told(&self, snapshot: BaseSnapshot) {
        *self.state.lock().known.entry(snapshot).or_insert(0) += 1;
    }

    /// The kernel forgot `count` lookups; with the last of them the snapshot is closed.
    pub(super) fn forgotten(&self, snapshot: BaseSnapshot, count: u64) {
        let closed = {
            let mut state = self.state.lock();
            match state.known.get_mut(&snapshot) {
                Some(left) if *left > count => {
                    *left -= count;
                    return;
                }
                _ => drop(state.known.remove(&snapshot)),
            }
            let at = state.open.iter().position(|(id, _)| *id == snapshot);
            let closed = at.map(|at| state.open.remove(at));
            let objects = if state.open.is_empty() {
                state.objects.take()
            } else {
                None
            };
            (closed, objects)
        };
        if closed.0.is_none() {
            return;
        }
        // Its read-ahead may wait for the bucket, and the caller is a session thread.
        let close = std::thread::Builder::new().name("close-snapshot".into());
        if let Err(e) = close.spawn(move || drop(closed)) {
            tracing::warn!("a thread could not be started: {e}");
        }
    }
}
