//! Sections: ranges of tarballs, verified and decompressed.

use super::get_range;
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::format::keys;
use crate::frames::decompress_section;
use crate::handle::Handle;
use crate::toc::SectionPlace;

/// Largest section that is believed in, stored or decompressed: what a TOC says is used to
/// allocate memory.
const SECTION_MAX: u64 = 1 << 30;

/// Whether these bytes are the frame that the TOC means.
pub fn is_frame(frame: &[u8], place: &SectionPlace) -> bool {
    blake3::hash(frame).to_hex().as_str() == place.blake3
}

/// How errors name a section.
pub(super) fn describe(fs: &Handle, place: &SectionPlace) -> String {
    let SectionPlace {
        section, tarball, ..
    } = place;
    format!("section {section} in object {fs}/{}", tarball.key)
}

/// The decompressed length of a section, once it is believable.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when it is not.
pub fn section_length(fs: &Handle, place: &SectionPlace) -> Result<usize> {
    usize::try_from(place.raw_length)
        .ok()
        .filter(|_| place.raw_length.max(place.length) <= SECTION_MAX)
        .ok_or_else(|| {
            let what = describe(fs, place);
            Error::damage(format!("{what} has an impossible size"))
        })
}

/// Check the frame of a section against the TOC and decompress it.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] names the section and its object.
pub(super) fn open_frame(fs: &Handle, place: &SectionPlace, frame: &[u8]) -> Result<Vec<u8>> {
    let what = describe(fs, place);
    let raw_length = section_length(fs, place)?;
    if !is_frame(frame, place) {
        let text = format!("{what} has other contents than were written");
        return Err(Error::damage(text));
    }
    decompress_section(frame, raw_length, &what)
}

/// Fetch the frame of a section as it is stored, and verify it. One range GET.
///
/// # Errors
/// As [`read_section`].
pub fn read_frame(bucket: &dyn Bucket, fs: &Handle, place: &SectionPlace) -> Result<Vec<u8>> {
    section_length(fs, place)?;
    let key = keys::absolute(fs, &place.tarball.key)?;
    let frame = get_range(bucket, &key, place.offset, place.length)?;
    if !is_frame(&frame, place) {
        let what = describe(fs, place);
        let text = format!("{what} has other contents than were written");
        return Err(Error::damage(text));
    }
    Ok(frame)
}

/// Fetch a section, verify and decompress it. One range GET.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] names the section and its object; those of the bucket.
pub fn read_section(bucket: &dyn Bucket, fs: &Handle, place: &SectionPlace) -> Result<Vec<u8>> {
    section_length(fs, place)?;
    let key = keys::absolute(fs, &place.tarball.key)?;
    let frame = get_range(bucket, &key, place.offset, place.length)?;
    open_frame(fs, place, &frame)
}
