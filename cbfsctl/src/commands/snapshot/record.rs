//! What is known of a snapshot from two sides: the request's status log (the daemon) and the
//! manifest (the bucket).

use crate::output::{printable, to_the_second};
use crate::quantities;
use crate::snapshot_watch::glyph;
use crate::table::{Align, Table};
use cbfs_core::api::SnapshotInfo;
use cbfs_core::catalog::Hold;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::snapshot::{SnapshotState, StatusLine};
use serde::Serialize;
use std::collections::BTreeMap;

/// A snapshot, with at least one side known.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SnapshotRecord {
    /// Its number.
    pub(super) number: SnapshotNumber,
    /// The epoch that made it.
    pub(super) epoch: Epoch,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// `complete` when there is a manifest, whatever the request says: the manifest's existence
    /// is the snapshot.
    pub(super) state: SnapshotState,
    /// The request, where this node's daemon knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<SnapshotInfo>,
    /// The manifest, where it is in the bucket and the bucket was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<Manifest>,
    /// Marked deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
    /// Published by a master that was superseded, beyond what the next epoch builds on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) diverged: bool,
    /// The holds that stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) holds: Vec<Hold>,
    /// The whole status log, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<Vec<StatusLine>>,
}

impl SnapshotRecord {
    /// From the request alone.
    pub(super) fn of_request(request: SnapshotInfo) -> SnapshotRecord {
        SnapshotRecord {
            number: request.number,
            epoch: request.epoch,
            name: request.name.clone(),
            state: request.state,
            request: Some(request),
            manifest: None,
            deleted: false,
            diverged: false,
            holds: Vec::new(),
            log: None,
        }
    }

    /// From the manifest alone.
    pub(super) fn of_manifest(manifest: Manifest) -> SnapshotRecord {
        SnapshotRecord {
            number: manifest.number,
            epoch: manifest.epoch,
            name: manifest.name.clone(),
            state: SnapshotState::Complete,
            request: None,
            manifest: Some(manifest),
            deleted: false,
            diverged: false,
            holds: Vec::new(),
            log: None,
        }
    }

    /// When: of a complete one the time it stands for, else of the request.
    fn time(&self) -> String {
        match (&self.manifest, &self.request) {
            (Some(manifest), _) => to_the_second(&manifest.created_at),
            (None, Some(request)) => to_the_second(&request.requested_at),
            (None, None) => String::new(),
        }
    }

    /// Its state as glyph and word; of a queued request also its place.
    pub(super) fn state_in_words(&self) -> String {
        let place = self.request.as_ref().map_or(0, |r| r.queue_place);
        let place = match (self.state, place) {
            (SnapshotState::Queued, 1..) => format!(", place {place}"),
            _ => String::new(),
        };
        format!("{} {}{place}", glyph(self.state), self.state.name())
    }

    /// What to remark: where it stands, or why it failed.
    fn remark(&self) -> String {
        if self.deleted {
            return "deleted".to_owned();
        }
        if self.diverged {
            return format!("diverged: of epoch {}, after it was superseded", self.epoch);
        }
        if let Some(hold) = self.holds.last() {
            return match &hold.mark.reason {
                Some(reason) => format!("held: {}", printable(reason)),
                None => "held".to_owned(),
            };
        }
        let Some(request) = &self.request else {
            return String::new();
        };
        match self.state {
            SnapshotState::Failed | SnapshotState::Cancelled => {
                printable(request.reason.as_deref().unwrap_or_default())
            }
            _ if request.cancelling => "being cancelled".to_owned(),
            SnapshotState::Writing if request.bytes_total > 0 => {
                format!(
                    "{}%",
                    request.bytes_done.min(request.bytes_total) * 100 / request.bytes_total
                )
            }
            SnapshotState::Copying if request.made_bytes > 0 => {
                format!(
                    "{}%",
                    request.sent_bytes.min(request.made_bytes) * 100 / request.made_bytes
                )
            }
            _ => String::new(),
        }
    }
}

/// Bring both sides together: by number, then epoch (two masters may have used one number).
pub(super) fn merge(requests: Vec<SnapshotInfo>, manifests: Vec<Manifest>) -> Vec<SnapshotRecord> {
    let mut records: BTreeMap<(SnapshotNumber, Epoch), SnapshotRecord> = manifests
        .into_iter()
        .map(|m| ((m.number, m.epoch), SnapshotRecord::of_manifest(m)))
        .collect();
    for request in requests {
        match records.get_mut(&(request.number, request.epoch)) {
            Some(record) => record.request = Some(request),
            None => {
                let key = (request.number, request.epoch);
                records.insert(key, SnapshotRecord::of_request(request));
            }
        }
    }
    records.into_values().collect()
}

/// The records as a table.
pub(super) fn record_table(records: &[SnapshotRecord]) -> Table {
    let mut table = Table::new(&[
        ("SNAPSHOT", Align::Right),
        ("STATE", Align::Left),
        ("NAME", Align::Left),
        ("TIME", Align::Left),
        ("CHANGED", Align::Right),
        ("STORED", Align::Right),
        ("INODES", Align::Right),
        ("SIZE", Align::Right),
        ("REMARK", Align::Left),
    ]);
    for r in records {
        let total = |f: fn(&cbfs_core::format::manifest::Totals) -> String| match &r.manifest {
            Some(manifest) => f(&manifest.totals),
            None => String::new(),
        };
        table.row([
            r.number.to_string(),
            r.state_in_words(),
            printable(r.name.as_deref().unwrap_or_default()),
            r.time(),
            total(|t| quantities::count(t.changed_inodes + t.removed_inodes)),
            total(|t| quantities::bytes(t.stored_bytes)),
            total(|t| quantities::count(t.inodes)),
            total(|t| quantities::bytes(t.logical_bytes)),
            r.remark(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FS: &str = "home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";

    fn request(number: u64, state: &str) -> SnapshotInfo {
        serde_json::from_value(json!({
            "fs": FS, "number": number, "kind": "user", "state": state, "epoch": 1,
            "requested_at": "2025-01-01T00:00:00.25Z", "updated_at": "2025-01-01T00:00:01Z",
            "bytes_done": 30, "bytes_total": 40, "queue_place": 1, "reason": "403 Forbidden",
        }))
        .unwrap()
    }

    fn manifest(number: u64) -> Manifest {
        serde_json::from_value(json!({
            "format": 1, "features": {}, "fs": FS, "number": number, "epoch": 1,
            "attempt": "0123456789ab", "name": "first", "kind": "user", "xid": {"from": 1, "to": 9},
            "parent": null, "created_at": "2025-01-01T00:00:02.5Z", "node": "a", "layers": [],
            "totals": {"changed_inodes": 1200, "removed_inodes": 34, "data_bytes": 5, "tarballs": 1,
                "stored_bytes": 123456, "sections": 1, "inodes": 20000, "logical_bytes": 99999999},
            "writer": "cbfs",
        }))
        .unwrap()
    }

    #[test]
    fn requests_and_manifests_of_a_snapshot_are_one_line() {
        let requests = vec![
            request(4, "queued"),
            request(3, "writing"),
            request(2, "failed"),
            request(1, "copying"),
        ];
        let records = merge(requests, vec![manifest(1)]);
        insta::assert_snapshot!(record_table(&records).render());
    }

    #[test]
    fn a_manifest_makes_a_snapshot_complete_whatever_the_request_says() {
        let records = merge(vec![request(1, "copying")], vec![manifest(1)]);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].state, SnapshotState::Complete);
        assert!(records[0].request.is_some() && records[0].manifest.is_some());
    }
}
