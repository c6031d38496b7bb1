//! From a manifest to the layer stack it names.

use super::fetches::on_threads;
use super::proxy::ProxyCache;
use crate::mounted::Layers;
use cbfs_core::bucket::Bucket;
use cbfs_core::cloud_snapshot::{open_layers, stack_of};
use cbfs_core::error::Result;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::Handle;
use cbfs_core::layers::Stack;
use std::sync::Arc;

/// Layers fetched at a time.
const FETCHES: usize = 4;

/// Fetch all layers of a snapshot into the proxy cache and open them as one stack, newest first.
/// Blocks until they are there; what is there already costs no request.
///
/// # Errors
/// [`cbfs_core::ErrorKind::Damage`] names the object that is missing, damaged, out of order or of
/// another file system; else those of bucket and disk.
pub fn open_stack(
    bucket: &dyn Bucket,
    fs: &Handle,
    proxy: &ProxyCache,
    manifest: &Manifest,
    block_size: u64,
) -> Result<Stack> {
    let layers = open_layers(fs, manifest, |object| {
        proxy.fetch_decompressed(bucket, fs, object)
    })?;
    Ok(stack_of(&layers, block_size))
}

/// The same, with the layers it consists of.
pub fn open_snapshot(
    bucket: &dyn Bucket,
    fs: &Handle,
    proxy: &ProxyCache,
    manifest: &Manifest,
    block_size: u64,
) -> Result<Layers> {
    fetch_all(bucket, fs, proxy, manifest)?;
    let layers = open_layers(fs, manifest, |object| {
        proxy.fetch_decompressed(bucket, fs, object)
    })?;
    Ok(Layers {
        stack: Arc::new(stack_of(&layers, block_size)),
        layers: layers.into(),
    })
}

/// Fetch the layers several at a time: a store answers each only after a while.
fn fetch_all(
    bucket: &dyn Bucket,
    fs: &Handle,
    proxy: &ProxyCache,
    manifest: &Manifest,
) -> Result<()> {
    on_threads(FETCHES, &manifest.layers, |layer| {
        proxy
            .fetch_decompressed(bucket, fs, &layer.object)
            .map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::super::proxy::testing::{Watched, fs_handle};
    use super::*;
    use cbfs_core::error::ErrorKind;
    use cbfs_core::format::Features;
    use cbfs_core::format::manifest::{LayerRef, Totals, XidRange};
    use cbfs_core::frames::compress_seekable;
    use cbfs_core::ids::{Epoch, Ino, SnapshotNumber, Xid};
    use cbfs_core::layers::{Layer, LayerDb, rows};
    use cbfs_core::snapshot::SnapshotKind;

    /// A published layer of snapshot `number` in which symlink 5 points at the number.
    fn publish(bucket: &Watched, number: u64, fs: &str) -> LayerRef {
        let dir = tempfile::tempdir().unwrap();
        let (path, packed) = (dir.path().join("layer"), dir.path().join("layer.zst"));
        let layer = LayerDb::create(&path).unwrap();
        layer
            .with(|conn| {
                rows::put_meta(conn, "fs", fs)?;
                rows::put_link(conn, Ino(5), number.to_string().as_bytes())
            })
            .unwrap();
        layer.finish().unwrap();
        compress_seekable(&path, &packed, 3).unwrap();
        let key = format!("s/{number}/layer.sqlite.zst");
        let object = bucket.store(&key, &std::fs::read(packed).unwrap());
        LayerRef {
            object,
            from: SnapshotNumber(number),
            to: SnapshotNumber(number),
        }
    }

    fn manifest(layers: Vec<LayerRef>) -> Manifest {
        Manifest {
            format: Manifest::FORMAT,
            features: Features::default(),
            fs: fs_handle(),
            number: SnapshotNumber(2),
            epoch: Epoch(1),
            attempt: "a".into(),
            name: None,
            kind: SnapshotKind::User,
            xid: XidRange {
                from: Xid(1),
                to: Xid(2),
            },
            parent: None,
            created_at: "2026-01-01T00:00:00Z".into(),
            node: "n".into(),
            layers,
            toc: None,
            meta_tarball: None,
            log: None,
            status_log: None,
            status: None,
            totals: Totals::default(),
            writer: "test".into(),
        }
    }

    #[test]
    fn a_manifest_opens_as_a_stack_newest_first() {
        let bucket = Watched::new();
        let fs = fs_handle();
        let layers = [2, 1].map(|n| publish(&bucket, n, &fs.to_string()));
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        let good = manifest(layers.to_vec());
        let stack = open_stack(&bucket, &fs, &proxy, &good, 1 << 20).unwrap();
        assert_eq!(stack.len(), 2);
        assert_eq!(stack.link(Ino(5)).unwrap().unwrap(), b"2");

        let upside_down = manifest(layers.iter().rev().cloned().collect());
        let error = open_stack(&bucket, &fs, &proxy, &upside_down, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damage);
    }

    #[test]
    fn a_layer_of_another_file_system_is_refused_by_name() {
        let bucket = Watched::new();
        let fs = fs_handle();
        let foreign = manifest(vec![publish(&bucket, 1, "other-uuid")]);
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        let error = open_stack(&bucket, &fs, &proxy, &foreign, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damage);
        assert!(
            error.to_string().contains("s/1/layer.sqlite.zst"),
            "{error}"
        );
    }
}
