//! Contents of files, for a reader that goes through the whole snapshot in the order of the
//! tarballs: sections are fetched several at a time, and the last ones kept.

use super::sections::{describe, open_frame, section_length};
use super::{CloudSnapshot, get_range};
use crate::error::{Error, Result};
use crate::format::keys;
use crate::ids::SnapshotNumber;
use crate::layers::{BlockContent, assemble};
use crate::toc::SectionPlace;
use std::collections::VecDeque;
use std::sync::Arc;

/// Stored bytes fetched at once when sections are read one after the other.
const WINDOW: u64 = 4 << 20;

/// Bytes between two reads that still count as sequential.
const GAP: u64 = 1 << 20;

/// Decompressed sections kept.
const KEPT: usize = 64 << 20;

/// A section of a snapshot.
type SectionId = (SnapshotNumber, u64);

/// Reads blocks of a snapshot.
#[derive(Debug)]
pub struct Contents<'a> {
    snapshot: &'a CloudSnapshot,
    kept: VecDeque<(SectionId, Arc<Vec<u8>>)>,
    kept_bytes: usize,
    window: Option<Window>,
}

/// Bytes of a tarball as stored.
#[derive(Debug)]
struct Window {
    key: String,
    from: u64,
    bytes: Vec<u8>,
}

impl<'a> Contents<'a> {
    /// A reader that has nothing yet.
    pub fn new(snapshot: &'a CloudSnapshot) -> Contents<'a> {
        Contents {
            snapshot,
            kept: VecDeque::new(),
            kept_bytes: 0,
            window: None,
        }
    }

    /// The first `length` bytes of a block; see [`crate::layers::Stack::content`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damage`] names the object that is missing or damaged; those of the bucket.
    pub fn block(&mut self, content: &BlockContent, length: usize) -> Result<Vec<u8>> {
        match &content.extent {
            None => assemble(content, &[], 0..length),
            Some(extent) => {
                let raw = self.section((extent.snapshot, extent.section))?;
                assemble(content, &raw, 0..length)
            }
        }
    }

    fn section(&mut self, id: SectionId) -> Result<Arc<Vec<u8>>> {
        if let Some((_, raw)) = self.kept.iter().rev().find(|(kept, _)| *kept == id) {
            return Ok(Arc::clone(raw));
        }
        let (snapshot, section) = id;
        let place = self.snapshot.toc(snapshot)?.section(section)?;
        let place = place.ok_or_else(|| {
            let text = format!("the TOC of snapshot {snapshot} has no section {section}");
            Error::damage(text)
        })?;
        let fs = &self.snapshot.manifest().fs;
        let raw = Arc::new(open_frame(fs, &place, self.frame(&place)?)?);
        self.kept_bytes += raw.len();
        self.kept.push_back((id, Arc::clone(&raw)));
        while self.kept_bytes > KEPT {
            let Some((_, oldest)) = self.kept.pop_front() else {
                break;
            };
            self.kept_bytes -= oldest.len();
        }
        Ok(raw)
    }

    /// The stored bytes of a section, unverified.
    fn frame(&mut self, place: &SectionPlace) -> Result<&[u8]> {
        let fs = &self.snapshot.manifest().fs;
        section_length(fs, place)?;
        let end = place.offset.saturating_add(place.length);
        let wide = match &self.window {
            Some(window) if window.key == place.tarball.key => {
                let ends = window.from + window.bytes.len() as u64;
                let inside = place.offset >= window.from && end <= ends;
                if !inside {
                    Some(place.offset >= window.from && place.offset <= ends + GAP)
                } else {
                    None
                }
            }
            _ => Some(false),
        };
        if let Some(sequential) = wide {
            let left = place.tarball.size.saturating_sub(place.offset);
            let length = match sequential {
                true => place.length.max(WINDOW.min(left)),
                false => place.length,
            };
            let key = keys::absolute(fs, &place.tarball.key)?;
            let bytes = get_range(self.snapshot.bucket(), &key, place.offset, length)?;
            self.window = Some(Window {
                key: place.tarball.key.clone(),
                from: place.offset,
                bytes,
            });
        }
        let window = self.window.as_ref();
        let bytes = window.and_then(|w| {
            let from = usize::try_from(place.offset - w.from).ok()?;
            w.bytes
                .get(from..)?
                .get(..usize::try_from(place.length).ok()?)
        });
        bytes.ok_or_else(|| {
            let what = describe(fs, place);
            Error::damage(format!("{what} has an impossible place"))
        })
    }
}
