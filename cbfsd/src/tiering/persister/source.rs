//! The mounted instance as the persister sees it.

use cbfs_core::Result;
use cbfs_core::ids::Ino;
use cbfs_core::layers::Layer;
use std::sync::Arc;

/// One block of a backing file as of the cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockBytes {
    /// The bytes; zeros where there are holes.
    pub bytes: Vec<u8>,
    /// Byte ranges `(from, to)` within the block that are holes in the backing file: ascending,
    /// not overlapping, at multiples of 4 KiB (the last may end with the block).
    pub holes: Vec<(u64, u64)>,
}

/// What the persister needs of an instance while its file system goes on changing. All answers are
/// as of the cut of the snapshot that is being persisted; methods are called from one thread at a
/// time, and may block on the local disk but not on the bucket.
pub trait MountedInstance: Send + Sync {
    /// The file system as of the cut (frozen over what is below), for path names and attributes.
    fn at_cut(&self) -> Arc<dyn Layer>;

    /// From this number on, inodes were made after the cut before this one: only the frozen file has rows of them.
    fn first_new_inode(&self) -> Result<Ino>;

    /// The backing file that held `ino` at the cut. Asked only when the frozen layer has no
    /// `backing` row: the file was moved to it before the parent snapshot.
    fn backing_file(&self, ino: Ino) -> Result<u64>;

    /// Block `blk` of backing file `file` (the preserved copy if it was overwritten since); `len`
    /// is what the file had of this block at the cut. The answer has exactly `len` bytes.
    fn read_block(&self, ino: Ino, file: u64, blk: u64, len: usize) -> Result<BlockBytes>;

    /// Only the holes of [`MountedInstance::read_block`]. The persister asks for those of a whole
    /// file before it reads the data, as they stand in the headers: worth answering without
    /// reading (SEEK_HOLE). Claiming less than [`MountedInstance::read_block`] finds is fine;
    /// claiming bytes that hold data is an error that ends the attempt.
    fn block_holes(&self, ino: Ino, file: u64, blk: u64, len: usize) -> Result<Vec<(u64, u64)>> {
        self.read_block(ino, file, blk, len)
            .map(|block| block.holes)
    }
}
