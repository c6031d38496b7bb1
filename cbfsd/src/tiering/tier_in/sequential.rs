//! Which files are read in order, and how far to read ahead of them.

use cbfs_core::ids::Ino;
use std::collections::{HashMap, HashSet, VecDeque};

/// Blocks read ahead of a sequential reader that is alone.
pub(super) const BLOCKS_AHEAD: u64 = 4;
/// Files whose last read block is remembered.
const FILES: usize = 1024;
/// Reads in order by which sequential readers are counted.
const RECENT: usize = 64;

/// The readers of the last moments.
#[derive(Debug)]
pub(super) struct SequentialReaders {
    /// Blocks that all readers together may have in memory unread.
    room: u64,
    last_read: HashMap<Ino, u64>,
    /// Whose the last reads in order were.
    recent: VecDeque<Ino>,
}

impl SequentialReaders {
    /// `blocks` fit into memory. Half of them are for what is being read, and for other readers: what is read ahead and
    /// dropped before it is asked for is fetched twice.
    pub(super) fn new(blocks: u64) -> SequentialReaders {
        SequentialReaders {
            room: blocks / 2,
            last_read: HashMap::new(),
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    /// Block `blk` of a file is read. Answers how many blocks behind it to read ahead: none, unless the block before it
    /// was the last one read.
    pub(super) fn note(&mut self, ino: Ino, blk: u64) -> u64 {
        if self.last_read.len() >= FILES && !self.last_read.contains_key(&ino) {
            // Rarely: forgetting them all costs each reader one block without read-ahead.
            self.last_read.clear();
        }
        let before = self.last_read.insert(ino, blk);
        if before.and_then(|last| last.checked_add(1)) != Some(blk) {
            return 0;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(ino);
        let readers = self.recent.iter().collect::<HashSet<_>>().len() as u64;
        (self.room / readers).min(BLOCKS_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_in_order_share_the_room_and_others_get_none() {
        let mut readers = SequentialReaders::new(24);
        assert_eq!(readers.note(Ino(2), 7), 0);
        assert_eq!(readers.note(Ino(2), 9), 0);
        assert_eq!(readers.note(Ino(2), 10), BLOCKS_AHEAD);
        assert_eq!(readers.note(Ino(2), 10), 0);
        let mut ahead = Vec::new();
        for blk in 0..20 {
            for ino in 10..18 {
                ahead.push(readers.note(Ino(ino), blk));
            }
        }
        assert_eq!(ahead.last(), Some(&1), "eight readers");
        for blk in 11..100 {
            ahead.push(readers.note(Ino(2), blk));
        }
        assert_eq!(ahead.last(), Some(&BLOCKS_AHEAD), "alone again");
        let mut none = SequentialReaders::new(1);
        assert_eq!((none.note(Ino(2), 0), none.note(Ino(2), 1)), (0, 0));
    }
}
