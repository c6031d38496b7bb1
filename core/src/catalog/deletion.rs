//! Deleting a whole file system, and taking that back.
//!
//! Deleting marks and removes nothing: config, manifests, index and every tarball stay until garbage collection. The marks
//! are create-only and numbered: `deleted/fs.0001.json` is the first deletion, `deleted/fs.0001.end.json` says how it ended
//! ([`DeletionEnd`]), and only behind an undone one there may be a second. So the state is told by the highest deletion and
//! its end, and no late or repeated PUT can bring an earlier state back:
//!
//! ```text
//! live -> deleted (n) -> live, when the end of n is `undone`
//!                    \-> gone, when the end of n is `collected`
//! ```
//!
//! **One key decides between undoing and collecting.** A collector creates the end with `collected` before it removes the
//! first object; who undeletes creates the same key with `undone`. One of them succeeds.
//!
//! Masters look every 30 s, and a publication does not look at all: a snapshot that a master completes after the mark lies
//! in a file system that is deleted, which hurts nobody, and counts when the deletion is undone. A collector waits longer
//! than that anyway (grace).
//!
//! In the steady state a look is one GET that finds nothing; names are derivable, nothing is listed.

use super::{find_fs, get_document, holds, list_fs, promised};
use crate::bucket::{Bucket, BucketError, create_or_same};
use crate::error::{Error, ErrorKind, Result};
use crate::format::mark::{DeletionEnd, FsMark};
use crate::format::{self, keys};
use crate::handle::{FsSelector, Handle};
use serde::Serialize;

/// A deletion that was not undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deletion {
    /// Its mark.
    #[serde(flatten)]
    pub mark: FsMark,
    /// Garbage collection has begun: it cannot be undone any more.
    pub collected: bool,
}

/// What a deletion would be: its number is free, and nothing speaks against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextDeletion(u32);

impl NextDeletion {
    /// Which of the file system's deletions it would be, from 1.
    pub fn nth(self) -> u32 {
        self.0
    }
}

/// Whether the file system is deleted, and how. One GET when it never was; two more for each deletion that was undone.
///
/// # Errors
/// Those of the bucket, and when a mark cannot be read: what is deleted must be known.
pub fn deletion(bucket: &dyn Bucket, fs: &Handle) -> Result<Option<Deletion>> {
    state(bucket, fs).map(|state| match state {
        State::Live(_) => None,
        State::Deleted(deletion) => Some(deletion),
    })
}

/// For what must not be done with a deleted file system. Costs as [`deletion`].
///
/// # Errors
/// [`ErrorKind::Conflict`] when it is deleted: says since when, and how that is taken back.
pub fn refuse_deleted(bucket: &dyn Bucket, fs: &Handle) -> Result<()> {
    match deletion(bucket, fs)? {
        None => Ok(()),
        Some(deletion) => Err(deletion.refusal()),
    }
}

impl Deletion {
    /// Since when and by whom, for people.
    pub fn describe(&self) -> String {
        let FsMark {
            fs,
            created_at,
            host,
            ..
        } = &self.mark;
        let reason = match &self.mark.reason {
            Some(reason) => format!(": {reason}"),
            None => String::new(),
        };
        format!("{fs} is deleted since {created_at} (host {host}){reason}")
    }

    /// The error of who wanted to work with it.
    pub fn refusal(&self) -> Error {
        let hint = if self.collected {
            "garbage collection has begun: it cannot be taken back".to_owned()
        } else {
            format!("`cbfsctl fs undelete {}` takes that back", self.mark.fs)
        };
        Error::new(ErrorKind::Conflict, self.describe()).hint(hint)
    }
}

/// What [`delete_fs`] checks before it marks. Costs as [`deletion`], and a listing.
///
/// # Errors
/// [`ErrorKind::Conflict`] when it is deleted already, or a snapshot of it is held: a hold is somebody's word that it
/// stays.
pub fn fs_may_be_deleted(bucket: &dyn Bucket, fs: &Handle) -> Result<NextDeletion> {
    let next = match state(bucket, fs)? {
        State::Live(next) => next,
        State::Deleted(deletion) => return Err(deletion.refusal()),
    };
    none_is_held(bucket, fs)?;
    Ok(NextDeletion(next))
}

