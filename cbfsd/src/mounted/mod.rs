//! The mounted instance: what a session serves, and can be exchanged for another instance of the same file system
//! without a remount (the next snapshot of a follower, the master that a slave becomes).
//!
//! # What a program sees
//!
//! - Each operation is answered by one instance, wholly.
//! - A file that is open keeps the contents of the instance that was present when it was opened, to its last byte and
//!   until it is closed; `open(2)` of its name leads to the present one (see [`versions`]). A file that is gone can be read on
//!   by who has it open.
//! - Directories are always those of the present instance. A listing under way goes on at its cookie, which is the hash
//!   of a name: names that are in both snapshots are told once.
//! - For the moment between the exchange and the end of the invalidation, names, attributes and listings that the kernel
//!   has may still be those of before. After [`MountedInstance::exchange`] nothing is.
//!
//! # Order
//!
//! What differs is computed first, beside the operations. Then the gate is closed, for as long as the inodes take that
//! the kernel has got to know meanwhile: old versions are put with their holder, the instance is exchanged. Then, with the gate
//! open again, the kernel is told to forget. What it was just about to be told by the old instance it either
//! forgets as well (it takes the directory's lock for a name, and the answer to a LOOKUP or READDIR is dealt with under that
//! lock) or does not believe (attributes carry a version). Pages need no care: a node never changes its contents.
//!
//! Operations that make nodes known to the kernel hold the gate to their end; none of these waits for the bucket. Others only
//! find out whom to ask under it.

mod difference;
mod versions;

pub use difference::Layers;
pub(crate) use versions::is_fresh;

use crate::instance::Instance;
use cbfs_core::api::Role;
use cbfs_core::error::Result;
use cbfs_core::ids::Ino;
use cbfs_fuse::{
    Attributes, CachePolicy, Caller, DirectoryEntry, DirectorySink, Errno, FileSystem,
    FileSystemStatistics, Notifier, OpResult, Patience, Reparented, SetAttributes,
};
use difference::{Candidates, Difference};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use versions::Versions;

/// So many inodes that the kernel got to know meanwhile are compared while operations wait ...
const FEW: usize = 64;
/// ... and after so many tries any number.
const TRIES: usize = 4;

/// The instance that a mount shows at present.
pub struct MountedInstance {
    present: RwLock<Arc<Instance>>,
    versions: Mutex<Versions<Arc<Instance>>>,
    /// All node ids are inode numbers: nothing is to be looked up. Changed under the lock of `versions`.
    plain: AtomicBool,
}

impl MountedInstance {
    /// Begin with this one.
    pub fn new(instance: Arc<Instance>) -> MountedInstance {
        MountedInstance {
            present: RwLock::new(instance),
            versions: Mutex::default(),
            plain: AtomicBool::new(true),
        }
    }

    /// The instance that is served at present.
    pub fn present(&self) -> Arc<Instance> {
        Arc::clone(&self.present.read())
    }

