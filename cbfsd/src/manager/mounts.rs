//! Mounting and unmounting.

use super::config::{InstanceConfig, host_name};
use super::slave::store_manifest;
use super::{Manager, Open};
use crate::visible_snapshots::{Library, VisibleSnapshots};
use cbfs_core::api::{InstanceInfo, MountRequest, Role, UmountRequest};
use cbfs_core::bucket::{Bucket, LazyBucket};
use cbfs_core::catalog;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::epoch::EpochClaim;
use cbfs_core::handle::{FsSelector, Handle, SnapshotSelector};
use cbfs_core::ids::Epoch;
use cbfs_fuse::{MountOptions, Session};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Smaller limits leave no room for the KVS's own files, in bytes.
const SMALLEST_LIMIT: u64 = 64 << 20;

impl Manager {
    /// Mount a file system (creating its master here if there is none) or a snapshot.
    pub fn mount(self: &Arc<Self>, request: &MountRequest) -> Result<InstanceInfo> {
        let _one = self.changing.lock();
        self.refuse_when_stopping()?;
        self.mount_while_changing(request)
    }

    /// The same for who holds `changing`.
    pub(super) fn mount_while_changing(
        self: &Arc<Self>,
        request: &MountRequest,
    ) -> Result<InstanceInfo> {
        let mount_point = check_mount_point(&request.mount_point, request.non_empty)?;
        check_limit(request)?;
        let open = match request.role {
            Role::Master => {
                if request.snapshot.is_some() {
                    return Err(Error::new(
                        ErrorKind::Usage,
                        "a snapshot can only be mounted as a slave",
                    )
                    .hint("add --slave"));
                }
                self.master_for(request)?
            }
            Role::Slave => self.slave_for(request)?,
        };
        // Files in the state directory change although the disk may be full.
        let instance = open.instance();
        let _room = instance.lend_room()?;
        if request.kvs_limit.is_some() {
            open.instance().set_limit(limit_of(request))?;
        }
        if let Err(e) = self.attach(&open, &mount_point) {
            open.instance().set_limit(open.config.lock().kvs_limit)?;
            if request.role == Role::Slave {
                self.discard_slave(&open)?;
            }
            return Err(e);
        }
        let stored = {
            let mut config = open.config.lock();
            config.mount_point = Some(mount_point);
            config.noatime = request.noatime;
            if request.kvs_limit.is_some() {
                config.kvs_limit = limit_of(request);
            }
            config.store(&open.dir)
        };
        stored?;
        Ok(open.info())
    }

    fn master_for(self: &Arc<Self>, request: &MountRequest) -> Result<Arc<Open>> {
        let selector: FsSelector = request.fs.parse()?;
        let known: Vec<(Handle, Arc<Open>)> = {
            let all = self.open.lock();
            let masters = all
                .values()
                .filter(|o| o.config.lock().role == Role::Master);
            masters
                .map(|o| (o.config.lock().fs.clone(), Arc::clone(o)))
                .collect()
        };
        let matching: Vec<_> = known
            .into_iter()
            .filter(|(h, _)| selector.matches(h))
            .collect();
        if let [(_, open)] = matching.as_slice() {
            if let Some(session) = &*open.session.lock() {
                let text = format!(
                    "{} is mounted already, at {}",
                    open.id,
                    session.mount_point().display()
                );
                return Err(Error::new(ErrorKind::Conflict, text).hint("umount it there first"));
            }
            if let Some(snapshots) = open.snapshots() {
                snapshots.refuse_when_found_deleted()?;
            }
            return Ok(Arc::clone(open));
        }
        let (bucket, url) = self.bucket_of(&request.fs, request.bucket.as_deref(), false)?;
        let fs = catalog::find_fs(&*bucket, &request.fs)?;
        catalog::refuse_deleted(&*bucket, &fs)?;
        self.refuse_while_promoting(&fs)?;
        let config = catalog::load_config(&*bucket, &fs)?;
        let config = InstanceConfig {
            fs,
            bucket: url,
            role: Role::Master,
            epoch: Epoch(1),
            snapshot: None,
            follow: None,
            block_size: config.block_size,
            nonce: Some(self.ids.uuid().simple().to_string()),
            mount_point: None,
            noatime: request.noatime,
            kvs_limit: limit_of(request),
            ballast: None,
            base: None,
        };
        let config = self.claim_first_epoch(&*bucket, config, request.i_prevent_split_brain)?;
        self.open_instance(config, None)
    }

