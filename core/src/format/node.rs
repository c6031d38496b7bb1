//! `nodes/<node>.json`: the last sign of life of a node. The one object that is replaced, and optional: for people, never
//! a ground for a decision.

use super::{FORMAT, Features};
use crate::api::Role;
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber};
use crate::inode::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Who was heard of less than this ago looks alive: signs are written every three minutes.
pub const LIFE: Duration = Duration::from_secs(300);

/// What a node says of its instances of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSign {
    /// Format of this document.
    pub format: u32,
    /// Features a reader must know.
    pub features: Features,
    /// The file system.
    pub fs: Handle,
    /// The node.
    pub node: String,
    /// Host name of the node.
    pub host: String,
    /// RFC 3339, by the node's clock.
    pub written_at: String,
    /// Its instances of the file system; none: the last has gone.
    pub instances: Vec<InstanceSign>,
    /// Bytes of the disk that holds its state directory.
    pub disk_bytes: u64,
    /// Bytes free on it.
    pub free_bytes: u64,
    /// Program and version.
    pub writer: String,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSign {
    /// Its id on the node.
    pub id: String,
    /// Master or slave.
    pub role: Role,
    /// The master's epoch; of a slave the epoch of its snapshot.
    pub epoch: Epoch,
    /// The last complete snapshot of a master, the one that a slave shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotNumber>,
    /// Of a master: transactions since that snapshot's cut.
    #[serde(default)]
    pub unpublished: u64,
    /// Where it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<PathBuf>,
    /// Of a slave that follows: it looks for a new snapshot this often, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<u64>,
}

impl NodeSign {
    /// The current format number, for writers.
    pub const FORMAT: u32 = FORMAT;

    /// Whether the node looks alive by this sign, at a time by the reader's clock. A sign of the future (clocks differ) counts.
    pub fn is_of_late(&self, now: Timestamp) -> bool {
        Timestamp::parse_rfc3339(&self.written_at)
            .is_some_and(|at| now.0.saturating_sub(at.0) < LIFE.as_nanos() as i64)
    }
}
