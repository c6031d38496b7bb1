//! Node ids (and with them inode numbers) of what lies below `.cbfs`.
//!
//! An inode number of CBFS has the epoch in its upper 16 bits, of which the highest is never set (epochs stay
//! below 0x8000). Here it is set, the other 15 are a *slot*, and the lower 48 bits are those of the inode.
//! Slot 0 has the directories `.cbfs` and `.cbfs/snapshots` themselves. Each other slot stands for a snapshot, seen
//! by number or by name, and an epoch of its inodes. Slots are given when they are first seen and stay for
//! the life of the mount: a number never comes to mean another file, whatever the kernel has forgotten. The highest
//! slot is that of fresh node ids of the mounted instance (`mounted::versions`).

use crate::mounted::is_fresh;
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::ids::Ino;
use parking_lot::RwLock;
use std::collections::HashMap;

/// Set in all node ids below `.cbfs`.
const TAG: u64 = 1 << 63;
const SLOT_SHIFT: u32 = 48;
const LOW: u64 = (1 << SLOT_SHIFT) - 1;
const MAX_SLOT: usize = 0x7ffe;

/// The directory `.cbfs`.
pub(super) const CONTROL: u64 = TAG | 1;
/// The directory `.cbfs/snapshots`.
pub(super) const SNAPSHOTS: u64 = TAG | 2;

/// A snapshot as it was reached. By name and by number are two directories: the kernel wants one name for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct View {
    pub(super) snapshot: BaseSnapshot,
    pub(super) by_name: bool,
}

/// What a node id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// `.cbfs`.
    Control,
    /// `.cbfs/snapshots`.
    Snapshots,
    /// An inode of a snapshot.
    Inside(View, Ino),
}

/// Whether a node id is `.cbfs` or lies below it.
pub(crate) fn is_ours(node: u64) -> bool {
    node & TAG != 0 && !is_fresh(node)
}

/// Which slot is what.
#[derive(Debug, Default)]
pub(super) struct Nodes(RwLock<Slots>);

#[derive(Debug, Default)]
struct Slots {
    /// The one of slot 1 first.
    all: Vec<(View, u16)>,
    numbers: HashMap<(View, u16), usize>,
}

impl Nodes {
    /// What a node id of ours stands for; `None` when it was never given.
    pub(super) fn resolve(&self, node: u64) -> Option<Node> {
        match node {
            CONTROL => return Some(Node::Control),
            SNAPSHOTS => return Some(Node::Snapshots),
            _ => {}
        }
        let slot = ((node & !TAG) >> SLOT_SHIFT) as usize;
        let (view, epoch) = *self.0.read().all.get(slot.checked_sub(1)?)?;
        let ino = Ino(u64::from(epoch) << SLOT_SHIFT | (node & LOW));
        Some(Node::Inside(view, ino))
    }

    /// The node id of an inode of a snapshot; `None` when all slots are taken.
    pub(super) fn of(&self, view: View, ino: Ino) -> Option<u64> {
        let key = (view, (ino.0 >> SLOT_SHIFT) as u16);
        let known = self.0.read().numbers.get(&key).copied();
        let slot = match known {
            Some(slot) => slot,
            None => {
                let mut slots = self.0.write();
                match slots.numbers.get(&key) {
                    Some(slot) => *slot,
                    None if slots.all.len() == MAX_SLOT => return None,
                    None => {
                        slots.all.push(key);
                        let slot = slots.all.len();
                        slots.numbers.insert(key, slot);
                        slot
                    }
                }
            }
        };
        Some(TAG | (slot as u64) << SLOT_SHIFT | (ino.0 & LOW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::ids::{Epoch, SnapshotNumber};
    use std::collections::HashSet;

    fn view(number: u64, by_name: bool) -> View {
        View {
            snapshot: BaseSnapshot {
                number: SnapshotNumber(number),
                epoch: Epoch(1),
            },
            by_name,
        }
    }

    #[test]
    fn every_inode_of_every_snapshot_has_a_number_of_its_own_that_stays() {
        let nodes = Nodes::default();
        let mut given = HashSet::from([CONTROL, SNAPSHOTS]);
        for number in 1..50 {
            for by_name in [false, true] {
                for ino in [
                    Ino::ROOT,
                    Ino(1 << 48 | 1),
                    Ino(1 << 48 | 77),
                    Ino(0x7fff << 48 | LOW),
                ] {
                    let view = view(number, by_name);
                    let node = nodes.of(view, ino).unwrap();
                    assert!(is_ours(node) && !is_ours(ino.0));
                    assert!(given.insert(node));
                    assert_eq!(nodes.of(view, ino), Some(node));
                    assert_eq!(nodes.resolve(node), Some(Node::Inside(view, ino)));
                }
            }
        }
        assert_eq!(nodes.resolve(TAG | 0x7000 << SLOT_SHIFT | 5), None);
        assert_eq!(nodes.resolve(TAG | 3), None);
    }

    #[test]
    fn when_all_slots_are_taken_nothing_is_given_twice() {
        let nodes = Nodes::default();
        for number in 0..MAX_SLOT as u64 {
            assert!(nodes.of(view(number, false), Ino::ROOT).is_some());
        }
        assert_eq!(nodes.of(view(1 << 20, false), Ino::ROOT), None);
        assert!(nodes.of(view(7, false), Ino(9)).is_some());
    }
}
