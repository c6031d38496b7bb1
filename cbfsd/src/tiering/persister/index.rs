//! The TOC and the places of contents for the layer, from the facts of finished tarballs: as they are
//! finished, on a thread of its own.

use super::facts::{self, Fact};
use super::ledger::{TarballEntry, facts_name};
use super::staging::Staging;
use super::{Job, cancelled};
use cbfs_core::error::Result;
use cbfs_core::toc::TocWriter;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

/// Name of the TOC before it is compressed.
const PLAIN_TOC: &str = "toc.sqlite";

/// What of the index is known so far.
pub(super) struct Index {
    pub(super) staging: Staging,
    toc: TocWriter,
    pub(super) plain_toc: PathBuf,
    next_section: u64,
}

impl Index {
    /// Take in tarballs, from 0001, as they come out of the channel, until it ends.
    pub(super) fn run(
        job: &Job<'_>,
        dir: &Path,
        finished: &Receiver<TarballEntry>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Index> {
        let plain_toc = dir.join(PLAIN_TOC);
        let mut toc = TocWriter::create(&plain_toc)?;
        toc.put_meta("format", "1")?;
        toc.put_meta("fs", &job.fs.to_string())?;
        toc.put_meta("number", &job.number.to_string())?;
        toc.put_meta("epoch", &job.epoch.to_string())?;
        toc.put_meta("attempt", &job.attempt)?;
        let mut index = Index {
            staging: Staging::create(dir)?,
            toc,
            plain_toc,
            next_section: 0,
        };
        for (tarball, number) in finished.iter().zip(1u32..) {
            if stop() {
                return Err(cancelled());
            }
            index.add(job, dir, &tarball, number)?;
        }
        Ok(index)
    }

    fn add(
        &mut self,
        job: &Job<'_>,
        dir: &Path,
        tarball: &TarballEntry,
        number: u32,
    ) -> Result<()> {
        let object = &tarball.object;
        self.toc
            .add_tarball(number, &object.key, object.size, &object.blake3)?;
        facts::read(&dir.join(facts_name(number)), job.number, |fact| {
            match fact {
                Fact::Section(section) => {
                    self.toc.add_section(
                        self.next_section,
                        number,
                        section.offset,
                        section.length,
                        section.raw_length,
                        &section.blake3.to_hex(),
                    )?;
                    self.next_section += 1;
                }
                Fact::Extent(extent) => {
                    // Consecutive blocks of one row lie in consecutive sections.
                    for i in 0..extent.n {
                        self.toc
                            .add_block(extent.section + i, extent.ino, extent.blk + i)?;
                    }
                    self.staging.extent(&extent)?;
                }
                Fact::Hole(hole) => self.staging.hole(&hole)?,
            }
            Ok(())
        })
    }

    /// Close the TOC; answers its path (not compressed) and the rest.
    pub(super) fn close_toc(self) -> Result<(PathBuf, Staging)> {
        self.toc.finish()?;
        Ok((self.plain_toc, self.staging))
    }
}
