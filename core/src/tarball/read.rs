//! Reads tarballs back: frames of the compressed file, members of the decompressed one.
//!
//! Nothing read is trusted: lengths are limited, checksums checked, and whatever does not fit is
//! [`crate::ErrorKind::Damage`].

use super::{RECORD, SparseMap, padding};
use crate::error::{Context, Error, Result};
use crate::inode::Timestamp;
use std::io::{self, BufRead, BufReader, Read};

/// The largest section this reads; the persister cuts at 1 MiB and a file's headers.
const MAX_RAW: u64 = 64 << 20;

/// The largest pax header this reads: Linux limits a file's attributes to less.
const MAX_PAX: u64 = 16 << 20;

/// One frame of a tarball.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub length: u64,
    /// BLAKE3 of its bytes in the file.
    pub blake3: blake3::Hash,
    /// What it decompresses to.
    pub raw: Vec<u8>,
}

/// Iterates over the frames of a tarball, from its start, one in memory at a time. After an error
/// it ends.
pub struct FrameReader<R: Read> {
    source: Option<Counting<BufReader<R>>>,
}

impl<R: Read> FrameReader<R> {
    /// Read frames from `source`, which stands at its beginning.
    pub fn new(source: R) -> FrameReader<R> {
        FrameReader {
            source: Some(Counting {
                inner: BufReader::new(source),
                taken: 0,
                hasher: blake3::Hasher::new(),
            }),
        }
    }

    fn frame(&mut self) -> Result<Option<Frame>> {
        let Some(mut source) = self.source.take() else {
            return Ok(None);
        };
        let unreadable = || "a tarball could not be read".to_owned();
        if source.fill_buf().context(unreadable)?.is_empty() {
            return Ok(None);
        }
        let offset = source.taken;
        let damaged = |e: io::Error| {
            Error::damage(format!("the tarball's frame at byte {offset} is damaged")).because(e)
        };
        let mut decoder = zstd::Decoder::with_buffer(source)
            .map_err(damaged)?
            .single_frame();
        let mut raw = Vec::new();
        decoder
            .by_ref()
            .take(MAX_RAW + 1)
            .read_to_end(&mut raw)
            .map_err(damaged)?;
        if raw.len() as u64 > MAX_RAW {
            let text = format!("the tarball's frame at byte {offset} is larger than any section");
            return Err(Error::damage(text));
        }
        let mut source = decoder.finish();
        let length = source.taken - offset;
        let blake3 = source.hasher.finalize();
        source.hasher.reset();
        self.source = Some(source);
        Ok(Some(Frame {
            offset,
            length,
            blake3,
            raw,
        }))
    }
}

impl<R: Read> Iterator for FrameReader<R> {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        self.frame().transpose()
    }
}

/// Counts and hashes what is taken from a reader.
struct Counting<R> {
    inner: R,
    taken: u64,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Counting<BufReader<R>> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.taken += n as u64;
        self.hasher.update(&out[..n]);
        Ok(n)
    }
}

impl<R: Read> BufRead for Counting<BufReader<R>> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.taken += n as u64;
        let buffered = self.inner.buffer();
        self.hasher.update(&buffered[..n.min(buffered.len())]);
        self.inner.consume(n);
    }
}

/// The headers of a member, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMember {
    /// Path name; of a sparse member its true one.
    pub path: Vec<u8>,
    /// The ustar type flag: `0` file, `1` hard link, `2` symlink, `3` character device, `4` block
    /// device, `5` directory, `6` fifo.
    pub flag: u8,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of the file, holes included.
    pub size: u64,
    /// Bytes of contents in the archive: without holes, and without the map.
    pub stored: u64,
    /// The map, of a sparse member.
    pub sparse: Option<SparseMap>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Device number as `st_rdev`.
    pub rdev: u32,
    /// All pax records of the member, in order. Keywords of attributes are still encoded.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the member's first header begins in the decompressed tarball.
    pub header_at: u64,
    /// Where its contents begin in the decompressed tarball (of a sparse member after the map).
    pub data_at: u64,
}

impl ReadMember {
    /// The value of a pax record; the last one counts.
    pub fn record(&self, keyword: &[u8]) -> Option<&[u8]> {
        self.pax
            .iter()
            .rev()
            .find(|(k, _)| k == keyword)
            .map(|(_, v)| v.as_slice())
    }

    /// The value of a pax record that is a decimal number.
    pub fn number(&self, keyword: &[u8]) -> Option<u64> {
        std::str::from_utf8(self.record(keyword)?)
            .ok()?
            .parse()
            .ok()
    }