fn none_is_held(bucket: &dyn Bucket, fs: &Handle) -> Result<()> {
    let held = holds(bucket, fs)?;
    if let Some((snapshot, holds)) = held.first_key_value() {
        let reason = holds.first().and_then(|hold| hold.mark.reason.as_deref());
        let reason = reason.map(|r| format!(" ({r})")).unwrap_or_default();
        let more = match held.len() {
            1 => String::new(),
            all => format!(", and {} more", all - 1),
        };
        let text = format!(
            "snapshot {} of {fs} is held{reason}{more}: a file system with held snapshots is not deleted",
            snapshot.number
        );
        return Err(Error::new(ErrorKind::Conflict, text).hint(format!(
            "`cbfsctl snapshot list {fs}` shows holds, `cbfsctl snapshot release {fs}@{}` releases one",
            snapshot.number
        )));
    }
    Ok(())
}

/// Mark the file system deleted, then look again: at the holds, as a snapshot may have been held since [`fs_may_be_deleted`]
/// looked, and whether the mark is what counts. Who holds writes first and looks after it too ([`hold_snapshot`]), so that
/// of a deletion and a hold at the same time one gives way, or both do. Costs as [`fs_may_be_deleted`], and one or two
/// requests more; a crash, or a lost answer, leaves it marked or not.
///
/// # Errors
/// [`ErrorKind::Conflict`] when somebody else was faster, whatever became of that, or a snapshot is held: the deletion
/// is undone then.
pub fn delete_fs(
    bucket: &dyn Bucket,
    fs: &Handle,
    next: NextDeletion,
    reason: Option<String>,
    at: &str,
) -> Result<Deletion> {
    let mark = FsMark::new(fs.clone(), next.0, None, reason, at.to_owned());
    let key = keys::absolute(fs, &keys::deleted_fs(next.0))?;
    match create_or_same(bucket, &key, &format::to_sealed_json(&mark)?) {
        Ok(()) => stands(bucket, fs, mark, at),
        Err(BucketError::AlreadyExists { .. }) => {
            let text = format!("somebody else deleted {fs} at this moment");
            Err(Error::new(ErrorKind::Conflict, text)
                .hint(format!("`cbfsctl fs show {fs}` shows how it stands")))
        }
        Err(e) => Err(e.into()),
    }
}

/// What becomes of a deletion whose mark was just created.
fn stands(bucket: &dyn Bucket, fs: &Handle, mark: FsMark, at: &str) -> Result<Deletion> {
    let nth = mark.nth;
    let held = match none_is_held(bucket, fs) {
        Err(held) if held.kind() == ErrorKind::Conflict => Some(held),
        free => free.map(|()| None)?,
    };
    let end = match &held {
        Some(_) => Some(end_deletion(bucket, fs, nth, DeletionEnd::Undone, at)?),
        None => end_of(bucket, fs, nth)?,
    };
    match (end, held) {
        (Some(DeletionEnd::Undone), Some(held)) => Err(held),
        // By somebody at this moment; or long ago, when the mark alone was removed since.
        (Some(DeletionEnd::Undone), None) => {
            let text = format!("the deletion of {fs} is marked as taken back");
            Err(Error::new(ErrorKind::Conflict, text).hint(format!(
                "`cbfsctl fs show {fs}` shows how it stands; when nobody took it back, remove the object {fs}/{}",
                keys::deletion_end(nth)
            )))
        }
        (end, _) => Ok(Deletion {
            mark,
            collected: end == Some(DeletionEnd::Collected),
        }),
    }
}

/// Take the deletion back: everything is there as before. Costs as [`deletion`], and one or two requests more. Answers what was
/// taken back. After a lost answer it may stand.
///
/// # Errors
/// [`ErrorKind::Conflict`] when it is not deleted (any more), or garbage collection has begun.
pub fn undelete_fs(bucket: &dyn Bucket, fs: &Handle, at: &str) -> Result<Deletion> {
    let deletion = fs_may_be_undeleted(bucket, fs)?;
    let nth = deletion.mark.nth;
    match end_deletion(bucket, fs, nth, DeletionEnd::Undone, at)? {
        DeletionEnd::Undone => Ok(deletion),
        DeletionEnd::Collected => Err(Deletion {
            collected: true,
            ..deletion
        }
        .refusal()),
    }
}

/// What [`undelete_fs`] would take back.
///
/// # Errors
/// As there.
pub fn fs_may_be_undeleted(bucket: &dyn Bucket, fs: &Handle) -> Result<Deletion> {
    match deletion(bucket, fs)? {
        Some(deletion) if !deletion.collected => Ok(deletion),
        Some(deletion) => Err(deletion.refusal()),
        None => {
            let text = format!("{fs} is not deleted");
            Err(Error::new(ErrorKind::Conflict, text)
                .hint("`cbfsctl fs list --deleted` shows those that are"))
        }
    }
}

