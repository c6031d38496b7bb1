//! The data tarballs: TOC rows and extents from headers and frames.

use crate::bucket::Bucket;
use crate::cloud_snapshot::TarballStream;
use crate::error::{Error, Result};
use crate::format::changes::{MemberChange, MemberForm, SnapshotRecord};
use crate::format::{ObjectRef, keys};
use crate::handle::Handle;
use crate::ids::{Ino, SnapshotNumber, Xid};
use crate::layers::{ExtentRow, rows};
use crate::tarball::{FramePlace, ReadMember};
use crate::toc::TocWriter;
use rusqlite::Connection;
use std::path::Path;

/// Files with more stored bytes have a section per block (`docs/format.md`).
const SHARED_SECTION: u64 = 256 << 10;

/// Contents of a member whose place in the stored tarball is not known before its frames are.
struct Pending {
    ino: Ino,
    own_sections: bool,
    /// Block, and the first byte of its data in the decompressed tarball.
    blocks: Vec<(u64, u64)>,
    /// Of the extents.
    xids: Vec<Xid>,
}

/// Goes through the data tarballs of a snapshot in step with the list of its members.
pub(super) struct DataTarballs<'a> {
    bucket: &'a dyn Bucket,
    fs: &'a Handle,
    folder: &'a str,
    number: SnapshotNumber,
    block_size: u64,
    toc: TocWriter,
    /// Number of the current tarball; 0 before the first.
    tarball: u32,
    stream: Option<TarballStream<'a>>,
    /// Sections of the tarballs before.
    sections: u64,
    pending: Vec<Pending>,
    tarballs: Vec<ObjectRef>,
}

