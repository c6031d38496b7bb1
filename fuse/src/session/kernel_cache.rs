//! What the kernel is to forget because of an operation whose answer cannot say so.
//!
//! Called from within the operation, before its answer, so that the caller's next look is right. That is only
//! allowed for what the kernel drops without waiting for a lock that the operation's caller may hold: attributes, and
//! the listing of a directory (its pages are locked only while they are copied).

use std::io;
use std::sync::OnceLock;

use fuser::{INodeNo, Notifier};

/// Makes the kernel forget. Does nothing before the session is made.
#[derive(Default)]
pub(super) struct KernelCache {
    notifier: OnceLock<Notifier>,
}

impl KernelCache {
    /// The session is made.
    pub(super) fn notify_with(&self, notifier: Notifier) {
        // Once per session, so it cannot be set already.
        let _ = self.notifier.set(notifier);
    }

    /// Forget the attributes of an inode.
    pub(super) fn forget_attributes(&self, ino: u64) {
        self.tell(ino, |notifier| notifier.inval_inode(INodeNo(ino), -1, 0));
    }

    /// Forget the listing of a directory.
    pub(super) fn forget_listing(&self, ino: u64) {
        self.tell(ino, |notifier| notifier.inval_inode(INodeNo(ino), 0, 0));
    }

    fn tell(&self, ino: u64, send: impl Fn(&Notifier) -> io::Result<()>) {
        if let Some(notifier) = self.notifier.get()
            && let Err(e) = send(notifier)
        {
            tracing::debug!(ino, error = %e, "the kernel keeps what it knows for now");
        }
    }
}
