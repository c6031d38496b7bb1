//! Publication: objects to the uploader as they are made, and the manifest last, with the epoch checked
//! before and after.

use super::SnapshotService;
use crate::failpoints::{self, reach};
use crate::tiering::persister::Observer;
use crate::tiering::uploader::{UploadObserver, Uploader, with_retries};
use cbfs_core::bucket::{BucketError, Cancellation, create_or_same, has_small};
use cbfs_core::catalog;
use cbfs_core::error::{Error, ErrorKind, Result};
use cbfs_core::format::manifest::Manifest;
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::snapshot::{SnapshotStatus, StatusEvent};
use parking_lot::{Condvar, Mutex};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// At most this often a progress line goes into the log.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// With fewer free bytes than this the persister waits for the uploader.
const SCANT_ROOM: u64 = 256 << 20;

/// One attempt on its way: hears of the persister, feeds the uploader, keeps the log.
pub(super) struct Publication {
    service: Arc<SnapshotService>,
    number: SnapshotNumber,
    uploader: Mutex<Option<Uploader>>,
    /// The attempt has failed: nothing more is sent.
    aborted: AtomicBool,
    progress: Mutex<Progress>,
    /// Objects that are queued and have not arrived.
    waiting: Mutex<u64>,
    arrived: Condvar,
}

/// What of the persister's progress is in the log.
#[derive(Default)]
struct Progress {
    told_at: Option<Instant>,
    /// Files and bytes that are not in the log yet.
    untold: Option<(u64, u64)>,
}

/// The uploader's view of a publication.
pub(super) struct SentinelObserver(pub(super) Arc<Publication>);

