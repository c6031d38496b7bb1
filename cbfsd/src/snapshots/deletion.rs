//! A master whose file system was deleted (`cbfsctl fs delete`): it goes on serving its mount, says so in its status, and
//! publishes nothing. Requests wait, and go on when the deletion is taken back; new ones are refused.
//!
//! It is found out by the epoch watch, within 30 s while the bucket answers, and at once where `cbfsctl fs delete` runs on
//! this node. A publication does not look: see `core::catalog`'s module on deletion for why that is harmless.

use super::{SnapshotService, State};
use cbfs_core::bucket::Cancellation;
use cbfs_core::catalog;
use cbfs_core::error::Result;
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::snapshot::StatusEvent;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long a mount of what is known here waits for the bucket's word on that: it must work without a bucket.
const PATIENCE: Duration = Duration::from_secs(2);

impl SnapshotService {
    /// Whether the file system is known to be deleted.
    pub(super) fn is_deleted(&self) -> bool {
        self.state.lock().deletion.is_some()
    }

    /// # Errors
    /// [`ErrorKind::Conflict`](cbfs_core::ErrorKind::Conflict) when it is known to be deleted.
    pub(super) fn refuse_when_deleted(&self) -> Result<()> {
        match &self.state.lock().deletion {
            None => Ok(()),
            Some(deletion) => Err(deletion.refusal()),
        }
    }

    /// As [`Self::refuse_when_deleted`], after a look into the bucket. Where that does not answer soon, what is known counts.
    ///
    /// # Errors
    /// As there.
    pub fn refuse_when_found_deleted(self: &Arc<Self>) -> Result<()> {
        let (done, wait) = mpsc::channel();
        let (service, cancellation) = (Arc::clone(self), Cancellation::default());
        let theirs = cancellation.clone();
        let look = move || {
            if let Err(e) = theirs.scope(|| service.look_at_deletion()) {
                tracing::debug!(fs = %service.fs, causes = ?e.causes(), "whether it is deleted is not known: {e}");
            }
            drop(done);
        };
        let started = std::thread::Builder::new()
            .name("deletion".into())
            .spawn(look);
        match started {
            Ok(_) => {
                let waited: Result<(), RecvTimeoutError> = wait.recv_timeout(PATIENCE);
                if waited == Err(RecvTimeoutError::Timeout) {
                    cancellation.cancel();
                }
            }
            Err(e) => tracing::warn!("a thread could not be started: {e}"),
        }
        self.refuse_when_deleted()
    }

    /// Ask the bucket whether the file system is deleted, and act on it.
    ///
    /// # Errors
    /// Those of the bucket: what was known counts on.
    pub(super) fn look_at_deletion(&self) -> Result<()> {
        let _one_at_a_time = self.deletion_look.lock();
        let found = catalog::deletion(&*self.bucket, &self.fs)?;
        let problem = found.as_ref().map(|deletion| {
            let refusal = deletion.refusal();
            let hint = refusal.hint_text().unwrap_or_default();
            format!("{refusal}: nothing is published any more; {hint}")
        });
        let changed = {
            let mut state = self.state.lock();
            let changed = state.deletion != found;
            state.deletion = found;
            changed
        };
        if changed {
            match &problem {
                Some(problem) => tracing::error!(fs = %self.fs, "{problem}"),
                None => tracing::info!(fs = %self.fs, "the deletion was taken back"),
            }
            self.instance.set_problem("deleted", problem);
            self.wake.notify_all();
        }
        Ok(())
    }

    /// Wait with a request while the file system is deleted; not when there is something to end about it. What
    /// failed until then does not count against the request any more: its log says so.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(super) fn wait_while_deleted(&self, number: SnapshotNumber) -> Result<()> {
        let failing = {
            let state = self.state.lock();
            let status = state.requests.status(number);
            self.waits_for_undelete(&state, number)
                && status.is_some_and(|s| s.failing_since.is_some())
        };
        if failing {
            self.record(number, StatusEvent::FsDeleted)?;
        }
        let mut state = self.state.lock();
        while self.waits_for_undelete(&state, number) {
            self.wake.wait(&mut state);
        }
        Ok(())
    }

    fn waits_for_undelete(&self, state: &State, number: SnapshotNumber) -> bool {
        let status = state.requests.status(number);
        let is_open = status.is_some_and(|s| !s.cancel_requested && !s.state.is_final());
        is_open && state.deletion.is_some() && !state.stop && !self.instance.is_fenced()
    }
}
