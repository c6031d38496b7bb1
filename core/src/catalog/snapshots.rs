//! Finding and reading manifests.

use super::lineage::published_epochs_are_known;
use super::marks::deleted_snapshots;
use super::{Lineage, get_document, lineage, promised};
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Result};
use crate::format::epoch::BaseSnapshot;
use crate::format::keys;
use crate::format::manifest::Manifest;
use crate::handle::{Handle, SnapshotSelector};
use crate::ids::{Epoch, SnapshotNumber};

/// A manifest of the bucket, readable or not.
#[derive(Debug)]
pub struct ListedManifest {
    /// Number and epoch, as its key says.
    pub id: BaseSnapshot,
    /// Published by a superseded master beyond the next epoch's base: not of the current lineage.
    pub diverged: bool,
    /// Marked deleted.
    pub deleted: bool,
    /// The manifest, or why it cannot be read ([`ErrorKind::Damage`] or
    /// [`ErrorKind::FormatTooNew`]): one bad manifest does not hide the others.
    pub manifest: Result<Manifest>,
}

/// The manifest of one snapshot. One GET.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::FormatTooNew`], [`ErrorKind::Damage`], those of the bucket.
pub fn load_manifest(
    bucket: &dyn Bucket,
    fs: &Handle,
    number: SnapshotNumber,
    epoch: Epoch,
) -> Result<Manifest> {
    let id = BaseSnapshot { number, epoch };
    try_load(bucket, fs, id)?.ok_or_else(|| {
        let text = format!("{fs} has no snapshot {number} of epoch {epoch}");
        Error::new(ErrorKind::NotFound, text).hint(see_list(fs))
    })
}

/// Every manifest there is, diverged, deleted and damaged ones included, sorted by (number, epoch). Reads
/// the lineage, lists the manifests and GETs each.
///
/// # Errors
/// Those of the bucket and of [`lineage`]; an unreadable manifest is an entry, not an error.
pub fn all_manifests(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<ListedManifest>> {
    let ids = list_ids(bucket, fs)?;
    // After the listing: a snapshot published meanwhile by a new master must find its epoch known.
    let lineage = lineage(bucket, fs)?;
    published_epochs_are_known(fs, &lineage, &ids)?;
    let mut deleted = deleted_snapshots(bucket, fs)?;
    if let Some(latest) = ids.iter().rev().find(|id| lineage.contains(**id)) {
        deleted.remove(latest);
    }
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let manifest = match try_load(bucket, fs, id) {
            Ok(Some(manifest)) => Ok(manifest),
            Ok(None) => continue, // deleted since the listing
            Err(e) if concerns_one_object(&e) => Err(e),
            Err(e) => return Err(e),
        };
        found.push(ListedManifest {
            id,
            diverged: !lineage.contains(id),
            deleted: deleted.contains(&id),
            manifest,
        });
    }
    Ok(found)
}

