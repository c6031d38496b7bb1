//! Deleted and held snapshots.
//!
//! Deleting marks and removes nothing: later snapshots refer to layers and sections of the deleted one, and
//! only garbage collection knows which objects nobody needs any more. A deleted snapshot is not found by
//! name, number or `latest`, and its name is free again. Marks are create-only, so that no order of retries or
//! races can undo one.
//!
//! A hold and a deletion that race may both stand: garbage collection reads holds again before it removes, and
//! a hold wins there.

use super::{get_document, promised, refuse_deleted, snapshots};
use crate::bucket::{Body, Bucket, BucketError, create_or_same, has_small};
use crate::error::{Error, ErrorKind, Result};
use crate::format::epoch::BaseSnapshot;
use crate::format::mark::SnapshotMark;
use crate::format::{self, keys};
use crate::handle::{Handle, SnapshotSelector};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A hold that is not released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// Which of the holds that were ever put on this snapshot, from 1.
    pub nth: u32,
    /// Its mark.
    #[serde(flatten)]
    pub mark: SnapshotMark,
}

/// What a hold mark says about itself by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HoldKey {
    snapshot: BaseSnapshot,
    nth: u32,
    released: bool,
}

/// The snapshots marked deleted. One listing.
pub fn deleted_snapshots(bucket: &dyn Bucket, fs: &Handle) -> Result<BTreeSet<BaseSnapshot>> {
    let prefix = format!("{fs}/");
    let marks = bucket.list_dir(&format!("{prefix}deleted/"))?;
    let found = marks.iter().filter_map(|object| {
        let relative = object.key.as_str().strip_prefix(&prefix)?;
        let (number, epoch) = keys::parse_deleted_snapshot(relative)?;
        let exact = keys::deleted_snapshot(number, epoch) == relative;
        exact.then_some(BaseSnapshot { number, epoch })
    });
    Ok(found.collect())
}

/// Whether a snapshot is marked deleted. One GET.
pub fn is_deleted(bucket: &dyn Bucket, fs: &Handle, snapshot: BaseSnapshot) -> Result<bool> {
    let relative = keys::deleted_snapshot(snapshot.number, snapshot.epoch);
    let key = keys::absolute(fs, &relative)?;
    Ok(has_small(bucket, &key)?)
}

/// The holds that stand, by snapshot. One listing, and a GET for each hold that stands.
///
/// # Errors
/// Also when a mark cannot be read: what is held must be known as a whole.
pub fn holds(bucket: &dyn Bucket, fs: &Handle) -> Result<BTreeMap<BaseSnapshot, Vec<Hold>>> {
    let mut found: BTreeMap<BaseSnapshot, Vec<Hold>> = BTreeMap::new();
    for (snapshot, nth) in standing(&hold_keys(bucket, fs)?) {
        if let Some(hold) = read_hold(bucket, fs, snapshot, nth)? {
            found.entry(snapshot).or_default().push(hold);
        }
    }
    Ok(found)
}

/// Which holds of one snapshot stand: their ordinals. One listing.
pub fn standing_holds(
    bucket: &dyn Bucket,
    fs: &Handle,
    snapshot: BaseSnapshot,
) -> Result<Vec<u32>> {
    let all = standing(&hold_keys(bucket, fs)?);
    let own = all.into_iter().filter(|(held, _)| *held == snapshot);
    Ok(own.map(|(_, nth)| nth).collect())
}

/// One hold, whether it stands or not; `None` when there never was one.
///
/// # Errors
/// [`ErrorKind::Damage`] names the mark that is not what it was.
pub fn read_hold(
    bucket: &dyn Bucket,
    fs: &Handle,
    snapshot: BaseSnapshot,
    nth: u32,
) -> Result<Option<Hold>> {
    let key = keys::absolute(fs, &keys::hold(snapshot.number, snapshot.epoch, nth))?;
    let Some(mark) = get_document::<SnapshotMark>(bucket, &key)? else {
        return Ok(None);
    };
    promised(&key, mark.fs == *fs && mark.snapshot() == snapshot, || {
        format!("snapshot {} of {}", mark.number, mark.fs)
    })?;
    Ok(Some(Hold { nth, mark }))
}

/// Mark a snapshot of the current lineage deleted. Three listings, then one PUT; a crash leaves it marked or
/// not.
///
/// # Errors
/// [`ErrorKind::Conflict`] when it is held, or the latest: promotion and recovery start from that one, so
/// another must be complete first; also while a promotion is under way. [`ErrorKind::NotFound`] when it is not in the current lineage or deleted
/// already.
pub fn delete_snapshot(bucket: &dyn Bucket, mark: &SnapshotMark) -> Result<()> {
    may_be_deleted(bucket, &mark.fs, mark.snapshot())?;
    delete_mark(bucket, mark)
}

