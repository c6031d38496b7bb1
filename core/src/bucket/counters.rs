//! What is asked of a bucket: a decorator that counts requests, failures, bytes and time by kind.

use super::{Body, Bucket, BucketError, BucketResult, BucketUrl, Key, ObjectInfo};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Kinds of requests: the methods of [`Bucket`]. One may be several on the wire (an upload in parts,
/// a listing of many pages).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// Create-only PUT.
    Create,
    /// PUT that replaces.
    Replace,
    /// GET of a whole object.
    Get,
    /// GET of a range.
    GetRange,
    /// HEAD.
    Head,
    /// Listing.
    List,
    /// DELETE.
    Delete,
}

impl RequestKind {
    /// All of them.
    pub const ALL: [RequestKind; 7] = [
        RequestKind::Create,
        RequestKind::Replace,
        RequestKind::Get,
        RequestKind::GetRange,
        RequestKind::Head,
        RequestKind::List,
        RequestKind::Delete,
    ];
}

#[derive(Debug, Default)]
struct Cells {
    requests: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
}

/// Counts since the start; shared between the bucket and who reports them.
#[derive(Debug, Default)]
pub struct Counters {
    kinds: [Cells; RequestKind::ALL.len()],
}

/// The counts of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CountedRequests {
    /// Which requests.
    pub kind: RequestKind,
    /// How many, tries again included.
    pub requests: u64,
    /// How many of them failed. That an object is not there, or there already, is an answer.
    pub failures: u64,
    /// Bytes of objects sent or received.
    pub bytes: u64,
    /// Time they took, together.
    pub seconds: f64,
}

impl Counters {
    /// The counts, in the order of [`RequestKind::ALL`].
    pub fn counts(&self) -> Vec<CountedRequests> {
        let counts = RequestKind::ALL
            .into_iter()
            .zip(&self.kinds)
            .map(|(kind, cells)| {
                let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
                CountedRequests {
                    kind,
                    requests: read(&cells.requests),
                    failures: read(&cells.failures),
                    bytes: read(&cells.bytes),
                    seconds: read(&cells.nanos) as f64 / 1e9,
                }
            });
        counts.collect()
    }

    fn count<T>(
        &self,
        kind: RequestKind,
        bytes: impl FnOnce(&T) -> u64,
        request: impl FnOnce() -> BucketResult<T>,
    ) -> BucketResult<T> {
        let start = Instant::now();
        let answer = request();
        let add = |cell: &AtomicU64, n| {
            cell.fetch_add(n, Ordering::Relaxed);
        };
        let cells = &self.kinds[kind as usize];
        add(&cells.requests, 1);
        add(
            &cells.nanos,
            u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        );
        match &answer {
            Ok(value) => add(&cells.bytes, bytes(value)),
            Err(BucketError::NotFound { .. } | BucketError::AlreadyExists { .. }) => {}
            Err(_) => add(&cells.failures, 1),
        }
        answer
    }
}

/// A bucket whose requests are counted.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Bucket>,
    counters: Arc<Counters>,
}

impl Counted {
    /// Decorate `inner`.
    pub fn new(inner: Arc<dyn Bucket>, counters: Arc<Counters>) -> Counted {
        Counted { inner, counters }
    }
}

fn none<T>(_: &T) -> u64 {
    0
}

impl Bucket for Counted {
    fn url(&self) -> &BucketUrl {
        self.inner.url()
    }

    fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
        let size = |_: &()| match body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
        };
        self.counters
            .count(RequestKind::Create, size, || self.inner.create(key, body))
    }

    fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
        let size = |_: &()| body.len() as u64;
        self.counters
            .count(RequestKind::Replace, size, || self.inner.replace(key, body))
    }

    fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        let size = |bytes: &Vec<u8>| bytes.len() as u64;
        self.counters
            .count(RequestKind::Get, size, || self.inner.get(key))
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
        let size = |bytes: &Vec<u8>| bytes.len() as u64;
        let request = || self.inner.get_range(key, offset, len);
        self.counters.count(RequestKind::GetRange, size, request)
    }

    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        self.counters
            .count(RequestKind::Head, none, || self.inner.head(key))
    }

    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.counters
            .count(RequestKind::List, none, || self.inner.list(prefix))
    }

    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.counters
            .count(RequestKind::List, none, || self.inner.list_dir(prefix))
    }

    fn delete(&self, key: &Key) -> BucketResult<()> {
        self.counters
            .count(RequestKind::Delete, none, || self.inner.delete(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::FileBucket;

    #[test]
    fn requests_are_counted_by_kind_and_only_true_failures_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let counters = Arc::new(Counters::default());
        let bucket = Arc::new(FileBucket::open(dir.path(), false).unwrap());
        let bucket = Counted::new(bucket, Arc::clone(&counters));
        let key = Key::new("a").unwrap();
        bucket.create(&key, Body::Bytes(b"hello")).unwrap();
        bucket.create(&key, Body::Bytes(b"hello")).unwrap_err();
        bucket.get(&Key::new("none").unwrap()).unwrap_err();
        bucket.get(&key).unwrap();
        bucket.get_range(&key, 3, 9).unwrap_err();
        let counts = counters.counts();
        let of = |kind: RequestKind| counts.iter().find(|c| c.kind == kind).copied().unwrap();
        let created = of(RequestKind::Create);
        assert_eq!(
            (created.requests, created.failures, created.bytes),
            (2, 0, 5)
        );
        let got = of(RequestKind::Get);
        assert_eq!((got.requests, got.failures, got.bytes), (2, 0, 5));
        let ranges = of(RequestKind::GetRange);
        assert_eq!((ranges.requests, ranges.failures, ranges.bytes), (1, 1, 0));
        assert_eq!(of(RequestKind::List).requests, 0);
    }
}
