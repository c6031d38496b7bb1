//! Files as zstd frames: the seekable format that layers are stored in, and decompression that
//! takes any zstd file.
//!
//! The seekable format (`contrib/seekable_format/zstd_seekable_compression_format.md` of zstd,
//! version 0.1.0) is a row of independent frames and a skippable frame with their sizes, so
//! that any `zstd -d` reads it and a range of it can be read alone. All numbers little-endian:
//!
//! ```text
//! 0x184D2A5E  u32: bytes that follow
//! per frame   u32: its compressed bytes, u32: its decompressed bytes
//! footer      u32: number of frames, u8: descriptor (0: no checksums here), 0x8F92EAB1
//! ```
//!
//! The frames carry zstd's own checksum, so that `zstd -t` finds damage.

use crate::error::{Context, Error, Result};
use crate::format::ObjectRef;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use zstd::zstd_safe::{CParameter, DParameter};

/// Decompressed bytes per frame of a seekable file.
pub const FRAME_RAW: usize = 256 << 10;

/// Most threads that decompress one file.
const FRAME_THREADS: usize = 4;

/// Magic number of the skippable frame with the seek table.
const SEEK_TABLE_MAGIC: u32 = 0x184D_2A5E;
/// Last four bytes of a seekable file.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Largest window a frame may ask for: 2^27 bytes, what `zstd -d` accepts without options.
const WINDOW_LOG_MAX: u32 = 27;

/// Size and hash of a file just written: what a reference to it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of them, hex.
    pub blake3: String,
}

impl StoredObject {
    /// The reference to this object under `key` (relative to the file system's prefix).
    pub fn at(self, key: impl Into<String>) -> ObjectRef {
        ObjectRef {
            key: key.into(),
            size: self.size,
            blake3: self.blake3,
        }
    }

    /// Size and hash of everything `reader` has.
    pub fn of(reader: impl Read) -> io::Result<StoredObject> {
        let mut sink = HashingWriter::new(io::sink());
        io::copy(&mut BufReader::with_capacity(1 << 20, reader), &mut sink)?;
        Ok(sink.finish().1)
    }
}

