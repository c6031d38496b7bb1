//! The instance's own threads: the flusher (write-behind into SQLite) and the syncer (everything durable
//! at least every few seconds, useless backing files removed).

use super::Instance;
use cbfs_core::error::{Error, Result};
use cbfs_core::ids::{Ino, Xid};
use cbfs_fuse::{Errno, OpResult, Refusal};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Room on the disk is looked after this often, more often than rows are written out: others may fill it.
const TEND_ROOM_EVERY: Duration = Duration::from_secs(1);

/// Signals between operations and threads.
#[derive(Default)]
pub(super) struct Workers {
    state: Mutex<State>,
    wake_flusher: Condvar,
    flushed: Condvar,
    wake_syncer: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    stop: bool,
    flush_now: bool,
}

impl Instance {
    /// Start the threads of a master.
    pub fn start_workers(self: &Arc<Self>) -> Result<()> {
        if self.journal.is_none() {
            return Ok(());
        }
        let start = |name: &str, run: fn(&Instance)| {
            let instance = Arc::clone(self);
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || {
                    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        run(&instance);
                    }));
                    if ran.is_err() {
                        instance.poison(&Error::failed("a worker thread panicked"));
                    }
                })
                .map_err(|e| Error::failed("a thread could not be started").because(e))
        };
        let mut threads = self.workers.threads.lock();
        threads.push(start("flusher", Instance::run_flusher)?);
        threads.push(start("syncer", Instance::run_syncer)?);
        Ok(())
    }

    /// Stop the threads and write everything out: afterwards the state directory is as a clean
    /// start wants it. The mount must be gone.
    pub fn close(&self) -> Result<()> {
        self.workers.state.lock().stop = true;
        self.workers.wake_flusher.notify_all();
        self.workers.wake_syncer.notify_all();
        for thread in self.workers.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!(instance = %self.id, "a worker thread had panicked");
            }
        }
        if self.journal.is_none() {
            return Ok(());
        }
        self.sync_everything()?;
        self.flush()
    }

    pub(super) fn wake_flusher(&self) {
        let mut state = self.workers.state.lock();
        if !state.flush_now {
            state.flush_now = true;
            self.workers.wake_flusher.notify_one();
        }
    }

    /// Wait while too many dirty rows wait for the flusher. Bounded: a flusher that cannot write (disk
    /// full) must not hang deletes.
    pub(super) fn wait_for_memory(&self) {
        if self.kvs.tables().dirty_bytes() <= self.options.dirty_limit {
            return;
        }
        self.wake_flusher();
        let deadline = Instant::now() + self.options.sync_every;
        let mut state = self.workers.state.lock();
        while !state.stop && self.kvs.tables().dirty_bytes() > self.options.dirty_limit {
            if self
                .workers
                .flushed
                .wait_until(&mut state, deadline)
                .timed_out()
            {
                return;
            }
        }
    }

    fn run_flusher(&self) {
        let mut flushed_at = Instant::now();
        loop {
            let (full, due) = {
                let mut state = self.workers.state.lock();
                if !state.stop && !state.flush_now {
                    let pause = self.options.flush_every.min(TEND_ROOM_EVERY);
                    self.workers.wake_flusher.wait_for(&mut state, pause);
                }
                if state.stop {
                    return;
                }
                let full = std::mem::take(&mut state.flush_now);
                (full, flushed_at.elapsed() >= self.options.flush_every)
            };
            if full || due {
                self.flush_and_tell();
                // Under pressure writers would wait for it.
                if !full && let Err(e) = self.kvs.checkpoint_ahead() {
                    // The checkpoint of the next cut, or SQLite's own, meets the same and is heard.
                    tracing::warn!(instance = %self.id, causes = ?e.causes(), "{e}");
                }
                flushed_at = Instant::now();
            }
            self.tend_room();
        }
    }

    fn flush_and_tell(&self) {
        match self.flush() {
            Ok(()) => self.set_problem("flush", None),
            Err(e) => {
                tracing::error!(instance = %self.id, causes = ?e.causes(), "flush: {e}");
                self.set_problem("flush", Some(format!("rows cannot be written out: {e}")));
            }
        }
        let _state = self.workers.state.lock();
        self.workers.flushed.notify_all();
    }

    fn run_syncer(&self) {
        loop {
            {
                let mut state = self.workers.state.lock();
                if !state.stop {
                    self.workers
                        .wake_syncer
                        .wait_for(&mut state, self.options.sync_every);
                }
                if state.stop {
                    return;
                }
            }
            if self.poisoned().is_some() {
                continue;
            }
            if let Err(e) = self.sync_everything() {
                tracing::error!(instance = %self.id, causes = ?e.causes(), "sync: {e}");
            }
            self.destroy_left_over();
        }
    }

    /// Write the dirty rows into SQLite. When that fails they stay in memory for the next time.
    pub fn flush(&self) -> Result<()> {
        self.with_reserve(|| {
            self.kvs.flush(
                &|xid| self.sync_journal(xid).map(drop),
                self.options.cache_limit,
            )
        })
    }

    /// Make the journal durable up to `through`, after the backing files that must come first.
    pub fn sync_journal(&self, through: Xid) -> Result<Xid> {
        let Some(syncer) = &self.syncer else {
            return Ok(Xid(0));
        };
        let first = || {
            let barrier: Vec<(Ino, u64)> = self.barrier.lock().drain().collect();
            barrier
                .into_iter()
                .try_for_each(|(ino, file)| self.backing.sync(ino, file))?;
            // A record of a backing file must not survive without the file.
            self.backing.sync_fresh_dirs()
        };
        syncer.sync(through, &first).inspect_err(|e| self.poison(e))
    }

    /// Make everything answered so far survive power loss.
    pub fn sync_everything(&self) -> Result<()> {
        let xid = self.kvs.tables().xid;
        self.backing.sync_all().inspect_err(|e| self.poison(e))?;
        let synced = self.sync_journal(xid)?;
        if let Some(journal) = &self.journal {
            let mut journal = journal.lock();
            if let Err(e) = journal.mark_synced(synced) {
                // Only a mark: without it a later torn record is taken for a torn tail.
                tracing::warn!(instance = %self.id, "no sync mark was written: {e}");
            }
        }
        // Contents that stayed inline came with the journal.
        self.truncated.lock().clear();
        let cut = self.preserved().map(|p| p.cut);
        self.backing.reap(synced, cut)
    }

    /// fsync(2) of a file or directory: its data, then the journal.
    pub(super) fn op_fsync(&self, ino: Ino) -> OpResult<()> {
        if self.journal.is_none() {
            return Ok(());
        }
        if self.poisoned().is_some() {
            return Err(Errno::EIO.into());
        }
        let (file, xid) = self.read(|tables| Ok((tables.inode_row(ino)?.file, tables.xid)))?;
        if file != 0 {
            self.backing
                .sync(ino, file)
                .map_err(|e| self.sync_failed(&e))?;
        }
        self.sync_journal(xid).map_err(|e| self.sync_failed(&e))?;
        Ok(())
    }

    /// A failed fsync poisons: what the kernel dropped cannot be written again.
    pub(super) fn sync_failed(&self, e: &Error) -> Refusal {
        self.poison(e);
        Errno::EIO.into()
    }
}
