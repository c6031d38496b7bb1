//! The instances of this node: opened when the daemon starts, mounted where they were, created by a
//! mount request, and closed when it ends.
//!
//! A master stays open while it is unmounted: its snapshots go on. A slave is nothing but a mount; it
//! goes with it.

pub(crate) mod base;
mod config;
mod events;
mod follower;
mod health_watch;
mod mounts;
mod promotion;
mod retirement;
mod signs;
mod slave;
mod takeover;
mod traffic;
mod warming;

pub use config::{InstanceConfig, node_id};
pub use events::{EventHub, Told};

use crate::instance::{Inherited, Instance, MasterParams, Options};
use crate::mounted::MountedInstance;
use crate::snapshots::{ServiceParams, SnapshotService};
use crate::tiering::proxy::ProxyCache;
use cbfs_core::api::{InstanceInfo, Role, SnapshotInfo};
use cbfs_core::bucket::{Bucket, LazyBucket};
use cbfs_core::clock::{Clock, Ids};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::{FsSelector, Handle};
use cbfs_core::ids::Xid;
use cbfs_core::snapshot::SnapshotState;
use cbfs_fuse::Session;
use health_watch::HealthWatch;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

/// Memory for decompressed sections of a slave, in bytes.
const SECTION_MEMORY: usize = 64 << 20;

/// An open instance.
pub struct Open {
    id: String,
    config: Mutex<InstanceConfig>,
    dir: PathBuf,
    mounted: Arc<MountedInstance>,
    /// Of a master.
    snapshots: Mutex<Option<Arc<SnapshotService>>>,
    bucket: Arc<LazyBucket>,
    session: Mutex<Option<Session>>,
    /// Directories of slaves that it took the place of: what is open may still be read from there.
    replaced: Mutex<Vec<(PathBuf, Arc<ProxyCache>)>>,
    /// Of a slave.
    shown: Mutex<Option<slave::Shown>>,
    /// Of a slave: snapshots it showed of which files are still open, and the objects they need.
    former: Mutex<Vec<(Weak<Instance>, HashSet<String>)>>,
    /// Of a slave that follows.
    follower: Mutex<Option<Arc<follower::Follower>>>,
}

/// All instances of this node.
pub struct Manager {
    state_dir: PathBuf,
    node: String,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    open: Mutex<BTreeMap<String, Arc<Open>>>,
    /// One mount, umount or start at a time.
    changing: Mutex<()>,
    events: Arc<EventHub>,
    health: HealthWatch,
    /// Makes the signs of life be looked at.
    signs: mpsc::Sender<()>,
    stopping: AtomicBool,
    /// Wakes who waits in [`Manager::wait_for_stop`].
    stop_signal: Condvar,
    stop_lock: Mutex<()>,
}

