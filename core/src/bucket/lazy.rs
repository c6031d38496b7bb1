//! A bucket that is opened when it is first needed: a daemon starts, and its mounts come back, while
//! the bucket is down.

use super::{
    Body, Bucket, BucketError, BucketResult, BucketUrl, Counters, Key, ObjectInfo, Patience,
    counters_of, open_with,
};
use crate::configuration;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;

/// Opens the bucket at the first request, and anew after it could not be reached or refused us, or after
/// `cbfsd.toml` was read anew. It has the patience of a daemon.
#[derive(Debug)]
pub struct LazyBucket {
    url: BucketUrl,
    read_only: bool,
    /// With the settings' generation that it was opened under.
    open: Mutex<Option<(u64, Arc<dyn Bucket>)>>,
    counters: Arc<Counters>,
}

impl LazyBucket {
    /// A bucket at `url`; nothing is asked of it yet.
    pub fn new(url: BucketUrl, read_only: bool) -> LazyBucket {
        LazyBucket {
            counters: Counters::part_of(counters_of(&url)),
            url,
            read_only,
            open: Mutex::default(),
        }
    }

    /// What was asked of it so far, through this one.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn open(&self) -> BucketResult<Arc<dyn Bucket>> {
        let configured = configuration::current();
        let patience = configured.bucket(&self.url).and_then(|s| s.patience());
        open_with(
            &self.url,
            self.read_only,
            Patience {
                reads: patience.unwrap_or(Patience::SERVICE.reads),
                ..Patience::SERVICE
            },
            Arc::clone(&self.counters),
        )
    }

    fn ask<T>(&self, request: impl FnOnce(&dyn Bucket) -> BucketResult<T>) -> BucketResult<T> {
        let bucket = {
            let mut open = self.open.lock();
            match &*open {
                Some((generation, bucket)) if *generation == configuration::generation() => {
                    Arc::clone(bucket)
                }
                _ => {
                    // Asked first: settings that change meanwhile are for the next request.
                    let generation = configuration::generation();
                    Arc::clone(&open.insert((generation, self.open()?)).1)
                }
            }
        };
        let answer = request(&*bucket);
        if let Err(BucketError::Unreachable { .. } | BucketError::Denied { .. }) = &answer {
            // What comes back may be another directory or server under the same name, and the files
            // may hold other credentials by now.
            *self.open.lock() = None;
        }
        answer
    }
}

impl Bucket for LazyBucket {
    fn url(&self) -> &BucketUrl {
        &self.url
    }

    fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
        self.ask(|b| b.create(key, body))
    }

    fn create_resumably(&self, key: &Key, path: &Path, notes: &Path) -> BucketResult<()> {
        self.ask(|b| b.create_resumably(key, path, notes))
    }

    fn forget_upload(&self, notes: &Path) -> BucketResult<()> {
        self.ask(|b| b.forget_upload(notes))
    }

    fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
        self.ask(|b| b.replace(key, body))
    }

    fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        self.ask(|b| b.get(key))
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
        self.ask(|b| b.get_range(key, offset, len))
    }

    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        self.ask(|b| b.head(key))
    }

    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.ask(|b| b.list(prefix))
    }

    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.ask(|b| b.list_dir(prefix))
    }

    fn delete(&self, key: &Key) -> BucketResult<()> {
        self.ask(|b| b.delete(key))
    }
}
