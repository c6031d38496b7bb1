//! Slaves: opening one, and moving one to another snapshot under its mount.
//!
//! In an instance's directory `manifest.json` says which snapshot it shows. It is replaced, durably, when all of
//! the next snapshot's layers are here and before it is shown; `instance.toml` follows. So after a crash in
//! between the next daemon shows the later one, whose layers it has.

use super::config::InstanceConfig;
use super::{Manager, Open, SECTION_MEMORY};
use crate::failpoints::{self, reach};
use crate::instance::{Inherited, Instance, Options, SlaveParams};
use crate::kvs::Counters;
use crate::mounted::Layers;
use crate::tiering::proxy::ProxyCache;
use crate::tiering::snapshot_stack::open_snapshot;
use crate::tiering::tier_in::TierIn;
use cbfs_core::bucket::{Bucket, LazyBucket};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Result};
use cbfs_core::format::manifest::Manifest;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// What a slave shows, and what it is read from.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) manifest: Arc<Manifest>,
    pub(super) layers: Layers,
    pub(super) proxy: Arc<ProxyCache>,
}

impl Manager {
    /// Open a slave; without a `manifest` the one that it showed last.
    pub(super) fn open_slave(
        &self,
        mut config: InstanceConfig,
        dir: &Path,
        options: Options,
        manifest: Option<Manifest>,
    ) -> Result<Open> {
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => stored_manifest(dir)?,
        };
        (config.snapshot, config.epoch) = (Some(manifest.number), manifest.epoch);
        let bucket = Arc::new(LazyBucket::new(config.bucket.clone(), true));
        let proxy = Arc::new(ProxyCache::open(&dir.join("proxy"))?);
        let (shown, instance) = self.show(&config, dir, &bucket, proxy, manifest, options, None)?;
        let open = Open::new(config, dir, instance, None, bucket);
        *open.shown.lock() = Some(shown);
        Ok(open)
    }

    /// An instance of a snapshot, its layers fetched.
    #[expect(clippy::too_many_arguments)] // all of it is about one thing, and named where it is called
    fn show(
        &self,
        config: &InstanceConfig,
        dir: &Path,
        bucket: &Arc<LazyBucket>,
        proxy: Arc<ProxyCache>,
        manifest: Manifest,
        options: Options,
        inherited: Option<Inherited>,
    ) -> Result<(Shown, Arc<Instance>)> {
        let layers = open_snapshot(&**bucket, &config.fs, &proxy, &manifest, config.block_size)?;
        let tier_in = TierIn::new(
            Arc::clone(bucket) as Arc<dyn Bucket>,
            config.fs.clone(),
            Arc::clone(&proxy),
            Arc::clone(&layers.stack),
            SECTION_MEMORY,
        )?;
        let instance = Instance::open_slave(SlaveParams {
            id: config.id(),
            dir: dir.to_owned(),
            epoch: manifest.epoch,
            stack: Arc::clone(&layers.stack),
            tier_in: Arc::new(tier_in),
            counters: Counters {
                inodes: manifest.totals.inodes,
                bytes: manifest.totals.logical_bytes,
            },
            options,
            clock: Arc::clone(&self.clock),
            inherited,
        })?;
        let manifest = Arc::new(manifest);
        let shown = Shown {
            manifest,
            layers,
            proxy,
        };
        Ok((shown, instance))
    }

    /// Show another snapshot under the same mount. All that needs the bucket comes first, and without effect; then
    /// `may_commit` is asked, and what it answers is kept to the end.
    ///
    /// # Errors
    /// Those of bucket and disk, [`cbfs_core::ErrorKind::Damage`] of a layer: the slave shows what it showed.
    pub(super) fn move_slave<G>(
        &self,
        open: &Arc<Open>,
        manifest: Manifest,
        may_commit: impl FnOnce() -> Option<G>,
    ) -> Result<()> {
        let Some(before) = open.shown.lock().clone() else {
            return Ok(()); // a master by now
        };
        let mut config = open.config.lock().clone();
        (config.snapshot, config.epoch) = (Some(manifest.number), manifest.epoch);
        let present = open.instance();
        let (after, next) = self.show(
            &config,
            &open.dir,
            &open.bucket,
            Arc::clone(&before.proxy),
            manifest,
            super::options_of(&config),
            Some(Inherited::from(&present)),
        )?;
        if let Err(e) = next.adopt_contents(&present) {
            tracing::warn!(instance = open.id, causes = ?e.causes(), "contents in memory are fetched again: {e}");
        }
        let Some(_guard) = may_commit() else {
            return Ok(());
        };
        store_manifest(&open.dir, &after.manifest)?;
        reach(failpoints::SLAVE_MOVED);
        let notifier = open.session.lock().as_ref().map(|s| s.notifier());
        open.mounted.exchange(
            Arc::clone(&next),
            &before.layers,
            &after.layers,
            notifier.as_ref(),
        )?;
        self.health.attend(&next);
        {
            let mut config = open.config.lock();
            (config.snapshot, config.epoch) = (Some(after.manifest.number), after.manifest.epoch);
            config.store(&open.dir)?;
        }
        drop(next);
        open.former
            .lock()
            .push((Arc::downgrade(&present), needed(&before)?));
        drop(present);
        *open.shown.lock() = Some(after);
        if let Err(e) = drop_unused(open) {
            tracing::warn!(instance = open.id, causes = ?e.causes(), "files of former snapshots stay: {e}");
        }
        self.tell(open);
        Ok(())
    }
}

/// The objects that a snapshot is read from, but for tarballs.
fn needed(shown: &Shown) -> Result<HashSet<String>> {
    let layers = shown.manifest.layers.iter();
    let mut needed: HashSet<String> = layers.map(|layer| layer.object.key.clone()).collect();
    for layer in shown.layers.layers.iter() {
        needed.extend(layer.database.toc_keys()?);
    }
    Ok(needed)
}

/// What neither the present snapshot needs nor one of which a file is still open goes from the proxy cache.
fn drop_unused(open: &Open) -> Result<()> {
    let Some(shown) = open.shown.lock().clone() else {
        return Ok(());
    };
    let mut all = needed(&shown)?;
    let mut former = open.former.lock();
    former.retain(|(instance, _)| instance.strong_count() > 0);
    all.extend(former.iter().flat_map(|(_, needed)| needed.iter().cloned()));
    shown.proxy.keep_only(&all)
}

fn stored_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join("manifest.json");
    let bytes = fs::read(&path).context(|| format!("{} could not be read", path.display()))?;
    cbfs_core::format::parse(&path.display().to_string(), &bytes)
}

/// Store which snapshot a slave shows, durably.
pub(super) fn store_manifest(dir: &Path, manifest: &Manifest) -> Result<()> {
    let path = dir.join("manifest.json");
    let bytes = cbfs_core::format::to_json(manifest)?;
    durable_file::create_dir_all(dir)
        .and_then(|()| durable_file::replace(&path, &bytes))
        .context(|| format!("{} could not be written", path.display()))
}
