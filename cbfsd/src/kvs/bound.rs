//! The bound on clean rows in memory.
//!
//! Going through all rows takes milliseconds, for which nobody may hold the tables' lock: every operation of the mount
//! needs it. So the rows are taken out of the cache, thinned outside the lock, and put back below what came in
//! meanwhile. Whoever misses a row in between reads it from the files.
//!
//! What was taken out is stale as soon as a flush moves rows into the cache: then it is dropped.

use super::Kvs;
use super::table::Table;

impl Kvs {
    /// Drop clean rows when they take more than `limit` bytes. Holds the tables' lock for as long as the rows
    /// take that came in meanwhile.
    pub(super) fn bound_cache(&self, limit: usize) {
        let (mut taken, generation) = {
            let mut tables = self.tables();
            if tables.cache.bytes() <= limit {
                return;
            }
            let retiring = tables.is_retiring();
            let taken = tables.cache.take_rows();
            (taken, (!retiring).then_some(tables.generation))
        };
        if let Some(generation) = generation {
            taken.bound(limit);
            self.put_back(&mut taken, generation);
        }
        drop(taken); // not under the lock either
    }

    /// Put `rows` back below what is in the cache, unless rows of a flush went there since `generation`. What was
    /// in the cache, or `rows`, is left in `rows` for the caller to free.
    fn put_back(&self, rows: &mut Table, generation: u64) {
        let mut tables = self.tables();
        if tables.generation == generation {
            std::mem::swap(&mut tables.cache, rows);
            tables.cache.cover_with(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Dentry, Inline, Inode, Table, name_key};
    use super::*;
    use cbfs_core::ids::{Ino, Xid};
    use cbfs_core::inode::{FileKind, InodeRow};
    use cbfs_core::layers::Stack;
    use std::sync::Arc;

    const PARENT: Ino = Ino(1);

    fn inode(ino: u64, xid: u64) -> Inode {
        let row = InodeRow {
            gone: false,
            ..InodeRow::tombstone(Ino(ino), Xid(xid))
        };
        Inode { row, file: 0 }
    }

    fn dentry(ino: u64) -> Dentry {
        Dentry {
            ino: Some(Ino(ino)),
            kind: FileKind::File,
            xid: Xid(1),
        }
    }

    fn inline(bytes: usize) -> Inline {
        let data = Some(Arc::new(vec![7; bytes]));
        Inline { data, xid: Xid(1) }
    }

    fn kvs() -> Kvs {
        let base = Arc::new(Stack::new(Vec::new(), 1 << 20));
        Kvs::read_only(base, Default::default(), 1 << 20)
    }

    /// A cache with 1,000 inodes, their names, and 1 KiB of contents each.
    fn fill(kvs: &Kvs) {
        let cache = &mut kvs.tables().cache;
        for ino in 2..1_002 {
            cache.put_inode(inode(ino, 1));
            cache.put_dentry(PARENT, name_key(&ino.to_le_bytes()), dentry(ino));
            cache.put_inline(Ino(ino), inline(1 << 10));
        }
        cache.large.insert(Ino(99));
    }

    #[test]
    fn contents_go_first_and_rows_after_them() {
        let kvs = kvs();
        fill(&kvs);
        kvs.bound_cache(1 << 20);
        let rows = |kvs: &Kvs| {
            let tables = kvs.tables();
            (tables.cache.inodes.len(), tables.cache.inline.len())
        };
        assert_eq!(rows(&kvs), (1_000, 0));
        let bytes = kvs.tables().cache.bytes();
        kvs.bound_cache(bytes);
        assert_eq!(rows(&kvs), (1_000, 0), "within the bound nothing goes");
        kvs.bound_cache(bytes - 1);
        assert!(kvs.tables().cache.bytes() < bytes * 3 / 4);
        assert!(rows(&kvs).0 > 0);
        assert!(kvs.tables().cache.large.contains(&Ino(99)));
        kvs.bound_cache(0);
        assert_eq!(kvs.tables().cache.bytes(), 0);
        assert!(kvs.tables().cache.large.contains(&Ino(99)));
    }

    #[test]
    fn rows_that_came_in_meanwhile_lie_above_those_put_back() {
        let kvs = kvs();
        fill(&kvs);
        let mut taken = kvs.tables().cache.take_rows();
        {
            let cache = &mut kvs.tables().cache;
            cache.put_inode(inode(5, 9));
            cache.put_inode(inode(5_000, 9));
            cache.complete.insert(Ino(7));
        }
        kvs.put_back(&mut taken, 0);
        let tables = kvs.tables();
        assert_eq!(tables.cache.inodes.len(), 1_001);
        assert_eq!(tables.cache.inodes[&Ino(5)].row.xid, Xid(9));
        assert_eq!(tables.cache.inodes[&Ino(6)].row.xid, Xid(1));
        assert!(tables.cache.complete.contains(&Ino(7)));
        assert!(tables.cache.large.contains(&Ino(99)));
        let counted = tables.cache.bytes();
        let mut again = Table::default();
        again.cover_with(&tables.cache);
        assert_eq!(counted, again.bytes());
    }

    #[test]
    fn rows_are_not_put_back_once_a_flush_moved_newer_ones_in() {
        let kvs = kvs();
        fill(&kvs);
        let mut taken = kvs.tables().cache.take_rows();
        kvs.tables().generation += 1;
        kvs.put_back(&mut taken, 0);
        assert!(kvs.tables().cache.inodes.is_empty());
        assert_eq!(taken.inodes.len(), 1_000);
        // While it does so they are not even kept.
        assert!(kvs.tables().is_retiring());
        fill(&kvs);
        kvs.bound_cache(1 << 20);
        assert!(kvs.tables().cache.inodes.is_empty());
    }
}
