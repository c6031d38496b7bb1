//! `SEEK_DATA` and `SEEK_HOLE` for contents in the layer stack: answered from extents and holes, no
//! section is fetched.

use cbfs_core::error::Result;
use cbfs_core::ids::Ino;
use cbfs_core::layers::Stack;

/// Blocks looked at per question to the layers.
const STEP: u64 = 256;

/// The first byte at or after `offset` that is data; `None` when only a hole follows. `size` is the
/// file's.
pub fn seek_data(stack: &Stack, ino: Ino, offset: u64, size: u64) -> Result<Option<u64>> {
    let mut found = None;
    each_data_range(stack, ino, offset, size, |from, _| {
        found = Some(from);
        false
    })?;
    Ok(found)
}

/// The first byte at or after `offset` that is in a hole; the end of the file counts as one.
pub fn seek_hole(stack: &Stack, ino: Ino, offset: u64, size: u64) -> Result<u64> {
    let mut at = offset;
    each_data_range(stack, ino, offset, size, |from, to| {
        if from > at {
            return false;
        }
        at = to;
        true
    })?;
    Ok(at.min(size))
}

/// Call `each` with the data ranges from `offset` on, in order, until it answers `false`. Adjacent
/// ranges may come in pieces.
fn each_data_range(
    stack: &Stack,
    ino: Ino,
    offset: u64,
    size: u64,
    mut each: impl FnMut(u64, u64) -> bool,
) -> Result<()> {
    let block_size = stack.block_size();
    let end = size.div_ceil(block_size);
    let mut blk = offset / block_size;
    while blk < end {
        let to = (blk + STEP).min(end);
        for content in stack.content(ino, blk, to)? {
            if content.extent.is_none() {
                continue;
            }
            let start = content.blk * block_size;
            let mut empty: Vec<(u64, u64)> = content
                .holes
                .iter()
                .chain(&content.zeroes)
                .copied()
                .collect();
            empty.push((content.len, block_size));
            empty.sort_unstable();
            let mut at = 0;
            for (from, upto) in empty {
                let range = (start + at, (start + from).min(size));
                if from > at && range.1 > offset && !each(range.0.max(offset), range.1) {
                    return Ok(());
                }
                at = at.max(upto);
            }
        }
        blk = to;
    }
    Ok(())
}