    /// Serve `next` from now on. It must share the present one's lookups ([`crate::instance::Inherited`]). `before` is what the
    /// present one is read from, `after` what the next one is. On return no cache of the kernel (told by
    /// `notifier`; there is none without a mount) has anything of before that differs, but for what is open.
    ///
    /// The caller lets only one exchange run at a time, and holds no lock that an operation takes. After an error nothing has
    /// changed.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn exchange(
        &self,
        next: Arc<Instance>,
        before: &Layers,
        after: &Layers,
        notifier: Option<&Notifier>,
    ) -> Result<()> {
        let candidates = Candidates::between(before, after)?;
        let present = self.present();
        let lookups = Arc::clone(present.lookups());
        debug_assert!(Arc::ptr_eq(&lookups, next.lookups()));
        let mut compared = FxHashSet::from_iter([Ino::ROOT]);
        let mut difference = Difference::default();
        difference.add(&[Ino::ROOT], &candidates, &before.stack, &after.stack)?;
        let mut try_number = 0;
        loop {
            let mut gate = None;
            let mut new = unseen(lookups.known(), &compared);
            if new.len() <= FEW || try_number == TRIES {
                gate = Some(self.present.write());
                new = unseen(lookups.known(), &compared);
            }
            difference.add(&new, &candidates, &before.stack, &after.stack)?;
            if let Some(mut gate) = gate {
                let mut versions = self.versions.lock();
                for ino in &difference.files {
                    versions.retire(*ino, lookups.of(*ino), Arc::clone(&present));
                }
                self.plain.store(versions.is_plain(), Ordering::Release);
                *gate = next;
                break;
            }
            compared.extend(new);
            try_number += 1;
        }
        if let Some(notifier) = notifier {
            self.invalidate(notifier, &difference);
        }
        Ok(())
    }

    fn invalidate(&self, notifier: &Notifier, difference: &Difference) {
        let told = |what: &str, ino: Ino, result: std::io::Result<()>| {
            if let Err(e) = result {
                tracing::warn!(%ino, "the kernel keeps {what} of before: {e}");
            }
        };
        // Names first: that waits for listings and lookups under way, and what they bring is dropped after it.
        for (parent, name) in &difference.names {
            told("a name", *parent, notifier.invalidate_entry(parent.0, name));
        }
        for ino in &difference.directories {
            told("a listing", *ino, notifier.invalidate_inode(ino.0, 0, 0));
        }
        for ino in &difference.attributes {
            let node = self.node_of(*ino);
            told("attributes", *ino, notifier.invalidate_inode(node, -1, 0));
        }
    }

    /// Whose a node is that stat(2) on the mount tells, and as which inode.
    ///
    /// # Errors
    /// `ESTALE` when it is nobody's any more.
    pub fn holder_of(&self, node: u64) -> OpResult<(Arc<Instance>, Ino)> {
        self.whom(node)
    }

    /// Whom to ask about a node, and as which inode.
    fn whom(&self, node: u64) -> OpResult<(Arc<Instance>, Ino)> {
        let present = self.present.read();
        self.resolve(&present, node)
    }

    fn resolve(&self, present: &Arc<Instance>, node: u64) -> OpResult<(Arc<Instance>, Ino)> {
        if self.plain.load(Ordering::Acquire) && !is_fresh(node) {
            return Ok((Arc::clone(present), Ino(node)));
        }
        let (ino, holder) = self.versions.lock().resolve(node).ok_or(Errno::ESTALE)?;
        Ok((holder.unwrap_or_else(|| Arc::clone(present)), ino))
    }

    /// The same for what changes something: an old version is not changed any more.
    fn changing(&self, node: u64) -> OpResult<(Arc<Instance>, Ino)> {
        let present = self.present.read();
        let (instance, ino) = self.resolve(&present, node)?;
        if present.role() == Role::Master && !Arc::ptr_eq(&present, &instance) {
            return Err(Errno::ESTALE.into());
        }
        Ok((instance, ino))
    }

    /// The node of the present version of an inode.
    fn node_of(&self, ino: Ino) -> u64 {
        if self.plain.load(Ordering::Acquire) {
            return ino.0;
        }
        self.versions.lock().node_of(ino)
    }

    /// An answer of the present instance that makes the kernel know the inode. The gate is held.
    fn told(&self, attributes: Attributes) -> Attributes {
        if self.plain.load(Ordering::Acquire) {
            return attributes;
        }
        let mut versions = self.versions.lock();
        let node = versions.node_of(Ino(attributes.ino));
        versions.told(node);
        Attributes {
            ino: node,
            ..attributes
        }
    }

    /// An operation in a directory of the present instance that makes the kernel know an inode.
    fn making_known(
        &self,
        op: impl FnOnce(&Instance) -> OpResult<Attributes>,
    ) -> OpResult<Attributes> {
        let present = self.present.read();
        op(&present).map(|attributes| self.told(attributes))
    }
}

fn unseen(mut known: Vec<Ino>, seen: &FxHashSet<Ino>) -> Vec<Ino> {
    known.retain(|ino| !seen.contains(ino));
    known
}

/// Passes on the entries of a directory with the node ids of present versions.
struct Present<'a> {
    mounted: &'a MountedInstance,
    sink: &'a mut dyn DirectorySink,
}

impl DirectorySink for Present<'_> {
    fn push(
        &mut self,
        entry: DirectoryEntry<'_>,
        attributes: &mut dyn FnMut() -> Option<Attributes>,
    ) -> bool {
        let ino = self.mounted.node_of(Ino(entry.ino));
        let mut told = false;
        let taken = self.sink.push(DirectoryEntry { ino, ..entry }, &mut || {
            let found = attributes()?;
            told = true;
            Some(Attributes { ino, ..found })
        });
        if taken && told && !matches!(entry.name, b"." | b"..") {
            self.mounted.versions.lock().told(ino);
        }
        taken
    }
}

impl FileSystem for MountedInstance {
    fn cache_policy(&self) -> CachePolicy {
        self.present.read().cache_policy()
    }

