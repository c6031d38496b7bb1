//! Writes a tarball file: sections in, frames in the same order out.

use super::CompressionPool;
use super::pool::{Compressed, Pending};
use crate::durable_file::sync_dir;
use crate::error::{Context, Error, Result};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A section as it lies in a finished part of a tarball.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Where its frame begins in the tarball file, in bytes.
    pub offset: u64,
    /// Bytes of the frame.
    pub length: u64,
    /// Bytes after decompression.
    pub raw_length: u64,
    /// BLAKE3 of the frame as stored.
    pub blake3: blake3::Hash,
}

/// Writes one tarball. Sections are compressed on the pool's threads and written in the order of
/// [`SectionWriter::push`]. At most a fixed number is in flight, and the oldest is waited for only
/// when that number is reached: so memory is bounded, and the sizes told by
/// [`SectionWriter::stored`] do not depend on how fast threads are.
///
/// Dropping it without [`SectionWriter::seal`] leaves a file that is cut off; its owner removes it.
pub struct SectionWriter<'p> {
    pool: &'p CompressionPool,
    file: File,
    path: PathBuf,
    pending: VecDeque<Pending>,
    spare: Vec<Vec<u8>>,
    written: Vec<Section>,
    hasher: blake3::Hasher,
    stored: u64,
    /// Raw bytes of the sections in flight.
    in_flight: u64,
}

impl<'p> SectionWriter<'p> {
    /// Begin a tarball at `path`, which must not exist.
    pub fn create(path: &Path, pool: &'p CompressionPool) -> Result<SectionWriter<'p>> {
        let file = File::create_new(path)
            .context(|| format!("the tarball {} could not be created", path.display()))?;
        Ok(SectionWriter {
            pool,
            file,
            path: path.to_owned(),
            pending: VecDeque::new(),
            spare: Vec::new(),
            written: Vec::new(),
            hasher: blake3::Hasher::new(),
            stored: 0,
            in_flight: 0,
        })
    }

    /// Queue the next section. Blocks while too many are in flight.
    ///
    /// # Errors
    /// Of this or of an earlier section: compression or writing failed. The tarball is lost then.
    pub fn push(&mut self, raw: Vec<u8>) -> Result<()> {
        while self.pending.len() >= self.pool.in_flight() {
            self.write_oldest()?;
        }
        let length = raw.len() as u64;
        self.pending.push_back(self.pool.submit(raw)?);
        self.in_flight += length;
        Ok(())
    }

    /// An empty buffer for the next section, with the memory of an earlier one where possible.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Bytes of the file written so far; sections in flight count with their raw bytes.
    pub fn stored(&self) -> u64 {
        self.stored + self.in_flight
    }

    /// The sections that were written since the last call, in order.
    pub fn take_written(&mut self) -> Vec<Section> {
        std::mem::take(&mut self.written)
    }

    /// Wait for all sections and close the tarball. It is not durable yet.
    pub fn seal(mut self) -> Result<SealedTarball> {
        while !self.pending.is_empty() {
            self.write_oldest()?;
        }
        Ok(SealedTarball {
            file: self.file,
            path: self.path,
            size: self.stored,
            blake3: self.hasher.finalize(),
            sections: self.written,
        })
    }

    fn write_oldest(&mut self) -> Result<()> {
        let Some(oldest) = self.pending.pop_front() else {
            return Ok(());
        };
        let Compressed {
            frame,
            blake3,
            raw_length,
            mut buffer,
        } = oldest.wait()?;
        self.file.write_all(&frame).map_err(|e| {
            Error::failed(format!(
                "the tarball {} could not be written",
                self.path.display()
            ))
            .because(e)
            .hint("make room on the disk of the proxy cache")
        })?;
        self.hasher.update(&frame);
        let length = frame.len() as u64;
        self.written.push(Section {
            offset: self.stored,
            length,
            raw_length,
            blake3,
        });
        self.stored += length;
        self.in_flight = self.in_flight.saturating_sub(raw_length);
        buffer.clear();
        if self.spare.len() < 2 {
            self.spare.push(buffer);
        }
        Ok(())
    }
}

/// A tarball that is whole but not yet durable.
#[derive(Debug)]
pub struct SealedTarball {
    file: File,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes of the file.
    pub size: u64,
    /// BLAKE3 of the file.
    pub blake3: blake3::Hash,
    /// The sections not yet taken by [`SectionWriter::take_written`].
    pub sections: Vec<Section>,
}

impl SealedTarball {
    /// fsync file and directory: only after this may anything refer to the tarball.
    pub fn sync(&self) -> Result<()> {
        let failed = || {
            format!(
                "the tarball {} could not be made durable",
                self.path.display()
            )
        };
        self.file.sync_all().context(failed)?;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new("."))).context(failed)
    }
}
