//! The journal, which is the change log: one append-only file per segment, `journal/<first
//! xid:016x>.log`. A record is written with `write()` before its operation is answered, so that a
//! killed daemon loses nothing; [`Journal::sync`] makes what was written survive power loss.
//!
//! Ordering: records are appended in xid order by one caller at a time (the tables' lock). A
//! segment is rolled at a cut, at [`SEGMENT_BYTES`] or when asked; an older segment is always synced
//! before a newer one counts as durable, so what survives is a prefix.

mod history;
pub mod record;
mod replay;

pub use history::{History, Keep};
pub use record::{Event, Record};
pub use replay::{SegmentReader, read_range, segments};

use crate::failpoints::{self, reach, reach_after};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::ids::Xid;
use cbfs_core::inode::Timestamp;
use parking_lot::{Condvar, Mutex};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A segment is closed when it has grown to this many bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Space prepared ahead of the records, in bytes, while programs call fsync often: see [`Journal::prepare`].
const PREPARED_BYTES: u64 = 256 << 10;

/// Syncs within [`PREPARED_BYTES`] of records that are called often.
const MANY_SYNCS: u64 = 4;

/// Name of the segment whose first record has `xid`.
pub fn segment_name(xid: Xid) -> String {
    format!("{:016x}.log", xid.0)
}

/// The writing end. Methods of `&mut self` need the tables' lock; [`Journal::syncer`] does not.
pub struct Journal {
    dir: PathBuf,
    file: Arc<File>,
    offset: u64,
    last: Xid,
    last_time: Timestamp,
    buffer: Vec<u8>,
    /// The segment has zeros from `offset` up to here.
    prepared_to: u64,
    /// Where in the segment, and after how many syncs, the frequency of syncs was last looked at.
    looked: (u64, u64),
    shared: Arc<Syncer>,
}

/// Makes the journal durable, from any thread; callers at the same time share one fdatasync.
pub struct Syncer {
    dir: PathBuf,
    state: Mutex<SyncState>,
    done: Condvar,
}

struct SyncState {
    /// Segments with unsynced records, oldest first, each with the last xid in it.
    pending: Vec<(Arc<File>, Xid)>,
    /// A segment was begun whose name is not durable yet.
    new_name: bool,
    /// Everything up to here survives power loss.
    synced: Xid,
    /// Times that the journal was made durable.
    syncs: u64,
    /// A thread is in fdatasync.
    busy: bool,
    /// A failed fdatasync: nothing after `synced` can be trusted ever again.
    poisoned: Option<String>,
}

impl Journal {
    /// Start a new segment in `dir` for records after `last` (all older ones are durable or
    /// were cut off by recovery).
    pub fn create(dir: &Path, last: Xid) -> Result<Journal> {
        let file =
            Arc::new(new_segment(dir, last.next()).context(|| {
                format!("a journal segment could not be begun in {}", dir.display())
            })?);
        let state = SyncState {
            pending: Vec::new(),
            new_name: true,
            synced: last,
            syncs: 0,
            busy: false,
            poisoned: None,
        };
        Ok(Journal {
            dir: dir.to_owned(),
            file,
            offset: record::MAGIC.len() as u64,
            last,
            last_time: Timestamp(0),
            buffer: Vec::with_capacity(64 << 10),
            prepared_to: 0,
            looked: (0, 0),
            shared: Arc::new(Syncer {
                dir: dir.to_owned(),
                state: Mutex::new(state),
                done: Condvar::new(),
            }),
        })
    }

    /// The handle other threads sync with.
    pub fn syncer(&self) -> Arc<Syncer> {
        Arc::clone(&self.shared)
    }

    /// The last xid appended.
    pub fn last(&self) -> Xid {
        self.last
    }

    /// Whether the segment has any record.
    pub fn has_content(&self) -> bool {
        self.offset > record::MAGIC.len() as u64
    }

