//! Which node id stands for which version of a file.
//!
//! The kernel knows a file by its node id, and keeps pages under it. So a node id must mean the same bytes as
//! long as the kernel knows it. While a mount serves its first instance, node ids are inode numbers. When
//! another instance takes over in which a file has other contents, and the kernel knows the file, its node id
//! stays with the old instance (it is *held* by it), and the new version gets a fresh one. To programs that is a file
//! that was replaced by rename(2). When the kernel has forgotten the old node, nothing of it is left.
//!
//! Fresh ones have the highest bit set and the highest slot (see `visible_snapshots::nodes`), and are never given
//! twice. `H` is who holds an old version.

use cbfs_core::ids::Ino;
use rustc_hash::FxHashMap;

/// Upper 16 bits of all fresh node ids.
const SLOT: u64 = 0xffff << 48;
const LOW: u64 = (1 << 48) - 1;

/// Whether a node id was made here.
pub(crate) fn is_fresh(node: u64) -> bool {
    node & SLOT == SLOT
}

/// The node ids that need more than their number to be understood.
#[derive(Debug)]
pub(super) struct Versions<H> {
    given: u64,
    nodes: FxHashMap<u64, Version<H>>,
    /// The ones of `nodes` by inode; never an empty list.
    of: FxHashMap<Ino, Vec<u64>>,
    /// Fresh node ids of present versions.
    present: FxHashMap<Ino, u64>,
}

#[derive(Debug)]
struct Version<H> {
    ino: Ino,
    /// How often the kernel was told of it and has not forgotten it.
    told: u64,
    /// Who serves it; `None` for the present instance.
    holder: Option<H>,
}

impl<H> Default for Versions<H> {
    fn default() -> Self {
        Versions {
            given: 0,
            nodes: FxHashMap::default(),
            of: FxHashMap::default(),
            present: FxHashMap::default(),
        }
    }
}

