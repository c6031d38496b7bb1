//! What a bucket says of one file system: epochs, snapshots and marks. Read by the TUI itself, as `cbfsctl`
//! does: no daemon is needed for it.

use cbfs_core::bucket::{self, BucketUrl};
use cbfs_core::catalog;
use cbfs_core::error::Result;
use cbfs_core::format::epoch::{BaseSnapshot, EpochClaim};
use cbfs_core::handle::Handle;
use cbfs_core::ids::Epoch;
use cbfs_core::snapshot::SnapshotKind;
use std::collections::{BTreeMap, BTreeSet};

/// Manifests read in one look at most, newest first: a bucket may hold thousands.
pub const MANIFESTS_AT_ONCE: usize = 200;

/// Bucket URL and file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewKey {
    /// Where it lives.
    pub bucket: String,
    /// Which.
    pub fs: Handle,
}

/// An epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochView {
    /// Who claimed it.
    pub claim: EpochClaim,
    /// From which snapshot it started; `None` for the first one, and while that is not written.
    pub base: Option<BaseSnapshot>,
}

/// What is shown of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestView {
    /// Its name.
    pub name: Option<String>,
    /// Who asked.
    pub kind: SnapshotKind,
    /// RFC 3339.
    pub created_at: String,
    /// Bytes that it added, as stored.
    pub stored_bytes: u64,
    /// Bytes of all files.
    pub logical_bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// One look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketView {
    /// All epochs, the present one last.
    pub epochs: Vec<EpochView>,
    /// The snapshots of the current lineage that are not deleted.
    pub snapshots: BTreeSet<BaseSnapshot>,
    /// What the manifests say, as far as they were read.
    pub manifests: BTreeMap<BaseSnapshot, ManifestView>,
    /// Snapshots that are held.
    pub held: BTreeSet<BaseSnapshot>,
    /// Snapshots marked deleted.
    pub deleted: BTreeSet<BaseSnapshot>,
}

/// Look at the bucket. Epochs and manifests never change, so those in `known` are not read again: four
/// listings, a GET for each hold and each new epoch, and for the new manifests, at most
/// [`MANIFESTS_AT_ONCE`].
///
/// # Errors
/// Those of the bucket. A manifest that cannot be read is left out: `cbfsctl snapshot list` tells why.
pub fn look(key: &ViewKey, known: &BucketView) -> Result<BucketView> {
    let url: BucketUrl = key.bucket.parse()?;
    let bucket = bucket::open(&url, true)?;
    let (bucket, fs) = (&*bucket, &key.fs);
    let mut epochs = known.epochs.clone();
    // The base of the last one may have been written meanwhile.
    epochs.pop();
    let first = u16::try_from(epochs.len())
        .unwrap_or(u16::MAX)
        .saturating_add(1);
    for epoch in (first..=u16::MAX).map(Epoch) {
        let Some(claim) = catalog::epoch_claim(bucket, fs, epoch)? else {
            break;
        };
        let base = catalog::epoch_base(bucket, fs, epoch)?.and_then(|b| b.base);
        epochs.push(EpochView { claim, base });
    }
    let ids = catalog::snapshot_ids(bucket, fs)?;
    let mut manifests = BTreeMap::new();
    let mut read = 0;
    for id in ids.iter().rev() {
        if let Some(manifest) = known.manifests.get(id) {
            manifests.insert(*id, manifest.clone());
        } else if read < MANIFESTS_AT_ONCE {
            read += 1;
            let Ok(m) = catalog::load_manifest(bucket, fs, id.number, id.epoch) else {
                continue;
            };
            let view = ManifestView {
                name: m.name,
                kind: m.kind,
                created_at: m.created_at,
                stored_bytes: m.totals.stored_bytes,
                logical_bytes: m.totals.logical_bytes,
                inodes: m.totals.inodes,
            };
            manifests.insert(*id, view);
        }
    }
    Ok(BucketView {
        epochs,
        snapshots: ids.into_iter().collect(),
        manifests,
        held: catalog::holds(bucket, fs)?.into_keys().collect(),
        deleted: catalog::deleted_snapshots(bucket, fs)?,
    })
}
