//! A tarball of the bucket, member by member, without a TOC.

use super::objects::{ObjectReader, ReadFailure, ReadSoFar};
use crate::bucket::{Bucket, Key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ObjectRef, keys};
use crate::handle::Handle;
use crate::tarball::{FramePlace, MemberReader, RawReader, ReadMember};
use std::io::{self, Read};

/// Streams a tarball. One part of it and one section are in memory.
pub struct TarballStream<'a> {
    members: MemberReader<RawReader<ObjectReader<'a>>>,
    key: Key,
    relative: String,
    failure: ReadFailure,
    so_far: ReadSoFar,
}

impl std::fmt::Debug for TarballStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarballStream")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl<'a> TarballStream<'a> {
    /// Open the tarball with this key below the file system's prefix. One HEAD.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such object; those of the bucket.
    pub fn open(bucket: &'a dyn Bucket, fs: &Handle, relative: &str) -> Result<TarballStream<'a>> {
        let key = keys::absolute(fs, relative)?;
        let info = bucket.head(&key)?.ok_or_else(|| {
            let text = format!("object {key} is missing in {}", bucket.url());
            Error::new(ErrorKind::NotFound, text)
        })?;
        let reader = ObjectReader::new(bucket, key.clone(), info.size);
        let (failure, so_far) = (reader.failure(), reader.so_far());
        Ok(TarballStream {
            members: MemberReader::new(RawReader::new(reader)),
            key,
            relative: relative.to_owned(),
            failure,
            so_far,
        })
    }

    /// The next member; `None` at the end of the tarball.
    ///
    /// # Errors
    /// [`ErrorKind::Damage`] names the object; those of the bucket.
    pub fn next_member(&mut self) -> Result<Option<ReadMember>> {
        match self.members.next_member() {
            Ok(member) => Ok(member),
            Err(e) => Err(self.explain(e)),
        }
    }

    /// The contents of the current member. Give errors that come of reading them to
    /// [`TarballStream::explain`].
    pub fn contents(&mut self) -> MemberContents<'_, 'a> {
        MemberContents(self)
    }

    /// What an error met while reading this tarball was in truth: one of the bucket, or damage of
    /// this object. Others are answered as they are.
    pub fn explain(&self, e: Error) -> Error {
        if let Some(cause) = self.failure.take() {
            return cause;
        }
        let what = format!("object {} is damaged", self.key);
        match self.members.source().failure() {
            Some(cause) => Error::new(cause.kind(), what).because(cause.to_string()),
            None if e.kind() == ErrorKind::Damage => e.context(what),
            None => e,
        }
    }

    /// Read to the end; answers the whole object, and where its frames lie.
    ///
    /// # Errors
    /// As [`TarballStream::next_member`].
    pub fn finish(mut self) -> Result<(ObjectRef, Vec<FramePlace>)> {
        while self.next_member()?.is_some() {}
        let places = self.members.source().places().to_vec();
        Ok((self.so_far.stored().at(self.relative), places))
    }
}

/// The contents of a member as a stream.
#[derive(Debug)]
pub struct MemberContents<'s, 'a>(&'s mut TarballStream<'a>);

impl Read for MemberContents<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0
            .members
            .read(out)
            .map_err(|e| io::Error::other(e.to_string()))
    }
}
