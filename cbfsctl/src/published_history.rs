//! The published change log of a file system as runs of logs that follow each other, and the gaps between them.
//!
//! Logs of deleted snapshots count: deleting marks a snapshot, and what happened has happened. Once garbage
//! collection has taken such a log there is a gap, which is told and never skipped in silence.

use cbfs_core::Result;
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog::HistoricSnapshot;
use cbfs_core::format::keys;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::Handle;
use cbfs_core::ids::{SnapshotNumber, Xid};
use serde::Serialize;

/// Transactions that no log has any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    /// The first.
    pub(crate) from: Xid,
    /// The last.
    pub(crate) to: Xid,
    /// The snapshot whose log had them, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<SnapshotNumber>,
    /// Why they are not there.
    pub(crate) reason: &'static str,
}

/// Logs that follow each other.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// What is missing before them.
    pub(crate) gaps: Vec<Gap>,
    /// Their manifests, oldest first.
    pub(crate) logs: Vec<Manifest>,
}

/// The runs that have transactions from `from` to `to` (both included) of snapshots that `wanted` wants. At least
/// one; asks the bucket whether the logs of deleted snapshots are still there (a HEAD each).
///
/// # Errors
/// Those of the bucket.
pub(crate) fn runs(
    bucket: &dyn Bucket,
    fs: &Handle,
    history: &[HistoricSnapshot],
    (from, to): (Xid, Xid),
    wanted: impl Fn(&Manifest) -> bool,
) -> Result<Vec<Run>> {
    let mut runs = vec![Run::default()];
    let mut before: Option<Xid> = None;
    for snapshot in history {
        let Some(manifest) = &snapshot.manifest else {
            continue; // what follows it does not follow what was before it
        };
        let range = manifest.xid;
        let follows = before.replace(range.to);
        if range.from > to || range.to < from || !wanted(manifest) {
            continue;
        }
        let mut gaps: Vec<Gap> = follows
            .filter(|last| same_epoch(*last, range.from) && last.next() < range.from)
            .map(|last| Gap {
                from: last.next(),
                to: Xid(range.from.0 - 1),
                snapshot: None,
                reason: "the manifest of the snapshot that had them cannot be read",
            })
            .into_iter()
            .filter(|gap| gap.to >= from)
            .collect();
        let there = !snapshot.deleted || log_is_there(bucket, fs, manifest)?;
        if !there {
            gaps.push(Gap {
                from: range.from,
                to: range.to,
                snapshot: Some(manifest.number),
                reason: "the snapshot is deleted, and its log was removed",
            });
        }
        if !gaps.is_empty() {
            match runs.last_mut() {
                Some(run) if run.logs.is_empty() => run.gaps.extend(gaps),
                _ => runs.push(Run {
                    gaps,
                    logs: Vec::new(),
                }),
            }
        }
        if there && let Some(run) = runs.last_mut() {
            run.logs.push(manifest.clone());
        }
    }
    Ok(runs)
}

/// A new epoch begins with a jump.
fn same_epoch(a: Xid, b: Xid) -> bool {
    a.0 >> 48 == b.0 >> 48
}

fn log_is_there(bucket: &dyn Bucket, fs: &Handle, manifest: &Manifest) -> Result<bool> {
    let Some(log) = &manifest.log else {
        return Ok(true); // nothing had changed
    };
    Ok(bucket.head(&keys::absolute(fs, &log.key)?)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::bucket::{Body, BucketUrl, open};
    use cbfs_core::format::epoch::BaseSnapshot;
    use serde_json::json;

    const FS: &str = "home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";

    /// Gaps before it, and numbers of the logs.
    type ToldRun = (Vec<(u64, u64)>, Vec<u64>);

    fn snapshot(number: u64, deleted: bool, from: u64, to: u64) -> HistoricSnapshot {
        let manifest: Manifest = serde_json::from_value(json!({
            "format": 1, "features": {}, "fs": FS, "number": number, "epoch": 1,
            "attempt": "0123456789ab", "kind": "user", "xid": {"from": from, "to": to},
            "parent": null, "created_at": "2025-01-01T00:00:02.5Z", "node": "a", "layers": [],
            "log": {"key": format!("s/{number}/log"), "size": 1, "blake3": "0".repeat(64)},
            "totals": {"changed_inodes": 1, "removed_inodes": 0, "data_bytes": 5, "tarballs": 1,
                "stored_bytes": 1, "sections": 1, "inodes": 1, "logical_bytes": 1},
            "writer": "cbfs",
        }))
        .unwrap();
        HistoricSnapshot {
            deleted,
            id: BaseSnapshot {
                number: manifest.number,
                epoch: manifest.epoch,
            },
            manifest: Some(manifest),
        }
    }

    #[test]
    fn deleted_snapshots_count_while_their_log_is_there_and_gaps_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let url: BucketUrl = format!("file://{}", dir.path().display()).parse().unwrap();
        let bucket = open(&url, false).unwrap();
        let fs: Handle = FS.parse().unwrap();
        let key = keys::absolute(&fs, "s/2/log").unwrap();
        bucket.create(&key, Body::Bytes(b"x")).unwrap();
        let mut history = vec![
            snapshot(1, false, 1, 10),
            snapshot(2, true, 11, 20),
            snapshot(3, true, 21, 30),
            snapshot(4, false, 31, 40),
            snapshot(5, true, 41, 50),
            snapshot(6, false, 51, 60),
        ];
        history[4].manifest = None;
        let told = |from, to| -> Vec<ToldRun> {
            let found = runs(&*bucket, &fs, &history, (Xid(from), Xid(to)), |_| true).unwrap();
            let told = |run: &Run| {
                let gaps = run.gaps.iter().map(|g| (g.from.0, g.to.0)).collect();
                (gaps, run.logs.iter().map(|m| m.number.0).collect())
            };
            found.iter().map(told).collect()
        };
        assert_eq!(
            told(0, 99),
            [
                (vec![], vec![1, 2]),
                (vec![(21, 30)], vec![4]),
                (vec![(41, 50)], vec![6])
            ]
        );
        assert_eq!(told(25, 35), [(vec![(21, 30)], vec![4])]);
        assert_eq!(told(35, 38), [(vec![], vec![4])]);
        assert_eq!(told(52, 99), [(vec![], vec![6])]);
        assert_eq!(told(70, 99), [(vec![], vec![])]);
    }
}
