//! An instance: a file system on one node. A master has a journal, a KVS with files, and backing files; a
//! slave only the stack of one snapshot with caches above. Both serve the same operations through
//! the same read path; a slave answers EROFS to everything that changes something.

mod acl;
mod attributes;
mod below;
mod commit;
mod contents;
mod fence;
mod filesystem;
mod listing;
mod lookups;
mod namespace;
mod open;
pub(crate) mod replay;
mod room;
mod snapshot_source;
mod traffic;
mod unpublished;
mod workers;

pub use lookups::Lookups;
pub(crate) use open::lock_existing;
pub use open::{Inherited, MasterBase, MasterParams, SlaveParams, StateDirLock};
pub use traffic::MountTraffic;
pub use unpublished::Unpublished;

use crate::data::{BackingFiles, Preserved};
use crate::failpoints::{self, reach};
use crate::journal::{Event, History, Journal, Syncer};
use crate::kvs::{Found, Inode, Kvs, Tables};
use crate::space::Space;
use crate::tiering::tier_in::TierIn;
use cbfs_core::api::{Health, Role};
use cbfs_core::clock::Clock;
use cbfs_core::error::{Error, Result};
use cbfs_core::ids::{Epoch, Ino, Xid};
use cbfs_fuse::{Errno, Refusal};
use parking_lot::{Mutex, RwLock};
use rustc_hash::{FxHashMap, FxHashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The name in the root directory that is CBFS's own.
pub const RESERVED_NAME: &[u8] = b".cbfs";

/// Locks of inodes, shared by hash.
const STRIPES: usize = 256;

/// Tunables of an instance.
#[derive(Debug, Clone)]
pub struct Options {
    /// Flush the dirty rows when there are this many ...
    pub flush_rows: usize,
    /// ... or they take this much memory, in bytes ...
    pub flush_bytes: usize,
    /// ... or this much time has passed.
    pub flush_every: Duration,
    /// Writers wait while dirty rows take more than this, in bytes.
    pub dirty_limit: usize,
    /// Bound on clean rows, in bytes.
    pub cache_limit: usize,
    /// Everything is made durable at least this often.
    pub sync_every: Duration,
    /// Never update access times.
    pub noatime: bool,
    /// Bound on data, KVS and journal, in bytes.
    pub limit: Option<u64>,
    /// Size of the ballast in bytes; by the size of the disk when not given.
    pub ballast: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            flush_rows: 150_000,
            flush_bytes: 32 << 20,
            flush_every: Duration::from_secs(5),
            dirty_limit: 80 << 20,
            cache_limit: 32 << 20,
            sync_every: Duration::from_secs(5),
            noatime: false,
            limit: None,
            ballast: None,
        }
    }
}

impl Options {
    /// The defaults, with the bounds that `CBFS_FLUSH_ROWS` and `CBFS_CACHE_BYTES`, or `flush_rows` and
    /// `cache_bytes` of `cbfsd.toml`, give instead. A value that is no number is told in the log, and the
    /// default stands.
    pub fn from_environment() -> Options {
        let mut options = Options::default();
        let configured = cbfs_core::configuration::current();
        let number = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok());
        if let Some(rows) = number(configured.flush_rows) {
            options.flush_rows = rows;
        }
        if let Some(bytes) = number(configured.cache_bytes) {
            options.cache_limit = bytes;
        }
        let given = |name: &str, bound: &mut usize| {
            let Some(text) = std::env::var_os(name).filter(|v| !v.is_empty()) else {
                return;
            };
            match text.to_str().and_then(|t| t.parse().ok()) {
                Some(number) => *bound = number,
                None => tracing::warn!("{name} is no number ({}): ignored", text.display()),
            }
        };
        given("CBFS_FLUSH_ROWS", &mut options.flush_rows);
        given("CBFS_CACHE_BYTES", &mut options.cache_limit);
        // An operation needs a handful of rows in memory at once.
        options.cache_limit = options.cache_limit.max(4096);
        options
    }
}

