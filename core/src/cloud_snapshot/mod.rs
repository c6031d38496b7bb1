//! Reading a snapshot from its objects in the bucket, without an instance: layers, TOCs, sections.
//!
//! What is read is checked against whatever refers to it, and errors name the object. Databases go
//! to a [`Scratch`] directory, which is removed with it. A crash leaves that directory behind and
//! changes nothing else.

mod contents;
mod live;
mod objects;
mod sections;
mod summary;
mod tarball_stream;

pub use contents::Contents;
pub use live::{LiveSections, inodes_touched, live_extents, live_sections, names_touched};
pub use objects::{
    ObjectReader, ReadFailure, ReadSoFar, Scratch, decompressed_limit, download, get_range,
};
pub use sections::{is_frame, read_frame, read_section, section_length};
pub use summary::{LayerSummary, Rows, Summary, TocSummary};
pub use tarball_stream::{MemberContents, TarballStream};

use crate::bucket::Bucket;
use crate::catalog;
use crate::error::{Error, Result};
use crate::format::config::FsConfig;
use crate::format::manifest::{LayerRef, Manifest};
use crate::format::{ObjectRef, keys};
use crate::handle::Handle;
use crate::ids::SnapshotNumber;
use crate::layers::{Layer, LayerDb, SourceRow, Stack};
use crate::toc::Toc;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A layer of a snapshot, open.
#[derive(Debug, Clone)]
pub struct OpenLayer {
    /// The object, and the snapshots it covers.
    pub object: LayerRef,
    /// Its rows.
    pub database: Arc<LayerDb>,
}

/// Open all layers of a manifest, newest first. `database` fetches an object and answers the path
/// of its decompressed database, verified.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] names the object that is out of order or of another file system;
/// else what `database` answers.
pub fn open_layers(
    fs: &Handle,
    manifest: &Manifest,
    mut database: impl FnMut(&ObjectRef) -> Result<PathBuf>,
) -> Result<Vec<OpenLayer>> {
    let name = keys::manifest(manifest.number, manifest.epoch);
    if manifest.fs != *fs {
        let text = format!(
            "manifest {name} belongs to file system {}, not to {fs}",
            manifest.fs
        );
        return Err(Error::damage(text));
    }
    for pair in manifest.layers.windows(2) {
        if pair[0].from <= pair[1].to {
            let text = format!(
                "manifest {name} lists layer {} above {}, which is not older",
                pair[0].object.key, pair[1].object.key
            );
            return Err(Error::damage(text));
        }
    }
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for object in &manifest.layers {
        let path = database(&object.object)?;
        layers.push(open_layer(fs, object, &path)?);
    }
    Ok(layers)
}

/// Open one layer from its decompressed database.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when it is no layer, or one of another file system.
pub fn open_layer(fs: &Handle, object: &LayerRef, path: &Path) -> Result<OpenLayer> {
    let key = &object.object.key;
    let database = LayerDb::open_immutable(path)
        .map_err(|e| e.context(format!("object {key} is no usable layer")))?;
    match database.meta("fs")? {
        Some(owner) if owner == fs.to_string() => Ok(OpenLayer {
            object: object.clone(),
            database: Arc::new(database),
        }),
        owner => {
            let owner = owner.unwrap_or_else(|| "no file system".to_owned());
            let text = format!("layer {key} belongs to {owner}, not to {fs}");
            Err(Error::damage(text))
        }
    }
}

/// Layers as one stack.
pub fn stack_of(layers: &[OpenLayer], block_size: u64) -> Stack {
    let layers = layers
        .iter()
        .map(|l| Arc::clone(&l.database) as Arc<dyn Layer>);
    Stack::new(layers.collect(), block_size)
}

/// The reference to a TOC as a layer has it.
pub fn toc_object(source: SourceRow) -> ObjectRef {
    ObjectRef {
        key: source.toc_key,
        size: source.toc_size,
        blake3: source.toc_blake3,
    }
}

/// A complete snapshot of the bucket, open for reading. Calls block on the bucket.
#[derive(Debug)]
pub struct CloudSnapshot {
    bucket: Arc<dyn Bucket>,
    manifest: Manifest,
    layers: Vec<OpenLayer>,
    stack: Stack,
    scratch: Arc<Scratch>,
    tocs: Mutex<HashMap<SnapshotNumber, Arc<Toc>>>,
}

impl CloudSnapshot {
    /// Fetch and open the layers of a snapshot. Reads the file system's config and each layer
    /// that `scratch` does not have yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damage`] names the object that is missing or damaged; those of bucket
    /// and local disk.
    pub fn open(
        bucket: Arc<dyn Bucket>,
        manifest: Manifest,
        scratch: Arc<Scratch>,
    ) -> Result<CloudSnapshot> {
        let FsConfig { fs, block_size, .. } = catalog::load_config(&*bucket, &manifest.fs)?;
        let layers = open_layers(&fs, &manifest, |object| {
            scratch.database(&*bucket, &fs, object)
        })?;
        let stack = stack_of(&layers, block_size);
        Ok(CloudSnapshot {
            bucket,
            manifest,
            layers,
            stack,
            scratch,
            tocs: Mutex::default(),
        })
    }

    /// The snapshot's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it lies.
    pub fn bucket(&self) -> &dyn Bucket {
        &*self.bucket
    }

    /// Its layers, newest first.
    pub fn layers(&self) -> &[OpenLayer] {
        &self.layers
    }

    /// The file system as of this snapshot.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The TOC of a snapshot whose sections this one reads.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damage`] when no layer knows it, or it is missing or damaged.
    pub fn toc(&self, snapshot: SnapshotNumber) -> Result<Arc<Toc>> {
        if let Some(toc) = self.tocs.lock().get(&snapshot) {
            return Ok(Arc::clone(toc));
        }
        let source = self.stack.source(snapshot)?.ok_or_else(|| {
            let text = format!("no layer says where the TOC of snapshot {snapshot} lies");
            Error::damage(text)
        })?;
        let object = toc_object(source);
        let path = self
            .scratch
            .database(&*self.bucket, &self.manifest.fs, &object)?;
        let toc = Toc::open_immutable(&path)
            .map_err(|e| e.context(format!("object {} is no usable TOC", object.key)))?;
        let toc = Arc::new(toc);
        self.tocs.lock().insert(snapshot, Arc::clone(&toc));
        Ok(toc)
    }
}
