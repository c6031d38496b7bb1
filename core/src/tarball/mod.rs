//! Tarballs: pax members, and the independent zstd frames ("sections") they are cut into.
//!
//! A tarball is a POSIX.1-2001 (pax) tar file compressed as a plain sequence of zstd frames, each
//! with content size and checksum. `zstd -dc | tar x` reads it; CBFS reads single frames of it.
//! This module only encodes, compresses and reads: which member goes where, and where sections
//! end, is decided by the persister (format: `docs/format.md`).
//!
//! - [`Member`] encodes the headers of one member, exactly as given: no name is altered.
//! - [`SparseMap`] is GNU's PAX 1.0 sparse map.
//! - [`CompressionPool`] and [`SectionWriter`] write frames in order, compressed on threads.
//! - [`FrameReader`], [`RawReader`] and [`MemberReader`] read it all back, for tests, `verify` and
//!   rebuilding.
//!
//! A crash leaves a tarball file that is cut off anywhere; nothing refers to it, as references are
//! made only after [`SealedTarball::sync`].

mod member;
mod pool;
mod raw;
mod read;
mod sections;
mod sparse;
#[cfg(test)]
mod tests;

pub use member::{Member, MemberKind, encode_xattr_name, padding};
pub use pool::{CompressionPool, DEFAULT_LEVEL};
pub use raw::{FramePlace, RawReader};
pub use read::{Frame, FrameReader, MemberReader, ReadMember};
pub use sections::{SealedTarball, Section, SectionWriter};
pub use sparse::SparseMap;

/// Unit of a tar file: headers and contents are padded to it.
pub const RECORD: usize = 512;

/// The zero records that end an archive.
pub const END_OF_ARCHIVE: [u8; 2 * RECORD] = [0; 2 * RECORD];