/// End a deletion in this way; answers how it ended, which may be the other one. A garbage collector calls this, with
/// [`DeletionEnd::Collected`], after its grace and before it removes anything of the file system; it goes on only when that
/// is the answer. Two requests at most, and before [`DeletionEnd::Collected`] a look at the holds: the mark of a deletion
/// may land late, after a hold that its author was told of.
///
/// # Errors
/// [`ErrorKind::Conflict`] when it is to be collected and a snapshot is held. Those of the bucket: the end may stand or not;
/// call again.
pub fn end_deletion(
    bucket: &dyn Bucket,
    fs: &Handle,
    nth: u32,
    end: DeletionEnd,
    at: &str,
) -> Result<DeletionEnd> {
    if end == DeletionEnd::Collected {
        none_is_held(bucket, fs)?;
    }
    let mark = FsMark::new(fs.clone(), nth, Some(end), None, at.to_owned());
    let key = keys::absolute(fs, &keys::deletion_end(nth))?;
    match create_or_same(bucket, &key, &format::to_sealed_json(&mark)?) {
        Ok(()) => Ok(end),
        Err(BucketError::AlreadyExists { .. }) => match end_of(bucket, fs, nth)? {
            Some(end) => Ok(end),
            None => Err(Error::damage(format!(
                "{key} exists and cannot be found: the bucket contradicts itself"
            ))),
        },
        Err(e) => Err(e.into()),
    }
}

/// As [`find_fs`], for who looks for a deleted one: where several match, those that are not deleted do not count.
///
/// # Errors
/// As there.
pub fn find_deleted_fs(bucket: &dyn Bucket, text: &str) -> Result<Handle> {
    let selector: FsSelector = text.parse()?;
    if selector.handle().is_some() {
        return find_fs(bucket, text);
    }
    select(bucket, &selector, true)
}

/// The one that is meant; where several are, among the deleted or the others.
pub(super) fn select(
    bucket: &dyn Bucket,
    selector: &FsSelector,
    wanted_deleted: bool,
) -> Result<Handle> {
    let all = list_fs(bucket)?;
    let ambiguous = match selector.select(&all) {
        Err(e) if e.kind() == ErrorKind::Conflict => e,
        selected => return selected.cloned(),
    };
    let mut wanted = Vec::new();
    for fs in all.into_iter().filter(|fs| selector.matches(fs)) {
        if deletion(bucket, &fs)?.is_some() == wanted_deleted {
            wanted.push(fs);
        }
    }
    match wanted.as_slice() {
        [] => Err(ambiguous),
        some => selector.select(some).cloned(),
    }
}

enum State {
    /// The number of the deletion that may come.
    Live(u32),
    Deleted(Deletion),
}

fn state(bucket: &dyn Bucket, fs: &Handle) -> Result<State> {
    read_state(bucket, fs).map_err(|e| match e.kind() {
        ErrorKind::Damage => e.hint(
            "a deletion removes nothing by itself: where you know that it was taken back, remove the named mark and \
             its other half (`deleted/fs.NNNN.json`, `deleted/fs.NNNN.end.json`), both",
        ),
        _ => e,
    })
}

fn read_state(bucket: &dyn Bucket, fs: &Handle) -> Result<State> {
    for nth in 1..u32::MAX {
        let key = keys::absolute(fs, &keys::deleted_fs(nth))?;
        let Some(mark) = get_document::<FsMark>(bucket, &key)? else {
            return Ok(State::Live(nth));
        };
        promised(
            &key,
            mark.fs == *fs && mark.nth == nth && mark.end.is_none(),
            || format!("deletion {} of {}", mark.nth, mark.fs),
        )?;
        let collected = match end_of(bucket, fs, nth)? {
            Some(DeletionEnd::Undone) => continue,
            Some(DeletionEnd::Collected) => true,
            None => false,
        };
        return Ok(State::Deleted(Deletion { mark, collected }));
    }
    Err(Error::failed(format!("{fs} was deleted too often")))
}

fn end_of(bucket: &dyn Bucket, fs: &Handle, nth: u32) -> Result<Option<DeletionEnd>> {
    let key = keys::absolute(fs, &keys::deletion_end(nth))?;
    let Some(mark) = get_document::<FsMark>(bucket, &key)? else {
        return Ok(None);
    };
    let describe = || format!("deletion {} of {}", mark.nth, mark.fs);
    promised(&key, mark.fs == *fs && mark.nth == nth, describe)?;
    match mark.end {
        Some(end) => Ok(Some(end)),
        None => Err(Error::damage(format!(
            "{key} is damaged: it does not say how the deletion ended"
        ))),
    }
}