/// A file system on this node.
pub struct Instance {
    id: String,
    dir: PathBuf,
    role: Role,
    epoch: Epoch,
    clock: Arc<dyn Clock>,
    options: Options,
    kvs: Kvs,
    /// `None` on a slave.
    journal: Option<Mutex<Journal>>,
    syncer: Option<Arc<Syncer>>,
    /// What of the journal is published.
    history: History,
    gate: RwLock<()>,
    stripes: Vec<RwLock<()>>,
    backing: BackingFiles,
    /// `None` on a slave.
    space: Option<Space>,
    /// The last transaction before unused room was last given back.
    reclaimed_at: AtomicU64,
    /// Where contents come from that are not here: of a slave and a promoted master.
    tier_in: Option<Arc<TierIn>>,
    /// Which blocks of files that are partly below are here.
    residency: below::Residency,
    /// What the snapshot being persisted still needs.
    preserved: RwLock<Option<Arc<Preserved>>>,
    /// How often the kernel has been told of each inode and not yet forgotten it.
    lookups: Arc<Lookups>,
    /// Files truncated to nothing whose new contents have no backing file yet.
    truncated: Mutex<FxHashSet<Ino>>,
    /// Orphans that a full disk kept from being destroyed; the syncer tries again.
    undestroyed: Mutex<FxHashSet<Ino>>,
    /// Backing files that must be synced before the journal is.
    barrier: Mutex<FxHashSet<(Ino, u64)>>,
    poison: OnceLock<String>,
    /// Why nothing is changed any more.
    fenced: OnceLock<String>,
    problems: Mutex<FxHashMap<&'static str, String>>,
    /// Called when the health may have changed, from any thread and with any lock held.
    health_changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    traffic: Arc<MountTraffic>,
    workers: workers::Workers,
    /// Holds the lock on the state directory.
    lock: StateDirLock,
}

impl Instance {
    /// `HANDLE` or `HANDLE@NUMBER`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Master or slave.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The master's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What the kernel knows of the mount it serves.
    pub fn lookups(&self) -> &Arc<Lookups> {
        &self.lookups
    }

    /// The lock on its state directory, for the instance that takes over from it there.
    pub fn state_dir_lock(&self) -> StateDirLock {
        self.lock.clone()
    }

    /// The KVS.
    pub fn kvs(&self) -> &Kvs {
        &self.kvs
    }

    /// Directory of the journal.
    pub fn journal_dir(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// Everything up to this transaction survives power loss.
    pub fn synced_xid(&self) -> Xid {
        self.syncer.as_ref().map_or(Xid(0), |s| s.synced())
    }

    /// A failed fsync or broken invariant: reads go on, everything that changes something fails.
    pub fn poison(&self, why: &Error) {
        let mut text = why.to_string();
        for cause in why.causes() {
            text.push_str(": ");
            text.push_str(&cause);
        }
        tracing::error!(instance = %self.id, "poisoned: {text}");
        let _ = self.poison.set(text); // only the first reason is kept
        self.tell_health();
    }

    /// Why it is poisoned.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// Note (or clear) a problem that an operator should see, by topic.
    pub fn set_problem(&self, topic: &'static str, problem: Option<String>) {
        let changed = {
            let mut problems = self.problems.lock();
            match problem {
                Some(text) => {
                    let before = problems.insert(topic, text.clone());
                    before.is_none_or(|before| before != text)
                }
                None => problems.remove(topic).is_some(),
            }
        };
        if changed {
            self.tell_health();
        }
    }

    /// What is to be called when the health may have changed: from any thread and with any lock held, so it must
    /// neither wait nor ask this instance. Only the first one is.
    pub fn on_health_change(&self, call: Box<dyn Fn() + Send + Sync>) {
        if self.health_changed.set(call).is_err() {
            tracing::error!(instance = %self.id, "its health is watched already");
        }
    }

    fn tell_health(&self) {
        if let Some(call) = self.health_changed.get() {
            call();
        }
    }

    /// Contents that another instance of the file system has in memory are this one's too, where they are the same.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn adopt_contents(&self, former: &Instance) -> Result<()> {
        match (&self.tier_in, &former.tier_in) {
            (Some(ours), Some(theirs)) => ours.adopt(theirs),
            _ => Ok(()),
        }
    }

