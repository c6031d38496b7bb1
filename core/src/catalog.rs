//! Operations on a bucket that need no daemon: file systems, epochs and snapshots as its objects
//! tell them.
//!
//! What is read is judged before it is believed: format and features ([`crate::format::parse`]),
//! and whether the document is the one its key promises (a copied or restored object under a wrong
//! name must not count). Names are derivable, so most of this lists nothing; the cost of each call
//! stands with it.

mod deletion;
mod lineage;
mod marks;
mod nodes;
mod promotion;
mod publication;
mod settings;
mod snapshots;
mod store_check;

pub use store_check::refuse_careless_store;
#[cfg(test)]
mod tests;

pub use deletion::{
    Deletion, NextDeletion, delete_fs, deletion, end_deletion, find_deleted_fs, fs_may_be_deleted,
    fs_may_be_undeleted, refuse_deleted, undelete_fs,
};
pub use lineage::{Lineage, lineage};
pub use marks::{
    Hold, delete_snapshot, deleted_snapshots, find_held, hold_snapshot, holds, is_deleted,
    may_be_deleted, read_hold, release_snapshot, standing_holds,
};
pub use nodes::{clock_ahead, node_sign, node_signs, write_node_sign};
pub use promotion::{confirm_epoch, settle_base};
pub use publication::{close_number, closes_a_number, create_manifest, is_superseded};
pub use settings::{change_settings, newer_settings, settings, settings_version};
pub use snapshots::{
    HistoricSnapshot, ListedManifest, all_manifests, find_snapshot, find_snapshot_id, history,
    last_of_epoch, latest_manifest, latest_settled, load_manifest, manifests, published_ids,
    snapshot_ids,
};

use marks::delete_mark;

use crate::bucket::{Body, Bucket, BucketError, Key};
use crate::clock::{Clock, Ids};
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::FsConfig;
use crate::format::epoch::{EpochBase, EpochClaim};
use crate::format::{self, ObjectRef, keys};
use crate::handle::{FsSelector, Handle};
use crate::ids::Epoch;
use serde::de::DeserializeOwned;

/// Create a file system: write its config, which is all it consists of at first. One PUT; a crash
/// leaves it created or not.
///
/// # Errors
/// [`ErrorKind::Usage`] for a bad tag; those of the bucket. After an error of the network the
/// config may exist nevertheless; it is then an empty file system under the same tag.
pub fn create_fs(
    bucket: &dyn Bucket,
    tag: &str,
    clock: &dyn Clock,
    ids: &dyn Ids,
) -> Result<FsConfig> {
    let fs = Handle::new(tag, ids.uuid())?;
    let config = FsConfig::new(fs, clock.now().to_rfc3339());
    let bytes = format::to_sealed_json(&config)?;
    bucket.create(&keys::config(&config.fs)?, Body::Bytes(&bytes))?;
    Ok(config)
}

/// All file systems of the bucket, sorted. One listing of the top level.
pub fn list_fs(bucket: &dyn Bucket) -> Result<Vec<Handle>> {
    let objects = bucket.list_dir("")?;
    let mut found: Vec<Handle> = objects
        .iter()
        .filter_map(|object| object.key.as_str().strip_suffix(".config")?.parse().ok())
        .collect();
    found.sort();
    Ok(found)
}

/// The file system that `text` (full handle, TAG or UUID prefix) means. A full handle costs one
/// HEAD, anything else one listing of the top level. Where several match, those that are deleted do not count
/// (a GET for each of them), so that a tag may be used again; one that matches alone is found, deleted or not:
/// who must not go on with it asks [`refuse_deleted`].
///
/// # Errors
/// As [`FsSelector::select`], and those of the bucket.
pub fn find_fs(bucket: &dyn Bucket, text: &str) -> Result<Handle> {
    let selector: FsSelector = text.parse()?;
    if let Some(fs) = selector.handle()
        && bucket.head(&keys::config(&fs)?)?.is_some()
    {
        return Ok(fs);
    }
    deletion::select(bucket, &selector, false)
}