    /// The value of a pax record that is a time.
    pub fn time(&self, keyword: &[u8]) -> Option<Timestamp> {
        let text = std::str::from_utf8(self.record(keyword)?).ok()?;
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
        let nanos: i64 = format!("{fraction:0<9.9}").parse().ok()?;
        let total = secs
            .parse::<i64>()
            .ok()?
            .checked_mul(1_000_000_000)?
            .checked_add(nanos)?;
        Some(Timestamp(if negative { -total } else { total }))
    }

    /// The extended attributes, names decoded.
    pub fn xattrs(&self) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
        self.pax.iter().filter_map(|(keyword, value)| {
            let name = keyword.strip_prefix(b"SCHILY.xattr.")?;
            Some((decode_xattr_name(name), value.as_slice()))
        })
    }
}

fn decode_xattr_name(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"%25") {
            out.push(b'%');
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"%3D") {
            out.push(b'=');
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Reads the members of a decompressed tarball, or of several in a row (end-of-archive records
/// between them are read over).
pub struct MemberReader<R: Read> {
    source: R,
    at: u64,
    /// Contents and padding of the current member not yet read.
    contents: u64,
    padding: u64,
}

impl<R: Read> MemberReader<R> {
    /// Read members from `source`, which stands at the first header.
    pub fn new(source: R) -> MemberReader<R> {
        MemberReader {
            source,
            at: 0,
            contents: 0,
            padding: 0,
        }
    }

    /// Where it reads from.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The next member; what is left of the current one's contents is skipped. `None` at the end.
    pub fn next_member(&mut self) -> Result<Option<ReadMember>> {
        let rest = self.contents + self.padding;
        self.skip(rest)?;
        (self.contents, self.padding) = (0, 0);
        let mut pax = Vec::new();
        let mut header_at = None;
        loop {
            let here = self.at;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            if header.iter().all(|b| *b == 0) {
                continue;
            }
            check_sum(&header, here)?;
            let header_at = *header_at.get_or_insert(here);
            let size = number(&header[124..136], here)?;
            match header[156] {
                b'x' => pax = self.pax(size, here)?,
                b'g' => self.skip(size + padding(size) as u64)?,
                _ => return self.member(&header, pax, header_at, size).map(Some),
            }
        }
    }

    /// Read from the contents of the current member (of a sparse one: its data without the holes).
    /// 0 means its end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let wanted = out
            .len()
            .min(usize::try_from(self.contents).unwrap_or(usize::MAX));
        let n = self.source.read(&mut out[..wanted]).context(unreadable)?;
        if n == 0 && wanted > 0 {
            return Err(self.cut_off());
        }
        self.at += n as u64;
        self.contents -= n as u64;
        Ok(n)
    }

    /// All that is left of the contents of the current member; only for small ones.
    pub fn read_all(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut part = [0; 64 << 10];
        loop {
            match self.read(&mut part)? {
                0 => return Ok(out),
                n => out.extend_from_slice(&part[..n]),
            }
        }
    }

    fn member(
        &mut self,
        header: &[u8; RECORD],
        pax: Vec<(Vec<u8>, Vec<u8>)>,
        header_at: u64,
        field_size: u64,
    ) -> Result<ReadMember> {
        let at = self.at;
        let mut member = ReadMember {
            path: until_nul(&header[..100]),
            flag: if header[156] == 0 { b'0' } else { header[156] },
            mode: (number(&header[100..108], at)? & 0o7777) as u16,
            uid: number(&header[108..116], at)? as u32,
            gid: number(&header[116..124], at)? as u32,
            size: field_size,
            stored: field_size,
            sparse: None,
            link: until_nul(&header[157..257]),
            rdev: rdev(
                number(&header[329..337], at)? as u32,
                number(&header[337..345], at)? as u32,
            ),
            pax,
            header_at,
            data_at: 0,
        };
        let prefix = until_nul(&header[345..500]);
        if !prefix.is_empty() {
            member.path = [&prefix, b"/".as_slice(), &member.path].concat();
        }
        if let Some(path) = member.record(b"GNU.sparse.name").or(member.record(b"path")) {
            member.path = path.to_vec();
        }
        if let Some(link) = member.record(b"linkpath") {
            member.link = link.to_vec();
        }
        if let Some(uid) = member.number(b"uid") {
            member.uid = uid as u32;
        }
        if let Some(gid) = member.number(b"gid") {
            member.gid = gid as u32;
        }
        let archived = member.number(b"size").unwrap_or(field_size);
        (member.size, member.stored) = (archived, archived);
        self.contents = archived;
        self.padding = padding(archived) as u64;
        if let Some(real_size) = member.number(b"GNU.sparse.realsize") {
            let map = self.sparse_map(real_size)?;
            if map.stored() != self.contents {
                let text = format!("the sparse member at byte {header_at} does not fit its map");
                return Err(Error::damage(text));
            }
            (member.size, member.stored) = (real_size, self.contents);
            member.sparse = Some(map);
        }
        member.data_at = self.at;
        Ok(member)
    }

    /// Read the map that opens the contents: record by record, until it has all its numbers.
    fn sparse_map(&mut self, real_size: u64) -> Result<SparseMap> {
        let mut text = Vec::new();
        let mut wanted = None;
        loop {
            let mut record = [0; RECORD];
            let mut filled = 0;
            while filled < RECORD {
                match self.read(&mut record[filled..])? {
                    0 => return Err(self.cut_off()),
                    n => filled += n,
                }
            }
            text.extend_from_slice(&record);
            if text.len() as u64 > MAX_PAX {
                return Err(Error::damage(format!(
                    "the sparse map before byte {} has no end",
                    self.at
                )));
            }
            if wanted.is_none() {
                let first = text.split(|b| *b == b'\n').next().unwrap_or_default();
                let regions = std::str::from_utf8(first)
                    .ok()
                    .and_then(|t| t.parse::<usize>().ok());
                wanted = regions.and_then(|n| n.checked_mul(2)?.checked_add(1));
            }
            let lines = text.iter().filter(|b| **b == b'\n').count();
            if wanted.is_some_and(|wanted| lines >= wanted) {
                break;
            }
        }
        SparseMap::parse(&text, real_size).ok_or_else(|| {
            Error::damage(format!("the sparse map before byte {} is damaged", self.at))
        })
    }

    fn pax(&mut self, size: u64, here: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let damaged = || Error::damage(format!("the pax header at byte {here} is damaged"));
        if size > MAX_PAX {
            return Err(damaged());
        }
        let mut bytes = vec![0; size as usize + padding(size)];
        self.fill(&mut bytes)?;
        let mut rest = &bytes[..size as usize];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let blank = rest.iter().position(|b| *b == b' ').ok_or_else(damaged)?;
            let length = std::str::from_utf8(&rest[..blank])
                .ok()
                .and_then(|t| t.parse().ok());
            let length: usize = length.ok_or_else(damaged)?;
            let record = rest.get(blank + 1..length).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(damaged)?;
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            rest = &rest[length..];
        }
        Ok(records)
    }

    /// The next record; `None` when the source is at its end.
    fn header(&mut self) -> Result<Option<[u8; RECORD]>> {
        let mut header = [0; RECORD];
        let n = self.source.read(&mut header).context(unreadable)?;
        if n == 0 {
            return Ok(None);
        }
        self.at += n as u64;
        self.fill(&mut header[n..])?;
        Ok(Some(header))
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < out.len() {
            let n = self.source.read(&mut out[filled..]).context(unreadable)?;
            if n == 0 {
                return Err(self.cut_off());
            }
            filled += n;
            self.at += n as u64;
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = io::copy(&mut self.source.by_ref().take(bytes), &mut io::sink());
        let skipped = skipped.context(unreadable)?;
        self.at += skipped;
        if skipped < bytes {
            Err(self.cut_off())
        } else {
            Ok(())
        }
    }

    fn cut_off(&self) -> Error {
        Error::damage(format!(
            "the tarball ends within a member, at byte {}",
            self.at
        ))
    }
}

fn unreadable() -> String {
    "a tarball could not be read".to_owned()
}

fn until_nul(field: &[u8]) -> Vec<u8> {
    field.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

fn number(field: &[u8], here: u64) -> Result<u64> {
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .filter(|b| *b != b' ')
        .take_while(|b| *b != 0)
        .collect();
    if digits.is_empty() {
        return Ok(0);
    }
    std::str::from_utf8(&digits)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 8).ok())
        .ok_or_else(|| Error::damage(format!("the tar header before byte {here} has no number")))
}

fn check_sum(header: &[u8; RECORD], here: u64) -> Result<()> {
    let told = number(&header[148..156], here)?;
    let blanks = 8 * u64::from(b' ');
    let others = header[..148].iter().chain(&header[156..]);
    if others.map(|b| u64::from(*b)).sum::<u64>() + blanks == told {
        return Ok(());
    }
    Err(Error::damage(format!(
        "the tar header at byte {here} has a wrong checksum"
    )))
}

/// Linux's 32-bit device number of a major and a minor.
fn rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}
