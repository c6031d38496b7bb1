//! The uploader: objects from the proxy cache to the bucket, while the persister still makes more. Every
//! object is created (never replaced), its arrival is checked, and what failed for a passing reason is
//! tried again until it works or the owner stops it.

use cbfs_core::bucket::{Body, Bucket, BucketError, Key};
use cbfs_core::error::{Error, Result};
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::handle::Handle;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// First and longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Hears of the uploader's work; called from its thread.
pub trait UploadObserver: Send + Sync {
    /// An object has arrived.
    fn object_sent(&self, object: &ObjectRef) -> Result<()>;

    /// Whether to stop before the next object.
    fn cancelled(&self) -> bool;

    /// A try failed; the next one follows after `pause`. Answers `false` to give up (the owner stops).
    fn pause(&self, what: &str, reason: &str, pause: Duration) -> bool;
}

/// A running upload of one attempt.
pub struct Uploader {
    queue: Sender<(ObjectRef, PathBuf)>,
    thread: JoinHandle<Result<()>>,
}

impl Uploader {
    /// Start a thread that takes objects from the queue.
    pub fn start(
        bucket: Arc<dyn Bucket>,
        fs: Handle,
        observer: Arc<dyn UploadObserver>,
    ) -> Result<Uploader> {
        let (queue, waiting) = channel();
        let thread = std::thread::Builder::new()
            .name("uploader".into())
            .spawn(move || run(&*bucket, &fs, &*observer, &waiting))
            .map_err(|e| Error::failed("a thread could not be started").because(e))?;
        Ok(Uploader { queue, thread })
    }

    /// Queue an object that is durable at `path`. After it has arrived the local copy is removed.
    pub fn send(&self, object: &ObjectRef, path: &Path) -> Result<()> {
        let queued = self.queue.send((object.clone(), path.to_owned()));
        // The thread ended early: its error is told by `finish`.
        queued.map_err(|mpsc::SendError(_)| Error::failed("the uploader has stopped"))
    }

    /// Whether its thread has ended: before [`Uploader::finish`] only after an error.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Wait until everything queued has arrived.
    pub fn finish(self) -> Result<()> {
        drop(self.queue);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => Err(Error::failed("the uploader panicked")),
        }
    }
}

fn run(
    bucket: &dyn Bucket,
    fs: &Handle,
    observer: &dyn UploadObserver,
    waiting: &Receiver<(ObjectRef, PathBuf)>,
) -> Result<()> {
    for (object, path) in waiting {
        if observer.cancelled() {
            return Err(Error::failed("the upload was stopped"));
        }
        // What is not there will not be there at the next try either.
        if !path.is_file() {
            let text = format!("{} has gone from the proxy cache", path.display());
            return Err(Error::failed(text));
        }
        let key = keys::absolute(fs, &object.key)?;
        with_retries(&format!("PUT {key}"), observer, || {
            put_file(bucket, &key, &object, &path)
        })?;
        observer.object_sent(&object)?;
        if let Err(e) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), "an uploaded object stays in the proxy cache: {e}");
        }
    }
    Ok(())
}

/// Run a request until it works, its error is not transient, or the observer gives up.
pub fn with_retries<T>(
    what: &str,
    observer: &dyn UploadObserver,
    mut request: impl FnMut() -> Result<T, BucketError>,
) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    loop {
        match request() {
            Ok(value) => return Ok(value),
            Err(e) if e.is_transient() => {
                if !observer.pause(what, &describe(&e), pause) {
                    return Err(Error::from(e));
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(e) => return Err(Error::from(e)),
        }
    }
}

fn describe(e: &BucketError) -> String {
    match std::error::Error::source(e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    }
}

/// Create an object of a local file, and see that it has arrived. One that is there already is accepted if it is
/// the same.
pub(super) fn put_file(
    bucket: &dyn Bucket,
    key: &Key,
    object: &ObjectRef,
    path: &Path,
) -> Result<(), BucketError> {
    match bucket.create(key, Body::File(path)) {
        Ok(()) => {}
        // The answer to an earlier try was lost: is it ours, and whole?
        Err(BucketError::AlreadyExists { .. }) => {
            let bytes = bucket.get(key)?;
            if let Err(e) = object.verify(&bytes) {
                return Err(BucketError::Damaged {
                    key: key.clone(),
                    why: e.to_string(),
                });
            }
        }
        Err(e) => return Err(e),
    }
    let arrived = bucket.head(key)?.map(|info| info.size);
    if arrived == Some(object.size) {
        return Ok(());
    }
    let why = format!(
        "{:?} bytes arrived instead of {}",
        arrived.unwrap_or(0),
        object.size
    );
    Err(BucketError::Damaged {
        key: key.clone(),
        why,
    })
}
