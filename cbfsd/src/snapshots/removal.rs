//! Objects of attempts that came to nothing are removed from the bucket, as well as may be: once, after the
//! request has failed or was cancelled. What stays (the bucket does not answer, the daemon dies) is garbage
//! collection's.
//!
//! Three invariants stand before each removal: [`never_offered`], [`lies_in_attempt`] and
//! [`SnapshotService::has_no_manifest`].

use super::SnapshotService;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::keys;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::snapshot::{SnapshotState, StatusEvent, StatusLine};
use std::collections::BTreeMap;
use std::fs;

/// What a status log tells of one attempt.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tried {
    /// Objects that were made, which may have arrived: key below the file system's prefix, and bytes.
    objects: BTreeMap<String, u64>,
    /// It came to `copying`.
    offered: bool,
}

/// What became of the objects.
#[derive(Debug, Default)]
struct Removed {
    objects: u64,
    bytes: u64,
    left: u64,
    reason: Option<String>,
}

/// The attempts that a status log names, by id. Lines of a newer version are skipped: what they tell of is not
/// removed.
fn attempts(log: &[u8]) -> BTreeMap<String, Tried> {
    let mut all: BTreeMap<String, Tried> = BTreeMap::new();
    let mut current = None;
    for line in log.split(|b| *b == b'\n') {
        let Ok(line) = serde_json::from_slice::<StatusLine>(line) else {
            continue;
        };
        if let StatusEvent::Attempt { attempt, .. } = &line.event {
            current = Some(attempt.clone());
        }
        let Some(attempt) = &current else { continue };
        let tried = all.entry(attempt.clone()).or_default();
        match line.event {
            StatusEvent::ObjectMade { key, size } | StatusEvent::ObjectSent { key, size } => {
                tried.objects.insert(key, size);
            }
            StatusEvent::State {
                state: SnapshotState::Copying | SnapshotState::Complete,
            } => tried.offered = true,
            _ => {}
        }
    }
    all
}

/// Invariant: objects are removed only of an attempt that never came to `copying`, a durable line before the
/// PUT of its manifest. Such a PUT may land long after its answer was lost: the snapshot would exist and lack
/// its objects.
fn never_offered(tried: &Tried) -> bool {
    !tried.offered
}

/// Invariant: an object is removed only from the folder of its own attempt, which no other attempt writes to
/// and only the manifest of this one refers to. A damaged log could name objects that other snapshots need.
fn lies_in_attempt(key: &str, number: SnapshotNumber, epoch: Epoch, attempt: &str) -> bool {
    let rest = key.strip_prefix(&keys::attempt_prefix(number, epoch, attempt));
    rest.is_some_and(|name| !name.is_empty() && !name.contains('/') && !attempt.is_empty())
}

impl SnapshotService {
    /// Remove what a request has sent that failed or was cancelled, and note it in its log.
    pub(super) fn remove_what_was_sent(&self, number: SnapshotNumber) {
        let done = match self.remove_objects_of(number) {
            Ok(done) => done,
            Err(e) => {
                tracing::warn!(fs = %self.fs, snapshot = %number, causes = ?e.causes(), "{e}");
                return;
            }
        };
        if done.objects + done.left == 0 {
            return;
        }
        let event = StatusEvent::ObjectsRemoved {
            objects: done.objects,
            bytes: done.bytes,
            left: done.left,
            reason: done.reason,
        };
        if let Err(e) = self.record(number, event) {
            tracing::warn!(fs = %self.fs, snapshot = %number, causes = ?e.causes(), "{e}");
        }
    }

