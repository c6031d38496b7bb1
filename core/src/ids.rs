//! Newtypes for the numbers of CBFS. Neither an [`Ino`] nor a [`Xid`] is ever reused: their upper
//! 16 bits are the epoch that handed them out, so two masters can never collide.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Bits of an inode number or xid below the epoch.
pub const EPOCH_SHIFT: u32 = 48;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Inode number. [`Ino::ROOT`] is the root directory of every file system.
    Ino, u64
);
number!(
    /// Transaction id: every mutating operation gets the next one.
    Xid, u64
);
number!(
    /// One tenure of one master. The first is 1; 0 means "before any master".
    Epoch, u16
);
number!(
    /// Number of a snapshot: monotonic within a file system, first is 1.
    SnapshotNumber, u64
);

impl Ino {
    /// The root directory (also FUSE's fixed root node id).
    pub const ROOT: Ino = Ino(1);

    /// The first inode number that `epoch` may hand out.
    pub fn first_of(epoch: Epoch) -> Ino {
        Ino((u64::from(epoch.0) << EPOCH_SHIFT) + 1)
    }
}

impl Xid {
    /// The xid before the first one that `epoch` may hand out.
    pub fn floor_of(epoch: Epoch) -> Xid {
        Xid(u64::from(epoch.0) << EPOCH_SHIFT)
    }

    /// The epoch that handed this xid out.
    pub fn epoch(self) -> Epoch {
        Epoch((self.0 >> EPOCH_SHIFT) as u16)
    }

    /// The xid after this one.
    pub fn next(self) -> Xid {
        Xid(self.0 + 1)
    }
}
