//! `MOUNT/.cbfs/snapshots/<number>/` and `…/<name>/`: every complete snapshot, read-only, so that `cp` brings a
//! file back. A [`FileSystem`] in front of the instance's own: what lies below `.cbfs` is answered here, by
//! slave instances that are opened when somebody enters them; all else is passed on at the price of a
//! comparison.
//!
//! `.cbfs` is not listed in the root directory. Nothing is asked of the bucket before somebody looks into
//! `.cbfs/snapshots`. Node ids: see [`nodes`]. Everything that would change something is EROFS, or EPERM for the name
//! `.cbfs` itself.
//!
//! All files of open snapshots lie in `visible/` of the instance; a crash leaves them there until the next
//! mount.

mod nodes;
mod shelf;
#[cfg(test)]
mod tests;

pub(crate) use nodes::is_ours as is_visible_snapshot;
pub use shelf::Library;

use crate::instance::{Instance, RESERVED_NAME};
use crate::mounted::MountedInstance;
use cbfs_core::error::{Error, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::ids::{Epoch, Ino, SnapshotNumber};
use cbfs_core::inode::FileKind;
use cbfs_fuse::{
    Attributes, CachePolicy, Caller, DirectoryEntry, DirectorySink, Errno, FileSystem,
    FileSystemStatistics, OpResult, Patience, Refusal, Reparented, SetAttributes,
};
use nodes::{CONTROL, Node, Nodes, SNAPSHOTS, View, is_ours};
use shelf::{List, OpenSnapshot, Shelf};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The one name in `.cbfs`.
const SNAPSHOTS_NAME: &[u8] = b"snapshots";

/// Cookies of `.` and `..`; entries follow.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// The file system of an instance with its snapshots in it.
pub struct VisibleSnapshots {
    inner: Arc<MountedInstance>,
    /// Of the instance, for the log.
    id: String,
    nodes: Nodes,
    shelf: Shelf,
    owner: (u32, u32),
}

impl VisibleSnapshots {
    /// In front of `inner`.
    pub fn new(inner: Arc<MountedInstance>, library: Library) -> Result<VisibleSnapshots> {
        let present = inner.present();
        let dir: PathBuf = present.dir().join("visible");
        Ok(VisibleSnapshots {
            shelf: Shelf::new(library, &dir)?,
            nodes: Nodes::default(),
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            id: present.id().to_owned(),
            inner,
        })
    }

    fn node(&self, node: u64) -> OpResult<Node> {
        self.nodes.resolve(node).ok_or(Errno::ESTALE.into())
    }

    fn failed(&self, e: &Error) -> Refusal {
        tracing::warn!(instance = self.id, causes = ?e.causes(), ".cbfs/snapshots: {e}");
        Errno::EIO.into()
    }

    /// The list of snapshots, at most a moment old; an old one when the bucket does not answer.
    fn list(&self, patience: Patience) -> OpResult<Arc<List>> {
        if let Some(list) = self.shelf.fresh_list() {
            return Ok(list);
        }
        if patience == Patience::Never {
            return Err(Refusal::MustWait);
        }
        match self.shelf.list() {
            Ok(list) => Ok(list),
            Err(e) => {
                let refusal = self.failed(&e);
                self.shelf.any_list().ok_or(refusal)
            }
        }
    }

    /// A snapshot by number or name. What the list has not is looked for in a new one: it may have been
    /// completed a moment ago.
    fn find(&self, patience: Patience, name: &[u8]) -> OpResult<View> {
        if let Some(view) = find(&*self.list(patience)?, name) {
            return Ok(view);
        }
        if patience == Patience::Never {
            return Err(Refusal::MustWait);
        }
        self.shelf.expire_list();
        find(&*self.list(patience)?, name).ok_or(Errno::ENOENT.into())
    }

    fn opened(&self, patience: Patience, view: View) -> OpResult<Arc<OpenSnapshot>> {
        if let Some(open) = self.shelf.open_one(view.snapshot) {
            return Ok(open);
        }
        if patience == Patience::Never {
            return Err(Refusal::MustWait);
        }
        let opened = self.shelf.open(view.snapshot);
        opened.map_err(|e| self.failed(&e))
    }

    /// The answer about an inode of a snapshot as one of ours.
    fn translated(&self, view: View, attributes: Attributes) -> OpResult<Attributes> {
        let ino = self.nodes.of(view, Ino(attributes.ino));
        let ino = ino.ok_or(Refusal::Errno(Errno::EOVERFLOW))?;
        Ok(Attributes { ino, ..attributes })
    }

    fn directory(&self, ino: u64, subdirectories: usize, changed: i64) -> Attributes {
        Attributes {
            ino,
            mode: (FileKind::Directory.code() << 12) | 0o555,
            nlink: u32::try_from(subdirectories + 2).unwrap_or(u32::MAX),
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            size: subdirectories as u64,
            blocks: 0,
            blksize: 4096,
            atime: changed,
            mtime: changed,
            ctime: changed,
            btime: changed,
        }
    }

    fn control_attributes(&self) -> Attributes {
        self.directory(CONTROL, 1, 0)
    }

    /// Its time changes with the list: that is what makes the kernel read the directory anew.
    fn snapshots_attributes(&self, patience: Patience) -> OpResult<Attributes> {
        let list = self.list(patience)?;
        let names = list.all.values().flatten().count();
        Ok(self.directory(SNAPSHOTS, list.all.len() + names, list.changed))
    }

    fn lookup_ours(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<Attributes> {
        match self.node(parent)? {
            Node::Control if name == SNAPSHOTS_NAME => self.snapshots_attributes(patience),
            Node::Control => Err(Errno::ENOENT.into()),
            Node::Snapshots => {
                let view = self.find(patience, name)?;
                let open = self.opened(patience, view)?;
                let root = open.instance.getattr(patience, Ino::ROOT.0)?;
                let root = self.translated(view, root)?;
                self.shelf.told(view.snapshot);
                Ok(root)
            }
            Node::Inside(view, ino) => {
                let open = self.opened(patience, view)?;
                let found = open.instance.lookup(patience, ino.0, name)?;
                let found = self.translated(view, found)?;
                self.shelf.told(view.snapshot);
                Ok(found)
            }
        }
    }

    fn list_ours(
        &self,
        patience: Patience,
        node: u64,
        cookie: u64,
        sink: &mut dyn DirectorySink,
    ) -> OpResult<()> {
        let (parent, entries) = match self.node(node)? {
            Node::Inside(view, ino) => {
                let open = self.opened(patience, view)?;
                let mut inside = Inside {
                    all: self,
                    view,
                    directory: ino,
                    sink,
                };
                return open.instance.readdir(patience, ino.0, cookie, &mut inside);
            }
            Node::Control => {
                let entry = (DOT_DOT + 1, SNAPSHOTS_NAME.to_vec(), SNAPSHOTS);
                (Ino::ROOT.0, vec![entry])
            }
            Node::Snapshots => (CONTROL, self.entries(&*self.list(patience)?)),
        };
        let dots = [
            (DOT, b".".to_vec(), node),
            (DOT_DOT, b"..".to_vec(), parent),
        ];
        for (at, name, ino) in dots.into_iter().chain(entries) {
            if at <= cookie {
                continue;
            }
            let entry = DirectoryEntry {
                ino,
                cookie: at,
                kind: FileKind::Directory.code(),
                name: &name,
            };
            // A listing opens no snapshot: attributes are told when they are asked for by name.
            if !sink.push(entry, &mut || None) {
                break;
            }
        }
        Ok(())
    }

    /// Numbers and names, with cookies that stay whatever comes or goes.
    fn entries(&self, list: &List) -> Vec<(u64, Vec<u8>, u64)> {
        let mut entries = Vec::new();
        for ((number, epoch), name) in &list.all {
            let texts = [Some(number.to_string()), name.clone()];
            for (text, by_name) in texts.into_iter().zip([false, true]) {
                let Some(text) = text else { continue };
                let view = view(*number, *epoch, by_name);
                let ino = self.nodes.of(view, Ino::ROOT).unwrap_or(SNAPSHOTS);
                let cookie = DOT_DOT + 1 + number.saturating_mul(2) + u64::from(by_name);
                entries.push((cookie, text.into_bytes(), ino));
            }
        }
        entries
    }

    /// Read something of an inode in a snapshot; `control` answers for the directories above.
    fn inside<T>(
        &self,
        patience: Patience,
        node: u64,
        control: Errno,
        read: impl FnOnce(&Instance, u64) -> OpResult<T>,
    ) -> OpResult<T> {
        match self.node(node)? {
            Node::Inside(view, ino) => {
                let open = self.opened(patience, view)?;
                read(&open.instance, ino.0)
            }
            Node::Control | Node::Snapshots => Err(control.into()),
        }
    }
}

fn view(number: u64, epoch: u16, by_name: bool) -> View {
    View {
        snapshot: BaseSnapshot {
            number: SnapshotNumber(number),
            epoch: Epoch(epoch),
        },
        by_name,
    }
}

/// A snapshot by its number in decimal, or by its name.
fn find(list: &List, name: &[u8]) -> Option<View> {
    let text = std::str::from_utf8(name).ok()?;
    let by_number = text.parse::<u64>().ok().filter(|n| n.to_string() == text);
    let mut all = list.all.iter().rev();
    if let Some(wanted) = by_number
        && let Some(((number, epoch), _)) = all.clone().find(|((number, _), _)| *number == wanted)
    {
        return Some(view(*number, *epoch, false));
    }
    let ((number, epoch), _) = all.find(|(_, name)| name.as_deref() == Some(text))?;
    Some(view(*number, *epoch, true))
}

/// Passes on the entries of a directory in a snapshot.
struct Inside<'a> {
    all: &'a VisibleSnapshots,
    view: View,
    directory: Ino,
    sink: &'a mut dyn DirectorySink,
}

impl DirectorySink for Inside<'_> {
    fn push(
        &mut self,
        entry: DirectoryEntry<'_>,
        attributes: &mut dyn FnMut() -> Option<Attributes>,
    ) -> bool {
        let above = entry.name == b".." && self.directory == Ino::ROOT;
        let ino = if above {
            Some(SNAPSHOTS)
        } else {
            self.all.nodes.of(self.view, Ino(entry.ino))
        };
        let Some(ino) = ino else {
            return true; // no slot is left: a name that cannot be looked up either is left out
        };
        let mut told = false;
        let taken = self.sink.push(DirectoryEntry { ino, ..entry }, &mut || {
            let found = attributes()?;
            told = true;
            Some(Attributes { ino, ..found })
        });
        if taken && told {
            self.all.shelf.told(self.view.snapshot);
        }
        taken
    }
}

