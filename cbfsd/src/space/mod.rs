//! Room for an instance: what its limit and the disk below leave, and the ballast that deletes, flushes
//! and snapshots live on when nothing is left.
//!
//! Operations that take space draw their estimated cost from a *budget*, an atomic number; nothing is
//! measured per operation. The budget is measured anew when it is used up and about every second. It
//! is empty while the ballast is not whole. So the limit is passed by no more than the estimates are
//! wrong between two measurements: SQLite's write-ahead log and its rows' overhead, at most
//! [`OVERSHOOT`]. What a snapshot needs while it runs does not count.
//!
//! A crash leaves at most a ballast that is not whole; that is seen when the instance is opened.

mod ballast;

pub use ballast::{Ballast, default_ballast};

use cbfs_core::error::Error;
use cbfs_fuse::Errno;
use parking_lot::Mutex;
use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// How far an instance may pass its limit, in bytes.
pub const OVERSHOOT: u64 = 64 << 20;

/// The budget is never larger than this, or than one operation needs: somebody else's use of the disk
/// is noticed after so many bytes.
const LARGEST_BUDGET: u64 = 256 << 20;

/// Free bytes on the disk that are left to the daemon's small files.
const MARGIN: u64 = 1 << 20;

/// No limit.
const UNLIMITED: u64 = u64::MAX;

/// What is measured, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Rows in memory that are still to be written out.
    pub dirty: u64,
    /// Backing files; counted only with a limit.
    pub data: u64,
    /// What goes as soon as room is made: backing files whose end survives power loss then, history.
    pub doomed: u64,
}

/// What there is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The limit, or the size of the disk.
    pub total: u64,
    /// What writers may still take.
    pub left: u64,
    /// It is the limit that leaves no more, not the disk.
    pub limited: bool,
}

/// What KVS and journal take, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    /// All of it.
    pub all: u64,
    /// SQLite's write-ahead logs: as much is still to go into its files.
    pub log: u64,
}

/// What rows in memory become on disk: a row that overflows a page takes whole ones.
fn written_out(dirty: u64) -> u64 {
    2 * dirty
}

/// The room of a master.
pub struct Space {
    dir: PathBuf,
    limit: AtomicU64,
    budget: AtomicU64,
    ballast: Ballast,
    /// Whoever makes room.
    reclaiming: Mutex<()>,
    /// Counts how often room was made.
    reclaimed: AtomicU64,
    /// Operations were refused, or room is known to be short.
    short: AtomicBool,
    /// What to answer then: `ENOSPC`, or `EDQUOT` of a quota.
    errno: AtomicI32,
    /// Snapshots under way on a full disk: the ballast's room is theirs.
    lent: AtomicUsize,
}