    fn remove_objects_of(&self, number: SnapshotNumber) -> Result<Removed> {
        let epoch = self.status(number)?.epoch;
        let path = self.state.lock().requests.path(number);
        let path = path.ok_or_else(|| self.unknown(number))?;
        let log = fs::read(&path).context(|| format!("{} could not be read", path.display()))?;
        let mut done = Removed::default();
        for (attempt, tried) in attempts(&log) {
            let mine = tried.objects.iter();
            let mine = mine.filter(|(key, _)| lies_in_attempt(key, number, epoch, &attempt));
            for (key, size) in mine {
                if done.reason.is_none() && !never_offered(&tried) {
                    done.reason = Some("its manifest may still be created".to_owned());
                }
                if done.reason.is_none()
                    && let Err(e) = self.remove_object(key, number, epoch)
                {
                    let causes: String = e.causes().iter().map(|c| format!(": {c}")).collect();
                    done.reason = Some(format!("{e}{causes}"));
                }
                if done.reason.is_none() {
                    done.objects += 1;
                    done.bytes += size;
                } else {
                    done.left += 1;
                }
            }
        }
        Ok(done)
    }

    fn remove_object(&self, key: &str, number: SnapshotNumber, epoch: Epoch) -> Result<()> {
        if self.stopping() {
            return Err(Error::failed("the daemon stops"));
        }
        self.has_no_manifest(number, epoch)?;
        let key = keys::absolute(&self.fs, key)?;
        self.bucket.delete(&key).map_err(Error::from)
    }

    /// Invariant: nothing is removed of a snapshot that exists. Its objects are what it consists of.
    fn has_no_manifest(&self, number: SnapshotNumber, epoch: Epoch) -> Result<()> {
        let key = keys::absolute(&self.fs, &keys::manifest(number, epoch))?;
        match self.bucket.head(&key)? {
            None => Ok(()),
            Some(_) => Err(Error::new(
                ErrorKind::Conflict,
                format!("{key} exists: its objects stay"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(events: &[&str]) -> Vec<u8> {
        let line = |event: &&str| format!("{{\"at\":\"2026-01-01T00:00:00Z\",{event}}}\n");
        events.iter().map(line).collect::<String>().into_bytes()
    }

    #[test]
    fn each_attempt_has_its_own_objects_and_only_copying_makes_it_untouchable() {
        let log = lines(&[
            r#""event":"requested","number":7,"kind":"user","epoch":1"#,
            r#""event":"state","state":"queued""#,
            r#""event":"attempt","attempt":"aa","boot_id":"b""#,
            r#""event":"state","state":"collected""#,
            r#""event":"object_made","key":"s/0000000007-e1-aa/0001.tar.zst","size":5"#,
            r#""event":"object_sent","key":"s/0000000007-e1-aa/0001.tar.zst","size":5"#,
            r#""event":"attempt","attempt":"bb","boot_id":"b""#,
            r#""event":"object_made","key":"s/0000000007-e1-bb/0001.tar.zst","size":6"#,
            r#""event":"state","state":"copying""#,
            r#""event":"something_newer","key":"x""#,
        ]);
        let all = attempts(&log);
        assert_eq!(all.len(), 2);
        assert!(never_offered(&all["aa"]) && !never_offered(&all["bb"]));
        assert_eq!(all["aa"].objects.len(), 1);
        assert!(
            all["bb"]
                .objects
                .contains_key("s/0000000007-e1-bb/0001.tar.zst")
        );
    }

    #[test]
    fn only_names_directly_in_the_folder_of_the_attempt_may_go() {
        let may = |key| lies_in_attempt(key, SnapshotNumber(7), Epoch(1), "aa");
        assert!(may("s/0000000007-e1-aa/0001.tar.zst"));
        for key in [
            "s/0000000007-e1-aa/",
            "s/0000000007-e1-bb/0001.tar.zst",
            "s/0000000006-e1-aa/0001.tar.zst",
            "s/0000000007-e2-aa/0001.tar.zst",
            "s/0000000007-e1-aa/../0000000006-e1-aa/0001.tar.zst",
            "m/0000000007-e1.json",
            "",
        ] {
            assert!(!may(key), "{key}");
        }
        let none = "s/0000000007-e1-/x";
        assert!(!lies_in_attempt(none, SnapshotNumber(7), Epoch(1), ""));
    }
}
