//! The bucket's half of a promotion, after the claim ([`claim_epoch`](super::claim_epoch)): seal, then read.
//!
//! The order is the protocol: claim, look for the latest snapshot, write it as the base, read back. A master
//! looks for the next claim after each manifest and before it reports it complete; the promoter lists after its
//! claim. So one of the two sees the other, and what was reported complete is in the base's past.
//!
//! All of it may be repeated after a crash, an error or a lost answer, at any distance in time: what stands in
//! the bucket decides, never what was computed.

use super::snapshots::latest_manifest;
use super::{epoch_base, epoch_claim, is_superseded};
use crate::bucket::{Body, Bucket, BucketError};
use crate::error::{Error, ErrorKind, Result};
use crate::format::epoch::{BaseSnapshot, EpochBase};
use crate::format::{self, FORMAT, Features, keys};
use crate::handle::Handle;
use crate::ids::Epoch;

/// The snapshot that an epoch starts from: the one that stands, else the latest of the lineage is written.
/// Only for the holder of the claim, after the claim. `None`: an empty file system. One GET when it stands;
/// else as [`latest_manifest`] and three more.
///
/// # Errors
/// [`ErrorKind::Conflict`] when a later epoch has published already. [`ErrorKind::Damage`] when the latest
/// manifest cannot be read: an older one is never taken instead. After any error: call again.
pub fn settle_base(bucket: &dyn Bucket, fs: &Handle, epoch: Epoch) -> Result<Option<BaseSnapshot>> {
    if let Some(standing) = epoch_base(bucket, fs, epoch)? {
        return Ok(standing.base);
    }
    let latest = latest_manifest(bucket, fs)?.map(|m| m.id());
    // Invariant: a base is of an earlier epoch. Who was paused for long may find what a later one made.
    if latest.is_none_or(|latest| latest.epoch < epoch) {
        let document = EpochBase {
            format: FORMAT,
            features: Features::default(),
            epoch,
            base: latest,
        };
        let key = keys::absolute(fs, &keys::epoch_base(epoch))?;
        match bucket.create(&key, Body::Bytes(&format::to_sealed_json(&document)?)) {
            // Another try of this promotion was faster, and may have found another latest.
            Ok(()) | Err(BucketError::AlreadyExists { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    match epoch_base(bucket, fs, epoch)? {
        Some(standing) => Ok(standing.base),
        None => Err(superseded(fs, epoch)),
    }
}

/// The last look before a promoted instance turns read-write, and the first of a master that starts: the claim
/// is the one with our nonce, and there is no later one. Two requests.
///
/// # Errors
/// [`ErrorKind::Conflict`] when another holds the epoch, or a later one is claimed. [`ErrorKind::Damage`] when
/// the claim is not there.
pub fn confirm_epoch(bucket: &dyn Bucket, fs: &Handle, epoch: Epoch, nonce: &str) -> Result<()> {
    match epoch_claim(bucket, fs, epoch)? {
        Some(claim) if claim.nonce == nonce => {}
        Some(claim) => {
            let text = format!(
                "epoch {epoch} of {fs} is held by node {} (host {})",
                claim.node, claim.host
            );
            return Err(Error::new(ErrorKind::Conflict, text)
                .hint(format!("`cbfsctl epoch list {fs}` shows who is master")));
        }
        None => {
            let text = format!("the claim of epoch {epoch} of {fs} is not in the bucket any more");
            return Err(Error::damage(text));
        }
    }
    if is_superseded(bucket, fs, epoch)? {
        return Err(superseded(fs, epoch));
    }
    Ok(())
}

fn superseded(fs: &Handle, epoch: Epoch) -> Error {
    let text = format!("epoch {epoch} of {fs} was superseded by a later one");
    Error::new(ErrorKind::Conflict, text)
        .hint(format!("`cbfsctl epoch list {fs}` shows who is master"))
}
