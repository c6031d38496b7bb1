//! Several fetches at a time: a store answers each only after a while.

use cbfs_core::error::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Do `fetch` for each of the items on so many threads, of which the caller's is one. After an error no other is begun; on
/// return none is under way.
///
/// # Errors
/// One of those that `fetch` told; [`cbfs_core::ErrorKind::Failed`] when it panicked.
pub(super) fn on_threads<T: Sync>(
    threads: usize,
    items: &[T],
    fetch: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(e) = fetch(item) {
                next.store(items.len(), Ordering::Relaxed);
                return Err(e);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(items.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut outcome = work();
        for other in others {
            let ended = other
                .join()
                .unwrap_or_else(|_| Err(Error::failed("a thread that fetched panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn each_item_is_fetched_once_and_several_at_a_time() {
        let items: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        // Each of the first three waits for the others.
        let (together, begun) = (Barrier::new(3), AtomicUsize::new(0));
        on_threads(3, &items, |item| {
            if begun.fetch_add(1, Ordering::SeqCst) < 3 {
                together.wait();
            }
            item.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        assert!(items.iter().all(|item| item.load(Ordering::SeqCst) == 1));
        on_threads(3, &[(); 0], |()| {
            Err(Error::failed("nothing is to be done"))
        })
        .unwrap();
    }

    #[test]
    fn after_an_error_nothing_more_is_begun() {
        let begun = AtomicUsize::new(0);
        let failed = on_threads(1, &[0; 100], |_| {
            begun.fetch_add(1, Ordering::SeqCst);
            Err(Error::failed("no"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }
}
