//! Marks about a snapshot or a whole file system: `deleted/…` and `holds/…`. Create-only, like everything that decides
//! what may be removed: a mark is never taken back, a hold is released and a deletion of a file system is ended by
//! another mark.

use super::epoch::BaseSnapshot;
use super::{FORMAT, Features};
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber};
use serde::{Deserialize, Serialize};

/// One mark. What it says stands in its key; this is the record for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMark {
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
    /// Why, in somebody's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Host name of the machine that made the mark.
    pub host: String,
    /// RFC 3339, by that machine's clock.
    pub created_at: String,
    /// Program and version.
    pub writer: String,
}

impl SnapshotMark {
    /// A mark of the current format.
    pub fn new(
        fs: Handle,
        snapshot: BaseSnapshot,
        reason: Option<String>,
        created_at: String,
    ) -> SnapshotMark {
        SnapshotMark {
            format: FORMAT,
            features: Features::default(),
            fs,
            number: snapshot.number,
            epoch: snapshot.epoch,
            reason,
            host: crate::environment::host_name(),
            created_at,
            writer: super::manifest::writer(),
        }
    }

    /// The snapshot it is about.
    pub fn snapshot(&self) -> BaseSnapshot {
        BaseSnapshot {
            number: self.number,
            epoch: self.epoch,
        }
    }
}

/// How a deletion of a file system ended. Both outcomes have one key, so that it is one of them: who takes a deletion
/// back and a garbage collector that begins cannot both succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletionEnd {
    /// A person took it back: the file system is there as before.
    Undone,
    /// Garbage collection has begun: objects are going, there is no way back.
    Collected,
}

/// A mark about a whole file system: its nth deletion, or how that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsMark {
    /// Format of this document.
    pub format: u32,
    /// Features a reader must know.
    pub features: Features,
    /// The file system.
    pub fs: Handle,
    /// Which of its deletions, from 1.
    pub nth: u32,
    /// In the mark of its end: how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<DeletionEnd>,
    /// Why, in somebody's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Host name of the machine that made the mark.
    pub host: String,
    /// RFC 3339, by that machine's clock.
    pub created_at: String,
    /// Program and version.
    pub writer: String,
}

impl FsMark {
    /// A mark of the current format.
    pub fn new(
        fs: Handle,
        nth: u32,
        end: Option<DeletionEnd>,
        reason: Option<String>,
        created_at: String,
    ) -> FsMark {
        FsMark {
            format: FORMAT,
            features: Features::default(),
            fs,
            nth,
            end,
            reason,
            host: crate::environment::host_name(),
            created_at,
            writer: super::manifest::writer(),
        }
    }
}
