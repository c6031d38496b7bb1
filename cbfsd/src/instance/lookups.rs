//! What the kernel knows of a mount: how often it was told of each inode and has not yet forgotten it.
//!
//! It belongs to the mount, not to the instance: when another instance takes the mount over, this goes with
//! it, so that what is open stays alive until the kernel forgets it.

use cbfs_core::ids::Ino;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;

/// Lookup counts by inode; none is 0.
#[derive(Debug, Default)]
pub struct Lookups(Mutex<FxHashMap<Ino, u64>>);

impl Lookups {
    /// The kernel was told of the inode once more.
    pub(super) fn raise(&self, ino: Ino) {
        *self.0.lock().entry(ino).or_insert(0) += 1;
    }

    /// The kernel forgot `count` lookups; answers whether it knows nothing of the inode now.
    pub(super) fn lower(&self, ino: Ino, count: u64) -> bool {
        match self.0.lock().entry(ino) {
            Entry::Occupied(mut left) if *left.get() > count => {
                *left.get_mut() -= count;
                false
            }
            Entry::Occupied(left) => {
                left.remove();
                true
            }
            Entry::Vacant(_) => true,
        }
    }

    /// How often the kernel was told of the inode and has not forgotten it.
    pub fn of(&self, ino: Ino) -> u64 {
        self.0.lock().get(&ino).copied().unwrap_or(0)
    }

    /// All inodes the kernel knows, in no order. The root, which it always knows, need not be among them.
    pub fn known(&self) -> Vec<Ino> {
        self.0.lock().keys().copied().collect()
    }

    /// The mount is gone.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_known_until_all_lookups_are_forgotten() {
        let lookups = Lookups::default();
        lookups.raise(Ino(5));
        lookups.raise(Ino(5));
        assert_eq!((lookups.of(Ino(5)), lookups.known()), (2, vec![Ino(5)]));
        assert!(!lookups.lower(Ino(5), 1));
        assert!(lookups.lower(Ino(5), 1));
        assert_eq!(lookups.of(Ino(5)), 0);
        assert!(lookups.lower(Ino(5), 1), "of nothing nothing is left");
        assert!(lookups.known().is_empty());
    }
}
