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
//! An object is whole at its path, and noted in the attempt's [`ledger`], before
//! [`Observer::object_made`] is told of it: from then on it may be uploaded. Nothing is fsynced here;
//! the ledger's module says why, and how an attempt goes on after a crash. The attempt's folder stays
//! whatever happens: removing it when it is of no use any more is up to the caller.

mod archive;
mod contents;
mod facts;
mod frozen;
mod index;
mod ledger;
mod metadata;
mod plan;
#[cfg(test)]
mod resume_tests;
mod rows;
mod source;
mod staging;
#[cfg(test)]
mod tests;

pub use ledger::{Identity, Ledger, Logged, Part};
pub use source::{BlockBytes, MountedInstance};

use archive::Archive;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::manifest::{Totals, XidRange};
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::frames::{compress_seekable, compress_whole};
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::layers::SourceRow;
use cbfs_core::snapshot::SnapshotKind;
use cbfs_core::tarball::CompressionPool;
use contents::Contents;
use frozen::Frozen;
use index::Index;
use ledger::TarballEntry;
use parking_lot::Mutex;
use plan::Plan;
use rows::{Copied, OpenLayer, RowCopy, inherited};
use staging::Staging;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
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
    /// Random id of the attempt; its folder must not exist yet, unless the attempt is taken up.
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
    fn identity(&self) -> Identity {
        Identity {
            fs: self.fs.clone(),
            number: self.number,
            epoch: self.epoch,
            attempt: self.attempt.clone(),
            xid: self.xid,
            parent: self.parent,
            block_size: self.block_size,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.identity().prefix())
    }
}

/// Hears how the work goes on; called from the thread that called [`persist`], except
/// [`Observer::cancelled`], which other threads ask too.
pub trait Observer: Send + Sync {
    /// What there is to do: inodes created, changed or removed; files with data; bytes of it.
    fn planned(&self, inodes: u64, files: u64, bytes: u64);

    /// Files and bytes (uncompressed) done so far; about once per section.
    fn progress(&self, files: u64, bytes: u64);

    /// An object is whole at `path`, and noted. An error ends the attempt.
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

/// Persist one snapshot, or the rest of it when `earlier` is the ledger of an attempt that is taken up.
/// Blocks until all of it is made. Also answers the ledger, for objects that others make.
/// [`Observer::object_made`] is told of new objects only.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the folder of a new attempt exists already (it is left alone), else
/// whatever stopped the work, a cancellation included.
pub fn persist(
    job: &Job<'_>,
    earlier: Option<Ledger>,
    observer: &dyn Observer,
) -> Result<(Persisted, Ledger)> {
    let dir = job.out.join(job.identity().prefix());
    if earlier.is_none() {
        create_folder(&dir)?;
    }
    let frozen = Frozen::open(job.frozen)?;
    let mut plan = Plan::collect(job, &frozen, observer)?;
    observer.planned(plan.changed + plan.removed, plan.files, plan.bytes);
    let hash = plan.hash();
    let ledger = match earlier {
        Some(ledger) if ledger.plan() == hash => ledger,
        Some(_) => return Err(Error::damage("the attempt began with another work list")),
        None => Ledger::begin(&dir, job.identity(), &job.created_at, hash)?,
    };
    let pool = CompressionPool::new(None, job.level)?;
    let team = Team::default();
    let maker = Maker {
        job,
        dir: &dir,
        observer,
        ledger: &ledger,
        team: &team,
    };
    let bytes = match (ledger.object(Part::Layer), ledger.object(Part::Metadata)) {
        (Some(_), Some(_)) => ledger.tarballs().last().map_or(0, |t| t.next.bytes),
        _ => make(&maker, &pool, &frozen, &mut plan)?,
    };
    let missing = || Error::failed("an object of the snapshot was not made");
    let tarballs = ledger.tarballs();
    let (toc, layer) = (ledger.object(Part::Toc), ledger.object(Part::Layer));
    let layer = layer.ok_or_else(missing)?;
    let meta_tarball = ledger.object(Part::Metadata).ok_or_else(missing)?;
    let objects = tarballs.iter().map(|t| &t.object);
    let objects = objects.chain(&toc).chain([&layer, &meta_tarball]);
    let totals = Totals {
        changed_inodes: plan.changed,
        removed_inodes: plan.removed,
        data_bytes: bytes,
        stored_bytes: objects.map(|o| o.size).sum(),
        tarballs: tarballs.len() as u64,
        sections: tarballs.iter().map(|t| t.sections).sum(),
        inodes: 0,
        logical_bytes: 0,
    };
    let persisted = Persisted {
        meta_tarball,
        toc,
        layer,
        tarballs: tarballs.into_iter().map(|t| t.object).collect(),
        totals,
    };
    Ok((persisted, ledger))
}

fn create_folder(dir: &Path) -> Result<()> {
    let failed = || format!("the folder {} could not be created", dir.display());
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).context(failed)?;
    }
    fs::create_dir(dir).map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
            _ => ErrorKind::Failed,
        };
        Error::new(kind, failed()).because(e)
    })
}