/// The manifests of the current lineage that are not deleted, sorted by (number, epoch). Costs as
/// [`all_manifests`], but does not read diverged and deleted ones.
///
/// # Errors
/// Also when one of them is damaged or too new: the list would be incomplete without it.
/// [`all_manifests`] shows the others.
pub fn manifests(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<Manifest>> {
    let mut found = Vec::new();
    for id in current_ids(bucket, fs)?.current {
        found.extend(try_load(bucket, fs, id)?);
    }
    Ok(found)
}

/// A snapshot of the current lineage as the change log needs it.
#[derive(Debug)]
pub struct HistoricSnapshot {
    /// Marked deleted: garbage collection may have taken objects of it.
    pub deleted: bool,
    /// Number and epoch.
    pub id: BaseSnapshot,
    /// Its manifest; `None` where it is a deleted one's and cannot be read.
    pub manifest: Option<Manifest>,
}

/// The snapshots of the current lineage, deleted ones included, sorted by (number, epoch): deleting marks a
/// snapshot, and its change log is still history. Costs as [`manifests`], and a GET for each deleted one.
///
/// # Errors
/// Also when the manifest of one that is not deleted is damaged or too new.
pub fn history(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<HistoricSnapshot>> {
    let ids = current_ids(bucket, fs)?;
    let mut found = Vec::with_capacity(ids.current.len() + ids.deleted.len());
    for id in ids.current {
        if let Some(manifest) = try_load(bucket, fs, id)? {
            found.push(HistoricSnapshot {
                deleted: false,
                id,
                manifest: Some(manifest),
            });
        }
    }
    for id in ids.deleted {
        let manifest = match try_load(bucket, fs, id) {
            Err(e) if concerns_one_object(&e) => None,
            loaded => loaded?,
        };
        found.push(HistoricSnapshot {
            deleted: true,
            id,
            manifest,
        });
    }
    found.sort_by_key(|s| (s.id.number, s.id.epoch));
    Ok(found)
}

/// Number and epoch of the snapshots of the current lineage that are not deleted, sorted. Reads the lineage and
/// lists the manifests and the deleted ones; GETs none.
///
/// # Errors
/// Those of the bucket and of [`lineage`].
pub fn snapshot_ids(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<BaseSnapshot>> {
    Ok(current_ids(bucket, fs)?.current)
}

/// The last snapshot of the current lineage (which is never a deleted one); `None` when there is none.
/// Reads the lineage, lists the manifests and the deleted ones and GETs one.
///
/// # Errors
/// When that one is damaged, too new or gone since the listing it is an error: an older one is never taken instead.
pub fn latest_manifest(bucket: &dyn Bucket, fs: &Handle) -> Result<Option<Manifest>> {
    newest(bucket, fs, &current_ids(bucket, fs)?.current)
}

/// The snapshot a follower may move to: the latest, if it will be of the lineage for good; `None` when there is
/// none, or a promotion is under way (stay where you are). Costs as [`latest_manifest`].
///
/// # Errors
/// As [`latest_manifest`].
pub fn latest_settled(bucket: &dyn Bucket, fs: &Handle) -> Result<Option<Manifest>> {
    let ids = current_ids(bucket, fs)?;
    if !ids.settled {
        return Ok(None);
    }
    newest(bucket, fs, &ids.current)
}

/// Number and epoch of the last snapshot that an epoch has published, of the lineage or not; `None` when there
/// is none. One listing. A master whose own state does not know it runs on a state directory that is older than
/// the bucket.
pub fn last_of_epoch(
    bucket: &dyn Bucket,
    fs: &Handle,
    epoch: Epoch,
) -> Result<Option<BaseSnapshot>> {
    let ids = list_ids(bucket, fs)?;
    Ok(ids.into_iter().rfind(|id| id.epoch == epoch))
}

/// Number and epoch of every manifest there is, sorted, and whether it counts (`false`: diverged). Lists the manifests and
/// reads the lineage; GETs none.
///
/// # Errors
/// Those of the bucket and of [`lineage`].
pub fn published_ids(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<(BaseSnapshot, bool)>> {
    let ids = list_ids(bucket, fs)?;
    let lineage = lineage(bucket, fs)?;
    let judged = ids.into_iter().map(|id| (id, lineage.contains(id)));
    Ok(judged.collect())
}

/// The snapshot of the current lineage that `selector` means and is not deleted. Reads the lineage and
/// lists the manifests and the deleted ones; for `latest` and a number GETs one, for a name newest first until it is found.
///
/// # Errors
/// [`ErrorKind::NotFound`] with a hint that names the latest; [`ErrorKind::FormatTooNew`] and
/// [`ErrorKind::Damage`] when the snapshot asked for cannot be read, or when a name was not found but
/// may be that of an unreadable one.
pub fn find_snapshot(
    bucket: &dyn Bucket,
    fs: &Handle,
    selector: &SnapshotSelector,
) -> Result<Manifest> {
    let ids = current_ids(bucket, fs)?;
    let found = match selector {
        SnapshotSelector::Latest => newest(bucket, fs, &ids.current)?,
        SnapshotSelector::Number(number) => {
            match ids.current.iter().find(|id| id.number == *number) {
                Some(id) => try_load(bucket, fs, *id)?,
                None => None,
            }
        }
        SnapshotSelector::Name(name) => find_name(bucket, fs, &ids.current, name)?,
    };
    found.ok_or_else(|| not_found(fs, selector, &ids))
}

/// Number and epoch of the snapshot of the current lineage that `selector` means, readable or not.
/// Reads the lineage and lists the manifests; for a name also GETs them, newest first, until it is
/// found. `None` when there is none.
///
/// # Errors
/// As [`find_snapshot`], where a name is looked for; else those of the bucket and of [`lineage`].
pub fn find_snapshot_id(
    bucket: &dyn Bucket,
    fs: &Handle,
    selector: &SnapshotSelector,
) -> Result<Option<BaseSnapshot>> {
    let ids = current_ids(bucket, fs)?.current;
    Ok(match selector {
        SnapshotSelector::Latest => ids.last().copied(),
        SnapshotSelector::Number(number) => ids.into_iter().find(|id| id.number == *number),
        SnapshotSelector::Name(name) => find_name(bucket, fs, &ids, name)?.map(|m| m.id()),
    })
}

fn find_name(
    bucket: &dyn Bucket,
    fs: &Handle,
    ids: &[BaseSnapshot],
    name: &str,
) -> Result<Option<Manifest>> {
    let mut unreadable = None;
    for id in ids.iter().rev() {
        match try_load(bucket, fs, *id) {
            Ok(Some(manifest)) if manifest.name.as_deref() == Some(name) => {
                return Ok(Some(manifest));
            }
            Ok(_) => {}
            Err(e) if concerns_one_object(&e) => {
                unreadable.get_or_insert((id.number, e));
            }
            Err(e) => return Err(e),
        }
    }
    match unreadable {
        None => Ok(None),
        Some((number, e)) => Err(e.context(format!(
            "no readable snapshot of {fs} is named {name:?}, and the manifest of snapshot {number} \
             cannot be read"
        ))),
    }
}

fn not_found(fs: &Handle, selector: &SnapshotSelector, ids: &CurrentIds) -> Error {
    let numbered = |ids: &[BaseSnapshot]| match selector {
        SnapshotSelector::Number(number) => ids.iter().find(|id| id.number == *number).copied(),
        SnapshotSelector::Latest | SnapshotSelector::Name(_) => None,
    };
    let text = match numbered(&ids.diverged) {
        _ if numbered(&ids.deleted).is_some() => format!("snapshot {selector} of {fs} is deleted"),
        Some(id) => format!(
            "snapshot {} of {fs} is diverged: epoch {} published it after it was superseded",
            id.number, id.epoch
        ),
        None if *selector == SnapshotSelector::Latest => format!("{fs} has no snapshot yet"),
        None => format!("{fs} has no snapshot {selector}"),
    };
    let hint = match ids.current.last() {
        Some(latest) => format!("the latest is {}; {}", latest.number, see_list(fs)),
        None => format!("it has none yet; `cbfsctl snapshot create {fs}` makes one"),
    };
    Error::new(ErrorKind::NotFound, text).hint(hint)
}

fn see_list(fs: &Handle) -> String {
    format!("`cbfsctl snapshot list {fs}` shows all")
}

/// The last of `ids`.
///
/// Invariant: manifests are never removed. Were an older one taken in the place of one that was listed and is
/// gone, a promotion would start from it, and a complete snapshot be lost without a word.
fn newest(bucket: &dyn Bucket, fs: &Handle, ids: &[BaseSnapshot]) -> Result<Option<Manifest>> {
    let Some(id) = ids.last() else {
        return Ok(None);
    };
    match try_load(bucket, fs, *id)? {
        Some(manifest) => Ok(Some(manifest)),
        None => Err(Error::damage(format!(
            "the manifest of snapshot {} of epoch {} of {fs} was listed and cannot be found: the bucket \
             contradicts itself",
            id.number, id.epoch
        ))),
    }
}

/// The snapshots there are, by lineage, each sorted by (number, epoch).
struct CurrentIds {
    current: Vec<BaseSnapshot>,
    diverged: Vec<BaseSnapshot>,
    /// Of the current lineage.
    deleted: Vec<BaseSnapshot>,
    /// No promotion is under way.
    settled: bool,
}

/// Number and epoch of the snapshots of the current lineage that are not deleted, sorted; and whether the
/// lineage is settled.
pub(super) fn live_ids(bucket: &dyn Bucket, fs: &Handle) -> Result<(Vec<BaseSnapshot>, bool)> {
    current_ids(bucket, fs).map(|ids| (ids.current, ids.settled))
}

fn current_ids(bucket: &dyn Bucket, fs: &Handle) -> Result<CurrentIds> {
    let ids = list_ids(bucket, fs)?;
    let lineage: Lineage = lineage(bucket, fs)?;
    published_epochs_are_known(fs, &lineage, &ids)?;
    let mut marked = deleted_snapshots(bucket, fs)?;
    let (lineal, diverged): (Vec<_>, _) = ids.into_iter().partition(|id| lineage.contains(*id));
    // Invariant: the latest is never a deleted one. Recovery and promotion would start from one before it.
    if let Some(latest) = lineal.last() {
        marked.remove(latest);
    }
    let (deleted, current) = lineal.into_iter().partition(|id| marked.contains(id));
    Ok(CurrentIds {
        current,
        diverged,
        deleted,
        settled: lineage.is_settled(),
    })
}

/// Number and epoch of every manifest, sorted. One listing.
fn list_ids(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<BaseSnapshot>> {
    let prefix = format!("{fs}/");
    let mut ids: Vec<BaseSnapshot> = bucket
        .list_dir(&format!("{prefix}m/"))?
        .iter()
        .filter_map(|object| {
            let relative = object.key.as_str().strip_prefix(&prefix)?;
            let (number, epoch) = keys::parse_manifest(relative)?;
            // One spelling only: `m/7-e1.json` is not the manifest of snapshot 7.
            let exact = keys::manifest(number, epoch) == relative;
            exact.then_some(BaseSnapshot { number, epoch })
        })
        .collect();
    ids.sort_by_key(|id| (id.number, id.epoch));
    Ok(ids)
}

/// The manifest; `None` when there is no such object.
fn try_load(bucket: &dyn Bucket, fs: &Handle, id: BaseSnapshot) -> Result<Option<Manifest>> {
    let key = keys::absolute(fs, &keys::manifest(id.number, id.epoch))?;
    let Some(manifest) = get_document::<Manifest>(bucket, &key)? else {
        return Ok(None);
    };
    promised(&key, manifest.fs == *fs && manifest.id() == id, || {
        format!(
            "snapshot {} of epoch {} of {}",
            manifest.number, manifest.epoch, manifest.fs
        )
    })?;
    Ok(Some(manifest))
}

/// Whether the error is about this object alone, not about the bucket.
fn concerns_one_object(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Damage | ErrorKind::FormatTooNew)
}
