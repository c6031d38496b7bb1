//! `FS@SNAP` for commands that read the bucket themselves.

use crate::bucket_option::BucketOption;
use crate::commands::Context;
use crate::interrupt::{Interrupt, Unheard};
use crate::output::Outcome;
use crate::progress::Progress;
use crate::quantities;
use crate::target;
use cbfs_core::bucket::Bucket;
use cbfs_core::cloud_snapshot::{CloudSnapshot, Scratch};
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::{FsAndSnapshot, Handle, SnapshotSelector};
use cbfs_core::{Error, Result, catalog};
use std::sync::Arc;

/// A file system's bucket and which of its snapshots is meant.
pub(crate) struct Wanted {
    /// Open to read.
    pub(crate) bucket: Arc<dyn Bucket>,
    /// The file system.
    pub(crate) fs: Handle,
    /// The snapshot; latest where none was written.
    pub(crate) snapshot: SnapshotSelector,
}

impl Wanted {
    /// Find the file system of `text`. No daemon is needed when a bucket is given.
    pub(crate) fn find(text: &str, option: &BucketOption, context: &Context) -> Result<Wanted> {
        let target: FsAndSnapshot = text.parse()?;
        let located = target::locate(target.fs.as_str(), option, &context.client()?)?;
        Ok(Wanted {
            bucket: located.open_bucket()?,
            fs: located.fs,
            snapshot: target.snapshot.unwrap_or(SnapshotSelector::Latest),
        })
    }

    /// The manifest of the snapshot.
    pub(crate) fn manifest(&self) -> Result<Manifest> {
        catalog::find_snapshot(&*self.bucket, &self.fs, &self.snapshot)
    }

    /// Fetch and open the snapshot's index.
    pub(crate) fn open(&self, scratch: &Arc<Scratch>) -> Result<CloudSnapshot> {
        let manifest = self.manifest()?;
        CloudSnapshot::open(Arc::clone(&self.bucket), manifest, Arc::clone(scratch))
    }
}

/// Progress of something that reads or writes bytes, which Ctrl-C ends in order.
pub(crate) struct Work {
    interrupt: Interrupt,
    progress: Progress,
}

impl Work {
    /// Do it; Ctrl-C is caught from now on, and ends also what waits for a store.
    pub(crate) fn run<T>(
        context: &Context,
        total: u64,
        work: impl FnOnce(&mut Work) -> Result<T>,
    ) -> Outcome<T> {
        let parting = "interrupted: temporary files stay behind";
        let interrupt = Interrupt::install(parting, Unheard::End)?;
        let mut this = Work {
            interrupt: interrupt.clone(),
            progress: Progress::new(&context.output, total.max(1)),
        };
        let result = interrupt.during(|| work(&mut this));
        this.progress.finish();
        result
    }

    /// So much is done; an error when Ctrl-C was pressed.
    pub(crate) fn tell(&mut self, done: u64, total: u64, what: &str) -> Result<()> {
        if self.interrupt.check().is_err() {
            return Err(Error::failed("interrupted"));
        }
        self.progress.update(done, total, || {
            let (done, total) = (quantities::bytes(done), quantities::bytes(total));
            format!("{done} of {total}  {}", crate::output::printable(what))
        });
        Ok(())
    }
}