impl Manager {
    /// The manager of a locked state directory; nothing is open yet.
    pub fn new(state_dir: &Path, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Arc<Manager>> {
        let node = node_id(state_dir, &*ids)?;
        let events = Arc::new(EventHub::new(Arc::clone(&clock), ids.attempt()));
        let (signs, bell) = mpsc::channel();
        let manager = Arc::new(Manager {
            state_dir: state_dir.to_owned(),
            node,
            clock,
            ids,
            open: Mutex::default(),
            changing: Mutex::default(),
            events,
            health: HealthWatch::default(),
            signs,
            stopping: AtomicBool::new(false),
            stop_signal: Condvar::new(),
            stop_lock: Mutex::default(),
        });
        manager.watch_health()?;
        manager.give_signs(bell)?;
        Ok(manager)
    }

    /// This node's id.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What happens on this node.
    pub fn events(&self) -> &EventHub {
        &self.events
    }

    fn instances_dir(&self) -> PathBuf {
        self.state_dir.join("instances")
    }

    /// Open all instances and bring back their mounts. One that cannot be opened is told in the
    /// log and does not keep the others from coming back.
    pub fn restore(self: &Arc<Self>) -> Result<()> {
        let _one = self.changing.lock();
        let dir = self.instances_dir();
        durable_file::create_dir_all(&dir)
            .context(|| format!("{} could not be created", dir.display()))?;
        for entry in
            fs::read_dir(&dir).context(|| format!("{} could not be read", dir.display()))?
        {
            let dir = entry
                .context(|| "the instances could not be listed".into())?
                .path();
            if let Err(e) = self.restore_one(&dir) {
                tracing::error!(dir = %dir.display(), causes = ?e.causes(), "instance not restored: {e}");
            }
        }
        Ok(())
    }

    fn restore_one(self: &Arc<Self>, dir: &Path) -> Result<()> {
        if retirement::remove_gone(dir)? || self.restore_promotion(dir)? {
            return Ok(());
        }
        let Some(config) = InstanceConfig::read(dir)? else {
            return takeover::remove_replaced(dir);
        };
        let mount_point = config.mount_point.clone();
        if config.role == Role::Slave && (mount_point.is_none() || self.is_taken_over(&config)?) {
            // Detached lazily, and the daemon ended before it was settled, or a master has its mount: nothing is left of
            // it.
            return fs::remove_dir_all(dir).context(|| format!("{} stays", dir.display()));
        }
        let open = self.open_instance(config, None)?;
        match mount_point {
            Some(mount_point) => self.attach(&open, &mount_point),
            None => Ok(()),
        }
    }

    /// Open an instance that has a config; of a slave also its manifest, unless it is cached.
    fn open_instance(
        self: &Arc<Self>,
        config: InstanceConfig,
        manifest: Option<Manifest>,
    ) -> Result<Arc<Open>> {
        let dir = self.instances_dir().join(config.id());
        let options = options_of(&config);
        let open = match config.role {
            Role::Master => self.open_master(config, &dir, options, None)?,
            Role::Slave => self.open_slave(config, &dir, options, manifest)?,
        };
        let open = Arc::new(open);
        self.health.attend(&open.instance());
        self.open.lock().insert(open.id.clone(), Arc::clone(&open));
        Ok(open)
    }

    fn open_master(
        self: &Arc<Self>,
        config: InstanceConfig,
        dir: &Path,
        options: Options,
        inherited: Option<Inherited>,
    ) -> Result<Open> {
        // A master works without its bucket: it is opened when it is needed.
        let bucket = Arc::new(LazyBucket::new(config.bucket.clone(), false));
        let base = match config.base {
            Some(base) => {
                let manifest = base::manifest(dir, base)?;
                let bucket = Arc::clone(&bucket) as Arc<dyn Bucket>;
                Some(base::open(dir, &manifest, bucket, config.block_size)?)
            }
            None => None,
        };
        let instance = Instance::open_master(MasterParams {
            id: config.id(),
            dir: dir.to_owned(),
            epoch: config.epoch,
            published: crate::snapshots::published(dir)?,
            block_size: config.block_size,
            base,
            options,
            clock: Arc::clone(&self.clock),
            inherited,
        })?;
        let events = Arc::clone(&self.events);
        let snapshots = SnapshotService::open(ServiceParams {
            instance: Arc::clone(&instance),
            fs: config.fs.clone(),
            bucket: Arc::clone(&bucket) as Arc<dyn Bucket>,
            node: self.node.clone(),
            nonce: config.nonce.clone().unwrap_or_default(),
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
            on_change: Arc::new(move |snapshot| events.snapshot(snapshot)),
            proxy_limit: cbfs_core::environment::proxy_limit()?,
        })?;
        instance.start_workers()?;
        snapshots.start()?;
        Ok(Open::new(config, dir, instance, Some(snapshots), bucket))
    }

    /// Follow new snapshots, if that is what a mounted slave is to do.
    fn follow(self: &Arc<Self>, open: &Arc<Open>) -> Result<()> {
        let interval = open.config.lock().follow.map(Duration::from_secs);
        if let (Some(interval), true) = (interval, open.shown.lock().is_some()) {
            let follower = follower::Follower::start(self, open, interval)?;
            *open.follower.lock() = Some(follower);
        }
        Ok(())
    }

    /// Let a slave that follows look for a new snapshot now; answers once it shows the latest.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown instance, [`ErrorKind::Conflict`] for one that does not follow; why the latest is not
    /// shown.
    pub fn refresh(&self, id: &str) -> Result<InstanceInfo> {
        let open = self.open.lock().get(id).cloned();
        let open = open.ok_or_else(|| unknown_instance(id))?;
        let follower = open.follower.lock().clone();
        let follower = follower.ok_or_else(|| {
            Error::new(ErrorKind::Conflict, format!("{id} does not follow"))
                .hint("a slave follows when it was mounted with --follow")
        })?;
        follower.look_now()?;
        Ok(open.info())
    }

    /// All instances, by id.
    pub fn instances(&self) -> Vec<InstanceInfo> {
        let all: Vec<Arc<Open>> = self.open.lock().values().cloned().collect();
        all.iter().map(|open| open.info()).collect()
    }

    /// One instance by its id.
    pub fn instance(&self, id: &str) -> Result<InstanceInfo> {
        let open = self.open.lock().get(id).cloned();
        open.map(|o| o.info()).ok_or_else(|| unknown_instance(id))
    }

    /// The snapshot service of a master by full handle, TAG or UUID prefix.
    pub fn snapshots_of(&self, fs: &str) -> Result<Arc<SnapshotService>> {
        let selector: FsSelector = fs.parse()?;
        let all = self.open.lock();
        let masters: BTreeMap<Handle, Arc<SnapshotService>> = all
            .values()
            .filter_map(|o| Some((o.config.lock().fs.clone(), o.snapshots()?)))
            .collect();
        let handles: Vec<Handle> = masters.keys().cloned().collect();
        let handle = selector.select(&handles).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("this node has no master of {fs}"),
            )
            .hint("snapshots are taken where the master is: see `cbfsctl instance list`"),
            _ => e,
        })?;
        Ok(Arc::clone(&masters[handle]))
    }

    /// The journal of the master of a file system, by its full handle.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when this node has none.
    pub fn journal_of(&self, fs: &str) -> Result<PathBuf> {
        let all = self.open.lock();
        let mut masters = all.values().filter(|o| o.snapshots().is_some());
        let master = masters.find(|o| o.config.lock().fs.to_string() == fs);
        let master = master.ok_or_else(|| {
            let text = format!("this node has no master of {fs}");
            Error::new(ErrorKind::NotFound, text)
        })?;
        Ok(master.instance().journal_dir())
    }

    /// Requests that are not complete or cancelled, of all masters.
    pub fn open_snapshots(&self) -> Vec<SnapshotInfo> {
        let services: Vec<_> = self
            .open
            .lock()
            .values()
            .filter_map(|o| o.snapshots())
            .collect();
        let ended = [SnapshotState::Complete, SnapshotState::Cancelled];
        let all = services.iter().flat_map(|s| s.list());
        all.filter(|s| !ended.contains(&s.state)).collect()
    }

    /// The settings were read anew: no master waits on for a bucket that refused it before.
    pub fn settings_changed(&self) {
        let services: Vec<_> = {
            let open = self.open.lock();
            open.values().filter_map(|o| o.snapshots()).collect()
        };
        services.iter().for_each(|s| s.settings_changed());
    }

    /// How many instances and mounts there are, for people.
    pub fn in_words(&self) -> String {
        let instances = self.instances();
        let mounted = instances.iter().filter(|i| i.mount_point.is_some());
        format!("{} instances, {} mounted", instances.len(), mounted.count())
    }

    /// End everything: mounts go (and come back with the next daemon), rows are written out. `doing` is told
    /// what is waited for.
    pub fn close(&self, doing: &dyn Fn(&str)) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(self.stop_lock.lock()); // whoever has looked and not yet begun to wait
        self.stop_signal.notify_all();
        self.health.stop();
        let _one = self.changing.lock();
        let all: Vec<Arc<Open>> = std::mem::take(&mut *self.open.lock())
            .into_values()
            .collect();
        for (at, open) in all.iter().enumerate() {
            let id = &open.id;
            let place = format!("{} of {}", at + 1, all.len());
            open.stop_following();
            if let Some(snapshots) = open.snapshots() {
                doing(&format!("stopping the snapshots of {id} ({place})"));
                snapshots.stop();
            }
            doing(&format!("unmounting and writing out {id} ({place})"));
            let session = open.session.lock().take();
            if let Some(session) = session
                && let Err(e) = session.unmount(false).or_else(|_| session.unmount(true))
            {
                tracing::error!(instance = open.id, "the mount could not be ended: {e}");
            }
            if let Err(e) = open.instance().close() {
                tracing::error!(instance = open.id, causes = ?e.causes(), "{e}");
            }
            open.remove_replaced();
        }
    }

    /// Wait; answers whether the daemon stops.
    fn wait_for_stop(&self, pause: Duration) -> bool {
        let mut lock = self.stop_lock.lock();
        if !self.stopping.load(Ordering::SeqCst) {
            self.stop_signal.wait_for(&mut lock, pause);
        }
        self.stopping.load(Ordering::SeqCst)
    }

    fn tell(&self, open: &Open) {
        self.events.instance(open.info());
        // A thread that has ended says nothing any more.
        let _ = self.signs.send(());
    }
}

