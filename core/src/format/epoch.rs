//! `epochs/<epoch>.json`: the create-only claim of a master; `epochs/<epoch>.base.json`: the
//! snapshot its epoch starts from.

use super::{FORMAT, Features};
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber};
use serde::{Deserialize, Serialize};

/// A claim: whoever creates it is master of that epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochClaim {
    /// Format of this document.
    pub format: u32,
    /// Features a reader must know.
    pub features: Features,
    /// The file system.
    pub fs: Handle,
    /// The epoch claimed.
    pub epoch: Epoch,
    /// The node that claims it.
    pub node: String,
    /// Host name of the node, for people.
    pub host: String,
    /// Random; tells a claim of ours after a lost response from one of another's.
    pub nonce: String,
    /// RFC 3339, by the claimant's clock: for people only.
    pub claimed_at: String,
    /// A person sees to it that there is one master: the store is not asked whether it does. Holds for later epochs
    /// too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub split_brain_prevented_by_hand: bool,
}

impl EpochClaim {
    /// Build a claim of the current format.
    pub fn new(
        fs: Handle,
        epoch: Epoch,
        node: String,
        host: String,
        nonce: String,
        claimed_at: String,
    ) -> Self {
        EpochClaim {
            format: FORMAT,
            features: Features::default(),
            fs,
            epoch,
            node,
            host,
            nonce,
            claimed_at,
            split_brain_prevented_by_hand: false,
        }
    }

    /// The same, on the word of a person that there is never more than one master.
    #[must_use]
    pub fn prevented_by_hand(mut self, word: bool) -> Self {
        self.split_brain_prevented_by_hand = word;
        self
    }
}

/// Which snapshot an epoch starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochBase {
    /// Format of this document.
    pub format: u32,
    /// Features a reader must know.
    pub features: Features,
    /// The epoch.
    pub epoch: Epoch,
    /// The snapshot and the epoch that published it; `None` for an empty file system.
    pub base: Option<BaseSnapshot>,
}

/// A snapshot by number and publishing epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BaseSnapshot {
    /// Its number.
    pub number: SnapshotNumber,
    /// The epoch that published it.
    pub epoch: Epoch,
}