/// Counts and hashes what passes through to the writer below.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: blake3::Hasher,
    size: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Write to `inner`.
    pub fn new(inner: W) -> HashingWriter<W> {
        HashingWriter {
            inner,
            hasher: blake3::Hasher::new(),
            size: 0,
        }
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The writer below, not flushed, and what went to it.
    pub fn finish(self) -> (W, StoredObject) {
        let blake3 = self.hasher.finalize().to_hex().to_string();
        (
            self.inner,
            StoredObject {
                size: self.size,
                blake3,
            },
        )
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Compress the file `src` into the new file `dst` in the seekable format, frames of
/// [`FRAME_RAW`]. Nothing is fsynced; after an error or a crash `dst` is of no use and may be
/// there.
pub fn compress_seekable(src: &Path, dst: &Path, level: i32) -> Result<StoredObject> {
    let writing = || format!("{} could not be written", dst.display());
    let input = File::open(src).context(|| format!("{} could not be opened", src.display()))?;
    let output = File::create(dst).context(writing)?;
    let mut output = HashingWriter::new(BufWriter::new(output));
    let mut compressor = zstd::bulk::Compressor::new(level).context(writing)?;
    compressor
        .set_parameter(CParameter::ChecksumFlag(true))
        .context(writing)?;
    let mut table = Vec::new();
    let mut raw = Vec::with_capacity(FRAME_RAW);
    loop {
        raw.clear();
        let n = (&input)
            .take(FRAME_RAW as u64)
            .read_to_end(&mut raw)
            .context(|| format!("{} could not be read", src.display()))?;
        if n == 0 {
            break;
        }
        let frame = compressor.compress(&raw).context(writing)?;
        table.extend(entry_size(frame.len())?);
        table.extend(entry_size(n)?);
        output.write_all(&frame).context(writing)?;
    }
    let frames = entry_size(table.len() / 8)?;
    let length = entry_size(table.len() + 9)?;
    for part in [
        &SEEK_TABLE_MAGIC.to_le_bytes()[..],
        &length,
        &table,
        &frames,
        &[0],
        &SEEKABLE_MAGIC.to_le_bytes(),
    ] {
        output.write_all(part).context(writing)?;
    }
    let (output, stored) = output.finish();
    let written = output.into_inner().map_err(|e| e.into_error());
    written.context(writing)?;
    Ok(stored)
}

/// Compress the file `src` into the new file `dst` as one frame with size and checksum. Nothing is
/// fsynced; after an error or a crash `dst` is of no use and may be there.
pub fn compress_whole(src: &Path, dst: &Path, level: i32) -> Result<StoredObject> {
    let failed = || format!("{} could not be written", dst.display());
    let source = File::open(src).context(failed)?;
    let length = source.metadata().context(failed)?.len();
    let target = HashingWriter::new(File::create_new(dst).context(failed)?);
    let mut encoder = zstd::Encoder::new(target, level).context(failed)?;
    encoder.include_checksum(true).context(failed)?;
    encoder.set_pledged_src_size(Some(length)).context(failed)?;
    io::copy(&mut BufReader::with_capacity(1 << 20, source), &mut encoder).context(failed)?;
    let (_, stored) = encoder.finish().context(failed)?.finish();
    Ok(stored)
}

fn entry_size(n: usize) -> Result<[u8; 4]> {
    let n = u32::try_from(n)
        .map_err(|_| Error::failed("a file is too large for the zstd seekable format"))?;
    Ok(n.to_le_bytes())
}

/// Decompress all zstd frames of `src` (skippable ones are skipped) into the new file `dst`, and
/// fsync it (not its directory). After an error nothing but an unfinished `dst` stays. `what`
/// names the source in errors.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when `src` is no zstd, is cut off, fails a checksum or
/// decompresses to more than `max_raw` bytes; errors of reading `src` and writing `dst` as
/// [`crate::ErrorKind::Failed`].
pub fn decompress_to_file(
    src: impl Read,
    what: &str,
    dst: &Path,
    max_raw: u64,
) -> Result<StoredObject> {
    let writing = || format!("{} could not be written", dst.display());
    let source = Source {
        inner: src,
        failed: Cell::new(false),
    };
    let mut decoder = zstd::stream::read::Decoder::new(source)
        .context(|| format!("{what} could not be decompressed"))?;
    decoder
        .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
        .context(|| format!("{what} could not be decompressed"))?;
    let mut output = HashingWriter::new(File::create(dst).context(writing)?);
    let mut buffer = vec![0; FRAME_RAW];
    loop {
        let n = match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if decoder.get_ref().get_ref().failed.get() => {
                return Err(Error::failed(format!("{what} could not be read")).because(e));
            }
            Err(e) => return Err(Error::damage(format!("{what} is damaged")).because(e)),
        };
        if output.size() + n as u64 > max_raw {
            let text = format!("{what} decompresses to more than {max_raw} bytes");
            return Err(Error::damage(text));
        }
        output.write_all(&buffer[..n]).context(writing)?;
    }
    let (file, stored) = output.finish();
    file.sync_all().context(writing)?;
    Ok(stored)
}

/// The same for a whole file in the seekable format, its frames on several threads, into `dst`, which is empty and is
/// not fsynced. `None`, and nothing written, when the file has no seek table that fits it: any other zstd file.
///
/// # Errors
/// As [`decompress_to_file`]; what is in `dst` is of no use then.
pub fn decompress_seekable(
    src: &File,
    what: &str,
    dst: &File,
    max_raw: u64,
) -> Result<Option<StoredObject>> {
    let reading = || format!("{what} could not be read");
    let Some(frames) = seek_table(src).context(reading)? else {
        return Ok(None);
    };
    let raw: u64 = frames.iter().map(|frame| frame.raw as u64).sum();
    if raw > max_raw {
        let text = format!("{what} decompresses to more than {max_raw} bytes");
        return Err(Error::damage(text));
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(FRAME_THREADS).min(frames.len()).max(1);
    let next = AtomicUsize::new(0);
    let mut output = HashingWriter::new(dst);
    thread::scope(|scope| {
        let (done, finished) = sync_channel(2 * threads);
        for _ in 0..threads {
            let (done, next, frames) = (done.clone(), &next, &frames);
            scope.spawn(move || {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(frame) = frames.get(index)
                {
                    // Nobody listens any more after an error.
                    if done.send((index, frame.read(src, what))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut early = BTreeMap::new();
        let mut wanted = 0;
        for (index, raw) in finished {
            early.insert(index, raw?);
            while let Some(raw) = early.remove(&wanted) {
                output
                    .write_all(&raw)
                    .context(|| format!("the contents of {what} could not be written"))?;
                wanted += 1;
            }
        }
        if wanted != frames.len() {
            return Err(Error::failed(format!(
                "a thread that read {what} ended early"
            )));
        }
        Ok(())
    })?;
    Ok(Some(output.finish().1))
}

/// One frame of a seekable file.
struct Frame {
    at: u64,
    packed: usize,
    raw: usize,
}

impl Frame {
    fn read(&self, src: &File, what: &str) -> Result<Vec<u8>> {
        let mut packed = vec![0; self.packed];
        src.read_exact_at(&mut packed, self.at)
            .context(|| format!("{what} could not be read"))?;
        decompress_section(&packed, self.raw, what)
    }
}

/// The frames of a seekable file, if that is what it is.
fn seek_table(src: &File) -> io::Result<Option<Vec<Frame>>> {
    let size = src.metadata()?.len();
    let mut footer = [0; 9];
    let Some(footer_at) = size.checked_sub(9) else {
        return Ok(None);
    };
    src.read_exact_at(&mut footer, footer_at)?;
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |n, b| n << 8 | u64::from(*b))
    };
    let count = word(&footer[..4]);
    // With a checksum in each entry (descriptor bit 7) it is not one of ours.
    if word(&footer[5..]) != u64::from(SEEKABLE_MAGIC) || footer[4] != 0 {
        return Ok(None);
    }
    let length = count * 8 + 9;
    let Some(table_at) = size.checked_sub(length + 8) else {
        return Ok(None);
    };
    let mut table = vec![0; (length + 8) as usize];
    src.read_exact_at(&mut table, table_at)?;
    if word(&table[..4]) != u64::from(SEEK_TABLE_MAGIC) || word(&table[4..8]) != length {
        return Ok(None);
    }
    let mut frames = Vec::with_capacity(count as usize);
    let mut at = 0_u64;
    for entry in table[8..8 + count as usize * 8].chunks_exact(8) {
        let (packed, raw) = (word(&entry[..4]) as usize, word(&entry[4..]) as usize);
        // A frame of another size is not one of ours, and may ask for any amount of memory.
        if raw > FRAME_RAW || packed > 2 * FRAME_RAW {
            return Ok(None);
        }
        frames.push(Frame { at, packed, raw });
        at += packed as u64;
    }
    Ok((at == table_at).then_some(frames))
}

/// Decompress one section (one frame) that must have exactly `raw_length` bytes. `what` names it.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] when it is no zstd frame, fails its checksum or has another length.
pub fn decompress_section(frame: &[u8], raw_length: usize, what: &str) -> Result<Vec<u8>> {
    let raw = zstd::bulk::decompress(frame, raw_length)
        .map_err(|e| Error::damage(format!("{what} is damaged")).because(e))?;
    if raw.len() != raw_length {
        let text = format!("{what} has {} bytes instead of {raw_length}", raw.len());
        return Err(Error::damage(text));
    }
    Ok(raw)
}

/// Remembers that reading failed, which must not be taken for damage.
struct Source<R> {
    inner: R,
    failed: Cell<bool>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.failed.set(true);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * i / 300) as u8).collect()
    }

    fn number(bytes: &[u8]) -> usize {
        u32::from_le_bytes(bytes.try_into().unwrap()) as usize
    }

    #[test]
    fn a_seekable_file_is_plain_zstd_and_each_frame_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (src, dst, back) = (
            dir.path().join("a"),
            dir.path().join("a.zst"),
            dir.path().join("b"),
        );
        for len in [0, 1, FRAME_RAW, FRAME_RAW + 1, 3 * FRAME_RAW - 7] {
            let raw = sample(len);
            std::fs::write(&src, &raw).unwrap();
            let stored = compress_seekable(&src, &dst, 3).unwrap();
            let packed = std::fs::read(&dst).unwrap();
            assert_eq!(stored, StoredObject::of(packed.as_slice()).unwrap());
            assert_eq!(zstd::stream::decode_all(packed.as_slice()).unwrap(), raw);

            let unpacked =
                decompress_to_file(packed.as_slice(), "a.zst", &back, len as u64).unwrap();
            assert_eq!(unpacked, StoredObject::of(raw.as_slice()).unwrap());
            assert_eq!(std::fs::read(&back).unwrap(), raw);

            let end = packed.len();
            assert_eq!(packed[end - 4..], SEEKABLE_MAGIC.to_le_bytes());
            let frames = number(&packed[end - 9..end - 5]);
            assert_eq!(frames, len.div_ceil(FRAME_RAW));
            let table = end - 9 - frames * 8;
            assert_eq!(number(&packed[table - 4..table]), end - table);
            assert_eq!(packed[table - 8..table - 4], SEEK_TABLE_MAGIC.to_le_bytes());
            let (mut at, mut raw_at) = (0, 0);
            for i in 0..frames {
                let entry = &packed[table + i * 8..][..8];
                let (size, raw_size) = (number(&entry[..4]), number(&entry[4..]));
                let frame = decompress_section(&packed[at..at + size], raw_size, "frame").unwrap();
                assert_eq!(frame, raw[raw_at..raw_at + raw_size]);
                (at, raw_at) = (at + size, raw_at + raw_size);
            }
            assert_eq!((at, raw_at), (table - 8, len));
        }
    }

    #[test]
    fn a_seekable_file_is_decompressed_on_several_threads_to_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (src, dst) = (dir.path().join("a"), dir.path().join("a.zst"));
        let open = |path: &Path| File::open(path).unwrap();
        for len in [0, 1, FRAME_RAW, 9 * FRAME_RAW + 77] {
            let raw = sample(len);
            std::fs::write(&src, &raw).unwrap();
            compress_seekable(&src, &dst, 3).unwrap();
            let back = dir.path().join(format!("back-{len}"));
            let file = File::create(&back).unwrap();
            let unpacked = decompress_seekable(&open(&dst), "a.zst", &file, len as u64).unwrap();
            assert_eq!(unpacked, Some(StoredObject::of(raw.as_slice()).unwrap()));
            assert_eq!(std::fs::read(&back).unwrap(), raw);
            if len > 0 {
                let bomb = decompress_seekable(&open(&dst), "a.zst", &file, len as u64 - 1);
                assert_eq!(bomb.unwrap_err().kind(), ErrorKind::Damage);
            }
        }
        let mut packed = std::fs::read(&dst).unwrap();
        let file = File::create(dir.path().join("bad")).unwrap();
        packed[300] ^= 1;
        std::fs::write(&dst, &packed).unwrap();
        let damaged = decompress_seekable(&open(&dst), "a.zst", &file, u64::MAX).unwrap_err();
        assert_eq!(damaged.kind(), ErrorKind::Damage);
        // What is no seekable file is left to the other way.
        let plain = zstd::stream::encode_all(sample(1000).as_slice(), 3).unwrap();
        let cut = &packed[..packed.len() - 1];
        let shifted = [b"x", packed.as_slice()].concat();
        for other in [plain.as_slice(), cut, shifted.as_slice(), b"", b"short"] {
            std::fs::write(&dst, other).unwrap();
            let skipped = decompress_seekable(&open(&dst), "a.zst", &file, u64::MAX).unwrap();
            assert_eq!(skipped, None);
        }
    }

    #[test]
    fn damage_is_told_from_failure_and_bombs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let back = dir.path().join("b");
        let packed = zstd::stream::encode_all(sample(100_000).as_slice(), 3).unwrap();
        let unpack = |bytes: &[u8], max| {
            decompress_to_file(bytes, "object x", &back, max).map_err(|e| (e.kind(), e.to_string()))
        };
        unpack(&packed, 100_000).unwrap();
        let (kind, text) = unpack(&packed, 99_999).unwrap_err();
        assert_eq!(kind, ErrorKind::Damage);
        assert!(text.contains("object x"), "{text}");
        assert_eq!(
            unpack(&packed[..packed.len() - 1], 1 << 20).unwrap_err().0,
            ErrorKind::Damage
        );
        assert_eq!(
            unpack(b"no zstd at all", 1 << 20).unwrap_err().0,
            ErrorKind::Damage
        );

        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("disk"))
            }
        }
        let failed = decompress_to_file(packed[..50].chain(Broken), "x", &back, 1 << 20);
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Failed);
    }

    #[test]
    fn a_flipped_bit_fails_the_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let (src, dst) = (dir.path().join("a"), dir.path().join("a.zst"));
        std::fs::write(&src, sample(10_000)).unwrap();
        compress_seekable(&src, &dst, 3).unwrap();
        let mut packed = std::fs::read(&dst).unwrap();
        // The frame's checksum: the 4 bytes before the seek table of one frame (8 + 8 + 9 bytes).
        let at = packed.len() - 25 - 2;
        packed[at] ^= 1;
        let read = decompress_to_file(packed.as_slice(), "a", &dir.path().join("b"), 1 << 20);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Damage);
    }

    #[test]
    fn a_section_of_another_length_is_damage() {
        let frame = zstd::bulk::compress(&sample(1000), 3).unwrap();
        assert_eq!(decompress_section(&frame, 1000, "s").unwrap(), sample(1000));
        for length in [999, 1001] {
            let error = decompress_section(&frame, length, "s").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damage);
        }
    }
}