impl Publication {
    pub(super) fn new(service: Arc<SnapshotService>, number: SnapshotNumber) -> Publication {
        Publication {
            service,
            number,
            uploader: Mutex::default(),
            aborted: AtomicBool::new(false),
            progress: Mutex::default(),
            waiting: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    pub(super) fn attach(&self, uploader: Uploader) {
        *self.uploader.lock() = Some(uploader);
    }

    /// An object that an earlier run of the daemon made: it is sent, unless the status log says that it
    /// was; then it is only looked for in the bucket.
    pub(super) fn object_kept(
        &self,
        object: &ObjectRef,
        path: &Path,
        status: &SnapshotStatus,
    ) -> Result<()> {
        if status.sent.contains_key(&object.key) {
            let uploader = self.uploader.lock();
            let uploader = uploader.as_ref();
            let uploader = uploader.ok_or_else(|| Error::failed("the uploader has stopped"))?;
            return uploader.confirm(object);
        }
        if !status.made.contains_key(&object.key) {
            return Observer::object_made(self, object, path);
        }
        self.send(object, path)?;
        self.wait_for_room();
        Ok(())
    }

    /// Queue an object.
    pub(super) fn send(&self, object: &ObjectRef, path: &Path) -> Result<()> {
        match &*self.uploader.lock() {
            Some(uploader) => {
                *self.waiting.lock() += 1;
                uploader.send(object, path)
            }
            None => Err(Error::failed("the uploader has stopped")),
        }
    }

    /// On a full disk the next object is made when those before it have arrived, and are gone from
    /// the proxy cache.
    fn wait_for_room(&self) {
        let ended = || {
            self.uploader
                .lock()
                .as_ref()
                .is_none_or(Uploader::has_ended)
        };
        while self.service.instance.free_bytes() < SCANT_ROOM {
            if ended() || Observer::cancelled(self) {
                return;
            }
            let mut waiting = self.waiting.lock();
            if *waiting == 0 {
                return;
            }
            // An uploader that ends early tells nobody.
            self.arrived.wait_for(&mut waiting, PROGRESS_EVERY);
        }
    }

    /// The persister is done: put the rest of its progress into the log.
    pub(super) fn persisted(&self) {
        if let Some((files, bytes)) = self.progress.lock().untold.take() {
            self.note(StatusEvent::Progress { files, bytes });
        }
    }

    /// Wait until all that was queued has arrived.
    pub(super) fn finish(&self) -> Result<()> {
        let uploader = self.uploader.lock().take();
        uploader.map_or(Ok(()), Uploader::finish)
    }

    /// The attempt failed with `error`: stop the uploader. Answers the cause: the uploader's own error
    /// when it had ended before.
    pub(super) fn abort(&self, error: Error) -> Error {
        let Some(uploader) = self.uploader.lock().take() else {
            return error;
        };
        let ended_first = uploader.has_ended();
        self.service
            .wake_after(|_| self.aborted.store(true, Ordering::SeqCst));
        match uploader.finish() {
            Err(cause) if ended_first => cause,
            _ => error,
        }
    }

    fn note(&self, event: StatusEvent) {
        if let Err(e) = self.service.record(self.number, event) {
            tracing::error!(snapshot = %self.number, causes = ?e.causes(), "{e}");
        }
    }
}

impl Observer for Publication {
    fn planned(&self, inodes: u64, files: u64, bytes: u64) {
        self.note(StatusEvent::Planned {
            inodes,
            files,
            bytes,
        });
    }

    fn progress(&self, files: u64, bytes: u64) {
        let mut progress = self.progress.lock();
        if progress
            .told_at
            .is_none_or(|at| at.elapsed() >= PROGRESS_EVERY)
        {
            *progress = Progress {
                told_at: Some(Instant::now()),
                untold: None,
            };
            self.note(StatusEvent::Progress { files, bytes });
        } else {
            progress.untold = Some((files, bytes));
        }
    }

    fn object_made(&self, object: &ObjectRef, path: &Path) -> Result<()> {
        reach(failpoints::SNAPSHOT_OBJECT_MADE);
        let event = StatusEvent::ObjectMade {
            key: object.key.clone(),
            size: object.size,
        };
        self.service.record(self.number, event)?;
        self.send(object, path)?;
        self.wait_for_room();
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.service.must_end(self.number)
    }
}

impl UploadObserver for SentinelObserver {
    fn object_sent(&self, object: &ObjectRef) -> Result<()> {
        reach(failpoints::SNAPSHOT_OBJECT_ARRIVED);
        let event = StatusEvent::ObjectSent {
            key: object.key.clone(),
            size: object.size,
        };
        self.0.service.record(self.0.number, event)?;
        reach(failpoints::SNAPSHOT_OBJECT_LOGGED);
        Ok(())
    }

    fn object_removed(&self) {
        *self.0.waiting.lock() -= 1;
        self.0.arrived.notify_all();
    }

    fn cancelled(&self) -> bool {
        let (publication, service) = (&self.0, &self.0.service);
        publication.aborted.load(Ordering::SeqCst) || service.must_end(publication.number)
    }

    fn cancellation(&self) -> Cancellation {
        self.0.service.cancellation()
    }

    fn notes_dir(&self) -> Option<PathBuf> {
        Some(self.0.service.uploads_dir())
    }

    fn settings(&self) -> u64 {
        self.0.service.settings_count()
    }

    fn pause(&self, what: &str, reason: &str, pause: Duration, settings: u64) -> bool {
        let wait_ms = pause.as_millis() as u64;
        let event = StatusEvent::Retry {
            what: what.to_owned(),
            reason: reason.to_owned(),
            wait_ms,
        };
        self.0.note(event);
        let (publication, service) = (&self.0, &self.0.service);
        let text = format!("the bucket does not take objects: {reason}; trying again");
        service.instance.set_problem("bucket", Some(text));
        // What lies over the limit is not waited for: the attempt fails, and the policy judges that.
        match service.patience(self.0.number) {
            Some(longest) => service.pause(pause.min(longest), settings, || {
                publication.aborted.load(Ordering::SeqCst) || service.instance.is_fenced()
            }),
            None => return false,
        }
        !self.cancelled()
    }
}

impl SnapshotService {
    /// The manifest that an attempt of this request has published already, if one has.
    pub(super) fn published(&self, number: SnapshotNumber) -> Result<Option<Manifest>> {
        let epoch = self.instance.epoch();
        match catalog::load_manifest(&*self.bucket, &self.fs, number, epoch) {
            Ok(manifest) => self.own(manifest).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A manifest under our number and epoch must be of one of our own attempts: a PUT whose
    /// answer was lost may have landed late.
    fn own(&self, manifest: Manifest) -> Result<Manifest> {
        let attempts = self.state.lock().requests.attempts(manifest.number)?;
        if attempts.contains(&manifest.attempt) {
            return Ok(manifest);
        }
        let text = format!(
            "another holder of epoch {} published snapshot {} (node {}): this state directory exists twice",
            manifest.epoch, manifest.number, manifest.node
        );
        self.instance.fence(&text);
        Err(Error::new(ErrorKind::Conflict, text)
            .hint("this instance is fenced; find the copy, and keep one of them"))
    }

    fn observer(self: &Arc<Self>, number: SnapshotNumber) -> SentinelObserver {
        SentinelObserver(Arc::new(Publication::new(Arc::clone(self), number)))
    }

    /// Create the manifest: the snapshot exists from here on. Answers the manifest that stands.
    pub(super) fn publish(self: &Arc<Self>, manifest: Manifest) -> Result<Manifest> {
        let number = manifest.number;
        self.check_epoch(number)?;
        self.close_gap(number)?;
        reach(failpoints::SNAPSHOT_BEFORE_MANIFEST);
        let key = keys::absolute(&self.fs, &keys::manifest(number, manifest.epoch))?;
        let bytes = cbfs_core::format::to_sealed_json(&manifest)?;
        let observer = self.observer(number);
        let mut other = false;
        with_retries(&format!("PUT {key}"), &observer, || {
            match create_or_same(&*self.bucket, &key, &bytes) {
                Err(BucketError::AlreadyExists { .. }) => {
                    other = true;
                    Ok(())
                }
                result => result,
            }
        })?;
        let manifest = if other {
            let there = catalog::load_manifest(&*self.bucket, &self.fs, number, manifest.epoch)?;
            self.own(there)?
        } else {
            manifest
        };
        self.instance.set_problem("bucket", None);
        reach(failpoints::SNAPSHOT_MANIFEST_MADE);
        self.check_epoch(number)?;
        Ok(manifest)
    }

    /// Close the numbers between the last complete snapshot and this one: their requests failed or were cancelled.
    /// Else a copy of this state directory could still publish one of them, beside the chain.
    fn close_gap(self: &Arc<Self>, number: SnapshotNumber) -> Result<()> {
        let Some(parent) = self.last_complete() else {
            return Ok(());
        };
        let epoch = self.instance.epoch();
        for given_up in (parent.number.0 + 1..number.0).map(SnapshotNumber) {
            let at = self.clock.now().to_rfc3339();
            let other = catalog::close_number(&*self.bucket, &parent, given_up, epoch, &at)?;
            if let Some(other) = other {
                // A PUT of ours whose answer was lost, landed after the request was given up: its changes are in
                // this snapshot too.
                self.own(other)?;
            }
            reach(failpoints::SNAPSHOT_NUMBER_CLOSED);
        }
        Ok(())
    }

    /// Fence this instance when a later epoch exists. Waits for the bucket as uploads do.
    pub(super) fn check_epoch(self: &Arc<Self>, number: SnapshotNumber) -> Result<()> {
        let next = Epoch(self.instance.epoch().0 + 1);
        let key = keys::absolute(&self.fs, &keys::epoch_claim(next))?;
        let observer = self.observer(number);
        let claimed = with_retries(&format!("GET {key}"), &observer, || {
            has_small(&*self.bucket, &key)
        })?;
        if !claimed {
            return Ok(());
        }
        let holder = match catalog::epoch_claim(&*self.bucket, &self.fs, next) {
            Ok(Some(claim)) => format!("node {} ({})", claim.node, claim.host),
            _ => "another node".to_owned(),
        };
        let text = format!("epoch {next} of {} was claimed by {holder}", self.fs);
        self.instance.fence(&text);
        Err(Error::new(ErrorKind::Conflict, text).hint("this master is fenced to read-only"))
    }
}