impl<H: Clone> Versions<H> {
    /// Node ids are inode numbers, and all is served by the present instance.
    pub(super) fn is_plain(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The inode a node id stands for and who serves it, `None` for the present instance. No answer for a fresh one
    /// that the kernel has forgotten.
    pub(super) fn resolve(&self, node: u64) -> Option<(Ino, Option<H>)> {
        match self.nodes.get(&node) {
            Some(version) => Some((version.ino, version.holder.clone())),
            None if is_fresh(node) => None,
            None => Some((Ino(node), None)),
        }
    }

    /// The node id of the present version of an inode.
    pub(super) fn node_of(&mut self, ino: Ino) -> u64 {
        if let Some(node) = self.present.get(&ino) {
            return *node;
        }
        if !self.nodes.contains_key(&ino.0) {
            return ino.0;
        }
        self.given = (self.given + 1) & LOW;
        let node = SLOT | self.given;
        let version = Version {
            ino,
            told: 0,
            holder: None,
        };
        self.nodes.insert(node, version);
        self.of.entry(ino).or_default().push(node);
        self.present.insert(ino, node);
        node
    }

    /// The kernel is told of a node.
    pub(super) fn told(&mut self, node: u64) {
        if let Some(version) = self.nodes.get_mut(&node) {
            version.told += 1;
        }
    }

    /// The kernel forgot `count` lookups of a node; answers its inode.
    pub(super) fn forgotten(&mut self, node: u64, count: u64) -> Ino {
        let Some(version) = self.nodes.get_mut(&node) else {
            return Ino(node);
        };
        let ino = version.ino;
        version.told = version.told.saturating_sub(count);
        if version.told == 0 {
            self.remove(ino, node);
            self.tidy(ino);
        }
        ino
    }

    /// From now on an inode has other contents (or none); its present version is `holder`'s. `lookups` is what the kernel
    /// knows of all its nodes.
    pub(super) fn retire(&mut self, ino: Ino, lookups: u64, holder: H) {
        if let Some(node) = self.present.remove(&ino) {
            match self.nodes.get_mut(&node) {
                Some(version) if version.told > 0 => version.holder = Some(holder),
                _ => self.remove(ino, node),
            }
            return;
        }
        if self.nodes.contains_key(&ino.0) {
            return; // an old version, and nobody has seen the present one
        }
        let fresh = self.of.get(&ino).into_iter().flatten();
        let of_fresh: u64 = fresh
            .filter_map(|node| Some(self.nodes.get(node)?.told))
            .sum();
        let told = lookups.saturating_sub(of_fresh);
        if told > 0 {
            let holder = Some(holder);
            self.nodes.insert(ino.0, Version { ino, told, holder });
            self.of.entry(ino).or_default().push(ino.0);
        }
    }

    fn remove(&mut self, ino: Ino, node: u64) {
        self.nodes.remove(&node);
        if self.present.get(&ino) == Some(&node) {
            self.present.remove(&ino);
        }
        if let Some(all) = self.of.get_mut(&ino) {
            all.retain(|other| *other != node);
            if all.is_empty() {
                self.of.remove(&ino);
            }
        }
    }

    /// A fresh node id that was made and never told is of no use once no old version is left.
    fn tidy(&mut self, ino: Ino) {
        let Some(&[node]) = self.of.get(&ino).map(Vec::as_slice) else {
            return;
        };
        let unused = self.nodes.get(&node).is_some_and(|v| v.told == 0);
        if unused && self.present.get(&ino) == Some(&node) {
            self.remove(ino, node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(1 << 48 | 7);

    #[test]
    fn a_file_nobody_has_seen_keeps_its_number() {
        let mut versions = Versions::default();
        versions.retire(INO, 0, "first");
        assert!(versions.is_plain());
        assert_eq!(versions.node_of(INO), INO.0);
        assert_eq!(versions.resolve(INO.0), Some((INO, None)));
    }

    #[test]
    fn an_open_file_stays_what_it_is_and_names_lead_to_the_new_one() {
        let mut versions = Versions::default();
        versions.retire(INO, 2, "first");
        let second = versions.node_of(INO);
        assert!(is_fresh(second));
        assert_eq!(versions.node_of(INO), second);
        versions.told(second);
        assert_eq!(versions.resolve(INO.0), Some((INO, Some("first"))));
        assert_eq!(versions.resolve(second), Some((INO, None)));

        versions.retire(INO, 3, "second");
        let third = versions.node_of(INO);
        assert_ne!(third, second);
        versions.told(third);
        assert_eq!(versions.resolve(second), Some((INO, Some("second"))));
        assert_eq!(versions.resolve(INO.0), Some((INO, Some("first"))));

        assert_eq!(versions.forgotten(INO.0, 1), INO);
        assert_eq!(versions.resolve(INO.0), Some((INO, Some("first"))));
        assert_eq!(versions.forgotten(INO.0, 1), INO);
        assert_eq!(versions.forgotten(second, 1), INO);
        assert_eq!(versions.resolve(second), None, "never another file");
        assert_eq!(versions.node_of(INO), third);
        assert_eq!(versions.forgotten(third, 1), INO);
        assert!(versions.is_plain());
        assert_eq!(versions.node_of(INO), INO.0);
    }

    #[test]
    fn of_an_inode_with_old_versions_the_number_itself_may_be_the_present_one() {
        let mut versions = Versions::default();
        versions.retire(INO, 1, "first");
        let second = versions.node_of(INO);
        versions.told(second);
        versions.forgotten(INO.0, 1);
        versions.retire(INO, 1, "second");
        // `second` is still open, the number is free again.
        assert_eq!(versions.node_of(INO), INO.0);
        versions.retire(INO, 3, "third"); // 1 of `second`, 2 of the number
        assert_eq!(versions.resolve(INO.0), Some((INO, Some("third"))));
        assert_eq!(versions.resolve(second), Some((INO, Some("second"))));
        versions.forgotten(INO.0, 2);
        assert_eq!(versions.resolve(INO.0), Some((INO, None)));
        versions.forgotten(second, 1);
        assert!(versions.is_plain());
    }

    #[test]
    fn a_number_that_was_listed_but_never_looked_up_goes_with_the_old_version() {
        let mut versions = Versions::default();
        versions.retire(INO, 1, "first");
        assert!(is_fresh(versions.node_of(INO)));
        versions.forgotten(INO.0, 1);
        assert!(versions.is_plain());
        versions.retire(INO, 1, "first");
        versions.node_of(INO);
        versions.retire(INO, 1, "second");
        versions.forgotten(INO.0, 1);
        assert!(versions.is_plain());
    }
}
