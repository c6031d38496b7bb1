//! What is asked of a bucket: a decorator that counts requests, failures, bytes and time by kind.

use super::{Body, Bucket, BucketError, BucketResult, BucketUrl, Key, ObjectInfo};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Kinds of requests: the methods of [`Bucket`]. One may be several on the wire (an upload in parts,
/// a listing of many pages).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

    /// As in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            RequestKind::Create => "create",
            RequestKind::Replace => "replace",
            RequestKind::Get => "get",
            RequestKind::GetRange => "get_range",
            RequestKind::Head => "head",
            RequestKind::List => "list",
            RequestKind::Delete => "delete",
        }
    }
}

/// Upper bounds of the latency histograms, in seconds; above the last one there is another bucket. They fit a
/// store next door (milliseconds), one over the internet, and conditional PUTs under contention (seconds).
pub const LATENCY_BOUNDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Minutes that the last hour is made of.
const MINUTES: usize = 60;

/// Requests on the wire, and the bytes of objects in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// PUT, POST and LIST: what stores charge most for.
    pub writes: u64,
    /// GET and HEAD.
    pub reads: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

impl Wire {
    fn add(&mut self, more: Wire) {
        self.writes += more.writes;
        self.reads += more.reads;
        self.bytes_in += more.bytes_in;
        self.bytes_out += more.bytes_out;
    }
}

/// Since the start, and minute by minute.
#[derive(Debug)]
struct WireLog {
    start: Instant,
    all: Wire,
    /// By minute modulo [`MINUTES`], with the minute it is of.
    minutes: [(u64, Wire); MINUTES],
}

impl Default for WireLog {
    fn default() -> WireLog {
        WireLog {
            start: Instant::now(),
            all: Wire::default(),
            minutes: [(0, Wire::default()); MINUTES],
        }
    }
}

impl WireLog {
    fn add(&mut self, minute: u64, more: Wire) {
        self.all.add(more);
        let slot = &mut self.minutes[(minute % MINUTES as u64) as usize];
        if slot.0 != minute {
            *slot = (minute, Wire::default());
        }
        slot.1.add(more);
    }

    fn last_hour(&self, minute: u64) -> Wire {
        let mut sum = Wire::default();
        let recent = |of: u64| of <= minute && minute - of < MINUTES as u64;
        for (of, wire) in &self.minutes {
            if recent(*of) {
                sum.add(*wire);
            }
        }
        sum
    }

    fn minute(&self) -> u64 {
        self.start.elapsed().as_secs() / 60
    }
}

#[derive(Debug, Default)]
struct Cells {
    requests: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
    /// By latency: one per bound, and one above.
    latencies: [AtomicU64; LATENCY_BOUNDS.len() + 1],
}

/// Counts since the start; shared between the bucket and who reports them.
#[derive(Debug, Default)]
pub struct Counters {
    kinds: [Cells; RequestKind::ALL.len()],
    retries: AtomicU64,
    wire: Mutex<WireLog>,
    /// Where all of it is counted too.
    whole: Option<Arc<Counters>>,
}

/// The counts of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// How many took at most each of [`LATENCY_BOUNDS`] seconds and more than the one before; the last tells
    /// those above all bounds.
    pub latencies: Vec<u64>,
}

impl CountedRequests {
    /// The bound below which this share (0 to 1) of the requests stayed, in seconds; infinite above the last.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.requests as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bound, count) in LATENCY_BOUNDS.iter().zip(&self.latencies) {
            seen += count;
            if seen >= wanted {
                return *bound;
            }
        }
        f64::INFINITY
    }
}

impl Counters {
    /// Counters of a part: what they count is counted in `whole` too.
    pub fn part_of(whole: Arc<Counters>) -> Arc<Counters> {
        Arc::new(Counters {
            whole: Some(whole),
            ..Counters::default()
        })
    }

