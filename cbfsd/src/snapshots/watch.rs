//! The watch over the epoch: as long as the bucket answers, a master knows within [`EVERY`] that it was superseded.
//! (Its snapshots look for themselves, before and after each manifest.)
//!
//! The first look of each start also asks whether this state directory is older than what it has published: one
//! that was restored from a backup or an image, or copied. Such a one would take the present snapshot's number
//! for its own next one.
//!
//! And each look asks whether the file system was deleted (`deletion.rs`).

use super::SnapshotService;
use cbfs_core::catalog;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::snapshot::SnapshotState;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks, unless `CBFS_EPOCH_CHECK` says otherwise.
const EVERY: Duration = Duration::from_secs(30);

/// The thread and its signal to stop.
#[derive(Default)]
pub(super) struct Watch {
    stop: Mutex<bool>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watch {
    pub(super) fn stop(&self) {
        *self.stop.lock() = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the epoch watch had panicked");
        }
    }

    /// Wait; answers whether to stop.
    fn pause(&self, pause: Duration) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.wake.wait_for(&mut stop, pause);
        }
        *stop
    }
}

impl SnapshotService {
    pub(super) fn start_watch(self: &Arc<Self>) -> Result<()> {
        let every = cbfs_core::environment::epoch_check()?.unwrap_or(EVERY);
        let service = Arc::clone(self);
        let run = move || {
            // The end of the service waits for this thread, and not for the bucket.
            let run = || service.watch_epoch(every);
            service.waiting.service.scope(run);
        };
        let thread = std::thread::Builder::new().name("epoch".into()).spawn(run);
        *self.watch.thread.lock() =
            Some(thread.context(|| "a thread could not be started".into())?);
        Ok(())
    }

    /// The thread: a look now and then, until stopped.
    fn watch_epoch(self: &Arc<Self>, every: Duration) {
        let mut compared = false;
        loop {
            if self.instance.is_fenced() {
                self.cancel_because_fenced();
            } else if let Err(e) = self.look_at_epoch(&mut compared) {
                tracing::debug!(fs = %self.fs, causes = ?e.causes(), "the epoch is not known: {e}");
            }
            if self.watch.pause(every) {
                return;
            }
        }
    }

    /// Ask the bucket who is master; fences when it is not this one. `compared`: whether this state directory was
    /// compared with what it has published. Errors are those of the bucket.
    fn look_at_epoch(self: &Arc<Self>, compared: &mut bool) -> Result<()> {
        let epoch = self.instance.epoch();
        match catalog::confirm_epoch(&*self.bucket, &self.fs, epoch, &self.nonce) {
            Err(e) if e.kind() == ErrorKind::Conflict => {
                self.superseded(&e);
                return Ok(());
            }
            Err(e) if e.kind() == ErrorKind::Damage => {
                // It is still master, but nobody can take over from it, or tell what its snapshots are.
                let text = format!("who is master cannot be told any more: {e}");
                self.instance.set_problem("epoch", Some(text));
                return Err(e);
            }
            confirmed => confirmed?,
        }
        self.instance.set_problem("epoch", None);
        if !*compared {
            self.look_for_later_self()?;
            *compared = true;
        }
        self.look_at_deletion()
    }

    /// Fence, and let go of what is pending.
    pub(super) fn superseded(&self, e: &Error) {
        self.instance.fence(&e.to_string());
        self.cancel_because_fenced();
    }

    /// Manifests of this epoch beyond what this state directory knows, under attempts that are not its own.
    fn look_for_later_self(&self) -> Result<()> {
        let epoch = self.instance.epoch();
        let known = self.last_complete().map_or(0, |m| m.number.0);
        let ids = catalog::snapshot_ids(&*self.bucket, &self.fs)?;
        let later = ids
            .into_iter()
            .filter(|id| id.epoch == epoch && id.number.0 > known);
        for id in later {
            let manifest = catalog::load_manifest(&*self.bucket, &self.fs, id.number, epoch)?;
            // Left by a death between it and the manifest behind it. A copy that went on from it has published that one.
            if catalog::closes_a_number(&manifest) {
                continue;
            }
            let own = self.state.lock().requests.attempts(id.number)?;
            if !own.contains(&manifest.attempt) {
                let text = format!(
                    "snapshot {} of epoch {epoch} was published and is not known here: this state directory is \
                     a copy, or older than what it has published",
                    id.number
                );
                self.superseded(&Error::new(ErrorKind::Conflict, text));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Requests that nobody carries out are cancelled; the snapshot thread cancels the one it has at hand.
    fn cancel_because_fenced(&self) {
        let open: Vec<_> = {
            let state = self.state.lock();
            let open = state.requests.statuses().filter(|s| !s.state.is_final());
            open.filter(|s| s.state == SnapshotState::Queued)
                .map(|s| s.number)
                .collect()
        };
        for number in open {
            if let Err(e) = self.cancel(number)
                && e.kind() != ErrorKind::Conflict
            {
                tracing::error!(fs = %self.fs, snapshot = %number, causes = ?e.causes(), "{e}");
            }
        }
        self.wake_after(|_| ());
    }
}