    /// Become the first master. The nonce is stored before the claim is made: a claim whose answer
    /// was lost is recognised as ours.
    fn claim_first_epoch(
        &self,
        bucket: &dyn Bucket,
        config: InstanceConfig,
        prevented_by_hand: bool,
    ) -> Result<InstanceConfig> {
        let dir = self.instances_dir().join(config.id());
        // Left by an earlier try that died between storing and claiming.
        let config = InstanceConfig::read(&dir)?.unwrap_or(config);
        if let Some(claim) = catalog::current_epoch(bucket, &config.fs)?
            && config.nonce.as_ref() != Some(&claim.nonce)
        {
            return Err(other_master(&config.fs, &claim));
        }
        catalog::refuse_careless_store(bucket, &config.fs, config.epoch, prevented_by_hand)?;
        config.store(&dir)?;
        let claim = EpochClaim::new(
            config.fs.clone(),
            config.epoch,
            self.node.clone(),
            host_name(),
            config.nonce.clone().unwrap_or_default(),
            self.clock.now().to_rfc3339(),
        )
        .prevented_by_hand(prevented_by_hand);
        let claimed = catalog::claim_epoch(bucket, &config.fs, &claim);
        if let Err(e) = &claimed
            && e.kind() == ErrorKind::Conflict
        {
            fs::remove_dir_all(&dir).context(|| format!("{} stays", dir.display()))?;
        }
        claimed.map_err(|e| match e.kind() {
            ErrorKind::Conflict => e.hint(slave_or_promote(&config.fs, config.epoch)),
            _ => e,
        })?;
        Ok(config)
    }

    fn slave_for(self: &Arc<Self>, request: &MountRequest) -> Result<Arc<Open>> {
        let (bucket, url) = self.bucket_of(&request.fs, request.bucket.as_deref(), true)?;
        let fs = catalog::find_fs(&*bucket, &request.fs)?;
        catalog::refuse_deleted(&*bucket, &fs)?;
        let selector = match &request.snapshot {
            Some(text) => text.parse()?,
            None => SnapshotSelector::Latest,
        };
        let fs_config = catalog::load_config(&*bucket, &fs)?;
        let manifest = catalog::find_snapshot(&*bucket, &fs, &selector)?;
        let config = InstanceConfig {
            fs,
            bucket: url,
            role: Role::Slave,
            epoch: manifest.epoch,
            snapshot: Some(manifest.number),
            follow: request.follow.map(|interval| interval.max(1)),
            block_size: fs_config.block_size,
            nonce: None,
            mount_point: None,
            noatime: request.noatime,
            kvs_limit: None,
            ballast: None,
            base: None,
        };
        let id = config.id();
        if let Some(open) = self.open.lock().get(&id) {
            let at = open
                .session
                .lock()
                .as_ref()
                .map(|s| s.mount_point().display().to_string());
            let text = format!("{id} is mounted already, at {}", at.unwrap_or_default());
            return Err(Error::new(ErrorKind::Conflict, text).hint("umount it there first"));
        }
        let dir = self.instances_dir().join(&id);
        store_manifest(&dir, &manifest)?;
        self.open_instance(config, Some(manifest)).inspect_err(|_| {
            // What was fetched for it is of no use without the mount.
            if let Err(e) = fs::remove_dir_all(&dir) {
                tracing::warn!(dir = %dir.display(), "a slave that could not be opened stays: {e}");
            }
        })
    }