    /// These, and what they are part of.
    fn chain(&self) -> impl Iterator<Item = &Counters> {
        std::iter::successors(Some(self), |counters| counters.whole.as_deref())
    }

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
                    latencies: cells.latencies.iter().map(read).collect(),
                }
            });
        counts.collect()
    }

    /// Requests that were tried again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(super) fn count_retry(&self) {
        for counters in self.chain() {
            counters.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request went out that stores charge as a write, with so many bytes of an object.
    pub(super) fn sent(&self, bytes_out: u64) {
        self.note_wire(Wire {
            writes: 1,
            bytes_out,
            ..Wire::default()
        });
    }

    /// A request went out that stores charge as a read.
    pub(super) fn asked(&self) {
        self.note_wire(Wire {
            reads: 1,
            ..Wire::default()
        });
    }

    /// So many bytes came in.
    pub(super) fn received(&self, bytes_in: u64) {
        self.note_wire(Wire {
            bytes_in,
            ..Wire::default()
        });
    }

    fn note_wire(&self, more: Wire) {
        for counters in self.chain() {
            let mut wire = counters.wire.lock();
            let minute = wire.minute();
            wire.add(minute, more);
        }
    }

    /// Requests on the wire since the start.
    pub fn wire(&self) -> Wire {
        self.wire.lock().all
    }

    /// Those of the last 60 minutes, the one that runs included.
    pub fn wire_last_hour(&self) -> Wire {
        let wire = self.wire.lock();
        wire.last_hour(wire.minute())
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
        let took = start.elapsed();
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let seconds = took.as_secs_f64();
        let within = LATENCY_BOUNDS.iter().position(|bound| seconds <= *bound);
        let (bytes, failures) = match &answer {
            Ok(value) => (bytes(value), 0),
            Err(BucketError::NotFound { .. } | BucketError::AlreadyExists { .. }) => (0, 0),
            Err(_) => (0, 1),
        };
        for counters in self.chain() {
            let cells = &counters.kinds[kind as usize];
            add(&cells.requests, 1);
            add(&cells.nanos, nanos);
            add(&cells.latencies[within.unwrap_or(LATENCY_BOUNDS.len())], 1);
            add(&cells.bytes, bytes);
            add(&cells.failures, failures);
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

    fn create_resumably(&self, key: &Key, path: &Path, notes: &Path) -> BucketResult<()> {
        let size = |_: &()| std::fs::metadata(path).map_or(0, |m| m.len());
        let request = || self.inner.create_resumably(key, path, notes);
        self.counters.count(RequestKind::Create, size, request)
    }

    fn forget_upload(&self, notes: &Path) -> BucketResult<()> {
        self.inner.forget_upload(notes)
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
        let of = |kind: RequestKind| counts.iter().find(|c| c.kind == kind).cloned().unwrap();
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
        assert_eq!(created.latencies.iter().sum::<u64>(), 2);
        assert_eq!(created.latencies.len(), LATENCY_BOUNDS.len() + 1);
    }

    #[test]
    fn quantiles_are_bounds_of_the_histogram() {
        let mut latencies = vec![0; LATENCY_BOUNDS.len() + 1];
        latencies[1] = 90;
        latencies[6] = 9;
        latencies[12] = 1;
        let counted = CountedRequests {
            kind: RequestKind::Get,
            requests: 100,
            failures: 0,
            bytes: 0,
            seconds: 0.0,
            latencies,
        };
        assert_eq!(counted.quantile(0.5), 0.01);
        assert_eq!(counted.quantile(0.95), 0.5);
        assert_eq!(counted.quantile(1.0), f64::INFINITY);
    }

    #[test]
    fn the_last_hour_forgets_what_is_older() {
        let mut log = WireLog::default();
        let read = Wire {
            reads: 1,
            ..Wire::default()
        };
        for minute in [0, 0, 1, 59] {
            log.add(minute, read);
        }
        assert_eq!(log.last_hour(59).reads, 4);
        assert_eq!(log.last_hour(60).reads, 2);
        log.add(60, read);
        assert_eq!(log.last_hour(60).reads, 3);
        assert_eq!(log.last_hour(1000).reads, 0);
        assert_eq!(log.all.reads, 5);
    }
}
