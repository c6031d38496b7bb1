//! Garbage collection as it is designed; `gc run` is not built yet. Mark, grace, look again, remove.
//!
//! What is garbage is told by manifests, claims and bases alone, never by age, and is garbage for good:
//!
//! - A look during which the epoch changed, or whose lineage is not settled, counts for nothing: so any later base is at or
//!   behind what was listed, and a master that was superseded before the look began has nothing under way that
//!   could become a base. (Both ends matter. The model found what a check at one end lets through: manifests
//!   listed, then the new epoch claimed and seen, while the old master's last manifest is made and taken as base: the
//!   objects of that base looked like those of a superseded attempt.)
//! - Objects of an attempt that no manifest refers to may belong to a master that is paused before its manifest. They
//!   are garbage once that manifest cannot come any more: another stands under its number, or a later number of
//!   its epoch is taken (numbers leave no gaps), or the epoch was superseded (what it still publishes is
//!   diverged).
//! - Manifests, claims, bases and marks are never removed: they are what create-only PUTs collide with.

use crate::flaw::Flaw;
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog;
use cbfs_core::error::{Error, ErrorKind, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::keys;
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use std::collections::BTreeSet;

/// The keys of all objects that nobody can need any more. With one of the mistakes that are made
/// here.
pub fn garbage(bucket: &dyn Bucket, fs: &Handle, flaw: Option<Flaw>) -> Result<Vec<String>> {
    let prefix = format!("{fs}/");
    let at_first = match flaw {
        Some(Flaw::EpochMayChange) => None,
        _ => Some(settled_epoch(bucket, fs)?),
    };
    // Before the manifests: what is made after this is not judged.
    let objects = bucket.list(&format!("{prefix}s/"))?;
    let all = catalog::all_manifests(bucket, fs)?;
    let held = catalog::holds(bucket, fs)?;
    let (mut needed, mut published, mut removed) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for listed in all {
        let manifest = listed.manifest?;
        published.insert(listed.id);
        if !listed.deleted || held.contains_key(&listed.id) {
            needed.extend(manifest.layers.into_iter().map(|l| l.object.key));
        } else if flaw == Some(Flaw::ManifestsAreCollected) {
            removed.push(format!(
                "{prefix}{}",
                keys::manifest(listed.id.number, listed.id.epoch)
            ));
        }
    }
    let mut epoch = settled_epoch(bucket, fs)?;
    if at_first.is_some_and(|first| first != epoch) {
        return Err(unsettled());
    }
    if flaw == Some(Flaw::EpochMayChange) {
        epoch = claimed_epoch(bucket, fs)?;
    }
    for object in objects {
        let Some(key) = object.key.as_str().strip_prefix(&prefix) else {
            continue;
        };
        let Some(of) = attempted(key) else { continue };
        let closed = of.epoch < epoch
            || published
                .iter()
                .any(|p| p.epoch == of.epoch && p.number >= of.number);
        if !needed.contains(key) && (closed || flaw == Some(Flaw::UnpublishedIsGarbage)) {
            removed.push(object.key.as_str().to_owned());
        }
    }
    removed.sort();
    Ok(removed)
}

/// The current epoch; its base stands.
fn settled_epoch(bucket: &dyn Bucket, fs: &Handle) -> Result<Epoch> {
    let epoch = claimed_epoch(bucket, fs)?;
    if epoch.0 > 1 && catalog::epoch_base(bucket, fs, epoch)?.is_none() {
        return Err(unsettled());
    }
    Ok(epoch)
}

fn claimed_epoch(bucket: &dyn Bucket, fs: &Handle) -> Result<Epoch> {
    Ok(catalog::current_epoch(bucket, fs)?.map_or(Epoch(0), |claim| claim.epoch))
}

fn unsettled() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "a promotion is under way: look again later",
    )
}

/// Which snapshot an object of `s/` was made for.
fn attempted(key: &str) -> Option<BaseSnapshot> {
    let folder = key.strip_prefix("s/")?.split('/').next()?;
    let (number, rest) = folder.split_once("-e")?;
    let (epoch, _) = rest.split_once('-')?;
    Some(BaseSnapshot {
        number: SnapshotNumber(number.parse().ok()?),
        epoch: Epoch(epoch.parse().ok()?),
    })
}
