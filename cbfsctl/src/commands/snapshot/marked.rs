//! The complete snapshot that a mark is to be put on, in its bucket: no daemon is needed.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::printable;
use crate::target;
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog;
use cbfs_core::clock::{Clock, System};
use cbfs_core::format::manifest::Manifest;
use cbfs_core::format::mark::SnapshotMark;
use cbfs_core::handle::{FsAndSnapshot, Handle, SnapshotSelector};
use cbfs_core::{Error, ErrorKind, Result};
use std::sync::Arc;

/// A snapshot and its bucket, open to be written.
pub(super) struct Marked {
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) manifest: Manifest,
}

impl Marked {
    /// The snapshot that `text` (`FS@SNAP`) means.
    /// With `dry_run` the bucket is opened to be read only.
    pub(super) fn find(
        text: &str,
        option: &BucketOption,
        dry_run: bool,
        context: &mut Context,
    ) -> Result<Marked> {
        Marked::choose(text, option, dry_run, context, catalog::find_snapshot)
    }

    /// The same for who releases it: also one that is deleted or diverged, while it is held.
    pub(super) fn find_held(
        text: &str,
        option: &BucketOption,
        dry_run: bool,
        context: &mut Context,
    ) -> Result<Marked> {
        let find = |bucket: &dyn Bucket, fs: &Handle, wanted: &SnapshotSelector| {
            let id = catalog::find_held(bucket, fs, wanted)?;
            catalog::load_manifest(bucket, fs, id.number, id.epoch)
        };
        Marked::choose(text, option, dry_run, context, find)
    }

    fn choose(
        text: &str,
        option: &BucketOption,
        dry_run: bool,
        context: &mut Context,
        find: impl Fn(&dyn Bucket, &Handle, &SnapshotSelector) -> Result<Manifest>,
    ) -> Result<Marked> {
        let target: FsAndSnapshot = text.parse()?;
        let wanted = target.snapshot.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "which snapshot?")
                .hint("give its number or name: FS@12 or FS@NAME")
        })?;
        let located = target::locate(target.fs.as_str(), option, &context.client()?)?;
        let bucket = located.open_bucket_to_write(dry_run)?;
        catalog::refuse_deleted(&*bucket, &located.fs)?;
        let manifest = find(&*bucket, &located.fs, &wanted)?;
        Ok(Marked { bucket, manifest })
    }

    /// A mark for it, made now.
    pub(super) fn mark(&self, reason: Option<String>) -> SnapshotMark {
        let at = System.now().to_rfc3339();
        SnapshotMark::new(self.manifest.fs.clone(), self.manifest.id(), reason, at)
    }

    /// Number, name and file system, for people.
    pub(super) fn describe(&self) -> String {
        let m = &self.manifest;
        match &m.name {
            Some(name) => format!("snapshot {} ({}) of {}", m.number, printable(name), m.fs),
            None => format!("snapshot {} of {}", m.number, m.fs),
        }
    }
}
