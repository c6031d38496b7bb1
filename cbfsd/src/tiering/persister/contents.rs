//! The contents: which bytes of which inode go into which member and section, and the extents and
//! holes that say so in the layer.
//!
//! Whole files are dense, or pax sparse members; then the sections hold their data without the
//! holes, and the layer has the same holes, byte for byte (the rule of reading in
//! `cbfs_core::layers`). Patches are always dense, and no hole of the layer touches their blocks.

use super::Maker;
use super::archive::{Archive, SHARED_SECTION};
use super::facts::{self, Fact};
use super::frozen::{Frozen, InodeFacts};
use super::ledger::{Phase, Position, TarballEntry, facts_name};
use super::plan::{Item, Plan};
use super::rows::{frozen_holes, normalise};
use super::source::BlockBytes;
use cbfs_core::error::{Error, Result};
use cbfs_core::format::changes::{Change, MemberForm, patch_member};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_core::layers::{ExtentRow, HoleRow, rows};
use cbfs_core::tarball::{Member, MemberKind, SparseMap};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// A file with more regions of data than this is mapped block by block only: its map must fit into
/// memory, and its headers into a section.
const MAX_REGIONS: usize = 1 << 16;

/// Rows of at most so many items are read at once, and of inodes between them when they are few: each
/// may come with 16 KiB of contents.
const AHEAD: usize = 64;
const GAP: u64 = 2;