impl Space {
    /// The room of the instance in `dir` (created already). Before anything of it is opened: on a
    /// full disk the ballast goes at once, because recovery needs room.
    pub fn open(dir: &Path, limit: Option<u64>, ballast: Option<u64>) -> io::Result<Space> {
        let disk = rustix::fs::statvfs(dir)?;
        let size = ballast.unwrap_or_else(|| default_ballast(disk.f_blocks * disk.f_frsize));
        let space = Space {
            dir: dir.to_owned(),
            limit: AtomicU64::new(limit.unwrap_or(UNLIMITED)),
            budget: AtomicU64::new(0),
            ballast: Ballast::open(dir, size),
            reclaiming: Mutex::default(),
            reclaimed: AtomicU64::new(0),
            short: AtomicBool::new(false),
            errno: AtomicI32::new(Errno::ENOSPC.0),
            lent: AtomicUsize::new(0),
        };
        if disk.f_bavail * disk.f_frsize < size.max(MARGIN) {
            space.release();
        }
        Ok(space)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::SeqCst)).filter(|l| *l != UNLIMITED)
    }

    /// Set or lift the limit.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit
            .store(limit.unwrap_or(UNLIMITED), Ordering::SeqCst);
        self.budget.store(0, Ordering::SeqCst);
    }

    /// Draw `cost` bytes from the budget, if it has them.
    pub fn take(&self, cost: u64) -> bool {
        let less = |budget: u64| budget.checked_sub(cost);
        self.budget
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
    }

    /// Measure anew; the budget is to serve an operation of `wanted` bytes.
    pub fn refill(&self, measured: Measured, wanted: u64) -> io::Result<()> {
        // What waits for its removal still takes space.
        let now = Measured {
            doomed: 0,
            ..measured
        };
        let left = if self.ballast.is_whole() {
            self.room(now)?.left
        } else {
            0
        };
        let budget = left.min(wanted.max(LARGEST_BUDGET));
        self.budget.store(budget, Ordering::SeqCst);
        Ok(())
    }

    /// What there is, and what of it is left: to writers, when the ballast is whole again.
    pub fn room(&self, measured: Measured) -> io::Result<Room> {
        let disk = rustix::fs::statvfs(&self.dir)?;
        let files = self.files()?;
        // A row goes into the write-ahead log first, then into the file.
        let mut reserve = MARGIN + 2 * written_out(measured.dirty) + files.log;
        if !self.ballast.is_whole() {
            reserve += self.ballast.wants();
        }
        let mut room = Room {
            total: disk.f_blocks * disk.f_frsize,
            left: (disk.f_bavail * disk.f_frsize + measured.doomed).saturating_sub(reserve),
            limited: false,
        };
        if let Some(limit) = self.limit() {
            let used = (measured.data + files.all + written_out(measured.dirty))
                .saturating_sub(measured.doomed);
            let left = limit.saturating_sub(used);
            room = Room {
                total: limit,
                left: left.min(room.left),
                limited: left <= room.left,
            };
        }
        Ok(room)
    }

    /// What KVS and journal take on disk.
    pub fn files(&self) -> io::Result<Files> {
        let mut files = Files { all: 0, log: 0 };
        for sub in ["kvs", "journal"] {
            let entries = match fs::read_dir(self.dir.join(sub)) {
                Ok(entries) => entries,
                // Not made yet.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                let entry = entry?;
                let bytes = match entry.metadata() {
                    Ok(about) => about.blocks() * 512,
                    // Trimmed or renamed meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
                    Err(e) => return Err(e),
                };
                files.all += bytes;
                if entry.file_name().as_encoded_bytes().ends_with(b"-wal") {
                    files.log += bytes;
                }
            }
        }
        Ok(files)
    }

    /// The ballast.
    pub fn ballast(&self) -> &Ballast {
        &self.ballast
    }

    /// Let the ballast go: writers are refused from here on. Whether that made room.
    pub fn release(&self) -> bool {
        self.budget.store(0, Ordering::SeqCst);
        self.short.store(true, Ordering::SeqCst);
        let released = self.ballast.release();
        if released {
            tracing::warn!(dir = %self.dir.display(), "no room is left: the ballast is used");
        }
        released
    }

    /// Let the ballast go if the disk leaves less than its size.
    pub fn release_if_short(&self) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.dir)?;
        if disk.f_bavail * disk.f_frsize < self.ballast.size() {
            self.release();
        }
        Ok(())
    }

    /// Take the ballast back if the disk has room for it beside `dirty` rows.
    pub fn restore(&self, dirty: u64) -> io::Result<bool> {
        if self.ballast.is_whole() {
            return Ok(true);
        }
        let disk = rustix::fs::statvfs(&self.dir)?;
        let needed = self.ballast.wants() + MARGIN + 2 * written_out(dirty);
        if self.lent.load(Ordering::SeqCst) > 0 || disk.f_bavail * disk.f_frsize < needed {
            return Ok(false);
        }
        let whole = self.ballast.restore()?;
        if whole {
            tracing::info!(dir = %self.dir.display(), "the reserve for a full disk is whole");
        }
        Ok(whole)
    }

    /// Nothing is left: operations are refused with `errno` until room is found.
    pub fn refuse(&self, errno: Errno) {
        self.errno.store(errno.0, Ordering::SeqCst);
        self.budget.store(0, Ordering::SeqCst);
        self.short.store(true, Ordering::SeqCst);
    }

    /// What to answer to who finds no room.
    pub fn refusal(&self) -> Errno {
        self.short.store(true, Ordering::SeqCst);
        Errno(self.errno.load(Ordering::SeqCst))
    }

    /// Whether operations were refused since room was last found.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::SeqCst)
    }

    /// There is room again.
    pub fn found(&self) {
        self.errno.store(Errno::ENOSPC.0, Ordering::SeqCst);
        self.short.store(false, Ordering::SeqCst);
    }

    /// How often room was made; see [`Space::reclaim`].
    pub fn reclaimed(&self) -> u64 {
        self.reclaimed.load(Ordering::SeqCst)
    }

    /// Make room by `work`, one at a time; nothing is done if somebody else did it after `seen`.
    pub fn reclaim(&self, seen: u64, work: impl FnOnce()) {
        let _one = self.reclaiming.lock();
        if self.reclaimed() == seen {
            work();
            self.reclaimed.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// For a snapshot: on a full disk the ballast's room is its own until the answer is dropped.
    pub fn lend(&self) -> io::Result<Loan<'_>> {
        self.lent.fetch_add(1, Ordering::SeqCst);
        let loan = Loan(self);
        self.release_if_short()?;
        Ok(loan)
    }
}

