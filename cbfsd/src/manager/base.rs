//! The snapshot below a promoted master: its manifest in `base.json`, its layers (and the TOCs that reads need) in
//! `base/`, a cache of objects apart from `proxy/`, which is emptied after each snapshot. What is in it came from the
//! bucket and is checked when it is opened; with the layers here the master opens without its bucket.

use crate::instance::MasterBase;
use crate::kvs::Counters;
use crate::mounted::Layers;
use crate::tiering::proxy::ProxyCache;
use crate::tiering::snapshot_stack::open_stack;
use crate::tiering::tier_in::TierIn;
use cbfs_core::bucket::Bucket;
use cbfs_core::cloud_snapshot::{open_layers, stack_of};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::Handle;
use cbfs_core::layers::LayerDb;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory for decompressed sections, in bytes.
const SECTION_MEMORY: usize = 64 << 20;

fn manifest_path(dir: &Path) -> PathBuf {
    dir.join("base.json")
}

/// Note the base's manifest durably.
pub(super) fn store(dir: &Path, manifest: &Manifest) -> Result<()> {
    let path = manifest_path(dir);
    let bytes = cbfs_core::format::to_json(manifest)?;
    durable_file::create_dir_all(dir)
        .and_then(|()| durable_file::replace(&path, &bytes))
        .context(|| format!("{} could not be written", path.display()))
}

/// The manifest as noted.
///
/// # Errors
/// [`cbfs_core::ErrorKind::Damage`] when it is another snapshot's.
pub(crate) fn manifest(dir: &Path, base: BaseSnapshot) -> Result<Manifest> {
    let path = manifest_path(dir);
    let bytes = fs::read(&path).context(|| format!("{} could not be read", path.display()))?;
    let manifest: Manifest = cbfs_core::format::parse(&path.display().to_string(), &bytes)?;
    if manifest.id() != base {
        let text = format!(
            "{} is of snapshot {} of epoch {}, not of {} of {}",
            path.display(),
            manifest.number,
            manifest.epoch,
            base.number,
            base.epoch
        );
        return Err(Error::damage(text));
    }
    Ok(manifest)
}

/// Open what a master stands on; layers that are not here yet are fetched.
pub(super) fn open(
    dir: &Path,
    manifest: &Manifest,
    bucket: Arc<dyn Bucket>,
    block_size: u64,
) -> Result<MasterBase> {
    let fs = &manifest.fs;
    let proxy = Arc::new(ProxyCache::open(&dir.join("base"))?);
    let stack = Arc::new(open_stack(&*bucket, fs, &proxy, manifest, block_size)?);
    let tier_in = TierIn::new(
        bucket,
        fs.clone(),
        proxy,
        Arc::clone(&stack),
        SECTION_MEMORY,
    )?;
    Ok(MasterBase {
        stack,
        tier_in: Arc::new(tier_in),
        counters: counters(manifest),
    })
}

/// Begin with what a slave on this node has in its cache: neither layers nor contents that were fetched in advance are
/// fetched again. What it lacks, or cannot be taken over, is fetched.
pub(super) fn begin_with(dir: &Path, of_slave: &ProxyCache) {
    let adopted = ProxyCache::open(&dir.join("base")).and_then(|base| base.adopt(of_slave));
    if let Err(e) = adopted {
        tracing::warn!(dir = %dir.display(), causes = ?e.causes(), "{e}");
    }
}

/// Remove what is not of this snapshot. Its layers are there.
pub(super) fn tidy(dir: &Path, manifest: &Manifest, block_size: u64) -> Result<()> {
    let cache = dir.join("base");
    let mut needed = HashSet::new();
    for layer in layers_of(&cache, manifest, block_size)?.layers.iter() {
        needed.extend(layer.database.toc_keys()?);
    }
    needed.extend(manifest.layers.iter().map(|layer| layer.object.key.clone()));
    ProxyCache::open(&cache)?.keep_only(&needed)
}

/// What was counted in a snapshot.
pub(crate) fn counters(manifest: &Manifest) -> Counters {
    Counters {
        inodes: manifest.totals.inodes,
        bytes: manifest.totals.logical_bytes,
    }
}

/// The layers of a snapshot from a cache of objects that has them all.
pub(super) fn layers_of(cache: &Path, manifest: &Manifest, block_size: u64) -> Result<Layers> {
    let layers = open_layers(&manifest.fs, manifest, |object| {
        Ok(database(cache, &object.key))
    })?;
    let stack = Arc::new(stack_of(&layers, block_size));
    Ok(Layers {
        layers: layers.into(),
        stack,
    })
}

fn database(cache: &Path, key: &str) -> PathBuf {
    cache.join(key.strip_suffix(".zst").unwrap_or(key))
}

/// The layers as they lie in an instance's directory, oldest first, for the consistency checker: changes nothing and
/// asks no bucket.
pub(crate) fn layers_here(
    dir: &Path,
    fs: &Handle,
    manifest: &Manifest,
) -> Result<Vec<Arc<LayerDb>>> {
    let open = open_layers(fs, manifest, |object| {
        Ok(database(&dir.join("base"), &object.key))
    })?;
    Ok(open.into_iter().rev().map(|layer| layer.database).collect())
}
