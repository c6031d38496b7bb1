//! The bucket's half of a publication: what a master asks and writes around its manifest.
//!
//! 1. Is there a later epoch ([`is_superseded`])? Then nothing is published.
//! 2. Numbers between the parent and this snapshot, given to requests that failed or were cancelled, are closed
//!    ([`close_number`]). So manifests of one epoch form a chain without gaps, in which create-only lets each have
//!    one successor: of two copies of one state directory, the second finds a number taken, and is fenced.
//! 3. The manifest ([`create_manifest`]).
//! 4. Is there a later epoch *now*? Only if not, the snapshot may be reported complete: see
//!    [`promotion`](super::promotion).
//!
//! Each may be repeated after an error or a lost answer.

use super::{delete_mark, load_manifest};
use crate::bucket::{Bucket, BucketError, create_or_same, has_small};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, Totals, XidRange};
use crate::format::mark::SnapshotMark;
use crate::format::{self, Features, keys};
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber};
use crate::inode::Timestamp;
use crate::snapshot::SnapshotKind;

/// The attempt of a number that was closed: no attempt that makes objects has this id.
const CLOSED: &str = "closed";

/// Whether a later epoch is claimed. One GET: a claim that cannot be read supersedes as well.
pub fn is_superseded(bucket: &dyn Bucket, fs: &Handle, epoch: Epoch) -> Result<bool> {
    let key = keys::absolute(fs, &keys::epoch_claim(Epoch(epoch.0.saturating_add(1))))?;
    Ok(has_small(bucket, &key)?)
}

/// Create the manifest: the snapshot exists from here on. `None`: this one stands. Otherwise another stands
/// under its number and epoch: an earlier attempt of this request, or one of a copy of this state directory.
/// One PUT.
pub fn create_manifest(bucket: &dyn Bucket, manifest: &Manifest) -> Result<Option<Manifest>> {
    let (fs, number, epoch) = (&manifest.fs, manifest.number, manifest.epoch);
    let key = keys::absolute(fs, &keys::manifest(number, epoch))?;
    match create_or_same(bucket, &key, &format::to_sealed_json(manifest)?) {
        Ok(()) => Ok(None),
        Err(BucketError::AlreadyExists { .. }) => {
            load_manifest(bucket, fs, number, epoch).map(Some)
        }
        Err(e) => Err(e.into()),
    }
}

/// Close a number that was given up, before a later one is published on the same parent: a snapshot in
/// which nothing changed since the parent, deleted at once. `Some`: something else stands there, and the
/// caller judges whether it is its own.
///
/// `at` is for the mark, RFC 3339. Two PUTs; a crash between them leaves an unchanged snapshot to be seen.
pub fn close_number(
    bucket: &dyn Bucket,
    parent: &Manifest,
    number: SnapshotNumber,
    epoch: Epoch,
    at: &str,
) -> Result<Option<Manifest>> {
    let closed = closed(parent, number, epoch)?;
    if let Some(other) = create_manifest(bucket, &closed)?
        && !(other.attempt == CLOSED && other.parent == closed.parent)
    {
        return Ok(Some(other));
    }
    let reason = Some("the request for it failed or was cancelled".to_owned());
    let mark = SnapshotMark::new(parent.fs.clone(), closed.id(), reason, at.to_owned());
    delete_mark(bucket, &mark)?;
    Ok(None)
}

/// Whether this manifest only closes a number ([`close_number`]). It says nothing about who wrote it: any copy of a
/// state directory writes the same.
pub fn closes_a_number(manifest: &Manifest) -> bool {
    manifest.attempt == CLOSED
}

/// Of the parent alone, so that who tries again writes the same bytes.
fn closed(parent: &Manifest, number: SnapshotNumber, epoch: Epoch) -> Result<Manifest> {
    let created = Timestamp::parse_rfc3339(&parent.created_at).ok_or_else(|| {
        let at = &parent.created_at;
        Error::damage(format!("snapshot {} has no time: {at:?}", parent.number))
    })?;
    Ok(Manifest {
        format: Manifest::FORMAT,
        features: Features::default(),
        fs: parent.fs.clone(),
        number,
        epoch,
        attempt: CLOSED.to_owned(),
        name: None,
        kind: SnapshotKind::Periodic,
        xid: XidRange {
            from: parent.xid.to.next(),
            to: parent.xid.to,
        },
        parent: Some(parent.id()),
        created_at: Timestamp(created.0.saturating_add(1)).to_rfc3339(),
        node: parent.node.clone(),
        layers: parent.layers.clone(),
        toc: None,
        meta_tarball: None,
        log: None,
        status_log: None,
        status: None,
        totals: Totals {
            inodes: parent.totals.inodes,
            logical_bytes: parent.totals.logical_bytes,
            ..Totals::default()
        },
        writer: crate::format::manifest::writer(),
    })
}
