use super::*;
use crate::bucket::FileBucket;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;

/// Time that passes only by sleeping.
#[derive(Debug, Default)]
struct TestPace {
    now: Mutex<Duration>,
    pauses: Mutex<Vec<Duration>>,
    random: f64,
}

impl Pace for TestPace {
    fn now(&self) -> Duration {
        *self.now.lock()
    }

    fn sleep(&self, pause: Duration) {
        *self.now.lock() += pause;
        self.pauses.lock().push(pause);
    }

    fn random(&self) -> f64 {
        self.random
    }
}

/// What happens to a request instead of, or besides, being carried out.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// It never arrives.
    Lost,
    /// It is carried out, but its answer is lost.
    AnswerLost,
    /// The store asks to wait.
    Busy(u64),
    /// The store refuses.
    Denied,
    /// There is no such bucket.
    NoBucket,
}

/// A bucket in a directory, on a bad line.
#[derive(Debug)]
struct Faulty {
    inner: FileBucket,
    faults: Mutex<VecDeque<Fault>>,
    asked: Mutex<Vec<&'static str>>,
}

impl Faulty {
    fn pass<T>(
        &self,
        name: &'static str,
        request: impl FnOnce() -> BucketResult<T>,
    ) -> BucketResult<T> {
        self.asked.lock().push(name);
        let what = || "test".to_owned();
        let lost = || {
            let source = io::Error::from(io::ErrorKind::ConnectionReset);
            BucketError::Io {
                what: what(),
                source,
            }
        };
        match self.faults.lock().pop_front() {
            None => request(),
            Some(Fault::Lost) => Err(lost()),
            Some(Fault::AnswerLost) => {
                request()?;
                Err(lost())
            }
            Some(Fault::Busy(seconds)) => {
                let retry_after = Some(Duration::from_secs(seconds));
                Err(BucketError::Busy {
                    what: what(),
                    retry_after,
                })
            }
            Some(Fault::Denied) => Err(BucketError::Denied {
                what: what(),
                source: None,
            }),
            Some(Fault::NoBucket) => {
                let source = Some(io::Error::from(io::ErrorKind::NotFound));
                Err(BucketError::Unreachable {
                    what: what(),
                    source,
                })
            }
        }
    }
}

impl Bucket for Faulty {
    fn url(&self) -> &BucketUrl {
        self.inner.url()
    }
    fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
        self.pass("create", || self.inner.create(key, body))
    }
    fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
        self.pass("replace", || self.inner.replace(key, body))
    }
    fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        self.pass("get", || self.inner.get(key))
    }
    fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
        self.pass("range", || self.inner.get_range(key, offset, len))
    }
    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        self.pass("head", || self.inner.head(key))
    }
    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.pass("list", || self.inner.list(prefix))
    }
    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.pass("list", || self.inner.list_dir(prefix))
    }
    fn delete(&self, key: &Key) -> BucketResult<()> {
        self.pass("delete", || self.inner.delete(key))
    }
}

struct Line {
    _dir: tempfile::TempDir,
    faulty: Arc<Faulty>,
    pace: Arc<TestPace>,
    bucket: Retrying,
}

