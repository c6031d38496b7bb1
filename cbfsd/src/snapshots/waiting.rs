//! What a snapshot service waits for the bucket with: the end of that waiting, and the uploads that outlive it.
//!
//! Two things end a wait: the service stops, or the request at hand is withdrawn. The first is for good; after the
//! second the thread has to ask the bucket again (did the manifest come into being?), so each round of a
//! request has a [`Cancellation`] of its own.

use super::SnapshotService;
use cbfs_core::bucket::Cancellation;
use parking_lot::Mutex;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Who waits until when.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Of the request at hand.
    round: Mutex<Cancellation>,
    /// Of everything this service does.
    pub(super) service: Cancellation,
}

impl SnapshotService {
    /// What ends the waiting of the request at hand.
    pub(super) fn cancellation(&self) -> Cancellation {
        self.waiting.round.lock().clone()
    }

    /// A round begins: what ended the one before does not end this one.
    pub(super) fn begin_round(&self) {
        let mut round = self.waiting.round.lock();
        if !self.waiting.service.is_cancelled() {
            *round = Cancellation::default();
        }
    }

    /// The service stops: nobody waits for the bucket any more.
    pub(super) fn end_waiting(&self) {
        let round = self.waiting.round.lock();
        self.waiting.service.cancel();
        round.cancel();
    }

    /// Notes of uploads in parts.
    pub(super) fn uploads_dir(&self) -> PathBuf {
        self.instance.dir().join("uploads")
    }

    /// No attempt is under way: the uploads that are still noted are of attempts that were given up. One that the
    /// store could not be told of is told next time.
    pub(super) fn forget_uploads(&self) {
        let dir = self.uploads_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => {
                tracing::warn!("{} could not be read: {e}", dir.display());
                return;
            }
        };
        for entry in entries {
            let forgotten = match entry {
                Ok(entry) => self.bucket.forget_upload(&entry.path()),
                Err(e) => {
                    tracing::warn!("{} could not be read: {e}", dir.display());
                    return;
                }
            };
            if let Err(e) = forgotten {
                tracing::warn!(fs = %self.fs, "an upload that was given up is not aborted yet: {e}");
                return;
            }
        }
    }
}
