//! Patience with a bucket: a decorator that tries again what failed for a passing reason.
//!
//! - Pauses grow from try to try and are drawn at random below their bound (full jitter), so that
//!   many clients of a store that comes back do not all return at once. A store that asks to wait
//!   (`Retry-After`) is obeyed.
//! - Reads are tried until a deadline: what waits for them is a program that reads a file. Writes are
//!   tried a few times: who uploads tries again for hours anyway, and tells people so.
//! - A create-only PUT whose answer was lost may have succeeded, and every further try of it would
//!   find the key taken, by ourselves. So after a failure that may hide a success the object is read
//!   back and compared: if it is ours, it was created; else somebody else was first.
//! - Who works within a [`Cancellation`] stops waiting when it is cancelled.
//! - The deadline of each single try is the bucket's own business. No try begins after the overall one.

use super::error::TryAgain;
use super::{
    Body, Bucket, BucketError, BucketResult, BucketUrl, Cancellation, Counters, Key, ObjectInfo,
};
use crate::clock::{Ids, System};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest pause a store can ask for.
const LONGEST_ASKED_FOR: Duration = Duration::from_secs(30);
/// How much of an object is compared at a time.
const COMPARED_AT_ONCE: u64 = 8 << 20;
/// From this size on it is asked whether a file arrived before it is sent again.
const LARGE: u64 = 1 << 20;

/// How patient to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Bound of the first pause; each further one has twice the bound.
    pub first_pause: Duration,
    /// Largest bound.
    pub longest_pause: Duration,
    /// No try of a read begins later than this after the first.
    pub reads: Duration,
    /// Nor one of a write.
    pub writes: Duration,
    /// Most tries of a write.
    pub write_tries: u32,
}

impl Patience {
    /// For a person who waits at a prompt.
    pub const COMMAND: Patience = Patience {
        first_pause: Duration::from_millis(200),
        longest_pause: Duration::from_secs(2),
        reads: Duration::from_secs(8),
        writes: Duration::from_secs(8),
        write_tries: 4,
    };

    /// For a daemon.
    pub const SERVICE: Patience = Patience {
        first_pause: Duration::from_millis(200),
        longest_pause: Duration::from_secs(5),
        reads: Duration::from_secs(60),
        writes: Duration::from_secs(30),
        write_tries: 4,
    };
}

/// Time and chance.
pub trait Pace: Send + Sync + std::fmt::Debug {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;

    /// Wait.
    fn sleep(&self, pause: Duration);

    /// A random number, at least 0 and below 1.
    fn random(&self) -> f64;
}

/// Those of the machine.
#[derive(Debug)]
pub struct MachinePace {
    start: Instant,
}

impl Default for MachinePace {
    fn default() -> MachinePace {
        MachinePace {
            start: Instant::now(),
        }
    }
}

impl Pace for MachinePace {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, pause: Duration) {
        match Cancellation::current() {
            Some(cancellation) => cancellation.sleep(pause),
            None => std::thread::sleep(pause),
        }
    }

    fn random(&self) -> f64 {
        (System.uuid().as_u128() >> 96) as f64 / (u64::from(u32::MAX) + 1) as f64
    }
}

/// A bucket whose passing failures are not seen.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn Bucket>,
    patience: Patience,
    pace: Arc<dyn Pace>,
    counters: Option<Arc<Counters>>,
}

/// One request and its tries.
struct Tries<'a> {
    of: &'a Retrying,
    deadline: Duration,
    most: u32,
    done: u32,
}

impl Tries<'_> {
    /// After a failure: wait, and go on; or give up with it.
    fn or_give_up(&mut self, error: BucketError) -> BucketResult<()> {
        self.done += 1;
        let TryAgain::Soon(asked_for) = error.try_again() else {
            return Err(error);
        };
        let patience = &self.of.patience;
        let bound = patience
            .first_pause
            .saturating_mul(1 << (self.done - 1).min(16));
        let drawn = bound
            .min(patience.longest_pause)
            .mul_f64(self.of.pace.random());
        let pause = asked_for
            .unwrap_or_default()
            .min(LONGEST_ASKED_FOR)
            .max(drawn);
        if self.done >= self.most || self.of.pace.now() + pause >= self.deadline {
            return Err(error);
        }
        let is_cancelled = || Cancellation::current().is_some_and(|c| c.is_cancelled());
        if is_cancelled() {
            return Err(error);
        }
        tracing::debug!(tries = self.done, "trying again in {pause:?}: {error}");
        self.of.pace.sleep(pause);
        if is_cancelled() {
            return Err(error);
        }
        if let Some(counters) = &self.of.counters {
            counters.count_retry();
        }
        Ok(())
    }
}

impl Retrying {
    /// Decorate `inner`.
    pub fn new(inner: Arc<dyn Bucket>, patience: Patience, pace: Arc<dyn Pace>) -> Retrying {
        Retrying {
            inner,
            patience,
            pace,
            counters: None,
        }
    }