/// The config of a file system. One GET.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::FormatTooNew`], [`ErrorKind::Damage`], those of the bucket.
pub fn load_config(bucket: &dyn Bucket, fs: &Handle) -> Result<FsConfig> {
    let key = keys::config(fs)?;
    let config: FsConfig = get_document(bucket, &key)?.ok_or_else(|| {
        let text = format!("there is no file system {fs} in {}", bucket.url());
        Error::new(ErrorKind::NotFound, text).hint("`cbfsctl fs list` shows what there is")
    })?;
    promised(&key, config.fs == *fs, || {
        format!("the file system {}", config.fs)
    })?;
    if !config.block_size.is_power_of_two() {
        let size = config.block_size;
        return Err(Error::damage(format!(
            "{key} has a block size of {size}: no power of two"
        )));
    }
    Ok(config)
}

/// The claim of one epoch; `None` when nobody holds it. One GET.
pub fn epoch_claim(bucket: &dyn Bucket, fs: &Handle, epoch: Epoch) -> Result<Option<EpochClaim>> {
    let key = keys::absolute(fs, &keys::epoch_claim(epoch))?;
    let Some(claim) = get_document::<EpochClaim>(bucket, &key)? else {
        return Ok(None);
    };
    let is_it = claim.fs == *fs && claim.epoch == epoch;
    promised(&key, is_it, || {
        format!("epoch {} of {}", claim.epoch, claim.fs)
    })?;
    Ok(Some(claim))
}

