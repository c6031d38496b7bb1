//! Taking a request back, and taking it up again.
//!
//! A request that nobody carries out yet is cancelled at once. One that is carried out gets a durable
//! `cancel_requested` line; the snapshot thread sees it at its next step, lets go of everything local and
//! enters `cancelled`; then it removes from the bucket what had arrived. A crash in between changes nothing: the line is found at the next start. Only the
//! thread decides against a manifest that may exist already: then the request ends as `complete`.

use super::attempt::Outcome;
use super::{SnapshotService, State};
use cbfs_core::api::SnapshotInfo;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::snapshot::{SnapshotState, SnapshotStatus, StatusEvent};
use std::fs;
use std::sync::Arc;

impl SnapshotService {
    /// Withdraw a request. What it would have held belongs to the next snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it is final already. One that is carried out
    /// is answered as `cancelling`, and may still become `complete`.
    pub fn cancel(&self, number: SnapshotNumber) -> Result<SnapshotInfo> {
        let _room = self.instance.lend_room()?;
        let info = {
            let mut state = self.state.lock();
            let status = state.requests.status(number).cloned();
            let status = status.ok_or_else(|| self.unknown(number))?;
            self.may_be_cancelled(&status)?;
            if status.state == SnapshotState::Queued && state.current != Some(number) {
                let cancelled = SnapshotState::Cancelled;
                state
                    .requests
                    .append(number, StatusEvent::CancelRequested)?;
                state
                    .requests
                    .append(number, StatusEvent::State { state: cancelled })?;
            } else if !status.cancel_requested {
                state
                    .requests
                    .append(number, StatusEvent::CancelRequested)?;
            }
            if state.current == Some(number) {
                self.cancellation().cancel();
            }
            state.requests.info(&self.fs, number)
        };
        self.wake.notify_all();
        let info = info.ok_or_else(|| self.unknown(number))?;
        (self.on_change)(info.clone());
        Ok(info)
    }

    fn may_be_cancelled(&self, status: &SnapshotStatus) -> Result<()> {
        let (number, fs) = (status.number, &self.fs);
        let (text, hint) = match status.state {
            SnapshotState::Complete => (
                format!("snapshot {number} of {fs} is complete: it cannot be cancelled"),
                format!("`cbfsctl snapshot delete {fs}@{number}` deletes it"),
            ),
            SnapshotState::Failed | SnapshotState::Cancelled => (
                format!(
                    "snapshot {number} of {fs} is {} already",
                    status.state.name()
                ),
                format!("`cbfsctl snapshot retry {fs}@{number}` takes it up again"),
            ),
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::Conflict, text).hint(hint))
    }

    /// Put a failed or cancelled request back into the queue, at the place of its number: a new cut, the
    /// same number, name and log. With `dry_run` nothing changes, and the answer is how it stands.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it is not in such a state, a later snapshot has its changes, its
    /// name was taken meanwhile, or nothing is published any more (fenced, deleted).
    pub fn retry(&self, number: SnapshotNumber, dry_run: bool) -> Result<SnapshotInfo> {
        let name = self.get(number)?.name;
        self.may_be_asked_for(name.as_deref())?;
        // Its log must be written on a full disk too.
        let _room = if dry_run {
            None
        } else {
            self.instance.lend_room()?
        };
        let info = {
            let mut state = self.state.lock();
            self.may_be_retried(&state, number)?;
            if !dry_run {
                let queued = SnapshotState::Queued;
                state
                    .requests
                    .append(number, StatusEvent::State { state: queued })?;
            }
            state.requests.info(&self.fs, number)
        };
        let info = info.ok_or_else(|| self.unknown(number))?;
        if !dry_run {
            self.wake.notify_all();
            (self.on_change)(info.clone());
        }
        Ok(info)
    }

    fn may_be_retried(&self, state: &State, number: SnapshotNumber) -> Result<()> {
        let status = state.requests.status(number);
        let status = status.ok_or_else(|| self.unknown(number))?;
        if !matches!(
            status.state,
            SnapshotState::Failed | SnapshotState::Cancelled
        ) {
            let text = format!(
                "snapshot {number} of {} is {}: there is nothing to retry",
                self.fs,
                status.state.name()
            );
            return Err(Error::new(ErrorKind::Conflict, text).hint(format!(
                "`cbfsctl snapshot show {}@{number}` tells how it stands",
                self.fs
            )));
        }
        self.no_later_cut(state, number)?;
        match &status.name {
            Some(name) => self.name_is_free(state, name).map_err(|taken| {
                taken.hint(format!(
                    "`cbfsctl snapshot create {} --name …` makes one with another name",
                    self.fs
                ))
            }),
            None => Ok(()),
        }
    }

    /// Invariant: snapshots are cut in the order of their numbers. Else the highest number would not be the
    /// latest state, and `latest`, lineages and promotion would go back in time.
    ///
    /// A later request that came as far as copying counts whatever became of it: it may have closed the numbers before
    /// it, and who finds a manifest under its number that is none of its own takes itself for a copy.
    fn no_later_cut(&self, state: &State, number: SnapshotNumber) -> Result<()> {
        let published = state.last_complete.as_ref().map(|m| m.number);
        let under_way = state.current;
        let cut = state.requests.statuses().filter(|s| {
            !s.state.is_final() && s.state != SnapshotState::Queued
                || s.state == SnapshotState::Complete
                || s.state_times.contains_key(&SnapshotState::Copying)
        });
        let later = cut
            .map(|s| s.number)
            .chain(published)
            .chain(under_way)
            .filter(|n| *n > number)
            .max();
        let Some(later) = later else { return Ok(()) };
        let text = format!(
            "snapshot {number} of {} cannot be retried: snapshot {later} came after it and has its changes",
            self.fs
        );
        Err(Error::new(ErrorKind::Conflict, text).hint(format!(
            "`cbfsctl snapshot create {}` makes a new one",
            self.fs
        )))
    }

    /// Whether a request was withdrawn and is not settled yet.
    pub(super) fn withdrawn(&self, number: SnapshotNumber) -> bool {
        let state = self.state.lock();
        let status = state.requests.status(number);
        status.is_some_and(|s| s.cancel_requested)
    }

    /// The thread's part: let go of what the request holds. Where its manifest may have been created, the
    /// bucket is asked first.
    pub(super) fn withdraw(self: &Arc<Self>, status: &SnapshotStatus) -> Result<Outcome> {
        let number = status.number;
        if status.state == SnapshotState::Copying
            && let Some(manifest) = self.published(number)?
        {
            self.check_epoch(number)?;
            return self.complete(number, &manifest);
        }
        self.let_go()?;
        self.enter(number, SnapshotState::Cancelled)?;
        self.instance.set_problem("bucket", None); // nothing waits for it
        self.remove_what_was_sent(number);
        self.forget_uploads();
        Ok(Outcome::Cancelled)
    }

    /// Remove what only the attempt at hand needed: preserved blocks, objects in the proxy cache, merged
    /// files. The frozen file stays: its changes belong to the next snapshot.
    pub(super) fn let_go(&self) -> Result<()> {
        self.instance.stop_preserving()?;
        self.empty_proxy()?;
        let kvs = self.instance.dir().join("kvs");
        let describe = || format!("{} could not be cleaned up", kvs.display());
        for entry in fs::read_dir(&kvs).context(describe)? {
            let entry = entry.context(describe)?;
            if entry.file_name().to_string_lossy().starts_with("merged-") {
                fs::remove_file(entry.path()).context(describe)?;
            }
        }
        Ok(())
    }
}