    /// The same, and tries again are counted.
    #[must_use]
    pub fn counted_by(mut self, counters: Arc<Counters>) -> Retrying {
        self.counters = Some(counters);
        self
    }

    fn read<T>(&self, request: impl Fn(&dyn Bucket) -> BucketResult<T>) -> BucketResult<T> {
        let deadline = self.pace.now() + self.patience.reads;
        let mut tries = Tries {
            of: self,
            deadline,
            most: u32::MAX,
            done: 0,
        };
        loop {
            match request(&*self.inner) {
                Ok(answer) => return Ok(answer),
                Err(e) => tries.or_give_up(e)?,
            }
        }
    }

    fn write_tries(&self) -> Tries<'_> {
        let deadline = self.pace.now() + self.patience.writes;
        Tries {
            of: self,
            deadline,
            most: self.patience.write_tries,
            done: 0,
        }
    }

    /// For writes that may be done twice.
    fn write(&self, request: impl Fn(&dyn Bucket) -> BucketResult<()>) -> BucketResult<()> {
        let mut tries = self.write_tries();
        loop {
            match request(&*self.inner) {
                Ok(()) => return Ok(()),
                Err(e) => tries.or_give_up(e)?,
            }
        }
    }

    /// Create an object, and find out what became of tries whose answers were lost.
    fn create_by(
        &self,
        key: &Key,
        body: Body<'_>,
        create: impl Fn() -> BucketResult<()>,
    ) -> BucketResult<()> {
        let taken = || BucketError::AlreadyExists { key: key.clone() };
        let is_large = match body {
            Body::Bytes(_) => false,
            Body::File(path) => file_size(path)? >= LARGE,
        };
        let mut tries = self.write_tries();
        loop {
            let may_have_arrived = tries.done > 0;
            let arrived = if may_have_arrived && is_large {
                self.inner.head(key)
            } else {
                Ok(None)
            };
            let result = match arrived {
                Ok(None) => create(),
                Ok(Some(_)) => Err(taken()),
                Err(e) => Err(e),
            };
            match result {
                Err(BucketError::AlreadyExists { .. }) if may_have_arrived => {
                    return if self.is_same(key, body)? {
                        Ok(())
                    } else {
                        Err(taken())
                    };
                }
                Ok(()) => return Ok(()),
                Err(e) => tries.or_give_up(e)?,
            }
        }
    }

    /// Whether the object under `key`, which exists, is the one that was to be created.
    fn is_same(&self, key: &Key, body: Body<'_>) -> BucketResult<bool> {
        match body {
            Body::Bytes(bytes) => Ok(self.get(key)? == bytes),
            Body::File(path) => {
                let size = file_size(path)?;
                let stored = self.head(key)?.map(|info| info.size);
                Ok(stored == Some(size) && self.has_contents(key, path, size)?)
            }
        }
    }

    fn has_contents(&self, key: &Key, path: &Path, size: u64) -> BucketResult<bool> {
        let unreadable = |e| unreadable(path, e);
        let mut file = File::open(path).map_err(unreadable)?;
        let mut at = 0;
        while at < size {
            let len = COMPARED_AT_ONCE.min(size - at);
            let mut ours = vec![0; len as usize];
            file.read_exact(&mut ours).map_err(unreadable)?;
            if self.get_range(key, at, len)? != ours {
                return Ok(false);
            }
            at += len;
        }
        Ok(true)
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> BucketError {
    BucketError::Io {
        what: format!("{} could not be read", path.display()),
        source,
    }
}

fn file_size(path: &Path) -> BucketResult<u64> {
    std::fs::metadata(path)
        .map(|m| m.len())
        .map_err(|e| unreadable(path, e))
}

impl Bucket for Retrying {
    fn url(&self) -> &BucketUrl {
        self.inner.url()
    }

    fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
        self.create_by(key, body, || self.inner.create(key, body))
    }

    fn create_resumably(&self, key: &Key, path: &Path, notes: &Path) -> BucketResult<()> {
        let create = || self.inner.create_resumably(key, path, notes);
        self.create_by(key, Body::File(path), create)
    }

    fn forget_upload(&self, notes: &Path) -> BucketResult<()> {
        self.write(|b| b.forget_upload(notes))
    }

    fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
        self.write(|b| b.replace(key, body))
    }

    fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        self.read(|b| b.get(key))
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
        self.read(|b| b.get_range(key, offset, len))
    }

    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        self.read(|b| b.head(key))
    }

    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.read(|b| b.list(prefix))
    }

    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.read(|b| b.list_dir(prefix))
    }

    fn delete(&self, key: &Key) -> BucketResult<()> {
        self.write(|b| b.delete(key))
    }
}

#[cfg(test)]
mod tests;
