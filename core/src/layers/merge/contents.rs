//! Extents, holes and truncations of a run as the rows of one layer.
//!
//! For each block the newest extent that is not wholly hidden stays. Then there are two kinds of
//! zeros in it, told apart by their tables: `hole`, bytes that the extent's section lacks (the holes
//! of its own layer; and what lay behind the end of the file then, where the file has grown since);
//! and `zero`, bytes that higher layers of the run made zero, which the section does hold. In blocks
//! without an extent all that the run made zero is a `hole`, for what lies below.
//!
//! A file is worked through in windows of blocks, so that memory does not depend on its size.

use super::super::ranges::Ranges;
use super::super::{ExtentRow, HoleRow, rows};
use super::Patience;
use super::cursor::{Cursor, Statements};
use crate::error::{Error, Result};
use crate::ids::{Ino, Xid};
use rusqlite::{Connection, Row};

/// Blocks of a file in memory at once.
const WINDOW: u64 = 1024;

/// What matters here of an inode row.
#[derive(Clone, Copy)]
struct Attributes {
    ino: Ino,
    xid: Xid,
    size: u64,
    min_size: u64,
    gone: bool,
}

/// The rows of one layer, and those of the file at hand that reach into the next window.
struct Source<'s> {
    inodes: Cursor<'s, Attributes>,
    extents: Pending<'s, ExtentRow>,
    holes: Pending<'s, HoleRow>,
    zeroes: Pending<'s, HoleRow>,
}

/// Merge the contents of all files.
pub(super) fn merge(
    patience: &mut Patience<'_>,
    conns: &[Connection],
    out: &Connection,
) -> Result<()> {
    let prepare = |sql: &str| Statements::prepare(conns, sql);
    let mut inodes = prepare("SELECT ino, xid, size, min_size, gone FROM inode ORDER BY ino")?;
    let columns = rows::EXTENT_COLUMNS;
    let mut extents = prepare(&format!("SELECT {columns} FROM extent ORDER BY ino, blk"))?;
    let columns = rows::HOLE_COLUMNS;
    let mut holes = prepare(&format!(
        "SELECT {columns} FROM hole ORDER BY ino, byte_from"
    ))?;
    let mut zeroes = prepare(&format!(
        "SELECT {columns} FROM zero ORDER BY ino, byte_from"
    ))?;
    let inodes = inodes.cursors(attributes_from_row)?;
    let extents = extents.cursors(rows::extent_from_row)?;
    let holes = holes.cursors(rows::hole_from_row)?;
    let zeroes = zeroes.cursors(rows::hole_from_row)?;
    let mut sources: Vec<Source<'_>> = inodes
        .into_iter()
        .zip(extents)
        .zip(holes.into_iter().zip(zeroes))
        .map(|((inodes, extents), (holes, zeroes))| Source {
            inodes,
            extents: Pending::new(extents),
            holes: Pending::new(holes),
            zeroes: Pending::new(zeroes),
        })
        .collect();
    while let Some(ino) = sources.iter().filter_map(Source::next_file).min() {
        if let Some(file) = File::new(patience, &mut sources, ino)? {
            file.merge(patience, &mut sources, out)?;
        } else {
            for source in &mut sources {
                source.skip(ino)?;
            }
        }
    }
    Ok(())
}

fn attributes_from_row(row: &Row<'_>) -> Result<Attributes> {
    Ok(Attributes {
        ino: Ino(rows::number(row, 0)?),
        xid: Xid(rows::number(row, 1)?),
        size: rows::number(row, 2)?,
        min_size: rows::number(row, 3)?,
        gone: rows::column::<i64>(row, 4)? != 0,
    })
}

/// A row that covers a range of something, of one file.
trait Piece: Copy {
    fn ino(&self) -> Ino;
    fn from(&self) -> u64;
    fn to(&self) -> u64;
    /// The part from `at` on.
    fn rest(self, at: u64) -> Self;
}

impl Piece for ExtentRow {
    fn ino(&self) -> Ino {
        self.ino
    }
    fn from(&self) -> u64 {
        self.blk
    }
    fn to(&self) -> u64 {
        self.blk.saturating_add(self.n)
    }
    fn rest(self, at: u64) -> ExtentRow {
        part(&self, at, self.to())
    }
}

