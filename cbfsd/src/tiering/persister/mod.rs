//! The persister: turns a frozen layer of the KVS into the objects of a snapshot, in the proxy
//! directory: data tarballs, TOC, layer and metadata tarball (`docs/format.md`). It knows no cloud.
//!
//! Order of the work:
//! 1. [`plan`]: one scan of the frozen inodes says what becomes of each, and resolves the path
//!    names of those that become members.
//! 2. [`contents`]: members go, grouped by directory, into the sections of data tarballs
//!    ([`archive`]); extents, holes and the rows of the members are [`staged`](staging). Meanwhile
//!    another thread copies all other rows ([`rows`]) to the layer and the list of changes.
//! 3. The TOC is finished, as the layer refers to it; then the layer; then the metadata tarball.
//!
//! Memory does not depend on the sizes of files: some 100 bytes per changed inode that becomes a
//! member, and the sections in flight.
//!
//! Every object is fsynced, with its directory, before [`Observer::object_made`] is told of it: from
//! then on it may be uploaded. On an error or a cancellation the attempt's folder is removed. After
//! a crash it stays, incomplete; as attempts have random names nothing ever continues it, and the
//! owner of the proxy removes it.

mod archive;
mod contents;
mod frozen;
mod metadata;
mod plan;
mod rows;
mod source;
mod staging;
#[cfg(test)]
mod tests;

pub use source::{BlockBytes, MountedInstance};

use archive::Archive;
use cbfs_core::durable_file::{create_dir_all, sync_dir};
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::manifest::{Totals, XidRange};
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::frames::compress_seekable;
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::layers::SourceRow;
use cbfs_core::snapshot::SnapshotKind;
use cbfs_core::tarball::{CompressionPool, SealedTarball};
use contents::Contents;
use frozen::Frozen;
use plan::Plan;
use rows::RowCopy;
use staging::Staging;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Stored bytes after which a new data tarball is begun, unless configured otherwise.
pub const DEFAULT_TARBALL_TARGET: u64 = 64 << 20;

/// One attempt at persisting a snapshot.
pub struct Job<'a> {
    /// The file system.
    pub fs: &'a Handle,
    /// The snapshot's number.
    pub number: SnapshotNumber,
    /// The epoch of this master.
    pub epoch: Epoch,
    /// Random id of the attempt; its folder must not exist yet.
    pub attempt: String,
    /// The snapshot's name.
    pub name: Option<String>,
    /// Who asked for it.
    pub kind: SnapshotKind,
    /// The transactions since the parent, up to the cut.
    pub xid: XidRange,
    /// The snapshot it builds on; `None`: the frozen layer is the whole file system.
    pub parent: Option<BaseSnapshot>,
    /// RFC 3339, as it will stand in the manifest.
    pub created_at: String,
    /// Bytes per block of a backing file.
    pub block_size: u64,
    /// The frozen file of the KVS; nobody changes it any more.
    pub frozen: &'a Path,
    /// The instance it belongs to.
    pub instance: &'a dyn MountedInstance,
    /// The proxy directory of the file system: objects are made at `out/<relative key>`.
    pub out: &'a Path,
    /// Compression level of zstd.
    pub level: i32,
    /// A new data tarball is begun once the current one has this many stored bytes; a file is
    /// never split.
    pub tarball_target: u64,
}

impl Job<'_> {
    fn prefix(&self) -> String {
        keys::attempt_prefix(self.number, self.epoch, &self.attempt)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix())
    }
}

/// Hears how the work goes on; called from the thread that called [`persist`], except
/// [`Observer::cancelled`], which other threads ask too.
pub trait Observer: Send + Sync {
    /// What there is to do: inodes created, changed or removed; files with data; bytes of it.
    fn planned(&self, inodes: u64, files: u64, bytes: u64);

    /// Files and bytes (uncompressed) done so far; about once per section.
    fn progress(&self, files: u64, bytes: u64);

    /// An object is whole and durable at `path`. An error ends the attempt.
    fn object_made(&self, object: &ObjectRef, path: &Path) -> Result<()>;