/// The pass over the work list. One that goes on behind finished tarballs passes over what is in them:
/// the list is the same each time, so nothing is missed and nothing comes twice.
pub(super) struct Contents<'a> {
    maker: &'a Maker<'a>,
    frozen: &'a Frozen,
    plan: &'a Plan,
    archive: Archive<'a>,
    finished: &'a [TarballEntry],
    /// Where the work began.
    start: Position,
    /// Where it is.
    at: Position,
    block_size: u64,
    /// The first path of each file with several.
    first_paths: HashMap<Ino, Vec<u8>>,
    /// Files whose holes are told already; kept only when the frozen layer has holes.
    holes_done: HashSet<Ino>,
    told_section: u64,
    /// Rows of the items at hand and ahead, by number.
    ahead: VecDeque<InodeFacts>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(
        maker: &'a Maker<'a>,
        frozen: &'a Frozen,
        plan: &'a Plan,
        archive: Archive<'a>,
        finished: &'a [TarballEntry],
    ) -> Contents<'a> {
        let start = finished.last().map_or_else(Position::default, |t| t.next);
        Contents {
            maker,
            frozen,
            plan,
            archive,
            finished,
            start,
            at: start,
            block_size: maker.job.block_size,
            first_paths: HashMap::new(),
            holes_done: HashSet::new(),
            told_section: 0,
            ahead: VecDeque::new(),
        }
    }

    /// Write all members. Answers the bytes of contents, holes left out, and the holes of files that
    /// have no member.
    pub(super) fn write(mut self) -> Result<(u64, Vec<HoleRow>)> {
        let mut dir = None;
        for (index, item) in self.plan.items().iter().enumerate() {
            let done = self.enter(Phase::Items, index);
            if dir.replace(item.dir).is_some_and(|last| last != item.dir) && !done {
                self.archive.next_directory()?;
            }
            if done {
                self.pass_item(item);
            } else {
                self.look_ahead(index)?;
                self.item(item)?;
                self.tell();
            }
        }
        for (index, ino) in self.plan.patched.iter().enumerate() {
            if self.enter(Phase::Patched, index) {
                self.holes_are_done(*ino);
            } else {
                self.patches(*ino)?;
            }
        }
        for (index, (dir, ino)) in self.plan.directory_items.iter().enumerate() {
            if self.enter(Phase::Directories, index) {
                continue;
            }
            let row = self.frozen.inode(*ino)?;
            let path = self.plan.directory_path(*dir);
            self.headers_only(&row, path, MemberKind::Directory, MemberForm::Directory)?;
        }
        self.enter(Phase::End, 0);
        let mut loose = self.remaining_holes()?;
        loose.extend(self.archive.finish(self.at)?);
        self.maker.observer.progress(self.at.files, self.at.bytes);
        Ok((self.at.bytes, loose))
    }

    /// Come to a place of the work list; answers whether it is in a finished tarball.
    fn enter(&mut self, phase: Phase, index: usize) -> bool {
        let index = index as u64;
        if (phase, index) < (self.start.phase, self.start.index) {
            return true;
        }
        if (phase, index) != (self.start.phase, self.start.index) {
            self.at.blk = 0;
        }
        (self.at.phase, self.at.index) = (phase, index);
        false
    }

    /// What later items need to know of one that is in a finished tarball.
    fn pass_item(&mut self, item: &Item) {
        self.holes_are_done(item.ino);
        if item.many_names && !self.first_paths.contains_key(&item.ino) {
            self.first_paths.insert(item.ino, self.plan.path(item));
        }
    }

    fn tell(&mut self) {
        if self.archive.section() != self.told_section {
            self.told_section = self.archive.section();
            self.maker.observer.progress(self.at.files, self.at.bytes);
        }
    }

    /// Have the rows of an item at the front of [`Contents::ahead`]. Files of a directory mostly have
    /// numbers that follow each other.
    fn look_ahead(&mut self, index: usize) -> Result<()> {
        let items = &self.plan.items()[index..];
        let Some(wanted) = items.first().map(|item| item.ino) else {
            return Ok(());
        };
        while self.ahead.front().is_some_and(|f| f.row.ino < wanted) {
            self.ahead.pop_front();
        }
        if self.ahead.front().is_some_and(|f| f.row.ino == wanted) {
            return Ok(());
        }
        let mut last = wanted;
        for item in items.iter().take(AHEAD) {
            if item.ino < last || item.ino.0 - last.0 > GAP {
                break;
            }
            last = item.ino;
        }
        self.ahead = self.frozen.inodes(wanted, last)?.into();
        Ok(())
    }

    fn item(&mut self, item: &Item) -> Result<()> {
        let facts = self.ahead.pop_front().filter(|f| f.row.ino == item.ino);
        let Some(facts) = facts else {
            let text = format!("inode {} vanished from the frozen layer", item.ino);
            return Err(Error::damage(text));
        };
        let row = facts.row;
        let path = self.plan.path(item);
        if item.many_names {
            if let Some(first) = self.first_paths.get(&item.ino).cloned() {
                let kind = MemberKind::HardLink(&first);
                return self.headers_only(&row, &path, kind, MemberForm::HardLink);
            }
            self.first_paths.insert(item.ino, path.clone());
        }
        match row.kind {
            FileKind::File => self.file(facts, &path),
            FileKind::Symlink => {
                let target = match rows::link(&self.frozen.conn, row.ino)? {
                    Some(target) => Some(target),
                    None => self.maker.job.instance.at_cut().link(row.ino)?,
                };
                let target = target.ok_or_else(|| {
                    Error::damage(format!("the symlink with inode {} has no target", row.ino))
                })?;
                let kind = MemberKind::Symlink(&target);
                self.headers_only(&row, &path, kind, MemberForm::Symlink)
            }
            FileKind::Fifo => self.headers_only(&row, &path, MemberKind::Fifo, MemberForm::Special),
            FileKind::CharDevice => {
                let kind = MemberKind::CharDevice(row.rdev);
                self.headers_only(&row, &path, kind, MemberForm::Special)
            }
            FileKind::BlockDevice => {
                let kind = MemberKind::BlockDevice(row.rdev);
                self.headers_only(&row, &path, kind, MemberForm::Special)
            }
            FileKind::Directory | FileKind::Socket => Err(Error::failed(format!(
                "inode {} is no member among files",
                row.ino
            ))),
        }
    }

    /// A member without contents.
    fn headers_only(
        &mut self,
        row: &InodeRow,
        path: &[u8],
        kind: MemberKind<'_>,
        form: MemberForm,
    ) -> Result<()> {
        let tarball = self.archive.begin_member(0, self.at)?;
        // A hard link's attributes came with its first name.
        let xattrs = match form {
            MemberForm::HardLink => Vec::new(),
            _ => self.xattrs(row.ino)?,
        };
        self.archive
            .headers(&member(row, path, kind, None, &xattrs));
        self.archive
            .change(&Change::member(row.ino, path, tarball, form, None))
    }

    /// A file that is stored whole.
    fn file(&mut self, facts: InodeFacts, path: &[u8]) -> Result<()> {
        let InodeFacts {
            row,
            inline,
            backing,
        } = facts;
        let row = &row;
        self.holes_are_done(row.ino);
        let xattrs = self.xattrs(row.ino)?;
        let count = row.size.div_ceil(self.block_size);
        let (data, blocks) = match inline {
            Some((mut data, xid)) => {
                self.check_inline(row, &mut data)?;
                (data, (0..count).map(|blk| (blk, xid)).collect())
            }
            None => (Vec::new(), self.frozen.blocks(row.ino, count)?),
        };
        let mut source = Source {
            data: Some(data),
            file: 0,
            only: None,
        };
        let map = if source
            .data
            .as_ref()
            .is_some_and(|d| d.len() as u64 == row.size)
        {
            let mut map = SparseMap::new(row.size);
            map.add_data(0, row.size);
            map
        } else {
            source = Source {
                data: None,
                file: self.backing(row.ino, backing, &blocks)?,
                only: None,
            };
            self.map(row, &blocks, &mut source)?
        };
        let kind = match map.is_dense() {
            true => MemberKind::File { size: row.size },
            false => MemberKind::Sparse(&map),
        };
        let member = member(row, path, kind, Some(0), &xattrs);
        let stored = map.stored();
        let tarball = self.archive.begin_member(shared(stored), self.at)?;
        self.archive.headers(&member);
        let xids = self.data(row, &blocks, &map, &mut source)?;
        self.archive.end_member(member.archived_size());
        for (from, to) in map.holes() {
            self.archive.hole(HoleRow {
                ino: row.ino,
                from,
                to,
                xid: row.xid,
            })?;
        }
        if row.size > 0 {
            self.at.files += 1;
        }
        if shared(stored) == stored {
            self.at.bytes += stored; // else each block was counted when it went
        }
        let change = Change::member(row.ino, path, tarball, MemberForm::File, None);
        self.archive.change(&change.with_xids(xids))
    }

    /// Append the data of a whole file, and stage its extents. Answers their xids.
    fn data(
        &mut self,
        row: &InodeRow,
        blocks: &[(u64, Xid)],
        map: &SparseMap,
        source: &mut Source,
    ) -> Result<Vec<Xid>> {
        let mut xids = Vec::new();
        let own_sections = shared(map.stored()) != map.stored();
        if own_sections {
            self.archive.cut()?; // the headers
        }
        let mut run: Option<ExtentRow> = None;
        for (blk, xid) in blocks {
            let (from, to) = self.range(row, *blk);
            if map.data_within(from, to).next().is_none() {
                continue;
            }
            let offset = self.archive.raw().len() as u64;
            let section = self.archive.section();
            source.append(self, row.ino, *blk, (from, to), map)?;
            match &mut run {
                // Consecutive blocks in sections of their own are one row.
                Some(run)
                    if own_sections
                        && run.blk + run.n == *blk
                        && run.section + run.n == section =>
                {
                    run.n += 1;
                    run.xid = Xid(run.xid.0.max(xid.0));
                }
                _ => {
                    let next = self.extent(row.ino, *blk, section, offset, *xid);
                    if let Some(complete) = run.replace(next) {
                        xids.push(complete.xid);
                        self.archive.extent(&complete)?;
                    }
                }
            }
            if own_sections {
                self.archive.cut()?;
                self.at.bytes += map.data_within(from, to).map(|(a, b)| b - a).sum::<u64>();
                self.tell();
            }
        }
        if let Some(last) = run {
            xids.push(last.xid);
            self.archive.extent(&last)?;
        }
        Ok(xids)
    }

    /// The changed blocks of a file that is not stored whole.
    fn patches(&mut self, ino: Ino) -> Result<()> {
        self.holes_are_done(ino);
        let row = self.frozen.inode(ino)?;
        let blocks = self
            .frozen
            .blocks(ino, row.size.div_ceil(self.block_size))?;
        let file = self.backing(ino, self.frozen.backing(ino)?, &blocks)?;
        let mut holes = frozen_holes(self.frozen, ino)?;
        let mut taken = Vec::new();
        let first = self.at.blk;
        let finished = self.finished_blocks(ino)?;
        for (blk, xid) in blocks {
            let (from, to) = self.range(&row, blk);
            if blk < first {
                // In a finished tarball, unless it was a hole.
                if finished.contains(&blk) {
                    taken.push((from, to));
                } else {
                    holes.push(HoleRow { ino, from, to, xid });
                }
                continue;
            }
            self.at.blk = blk;
            let block = self.read(ino, file, blk, (to - from) as usize)?;
            if complement(&block.holes, to - from).is_empty() {
                holes.push(HoleRow { ino, from, to, xid });
                continue;
            }
            taken.push((from, to));
            let (size, path) = (to - from, patch_member(ino, from));
            let kind = MemberKind::File { size };
            let tarball = self.archive.begin_member(shared(size), self.at)?;
            self.archive
                .headers(&member(&row, path.as_bytes(), kind, Some(blk), &[]));
            if shared(size) != size {
                self.archive.cut()?;
            }
            let offset = self.archive.raw().len() as u64;
            let section = self.archive.section();
            self.archive.raw().extend_from_slice(&block.bytes);
            if shared(size) != size {
                self.archive.cut()?;
            }
            self.archive.end_member(size);
            let extent = self.extent(ino, blk, section, offset, xid);
            self.archive.extent(&extent)?;
            self.at.bytes += size;
            let patch = Some((from, size));
            let change = Change::member(ino, path.as_bytes(), tarball, MemberForm::Patch, patch);
            self.archive.change(&change.with_xids(vec![xid]))?;
            self.tell();
        }
        for hole in normalise(holes, &taken) {
            self.archive.hole(hole)?;
        }
        self.at.files += 1;
        Ok(())
    }

    /// The blocks of a patched file that are in finished tarballs, when the work began within it.
    fn finished_blocks(&self, ino: Ino) -> Result<BTreeSet<u64>> {
        let mut blocks = BTreeSet::new();
        if self.at.blk == 0 {
            return Ok(blocks);
        }
        for index in 1..=self.finished.len() as u32 {
            let path = self.maker.path(&facts_name(index));
            facts::read(&path, self.maker.job.number, |fact| {
                if let Fact::Extent(extent) = fact
                    && extent.ino == ino
                {
                    blocks.extend(extent.blk..extent.blk + extent.n);
                }
                Ok(())
            })?;
        }
        Ok(blocks)
    }

    /// Holes of files without changed blocks: rows of the frozen layer as they are.
    fn remaining_holes(&mut self) -> Result<Vec<HoleRow>> {
        let mut holes = Vec::new();
        if !self.frozen.has_holes() {
            return Ok(holes);
        }
        let sql = "SELECT DISTINCT ino FROM hole ORDER BY ino";
        let mut statement = self.frozen.conn.prepare(sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let ino = Ino(row.get::<_, i64>(0)? as u64);
            if self.holes_done.contains(&ino) || self.plan.orphans.binary_search(&ino).is_ok() {
                continue;
            }
            holes.extend(normalise(frozen_holes(self.frozen, ino)?, &[]));
        }
        Ok(holes)
    }

    fn holes_are_done(&mut self, ino: Ino) {
        if self.frozen.has_holes() {
            self.holes_done.insert(ino);
        }
    }

    /// Where a whole backing file has data.
    fn map(&self, row: &InodeRow, blocks: &[(u64, Xid)], source: &mut Source) -> Result<SparseMap> {
        let mut map = SparseMap::new(row.size);
        let mut coarse = false;
        for (done, (blk, _)) in blocks.iter().enumerate() {
            let (from, to) = self.range(row, *blk);
            let len = (to - from) as usize;
            let holes = if blocks.len() == 1 {
                // One block: read it once and keep it.
                let block = self.read(row.ino, source.file, *blk, len)?;
                let holes = block.holes.clone();
                source.only = Some(block);
                holes
            } else {
                self.maker
                    .job
                    .instance
                    .block_holes(row.ino, source.file, *blk, len)?
            };
            let data = complement(&holes, to - from);
            if !coarse && map.data().len() + data.len() > MAX_REGIONS {
                coarse = true;
                map = self.coarse(row, &map, &blocks[..done]);
            }
            match (coarse, data.is_empty()) {
                (_, true) => {}
                (true, false) => map.add_data(from, to),
                (false, false) => data
                    .iter()
                    .for_each(|(a, b)| map.add_data(from + a, from + b)),
            }
        }
        Ok(map)
    }

    /// `map` with whole blocks only.
    fn coarse(&self, row: &InodeRow, map: &SparseMap, blocks: &[(u64, Xid)]) -> SparseMap {
        let mut out = SparseMap::new(row.size);
        for (blk, _) in blocks {
            let (from, to) = self.range(row, *blk);
            if map.data_within(from, to).next().is_some() {
                out.add_data(from, to);
            }
        }
        out
    }

    fn read(&self, ino: Ino, file: u64, blk: u64, len: usize) -> Result<BlockBytes> {
        let block = self.maker.job.instance.read_block(ino, file, blk, len)?;
        if block.bytes.len() != len {
            return Err(Error::damage(format!(
                "block {blk} of inode {ino} has {} bytes at the cut instead of {len}",
                block.bytes.len()
            )));
        }
        Ok(block)
    }

    /// The bytes of block `blk` within the file.
    fn range(&self, row: &InodeRow, blk: u64) -> (u64, u64) {
        let from = blk * self.block_size;
        (from, row.size.min(from + self.block_size))
    }

    fn backing(&self, ino: Ino, frozen: Option<u64>, blocks: &[(u64, Xid)]) -> Result<u64> {
        match frozen {
            Some(file) => Ok(file),
            None if blocks.is_empty() => Ok(0), // nothing will be read
            None => self.maker.job.instance.backing_file(ino),
        }
    }

    fn check_inline(&self, row: &InodeRow, data: &mut Vec<u8>) -> Result<()> {
        if data.len() as u64 > row.size {
            return Err(Error::damage(format!(
                "inode {} has {} bytes of inline data but a size of {}",
                row.ino,
                data.len(),
                row.size
            )));
        }
        data.resize(row.size as usize, 0); // extended without a write
        Ok(())
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.plan.xattrs(self.frozen, self.maker.job.instance, ino)
    }

    fn extent(&self, ino: Ino, blk: u64, section: u64, offset: u64, xid: Xid) -> ExtentRow {
        ExtentRow {
            ino,
            blk,
            n: 1,
            snapshot: self.maker.job.number,
            section,
            offset,
            xid,
        }
    }
}

