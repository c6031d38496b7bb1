//! The data tarballs of a snapshot as one stream of members: where sections end, and where the next
//! tarball begins. Each tarball has two companions, its [`facts`](super::facts) and the lines of its
//! members for the list of changes; all three are noted in the [`ledger`](super::ledger) together.

use super::Maker;
use super::facts::PieceWriter;
use super::ledger::{Position, TarballEntry, facts_name, members_name};
use cbfs_core::error::{Error, Result};
use cbfs_core::format::changes::{Change, write_change};
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::layers::{ExtentRow, HoleRow};
use cbfs_core::tarball::{CompressionPool, END_OF_ARCHIVE, Member, SectionWriter, padding};
use std::sync::mpsc::Sender;

/// Contents up to this share sections; larger ones have a section per block.
pub(super) const SHARED_SECTION: u64 = 256 << 10;

/// A section with at least this much is not continued with files of another directory.
const DIRECTORY_SECTION: usize = 128 << 10;

/// The first tarball has this many stored bytes, each that follows twice as many, up to the target: so that
/// sending begins early, and most of a snapshot is in few objects.
const FIRST_TARBALL: u64 = 8 << 20;

/// Writes data tarballs. Members come as headers and contents into [`Archive::raw`], the running
/// section, between [`Archive::begin_member`] and [`Archive::end_member`].
pub(super) struct Archive<'a> {
    maker: &'a Maker<'a>,
    pool: &'a CompressionPool,
    open: Option<OpenTarball<'a>>,
    /// How many tarballs there are, the open one included.
    tarballs: u32,
    /// Number of the running section.
    section: u64,
    raw: Vec<u8>,
    /// Holes found before the first tarball.
    early_holes: Vec<HoleRow>,
    /// Gets every finished tarball.
    ready: Sender<TarballEntry>,
}

/// A tarball in the making.
struct OpenTarball<'a> {
    writer: SectionWriter<'a>,
    facts: PieceWriter,
    members: PieceWriter,
    /// Number of its first section.
    first_section: u64,
}

impl<'a> Archive<'a> {
    /// Go on behind the tarballs `finished`. `ready` gets them, and those that follow.
    pub(super) fn new(
        maker: &'a Maker<'a>,
        pool: &'a CompressionPool,
        finished: &[TarballEntry],
        ready: Sender<TarballEntry>,
    ) -> Result<Archive<'a>> {
        for tarball in finished {
            hand_over(&ready, tarball.clone())?;
        }
        Ok(Archive {
            maker,
            pool,
            open: None,
            tarballs: finished.len() as u32,
            section: finished.iter().map(|t| t.sections).sum(),
            raw: Vec::new(),
            early_holes: Vec::new(),
            ready,
        })
    }

    /// Begin a member with `shared` bytes of contents in the running section (0 when its blocks
    /// get their own); `place` is its own place in the work list. Returns the number of the tarball
    /// it goes to.
    pub(super) fn begin_member(&mut self, shared: u64, place: Position) -> Result<u32> {
        let target = (FIRST_TARBALL << self.tarballs.saturating_sub(1).min(16))
            .min(self.maker.job.tarball_target);
        let open = self.open.as_ref();
        let full = open.is_some_and(|open| open.writer.stored() >= target);
        if full {
            self.close_tarball(place)?;
        } else if self.raw.len() as u64 + shared > SHARED_SECTION {
            self.cut()?;
        }
        if self.open.is_none() {
            self.tarballs += 1;
            let path = |name: String| self.maker.path(&name);
            let mut facts = PieceWriter::create(&path(facts_name(self.tarballs)))?;
            for hole in self.early_holes.drain(..) {
                facts.hole(&hole)?;
            }
            self.open = Some(OpenTarball {
                writer: SectionWriter::create(&path(keys::tarball(self.tarballs)), self.pool)?,
                facts,
                members: PieceWriter::create(&path(members_name(self.tarballs)))?,
                first_section: self.section,
            });
        }
        Ok(self.tarballs)
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

    /// Say where blocks of the open tarball's members are.
    pub(super) fn extent(&mut self, row: &ExtentRow) -> Result<()> {
        self.open()?.facts.extent(row)
    }

    /// Say that bytes of a member, or of a file that got none, are a hole.
    pub(super) fn hole(&mut self, row: HoleRow) -> Result<()> {
        match &mut self.open {
            Some(open) => open.facts.hole(&row),
            None => {
                self.early_holes.push(row);
                Ok(())
            }
        }
    }

    /// The line of a member for the list of changes.
    pub(super) fn change(&mut self, change: &Change) -> Result<()> {
        write_change(&mut self.open()?.members, change)
    }

    /// End the running section, if there is anything in it.
    pub(super) fn cut(&mut self) -> Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        self.maker.check_cancelled()?;
        let raw = std::mem::take(&mut self.raw);
        let open = self.open()?;
        let next = open.writer.buffer();
        open.writer.push(raw)?;
        for section in open.writer.take_written() {
            open.facts.section(&section)?;
        }
        self.raw = next;
        self.section += 1;
        Ok(())
    }

    /// End the last tarball; `end` is the end of the work list. Answers holes that belong to no
    /// tarball, as there is none.
    pub(super) fn finish(mut self, end: Position) -> Result<Vec<HoleRow>> {
        self.close_tarball(end)?;
        Ok(self.early_holes)
    }

    fn open(&mut self) -> Result<&mut OpenTarball<'a>> {
        let open = self.open.as_mut();
        open.ok_or_else(|| Error::failed("no tarball is open"))
    }

    fn close_tarball(&mut self, next: Position) -> Result<()> {
        if self.open.is_none() {
            return Ok(());
        }
        self.raw.extend_from_slice(&END_OF_ARCHIVE);
        self.cut()?;
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let OpenTarball {
            writer,
            mut facts,
            members,
            first_section,
        } = open;
        let sealed = writer.seal()?;
        for section in &sealed.sections {
            facts.section(section)?;
        }
        let object = ObjectRef {
            key: self.maker.job.key(&keys::tarball(self.tarballs)),
            size: sealed.size,
            blake3: sealed.blake3.to_hex().to_string(),
        };
        let tarball = TarballEntry {
            object,
            sections: self.section - first_section,
            facts: facts.finish()?,
            members: members.finish()?,
            next,
        };
        self.maker.tarball_made(&tarball, &sealed.path)?;
        hand_over(&self.ready, tarball)
    }
}

fn hand_over(ready: &Sender<TarballEntry>, tarball: TarballEntry) -> Result<()> {
    let sent = ready.send(tarball);
    sent.map_err(|_| Error::failed("the thread that makes the index has ended"))
}