impl FileSystem for VisibleSnapshots {
    fn cache_policy(&self) -> CachePolicy {
        self.inner.cache_policy()
    }

    fn cache_policy_of(&self, ino: u64) -> CachePolicy {
        // The kernel does not see snapshots come.
        if ino == CONTROL || ino == SNAPSHOTS {
            return CachePolicy {
                entry: Duration::ZERO,
                negative: Duration::ZERO,
                attributes: Duration::ZERO,
            };
        }
        self.inner.cache_policy()
    }

    fn lookup(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<Attributes> {
        if is_ours(parent) {
            return self.lookup_ours(patience, parent, name);
        }
        if parent == Ino::ROOT.0 && name == RESERVED_NAME {
            return Ok(self.control_attributes());
        }
        self.inner.lookup(patience, parent, name)
    }

    fn forget(&self, ino: u64, count: u64) {
        if !is_ours(ino) {
            return self.inner.forget(ino, count);
        }
        if let Some(Node::Inside(view, inner)) = self.nodes.resolve(ino) {
            if let Some(open) = self.shelf.open_one(view.snapshot) {
                open.instance.forget(inner.0, count);
            }
            self.shelf.forgotten(view.snapshot, count);
        }
    }

    fn getattr(&self, patience: Patience, ino: u64) -> OpResult<Attributes> {
        if !is_ours(ino) {
            return self.inner.getattr(patience, ino);
        }
        match self.node(ino)? {
            Node::Control => Ok(self.control_attributes()),
            Node::Snapshots => self.snapshots_attributes(patience),
            Node::Inside(view, inner) => {
                let open = self.opened(patience, view)?;
                self.translated(view, open.instance.getattr(patience, inner.0)?)
            }
        }
    }

    fn setattr(
        &self,
        patience: Patience,
        caller: Caller,
        ino: u64,
        change: &SetAttributes,
    ) -> OpResult<Attributes> {
        writable(ino)?;
        self.inner.setattr(patience, caller, ino, change)
    }

    fn readlink(&self, patience: Patience, ino: u64) -> OpResult<Vec<u8>> {
        if !is_ours(ino) {
            return self.inner.readlink(patience, ino);
        }
        self.inside(patience, ino, Errno::EINVAL, |instance, ino| {
            instance.readlink(patience, ino)
        })
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
        writable(at.0)?;
        self.inner.mknod(patience, caller, at, mode, umask, rdev)
    }

    fn mkdir(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
    ) -> OpResult<Attributes> {
        writable(at.0)?;
        self.inner.mkdir(patience, caller, at, mode, umask)
    }

    fn symlink(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        target: &[u8],
    ) -> OpResult<Attributes> {
        writable(at.0)?;
        self.inner.symlink(patience, caller, at, target)
    }

    fn link(&self, patience: Patience, ino: u64, at: (u64, &[u8])) -> OpResult<Attributes> {
        writable(at.0)?;
        if is_ours(ino) {
            return Err(Errno::EXDEV.into());
        }
        self.inner.link(patience, ino, at)
    }

    fn unlink(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<()> {
        writable(parent)?;
        not_reserved((parent, name))?;
        self.inner.unlink(patience, parent, name)
    }

    fn rmdir(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<()> {
        writable(parent)?;
        not_reserved((parent, name))?;
        self.inner.rmdir(patience, parent, name)
    }

    fn rename(
        &self,
        patience: Patience,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
    ) -> OpResult<Reparented> {
        // Out of a snapshot: EROFS as well, as the name would have to go.
        writable(from.0)?;
        writable(to.0)?;
        not_reserved(from)?;
        not_reserved(to)?;
        self.inner.rename(patience, from, to, flags)
    }

    fn read(&self, patience: Patience, ino: u64, offset: u64, size: u32) -> OpResult<Vec<u8>> {
        if !is_ours(ino) {
            return self.inner.read(patience, ino, offset, size);
        }
        self.inside(patience, ino, Errno::EISDIR, |instance, ino| {
            instance.read(patience, ino, offset, size)
        })
    }

    fn write(&self, patience: Patience, ino: u64, offset: u64, data: &[u8]) -> OpResult<()> {
        writable(ino)?;
        self.inner.write(patience, ino, offset, data)
    }

    fn fsync(&self, patience: Patience, ino: u64, datasync: bool) -> OpResult<()> {
        if is_ours(ino) {
            return Ok(());
        }
        self.inner.fsync(patience, ino, datasync)
    }

    fn readdir(
        &self,
        patience: Patience,
        ino: u64,
        cookie: u64,
        sink: &mut dyn DirectorySink,
    ) -> OpResult<()> {
        if is_ours(ino) {
            return self.list_ours(patience, ino, cookie, sink);
        }
        self.inner.readdir(patience, ino, cookie, sink)
    }

    fn statfs(&self) -> OpResult<FileSystemStatistics> {
        self.inner.statfs()
    }

    fn setxattr(
        &self,
        patience: Patience,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> OpResult<()> {
        writable(ino)?;
        self.inner
            .setxattr(patience, ino, name, value, flags, kill_sgid)
    }

    fn getxattr(&self, patience: Patience, ino: u64, name: &[u8]) -> OpResult<Vec<u8>> {
        if !is_ours(ino) {
            return self.inner.getxattr(patience, ino, name);
        }
        self.inside(patience, ino, Errno::ENODATA, |instance, ino| {
            instance.getxattr(patience, ino, name)
        })
    }

    fn listxattr(&self, patience: Patience, ino: u64) -> OpResult<Vec<Vec<u8>>> {
        if !is_ours(ino) {
            return self.inner.listxattr(patience, ino);
        }
        match self.node(ino)? {
            Node::Inside(view, inner) => {
                let open = self.opened(patience, view)?;
                open.instance.listxattr(patience, inner.0)
            }
            Node::Control | Node::Snapshots => Ok(Vec::new()),
        }
    }

    fn removexattr(&self, patience: Patience, ino: u64, name: &[u8]) -> OpResult<()> {
        writable(ino)?;
        self.inner.removexattr(patience, ino, name)
    }

    fn fallocate(
        &self,
        patience: Patience,
        ino: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> OpResult<()> {
        writable(ino)?;
        self.inner.fallocate(patience, ino, offset, length, mode)
    }

    fn seek(&self, patience: Patience, ino: u64, offset: u64, whence: u32) -> OpResult<u64> {
        if !is_ours(ino) {
            return self.inner.seek(patience, ino, offset, whence);
        }
        self.inside(patience, ino, Errno::EINVAL, |instance, ino| {
            instance.seek(patience, ino, offset, whence)
        })
    }

    fn copy_range(
        &self,
        patience: Patience,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> OpResult<u64> {
        writable(to.0)?;
        if is_ours(from.0) {
            // The kernel then copies by reading and writing.
            return Err(Errno::EXDEV.into());
        }
        self.inner.copy_range(patience, from, to, length)
    }
}

/// What lies below `.cbfs` is never changed.
fn writable(node: u64) -> OpResult<()> {
    if is_ours(node) {
        Err(Errno::EROFS.into())
    } else {
        Ok(())
    }
}

fn not_reserved(at: (u64, &[u8])) -> OpResult<()> {
    if at.0 == Ino::ROOT.0 && at.1 == RESERVED_NAME {
        Err(Errno::EPERM.into())
    } else {
        Ok(())
    }
}
