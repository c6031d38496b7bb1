//! Publication: objects to the uploader as they are made, and the manifest last, with the epoch checked
//! before and after.

use super::SnapshotService;
use crate::tiering::persister::Observer;
use crate::tiering::uploader::{UploadObserver, Uploader, with_retries};
use cbfs_core::bucket::{BucketError, create_or_same};
use cbfs_core::catalog;
use cbfs_core::error::{Error, ErrorKind, Result};
use cbfs_core::format::manifest::Manifest;
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::snapshot::{SnapshotStatus, StatusEvent};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// At most this often a progress line goes into the log.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// One attempt on its way: hears of the persister, feeds the uploader, keeps the log.
pub(super) struct Publication {
    service: Arc<SnapshotService>,
    number: SnapshotNumber,
    uploader: Mutex<Option<Uploader>>,
    last_progress: Mutex<Option<Instant>>,
}

/// The uploader's view of a publication.
pub(super) struct SentinelObserver(pub(super) Arc<Publication>);

impl Publication {
    pub(super) fn new(service: Arc<SnapshotService>, number: SnapshotNumber) -> Publication {
        Publication {
            service,
            number,
            uploader: Mutex::default(),
            last_progress: Mutex::default(),
        }
    }

    pub(super) fn attach(&self, uploader: Uploader) {
        *self.uploader.lock() = Some(uploader);
    }

    /// Queue an object.
    pub(super) fn send(&self, object: &ObjectRef, path: &Path) -> Result<()> {
        match &*self.uploader.lock() {
            Some(uploader) => uploader.send(object, path),
            None => Err(Error::failed("the uploader has stopped")),
        }
    }

    /// Wait until all that was queued has arrived.
    pub(super) fn finish(&self) -> Result<()> {
        let uploader = self.uploader.lock().take();
        uploader.map_or(Ok(()), Uploader::finish)
    }

    fn note(&self, event: StatusEvent) {
        if let Err(e) = self.service.record(self.number, event) {
            tracing::error!(snapshot = %self.number, causes = ?e.causes(), "{e}");
        }
    }
}

impl Observer for Publication {
    fn planned(&self, inodes: u64, files: u64, bytes: u64) {
        self.note(StatusEvent::Planned { inodes, files, bytes });
    }

    fn progress(&self, files: u64, bytes: u64) {
        let mut last = self.last_progress.lock();
        if last.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            *last = Some(Instant::now());
            self.note(StatusEvent::Progress { files, bytes });
        }
    }

    fn object_made(&self, object: &ObjectRef, path: &Path) -> Result<()> {
        let event = StatusEvent::ObjectMade { key: object.key.clone(), size: object.size };
        self.service.record(self.number, event)?;
        self.send(object, path)
    }

    fn cancelled(&self) -> bool {
        self.service.stopping()
    }
}

impl UploadObserver for SentinelObserver {
    fn object_sent(&self, object: &ObjectRef) -> Result<()> {
        let event = StatusEvent::ObjectSent { key: object.key.clone(), size: object.size };
        self.0.service.record(self.0.number, event)
    }

    fn pause(&self, what: &str, reason: &str, pause: Duration) -> bool {
        let wait_ms = pause.as_millis() as u64;
        let event =
            StatusEvent::Retry { what: what.to_owned(), reason: reason.to_owned(), wait_ms };
        self.0.note(event);
        let service = &self.0.service;
        let text = format!("the bucket does not take objects: {reason}; trying again");
        service.instance.set_problem("bucket", Some(text));
        let mut state = service.state.lock();
        if !state.stop {
            service.wake.wait_for(&mut state, pause);
        }
        !state.stop
    }
}

impl SnapshotService {
    /// Whether the request's last attempt has published its manifest already.
    pub(super) fn published(&self, status: &SnapshotStatus) -> Result<Option<Manifest>> {
        let Some(attempt) = &status.attempt else { return Ok(None) };
        match catalog::load_manifest(&*self.bucket, &self.fs, status.number, status.epoch) {
            Ok(manifest) if manifest.attempt == *attempt => Ok(Some(manifest)),
            Ok(manifest) => Err(self.taken(&manifest)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn taken(&self, manifest: &Manifest) -> Error {
        self.instance.fence();
        let text = format!(
            "snapshot {} of epoch {} was published by somebody else (node {}): this state \
             directory exists twice",
            manifest.number, manifest.epoch, manifest.node
        );
        Error::new(ErrorKind::Conflict, text)
            .hint("this instance is fenced; find the copy, and keep one of them")
    }

    /// Create the manifest: the snapshot exists from here on.
    pub(super) fn publish(self: &Arc<Self>, manifest: &Manifest) -> Result<()> {
        self.check_epoch()?;
        let key = keys::absolute(&self.fs, &keys::manifest(manifest.number, manifest.epoch))?;
        let bytes = cbfs_core::format::to_json(manifest)?;
        let observer = SentinelObserver(Arc::new(Publication::new(Arc::clone(self), manifest.number)));
        let what = format!("PUT {key}");
        let mut other = false;
        with_retries(&what, &observer, || {
            match create_or_same(&*self.bucket, &key, &bytes) {
                Err(BucketError::AlreadyExists { .. }) => {
                    other = true;
                    Ok(())
                }
                result => result,
            }
        })?;
        if other {
            return Err(self.taken(&catalog::load_manifest(
                &*self.bucket,
                &self.fs,
                manifest.number,
                manifest.epoch,
            )?));
        }
        self.instance.set_problem("bucket", None);
        self.check_epoch()
    }

    /// Fence this instance when a later epoch exists.
    pub(super) fn check_epoch(&self) -> Result<()> {
        let next = Epoch(self.instance.epoch().0 + 1);
        match catalog::epoch_claim(&*self.bucket, &self.fs, next)? {
            None => Ok(()),
            Some(claim) => {
                self.instance.fence();
                let text = format!(
                    "epoch {} of {} was claimed by node {} ({})",
                    claim.epoch, self.fs, claim.node, claim.host
                );
                Err(Error::new(ErrorKind::Conflict, text).hint("this master is fenced to read-only"))
            }
        }
    }
}
