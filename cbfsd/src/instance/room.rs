//! Operations and the room they need: what takes space is refused with ENOSPC before the disk is
//! really full (or past the limit); what gives space back, and what only makes things durable, goes on in
//! the ballast's room.

use super::Instance;
use crate::journal::Keep;
use crate::kvs::INLINE_MAX;
use crate::space::{Loan, Measured, Space, may_be_full};
use cbfs_core::error::{Context, Result};
use cbfs_core::ids::{Ino, Xid};
use cbfs_fuse::{Errno, OpResult, Refusal};
use std::sync::atomic::Ordering;

/// What an operation on names or attributes takes in journal and KVS, in bytes.
pub(super) const NAME_COST: u64 = 1024;

/// The largest write that comes in one piece, in bytes: without room for it the disk counts as full.
const LARGEST_WRITE: u64 = 1 << 20;

/// What any operation takes besides contents.
const RECORD_COST: u64 = 512;

/// What a write of `length` bytes that ends at `end` takes: inline contents go into the journal and, in
/// whole pages, into the KVS.
pub(super) fn write_cost(length: u64, end: u64) -> u64 {
    let copies = if end <= INLINE_MAX { 3 } else { 1 };
    copies * length + RECORD_COST
}

impl Instance {
    /// Do an operation that takes about `cost` bytes. When there is no room, or the disk is full after
    /// all, it is done once more after room was made: what deleted files still hold is kept
    /// until their deletion survives power loss, seconds later, and that must not make an
    /// operation fail that has room (ext4 does likewise with blocks freed in the running
    /// transaction).
    pub(super) fn taking<T>(&self, cost: u64, operation: impl Fn() -> OpResult<T>) -> OpResult<T> {
        let Some(space) = self.writable_space() else {
            return operation();
        };
        let seen = space.reclaimed();
        let refused = match self.admit(space, cost) {
            Ok(()) => match operation() {
                Err(Refusal::Errno(e @ (Errno::ENOSPC | Errno::EDQUOT))) => {
                    space.refuse(e);
                    e
                }
                done => return done,
            },
            Err(e) => e,
        };
        if !self.make_room(space, seen) {
            return Err(refused.into());
        }
        self.admit(space, cost)?;
        operation()
    }

    /// Do an operation that must work on a full disk too: the ballast goes, and if that is not enough,
    /// room is made.
    pub(super) fn freeing<T>(&self, operation: impl Fn() -> OpResult<T>) -> OpResult<T> {
        let full =
            |done: &OpResult<T>| matches!(done, Err(Refusal::Errno(Errno::ENOSPC | Errno::EDQUOT)));
        let mut done = operation();
        let Some(space) = self.writable_space() else {
            return done;
        };
        if full(&done) && space.release() {
            done = operation();
        }
        if full(&done) && self.make_room(space, space.reclaimed()) {
            done = operation();
        }
        done
    }

