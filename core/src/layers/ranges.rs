//! Sets of blocks or bytes.

/// A set of numbers as sorted ranges `from..to` that neither overlap nor touch.
#[derive(Debug, Default)]
pub(super) struct Ranges(pub(super) Vec<(u64, u64)>);

impl Ranges {
    pub(super) fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|range| range.1 < from);
        let last = self.0.partition_point(|range| range.0 <= to);
        let joined = match self.0.get(first..last) {
            Some([only]) => (from.min(only.0), to.max(only.1)),
            Some([lowest, .., highest]) => (from.min(lowest.0), to.max(highest.1)),
            _ => (from, to),
        };
        self.0.splice(first..last, [joined]);
    }

    pub(super) fn remove(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|range| range.1 <= from);
        let last = self.0.partition_point(|range| range.0 < to);
        if first == last {
            return;
        }
        let rests = [(self.0[first].0, from), (to, self.0[last - 1].1)];
        self.0.splice(
            first..last,
            rests.into_iter().filter(|rest| rest.0 < rest.1),
        );
    }

    /// The part of the set in `from..to`.
    pub(super) fn within(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let first = self.0.partition_point(|range| range.1 <= from);
        self.0[first..]
            .iter()
            .take_while(|range| range.0 < to)
            .map(|range| (range.0.max(from), range.1.min(to)))
            .filter(|range| range.0 < range.1)
            .collect()
    }

    /// The smallest range that holds all; `None` when empty.
    pub(super) fn hull(&self) -> Option<(u64, u64)> {
        Some((self.0.first()?.0, self.0.last()?.1))
    }

    /// Take out the blocks (of `block_size` bytes) that `bytes` covers wholly; `first..last` bounds the
    /// bytes looked at.
    pub(super) fn remove_covered(
        &mut self,
        bytes: &Ranges,
        block_size: u64,
        first: u64,
        last: u64,
    ) {
        for (a, b) in bytes.within(first, last) {
            let end = if b == u64::MAX {
                u64::MAX
            } else {
                b / block_size
            };
            self.remove(a.div_ceil(block_size), end);
        }
    }
}
