//! Threads that compress sections.

use crate::error::{Context, Error, Result};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::{self, JoinHandle};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// zstd's level of everything that is persisted. In sections there is little to look back into: on two
/// trees of source text in sections of 256 KiB level 3 took 14 and 34 % longer than level 2 for 1 % of the bytes; in
/// sections of 1 MiB, which large files have, 18 % longer for 5 %.
pub const DEFAULT_LEVEL: i32 = 2;

/// More threads than this are not started: with sections of up to 1 MiB in flight each of them
/// costs about 8 MiB, and the daemon has 300 MiB in all.
const MAX_THREADS: usize = 8;

/// A compressed section.
pub(super) struct Compressed {
    /// The frame.
    pub(super) frame: Vec<u8>,
    /// BLAKE3 of the frame.
    pub(super) blake3: blake3::Hash,
    /// Length of the raw section.
    pub(super) raw_length: u64,
    /// The buffer the raw section came in, for reuse.
    pub(super) buffer: Vec<u8>,
}

struct Job {
    raw: Vec<u8>,
    reply: Sender<Result<Compressed>>,
}

/// A result that is being made.
pub(super) struct Pending(Receiver<Result<Compressed>>);

impl Pending {
    /// Wait for it.
    pub(super) fn wait(self) -> Result<Compressed> {
        self.0
            .recv()
            .context(|| "a compression thread ended before its work".into())?
    }
}

/// Threads that compress sections, each frame with content size and checksum. Shared by all
/// tarballs of one snapshot; dropping it joins the threads.
pub struct CompressionPool {
    jobs: Option<SyncSender<Job>>,
    workers: Vec<JoinHandle<()>>,
    in_flight: usize,
}

impl CompressionPool {
    /// Start `threads` threads (at least 1, at most 8); `None` for as many as the machine can run.
    ///
    /// # Errors
    /// When a thread cannot be started, or zstd refuses the level.
    pub fn new(threads: Option<usize>, level: i32) -> Result<CompressionPool> {
        let available = || thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or_else(available).clamp(1, MAX_THREADS);
        let in_flight = 2 * threads + 2;
        let (jobs, queue) = mpsc::sync_channel::<Job>(in_flight);
        let queue = Arc::new(Mutex::new(queue));
        let mut workers = Vec::with_capacity(threads);
        for number in 0..threads {
            let mut compressor =
                Compressor::new(level).context(|| format!("zstd refuses level {level}"))?;
            compressor
                .set_parameter(CParameter::ChecksumFlag(true))
                .context(|| "zstd refuses checksums".into())?;
            let queue = Arc::clone(&queue);
            let worker = thread::Builder::new()
                .name(format!("cbfs-zstd-{number}"))
                .spawn(move || run(&queue, compressor))
                .context(|| "a compression thread could not be started".into())?;
            workers.push(worker);
        }
        Ok(CompressionPool {
            jobs: Some(jobs),
            workers,
            in_flight,
        })
    }

    /// How many sections a writer should have in flight: twice the threads, and two.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Hand a section over. Blocks only when the queue is full.
    pub(super) fn submit(&self, raw: Vec<u8>) -> Result<Pending> {
        let (reply, result) = mpsc::channel();
        let jobs = self
            .jobs
            .as_ref()
            .ok_or_else(|| Error::failed("compression has ended"))?;
        jobs.send(Job { raw, reply })
            .map_err(|_| Error::failed("all compression threads have ended"))?;
        Ok(Pending(result))
    }
}

impl Drop for CompressionPool {
    fn drop(&mut self) {
        self.jobs = None; // the workers see the queue's end
        for worker in self.workers.drain(..) {
            // A panicked worker dropped its reply: whoever waited for it has the error already.
            let _ = worker.join();
        }
    }
}

fn run(queue: &Mutex<Receiver<Job>>, mut compressor: Compressor<'static>) {
    loop {
        let job = queue.lock().recv();
        let Ok(Job { raw, reply }) = job else { return };
        let result = compressor
            .compress(&raw)
            .context(|| format!("zstd could not compress {} bytes", raw.len()))
            .map(|frame| Compressed {
                blake3: blake3::hash(&frame),
                raw_length: raw.len() as u64,
                frame,
                buffer: raw,
            });
        // The writer may have given up meanwhile; then nobody wants the frame.
        let _ = reply.send(result);
    }
}