/// Make what is not in the ledger yet. Answers the bytes of contents in all data tarballs.
fn make(
    maker: &Maker<'_>,
    pool: &CompressionPool,
    frozen: &Frozen,
    plan: &mut Plan,
) -> Result<u64> {
    let (job, dir, team) = (maker.job, maker.dir, maker.team);
    let finished = maker.ledger.tarballs();
    let work = &*plan;
    let stopped = || team.has_failed() || maker.observer.cancelled();
    let (copied, index, contents) = thread::scope(|scope| {
        let (ready, closed) = mpsc::channel();
        let copier = team.spawn(scope, "cbfs-rows", || {
            RowCopy::run(job, dir, &work.orphans, &stopped)
        });
        let indexer = team.spawn(scope, "cbfs-index", move || {
            Index::run(job, dir, &closed, &stopped)
        });
        let contents = team.run(|| {
            let archive = Archive::new(maker, pool, &finished, ready)?;
            Contents::new(maker, frozen, work, archive, &finished).write()
        });
        (team.join(copier), team.join(indexer), contents)
    });
    let (copied, index, (bytes, loose)) = team.all((copied, index, contents))?;
    plan.forget_members();
    maker.check_cancelled()?;
    let Copied {
        layer: open_layer,
        mut changes,
    } = copied;
    let (plain_toc, mut staging) = index.close_toc()?;
    loose.iter().try_for_each(|hole| staging.hole(hole))?;
    let mut sources = inherited(frozen, plan, &mut staging)?;
    changes.holes(&staging)?;
    // The layer needs the TOC, the metadata tarball needs neither.
    let (index, metadata) = thread::scope(|scope| {
        let index = team.spawn(scope, "cbfs-layer", move || {
            sources.extend(toc(maker, &plain_toc)?);
            layer(maker, open_layer, &staging, &sources)
        });
        let metadata = team.run(|| {
            if maker.ledger.object(Part::Metadata).is_some() {
                return changes.discard();
            }
            let changes = changes.finish(dir, maker.ledger.tarballs().len() as u32)?;
            metadata::write(maker, pool, frozen, plan, &changes)
        });
        (team.join(index), metadata)
    });
    team.all((index, metadata, Some(())))?;
    Ok(bytes)
}

/// Make the TOC object, unless that was done or there is no data tarball; answers where it is.
fn toc(maker: &Maker<'_>, plain: &Path) -> Result<Option<SourceRow>> {
    let job = maker.job;
    let object = match maker.ledger.object(Part::Toc) {
        Some(made) => made,
        None if maker.ledger.tarballs().is_empty() => {
            remove(plain)?;
            return Ok(None);
        }
        None => {
            let path = maker.path(keys::TOC);
            let object = compress_whole(plain, &path, job.level)?.at(job.key(keys::TOC));
            maker.object_made(Part::Toc, &object, &path)?;
            object
        }
    };
    remove(plain)?;
    Ok(Some(SourceRow {
        snapshot: job.number,
        toc_key: object.key,
        toc_size: object.size,
        toc_blake3: object.blake3,
    }))
}

/// Make the layer object, unless that was done.
fn layer(
    maker: &Maker<'_>,
    open: OpenLayer,
    staging: &Staging,
    sources: &[SourceRow],
) -> Result<()> {
    let job = maker.job;
    if maker.ledger.object(Part::Layer).is_some() {
        return open.discard();
    }
    let plain = open.finish(job, staging, sources)?;
    let path = maker.path(keys::LAYER);
    let object = compress_seekable(&plain, &path, job.level)?.at(job.key(keys::LAYER));
    remove(&plain)?;
    maker.object_made(Part::Layer, &object, &path)
}

/// The threads that work on one attempt. The first failure stops the others, and is the one that is
/// told: they only heard that they should stop.
#[derive(Default)]
struct Team {
    failed: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Team {
    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn fail<T>(&self, error: Error) -> Option<T> {
        self.first.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
        None
    }

    /// Do one's part; `None` when it failed.
    fn run<T>(&self, part: impl FnOnce() -> Result<T>) -> Option<T> {
        part().map_or_else(|e| self.fail(e), Some)
    }

    fn spawn<'scope, 'env, T: Send + 'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, 'env>,
        name: &str,
        part: impl FnOnce() -> Result<T> + Send + 'scope,
    ) -> Option<thread::ScopedJoinHandle<'scope, Option<T>>> {
        let thread = thread::Builder::new().name(name.into());
        let started = thread.spawn_scoped(scope, move || self.run(part));
        self.run(|| started.context(|| "a thread could not be started".into()))
    }

    fn join<T>(&self, thread: Option<thread::ScopedJoinHandle<'_, Option<T>>>) -> Option<T> {
        match thread?.join() {
            Ok(part) => part,
            Err(_) => self.fail(Error::failed("a thread of the persister died")),
        }
    }

    /// All parts, or the first failure.
    fn all<A, B, C>(&self, parts: (Option<A>, Option<B>, Option<C>)) -> Result<(A, B, C)> {
        if let Some(first) = self.first.lock().take() {
            return Err(first);
        }
        match parts {
            (Some(a), Some(b), Some(c)) => Ok((a, b, c)),
            _ => Err(cancelled()),
        }
    }
}

/// What every part of the persister needs.
struct Maker<'a> {
    job: &'a Job<'a>,
    dir: &'a Path,
    observer: &'a dyn Observer,
    ledger: &'a Ledger,
    team: &'a Team,
}

impl Maker<'_> {
    fn check_cancelled(&self) -> Result<()> {
        if self.team.has_failed() || self.observer.cancelled() {
            Err(cancelled())
        } else {
            Ok(())
        }
    }

    /// Note an object that is whole, and tell of it.
    fn object_made(&self, part: Part, object: &ObjectRef, path: &Path) -> Result<()> {
        self.ledger.note(part, object)?;
        self.observer.object_made(object, path)
    }

    /// Note a data tarball that is whole, and tell of it.
    fn tarball_made(&self, tarball: &TarballEntry, path: &Path) -> Result<()> {
        self.ledger.note_tarball(tarball.clone())?;
        self.observer.object_made(&tarball.object, path)
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
