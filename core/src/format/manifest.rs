//! `m/<number>-e<epoch>.json`: the object whose creation commits a cloud snapshot. It is written
//! last, and mounting the snapshot needs this one object.

use super::epoch::BaseSnapshot;
use super::{FORMAT, Features, ObjectRef};
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber, Xid};
use crate::snapshot::SnapshotKind;
use serde::{Deserialize, Serialize};

/// Program and version, as documents name their writer.
pub fn writer() -> String {
    concat!("cbfs ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// A range of xids, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct XidRange {
    /// The first.
    pub from: Xid,
    /// The last: the cut.
    pub to: Xid,
}

/// A layer object and the snapshots it covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// First snapshot of the run it covers.
    pub from: SnapshotNumber,
    /// Last snapshot of the run it covers.
    pub to: SnapshotNumber,
}

/// What a snapshot holds and what it cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Inodes created or changed since the parent.
    pub changed_inodes: u64,
    /// Inodes removed since the parent.
    pub removed_inodes: u64,
    /// Bytes of file data in this snapshot's tarballs, uncompressed.
    pub data_bytes: u64,
    /// Bytes of all objects of this snapshot as stored, without the manifest.
    pub stored_bytes: u64,
    /// Data tarballs.
    pub tarballs: u64,
    /// Sections.
    pub sections: u64,
    /// Inodes alive in the whole file system at the cut.
    pub inodes: u64,
    /// Sum of the sizes of all files at the cut.
    pub logical_bytes: u64,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this document.
    pub format: u32,
    /// Features a reader must know.
    pub features: Features,
    /// The file system.
    pub fs: Handle,
    /// The snapshot's number.
    pub number: SnapshotNumber,
    /// The epoch that published it.
    pub epoch: Epoch,
    /// The attempt whose objects it names.
    pub attempt: String,
    /// Its name, unique within the file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who asked for it.
    pub kind: SnapshotKind,
    /// The transactions in it since the parent.
    pub xid: XidRange,
    /// The snapshot it builds on; `None` for the first.
    pub parent: Option<BaseSnapshot>,
    /// RFC 3339; later than the parent's by at least a nanosecond, whatever the clock says.
    pub created_at: String,
    /// The node that made it.
    pub node: String,
    /// The layer stack, newest first: all that a mount needs.
    pub layers: Vec<LayerRef>,
    /// The TOC of this snapshot; `None` when it has no data of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toc: Option<ObjectRef>,
    /// The metadata tarball; `None` when nothing changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_tarball: Option<ObjectRef>,
    /// The change log; `None` when nothing changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<ObjectRef>,
    /// The status log of the request, up to `written`, where it is short: its lines as they are. An object of its own
    /// would cost a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_log: Option<String>,
    /// The same as an object, where it is longer than [`Manifest::LONGEST_STATUS_LOG`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ObjectRef>,
    /// Sums.
    pub totals: Totals,
    /// Program and version.
    pub writer: String,
}

impl Manifest {
    /// The snapshot as others refer to it.
    pub fn id(&self) -> BaseSnapshot {
        BaseSnapshot {
            number: self.number,
            epoch: self.epoch,
        }
    }

    /// The current format number, for writers.
    pub const FORMAT: u32 = FORMAT;

    /// Up to so many bytes the status log stands in the manifest. A snapshot without trouble writes some 2 KiB; what is
    /// longer would weigh on everybody who reads many manifests.
    pub const LONGEST_STATUS_LOG: usize = 8 << 10;
}