impl Piece for HoleRow {
    fn ino(&self) -> Ino {
        self.ino
    }
    fn from(&self) -> u64 {
        self.from
    }
    fn to(&self) -> u64 {
        self.to
    }
    fn rest(self, at: u64) -> HoleRow {
        HoleRow { from: at, ..self }
    }
}

/// The blocks `from..to` of an extent that has them.
fn part(extent: &ExtentRow, from: u64, to: u64) -> ExtentRow {
    ExtentRow {
        blk: from,
        n: to - from,
        section: extent.section + (from - extent.blk),
        ..*extent
    }
}

/// Rows of one kind: those taken for the window at hand, and those still to come.
struct Pending<'s, T> {
    taken: Vec<T>,
    coming: Cursor<'s, T>,
}

impl<'s, T: Piece> Pending<'s, T> {
    fn new(coming: Cursor<'s, T>) -> Pending<'s, T> {
        Pending {
            taken: Vec::new(),
            coming,
        }
    }

    /// Where the next row of `ino` that is not taken begins.
    fn coming_at(&self, ino: Ino) -> Option<u64> {
        let head = self.coming.head().filter(|row| row.ino() == ino);
        head.map(Piece::from)
    }

    /// Where the first row of `ino` begins, taken or not.
    fn start(&self, ino: Ino) -> Option<u64> {
        let taken = self.taken.iter().map(Piece::from).min();
        taken.into_iter().chain(self.coming_at(ino)).min()
    }

    /// Take all rows of `ino` that begin before `end`.
    fn take_until(&mut self, ino: Ino, end: u64, patience: &mut Patience<'_>) -> Result<()> {
        let wanted = |row: &T| row.ino() == ino && row.from() < end;
        while let Some(row) = self.coming.take_if(wanted)? {
            patience.row()?;
            self.taken.push(row);
        }
        Ok(())
    }

    /// Keep what reaches beyond `end` only.
    fn leave_behind(&mut self, end: u64) {
        self.taken.retain(|row| row.to() > end);
        for row in &mut self.taken {
            if row.from() < end {
                *row = row.rest(end);
            }
        }
    }

    fn skip(&mut self, ino: Ino) -> Result<()> {
        self.taken.clear();
        while self.coming.take_if(|row| row.ino() == ino)?.is_some() {}
        Ok(())
    }
}

impl Source<'_> {
    fn next_file(&self) -> Option<Ino> {
        let extents = self.extents.coming.head().map(|row| row.ino);
        let holes = self.holes.coming.head().map(|row| row.ino);
        let zeroes = self.zeroes.coming.head().map(|row| row.ino);
        extents.into_iter().chain(holes).chain(zeroes).min()
    }

    fn skip(&mut self, ino: Ino) -> Result<()> {
        self.extents.skip(ino)?;
        self.holes.skip(ino)?;
        self.zeroes.skip(ino)
    }
}

/// What the run says of one file.
struct File {
    ino: Ino,
    bottom: bool,
    block_size: u64,
    /// Of each layer above the one that removed the file.
    rows: Vec<Option<Attributes>>,
    /// The file's size as of each of those layers, where the run tells.
    sizes: Vec<Option<u64>>,
    newest: Option<Attributes>,
}

