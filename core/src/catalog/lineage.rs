//! Which snapshots belong to the current lineage.
//!
//! Each epoch starts from its base, a snapshot of an earlier epoch. Walking from the latest epoch
//! down its bases gives the lineage: all snapshots of the latest epoch, those of its base's epoch
//! up to the base, and so on. What a superseded master published beyond is *diverged*. No clock
//! takes part, and no manifest is read.
//!
//! A claim whose base is not written yet is a promotion under way (seal, then read): until the base
//! stands, the lineage is still the one of the epoch before, all its snapshots included. The base will be
//! the latest of those the promoter found after its claim. What the old master publishes later than that
//! look is counted until the base stands, and diverged from then on: so nothing may be deleted meanwhile
//! ([`Lineage::is_settled`]), and a follower stays where it is.

use super::{current_epoch, epoch_base};
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::format::epoch::BaseSnapshot;
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber};
use std::collections::BTreeMap;

/// The current lineage: which part of each epoch's snapshots counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Per epoch the number its snapshots start after, and the last that counts (`None`: no end).
    /// Epochs that are not in it contributed nothing. The ranges do not overlap, so a number
    /// means one snapshot.
    spans: BTreeMap<Epoch, (SnapshotNumber, Option<SnapshotNumber>)>,
    /// The latest claim, where its base is not written.
    unsettled: Option<Epoch>,
}

impl Lineage {
    /// Whether the latest claim has its base. If not, a promotion is under way, and where the lineage of the
    /// epoch before ends is not known yet.
    ///
    /// When the manifests were listed before the lineage was read and it is settled, each of them that counts
    /// is counted for good: later epochs start from it or from a later one.
    pub fn is_settled(&self) -> bool {
        self.unsettled.is_none()
    }

    /// Whether this snapshot counts; if not, it is diverged.
    pub fn contains(&self, snapshot: BaseSnapshot) -> bool {
        self.spans
            .get(&snapshot.epoch)
            .is_some_and(|(after, last)| {
                snapshot.number > *after && last.is_none_or(|last| snapshot.number <= last)
            })
    }
}

/// Invariant: a manifest's epoch has a claim and a base, because both are written before it. If the
/// claim or base was lost, an older lineage would look like the current one, and be mounted.
///
/// # Errors
/// [`ErrorKind::Damage`](crate::ErrorKind::Damage) names the epoch. `ids` must have been listed before the lineage was read.
pub(super) fn published_epochs_are_known(
    fs: &Handle,
    lineage: &Lineage,
    ids: &[BaseSnapshot],
) -> Result<()> {
    let known = lineage
        .spans
        .keys()
        .next_back()
        .copied()
        .unwrap_or_default();
    match ids.iter().map(|id| id.epoch).max() {
        Some(published) if published > known => Err(incomplete(fs, published)),
        _ => Ok(()),
    }
}

fn incomplete(fs: &Handle, epoch: Epoch) -> Error {
    Error::damage(format!(
        "epoch {epoch} of {fs} has published snapshots, but its claim or base object is missing: \
         what the current snapshots are cannot be told"
    ))
}

/// The lineage of a file system now. One GET per epoch and one more for the claims, one per epoch
/// in the lineage for the bases.
///
/// # Errors
/// Those of [`epochs`](super::epochs) and [`epoch_base`]: when a claim or base cannot be read, what
/// belongs to the lineage is unknown.
pub fn lineage(bucket: &dyn Bucket, fs: &Handle) -> Result<Lineage> {
    let mut spans = BTreeMap::new();
    let mut epoch = current_epoch(bucket, fs)?.map_or(Epoch(0), |claim| claim.epoch);
    let (mut last, mut unsettled) = (None, None);
    while epoch.0 > 0 {
        let base = match epoch_base(bucket, fs, epoch)? {
            Some(document) => document.base,
            // The first epoch starts from nothing, written or not.
            None if epoch.0 == 1 => None,
            None if spans.is_empty() => {
                unsettled = unsettled.or(Some(epoch));
                epoch = Epoch(epoch.0 - 1); // a promotion under way
                continue;
            }
            // A base is written before the first snapshot of its epoch, and here is one.
            None => return Err(incomplete(fs, epoch)),
        };
        let after = base.map_or(SnapshotNumber(0), |b| b.number);
        spans.insert(epoch, (after, last));
        match base {
            Some(base) => (epoch, last) = (base.epoch, Some(base.number)),
            None => break,
        }
    }
    Ok(Lineage { spans, unsettled })
}