impl Open {
    fn new(
        config: InstanceConfig,
        dir: &Path,
        instance: Arc<Instance>,
        snapshots: Option<Arc<SnapshotService>>,
        bucket: Arc<LazyBucket>,
    ) -> Open {
        Open {
            id: instance.id().to_owned(),
            config: Mutex::new(config),
            dir: dir.to_owned(),
            mounted: Arc::new(MountedInstance::new(instance)),
            snapshots: Mutex::new(snapshots),
            bucket,
            session: Mutex::default(),
            replaced: Mutex::default(),
            shown: Mutex::default(),
            former: Mutex::default(),
            follower: Mutex::default(),
        }
    }

    /// From now on a slave stays at the snapshot it shows.
    fn stop_following(&self) {
        let follower = self.follower.lock().take();
        if let Some(follower) = follower {
            follower.stop();
        }
    }

    /// Where it is mounted.
    fn mounted_at(&self) -> Option<PathBuf> {
        let session = self.session.lock();
        session.as_ref().map(|s| s.mount_point().to_owned())
    }

    /// The instance that is served at present.
    fn instance(&self) -> Arc<Instance> {
        self.mounted.present()
    }

    /// The snapshot service of a master.
    fn snapshots(&self) -> Option<Arc<SnapshotService>> {
        self.snapshots.lock().clone()
    }