/// Where the bytes of a whole file come from.
struct Source {
    /// All of it, of an inline file.
    data: Option<Vec<u8>>,
    /// Its backing file.
    file: u64,
    /// The only block, when it has been read already.
    only: Option<BlockBytes>,
}

impl Source {
    /// Append the data of a block, without the holes of `map`, to the running section.
    fn append(
        &mut self,
        contents: &mut Contents<'_>,
        ino: Ino,
        blk: u64,
        (from, to): (u64, u64),
        map: &SparseMap,
    ) -> Result<()> {
        if let Some(data) = &self.data {
            contents
                .archive
                .raw()
                .extend_from_slice(&data[from as usize..to as usize]);
            return Ok(());
        }
        let block = match self.only.take() {
            Some(block) => block,
            None => contents.read(ino, self.file, blk, (to - from) as usize)?,
        };
        let raw = contents.archive.raw();
        let mut at = 0;
        let dropped = |part: &[u8]| {
            if part.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            Err(Error::failed(format!(
                "block {blk} of inode {ino} has data where its backing file had a hole at the cut"
            )))
        };
        for (start, end) in map.data_within(from, to) {
            let (start, end) = ((start - from) as usize, (end - from) as usize);
            dropped(&block.bytes[at..start])?;
            raw.extend_from_slice(&block.bytes[start..end]);
            at = end;
        }
        dropped(&block.bytes[at..])
    }
}

fn member<'m>(
    row: &InodeRow,
    path: &'m [u8],
    kind: MemberKind<'m>,
    blk: Option<u64>,
    xattrs: &'m [(Vec<u8>, Vec<u8>)],
) -> Member<'m> {
    Member {
        path,
        kind,
        mode: row.mode,
        uid: row.uid,
        gid: row.gid,
        mtime: row.mtime,
        atime: row.atime,
        ctime: row.ctime,
        ino: row.ino,
        xid: Some(row.xid),
        blk,
        xattrs,
    }
}

/// What contents of `stored` bytes take in a shared section: all, or nothing as they get their own.
fn shared(stored: u64) -> u64 {
    if stored <= SHARED_SECTION { stored } else { 0 }
}

/// The parts of `0..len` that are no holes.
fn complement(holes: &[(u64, u64)], len: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::with_capacity(holes.len() + 1);
    let mut at = 0;
    for (from, to) in holes {
        if at < *from {
            out.push((at, (*from).min(len)));
        }
        at = at.max(*to);
    }
    if at < len {
        out.push((at, len));
    }
    out
}
