//! The uploader: objects from the proxy cache to the bucket, several at a time, while the persister still
//! makes more. Every object is created (never replaced), its arrival is checked, and what failed for a passing reason is
//! tried again until it works or the owner stops it. What an earlier run of the daemon sent is looked for
//! ([`Uploader::confirm`]), not sent again.
//!
//! What waits takes room in the proxy cache: with more than a limit of it the persister waits in
//! [`Uploader::send`]. It only ever waits for an upload that is under way, and the first failure of the
//! uploader wakes it. That failure ends the other uploads too, each after the object at hand.

use cbfs_core::bucket::{
    Body, Bucket, BucketError, Cancellation, Key, MachinePace, Pace, TryAgain,
};
use cbfs_core::error::{Error, Result};
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::handle::Handle;
use parking_lot::{Condvar, Mutex};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Uploads at a time. The objects of a small snapshot are small, and each waits: for a round trip, or for
/// a disk.
const AT_A_TIME: usize = 4;

/// First and longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause a store can ask for.
const LONGEST_ASKED_FOR: Duration = Duration::from_secs(600);

/// Hears of the uploader's work; called from its threads.
pub trait UploadObserver: Send + Sync {
    /// An object has arrived.
    fn object_sent(&self, object: &ObjectRef) -> Result<()>;

    /// Its local copy is removed.
    fn object_removed(&self) {}

    /// Whether to stop before the next object.
    fn cancelled(&self) -> bool;

    /// What ends the waiting for the bucket.
    fn cancellation(&self) -> Cancellation {
        Cancellation::default()
    }

    /// Where notes of uploads in parts are kept, so that they go on after a crash; `None`: nowhere.
    fn notes_dir(&self) -> Option<PathBuf> {
        None
    }

    /// How often the settings have changed, credentials perhaps.
    fn settings(&self) -> u64 {
        0
    }

    /// A try failed that was begun with these `settings`; the next one follows after `pause`, or at once when they have
    /// changed. Answers `false` to give up (the owner stops).
    fn pause(&self, what: &str, reason: &str, pause: Duration, settings: u64) -> bool;
}

/// What is to be done with an object.
enum Work {
    /// Create it with the contents of this file.
    Send(ObjectRef, PathBuf),
    /// See that it is there.
    Confirm(ObjectRef),
}

/// A running upload of one attempt.
pub struct Uploader {
    queue: Sender<Work>,
    threads: Vec<JoinHandle<()>>,
    backlog: Arc<Backlog>,
    limit: u64,
}

/// What is queued and has not arrived.
#[derive(Default)]
struct Backlog {
    state: Mutex<BacklogState>,
    changed: Condvar,
}

#[derive(Default)]
struct BacklogState {
    bytes: u64,
    /// Something failed: nothing that waits will arrive any more.
    ended: bool,
    /// What failed first.
    failure: Option<Error>,
}

impl Backlog {
    fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    fn end(&self, failure: Error) {
        let mut state = self.state.lock();
        state.failure.get_or_insert(failure);
        state.ended = true;
        drop(state);
        self.changed.notify_all();
    }
}

/// Tells of a panic.
struct Panicking<'a>(&'a Backlog);

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Error::failed("the uploader panicked"));
        }
    }
}