    fn lookup(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<Attributes> {
        self.making_known(|present| present.lookup(patience, parent, name))
    }

    fn forget(&self, node: u64, count: u64) {
        let present = self.present.read();
        let ino = if self.plain.load(Ordering::Acquire) {
            Ino(node)
        } else {
            let mut versions = self.versions.lock();
            let ino = versions.forgotten(node, count);
            self.plain.store(versions.is_plain(), Ordering::Release);
            ino
        };
        present.forget(ino.0, count);
    }

    fn getattr(&self, patience: Patience, node: u64) -> OpResult<Attributes> {
        let (instance, ino) = self.whom(node)?;
        let found = instance.getattr(patience, ino.0)?;
        Ok(Attributes { ino: node, ..found })
    }

    fn setattr(
        &self,
        patience: Patience,
        caller: Caller,
        node: u64,
        change: &SetAttributes,
    ) -> OpResult<Attributes> {
        let (instance, ino) = self.changing(node)?;
        let found = instance.setattr(patience, caller, ino.0, change)?;
        Ok(Attributes { ino: node, ..found })
    }

    fn readlink(&self, patience: Patience, node: u64) -> OpResult<Vec<u8>> {
        let (instance, ino) = self.whom(node)?;
        instance.readlink(patience, ino.0)
    }

    fn mknod(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> OpResult<Attributes> {
        self.making_known(|present| present.mknod(patience, caller, at, mode, umask, rdev))
    }

    fn mkdir(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
    ) -> OpResult<Attributes> {
        self.making_known(|present| present.mkdir(patience, caller, at, mode, umask))
    }

    fn symlink(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        target: &[u8],
    ) -> OpResult<Attributes> {
        self.making_known(|present| present.symlink(patience, caller, at, target))
    }

    fn link(&self, patience: Patience, node: u64, at: (u64, &[u8])) -> OpResult<Attributes> {
        let (_, ino) = self.changing(node)?;
        self.making_known(|present| present.link(patience, ino.0, at))
    }

    fn unlink(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<()> {
        self.present().unlink(patience, parent, name)
    }

    fn rmdir(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<()> {
        self.present().rmdir(patience, parent, name)
    }

    fn rename(
        &self,
        patience: Patience,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
    ) -> OpResult<Reparented> {
        self.present().rename(patience, from, to, flags)
    }

    fn read(&self, patience: Patience, node: u64, offset: u64, size: u32) -> OpResult<Vec<u8>> {
        let (instance, ino) = self.whom(node)?;
        instance.read(patience, ino.0, offset, size)
    }

    fn write(&self, patience: Patience, node: u64, offset: u64, data: &[u8]) -> OpResult<()> {
        let (instance, ino) = self.changing(node)?;
        instance.write(patience, ino.0, offset, data)
    }

    fn fsync(&self, patience: Patience, node: u64, datasync: bool) -> OpResult<()> {
        let (instance, ino) = self.whom(node)?;
        instance.fsync(patience, ino.0, datasync)
    }

    fn readdir(
        &self,
        patience: Patience,
        node: u64,
        cookie: u64,
        sink: &mut dyn DirectorySink,
    ) -> OpResult<()> {
        let present = self.present.read();
        if self.plain.load(Ordering::Acquire) {
            return present.readdir(patience, node, cookie, sink);
        }
        let mut sink = Present {
            mounted: self,
            sink,
        };
        present.readdir(patience, node, cookie, &mut sink)
    }

    fn statfs(&self) -> OpResult<FileSystemStatistics> {
        self.present().statfs()
    }

    fn setxattr(
        &self,
        patience: Patience,
        node: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> OpResult<()> {
        let (instance, ino) = self.changing(node)?;
        instance.setxattr(patience, ino.0, name, value, flags, kill_sgid)
    }

    fn getxattr(&self, patience: Patience, node: u64, name: &[u8]) -> OpResult<Vec<u8>> {
        let (instance, ino) = self.whom(node)?;
        instance.getxattr(patience, ino.0, name)
    }

    fn listxattr(&self, patience: Patience, node: u64) -> OpResult<Vec<Vec<u8>>> {
        let (instance, ino) = self.whom(node)?;
        instance.listxattr(patience, ino.0)
    }

    fn removexattr(&self, patience: Patience, node: u64, name: &[u8]) -> OpResult<()> {
        let (instance, ino) = self.changing(node)?;
        instance.removexattr(patience, ino.0, name)
    }

    fn fallocate(
        &self,
        patience: Patience,
        node: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> OpResult<()> {
        let (instance, ino) = self.changing(node)?;
        instance.fallocate(patience, ino.0, offset, length, mode)
    }

    fn seek(&self, patience: Patience, node: u64, offset: u64, whence: u32) -> OpResult<u64> {
        let (instance, ino) = self.whom(node)?;
        instance.seek(patience, ino.0, offset, whence)
    }

    fn copy_range(
        &self,
        patience: Patience,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> OpResult<u64> {
        let (source, from_ino) = self.whom(from.0)?;
        let (instance, to_ino) = self.changing(to.0)?;
        if !Arc::ptr_eq(&source, &instance) {
            // The kernel then reads and writes.
            return Err(Errno::EXDEV.into());
        }
        instance.copy_range(patience, (from_ino.0, from.1), (to_ino.0, to.1), length)
    }
}