/// The mark alone, unchecked.
pub(super) fn delete_mark(bucket: &dyn Bucket, mark: &SnapshotMark) -> Result<()> {
    let relative = keys::deleted_snapshot(mark.number, mark.epoch);
    let key = keys::absolute(&mark.fs, &relative)?;
    match create_or_same(bucket, &key, &format::to_sealed_json(mark)?) {
        // Somebody else marked it at the same moment.
        Ok(()) | Err(BucketError::AlreadyExists { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// What [`delete_snapshot`] checks before it marks.
///
/// # Errors
/// As there.
pub fn may_be_deleted(bucket: &dyn Bucket, fs: &Handle, snapshot: BaseSnapshot) -> Result<()> {
    let (live, settled) = snapshots::live_ids(bucket, fs)?;
    is_there(fs, snapshot, &live)?;
    // Invariant: what looks like an older snapshot now may become the base of the next epoch, and so the latest.
    if !settled {
        let text = format!(
            "a promotion of {fs} is under way: which snapshot is the latest is not known yet"
        );
        return Err(Error::new(ErrorKind::Conflict, text).hint(format!(
            "`cbfsctl epoch list {fs}` shows it; try again when it is done"
        )));
    }
    if live.last() == Some(&snapshot) {
        let text = format!(
            "snapshot {} of {fs} is the latest complete one: nothing newer could take its place",
            snapshot.number
        );
        return Err(Error::new(ErrorKind::Conflict, text)
            .hint("make another snapshot first; `fs delete` is for whole file systems"));
    }
    not_held(bucket, fs, snapshot)
}

fn not_held(bucket: &dyn Bucket, fs: &Handle, snapshot: BaseSnapshot) -> Result<()> {
    let all = holds(bucket, fs)?;
    let Some(hold) = all.get(&snapshot).and_then(|h| h.first()) else {
        return Ok(());
    };
    let reason = match &hold.mark.reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    let text = format!(
        "snapshot {} of {fs} is held since {} (host {}){reason}",
        snapshot.number, hold.mark.created_at, hold.mark.host
    );
    Err(Error::new(ErrorKind::Conflict, text).hint(format!(
        "`cbfsctl snapshot release {fs}@{}` releases it",
        snapshot.number
    )))
}

/// Hold a snapshot: it cannot be deleted, by nobody and no retention, until it is released. Several holds
/// may stand. Answers which one this is.
///
/// # Errors
/// [`ErrorKind::NotFound`] when it is not in the current lineage or deleted, also when that happened
/// while it was being held (the hold is released again then).
pub fn hold_snapshot(bucket: &dyn Bucket, mark: &SnapshotMark) -> Result<u32> {
    let (fs, snapshot) = (&mark.fs, mark.snapshot());
    is_there(fs, snapshot, &snapshots::live_ids(bucket, fs)?.0)?;
    let taken = hold_keys(bucket, fs)?;
    let last = taken
        .iter()
        .filter(|k| k.snapshot == snapshot)
        .map(|k| k.nth)
        .max();
    let bytes = format::to_sealed_json(mark)?;
    let mut nth = last.unwrap_or(0);
    loop {
        nth = nth.checked_add(1).ok_or_else(too_many_holds)?;
        let key = keys::absolute(fs, &keys::hold(mark.number, mark.epoch, nth))?;
        match bucket.create(&key, Body::Bytes(&bytes)) {
            Ok(()) => break,
            Err(BucketError::AlreadyExists { .. }) => {} // another holder, or a lost answer of ours
            Err(e) => return Err(e.into()),
        }
    }
    // A deletion, of it or of the whole file system, that looked for holds before this one stood.
    if is_deleted(bucket, fs, snapshot)? {
        release(bucket, mark, nth)?;
        return Err(gone(fs, snapshot));
    }
    if let Err(deleted) = refuse_deleted(bucket, fs) {
        release(bucket, mark, nth)?;
        return Err(deleted);
    }
    Ok(nth)
}

/// The snapshot that `selector` means for who releases it: one of the current lineage if that is held, else one with that
/// number or name whose hold stands although it is deleted or diverged. A hold and a deletion that raced may both stand, and a
/// promotion leaves held ones behind: nobody could lift those holds otherwise, and they keep [`super::delete_fs`] from its work.
/// Costs as [`find_snapshot_id`](super::find_snapshot_id), and a listing; for a name also a GET for each such one.
///
/// # Errors
/// As [`super::find_snapshot`] when there is neither. One of the current lineage that is not held is answered all the same.
pub fn find_held(
    bucket: &dyn Bucket,
    fs: &Handle,
    selector: &SnapshotSelector,
) -> Result<BaseSnapshot> {
    let live = snapshots::find_snapshot_id(bucket, fs, selector)?;
    let held: BTreeSet<BaseSnapshot> = standing(&hold_keys(bucket, fs)?)
        .into_iter()
        .map(|(snapshot, _)| snapshot)
        .collect();
    if let Some(live) = live.filter(|live| held.contains(live)) {
        return Ok(live);
    }
    let mut unreadable = None;
    for id in held.into_iter().rev() {
        let is_meant = match selector {
            SnapshotSelector::Latest => false,
            SnapshotSelector::Number(number) => id.number == *number,
            SnapshotSelector::Name(name) => {
                match snapshots::load_manifest(bucket, fs, id.number, id.epoch) {
                    Ok(manifest) => manifest.name.as_ref() == Some(name),
                    Err(e) => {
                        // Another one may be meant.
                        unreadable.get_or_insert(e);
                        false
                    }
                }
            }
        };
        if is_meant {
            return Ok(id);
        }
    }
    match (live, unreadable) {
        (Some(live), _) => Ok(live),
        (None, Some(e)) => Err(e),
        // For its words.
        (None, None) => {
            snapshots::find_snapshot(bucket, fs, selector).map(|manifest| manifest.id())
        }
    }
}

/// Release all holds of a snapshot; answers how many there were.
///
/// # Errors
/// [`ErrorKind::Conflict`] when it is not held.
pub fn release_snapshot(bucket: &dyn Bucket, mark: &SnapshotMark) -> Result<usize> {
    let snapshot = mark.snapshot();
    let keys = hold_keys(bucket, &mark.fs)?;
    let mine: Vec<u32> = standing(&keys)
        .into_iter()
        .filter(|(held, _)| *held == snapshot)
        .map(|(_, nth)| nth)
        .collect();
    if mine.is_empty() {
        let text = format!("snapshot {} of {} is not held", mark.number, mark.fs);
        return Err(Error::new(ErrorKind::Conflict, text)
            .hint(format!("`cbfsctl snapshot list {}` shows holds", mark.fs)));
    }
    for nth in &mine {
        release(bucket, mark, *nth)?;
    }
    Ok(mine.len())
}

fn release(bucket: &dyn Bucket, mark: &SnapshotMark, nth: u32) -> Result<()> {
    let relative = keys::released_hold(mark.number, mark.epoch, nth);
    let key = keys::absolute(&mark.fs, &relative)?;
    match bucket.create(&key, Body::Bytes(&format::to_sealed_json(mark)?)) {
        Ok(()) | Err(BucketError::AlreadyExists { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn hold_keys(bucket: &dyn Bucket, fs: &Handle) -> Result<BTreeSet<HoldKey>> {
    let prefix = format!("{fs}/");
    let marks = bucket.list_dir(&format!("{prefix}holds/"))?;
    let found = marks.iter().filter_map(|object| {
        let relative = object.key.as_str().strip_prefix(&prefix)?;
        let (number, epoch, nth, released) = keys::parse_hold(relative)?;
        Some(HoldKey {
            snapshot: BaseSnapshot { number, epoch },
            nth,
            released,
        })
    });
    Ok(found.collect())
}

fn standing(keys: &BTreeSet<HoldKey>) -> Vec<(BaseSnapshot, u32)> {
    let released = |key: &HoldKey| {
        keys.contains(&HoldKey {
            released: true,
            ..*key
        })
    };
    keys.iter()
        .filter(|key| !key.released && !released(key))
        .map(|key| (key.snapshot, key.nth))
        .collect()
}

fn is_there(fs: &Handle, snapshot: BaseSnapshot, live: &[BaseSnapshot]) -> Result<()> {
    if live.contains(&snapshot) {
        Ok(())
    } else {
        Err(gone(fs, snapshot))
    }
}

fn gone(fs: &Handle, snapshot: BaseSnapshot) -> Error {
    let text = format!(
        "snapshot {} of {fs} is deleted or not of the current lineage",
        snapshot.number
    );
    Error::new(ErrorKind::NotFound, text)
        .hint(format!("`cbfsctl snapshot list {fs} --all` shows all"))
}

fn too_many_holds() -> Error {
    Error::failed("there are too many holds")
}