impl<'a> DataTarballs<'a> {
    pub(super) fn new(
        bucket: &'a dyn Bucket,
        fs: &'a Handle,
        folder: &'a str,
        record: &SnapshotRecord,
        toc: &Path,
    ) -> Result<DataTarballs<'a>> {
        let mut toc = TocWriter::create(toc)?;
        toc.put_meta("format", "1")?;
        toc.put_meta("fs", &fs.to_string())?;
        toc.put_meta("number", &record.number.to_string())?;
        toc.put_meta("epoch", &record.epoch.to_string())?;
        toc.put_meta("attempt", &record.attempt)?;
        Ok(DataTarballs {
            bucket,
            fs,
            folder,
            number: record.number,
            block_size: record.block_size,
            toc,
            tarball: 0,
            stream: None,
            sections: 0,
            pending: Vec::new(),
            tarballs: Vec::new(),
        })
    }

    /// The next member of the list: find it in the tarballs.
    pub(super) fn member(&mut self, listed: &MemberChange, conn: &Connection) -> Result<()> {
        if listed.tarball != self.tarball {
            self.close(conn)?;
            if listed.tarball != self.tarball + 1 {
                let text = format!(
                    "the list of members leaves out tarball {}",
                    self.tarball + 1
                );
                return Err(Error::damage(text));
            }
            self.tarball += 1;
            let key = self.key();
            self.stream = Some(TarballStream::open(self.bucket, self.fs, &key)?);
        }
        let stream = self.stream.as_mut().ok_or_else(no_tarball)?;
        let found = stream.next_member()?;
        let Some(found) = found.filter(|found| is_listed(found, listed)) else {
            let path = String::from_utf8_lossy(&listed.bytes()?).into_owned();
            let text = format!("member {path:?} is not where the list of members has it");
            return Err(stream.explain(Error::damage(text)));
        };
        let blocks = match listed.form {
            MemberForm::File => self.blocks_of(&found),
            MemberForm::Patch => {
                let blk = found.number(b"CBFS.blk");
                blk.map(|blk| (blk, found.data_at)).into_iter().collect()
            }
            _ => return Ok(()),
        };
        if !blocks.is_empty() || !listed.xids.is_empty() {
            self.pending.push(Pending {
                ino: listed.ino,
                own_sections: found.stored > SHARED_SECTION,
                blocks,
                xids: listed.xids.clone(),
            });
        }
        Ok(())
    }

    /// The blocks of a whole file that have data.
    fn blocks_of(&self, member: &ReadMember) -> Vec<(u64, u64)> {
        let dense = [(0, member.size)];
        let regions = member.sparse.as_ref().map_or(&dense[..], |map| map.data());
        let mut blocks = Vec::new();
        let mut at = member.data_at;
        for &(from, length) in regions.iter().filter(|(_, length)| *length > 0) {
            let to = from + length;
            for blk in from / self.block_size..to.div_ceil(self.block_size) {
                let first = from.max(blk * self.block_size);
                if blocks.last().is_none_or(|(last, _)| *last < blk) {
                    blocks.push((blk, at + (first - from)));
                }
            }
            at += length;
        }
        blocks
    }

    /// The current tarball is at its end: now the places of its contents are known.
    pub(super) fn close(&mut self, conn: &Connection) -> Result<()> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(());
        };
        if stream.next_member()?.is_some() {
            let text = "it has members that the list of members does not know";
            return Err(stream.explain(Error::damage(text)));
        }
        let (object, places) = stream.finish()?;
        let nr = self.tarball;
        self.toc
            .add_tarball(nr, &object.key, object.size, &object.blake3)?;
        for (section, place) in (self.sections..).zip(&places) {
            let hex = place.blake3.to_hex();
            self.toc.add_section(
                section,
                nr,
                place.offset,
                place.length,
                place.raw_length,
                &hex,
            )?;
        }
        for pending in std::mem::take(&mut self.pending) {
            self.place(&pending, &places, conn)
                .map_err(|e| e.context(format!("object {}/{}", self.fs, object.key)))?;
        }
        self.sections += places.len() as u64;
        self.tarballs.push(object);
        Ok(())
    }

    /// TOC rows and extents of one member.
    fn place(&mut self, member: &Pending, places: &[FramePlace], conn: &Connection) -> Result<()> {
        let ino = member.ino;
        let mut extents: Vec<ExtentRow> = Vec::with_capacity(1);
        for &(blk, position) in &member.blocks {
            let after = places.partition_point(|place| place.raw_offset <= position);
            let within = after
                .checked_sub(1)
                .and_then(|at| Some((at, places.get(at)?)));
            let (index, place) = within.ok_or_else(|| {
                Error::damage(format!("block {blk} of inode {ino} lies in no section"))
            })?;
            let section = self.sections + index as u64;
            self.toc.add_block(section, ino, blk)?;
            match extents.last_mut() {
                Some(run)
                    if member.own_sections
                        && run.blk + run.n == blk
                        && run.section + run.n == section =>
                {
                    run.n += 1;
                }
                _ => extents.push(ExtentRow {
                    ino,
                    blk,
                    n: 1,
                    snapshot: self.number,
                    section,
                    offset: position - place.raw_offset,
                    xid: Xid(0),
                }),
            }
        }
        if extents.len() != member.xids.len() {
            return Err(Error::damage(format!(
                "inode {ino} has {} runs of blocks, but the list of members tells of {}",
                extents.len(),
                member.xids.len()
            )));
        }
        for (mut extent, xid) in extents.into_iter().zip(&member.xids) {
            extent.xid = *xid;
            rows::put_extent(conn, &extent)?;
        }
        Ok(())
    }

    /// End the TOC. Answers whether it has anything, and the tarballs.
    pub(super) fn finish(self) -> Result<(bool, Vec<ObjectRef>)> {
        self.toc.finish()?;
        Ok((!self.tarballs.is_empty(), self.tarballs))
    }

    fn key(&self) -> String {
        format!("{}{}", self.folder, keys::tarball(self.tarball))
    }
}

/// Whether a member is the one that the list has here.
fn is_listed(found: &ReadMember, listed: &MemberChange) -> bool {
    let flags: &[u8] = match listed.form {
        MemberForm::File | MemberForm::Patch => b"0",
        MemberForm::HardLink => b"1",
        MemberForm::Symlink => b"2",
        MemberForm::Special => b"346",
        MemberForm::Directory => b"5",
    };
    flags.contains(&found.flag)
        && found.number(b"SCHILY.ino") == Some(listed.ino.0)
        && listed.bytes().is_ok_and(|path| path == found.path)
}

fn no_tarball() -> Error {
    Error::damage("the list of members begins before the first tarball")
}
