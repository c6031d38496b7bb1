//! Buckets: where objects live. One trait, implementations beside it (`file`, `s3`), and
//! decorators over it (`retry`, `counters`, `lazy`). All calls block; callers own the threads.
//!
//! Objects are immutable: every PUT but the node's sign of life is create-only. A store that
//! cannot refuse a second creator cannot carry epochs.

mod cancellation;
mod counters;
mod error;
mod file;
mod key;
mod lazy;
mod race;
mod retry;
mod s3;
mod traffic;
mod url;

pub use cancellation::Cancellation;
pub use counters::{Counted, CountedRequests, Counters, LATENCY_BOUNDS, RequestKind, Wire};
pub use error::{BucketError, BucketResult, TryAgain};
pub use file::FileBucket;
pub use key::Key;
pub use lazy::LazyBucket;
pub use race::{RACERS, Race, race};
pub use retry::{MachinePace, Pace, Patience, Retrying};
pub use s3::S3Bucket;
pub use traffic::{AWS_PRICES, BucketTraffic, counters_of, traffic, traffic_of};
pub use url::BucketUrl;

use crate::inode::Timestamp;
use std::path::Path;
use std::sync::Arc;

/// What a PUT sends.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// A file, streamed.
    File(&'a Path),
}

/// What HEAD and listing tell of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: Key,
    /// Bytes as stored.
    pub size: u64,
    /// The store's time of the last change.
    pub modified: Timestamp,
}

/// A bucket (with the prefix of its URL already applied: keys are relative to it).
pub trait Bucket: Send + Sync + std::fmt::Debug {
    /// The URL it was opened with.
    fn url(&self) -> &BucketUrl;

    /// Create an object; atomic and durable once `Ok`. If the key exists already nothing changes
    /// and the answer is [`BucketError::AlreadyExists`]: also under a race exactly one creator wins.
    fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()>;

    /// Create an object with the contents of a file, as [`Bucket::create`] does. Where the store takes it in parts,
    /// those that have arrived are noted, durably, in the file `notes`: the same call again, also after a
    /// crash, sends the rest only. The notes are gone when this returns `Ok` or
    /// [`BucketError::AlreadyExists`].
    fn create_resumably(&self, key: &Key, path: &Path, notes: &Path) -> BucketResult<()> {
        let _ = notes;
        self.create(key, Body::File(path))
    }

    /// Give up the upload that `notes` tell of: the store forgets its parts, and the notes are removed. Without
    /// notes there is nothing to do.
    fn forget_upload(&self, notes: &Path) -> BucketResult<()> {
        let _ = notes;
        Ok(())
    }

    /// Create or replace an object atomically. Only for `nodes/`, the one mutable kind.
    fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()>;

    /// The whole object.
    fn get(&self, key: &Key) -> BucketResult<Vec<u8>>;

    /// `len` bytes from `offset`; fewer bytes in the object is [`BucketError::Damaged`].
    fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>>;

    /// Size and time; `None` when there is no such object.
    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>>;

    /// All objects whose key starts with `prefix` (`""` for all), sorted by key.
    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>>;

    /// The objects directly below `prefix`: those whose key starts with it and has no `/` after
    /// it, sorted by key. `prefix` is `""` or ends with `/`. Does not walk what lies deeper.
    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>>;

    /// Remove an object; removing what is not there is `Ok`. After power loss it may be back.
    fn delete(&self, key: &Key) -> BucketResult<()>;
}

/// Open the bucket that `url` names, for a command: it tries again for seconds what fails for a
/// passing reason. For `file://` the directory must exist and be writable, unless `read_only`; of an
/// S3 store nothing is asked yet, but there must be credentials.
pub fn open(url: &BucketUrl, read_only: bool) -> BucketResult<Arc<dyn Bucket>> {
    open_with(url, read_only, Patience::COMMAND, counters_of(url))
}

/// Open the bucket that `url` names. Each try of a request is counted in `counters`.
pub fn open_with(
    url: &BucketUrl,
    read_only: bool,
    patience: Patience,
    counters: Arc<Counters>,
) -> BucketResult<Arc<dyn Bucket>> {
    match url {
        // Trying again is for networks: what a disk refuses it refuses again.
        BucketUrl::File { path } => {
            let bucket = Arc::new(FileBucket::open(path, read_only)?);
            Ok(Arc::new(Counted::new(bucket, counters)))
        }
        BucketUrl::S3 { .. } => {
            let bucket = S3Bucket::open_counted(url, read_only, Arc::clone(&counters))?;
            let counted = Arc::new(Counted::new(Arc::new(bucket), Arc::clone(&counters)));
            let pace = Arc::new(MachinePace::default());
            let retrying = Retrying::new(counted, patience, pace).counted_by(counters);
            Ok(Arc::new(retrying))
        }
    }
}

/// Whether a small object is there, by one GET. [`Bucket::head`] takes two requests to an S3 store for one that is absent: the
/// refusal of a HEAD does not tell whether the object or the bucket is.
pub fn has_small(bucket: &dyn Bucket, key: &Key) -> BucketResult<bool> {
    match bucket.get(key) {
        Ok(_) => Ok(true),
        Err(BucketError::NotFound { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Create the object, or find that it is there with exactly these bytes: what a retry of a
/// create-only PUT needs (a lost response may have been a success). Other bytes under that key
/// are [`BucketError::AlreadyExists`].
pub fn create_or_same(bucket: &dyn Bucket, key: &Key, bytes: &[u8]) -> BucketResult<()> {
    match bucket.create(key, Body::Bytes(bytes)) {
        Err(BucketError::AlreadyExists { key }) => {
            if bucket.get(&key)? == bytes {
                Ok(())
            } else {
                Err(BucketError::AlreadyExists { key })
            }
        }
        other => other,
    }
}