    /// The same for the daemon's own work.
    pub fn with_reserve<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        match (work(), &self.space) {
            (Err(e), Some(space)) if may_be_full(&e) && space.release() => work(),
            (done, _) => done,
        }
    }

    /// Room for a snapshot on a full disk: the ballast's, until the answer is dropped.
    pub fn lend_room(&self) -> Result<Option<Loan<'_>>> {
        let lent = self.space.as_ref().map(Space::lend).transpose();
        lent.context(|| format!("{} could not be examined", self.dir.display()))
    }

    /// Bytes that the disk of the state directory leaves; 0 when that cannot be told.
    pub fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.dir).map_or(0, |d| d.f_bavail * d.f_frsize)
    }

    /// The limit on data, KVS and journal, in bytes.
    pub fn limit(&self) -> Option<u64> {
        self.space.as_ref().and_then(Space::limit)
    }

    /// Set or lift the limit on data, KVS and journal, in bytes.
    pub fn set_limit(&self, limit: Option<u64>) -> Result<()> {
        if limit.is_some() {
            self.backing.count()?;
        }
        if let Some(space) = &self.space {
            space.set_limit(limit);
        }
        Ok(())
    }

    /// Bytes on disk of KVS and journal, and with a limit of large files.
    pub fn local_bytes(&self) -> u64 {
        let files = self.space.as_ref().and_then(|s| s.files().ok());
        files.map_or(0, |f| f.all) + self.backing.allocated()
    }

    /// Everything up to `through` is in a complete snapshot: keep of the journal what is wanted of it as
    /// history.
    pub fn keep_history(&self, through: Xid, keep: &Keep) -> Result<()> {
        self.history.advance(through, keep, self.clock.now())
    }

    /// The room of history is needed: remove all of it.
    pub fn give_history_up(&self) -> Result<()> {
        self.history.give_up()
    }

    /// Where the answer is not another anyway.
    fn writable_space(&self) -> Option<&Space> {
        let space = self.space.as_ref();
        space.filter(|_| !self.is_fenced() && self.poisoned().is_none())
    }

    fn admit(&self, space: &Space, cost: u64) -> Result<(), Errno> {
        if space.take(cost) {
            return Ok(());
        }
        self.restore_ballast(space);
        self.refill(space, cost);
        if space.take(cost) {
            Ok(())
        } else {
            Err(space.refusal())
        }
    }

    fn refill(&self, space: &Space, wanted: u64) {
        if let Err(e) = space.refill(self.measured(), wanted) {
            tracing::error!(instance = %self.id, "the room left could not be measured: {e}");
        }
    }

    pub(super) fn measured(&self) -> Measured {
        Measured {
            dirty: self.kvs.tables().dirty_bytes() as u64,
            data: self.backing.allocated(),
            // History goes when room is needed.
            doomed: self.backing.doomed_bytes(self.preserved().map(|p| p.cut))
                + self.history.bytes(),
        }
    }

    /// Give back what deletes and overwrites have left unused, unless somebody did it after `seen` was
    /// told. Answers `false` when nothing has changed since it was last done.
    fn make_room(&self, space: &Space, seen: u64) -> bool {
        let xid = self.kvs.tables().xid.0;
        if space.reclaimed() == seen
            && self.reclaimed_at.load(Ordering::SeqCst) == xid
            && !self.backing.holds_space()
            && self.history.bytes() == 0
        {
            return false;
        }
        space.reclaim(seen, || {
            let steps: [(&str, &dyn Fn() -> Result<()>); 4] = [
                ("change log", &|| self.history.give_up()),
                ("sync", &|| self.sync_everything()),
                ("flush", &|| self.flush()),
                ("shrink", &|| self.with_reserve(|| self.kvs.shrink())),
            ];
            for (what, step) in steps {
                if let Err(e) = step() {
                    tracing::error!(instance = %self.id, causes = ?e.causes(), "{what}: {e}");
                    break;
                }
            }
            self.restore_ballast(space);
            self.reclaimed_at.store(xid, Ordering::SeqCst);
        });
        self.refill(space, 0);
        true
    }

    fn restore_ballast(&self, space: &Space) {
        if let Err(e) = space.restore(self.kvs.tables().dirty_bytes() as u64) {
            tracing::error!(instance = %self.id, "the ballast could not be made: {e}");
        }
    }

    /// About every second: take the ballast back, notice what others took from the disk, make room
    /// when writers were refused, and tell.
    pub(super) fn tend_room(&self) {
        let Some(space) = self.writable_space() else {
            return;
        };
        self.restore_ballast(space);
        if space.is_short() {
            self.make_room(space, space.reclaimed());
        }
        self.refill(space, 0);
        if space.take(LARGEST_WRITE) {
            space.found();
        }
        let problem = space.is_short().then(|| match space.room(self.measured()) {
            Ok(room) if room.limited => {
                "its limit is reached, and writers get ENOSPC: delete files, or mount it with a \
                 larger --kvs-limit"
            }
            _ => {
                "the disk under the state directory is full, and writers get ENOSPC: make room on \
                 it, or delete files"
            }
        });
        self.set_problem("space", problem.map(str::to_owned));
    }

    /// What fallocate(2) of `offset..offset + length` takes: what is allocated already is not taken
    /// again.
    pub(super) fn allocation_cost(&self, ino: Ino, offset: u64, length: u64) -> u64 {
        let inode = self.kvs.read(|tables| tables.inode_row(ino));
        let allocated = match inode {
            Ok(inode) if offset < inode.row.size && inode.file != 0 => self
                .attributes(&inode)
                .map_or(0, |attributes| attributes.blocks * 512),
            // The operation itself tells what is wrong.
            _ => 0,
        };
        length.saturating_sub(allocated) + RECORD_COST
    }

    /// What setting the size of a file takes; `None` when it takes nothing.
    pub(super) fn resize_cost(&self, ino: Ino, size: u64) -> Option<u64> {
        let before = self.kvs.read(|tables| tables.inode_row(ino));
        let before = before.map_or(0, |inode| inode.row.size);
        // Growing may move inline contents into a backing file.
        (size > before).then_some(INLINE_MAX + NAME_COST)
    }
}
