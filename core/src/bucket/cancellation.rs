//! Ending what waits for a bucket: a daemon that stops, or a snapshot that is withdrawn, must not wait until a
//! store answers or the last try is over; nor somebody who pressed Ctrl-C.
//!
//! A thread that works for somebody does so within the somebody's [`Cancellation::scope`]. When it is cancelled
//! the request at hand is abandoned, and nothing is tried again: the thread gets an error of kind
//! `Interrupted`. An abandoned request may have been carried out, as one whose answer is lost.
//!
//! The scope belongs to the thread, so that it need not be handed through every function that asks a bucket.

use super::BucketError;
use parking_lot::{Condvar, Mutex};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

thread_local! {
    static CURRENT: RefCell<Vec<Cancellation>> = const { RefCell::new(Vec::new()) };
}

/// Tells threads to stop waiting. Clones are the same.
#[derive(Debug, Clone)]
pub struct Cancellation(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cancelled: Mutex<bool>,
    changed: Condvar,
    /// The same for tasks.
    told: watch::Sender<bool>,
}

impl Default for Cancellation {
    fn default() -> Cancellation {
        Cancellation(Arc::new(Shared {
            cancelled: Mutex::new(false),
            changed: Condvar::new(),
            told: watch::channel(false).0,
        }))
    }
}

/// Takes the innermost scope away again, also after a panic.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|scopes| drop(scopes.pop()));
    }
}

impl Cancellation {
    /// Cancel, for good.
    pub fn cancel(&self) {
        *self.0.cancelled.lock() = true;
        self.0.changed.notify_all();
        self.0.told.send_replace(true);
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        *self.0.cancelled.lock()
    }

    /// Do work of this thread that ends its waiting when this is cancelled. Within another scope the inner one
    /// counts.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.with_borrow_mut(|scopes| scopes.push(self.clone()));
        let _leave = Leave;
        work()
    }

    /// That of the scope this thread is in.
    pub fn current() -> Option<Cancellation> {
        CURRENT.with_borrow(|scopes| scopes.last().cloned())
    }

    /// Sleep, until it is cancelled.
    pub fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut cancelled = self.0.cancelled.lock();
        while !*cancelled && !self.0.changed.wait_until(&mut cancelled, until).timed_out() {}
    }

    /// Ends when it is cancelled.
    pub async fn cancelled(&self) {
        let mut told = self.0.told.subscribe();
        // Our own sender lives as long as we do.
        let _ = told.wait_for(|cancelled| *cancelled).await;
    }
}

/// The error of an abandoned request.
pub(super) fn abandoned() -> BucketError {
    BucketError::Io {
        what: "the bucket was not waited for".to_owned(),
        source: io::Error::new(io::ErrorKind::Interrupted, "the work was cancelled"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sleeps_in_a_scope_is_woken() {
        let cancellation = Cancellation::default();
        let sleeper = cancellation.clone();
        let thread = std::thread::spawn(move || {
            sleeper.scope(|| {
                let current = Cancellation::current().unwrap();
                current.sleep(Duration::from_secs(3600));
                current.is_cancelled()
            })
        });
        cancellation.cancel();
        assert!(thread.join().unwrap());
        assert!(Cancellation::current().is_none());
    }

    #[test]
    fn the_inner_scope_counts_and_ends() {
        let (outer, inner) = (Cancellation::default(), Cancellation::default());
        let is_cancelled = || Cancellation::current().map(|c| c.is_cancelled());
        inner.cancel();
        outer.scope(|| {
            assert_eq!(is_cancelled(), Some(false));
            inner.scope(|| assert_eq!(is_cancelled(), Some(true)));
            assert_eq!(is_cancelled(), Some(false));
        });
        assert_eq!(is_cancelled(), None);
    }
}
