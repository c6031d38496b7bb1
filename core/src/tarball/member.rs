//! The headers of one tar member: a pax extended header with everything that matters, then a
//! ustar header with what fits.

use super::{RECORD, SparseMap};
use crate::ids::{Ino, Xid};
use crate::inode::Timestamp;
use std::borrow::Cow;

/// The folder in which a tar without sparse support finds sparse members.
const SPARSE_FOLDER: &[u8] = b"GNUSparseFile.0/";

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind<'a> {
    /// A regular file of that many bytes, which follow the headers.
    File {
        /// Bytes of contents.
        size: u64,
    },
    /// A regular file with holes: its map follows the headers, then its data without the holes.
    Sparse(&'a SparseMap),
    /// A further name of an earlier member.
    HardLink(&'a [u8]),
    /// A symbolic link.
    Symlink(&'a [u8]),
    /// A character device, by `st_rdev`.
    CharDevice(u32),
    /// A block device, by `st_rdev`.
    BlockDevice(u32),
    /// A directory; its path ends in `/`.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One member. Paths, link targets and attribute values are any bytes (paths and targets without
/// NUL); they come out of `tar x` exactly as they went in.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// Path name, relative.
    pub path: &'a [u8],
    /// What it is.
    pub kind: MemberKind<'a>,
    /// Permission bits, suid, sgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// The inode (`SCHILY.ino`).
    pub ino: Ino,
    /// The inode's last operation (`CBFS.xid`). `None` leaves out what only CBFS reads (`SCHILY.ino`
    /// and `CBFS.…`), of which other programs warn.
    pub xid: Option<Xid>,
    /// First block of the contents (`CBFS.blk`), where there can be contents.
    pub blk: Option<u64>,
    /// Extended attributes: name and value (`SCHILY.xattr.<name>`).
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Bytes from a content's end to the next record.
pub fn padding(size: u64) -> usize {
    let rest = (size % RECORD as u64) as usize;
    if rest == 0 { 0 } else { RECORD - rest }
}

/// The name of an extended attribute as GNU tar writes it into a pax keyword: `%` and `=` as
/// `%25` and `%3D`, since the keyword ends at the first `=`.
pub fn encode_xattr_name(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            other => out.push(*other),
        }
    }
    out
}

/// Largest number that fits into an octal field of `digits` digits.
const fn octal_limit(digits: u32) -> u64 {
    (1 << (3 * digits)) - 1
}

impl Member<'_> {
    /// Bytes that stand in the archive after the headers, without padding (for a sparse member
    /// with the map).
    pub fn archived_size(&self) -> u64 {
        match self.kind {
            MemberKind::File { size } => size,
            MemberKind::Sparse(map) => map.encode().len() as u64 + map.stored(),
            _ => 0,
        }
    }

    /// Append the headers (a multiple of 512 bytes), for a sparse member also the map. The
    /// contents and their padding are up to the caller.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let map = match self.kind {
            MemberKind::Sparse(map) => Some((map, map.encode())),
            _ => None,
        };
        let archived = match &map {
            Some((sparse, text)) => text.len() as u64 + sparse.stored(),
            None => self.archived_size(),
        };
        let link = match self.kind {
            MemberKind::HardLink(target) | MemberKind::Symlink(target) => target,
            _ => b"",
        };
        let shown = match self.kind {
            MemberKind::Sparse(_) => Cow::Owned(sparse_path(self.path)),
            _ => Cow::Borrowed(self.path),
        };
        let records = self.records(&shown, archived, link);
        let mut extended = [0u8; RECORD];
        name_field(&mut extended, format!("PaxHeaders/{}", self.ino).as_bytes());
        octal(&mut extended[100..107], 0o644);
        octal(&mut extended[108..115], 0);
        octal(&mut extended[116..123], 0);
        octal(&mut extended[124..135], records.len() as u64);
        octal(&mut extended[136..147], 0);
        extended[156] = b'x';
        seal(&mut extended);
        out.extend_from_slice(&extended);
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(records.len() as u64), 0);
        out.extend_from_slice(&self.ustar(&shown, archived, link));
        if let Some((_, text)) = map {
            out.extend_from_slice(&text);
        }
    }

    fn records(&self, path: &[u8], archived: u64, link: &[u8]) -> Vec<u8> {
        let mut records = Vec::with_capacity(256);
        if needs_record(path) {
            record(&mut records, b"path", path);
        }
        if needs_record(link) {
            record(&mut records, b"linkpath", link);
        }
        if archived > octal_limit(11) {
            record(&mut records, b"size", archived.to_string().as_bytes());
        }
        if u64::from(self.uid) > octal_limit(7) {
            record(&mut records, b"uid", self.uid.to_string().as_bytes());
        }
        if u64::from(self.gid) > octal_limit(7) {
            record(&mut records, b"gid", self.gid.to_string().as_bytes());
        }
        record(&mut records, b"mtime", &decimal(self.mtime));
        record(&mut records, b"atime", &decimal(self.atime));
        record(&mut records, b"ctime", &decimal(self.ctime));
        if let Some(xid) = self.xid {
            record(&mut records, b"SCHILY.ino", self.ino.to_string().as_bytes());
            record(&mut records, b"CBFS.xid", xid.to_string().as_bytes());
            if let Some(blk) = self.blk {
                record(&mut records, b"CBFS.blk", blk.to_string().as_bytes());
            }
        }
        if let MemberKind::Sparse(map) = self.kind {
            record(&mut records, b"GNU.sparse.major", b"1");
            record(&mut records, b"GNU.sparse.minor", b"0");
            record(&mut records, b"GNU.sparse.name", self.path);
            record(
                &mut records,
                b"GNU.sparse.realsize",
                map.size().to_string().as_bytes(),
            );
        }
        for (name, value) in self.xattrs {
            let keyword = [b"SCHILY.xattr.".as_slice(), &encode_xattr_name(name)].concat();
            record(&mut records, &keyword, value);
        }
        records
    }

    fn ustar(&self, path: &[u8], archived: u64, link: &[u8]) -> [u8; RECORD] {
        let (flag, rdev) = match self.kind {
            MemberKind::File { .. } | MemberKind::Sparse(_) => (b'0', 0),
            MemberKind::HardLink(_) => (b'1', 0),
            MemberKind::Symlink(_) => (b'2', 0),
            MemberKind::CharDevice(rdev) => (b'3', rdev),
            MemberKind::BlockDevice(rdev) => (b'4', rdev),
            MemberKind::Directory => (b'5', 0),
            MemberKind::Fifo => (b'6', 0),
        };
        let mut header = [0u8; RECORD];
        name_field(&mut header, path);
        octal(&mut header[100..107], u64::from(self.mode & 0o7777));
        octal(&mut header[108..115], limited(u64::from(self.uid), 7));
        octal(&mut header[116..123], limited(u64::from(self.gid), 7));
        octal(&mut header[124..135], limited(archived, 11));
        let seconds = u64::try_from(self.mtime.secs()).unwrap_or(0);
        octal(&mut header[136..147], limited(seconds, 11));
        header[156] = flag;
        let shown = link.len().min(100);
        header[157..157 + shown].copy_from_slice(&link[..shown]);
        // Linux's 32-bit encoding: minor's low 8 bits, 12 bits of major, minor's high 12 bits.
        octal(&mut header[329..336], u64::from((rdev >> 8) & 0xfff));
        octal(
            &mut header[337..344],
            u64::from((rdev & 0xff) | ((rdev >> 12) & 0xf_ff00)),
        );
        seal(&mut header);
        header
    }
}

