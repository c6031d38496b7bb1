//! The data tarballs of a snapshot as one stream of members: where sections end, where the next
//! tarball begins, and the TOC that says so.

use super::{Maker, remove};
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::frames::compress_whole;
use cbfs_core::ids::Ino;
use cbfs_core::tarball::{
    CompressionPool, END_OF_ARCHIVE, Member, SealedTarball, Section, SectionWriter, padding,
};
use cbfs_core::toc::TocWriter;
use std::thread::{self, JoinHandle};

/// Contents up to this share sections; larger ones have a section per block.
pub(super) const SHARED_SECTION: u64 = 256 << 10;

/// A section with at least this much is not continued with files of another directory.
const DIRECTORY_SECTION: usize = 128 << 10;

/// Name of the TOC before it is compressed.
const PLAIN_TOC: &str = "toc.sqlite";

/// What [`Archive::finish`] made.
pub(super) struct Archived {
    pub(super) tarballs: Vec<ObjectRef>,
    pub(super) toc: Option<ObjectRef>,
    pub(super) sections: u64,
}

/// Writes data tarballs. Members come as headers and contents into [`Archive::raw`], the running
/// section, between [`Archive::begin_member`] and [`Archive::end_member`].
pub(super) struct Archive<'a> {
    maker: &'a Maker<'a>,
    pool: &'a CompressionPool,
    /// `None` once finished.
    toc: Option<TocWriter>,
    writer: Option<SectionWriter<'a>>,
    /// Number of the current tarball; 0 before the first.
    tarball: u32,
    /// Number of the running section.
    section: u64,
    /// Number of the first section that is not in the TOC yet.
    recorded: u64,
    raw: Vec<u8>,
    /// A tarball on its way to the disk, while the next one is being filled.
    syncing: Option<JoinHandle<Result<SealedTarball>>>,
    tarballs: Vec<ObjectRef>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(maker: &'a Maker<'a>, pool: &'a CompressionPool) -> Result<Archive<'a>> {
        let mut toc = TocWriter::create(&maker.path(PLAIN_TOC))?;
        let job = maker.job;
        toc.put_meta("format", "1")?;
        toc.put_meta("fs", &job.fs.to_string())?;
        toc.put_meta("number", &job.number.to_string())?;
        toc.put_meta("epoch", &job.epoch.to_string())?;
        toc.put_meta("attempt", &job.attempt)?;
        Ok(Archive {
            maker,
            pool,
            toc: Some(toc),
            writer: None,
            tarball: 0,
            section: 0,
            recorded: 0,
            raw: Vec::new(),
            syncing: None,
            tarballs: Vec::new(),
        })
    }

    /// Begin a member with `shared` bytes of contents in the running section (0 when its blocks
    /// get their own). Returns the number of the tarball it goes to.
    pub(super) fn begin_member(&mut self, shared: u64) -> Result<u32> {
        let full = self
            .writer
            .as_ref()
            .is_some_and(|w| w.stored() >= self.maker.job.tarball_target);
        if full {
            self.close_tarball()?;
        } else if self.raw.len() as u64 + shared > SHARED_SECTION {
            self.cut()?;
        }
        if self.writer.is_none() {
            self.tarball += 1;
            let path = self.maker.path(&keys::tarball(self.tarball));
            self.writer = Some(SectionWriter::create(&path, self.pool)?);
        }
        Ok(self.tarball)
    }

    /// Append the headers of a member to the running section.
    pub(super) fn headers(&mut self, member: &Member<'_>) {
        member.encode(&mut self.raw);
    }

    /// Append the padding after contents of `stored` bytes (map and data).
    pub(super) fn end_member(&mut self, stored: u64) {
        self.raw.resize(self.raw.len() + padding(stored), 0);
    }

    /// The files that follow are of another directory.
    pub(super) fn next_directory(&mut self) -> Result<()> {
        if self.raw.len() >= DIRECTORY_SECTION {
            self.cut()
        } else {
            Ok(())
        }
    }

    /// The running section, for appending.
    pub(super) fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.raw
    }

    /// Number of the running section.
    pub(super) fn section(&self) -> u64 {
        self.section
    }

    /// Say that the running section holds a block.
    pub(super) fn holds(&mut self, ino: Ino, blk: u64) -> Result<()> {
        let section = self.section;
        self.toc()?.add_block(section, ino, blk)
    }

    /// End the running section, if there is anything in it.
    pub(super) fn cut(&mut self) -> Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        self.maker.check_cancelled()?;
        let writer = self
            .writer
            .as_mut()
            .ok_or_else(|| Error::failed("no tarball is open"))?;
        let next = writer.buffer();
        writer.push(std::mem::replace(&mut self.raw, next))?;
        let written = writer.take_written();
        self.section += 1;
        self.record(&written)
    }

    /// End the last tarball and make the TOC.
    pub(super) fn finish(mut self) -> Result<Archived> {
        self.close_tarball()?;
        self.join_syncing()?;
        self.toc.take().ok_or_else(finished)?.finish()?;
        let plain = self.maker.path(PLAIN_TOC);
        let toc = if self.tarballs.is_empty() {
            None
        } else {
            let path = self.maker.path(keys::TOC);
            let stored = compress_whole(&plain, &path, self.maker.job.level)?;
            let object = stored.at(self.maker.job.key(keys::TOC));
            self.maker.object_made(&object, &path)?;
            Some(object)
        };
        remove(&plain)?;
        Ok(Archived {
            tarballs: std::mem::take(&mut self.tarballs),
            toc,
            sections: self.section,
        })
    }

    fn toc(&mut self) -> Result<&mut TocWriter> {
        self.toc.as_mut().ok_or_else(finished)
    }

    fn close_tarball(&mut self) -> Result<()> {
        if self.writer.is_none() {
            return Ok(());
        }
        self.raw.extend_from_slice(&END_OF_ARCHIVE);
        self.cut()?;
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let sealed = writer.seal()?;
        self.record(&sealed.sections)?;
        // The disk works on this one while the next is being compressed; one at a time.
        self.join_syncing()?;
        let sync = move || sealed.sync().map(|()| sealed);
        let syncing = thread::Builder::new().name("cbfs-sync".into()).spawn(sync);
        self.syncing = Some(syncing.context(|| "a thread could not be started".into())?);
        Ok(())
    }

    fn join_syncing(&mut self) -> Result<()> {
        let Some(syncing) = self.syncing.take() else {
            return Ok(());
        };
        let sealed = syncing
            .join()
            .map_err(|_| Error::failed("the thread that syncs a tarball died"))??;
        let index = self.tarballs.len() as u32 + 1;
        let object = self.maker.tarball_made(index, &sealed)?;
        self.toc()?
            .add_tarball(index, &object.key, object.size, &object.blake3)?;
        self.tarballs.push(object);
        Ok(())
    }

    fn record(&mut self, written: &[Section]) -> Result<()> {
        for section in written {
            let Section {
                offset,
                length,
                raw_length,
                blake3,
            } = *section;
            let hex = blake3.to_hex();
            let (number, tarball) = (self.recorded, self.tarball);
            self.toc()?
                .add_section(number, tarball, offset, length, raw_length, &hex)?;
            self.recorded += 1;
        }
        Ok(())
    }
}

impl Drop for Archive<'_> {
    fn drop(&mut self) {
        // After an error: the thread must not outlive the folder it works in.
        if let Some(syncing) = self.syncing.take() {
            let _ = syncing.join();
        }
    }
}

fn finished() -> Error {
    Error::failed("the TOC is finished already")
}