/// The ballast's room in use by a snapshot.
pub struct Loan<'a>(&'a Space);

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.0.lent.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a call failed because the disk is full or a quota used up.
pub fn is_full_io(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The errno of an error that a full disk (`ENOSPC`) or a used-up quota (`EDQUOT`) caused.
pub fn full_errno(e: &Error) -> Option<Errno> {
    causes(e).find_map(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        match (io, sqlite_code(cause)) {
            (Some(io::ErrorKind::QuotaExceeded), _) => Some(Errno::EDQUOT),
            (Some(io::ErrorKind::StorageFull), _) | (_, Some(SQLITE_FULL)) => Some(Errno::ENOSPC),
            _ => None,
        }
    })
}

/// Whether more room might make an error go away: SQLite tells EDQUOT as any failed write.
pub fn may_be_full(e: &Error) -> bool {
    full_errno(e).is_some()
        || causes(e)
            .filter_map(sqlite_code)
            .any(|code| matches!(code, SQLITE_IOERR_WRITE | SQLITE_IOERR_SHMSIZE))
}

fn sqlite_code(cause: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let e = cause.downcast_ref::<rusqlite::Error>()?;
    e.sqlite_error().map(|failure| failure.extended_code)
}

fn causes(e: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = e;
    std::iter::successors(Some(first), |at| at.source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::error::Context;

    const NOTHING: Measured = Measured {
        dirty: 0,
        data: 0,
        doomed: 0,
    };

    fn space(limit: Option<u64>) -> (tempfile::TempDir, Space) {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["kvs", "journal"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let space = Space::open(dir.path(), limit, Some(0)).unwrap();
        (dir, space)
    }

    #[test]
    fn the_budget_is_what_the_limit_leaves() {
        let (dir, space) = space(Some(100_000));
        assert!(!space.take(1), "nothing was measured yet");
        space.refill(NOTHING, 0).unwrap();
        assert!(space.take(60_000) && !space.take(60_000) && space.take(40_000));
        fs::write(dir.path().join("journal/1.log"), vec![1; 40_000]).unwrap();
        let used = Measured {
            data: 30_000,
            dirty: 5_000,
            doomed: 10_000,
        };
        let room = space.room(used).unwrap();
        assert_eq!((room.total, room.limited), (100_000, true));
        // 40,000 bytes take a few more in blocks.
        assert!(room.left <= 30_000 && room.left >= 25_000, "{room:?}");
        space.refill(used, 0).unwrap();
        assert!(!space.take(26_000), "what is doomed is not free yet");
        space.set_limit(None);
        space.refill(used, 0).unwrap();
        assert!(space.take(1 << 20));
    }

    #[test]
    fn while_the_ballast_is_not_whole_nothing_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::open(dir.path(), None, Some(1 << 20)).unwrap();
        space.refill(NOTHING, 1).unwrap();
        assert!(!space.take(1));
        assert!(space.restore(0).unwrap());
        space.refill(NOTHING, 1).unwrap();
        assert!(space.take(1));
        assert!(space.release() && !space.take(1) && space.is_short());
        let loan = space.lend().unwrap();
        assert!(!space.restore(0).unwrap(), "its room is lent");
        drop(loan);
        assert!(space.restore(0).unwrap());
    }

    #[test]
    fn a_full_disk_and_a_used_up_quota_are_recognised_below_any_context() {
        let io = |errno: i32| {
            let failed: io::Result<()> = Err(io::Error::from_raw_os_error(errno));
            failed
                .context(|| "inner".into())
                .unwrap_err()
                .context("outer")
        };
        assert_eq!(full_errno(&io(Errno::ENOSPC.0)), Some(Errno::ENOSPC));
        assert_eq!(full_errno(&io(Errno::EDQUOT.0)), Some(Errno::EDQUOT));
        assert_eq!(full_errno(&io(Errno::EIO.0)), None);
        let sqlite = |code| {
            let e = rusqlite::ffi::Error::new(code);
            Error::from(rusqlite::Error::SqliteFailure(e, None))
        };
        let full = sqlite(SQLITE_FULL).context("flush");
        assert_eq!(full_errno(&full), Some(Errno::ENOSPC));
        let quota = sqlite(SQLITE_IOERR_WRITE);
        assert!(full_errno(&quota).is_none() && may_be_full(&quota));
        assert!(!may_be_full(&sqlite(rusqlite::ffi::SQLITE_CORRUPT)));
    }
}
