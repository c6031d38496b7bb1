//! The threads on which operations wait for the bucket.
//!
//! Threads are made when a job finds none idle, up to a limit; beyond it jobs queue, without
//! bound: each belongs to a request the kernel holds, and the kernel bounds those. Jobs start in
//! the order they came. Nothing here survives a crash, and nothing needs to: a job not done is a
//! request not answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// A pool of worker threads.
pub(super) struct Workers {
    shared: Arc<Shared>,
    limit: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job.
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    /// No more jobs: the threads are to end.
    closed: bool,
}

impl Workers {
    /// A pool of at most `limit` (at least one) threads; none is started yet.
    pub(super) fn new(limit: usize) -> Workers {
        Workers {
            shared: Arc::default(),
            limit: limit.max(1),
        }
    }

    /// Run `job` on a worker. It must not panic. A job that cannot be run, because the pool is
    /// shut down or no thread can be started, is dropped; dropping it must answer its request.
    pub(super) fn submit(&self, job: Job) {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            drop(queue);
            drop(job);
            return;
        }
        queue.jobs.push_back(job);
        let mut refused = None;
        if queue.jobs.len() > queue.idle && queue.threads.len() < self.limit {
            let shared = Arc::clone(&self.shared);
            let name = format!("cbfs-wait-{}", queue.threads.len());
            match thread::Builder::new()
                .name(name)
                .spawn(move || shared.work())
            {
                Ok(handle) => queue.threads.push(handle),
                Err(e) if queue.threads.is_empty() => {
                    tracing::error!(error = %e, "no thread to wait for the bucket: answering EIO");
                    refused = queue.jobs.pop_back();
                }
                Err(e) => tracing::warn!(error = %e, "no further thread to wait for the bucket"),
            }
        }
        drop(queue);
        self.shared.wake.notify_one();
        drop(refused);
    }

    /// End the pool: queued jobs are dropped, running ones are waited for. Not to be called from
    /// a worker.
    pub(super) fn shut_down(&self) {
        let (jobs, threads) = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            (
                std::mem::take(&mut queue.jobs),
                std::mem::take(&mut queue.threads),
            )
        };
        self.shared.wake.notify_all();
        drop(jobs);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread of the FUSE session panicked");
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            self.wake.wait(&mut queue);
            queue.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_wait_beside_each_other_up_to_the_limit() {
        let workers = Workers::new(4);
        let barrier = Arc::new(Barrier::new(5));
        for _ in 0..4 {
            let barrier = Arc::clone(&barrier);
            workers.submit(Box::new(move || {
                barrier.wait();
            }));
        }
        barrier.wait(); // only passes when all four run at once
        workers.shut_down();
    }

    #[test]
    fn jobs_beyond_the_limit_queue_and_all_run() {
        let workers = Workers::new(2);
        let (sender, receiver) = mpsc::channel();
        for i in 0..100 {
            let sender = sender.clone();
            workers.submit(Box::new(move || sender.send(i).unwrap()));
        }
        drop(sender);
        let mut all: Vec<i32> = receiver.iter().collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert!(workers.shared.queue.lock().threads.len() <= 2);
        workers.shut_down();
    }

    #[test]
    fn a_job_after_the_end_is_dropped() {
        struct Dropped(Arc<AtomicUsize>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let workers = Workers::new(1);
        workers.shut_down();
        let count = Arc::new(AtomicUsize::new(0));
        let dropped = Dropped(Arc::clone(&count));
        workers.submit(Box::new(move || {
            let _ = &dropped;
            unreachable!();
        }));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