    /// Whether to give up; asked often.
    fn cancelled(&self) -> bool;
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persisted {
    /// The metadata tarball.
    pub meta_tarball: ObjectRef,
    /// The TOC; `None` when there is no data tarball.
    pub toc: Option<ObjectRef>,
    /// The layer.
    pub layer: ObjectRef,
    /// The data tarballs in order, from 0001.
    pub tarballs: Vec<ObjectRef>,
    /// Sums over all objects above. `inodes` and `logical_bytes`, which are about the whole file
    /// system, are 0: the caller knows them.
    pub totals: Totals,
}

/// Persist one snapshot. Blocks until all of it is made; see the module for what stays when not.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the attempt's folder exists already (it is left alone), else
/// whatever stopped the work, a cancellation included.
pub fn persist(job: &Job<'_>, observer: &dyn Observer) -> Result<Persisted> {
    let dir = job.out.join(job.prefix());
    let failed = || format!("the folder {} could not be created", dir.display());
    let parent = dir.parent().unwrap_or(job.out);
    create_dir_all(parent).context(failed)?;
    fs::create_dir(&dir).map_err(|e| {
        let exists = e.kind() == std::io::ErrorKind::AlreadyExists;
        let kind = if exists {
            ErrorKind::Conflict
        } else {
            ErrorKind::Failed
        };
        Error::new(kind, failed()).because(e)
    })?;
    let made = sync_dir(parent)
        .context(failed)
        .and_then(|()| make(job, &dir, observer));
    if made.is_err()
        && let Err(e) = fs::remove_dir_all(&dir)
    {
        tracing::warn!(folder = %dir.display(), error = %e, "a failed attempt could not be removed");
    }
    made
}

fn make(job: &Job<'_>, dir: &Path, observer: &dyn Observer) -> Result<Persisted> {
    let frozen = Frozen::open(job.frozen)?;
    let mut plan = Plan::collect(job, &frozen, observer)?;
    observer.planned(plan.changed + plan.removed, plan.files, plan.bytes);
    let pool = CompressionPool::new(None, job.level)?;
    let stop = AtomicBool::new(false);
    let maker = Maker {
        job,
        dir,
        observer,
        stop: &stop,
    };
    let mut staging = Staging::create(dir)?;
    let (copied, done) = thread::scope(|scope| {
        let copy = || {
            let stopped = || stop.load(Ordering::Relaxed) || observer.cancelled();
            let copied = RowCopy::run(job, dir, &plan.orphans, &stopped);
            let failed_first = copied.is_err() && !stop.swap(true, Ordering::Relaxed);
            (copied, failed_first)
        };
        let copier = thread::Builder::new()
            .name("cbfs-rows".into())
            .spawn_scoped(scope, copy)
            .context(|| "a thread could not be started".into())?;
        let done = Archive::new(&maker, &pool).and_then(|archive| {
            Contents::new(&maker, &frozen, &plan, archive, &mut staging).write()
        });
        if done.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        let joined = copier.join();
        let (copied, failed_first) =
            joined.map_err(|_| Error::failed("the thread that copies rows died"))?;
        // What failed first is told: the other side only heard that it should stop.
        if failed_first {
            Ok((copied?, done?))
        } else {
            done.and_then(|done| Ok((copied?, done)))
        }
    })?;
    plan.forget_members();
    let toc = done.toc;
    let source = toc.as_ref().map(|toc| SourceRow {
        snapshot: job.number,
        toc_key: toc.key.clone(),
        toc_size: toc.size,
        toc_blake3: toc.blake3.clone(),
    });
    let (plain, changes) = copied.finish(job, &frozen, &plan, &mut staging, source.as_ref())?;
    drop(staging);
    maker.check_cancelled()?;
    let compressed = dir.join(keys::LAYER);
    let layer = compress_seekable(&plain, &compressed, job.level)?.at(job.key(keys::LAYER));
    remove(&plain)?;
    maker.object_made(&layer, &compressed)?;
    let meta_tarball = metadata::write(&maker, &pool, &frozen, &plan, &changes)?;
    let objects = done
        .tarballs
        .iter()
        .chain(&toc)
        .chain([&layer, &meta_tarball]);
    let totals = Totals {
        changed_inodes: plan.changed,
        removed_inodes: plan.removed,
        data_bytes: done.bytes,
        stored_bytes: objects.map(|o| o.size).sum(),
        tarballs: done.tarballs.len() as u64,
        sections: done.sections,
        inodes: 0,
        logical_bytes: 0,
    };
    Ok(Persisted {
        meta_tarball,
        toc,
        layer,
        tarballs: done.tarballs,
        totals,
    })
}

/// What every part of the persister needs.
struct Maker<'a> {
    job: &'a Job<'a>,
    dir: &'a Path,
    observer: &'a dyn Observer,
    /// Something failed: the others need not go on.
    stop: &'a AtomicBool,
}

impl Maker<'_> {
    fn check_cancelled(&self) -> Result<()> {
        let stop = self.stop.load(Ordering::Relaxed) || self.observer.cancelled();
        if stop { Err(cancelled()) } else { Ok(()) }
    }

    /// Make the directory entry of a synced object durable, and tell of it.
    fn object_made(&self, object: &ObjectRef, path: &Path) -> Result<()> {
        sync_dir(self.dir).context(|| {
            format!(
                "the folder {} could not be made durable",
                self.dir.display()
            )
        })?;
        self.observer.object_made(object, path)
    }

    /// Tell of a tarball that is durable.
    fn tarball_made(&self, index: u32, sealed: &SealedTarball) -> Result<ObjectRef> {
        let object = ObjectRef {
            key: self.job.key(&keys::tarball(index)),
            size: sealed.size,
            blake3: sealed.blake3.to_hex().to_string(),
        };
        self.observer.object_made(&object, &sealed.path)?;
        Ok(object)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn cancelled() -> Error {
    Error::failed("persisting the snapshot was cancelled")
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).context(|| format!("{} could not be removed", path.display()))
}
