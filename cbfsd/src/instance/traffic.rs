//! What passes through the mount: counted where the kernel's requests arrive. What the kernel answers from its
//! page cache is not seen here.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the instance was opened.
#[derive(Debug, Default)]
pub struct MountTraffic {
    read: AtomicU64,
    written: AtomicU64,
}

impl MountTraffic {
    pub(super) fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes read by programs and not found in the kernel's cache.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes written by programs.
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