    /// Mount an open instance.
    pub(super) fn attach(self: &Arc<Self>, open: &Arc<Open>, mount_point: &Path) -> Result<()> {
        let describe = || {
            format!(
                "{} could not be mounted at {}",
                open.id,
                mount_point.display()
            )
        };
        if cbfs_fuse::is_stale(mount_point) {
            cbfs_fuse::detach_stale(mount_point).context(describe)?;
        }
        let clock = Arc::clone(&self.clock);
        let options = MountOptions {
            source: format!("cbfs:{}", open.id),
            noatime: open.config.lock().noatime,
            poll_for: cbfs_core::environment::fuse_poll()?,
            clock: Arc::new(move || clock.now().0),
            ..MountOptions::default()
        };
        let served = VisibleSnapshots::new(Arc::clone(&open.mounted), self.library_of(open))?;
        let session = Session::mount(Arc::new(served), mount_point, &options).map_err(|e| {
            let hint = match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                    "is FUSE available? try `apt-get install fuse3`, `modprobe fuse`; \
                     a container needs --device /dev/fuse --cap-add SYS_ADMIN"
                }
                _ => "see the daemon's log",
            };
            Error::failed(describe()).because(e).hint(hint)
        })?;
        let mounted = session.mount_point().to_owned();
        if let Some(snapshots) = open.snapshots() {
            snapshots.set_mount_point(Some(mounted));
        }
        let manager = Arc::downgrade(self);
        session.on_end(move || {
            if let Some(manager) = manager.upgrade() {
                manager.settle_ended();
            }
        });
        let ended = {
            let mut slot = open.session.lock();
            *slot = Some(session);
            slot.as_ref().is_some_and(Session::has_ended)
        };
        if ended {
            // Unmounted by somebody else before it was noted: its callback found nothing.
            drop(open.session.lock().take());
            self.settle_after_umount(open)?;
            return Err(Error::failed(describe()).hint("somebody unmounted it at once"));
        }
        self.follow(open)?;
        self.tell(open);
        Ok(())
    }

    /// Where the snapshots below `.cbfs` come from.
    fn library_of(&self, open: &Open) -> Library {
        let config = open.config.lock();
        Library {
            fs: config.fs.clone(),
            bucket: Arc::new(LazyBucket::new(config.bucket.clone(), true)),
            block_size: config.block_size,
            clock: Arc::clone(&self.clock),
        }
    }

    pub(super) fn refuse_when_stopping(&self) -> Result<()> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::DaemonUnreachable,
                "the daemon is stopping",
            ));
        }
        Ok(())
    }

    /// A mount is gone: by a request, or because somebody ran umount(8). When the daemon stops, it
    /// is to come back. Which one is looked for: a promoted master has the session of a slave.
    fn settle_ended(&self) {
        // A mount request that is under way must not find a half-settled instance.
        let _one = self.changing.lock();
        if self.stopping.load(Ordering::SeqCst) {
            return;
        }
        let all: Vec<Arc<Open>> = self.open.lock().values().cloned().collect();
        for open in all {
            let ended = {
                let mut session = open.session.lock();
                match &*session {
                    Some(s) if s.has_ended() => session.take(),
                    _ => None,
                }
            };
            if ended.is_none() {
                continue;
            }
            drop(ended);
            if let Err(e) = self.settle_after_umount(&open) {
                tracing::error!(instance = open.id, causes = ?e.causes(), "{e}");
            }
        }
    }

    fn settle_after_umount(&self, open: &Arc<Open>) -> Result<()> {
        open.remove_replaced();
        if let Some(snapshots) = open.snapshots() {
            snapshots.set_mount_point(None);
        }
        if open.config.lock().role == Role::Slave {
            self.discard_slave(open)?;
        } else {
            open.instance().forget_all();
            {
                let instance = open.instance();
                let _room = instance.lend_room()?;
                let mut config = open.config.lock();
                config.mount_point = None;
                config.store(&open.dir)?;
            }
            open.instance().sync_everything()?;
        }
        self.tell(open);
        Ok(())
    }

    /// A slave is nothing but its mount: its caches go with it.
    fn discard_slave(&self, open: &Arc<Open>) -> Result<()> {
        open.stop_following();
        self.open.lock().remove(&open.id);
        self.events.forget(&open.id);
        let instance = open.instance();
        instance.close()?;
        instance.end_cache(); // a warm may be under way
        durable_file::remove_dir_all(&open.dir)
    }

    /// Unmount by mount point, instance id or file system.
    pub fn umount(self: &Arc<Self>, request: &UmountRequest) -> Result<InstanceInfo> {
        let _one = self.changing.lock();
        self.refuse_when_stopping()?;
        let open = self.find_mounted(&request.target)?;
        let Some(session) = open.session.lock().take() else {
            return Err(not_mounted(&request.target));
        };
        if let Err(e) = session.unmount(request.lazy) {
            let mount_point = session.mount_point().display().to_string();
            *open.session.lock() = Some(session);
            let text = format!("{mount_point} could not be unmounted");
            return Err(if e.kind() == io::ErrorKind::ResourceBusy {
                Error::new(ErrorKind::Conflict, text)
                    .because(e)
                    .hint("files are open in it (see `fuser -vm DIR`); or detach it with --lazy")
            } else {
                Error::failed(text).because(e)
            });
        }
        if !session.has_ended() {
            // Detached lazily and still in use: it is served until the last file is closed, and
            // settled then. With the next daemon it is not to come back.
            *open.session.lock() = Some(session);
            if let Some(snapshots) = open.snapshots() {
                snapshots.set_mount_point(None);
            }
            let mut config = open.config.lock();
            config.mount_point = None;
            config.store(&open.dir)?;
            drop(config);
            return Ok(open.info());
        }
        drop(session);
        self.settle_after_umount(&open)?;
        Ok(open.info())
    }

    fn find_mounted(&self, target: &str) -> Result<Arc<Open>> {
        let all: Vec<Arc<Open>> = self.open.lock().values().cloned().collect();
        let mounted: Vec<Arc<Open>> = all
            .into_iter()
            .filter(|o| o.session.lock().is_some())
            .collect();
        let path = PathBuf::from(target);
        let exact = mounted.iter().find(|o| {
            let at = o
                .session
                .lock()
                .as_ref()
                .map(|s| s.mount_point().to_owned());
            at == Some(path.clone()) || o.id == target
        });
        if let Some(open) = exact {
            return Ok(Arc::clone(open));
        }
        let Ok(selector) = target.parse::<FsSelector>() else {
            return Err(not_mounted(target));
        };
        let of_fs: Vec<&Arc<Open>> = mounted
            .iter()
            .filter(|o| selector.matches(&o.config.lock().fs))
            .collect();
        match of_fs.as_slice() {
            [] => Err(not_mounted(target)),
            [one] => Ok(Arc::clone(one)),
            several => {
                let ids: Vec<&str> = several.iter().map(|o| o.id.as_str()).collect();
                let text = format!("{target} has several mounts: {}", ids.join(", "));
                Err(Error::new(ErrorKind::Conflict, text).hint("name the mount point"))
            }
        }
    }
}

