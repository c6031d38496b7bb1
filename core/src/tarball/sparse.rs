//! The map of a sparse member, as GNU tar's PAX format 1.0 has it.

use super::{RECORD, padding};

/// Which parts of a file hold data: ascending, not touching, each `(offset, length)` with a length
/// above 0; all within the file's size. What is not listed is a hole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SparseMap {
    data: Vec<(u64, u64)>,
    size: u64,
}

impl SparseMap {
    /// A map of a file of `size` bytes that is one hole.
    pub fn new(size: u64) -> SparseMap {
        SparseMap {
            data: Vec::new(),
            size,
        }
    }

    /// Say that the bytes `from..to` hold data. Calls come in ascending order; what lies past the
    /// size is cut off, what touches the last region is joined with it.
    pub fn add_data(&mut self, from: u64, to: u64) {
        let to = to.min(self.size);
        if from >= to {
            return;
        }
        match self.data.last_mut() {
            Some((offset, length)) if *offset + *length >= from => {
                *length = (*length).max(to - *offset);
            }
            _ => self.data.push((from, to - from)),
        }
    }

    /// The regions with data.
    pub fn data(&self) -> &[(u64, u64)] {
        &self.data
    }

    /// Size of the file, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of data, holes left out.
    pub fn stored(&self) -> u64 {
        self.data.iter().map(|(_, length)| length).sum()
    }

    /// The holes as `(from, to)`, ascending.
    pub fn holes(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let ends = std::iter::once(0).chain(self.data.iter().map(|(o, l)| o + l));
        let starts = self
            .data
            .iter()
            .map(|(o, _)| *o)
            .chain(std::iter::once(self.size));
        ends.zip(starts).filter(|(from, to)| from < to)
    }

    /// The parts of the regions within `from..to`, as `(from, to)`, ascending.
    pub fn data_within(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.data.partition_point(|(o, l)| o + l <= from);
        self.data
            .iter()
            .skip(first)
            .take_while(move |(offset, _)| *offset < to)
            .map(move |(o, l)| ((*o).max(from), (o + l).min(to)))
    }

    /// Whether there is no hole at all.
    pub fn is_dense(&self) -> bool {
        self.stored() == self.size
    }

    /// The map as it opens the member's contents: number of regions, then offset and length of
    /// each, decimal, a line each, padded to 512 bytes. A file that ends in a hole gets an empty
    /// last region at its size: GNU tar extends the file by it.
    pub fn encode(&self) -> Vec<u8> {
        use std::fmt::Write;
        let ends_in_hole = self.data.last().is_none_or(|(o, l)| o + l < self.size);
        let regions = self.data.len() + usize::from(ends_in_hole);
        let tail = ends_in_hole.then_some((self.size, 0));
        let mut text = format!("{regions}\n");
        for (offset, length) in self.data.iter().copied().chain(tail) {
            let _ = write!(text, "{offset}\n{length}\n"); // writing to a String cannot fail
        }
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len() + padding(bytes.len() as u64), 0);
        debug_assert!(bytes.len().is_multiple_of(RECORD));
        bytes
    }

    /// The inverse of [`SparseMap::encode`] for the file size that the headers name. `None` when
    /// it is no such map.
    pub(super) fn parse(text: &[u8], size: u64) -> Option<SparseMap> {
        let mut numbers = text.split(|b| *b == b'\n').map(|line| {
            std::str::from_utf8(line)
                .ok()
                .and_then(|digits| digits.parse::<u64>().ok())
        });
        let regions = numbers.next()??;
        let mut map = SparseMap::new(size);
        let mut end = 0;
        for _ in 0..regions {
            let (offset, length) = (numbers.next()??, numbers.next()??);
            let to = offset.checked_add(length)?;
            if offset < end || to > size {
                return None;
            }
            end = to;
            map.add_data(offset, to);
        }
        Some(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_join_and_holes_are_their_complement() {
        let mut map = SparseMap::new(100);
        map.add_data(10, 20);
        map.add_data(20, 30);
        map.add_data(50, 200);
        assert_eq!(map.data(), [(10, 20), (50, 50)]);
        assert_eq!(map.holes().collect::<Vec<_>>(), [(0, 10), (30, 50)]);
        assert_eq!(
            map.data_within(25, 60).collect::<Vec<_>>(),
            [(25, 30), (50, 60)]
        );
        assert_eq!(map.stored(), 70);
        assert_eq!(SparseMap::parse(&map.encode(), 100), Some(map));
    }

    #[test]
    fn a_file_that_is_one_hole_survives() {
        let map = SparseMap::new(1 << 40);
        assert_eq!(map.holes().collect::<Vec<_>>(), [(0, 1 << 40)]);
        assert!(map.encode().starts_with(b"1\n1099511627776\n0\n"));
        assert_eq!(SparseMap::parse(&map.encode(), 1 << 40), Some(map));
    }
}