impl File {
    /// `None` when the file is gone. Rows of layers at and below a removal are skipped.
    fn new(patience: &Patience<'_>, sources: &mut [Source<'_>], ino: Ino) -> Result<Option<File>> {
        let mut rows = Vec::with_capacity(sources.len());
        let mut removed = false;
        for source in sources {
            while source.inodes.take_if(|row| row.ino < ino)?.is_some() {}
            let row = source.inodes.head().filter(|row| row.ino == ino).copied();
            removed |= row.is_some_and(|row| row.gone);
            if removed {
                source.skip(ino)?;
            } else {
                rows.push(row);
            }
        }
        if rows.is_empty() || (removed && rows.iter().all(Option::is_none)) {
            return Ok(None);
        }
        let newest = rows.iter().flatten().next().copied();
        let mut size = None;
        let mut sizes: Vec<Option<u64>> = rows
            .iter()
            .rev()
            .map(|row| {
                size = row.map(|row| row.size).or(size);
                size
            })
            .collect();
        sizes.reverse();
        Ok(Some(File {
            ino,
            bottom: patience.run.bottom || removed,
            block_size: patience.run.block_size,
            rows,
            sizes,
            newest,
        }))
    }

    fn merge(
        &self,
        patience: &mut Patience<'_>,
        sources: &mut [Source<'_>],
        out: &Connection,
    ) -> Result<()> {
        let mut writer = Writer {
            out,
            extent: None,
            hole: None,
            zero: None,
        };
        let sources = sources
            .get_mut(..self.rows.len())
            .ok_or_else(|| Error::failed("a layer is missing from the run"))?;
        while let Some((from, to)) = self.window(patience, sources)? {
            self.merge_window(sources, from, to, &mut writer)?;
            let end = to.saturating_mul(self.block_size);
            for source in sources.iter_mut() {
                source.extents.leave_behind(to);
                source.holes.leave_behind(end);
                source.zeroes.leave_behind(end);
            }
        }
        writer.finish()
    }

    /// The next blocks to work on, with all rows of them taken.
    fn window(
        &self,
        patience: &mut Patience<'_>,
        sources: &mut [Source<'_>],
    ) -> Result<Option<(u64, u64)>> {
        let (ino, block_size) = (self.ino, self.block_size);
        let extent = |sources: &[Source<'_>]| {
            let starts = sources.iter().filter_map(|s| s.extents.start(ino));
            starts.min()
        };
        let holes = sources.iter().flat_map(|s| {
            let starts = [s.holes.start(ino), s.zeroes.start(ino)];
            starts.into_iter().flatten().map(|byte| byte / block_size)
        });
        let Some(from) = holes.chain(extent(sources)).min() else {
            return Ok(None);
        };
        let mut to = from.saturating_add(WINDOW);
        let end = to.saturating_mul(block_size);
        for source in sources.iter_mut() {
            source.extents.take_until(ino, to, patience)?;
            source.holes.take_until(ino, end, patience)?;
            source.zeroes.take_until(ino, end, patience)?;
        }
        let first_extent = extent(sources).unwrap_or(u64::MAX);
        if first_extent >= to {
            // A hole may be longer than any number of windows.
            let coming = sources.iter().flat_map(|s| {
                let starts = [s.holes.coming_at(ino), s.zeroes.coming_at(ino)];
                starts.into_iter().flatten().map(|byte| byte / block_size)
            });
            to = coming.min().unwrap_or(u64::MAX).min(first_extent).max(to);
        }
        Ok(Some((from, to)))
    }

    fn merge_window(
        &self,
        sources: &[Source<'_>],
        from: u64,
        to: u64,
        writer: &mut Writer<'_>,
    ) -> Result<()> {
        let bytes = |blk: u64| blk.saturating_mul(self.block_size);
        let (start, end) = (bytes(from), bytes(to));
        let mut wanted = Ranges::default(); // blocks that no layer so far decided
        wanted.insert(from, to);
        let mut without_extent = Ranges::default();
        without_extent.insert(from, to);
        let mut zeroed = Ranges::default(); // bytes that the layers so far made zero
        let (mut extents, mut holes, mut zeroes) =
            (Vec::new(), Ranges::default(), Ranges::default());
        let mut xid = self.newest.map_or(Xid(0), |row| row.xid);
        for (layer, source) in sources.iter().enumerate() {
            for zero in &source.zeroes.taken {
                zeroed.insert(zero.from, zero.to);
                xid = xid.max(zero.xid);
            }
            wanted.remove_covered(&zeroed, self.block_size, start, end);
            let mut own = Ranges::default();
            for hole in &source.holes.taken {
                own.insert(hole.from, hole.to);
                xid = xid.max(hole.xid);
            }
            for extent in &source.extents.taken {
                for (a, b) in wanted.within(extent.blk, extent.to()) {
                    extents.push(part(extent, a, b));
                    let (first, last) = (bytes(a), bytes(b));
                    let mut lacking = Ranges::default();
                    for (a, b) in own.within(first, last) {
                        lacking.insert(a, b);
                    }
                    if let Some((size, newest)) = self.size_at(layer)? {
                        // What lies behind in the section belongs to something else.
                        lacking.insert(size.max(first), newest.min(last));
                    }
                    let mut on_top = Ranges::default();
                    let shown = self.newest.map_or(last, |row| row.size.min(last));
                    for (a, b) in zeroed.within(first, shown) {
                        on_top.insert(a, b);
                    }
                    for &(a, b) in &lacking.0 {
                        on_top.remove(a, b);
                        holes.insert(a, b);
                    }
                    for (a, b) in on_top.0 {
                        zeroes.insert(a, b);
                    }
                    wanted.remove(a, b);
                    without_extent.remove(a, b);
                }
            }
            for (a, b) in own.0 {
                zeroed.insert(a, b);
            }
            if let Some(row) = self.rows.get(layer).copied().flatten() {
                zeroed.insert(row.min_size.max(start), end);
            }
            wanted.remove_covered(&zeroed, self.block_size, start, end);
        }
        if !self.bottom {
            // Behind `min_size` the inode row says it.
            let rows = self.rows.iter().flatten();
            let min_size = rows.map(|row| row.min_size).min().unwrap_or(u64::MAX);
            for (a, b) in without_extent.0 {
                for (a, b) in zeroed.within(bytes(a), bytes(b).min(min_size)) {
                    holes.insert(a, b);
                }
            }
        }
        extents.sort_unstable_by_key(|extent| extent.blk);
        for extent in extents {
            writer.extent(extent)?;
        }
        let row = |(from, to)| HoleRow {
            ino: self.ino,
            from,
            to,
            xid,
        };
        for range in holes.0 {
            writer.hole(row(range))?;
        }
        for range in zeroes.0 {
            writer.zero(row(range))?;
        }
        Ok(())
    }

    /// The size of the file as of a layer with an extent, and at the top of the run. `None` when
    /// the run does not change the attributes: both are as they are below.
    fn size_at(&self, layer: usize) -> Result<Option<(u64, u64)>> {
        let Some(newest) = self.newest else {
            return Ok(None);
        };
        match self.sizes.get(layer).copied().flatten() {
            Some(size) => Ok(Some((size, newest.size))),
            None => Err(Error::damage(format!(
                "a layer has data of inode {} without its attributes",
                self.ino
            ))),
        }
    }
}

/// Writes the rows of one file in order, joined where they touch.
struct Writer<'a> {
    out: &'a Connection,
    extent: Option<ExtentRow>,
    hole: Option<HoleRow>,
    zero: Option<HoleRow>,
}

impl Writer<'_> {
    fn extent(&mut self, next: ExtentRow) -> Result<()> {
        match &mut self.extent {
            Some(last)
                if last.to() == next.blk
                    && last.snapshot == next.snapshot
                    && last.section + last.n == next.section
                    && last.offset == 0
                    && next.offset == 0 =>
            {
                last.n += next.n;
                last.xid = last.xid.max(next.xid);
                Ok(())
            }
            slot => match slot.replace(next) {
                Some(complete) => rows::put_extent(self.out, &complete),
                None => Ok(()),
            },
        }
    }

    fn hole(&mut self, next: HoleRow) -> Result<()> {
        let complete = joined(&mut self.hole, next);
        complete.map_or(Ok(()), |row| rows::put_hole(self.out, &row))
    }

    fn zero(&mut self, next: HoleRow) -> Result<()> {
        let complete = joined(&mut self.zero, next);
        complete.map_or(Ok(()), |row| rows::put_zero(self.out, &row))
    }

    fn finish(self) -> Result<()> {
        if let Some(row) = self.extent {
            rows::put_extent(self.out, &row)?;
        }
        if let Some(row) = self.hole {
            rows::put_hole(self.out, &row)?;
        }
        self.zero
            .map_or(Ok(()), |row| rows::put_zero(self.out, &row))
    }
}

/// Put `next` behind `last`, or make it one with it. Answers a row that is complete.
fn joined(last: &mut Option<HoleRow>, next: HoleRow) -> Option<HoleRow> {
    match last {
        Some(last) if last.to == next.from => {
            last.to = next.to;
            last.xid = last.xid.max(next.xid);
            None
        }
        slot => slot.replace(next),
    }
}
