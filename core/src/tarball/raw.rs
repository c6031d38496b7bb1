//! A tarball's decompressed bytes as one stream that remembers where its frames lie.

use super::FrameReader;
use crate::error::Error;
use std::io::{self, Read};

/// Where a frame lies, stored and decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramePlace {
    /// First byte in the stored tarball.
    pub offset: u64,
    /// Bytes in the stored tarball.
    pub length: u64,
    /// BLAKE3 of them.
    pub blake3: blake3::Hash,
    /// First byte in the decompressed tarball.
    pub raw_offset: u64,
    /// Bytes in the decompressed tarball.
    pub raw_length: u64,
}

/// Decompresses a tarball frame by frame, one in memory at a time. Some 80 bytes are kept of each.
pub struct RawReader<R: Read> {
    frames: FrameReader<R>,
    places: Vec<FramePlace>,
    raw: Vec<u8>,
    taken: usize,
    failure: Option<Error>,
}

impl<R: Read> RawReader<R> {
    /// Read the tarball `source`, which stands at its beginning.
    pub fn new(source: R) -> RawReader<R> {
        RawReader {
            frames: FrameReader::new(source),
            places: Vec::new(),
            raw: Vec::new(),
            taken: 0,
            failure: None,
        }
    }

    /// The frames read so far; all of them once the stream has ended.
    pub fn places(&self) -> &[FramePlace] {
        &self.places
    }

    /// Why reading failed, as an error that names the place; the [`io::Error`] only says that it did.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }
}

impl<R: Read> Read for RawReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.raw.len() {
            let frame = match self.frames.next() {
                None => return Ok(0),
                Some(Ok(frame)) => frame,
                Some(Err(e)) => {
                    let text = e.to_string();
                    self.failure = Some(e);
                    return Err(io::Error::other(text));
                }
            };
            let raw_offset = self
                .places
                .last()
                .map_or(0, |last| last.raw_offset + last.raw_length);
            self.places.push(FramePlace {
                offset: frame.offset,
                length: frame.length,
                blake3: frame.blake3,
                raw_offset,
                raw_length: frame.raw.len() as u64,
            });
            (self.raw, self.taken) = (frame.raw, 0);
        }
        let rest = &self.raw[self.taken..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.taken += n;
        Ok(n)
    }
}
