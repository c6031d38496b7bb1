//! Opening an instance: recovery of a master from its state directory, a slave from a snapshot.
//!
//! State directory of a master (0700, locked): `journal/ kvs/ data/ frozen/ proxy/ status/`. Recovery
//! trusts the KVS up to its committed xid and replays the journal after it. What the journal
//! holds is a prefix of what was answered; a torn tail and everything behind it is cut off.

use super::replay::replay;
use super::{Instance, Lookups, MountTraffic, Options, fence};
use crate::data::BackingFiles;
use crate::journal::{Event, History, Journal, Keep};
use crate::kvs::{Committed, Counters, Kvs};
use crate::space::{Space, full_errno};
use crate::tiering::tier_in::TierIn;
use cbfs_core::api::Role;
use cbfs_core::clock::Clock;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::ids::{Epoch, Ino, Xid};
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_core::layers::{Layer, Stack};
use parking_lot::{Mutex, RwLock};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

/// The lock on a state directory. Two instances may share it while one takes over from the other.
#[derive(Debug, Clone)]
pub struct StateDirLock(
    // Held, not used: the lock goes with the last descriptor.
    #[expect(dead_code)] Arc<File>,
);

/// What an instance that takes a mount over has from the one before.
#[derive(Debug, Clone)]
pub struct Inherited {
    /// What the kernel knows of the mount.
    pub lookups: Arc<Lookups>,
    /// What passed through the mount.
    pub traffic: Arc<MountTraffic>,
    /// The lock on the state directory they share.
    pub lock: StateDirLock,
}

impl Inherited {
    /// From `before`.
    pub fn from(before: &Instance) -> Inherited {
        Inherited {
            lookups: Arc::clone(before.lookups()),
            traffic: Arc::clone(&before.traffic),
            lock: before.state_dir_lock(),
        }
    }

    /// From `before`, whose mount the instance in another directory takes over.
    pub fn of_mount(before: &Instance, dir: &Path) -> Result<Inherited> {
        Ok(Inherited {
            lookups: Arc::clone(before.lookups()),
            traffic: Arc::clone(&before.traffic),
            lock: StateDirLock(Arc::new(lock_state_dir(dir)?)),
        })
    }

    /// As given, or of an instance that begins with no mount.
    fn or_new(given: Option<Inherited>, dir: &Path) -> Result<Inherited> {
        match given {
            Some(inherited) => Ok(inherited),
            None => Ok(Inherited {
                lookups: Arc::default(),
                traffic: Arc::default(),
                lock: StateDirLock(Arc::new(lock_state_dir(dir)?)),
            }),
        }
    }
}

/// What a master is opened with.
pub struct MasterParams {
    /// Instance id.
    pub id: String,
    /// State directory; created if need be.
    pub dir: PathBuf,
    /// Its epoch.
    pub epoch: Epoch,
    /// Everything up to here is in a complete snapshot; 0 when there is none.
    pub published: Xid,
    /// Block size of the file system.
    pub block_size: u64,
    /// The snapshot that its epoch starts from; `None` for a file system that begins here.
    pub base: Option<MasterBase>,
    /// Tunables.
    pub options: Options,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// From the instance whose mount it takes over, if any.
    pub inherited: Option<Inherited>,
}

/// The snapshot below a master.
pub struct MasterBase {
    /// Its layers.
    pub stack: Arc<Stack>,
    /// Where contents come from.
    pub tier_in: Arc<TierIn>,
    /// What was counted in it.
    pub counters: Counters,
}

/// What a slave is opened with.
pub struct SlaveParams {
    /// Instance id.
    pub id: String,
    /// State directory; created if need be.
    pub dir: PathBuf,
    /// Epoch that published the snapshot.
    pub epoch: Epoch,
    /// The snapshot's layers.
    pub stack: Arc<Stack>,
    /// Where contents come from.
    pub tier_in: Arc<TierIn>,
    /// What statfs tells.
    pub counters: Counters,
    /// Tunables.
    pub options: Options,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// From the instance whose mount it takes over, if any.
    pub inherited: Option<Inherited>,
}