impl Uploader {
    /// Start threads that take objects from the queue. At most `limit` bytes wait in it, or one object.
    pub fn start(
        bucket: &Arc<dyn Bucket>,
        fs: &Handle,
        observer: &Arc<dyn UploadObserver>,
        limit: u64,
    ) -> Result<Uploader> {
        let (queue, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let mut uploader = Uploader {
            queue,
            threads: Vec::with_capacity(AT_A_TIME),
            backlog: Arc::default(),
            limit,
        };
        for number in 0..AT_A_TIME {
            let (bucket, fs) = (Arc::clone(bucket), fs.clone());
            let observer = Arc::clone(observer);
            let (waiting, backlog) = (Arc::clone(&waiting), Arc::clone(&uploader.backlog));
            let run = move || {
                let _panicking = Panicking(&backlog);
                if let Err(e) = run(&*bucket, &fs, &*observer, &waiting, &backlog) {
                    backlog.end(e);
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("uploader-{number}"))
                .spawn(run)
                .map_err(|e| Error::failed("a thread could not be started").because(e))?;
            uploader.threads.push(thread);
        }
        Ok(uploader)
    }

    /// Queue an object that is whole at `path`. After it has arrived the local copy is removed. Waits while
    /// too much is queued already.
    pub fn send(&self, object: &ObjectRef, path: &Path) -> Result<()> {
        {
            let mut state = self.backlog.state.lock();
            while state.bytes > 0
                && state.bytes.saturating_add(object.size) > self.limit
                && !state.ended
            {
                self.backlog.changed.wait(&mut state);
            }
            state.bytes = state.bytes.saturating_add(object.size);
        }
        self.queue(Work::Send(object.clone(), path.to_owned()))
    }

    /// Queue an object that has arrived before: that it is there with its size is all that is asked.
    /// When it is not, the upload ends with an error.
    pub fn confirm(&self, object: &ObjectRef) -> Result<()> {
        self.queue(Work::Confirm(object.clone()))
    }

    fn queue(&self, work: Work) -> Result<()> {
        let stopped = || Error::failed("the uploader has stopped");
        if self.has_ended() {
            return Err(stopped()); // why is told by `finish`
        }
        self.queue.send(work).map_err(|_| stopped())
    }

    /// Whether something failed: nothing more is sent then.
    pub fn has_ended(&self) -> bool {
        self.backlog.has_ended()
    }

    /// Wait until everything queued has arrived.
    ///
    /// # Errors
    /// What failed first.
    pub fn finish(self) -> Result<()> {
        drop(self.queue);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("an uploader panicked");
            }
        }
        match self.backlog.state.lock().failure.take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

fn run(
    bucket: &dyn Bucket,
    fs: &Handle,
    observer: &dyn UploadObserver,
    waiting: &Mutex<Receiver<Work>>,
    backlog: &Backlog,
) -> Result<()> {
    loop {
        let next = waiting.lock().recv();
        let Ok(work) = next else {
            return Ok(()); // that was all
        };
        if backlog.has_ended() {
            return Ok(()); // another one has failed
        }
        if observer.cancelled() {
            return Err(Error::failed("the upload was stopped"));
        }
        let (object, path) = match work {
            Work::Send(object, path) => (object, path),
            Work::Confirm(object) => {
                confirm(bucket, fs, observer, &object)?;
                continue;
            }
        };
        // What is not there will not be there at the next try either.
        if !path.is_file() {
            let text = format!("{} has gone from the proxy cache", path.display());
            return Err(Error::failed(text));
        }
        let key = keys::absolute(fs, &object.key)?;
        let notes = observer.notes_dir().map(|dir| dir.join(notes_name(&key)));
        with_retries(&format!("PUT {key}"), observer, || {
            put_file(bucket, &key, &object, &path, notes.as_deref())
        })?;
        observer.object_sent(&object)?;
        if let Err(e) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), "an uploaded object stays in the proxy cache: {e}");
        }
        let mut state = backlog.state.lock();
        state.bytes = state.bytes.saturating_sub(object.size);
        drop(state);
        backlog.changed.notify_all();
        observer.object_removed();
    }
}

fn confirm(
    bucket: &dyn Bucket,
    fs: &Handle,
    observer: &dyn UploadObserver,
    object: &ObjectRef,
) -> Result<()> {
    let key = keys::absolute(fs, &object.key)?;
    let found = with_retries(&format!("HEAD {key}"), observer, || bucket.head(&key))?;
    match found {
        Some(info) if info.size == object.size => Ok(()),
        Some(info) => Err(Error::failed(format!(
            "object {key} had arrived and has {} bytes instead of {}",
            info.size, object.size
        ))),
        None => Err(Error::failed(format!(
            "object {key} had arrived and is gone"
        ))),
    }
}