    /// Append the next operation. On error (disk full) nothing of it stays in the journal.
    pub fn append(&mut self, xid: Xid, time: Timestamp, events: &[Event]) -> io::Result<()> {
        if self.offset >= SEGMENT_BYTES {
            self.roll()?;
        }
        self.buffer.clear();
        record::encode(xid, time, events, &mut self.buffer);
        if self.buffer.len() > record::MAX_RECORD {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the record is too long",
            ));
        }
        reach(failpoints::JOURNAL_BEFORE_WRITE);
        reach_after(failpoints::JOURNAL_HALF_WRITTEN, || {
            let half = &self.buffer[..self.buffer.len() / 2];
            drop(self.file.write_all_at(half, self.offset)); // the process ends right here
        });
        if let Err(e) = self.file.write_all_at(&self.buffer, self.offset) {
            // A torn record must not stand before later ones: recovery would cut those off too.
            self.prepared_to = self.prepared_to.min(self.offset);
            if let Err(cut) = self.file.set_len(self.offset) {
                self.shared
                    .poison(&format!("a torn record could not be removed: {cut}"));
            }
            return Err(e);
        }
        reach(failpoints::JOURNAL_WRITTEN);
        self.offset += self.buffer.len() as u64;
        self.last = xid;
        self.last_time = time;
        let syncs = {
            let mut state = self.shared.state.lock();
            match state.pending.last_mut() {
                Some((file, last)) if Arc::ptr_eq(file, &self.file) => *last = xid,
                _ => state.pending.push((Arc::clone(&self.file), xid)),
            }
            state.syncs
        };
        if self.offset >= self.prepared_to {
            self.prepare(syncs);
        }
        Ok(())
    }

    /// Write zeros ahead of the records if the journal is synced often. A record that overwrites blocks of
    /// the file needs no new block and no new file size, so its fdatasync is a plain write; otherwise it
    /// takes a transaction of the disk's file system as well. (PostgreSQL recycles its log for that reason.)
    fn prepare(&mut self, syncs: u64) {
        let (at, before) = self.looked;
        if syncs.saturating_sub(before) < MANY_SYNCS {
            if self.offset >= at + PREPARED_BYTES {
                self.looked = (self.offset, syncs);
            }
            return;
        }
        self.looked = (self.offset, syncs);
        let to = (self.offset + PREPARED_BYTES).min(SEGMENT_BYTES);
        self.buffer.clear();
        self.buffer
            .resize(to.saturating_sub(self.offset) as usize, 0);
        match self.file.write_all_at(&self.buffer, self.offset) {
            Ok(()) => self.prepared_to = to,
            // Only speed: the records themselves say whether there is space.
            Err(e) => tracing::debug!("no space was prepared in the journal: {e}"),
        }
        self.buffer.shrink_to(64 << 10);
    }

    /// Note in the segment that all of it so far is durable, if `synced` says so. Not an
    /// operation: takes no xid.
    pub fn mark_synced(&mut self, synced: Xid) -> io::Result<()> {
        if synced < self.last || !self.has_content() {
            return Ok(());
        }
        reach(failpoints::JOURNAL_BEFORE_MARK);
        self.buffer.clear();
        let mark = [Event::SyncMark {
            offset: self.offset,
        }];
        record::encode(self.last, self.last_time, &mark, &mut self.buffer);
        if let Err(e) = self.file.write_all_at(&self.buffer, self.offset) {
            self.prepared_to = self.prepared_to.min(self.offset);
            self.file.set_len(self.offset)?;
            return Err(e);
        }
        self.offset += self.buffer.len() as u64;
        reach(failpoints::JOURNAL_MARKED);
        Ok(())
    }

    /// Close the segment and start the next one. Without content it stays open.
    pub fn roll(&mut self) -> io::Result<()> {
        if !self.has_content() {
            return Ok(());
        }
        let next = new_segment(&self.dir, self.last.next())?;
        if self.prepared_to > self.offset {
            // Readers take zeros for the end; this only gives the space back.
            if let Err(e) = self.file.set_len(self.offset) {
                tracing::debug!("prepared space of a closed segment is kept: {e}");
            }
        }
        // A cut rolls inside the gate: nobody waits there for the disk.
        self.shared.state.lock().new_name = true;
        self.file = Arc::new(next);
        self.offset = record::MAGIC.len() as u64;
        self.prepared_to = 0;
        self.looked.0 = 0;
        Ok(())
    }
}

impl Syncer {
    /// Everything appended so far up to `through` survives power loss once this returns `Ok`. `first`
    /// makes durable what must not come after the records.
    /// A failed fdatasync poisons: every later call fails too (the kernel may have dropped the dirty
    /// pages, a second fdatasync would lie; see fsync(2), "fsyncgate").
    pub fn sync(&self, through: Xid, first: &dyn Fn() -> Result<()>) -> Result<Xid> {
        let mut state = self.state.lock();
        loop {
            if let Some(why) = &state.poisoned {
                return Err(Error::failed(format!("the journal is poisoned: {why}"))
                    .hint("restart cbfsd; if it happens again, check the disk"));
            }
            // With another thread in fdatasync, nothing pending does not mean that all is durable.
            if state.synced >= through || (state.pending.is_empty() && !state.busy) {
                return Ok(state.synced);
            }
            if state.busy {
                self.done.wait(&mut state);
                continue;
            }
            state.busy = true;
            let work = std::mem::take(&mut state.pending);
            let new_name = std::mem::take(&mut state.new_name);
            drop(state);
            let result = first().and_then(|()| {
                if new_name {
                    durable_file::sync_dir(&self.dir)
                        .context(|| "the journal directory could not be synced".into())?;
                }
                reach(failpoints::JOURNAL_BEFORE_SYNC);
                let synced = work.iter().try_for_each(|(file, _)| file.sync_data());
                synced.context(|| "fdatasync failed".into())
            });
            state = self.state.lock();
            state.busy = false;
            match result {
                Ok(()) => {
                    state.syncs += 1;
                    if let Some((_, last)) = work.last() {
                        state.synced = state.synced.max(*last);
                    }
                }
                Err(e) => {
                    let causes = e.causes().join(": ");
                    state.poisoned = Some(format!("{e}: {causes}"));
                }
            }
            self.done.notify_all();
        }
    }

    /// Everything up to this xid survives power loss.
    pub fn synced(&self) -> Xid {
        self.state.lock().synced
    }

    /// Why the journal is poisoned, if it is.
    pub fn poisoned(&self) -> Option<String> {
        self.state.lock().poisoned.clone()
    }

    fn poison(&self, why: &str) {
        let mut state = self.state.lock();
        state.poisoned.get_or_insert_with(|| why.to_owned());
        self.done.notify_all();
    }
}

/// Its name is durable after the next sync.
fn new_segment(dir: &Path, first: Xid) -> io::Result<File> {
    let path = dir.join(segment_name(first));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    reach(failpoints::SEGMENT_NAMED);
    file.write_all_at(record::MAGIC, 0)?;
    reach(failpoints::SEGMENT_BEGUN);
    Ok(file)
}
