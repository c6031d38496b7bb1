//! Objects as files and streams.

use crate::bucket::{Bucket, BucketError, Key};
use crate::error::{Context, Error, Result};
use crate::format::{ObjectRef, keys};
use crate::frames::{HashingWriter, StoredObject, decompress_to_file};
use crate::handle::Handle;
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Bytes per request when an object is downloaded.
pub(super) const PART: u64 = 8 << 20;

/// A database decompresses to at most this many times its stored bytes, plus [`RAW_BASE`]. Real
/// ones reach 30; a bomb would reach thousands.
const RAW_FACTOR: u64 = 256;
/// See [`RAW_FACTOR`].
const RAW_BASE: u64 = 64 << 20;

/// A range of an object that something refers to.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when the object is missing or too short (something refers to it);
/// else those of the bucket.
pub fn get_range(bucket: &dyn Bucket, key: &Key, offset: u64, length: u64) -> Result<Vec<u8>> {
    let bytes = bucket.get_range(key, offset, length).map_err(|e| match e {
        BucketError::NotFound { key } => {
            Error::damage(format!("object {key} is missing from the bucket"))
        }
        other => Error::from(other).context(format!("object {key} could not be read")),
    })?;
    if bytes.len() as u64 != length {
        let text = format!(
            "object {key} has {} bytes at {offset} instead of {length}",
            bytes.len()
        );
        return Err(Error::damage(text));
    }
    Ok(bytes)
}

/// Copy an object to `out`, in parts, and check it against its reference at the end: after an
/// error what went to `out` is worthless.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when it is missing or has other contents; those of bucket and `out`.
pub fn download(
    bucket: &dyn Bucket,
    fs: &Handle,
    object: &ObjectRef,
    out: impl Write,
) -> Result<()> {
    let key = keys::absolute(fs, &object.key)?;
    let mut output = HashingWriter::new(out);
    while output.size() < object.size {
        let length = PART.min(object.size - output.size());
        let part = get_range(bucket, &key, output.size(), length)?;
        output
            .write_all(&part)
            .context(|| format!("object {key} could not be stored locally"))?;
    }
    let (_, stored) = output.finish();
    if stored.size != object.size || stored.blake3 != object.blake3 {
        let text = format!("object {key} has other contents than were written");
        return Err(Error::damage(text));
    }
    Ok(())
}

/// The most bytes that a compressed database is believed to decompress to.
pub fn decompressed_limit(object: &ObjectRef) -> u64 {
    let limit = object.size.saturating_mul(RAW_FACTOR);
    limit.saturating_add(RAW_BASE)
}

/// A temporary directory (in `TMPDIR`) of decompressed databases; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    next: Mutex<u64>,
    made: Mutex<Vec<(ObjectRef, PathBuf)>>,
}

impl Scratch {
    /// An empty one.
    pub fn new() -> Result<Scratch> {
        let dir = tempfile::Builder::new().prefix("cbfs-").tempdir();
        Ok(Scratch {
            dir: dir.map_err(|e| {
                Error::failed("a temporary directory could not be created")
                    .because(e)
                    .hint("TMPDIR says where; it needs room for the decompressed index")
            })?,
            next: Mutex::new(0),
            made: Mutex::default(),
        })
    }

    /// A path in it that nobody else uses.
    pub fn path(&self, suffix: &str) -> PathBuf {
        let mut next = self.next.lock();
        *next += 1;
        self.dir.path().join(format!("{next}-{suffix}"))
    }

    /// The decompressed database of an object; fetched and verified once.
    ///
    /// # Errors
    /// As [`download`]; [`crate::ErrorKind::Damage`] when it does not decompress.
    pub fn database(
        &self,
        bucket: &dyn Bucket,
        fs: &Handle,
        object: &ObjectRef,
    ) -> Result<PathBuf> {
        let known = self.made.lock().iter().find(|(o, _)| o == object).cloned();
        if let Some((_, path)) = known {
            return Ok(path);
        }
        let stored = self.path("object.zst");
        let what = format!("object {}", object.key);
        let storing = || format!("{what} could not be stored in {}", stored.display());
        let mut file = File::create_new(&stored).context(storing)?;
        download(bucket, fs, object, &mut file)?;
        let path = self.path("object");
        let input = File::open(&stored).context(storing)?;
        decompress_to_file(input, &what, &path, decompressed_limit(object))?;
        std::fs::remove_file(&stored).context(storing)?;
        self.made.lock().push((object.clone(), path.clone()));
        Ok(path)
    }
}

/// An object as a stream from its first byte, fetched in parts.
///
/// Readers above see any failure as an [`io::Error`], and may take it for damage: ask
/// [`ReadFailure::take`] first.
#[derive(Debug)]
pub struct ObjectReader<'a> {
    bucket: &'a dyn Bucket,
    key: Key,
    size: u64,
    at: u64,
    part: Vec<u8>,
    taken: usize,
    hashing: Arc<Mutex<HashingWriter<io::Sink>>>,
    failure: ReadFailure,
}

/// Why an [`ObjectReader`] failed.
#[derive(Debug, Clone, Default)]
pub struct ReadFailure(Arc<Mutex<Option<Error>>>);

impl ReadFailure {
    /// The failure, once.
    pub fn take(&self) -> Option<Error> {
        self.0.lock().take()
    }
}

/// Size and hash of what an [`ObjectReader`] has handed out.
#[derive(Debug, Clone)]
pub struct ReadSoFar(Arc<Mutex<HashingWriter<io::Sink>>>);

impl ReadSoFar {
    /// Size and hash of all that was read; starts over after it.
    pub fn stored(&self) -> StoredObject {
        std::mem::replace(&mut *self.0.lock(), HashingWriter::new(io::sink()))
            .finish()
            .1
    }
}

impl<'a> ObjectReader<'a> {
    /// Read the object `key` of `size` bytes.
    pub fn new(bucket: &'a dyn Bucket, key: Key, size: u64) -> ObjectReader<'a> {
        ObjectReader {
            bucket,
            key,
            size,
            at: 0,
            part: Vec::new(),
            taken: 0,
            hashing: Arc::new(Mutex::new(HashingWriter::new(io::sink()))),
            failure: ReadFailure::default(),
        }
    }

    /// A handle on the failure that stays when the reader is given away.
    pub fn failure(&self) -> ReadFailure {
        self.failure.clone()
    }

    /// A handle on size and hash that stays when the reader is given away.
    pub fn so_far(&self) -> ReadSoFar {
        ReadSoFar(Arc::clone(&self.hashing))
    }
}

impl Read for ObjectReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.part.len() {
            let length = PART.min(self.size - self.at);
            if length == 0 {
                return Ok(0);
            }
            match get_range(self.bucket, &self.key, self.at, length) {
                Ok(part) => (self.part, self.taken) = (part, 0),
                Err(e) => {
                    let text = e.to_string();
                    *self.failure.0.lock() = Some(e);
                    return Err(io::Error::other(text));
                }
            }
            self.at += length;
        }
        let rest = &self.part[self.taken..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.hashing.lock().write_all(&rest[..n])?;
        self.taken += n;
        Ok(n)
    }
}
