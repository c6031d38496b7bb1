//! Directory listings: the sinks over fuser's two replies.
//!
//! What a sink took is answered, whatever the file system says afterwards: a file system counts
//! a lookup once `push` returned true, so the kernel must get that entry. An error or a wait that
//! comes after the first entry is met again by the next request, which starts there.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fuser::{FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use parking_lot::Mutex;

use super::conversion::{file_attr, file_type, fuser_errno, nameplate, without_attributes};
use crate::{Attributes, CachePolicy, DirectoryEntry, DirectorySink, Errno};

/// Lookups the kernel is about to forget which no file system ever counted: those of entries
/// listed without attributes (see [`without_attributes`]).
#[derive(Default)]
pub(super) struct Unattributed {
    /// Inodes in the map. Lets the usual forget, with none pending, pass without the lock.
    inodes: AtomicUsize,
    pending: Mutex<HashMap<u64, u64>>,
}

impl Unattributed {
    /// Expect one more forget of `ino`; called before the reply that causes it is sent.
    fn expect(&self, ino: u64) {
        let mut pending = self.pending.lock();
        *pending.entry(ino).or_insert(0) += 1;
        self.inodes.store(pending.len(), Ordering::Release);
    }

    /// How many of `count` forgotten lookups the file system had counted.
    pub(super) fn settle(&self, ino: u64, count: u64) -> u64 {
        if self.inodes.load(Ordering::Acquire) == 0 {
            return count;
        }
        let mut pending = self.pending.lock();
        let Some(expected) = pending.get_mut(&ino) else {
            return count;
        };
        let swallowed = count.min(*expected);
        *expected -= swallowed;
        if *expected == 0 {
            pending.remove(&ino);
        }
        self.inodes.store(pending.len(), Ordering::Release);
        count - swallowed
    }
}

/// How far a listing came.
#[derive(Default)]
struct Progress {
    /// At least one entry was taken.
    begun: bool,
    /// No more entries are taken, even if a shorter one would still fit.
    over: bool,
    /// The file system named an entry that cannot be listed.
    bad_entry: bool,
}

impl Progress {
    /// Note whether an entry fitted; what `push` is to return.
    fn note(&mut self, fitted: bool) -> bool {
        self.begun |= fitted;
        self.over |= !fitted;
        fitted
    }

    /// Note an entry that cannot be listed.
    fn refuse(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        tracing::error!(
            ino = entry.ino,
            kind = entry.kind,
            "directory entry of no known kind"
        );
        self.bad_entry = true;
        self.over = true;
        false
    }

    /// The error to answer, if there is nothing to answer but it.
    fn error(&self, result: Result<(), Errno>) -> Option<Errno> {
        if self.begun {
            None
        } else if self.bad_entry {
            Some(Errno::EIO)
        } else {
            result.err()
        }
    }
}

/// A listing being made for one request.
pub(super) trait Listing: DirectorySink + Send + 'static {
    /// Whether an entry was taken, so that the listing must be answered.
    fn begun(&self) -> bool;
    /// How long the kernel may keep what it is told of each entry.
    fn set_policy(&mut self, policy: CachePolicy);
    /// Send the reply: the entries taken, else the error.
    fn answer(self, result: Result<(), Errno>);
}

/// Names only.
pub(super) struct Plain {
    reply: ReplyDirectory,
    progress: Progress,
}

impl Plain {
    pub(super) fn new(reply: ReplyDirectory) -> Plain {
        Plain {
            reply,
            progress: Progress::default(),
        }
    }
}

impl DirectorySink for Plain {
    fn push(
        &mut self,
        entry: DirectoryEntry<'_>,
        _attributes: &mut dyn FnMut() -> Option<Attributes>,
    ) -> bool {
        if self.progress.over {
            return false;
        }
        let Some(kind) = file_type(entry.kind) else {
            return self.progress.refuse(&entry);
        };
        let name = OsStr::from_bytes(entry.name);
        let full = self.reply.add(INodeNo(entry.ino), entry.cookie, kind, name);
        self.progress.note(!full)
    }
}

impl Listing for Plain {
    fn begun(&self) -> bool {
        self.progress.begun
    }

    fn set_policy(&mut self, _policy: CachePolicy) {}

    fn answer(self, result: Result<(), Errno>) {
        match self.progress.error(result) {
            None => self.reply.ok(),
            Some(errno) => self.reply.error(fuser_errno(errno)),
        }
    }
}

/// Names with attributes.
pub(super) struct Plus {
    reply: ReplyDirectoryPlus,
    progress: Progress,
    /// fuser has one duration for entry and attributes: the shorter of both.
    ttl: Duration,
    unattributed: Arc<Unattributed>,
}

impl Plus {
    pub(super) fn new(reply: ReplyDirectoryPlus, unattributed: Arc<Unattributed>) -> Plus {
        Plus {
            reply,
            progress: Progress::default(),
            ttl: Duration::ZERO,
            unattributed,
        }
    }
}

impl DirectorySink for Plus {
    fn push(
        &mut self,
        entry: DirectoryEntry<'_>,
        attributes: &mut dyn FnMut() -> Option<Attributes>,
    ) -> bool {
        if self.progress.over {
            return false;
        }
        let mut unattributed = false;
        let attr = if matches!(entry.name, b"." | b"..") {
            // The kernel links neither: their attributes are not looked at.
            Some(nameplate(entry.ino, FileType::Directory))
        } else if let Some(attributes) = attributes() {
            file_attr(&attributes)
        } else {
            unattributed = true;
            file_type(entry.kind).map(|kind| without_attributes(&entry, kind))
        };
        let Some(attr) = attr else {
            return self.progress.refuse(&entry);
        };
        let name = OsStr::from_bytes(entry.name);
        let ino = INodeNo(entry.ino);
        let full = self
            .reply
            .add(ino, entry.cookie, name, &self.ttl, &attr, Generation(0));
        if unattributed && !full {
            self.unattributed.expect(entry.ino);
        }
        self.progress.note(!full)
    }
}

impl Listing for Plus {
    fn begun(&self) -> bool {
        self.progress.begun
    }

    fn set_policy(&mut self, policy: CachePolicy) {
        self.ttl = policy.entry.min(policy.attributes);
    }

    fn answer(self, result: Result<(), Errno>) {
        match self.progress.error(result) {
            None => self.reply.ok(),
            Some(errno) => self.reply.error(fuser_errno(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uncounted_lookups_are_swallowed() {
        let unattributed = Unattributed::default();
        assert_eq!(unattributed.settle(7, 3), 3);
        unattributed.expect(7);
        unattributed.expect(7);
        assert_eq!(unattributed.settle(8, 1), 1);
        assert_eq!(unattributed.settle(7, 1), 0);
        assert_eq!(unattributed.settle(7, 3), 2);
        assert_eq!(unattributed.settle(7, 1), 1);
    }

    #[test]
    fn what_was_taken_is_answered_in_spite_of_an_error() {
        let mut progress = Progress::default();
        assert_eq!(progress.error(Err(Errno::EIO)), Some(Errno::EIO));
        assert!(progress.note(true));
        assert_eq!(progress.error(Err(Errno::EIO)), None);
    }
}