    /// What the API tells of it.
    fn info(&self) -> InstanceInfo {
        let config = self.config.lock().clone();
        let mounted = self
            .session
            .lock()
            .as_ref()
            .map(|s| s.mount_point().to_owned());
        let (instance, snapshots) = (self.instance(), self.snapshots());
        let (health, problems) = instance.health();
        let (xid, counters, dirty_bytes, cut) = {
            let tables = instance.kvs().tables();
            (
                tables.xid,
                tables.counters,
                tables.dirty_bytes(),
                tables.last_cut,
            )
        };
        let follower = self.follower.lock().clone();
        let last = snapshots.as_ref().and_then(|s| s.last_complete());
        let published = last.as_ref().map_or(cut, |m| m.xid.to);
        // Of another epoch when nothing was published in this one.
        let published = published.max(Xid::floor_of(config.epoch));
        InstanceInfo {
            id: self.id.clone(),
            fs: config.fs,
            bucket: config.bucket.to_string(),
            role: config.role,
            epoch: config.epoch,
            snapshot: config.snapshot,
            following: follower.map(|f| f.info(config.snapshot)),
            mount_point: mounted,
            health,
            problems,
            xid,
            durable_xid: instance.synced_xid(),
            last_snapshot: last.as_ref().map(|m| m.number),
            last_snapshot_at: last.map(|m| m.created_at),
            next_periodic: snapshots.as_ref().and_then(|s| s.next_periodic()),
            damaged_logs: snapshots.map_or_else(Vec::new, |s| s.damaged_logs()),
            unpublished: xid.0.saturating_sub(published.0),
            inodes: counters.inodes,
            local_bytes: instance.local_bytes(),
            kvs_limit: instance.limit(),
            dirty_bytes: dirty_bytes as u64,
            logical_bytes: counters.bytes,
            free_bytes: instance.free_bytes(),
            proxy_bytes: traffic::directory_bytes(&self.dir.join("proxy")),
            traffic: traffic::of(instance.traffic(), self.bucket.counters()),
        }
    }
}

fn options_of(config: &InstanceConfig) -> Options {
    Options {
        noatime: config.noatime,
        limit: config.kvs_limit,
        ballast: config.ballast,
        ..Options::from_environment()
    }
}

fn unknown_instance(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("this node has no instance {id}"),
    )
    .hint("see `cbfsctl instance list`")
}