/// What a sparse member is called for a tar that does not know sparse members, as GNU tar has it:
/// such a tar must not put the condensed contents under the file's true name.
fn sparse_path(path: &[u8]) -> Vec<u8> {
    let name_at = path
        .iter()
        .rposition(|b| *b == b'/')
        .map_or(0, |slash| slash + 1);
    [&path[..name_at], SPARSE_FOLDER, &path[name_at..]].concat()
}

/// Whether a path has to stand in a pax record: too long for its field, or not plain ASCII.
fn needs_record(path: &[u8]) -> bool {
    path.len() > 100 || !path.iter().all(|b| (0x20..0x7f).contains(b))
}

/// What stands in a field too small for the value: 0, the pax record has it.
fn limited(value: u64, digits: u32) -> u64 {
    if value > octal_limit(digits) {
        0
    } else {
        value
    }
}

fn name_field(header: &mut [u8; RECORD], path: &[u8]) {
    let shown = path.len().min(100);
    header[..shown].copy_from_slice(&path[..shown]);
}

/// Zero-padded octal that fills the field; the byte after it stays NUL.
fn octal(field: &mut [u8], mut value: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

/// Magic, version and checksum.
fn seal(header: &mut [u8; RECORD]) {
    header[257..263].copy_from_slice(b"ustar\0");
    header[263..265].copy_from_slice(b"00");
    header[148..156].copy_from_slice(b"        ");
    let sum: u64 = header.iter().map(|b| u64::from(*b)).sum();
    octal(&mut header[148..154], sum);
    header[154] = 0;
}

/// `LENGTH KEYWORD=VALUE\n`, where LENGTH counts itself.
fn record(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3; // blank, '=' and newline
    let mut length = rest;
    loop {
        let with_digits = rest + length.to_string().len();
        if with_digits == length {
            break;
        }
        length = with_digits;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with nine decimals, as a plain decimal number (`-0.2` is 200 ms before 1970).
fn decimal(time: Timestamp) -> Vec<u8> {
    let sign = if time.0 < 0 { "-" } else { "" };
    let nanos = time.0.unsigned_abs();
    format!(
        "{sign}{}.{:09}",
        nanos / 1_000_000_000,
        nanos % 1_000_000_000
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for size in 0..2000 {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; size]);
            let digits = out.iter().position(|b| *b == b' ').unwrap();
            let told: usize = std::str::from_utf8(&out[..digits])
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(told, out.len());
        }
    }

    #[test]
    fn times_are_plain_decimal_numbers() {
        assert_eq!(decimal(Timestamp(1_000_000_002)), b"1.000000002");
        assert_eq!(decimal(Timestamp(-200_000_000)), b"-0.200000000");
    }
}