/// Run a request until it works, its error is not transient, or the observer gives up. Pauses double up to
/// a minute, and are drawn from the upper half of that: many masters shall not come back to a store all at
/// once. What the store asks for (`Retry-After`) is waited for at least, up to [`LONGEST_ASKED_FOR`].
pub fn with_retries<T>(
    what: &str,
    observer: &dyn UploadObserver,
    mut request: impl FnMut() -> Result<T, BucketError>,
) -> Result<T> {
    let chance = MachinePace::default();
    let mut pause = FIRST_PAUSE;
    loop {
        // Before the request: one that is under way while they change fails because of the old ones.
        let settings = observer.settings();
        match observer.cancellation().scope(&mut request) {
            Ok(value) => return Ok(value),
            Err(e) if e.is_transient() => {
                let asked_for = match e.try_again() {
                    TryAgain::Soon(Some(asked_for)) => asked_for.min(LONGEST_ASKED_FOR),
                    _ => Duration::ZERO,
                };
                let drawn = pause.mul_f64(0.5 + 0.5 * chance.random());
                if !observer.pause(what, &describe(&e), drawn.max(asked_for), settings) {
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

/// Objects up to this size are sent with their hash in the signature: the store checks it, and what it has taken
/// needs no second look.
const SMALL: u64 = 1 << 20;

/// A file name for the notes of an upload: a key has no `+`.
pub(crate) fn notes_name(key: &Key) -> String {
    key.as_str().replace('/', "+")
}

/// Create an object of a local file, and see that it has arrived. One that is there already is accepted if it is
/// the same. With a place for `notes` a large one goes on where it was cut short.
pub(super) fn put_file(
    bucket: &dyn Bucket,
    key: &Key,
    object: &ObjectRef,
    path: &Path,
    notes: Option<&Path>,
) -> Result<(), BucketError> {
    let damaged = |why: String| BucketError::Damaged {
        key: key.clone(),
        why,
    };
    let created = if object.size <= SMALL {
        let bytes = std::fs::read(path).map_err(|source| BucketError::Io {
            what: format!("{} could not be read", path.display()),
            source,
        })?;
        object
            .verify(&bytes)
            .map_err(|e| damaged(format!("{}: {e}", path.display())))?;
        match bucket.create(key, Body::Bytes(&bytes)) {
            Ok(()) => return Ok(()),
            refused => refused,
        }
    } else {
        match notes {
            Some(notes) => bucket.create_resumably(key, path, notes),
            None => bucket.create(key, Body::File(path)),
        }
    };
    match created {
        Ok(()) => {}
        // The answer to an earlier try was lost: is it ours, and whole?
        Err(BucketError::AlreadyExists { .. }) => {
            let bytes = bucket.get(key)?;
            return object.verify(&bytes).map_err(|e| damaged(e.to_string()));
        }
        Err(e) => return Err(e),
    }
    let arrived = bucket.head(key)?.map(|info| info.size);
    if arrived == Some(object.size) {
        return Ok(());
    }
    Err(damaged(format!(
        "{} bytes arrived instead of {}",
        arrived.unwrap_or(0),
        object.size
    )))
}

#[cfg(test)]
mod tests {
    use super::super::proxy::testing::fs_handle;
    use super::*;
    use cbfs_core::bucket::{BucketResult, BucketUrl, FileBucket, ObjectInfo};
    use cbfs_core::frames::StoredObject;
    use std::fs;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    const COUNT: u64 = 40;
    const SIZE: u64 = 4;
    const LIMIT: u64 = 10;

    /// Waits for everything, in no time, and notes for how long it was to wait.
    #[derive(Default)]
    struct Patient(Mutex<Vec<Duration>>);

    impl UploadObserver for Patient {
        fn object_sent(&self, _: &ObjectRef) -> Result<()> {
            Ok(())
        }
        fn cancelled(&self) -> bool {
            false
        }
        fn pause(&self, _: &str, _: &str, pause: Duration, _: u64) -> bool {
            self.0.lock().push(pause);
            true
        }
    }

    /// Counts changed settings, and notes the count of each try that failed.
    #[derive(Default)]
    struct Reloaded(AtomicU64, Mutex<Vec<u64>>);

    impl UploadObserver for Reloaded {
        fn object_sent(&self, _: &ObjectRef) -> Result<()> {
            Ok(())
        }
        fn cancelled(&self) -> bool {
            false
        }
        fn settings(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
        fn pause(&self, _: &str, _: &str, _: Duration, settings: u64) -> bool {
            self.1.lock().push(settings);
            true
        }
    }

    #[test]
    fn settings_that_change_while_a_request_is_under_way_count_as_changed_after_it() {
        let observer = Reloaded::default();
        let done = with_retries("PUT", &observer, || {
            match observer.0.fetch_add(1, Ordering::SeqCst) {
                2 => Ok(()),
                _ => Err(BucketError::Busy {
                    what: "slow down".into(),
                    retry_after: None,
                }),
            }
        });
        done.unwrap();
        assert_eq!(*observer.1.lock(), [0, 1]);
    }

    #[test]
    fn what_a_store_asks_for_is_waited_for_and_pauses_are_drawn() {
        let asks = [None, Some(45), Some(86_400), None, None].map(|s| s.map(Duration::from_secs));
        let observer = Patient::default();
        let mut tries = asks.iter();
        let done = with_retries("PUT", &observer, || match tries.next() {
            Some(retry_after) => Err(BucketError::Busy {
                what: "slow down".into(),
                retry_after: *retry_after,
            }),
            None => Ok(7),
        });
        assert_eq!(done.unwrap(), 7);
        let pauses = observer.0.into_inner();
        assert_eq!(pauses.len(), asks.len());
        assert_eq!(pauses[1..3], [Duration::from_secs(45), LONGEST_ASKED_FOR]);
        for (at, bound) in [(0, 500), (3, 4000), (4, 8000)] {
            let bound = Duration::from_millis(bound);
            assert!((bound / 2..=bound).contains(&pauses[at]), "{pauses:?}");
        }
    }

    /// A bucket so slow that the cache is always as full as it gets, or that takes nothing at all.
    #[derive(Debug)]
    struct Slow {
        inner: FileBucket,
        cache: PathBuf,
        all_made: Arc<AtomicBool>,
        most: AtomicU64,
        refuses: bool,
    }

    impl Slow {
        fn in_cache(&self) -> u64 {
            fs::read_dir(&self.cache).unwrap().count() as u64 * SIZE
        }
    }

    impl Bucket for Slow {
        fn url(&self) -> &BucketUrl {
            self.inner.url()
        }
        fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
            // Two may wait, and the one that is too much stands there already.
            while self.in_cache() <= LIMIT && !self.all_made.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            self.most.fetch_max(self.in_cache(), Ordering::SeqCst);
            if self.refuses {
                return Err(BucketError::Damaged {
                    key: key.clone(),
                    why: "test".into(),
                });
            }
            self.inner.create(key, body)
        }
        fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
            self.inner.replace(key, body)
        }
        fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
            self.inner.get(key)
        }
        fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
            self.inner.get_range(key, offset, len)
        }
        fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
            self.inner.head(key)
        }
        fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
            self.inner.list(prefix)
        }
        fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
            self.inner.list_dir(prefix)
        }
        fn delete(&self, key: &Key) -> BucketResult<()> {
            self.inner.delete(key)
        }
    }

    fn send_all(refuses: bool) -> (Result<()>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        fs::create_dir(&cache).unwrap();
        let all_made = Arc::new(AtomicBool::new(false));
        let bucket = Arc::new(Slow {
            inner: FileBucket::open(dir.path(), false).unwrap(),
            cache: cache.clone(),
            all_made: Arc::clone(&all_made),
            most: AtomicU64::new(0),
            refuses,
        });
        let uploader = Uploader::start(
            &(Arc::clone(&bucket) as Arc<dyn Bucket>),
            &fs_handle(),
            &(Arc::new(Patient::default()) as Arc<dyn UploadObserver>),
            LIMIT,
        )
        .unwrap();
        let sent = (0..COUNT).try_for_each(|number| {
            let path = cache.join(number.to_string());
            fs::write(&path, [7; SIZE as usize]).unwrap();
            let object = StoredObject::of(&[7; SIZE as usize][..]).unwrap();
            uploader.send(&object.at(format!("s/{number}")), &path)
        });
        all_made.store(true, Ordering::SeqCst);
        let finished = uploader.finish();
        (sent.and(finished), bucket.most.load(Ordering::SeqCst))
    }

    #[test]
    fn a_slow_bucket_holds_the_maker_back_and_all_arrives() {
        let (sent, most) = send_all(false);
        sent.unwrap();
        assert!(most > LIMIT, "nobody waited");
        assert!(most <= LIMIT + SIZE, "{most} bytes in the cache");
    }

    #[test]
    fn a_maker_that_waits_hears_of_the_end_of_the_uploader() {
        assert!(send_all(true).0.is_err());
    }
}