impl Instance {
    /// Open (or create) a master.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another daemon holds the directory, [`ErrorKind::Damage`] when the
    /// journal or KVS is damaged before its durable end.
    pub fn open_master(params: MasterParams) -> Result<Arc<Instance>> {
        let dir = params.dir.clone();
        Instance::recover(params).map_err(|e| match full_errno(&e) {
            Some(_) => e.hint(format!(
                "make some room on the disk of {}, or raise its quota",
                dir.display()
            )),
            None => e,
        })
    }

    fn recover(params: MasterParams) -> Result<Arc<Instance>> {
        let MasterParams {
            id,
            dir,
            epoch,
            published,
            block_size,
            base,
            options,
            clock,
            inherited,
        } = params;
        let Inherited {
            lookups,
            traffic,
            lock,
        } = Inherited::or_new(inherited, &dir)?;
        // Before anything else: on a full disk recovery needs the ballast's room.
        let space = Space::open(&dir, options.limit, options.ballast)
            .context(|| format!("{} could not be examined", dir.display()))?;
        let journal_dir = dir.join("journal");
        for sub in [
            &journal_dir,
            &dir.join("status"),
            &dir.join("frozen"),
            &dir.join("proxy"),
        ] {
            durable_file::create_dir_all(sub)
                .context(|| format!("{} could not be created", sub.display()))?;
        }
        let fenced = OnceLock::new();
        if let Some(why) = fence::read(&dir)? {
            let _ = fenced.set(why); // it is new
        }
        let floor = Committed::floor_of(epoch, base.as_ref().map(|b| b.counters));
        let (stack, tier_in) = base.map(|b| (b.stack, b.tier_in)).unzip();
        let kvs = Kvs::open(&dir.join("kvs"), stack, floor, block_size)?;
        kvs.limit_cache(options.cache_limit);
        let backing = BackingFiles::open_dir(&dir.join("data"))?;
        replay(&kvs, &journal_dir, &options)?;
        let history = History::new(&journal_dir);
        let xid = kvs.tables().xid;
        let journal = match Journal::create(&journal_dir, xid) {
            // A full disk: history goes, as it does while the instance is open.
            Err(e) if full_errno(&e).is_some() => {
                history.advance(published, &Keep::NOTHING, clock.now())?;
                Journal::create(&journal_dir, xid)?
            }
            begun => begun?,
        };
        let syncer = journal.syncer();
        let instance = Arc::new(Instance {
            id,
            dir,
            role: Role::Master,
            epoch,
            clock,
            options,
            kvs,
            journal: Some(Mutex::new(journal)),
            syncer: Some(syncer),
            history,
            gate: RwLock::new(()),
            stripes: stripes(),
            backing,
            space: Some(space),
            reclaimed_at: AtomicU64::new(0),
            tier_in,
            residency: Mutex::default(),
            preserved: RwLock::default(),
            lookups,
            truncated: Mutex::default(),
            undestroyed: Mutex::default(),
            barrier: Mutex::default(),
            poison: Default::default(),
            fenced,
            problems: Mutex::default(),
            health_changed: Default::default(),
            traffic,
            workers: Default::default(),
            lock,
        });
        instance.create_root()?;
        instance.sweep()?;
        instance.set_limit(instance.options.limit)?;
        instance.tend_room();
        Ok(instance)
    }

    /// Open a slave: read-only, nothing to recover.
    pub fn open_slave(params: SlaveParams) -> Result<Arc<Instance>> {
        let SlaveParams {
            id,
            dir,
            epoch,
            stack,
            tier_in,
            counters,
            options,
            clock,
            inherited,
        } = params;
        let Inherited {
            lookups,
            traffic,
            lock,
        } = Inherited::or_new(inherited, &dir)?;
        let block_size = stack.block_size();
        let history = History::new(&dir.join("journal"));
        let kvs = Kvs::read_only(stack, counters, block_size);
        kvs.limit_cache(options.cache_limit);
        let backing = BackingFiles::none(&dir.join("data"));
        Ok(Arc::new(Instance {
            id,
            dir,
            role: Role::Slave,
            epoch,
            clock,
            options,
            kvs,
            journal: None,
            syncer: None,
            history,
            gate: RwLock::new(()),
            stripes: stripes(),
            backing,
            space: None,
            reclaimed_at: AtomicU64::new(0),
            tier_in: Some(tier_in),
            residency: Mutex::default(),
            preserved: RwLock::default(),
            lookups,
            truncated: Mutex::default(),
            undestroyed: Mutex::default(),
            barrier: Mutex::default(),
            poison: Default::default(),
            fenced: Default::default(),
            problems: Mutex::default(),
            health_changed: Default::default(),
            traffic,
            workers: Default::default(),
            lock,
        }))
    }