/// A bucket with `faults` ahead; chance always draws `random`.
fn line(faults: &[Fault], random: f64) -> Line {
    let dir = tempfile::tempdir().unwrap();
    let faulty = Arc::new(Faulty {
        inner: FileBucket::open(dir.path(), false).unwrap(),
        faults: Mutex::new(faults.iter().copied().collect()),
        asked: Mutex::default(),
    });
    let pace = Arc::new(TestPace {
        random,
        ..TestPace::default()
    });
    let (inner, clock): (Arc<dyn Bucket>, Arc<dyn Pace>) = (faulty.clone(), pace.clone());
    let bucket = Retrying::new(inner, Patience::SERVICE, clock);
    Line {
        _dir: dir,
        faulty,
        pace,
        bucket,
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn asked(line: &Line) -> Vec<&'static str> {
    line.faulty.asked.lock().clone()
}

#[test]
fn a_read_gets_over_passing_failures_with_growing_random_pauses() {
    let line = line(&[Fault::Lost; 4], 0.5);
    line.faulty
        .inner
        .create(&key("a"), Body::Bytes(b"x"))
        .unwrap();
    assert_eq!(line.bucket.get(&key("a")).unwrap(), b"x");
    let pauses: Vec<u128> = line
        .pace
        .pauses
        .lock()
        .iter()
        .map(Duration::as_millis)
        .collect();
    assert_eq!(
        pauses,
        [100, 200, 400, 800],
        "half of 200, 400, 800, 1600 ms"
    );
}

#[test]
fn a_read_gives_up_at_its_deadline_with_the_last_reason() {
    let line = line(&[Fault::Lost; 1000], 0.9);
    let error = line.bucket.get(&key("a")).unwrap_err();
    assert!(matches!(error, BucketError::Io { .. }), "{error:?}");
    let waited = *line.pace.now.lock();
    let patience = Patience::SERVICE;
    assert!(waited < patience.reads && waited + patience.longest_pause >= patience.reads);
}

#[test]
fn a_store_that_asks_to_wait_is_obeyed_within_limits() {
    let line = line(&[Fault::Busy(7), Fault::Busy(3600)], 0.0);
    line.bucket.list("").unwrap();
    let pauses = line.pace.pauses.lock().clone();
    assert_eq!(pauses, [Duration::from_secs(7), LONGEST_ASKED_FOR]);
}

#[test]
fn what_will_not_pass_is_told_at_once() {
    for fault in [Fault::Denied, Fault::NoBucket] {
        let line = line(&[fault], 0.5);
        line.bucket.get(&key("a")).unwrap_err();
        line.bucket.get(&key("a")).unwrap_err(); // now it is merely not found
        assert_eq!(asked(&line), ["get", "get"]);
        assert!(line.pace.pauses.lock().is_empty());
    }
}

#[test]
fn a_write_is_tried_a_few_times() {
    let line = line(&[Fault::Lost; 1000], 0.1);
    line.bucket
        .create(&key("a"), Body::Bytes(b"x"))
        .unwrap_err();
    assert_eq!(asked(&line), ["create"; 4]);
    line.bucket.delete(&key("a")).unwrap_err();
    assert_eq!(asked(&line).len(), 8);
}

#[test]
fn a_creation_whose_answer_was_lost_is_recognized_as_ours() {
    let line = line(&[Fault::AnswerLost], 0.5);
    line.bucket.create(&key("a"), Body::Bytes(b"ours")).unwrap();
    assert_eq!(asked(&line), ["create", "create", "get"]);
    assert_eq!(line.faulty.inner.get(&key("a")).unwrap(), b"ours");
}

#[test]
fn a_creation_that_somebody_else_won_while_ours_was_lost_is_not_taken_for_ours() {
    let line = line(&[Fault::Lost], 0.5);
    line.faulty
        .inner
        .create(&key("a"), Body::Bytes(b"theirs"))
        .unwrap();
    let error = line
        .bucket
        .create(&key("a"), Body::Bytes(b"ours"))
        .unwrap_err();
    assert!(
        matches!(error, BucketError::AlreadyExists { .. }),
        "{error:?}"
    );
    assert_eq!(line.faulty.inner.get(&key("a")).unwrap(), b"theirs");
}

#[test]
fn a_key_that_was_taken_before_any_failure_is_taken() {
    let line = line(&[], 0.5);
    line.faulty
        .inner
        .create(&key("a"), Body::Bytes(b"same"))
        .unwrap();
    let error = line
        .bucket
        .create(&key("a"), Body::Bytes(b"same"))
        .unwrap_err();
    assert!(
        matches!(error, BucketError::AlreadyExists { .. }),
        "even with the same bytes"
    );
    assert_eq!(asked(&line), ["create"]);
}

#[test]
fn a_large_file_is_looked_for_before_it_is_sent_again() {
    let source = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..2_500_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(source.path(), &bytes).unwrap();
    let first = line(&[Fault::AnswerLost], 0.5);
    first
        .bucket
        .create(&key("a"), Body::File(source.path()))
        .unwrap();
    assert_eq!(asked(&first), ["create", "head", "head", "range"]);

    let second = line(&[Fault::Lost, Fault::Lost], 0.5);
    second
        .bucket
        .create(&key("a"), Body::File(source.path()))
        .unwrap();
    assert_eq!(asked(&second), ["create", "head", "head", "create"]);
    assert_eq!(second.faulty.inner.get(&key("a")).unwrap(), bytes);

    let third = line(&[Fault::Lost], 0.5);
    let mut other = bytes;
    other[2_000_000] ^= 1;
    third
        .faulty
        .inner
        .create(&key("a"), Body::Bytes(&other))
        .unwrap();
    let error = third
        .bucket
        .create(&key("a"), Body::File(source.path()))
        .unwrap_err();
    assert!(
        matches!(error, BucketError::AlreadyExists { .. }),
        "one bit differs: {error:?}"
    );
}