    /// What went through its mount.
    pub fn traffic(&self) -> &MountTraffic {
        &self.traffic
    }

    /// How it is, and why not well.
    pub fn health(&self) -> (Health, Vec<String>) {
        let mut problems: Vec<String> = self.problems.lock().values().cloned().collect();
        problems.sort();
        if let Some(damage) = self.tier_in.as_ref().and_then(|t| t.damage()) {
            problems.push(format!(
                "{damage}: reads of what it holds answer EIO; `cbfsctl snapshot verify --deep` names the files"
            ));
        }
        if let Some(why) = self.poisoned() {
            problems.insert(0, format!("{why}; restart cbfsd, and check the disk"));
            return (Health::Poisoned, problems);
        }
        if let Some(why) = self.fenced_because() {
            problems.insert(0, format!("read-only: {why}"));
            return (Health::Fenced, problems);
        }
        let health = if problems.is_empty() {
            Health::Ok
        } else {
            Health::Degraded
        };
        (health, problems)
    }

    fn stripe(&self, ino: Ino) -> &RwLock<()> {
        // Inode numbers are consecutive: their low bits spread well.
        &self.stripes[ino.0 as usize % STRIPES]
    }

    fn preserved(&self) -> Option<Arc<Preserved>> {
        self.preserved.read().clone()
    }

    /// Read the tables, loading what is missing; errors become EIO.
    fn read<T>(&self, f: impl FnMut(&Tables) -> Found<T>) -> Result<T, Refusal> {
        self.kvs.read(f).map_err(|e| self.eio(&e))
    }

    fn count_lookup(&self, ino: Ino) {
        self.lookups.raise(ino);
    }

    /// The kernel forgot `count` lookups of an inode.
    fn forgotten(&self, ino: Ino, count: u64) {
        if self.lookups.lower(ino, count) {
            self.destroy_if_unused(ino);
        }
    }

    /// The mount is gone, and with it all that the kernel knew: it sends no forgets at unmount.
    pub fn forget_all(&self) {
        self.lookups.clear();
        let orphans: Vec<Ino> = self.kvs.tables().orphans.iter().copied().collect();
        for ino in orphans {
            self.destroy_if_unused(ino);
        }
    }

    /// Destroy an inode that has no name and that the kernel does not know (any more).
    fn destroy_if_unused(&self, ino: Ino) {
        let orphan = self.kvs.tables().orphans.contains(&ino);
        if !orphan || self.lookups.of(ino) > 0 {
            return;
        }
        if let Err(Refusal::Errno(e)) = self.freeing(|| self.destroy(ino))
            && e != Errno::EROFS
        {
            // It stays an orphan until then, or is swept at the next mount.
            tracing::debug!(instance = %self.id, %ino, errno = e.0, "an orphan could not be destroyed");
            self.undestroyed.lock().insert(ino);
        }
    }

    /// Try again to destroy the orphans that could not be destroyed when they became unused.
    fn destroy_left_over(&self) {
        let left: Vec<Ino> = self.undestroyed.lock().drain().collect();
        for ino in left {
            self.destroy_if_unused(ino);
        }
    }

    fn destroy(&self, ino: Ino) -> Result<(), Refusal> {
        let _stripe = self.stripe(ino).write();
        let (destroyed, xid) = self.commit(|d| {
            let inode = d.tables.inode_row(ino)?;
            if inode.row.gone || inode.row.nlink > 0 {
                return Ok(None);
            }
            d.events.push(Event::InodeDestroy { ino });
            Ok(Some(inode))
        })?;
        reach(failpoints::DESTROY_JOURNALED);
        if let Some(Inode { file, .. }) = destroyed
            && file != 0
        {
            self.backing.doom(ino, file, xid);
        }
        self.truncated.lock().remove(&ino);
        Ok(())
    }
}