/// All claims, from epoch 1 on. Epochs have no gaps ([`claim_epoch`] sees to that), so the first
/// that is missing ends the list: one GET per epoch and one more, no listing.
pub fn epochs(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<EpochClaim>> {
    let mut claims = Vec::new();
    for number in 1..=u16::MAX {
        match epoch_claim(bucket, fs, Epoch(number))? {
            Some(claim) => claims.push(claim),
            None => break,
        }
    }
    Ok(claims)
}

/// The latest claim: who is master. `None` before the first. Costs as much as [`epochs`]; a master
/// that watches its own epoch asks for [`epoch_claim`] of the next one instead.
pub fn current_epoch(bucket: &dyn Bucket, fs: &Handle) -> Result<Option<EpochClaim>> {
    Ok(epochs(bucket, fs)?.pop())
}

/// From which snapshot an epoch starts; `None` when that is not written (yet). One GET.
pub fn epoch_base(bucket: &dyn Bucket, fs: &Handle, epoch: Epoch) -> Result<Option<EpochBase>> {
    let key = keys::absolute(fs, &keys::epoch_base(epoch))?;
    let Some(base) = get_document::<EpochBase>(bucket, &key)? else {
        return Ok(None);
    };
    promised(&key, base.epoch == epoch, || {
        format!("the base of epoch {}", base.epoch)
    })?;
    // Without this the lineage could run in a circle.
    if let Some(snapshot) = base.base
        && snapshot.epoch >= epoch
    {
        return Err(Error::damage(format!(
            "{key} is damaged: epoch {epoch} cannot start from a snapshot of epoch {}",
            snapshot.epoch
        )));
    }
    Ok(Some(base))
}

/// Become master: create the claim. At most one caller ever succeeds for an epoch; the same claim
/// (by its nonce) may be tried again after a crash or a lost answer. Two or three requests. The word of
/// a person that he prevents a split brain goes over from the claim before.
///
/// To be called on a store that [`refuse_careless_store`] has let pass.
///
/// # Errors
/// [`ErrorKind::Conflict`] when another holds the epoch (named with node and host), or nobody holds
/// the one before. After any other error the claim may exist: call again with the same nonce.
pub fn claim_epoch(bucket: &dyn Bucket, fs: &Handle, claim: &EpochClaim) -> Result<()> {
    if claim.fs != *fs || claim.epoch.0 == 0 {
        let text = format!(
            "a claim of epoch {} of {} is none for {fs}",
            claim.epoch, claim.fs
        );
        return Err(Error::failed(text));
    }
    let previous = previous_claim(bucket, fs, claim.epoch)?;
    let by_hand = claim.split_brain_prevented_by_hand
        || previous.is_some_and(|p| p.split_brain_prevented_by_hand);
    let claim = &claim.clone().prevented_by_hand(by_hand);
    let key = keys::absolute(fs, &keys::epoch_claim(claim.epoch))?;
    match bucket.create(&key, Body::Bytes(&format::to_sealed_json(claim)?)) {
        Ok(()) => Ok(()),
        Err(BucketError::AlreadyExists { .. }) => match epoch_claim(bucket, fs, claim.epoch)? {
            Some(held) if held.nonce == claim.nonce => Ok(()),
            Some(held) => {
                let text = format!(
                    "epoch {} of {fs} is held by node {} (host {}) since {}",
                    held.epoch, held.node, held.host, held.claimed_at
                );
                Err(Error::new(ErrorKind::Conflict, text)
                    .hint(format!("`cbfsctl epoch list {fs}` shows who is master")))
            }
            None => Err(Error::damage(format!(
                "{key} exists and cannot be found: the bucket contradicts itself"
            ))),
        },
        Err(e) => Err(e.into()),
    }
}

/// Invariant: epochs have no gaps. A claim above a gap would be invisible to everyone who probes
/// from 1 on: two masters would each believe to be the last.
fn previous_claim(bucket: &dyn Bucket, fs: &Handle, epoch: Epoch) -> Result<Option<EpochClaim>> {
    let previous = Epoch(epoch.0.saturating_sub(1));
    if previous.0 == 0 {
        return Ok(None);
    }
    if let Some(claim) = epoch_claim(bucket, fs, previous)? {
        return Ok(Some(claim));
    }
    let text = format!("epoch {epoch} of {fs} cannot be claimed: nobody holds epoch {previous}");
    Err(Error::new(ErrorKind::Conflict, text)
        .hint(format!("`cbfsctl epoch list {fs}` shows the epochs")))
}

/// Read an object that a document refers to, and check it against the reference. One GET.
///
/// # Errors
/// [`ErrorKind::NotFound`] when it is gone (a newer TOC may know where its contents are now),
/// [`ErrorKind::Damage`] when it has other bytes than were written; both name the object.
pub fn read_object(bucket: &dyn Bucket, fs: &Handle, object: &ObjectRef) -> Result<Vec<u8>> {
    let key = keys::absolute(fs, &object.key).map_err(|e| {
        // The key comes from a document: if it is none, the document is damaged.
        Error::damage(format!("a document of {fs} refers to an impossible object")).because(e)
    })?;
    let bytes = bucket.get(&key).map_err(|e| match e {
        BucketError::NotFound { .. } => {
            let text = format!("object {key} is missing in {}", bucket.url());
            Error::new(ErrorKind::NotFound, text)
        }
        other => other.into(),
    })?;
    object
        .verify(&bytes)
        .map_err(|e| e.context(format!("object {key} in {} is damaged", bucket.url())))?;
    Ok(bytes)
}

/// Get and parse a JSON document; `None` when there is no such object.
fn get_document<T: DeserializeOwned>(bucket: &dyn Bucket, key: &Key) -> Result<Option<T>> {
    match bucket.get(key) {
        Ok(bytes) => format::parse(key.as_str(), &bytes).map(Some),
        Err(BucketError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Invariant: a document is what its key says. Else an object copied to another name could make a
/// stale epoch or snapshot count as another.
fn promised(key: &Key, is_it: bool, found: impl FnOnce() -> String) -> Result<()> {
    if is_it {
        return Ok(());
    }
    Err(Error::damage(format!(
        "{key} is damaged: it describes {}",
        found()
    )))
}
