//! A bound on the bytes that are sent per second. All clients of one bucket in this process share it.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// So much may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(250);

/// Lets bytes through at a rate, in the order they come.
#[derive(Debug)]
pub(super) struct Limiter {
    rate: u64,
    /// When everything that was let through will have been paid for.
    paid: Mutex<Instant>,
}

/// By bucket and rate.
type Registry = BTreeMap<(String, u64), Weak<Limiter>>;

static ALL: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

impl Limiter {
    /// The one of a bucket.
    pub(super) fn shared(bucket: &str, rate: u64) -> Arc<Limiter> {
        let mut all = ALL.lock();
        all.retain(|_, limiter| limiter.strong_count() > 0);
        let key = (bucket.to_owned(), rate);
        if let Some(limiter) = all.get(&key).and_then(Weak::upgrade) {
            return limiter;
        }
        let limiter = Arc::new(Limiter::new(rate));
        all.insert(key, Arc::downgrade(&limiter));
        limiter
    }

    fn new(rate: u64) -> Limiter {
        Limiter {
            rate: rate.max(1),
            paid: Mutex::new(Instant::now()),
        }
    }

    /// How many bytes to take at a time, so that several takers get on evenly.
    pub(super) fn portion(&self) -> u64 {
        (self.rate / 8).clamp(8 << 10, 512 << 10)
    }

    /// Wait until so many bytes may go.
    pub(super) async fn take(&self, bytes: u64) {
        let now = Instant::now();
        let until = self.reserve(bytes, now);
        if until > now {
            sleep_until(until).await;
        }
    }

    /// When bytes that are asked for now may go.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut paid = self.paid.lock();
        let from = (*paid).max(now.checked_sub(BURST).unwrap_or(now));
        *paid = from + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_at_the_rate_however_many_take() {
        let limiter = Limiter::new(1000);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let last = (0..40).map(|_| limiter.reserve(100, at(0))).max().unwrap();
        // A quarter of a second may be at the start, where nothing was sent before.
        assert!(last >= at(3750) && last <= at(4001), "{:?}", last - start);
        // After a pause of any length as much as that quarter goes at once, and no more.
        assert!(limiter.reserve(250, at(60_000)) <= at(60_000));
        assert_eq!(limiter.reserve(100, at(60_000)), at(60_100));
    }

    #[test]
    fn clients_of_one_bucket_share_it() {
        let one = Limiter::shared("limiter-test", 7);
        assert!(Arc::ptr_eq(&one, &Limiter::shared("limiter-test", 7)));
        assert!(!Arc::ptr_eq(&one, &Limiter::shared("limiter-test", 8)));
        assert!(!Arc::ptr_eq(&one, &Limiter::shared("another", 7)));
    }
}