    /// The root directory of a new file system; belongs to whoever runs the daemon.
    fn create_root(&self) -> Result<()> {
        let root = self.kvs.read(|tables| tables.inode_row(Ino::ROOT))?;
        if !root.row.gone {
            return Ok(());
        }
        let made = self.commit(|d| {
            let row = InodeRow {
                kind: FileKind::Directory,
                mode: 0o755,
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                nlink: 2,
                atime: d.time,
                mtime: d.time,
                ctime: d.time,
                btime: d.time,
                gone: false,
                ..InodeRow::tombstone(Ino::ROOT, d.tables.xid.next())
            };
            d.events.push(Event::InodeCreate(row));
            Ok(())
        });
        made.map_err(|_| Error::failed("the root directory could not be created"))?;
        self.sync_everything()
    }

    /// Destroy what only open descriptors of a former mount kept, and remove backing files that no
    /// inode has any more.
    fn sweep(&self) -> Result<()> {
        let orphans: Vec<Ino> = self.kvs.tables().orphans.iter().copied().collect();
        for ino in orphans {
            self.destroy_if_unused(ino);
        }
        let files = self.kvs.files();
        let block_size = self.kvs.block_size();
        let newest = files.frozen.first().map(|f| f.generation);
        let at_cut = newest.map(|generation| files.at_cut(generation, block_size));
        self.backing.sweep(&|ino, file| {
            let now = self.kvs.read(|tables| tables.inode_row(ino))?;
            if now.file == file && !now.row.gone {
                return Ok(true);
            }
            // A frozen file may still be persisted: keep what was there at its cut.
            let Some(view) = &at_cut else {
                return Ok(false);
            };
            if view.inode(ino)?.is_none_or(|row| row.gone) {
                return Ok(false);
            }
            for own in files
                .frozen
                .iter()
                .map(|f| &f.file)
                .chain(files.main.iter())
            {
                if let Some(then) = own.backing(ino)? {
                    return Ok(then == file);
                }
            }
            Ok(false)
        })
    }
}

fn stripes() -> Vec<RwLock<()>> {
    (0..super::STRIPES).map(|_| RwLock::new(())).collect()
}

/// Create the directory (0700) and take its lock.
fn lock_state_dir(dir: &Path) -> Result<File> {
    if let Some(up) = dir.parent() {
        durable_file::create_dir_all(up)
            .context(|| format!("{} could not be created", up.display()))?;
    }
    if !dir.is_dir() {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(dir)
            .context(|| format!("{} could not be created", dir.display()))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .context(|| format!("the mode of {} could not be set", dir.display()))?;
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .context(|| format!("{} could not be opened", path.display()))?;
    take_lock(lock, dir)
}

/// Take the lock of a directory that somebody made before, and change nothing in it. `None` where no
/// daemon ever opened it.
pub(crate) fn lock_existing(dir: &Path) -> Result<Option<File>> {
    let path = dir.join("lock");
    match File::open(&path) {
        Ok(lock) => take_lock(lock, dir).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(|| format!("{} could not be opened", path.display())),
    }
}

fn take_lock(lock: File, dir: &Path) -> Result<File> {
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            ErrorKind::Conflict,
            format!("another daemon uses the state directory {}", dir.display()),
        )
        .hint("stop it, or give this one another CBFS_STATE_DIR")),
        Err(e) => Err(e).context(|| format!("{} could not be locked", dir.display())),
    }
}