fn slave_or_promote(fs: &Handle, epoch: Epoch) -> String {
    format!(
        "mount a snapshot of it with --slave; to take over from a master that is lost: `cbfsctl epoch promote {fs} \
         --previous-epoch {epoch}`"
    )
}

fn other_master(fs: &Handle, claim: &EpochClaim) -> Error {
    let text = format!(
        "{fs} has a master: node {} ({}), epoch {} since {}",
        claim.node, claim.host, claim.epoch, claim.claimed_at
    );
    Error::new(ErrorKind::Conflict, text).hint(slave_or_promote(fs, claim.epoch))
}

/// The limit that a request sets; 0 lifts it.
fn limit_of(request: &MountRequest) -> Option<u64> {
    request.kvs_limit.filter(|limit| *limit > 0)
}

fn check_limit(request: &MountRequest) -> Result<()> {
    let Some(limit) = request.kvs_limit else {
        return Ok(());
    };
    if request.role == Role::Slave {
        let text = "a snapshot takes no data in: a limit is for the master";
        return Err(Error::new(ErrorKind::Usage, text).hint("leave out --kvs-limit"));
    }
    if limit > 0 && limit < SMALLEST_LIMIT {
        let text = format!("a limit of {limit} bytes is too small");
        return Err(Error::new(ErrorKind::Usage, text)
            .hint(format!("give at least {} MiB", SMALLEST_LIMIT >> 20)));
    }
    Ok(())
}

fn not_mounted(target: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("nothing of CBFS is mounted as {target}"),
    )
    .hint("see `cbfsctl instance list`")
}

/// A directory that is there, is no mount point and is empty.
fn check_mount_point(path: &Path, non_empty: bool) -> Result<PathBuf> {
    if !path.is_absolute() {
        let text = format!("the mount point {} is not absolute", path.display());
        return Err(Error::new(ErrorKind::Usage, text));
    }
    if cbfs_fuse::is_stale(path) {
        cbfs_fuse::detach_stale(path)
            .context(|| format!("the dead mount at {} could not be detached", path.display()))?;
    }
    let describe = || format!("the mount point {} cannot be used", path.display());
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, describe())
                .because(e)
                .hint(format!("create it: mkdir -p {}", path.display())));
        }
        Err(e) => return Err(Error::failed(describe()).because(e)),
    };
    if !real.is_dir() {
        let text = format!("{} is no directory", path.display());
        return Err(Error::new(ErrorKind::Usage, text).hint("a mount point is an empty directory"));
    }
    if cbfs_fuse::is_mount_point(&real).context(describe)? {
        let text = format!("something is mounted at {} already", path.display());
        return Err(
            Error::new(ErrorKind::Conflict, text).hint("umount it, or use another directory")
        );
    }
    let mut entries = fs::read_dir(&real).context(describe)?;
    if !non_empty && entries.next().is_some() {
        let text = format!("the mount point {} is not empty", path.display());
        return Err(Error::new(ErrorKind::Conflict, text)
            .hint("what is in it would be hidden; use another directory, or --non-empty"));
    }
    Ok(real)
}
