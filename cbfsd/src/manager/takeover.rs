//! A new master takes office: it is opened, and where a slave of the file system is mounted it takes that mount over,
//! without a remount.
//!
//! When this begins the master's config is durable and says where it is mounted; the slave's says the same. A crash
//! leaves both, and the next start gives the mount to the master ([`Manager::is_taken_over`]). What programs have open of
//! files that are others in the base goes on being read from the slave's directory: that one goes with the mount.

use super::config::InstanceConfig;
use super::{Manager, Open, base, options_of};
use crate::instance::Inherited;
use cbfs_core::api::Role;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, Result};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

impl Manager {
    /// Open the master that `config`, which is stored, describes.
    pub(super) fn take_office(self: &Arc<Self>, config: InstanceConfig) -> Result<Arc<Open>> {
        let slave = {
            let all = self.open.lock();
            let mut slaves = all.values().filter(|o| {
                let its = o.config.lock();
                its.role == Role::Slave
                    && its.fs == config.fs
                    && config.mount_point.is_some()
                    && its.mount_point == config.mount_point
            });
            slaves.next().cloned()
        };
        if let (Some(slave), Some(_)) = (slave, config.base) {
            return self.take_over(&slave, config);
        }
        let mount_point = config.mount_point.clone();
        let open = self.open_instance(config, None)?;
        if let Some(mount_point) = mount_point {
            self.attach(&open, &mount_point)?;
        }
        Ok(open)
    }

    fn take_over(self: &Arc<Self>, slave: &Arc<Open>, config: InstanceConfig) -> Result<Arc<Open>> {
        // It shows what it shows from here on.
        slave.stop_following();
        let taken = self.take_over_stopped(slave, config);
        if taken.is_err() && slave.session.lock().is_some() {
            self.follow(slave)?;
        }
        taken
    }

    fn take_over_stopped(
        self: &Arc<Self>,
        slave: &Arc<Open>,
        config: InstanceConfig,
    ) -> Result<Arc<Open>> {
        let (Some(shown), Some(base)) = (slave.shown.lock().clone(), config.base) else {
            return Err(Error::failed(format!("{} shows no snapshot", slave.id)));
        };
        let before = slave.instance();
        let dir = self.instances_dir().join(config.id());
        let block_size = config.block_size;
        let manifest = base::manifest(&dir, base)?;
        let inherited = Inherited::of_mount(&before, &dir)?;
        let options = options_of(&config);
        let mut master = self.open_master(config, &dir, options, Some(inherited))?;
        let next = master.instance();
        if let Err(e) = next.adopt_contents(&before) {
            tracing::warn!(causes = ?e.causes(), "contents in memory are fetched again: {e}");
        }
        let after_layers = base::layers_of(&dir.join("base"), &manifest, block_size)?;
        let notifier = slave.session.lock().as_ref().map(|s| s.notifier());
        // From here on the mount is read-write.
        let exchanged = slave.mounted.exchange(
            Arc::clone(&next),
            &shown.layers,
            &after_layers,
            notifier.as_ref(),
        );
        if let Err(e) = exchanged {
            // The slave serves on; the master is here and can be mounted.
            master.config.lock().mount_point = None;
            let stored = master.config.lock().clone().store(&dir);
            self.keep_open(master);
            return Err(stored.err().unwrap_or(e));
        }
        master.mounted = Arc::clone(&slave.mounted);
        let replaced = (slave.dir.clone(), Arc::clone(&shown.proxy));
        master.replaced.lock().push(replaced);
        let session = slave.session.lock().take();
        let mount_point = session.as_ref().map(|s| s.mount_point().to_owned());
        *master.session.lock() = session;
        if let Some(snapshots) = master.snapshots() {
            snapshots.set_mount_point(mount_point);
        }
        self.open.lock().remove(&slave.id);
        self.events.forget(&slave.id);
        forget_config(&slave.dir)?;
        let open = self.keep_open(master);
        self.tell(&open);
        if open
            .session
            .lock()
            .as_ref()
            .is_some_and(cbfs_fuse::Session::has_ended)
        {
            // Unmounted meanwhile: its callback waits for `changing`, and will find it.
            tracing::info!(instance = open.id, "unmounted while it was promoted");
        }
        Ok(open)
    }

    fn keep_open(&self, open: Open) -> Arc<Open> {
        let open = Arc::new(open);
        self.health.attend(&open.instance());
        self.open.lock().insert(open.id.clone(), Arc::clone(&open));
        open
    }

    /// Whether a master of the same file system has the mount of this slave.
    pub(super) fn is_taken_over(&self, slave: &InstanceConfig) -> Result<bool> {
        let dir = self.instances_dir().join(slave.fs.to_string());
        let master = InstanceConfig::read(&dir)?;
        Ok(master.is_some_and(|master| {
            master.role == Role::Master && master.mount_point == slave.mount_point
        }))
    }
}

impl Open {
    /// What was replaced is not read any more: the mount is gone.
    pub(super) fn remove_replaced(&self) {
        for (dir, cache) in self.replaced.lock().drain(..) {
            cache.end(); // a warm may be under way, and would make the directory anew
            if let Err(e) = durable_file::remove_dir_all(&dir) {
                tracing::warn!(causes = ?e.causes(), "{e}");
            }
        }
    }
}

/// The directory is no instance's any more.
fn forget_config(dir: &Path) -> Result<()> {
    let path = dir.join("instance.toml");
    match fs::remove_file(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.and_then(|()| cbfs_core::durable_file::sync_dir(dir)),
    }
    .context(|| format!("{} could not be removed", path.display()))
}

/// At the start: a directory without a config. A slave's is what a master replaced.
pub(super) fn remove_replaced(dir: &Path) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    if name.contains('@') {
        durable_file::remove_dir_all(dir)?;
    }
    Ok(())
}
