//! Fetching contents in advance, to stay: the sections of files go, as they are stored, into the proxy cache
//! ([`ProxyCache::keep_part`](super::super::proxy::ProxyCache::keep_part)), from where reads take them without the bucket.
//!
//! Nothing is noted of what is there: each part is verified before it is believed, here and by who reads it. So a crash at
//! any time costs only work.

use super::super::fetches::on_threads;
use super::{SectionId, Sections, TierIn};
use cbfs_core::api::{ErrorBody, ErrorDetail};
use cbfs_core::cloud_snapshot::{is_frame, read_frame, section_length};
use cbfs_core::error::{Error, ErrorKind, Result};
use cbfs_core::ids::Ino;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sections fetched at a time.
const FETCHES: usize = 8;
/// Blocks looked up at a time.
const BLOCKS: u64 = 1024;
/// Sections collected before they are fetched, but for those of the last blocks looked up: so memory is bounded, however large
/// the files are.
const SECTIONS: usize = 4096;
/// What is fetched in advance leaves the disk at least this many bytes.
const LEFT_FREE: u64 = 256 << 20;

/// Sections to fetch, and the files that have something in each.
type Wanted = BTreeMap<SectionId, Vec<Ino>>;

/// What came of it.
#[derive(Debug, Default)]
pub struct Warmed {
    /// Bytes, as stored, that were fetched.
    pub fetched_bytes: u64,
    /// Bytes, as stored, that were here. A section that many files share may be counted several times.
    pub kept_bytes: u64,
    /// Files of which an object is damaged or missing.
    pub failed: BTreeMap<Ino, ErrorDetail>,
}

impl TierIn {
    /// Fetch all sections that these blocks of files lie in. Waits for the bucket. Ends early once `given_up` is set.
    ///
    /// # Errors
    /// Those of bucket and disk, [`ErrorKind::Failed`] before the disk gets full: what was fetched stays.
    /// [`ErrorKind::Conflict`] when it was given up, or the cache has ended. A damaged object is none: it is told for each
    /// file.
    pub fn warm(&self, wanted: &[(Ino, Range<u64>)], given_up: &AtomicBool) -> Result<Warmed> {
        self.warm_in_steps(wanted, given_up, BLOCKS, SECTIONS)
    }

    /// The same; so many blocks are looked up at a time, and sections are fetched whenever there are so many.
    pub(super) fn warm_in_steps(
        &self,
        wanted: &[(Ino, Range<u64>)],
        given_up: &AtomicBool,
        blocks_at_once: u64,
        sections_at_once: usize,
    ) -> Result<Warmed> {
        let mut warmed = Warmed::default();
        let mut sections = Wanted::new();
        for (ino, blocks) in wanted {
            let mut from = blocks.start;
            while from < blocks.end {
                let to = blocks.end.min(from.saturating_add(blocks_at_once));
                let contents = self.sections.stack.content(*ino, from, to)?;
                for extent in contents.iter().filter_map(|content| content.extent) {
                    let files = sections
                        .entry((extent.snapshot, extent.section))
                        .or_default();
                    if files.last() != Some(ino) {
                        files.push(*ino);
                    }
                }
                from = to;
                if sections.len() >= sections_at_once {
                    self.warm_sections(std::mem::take(&mut sections), given_up, &mut warmed)?;
                }
            }
        }
        self.warm_sections(sections, given_up, &mut warmed)?;
        Ok(warmed)
    }

    fn warm_sections(
        &self,
        sections: Wanted,
        given_up: &AtomicBool,
        warmed: &mut Warmed,
    ) -> Result<()> {
        let sections: Vec<_> = sections.into_iter().collect();
        let warmed = Mutex::new(warmed);
        on_threads(FETCHES, &sections, |(id, files)| {
            if given_up.load(Ordering::Relaxed) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "nobody waits for it any more",
                ));
            }
            match self.sections.keep(*id) {
                Ok(Kept::Fetched(bytes)) => warmed.lock().fetched_bytes += bytes,
                Ok(Kept::Before(bytes)) => warmed.lock().kept_bytes += bytes,
                Err(e) if e.kind() == ErrorKind::Damage => {
                    let detail = ErrorBody::from(&e).error;
                    let files = files.iter().map(|ino| (*ino, detail.clone()));
                    warmed.lock().failed.extend(files);
                }
                Err(e) => return Err(e),
            }
            Ok(())
        })
    }
}

/// Bytes, as stored.
enum Kept {
    Fetched(u64),
    Before(u64),
}

impl TierIn {
    /// See [`ProxyCache::end`](super::super::proxy::ProxyCache::end).
    pub fn end_cache(&self) {
        self.sections.proxy.end();
    }
}

impl Sections {
    fn keep(&self, id: SectionId) -> Result<Kept> {
        let kept = self.find_and_keep(id);
        self.note_damage(id, kept.as_ref().err());
        kept
    }

    fn find_and_keep(&self, id: SectionId) -> Result<Kept> {
        drop(self.proxy.writing()?); // nothing is fetched for a cache that has ended
        let (toc, section) = (self.toc(id.0)?, id.1);
        let place = self.place(&toc, id.0, section)?;
        section_length(&self.fs, &place)?; // before memory is taken for what the TOC claims
        let whole = self.read_local(&place)?;
        if whole.is_some_and(|frame| is_frame(&frame, &place)) || self.read_warm(&place)?.is_some()
        {
            return Ok(Kept::Before(place.length));
        }
        let free = self.proxy.free_bytes()?;
        if free < place.length.saturating_add(LEFT_FREE) {
            let text = format!("the disk of the proxy cache has only {free} bytes left");
            return Err(Error::failed(text)
                .hint("make room there, or warm fewer paths; what is fetched already stays"));
        }
        let frame = read_frame(self.bucket.as_ref(), &self.fs, &place)?;
        self.proxy
            .keep_part(&place.tarball.key, place.offset, &frame)?;
        Ok(Kept::Fetched(place.length))
    }
}
