//! Inode attributes as CBFS stores them: kinds, times and the full row.

use crate::ids::{Ino, Xid};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an inode is. The numbers are on-disk format (column `kind`): the `S_IFMT` nibble of
/// `st_mode` shifted right by 12 (inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum FileKind {
    /// Named pipe.
    Fifo = 1,
    /// Character device.
    CharDevice = 2,
    /// Directory.
    Directory = 4,
    /// Block device.
    BlockDevice = 6,
    /// Regular file.
    File = 8,
    /// Symbolic link.
    Symlink = 10,
    /// Unix socket.
    Socket = 12,
}

impl FileKind {
    /// The kind for an on-disk number or `(st_mode >> 12) & 0xf`; `None` for anything unknown.
    pub fn from_code(code: u32) -> Option<FileKind> {
        Some(match code {
            1 => FileKind::Fifo,
            2 => FileKind::CharDevice,
            4 => FileKind::Directory,
            6 => FileKind::BlockDevice,
            8 => FileKind::File,
            10 => FileKind::Symlink,
            12 => FileKind::Socket,
            _ => return None,
        })
    }

    /// The on-disk number.
    pub fn code(self) -> u32 {
        self as u32
    }
}

/// A moment as nanoseconds since 1970-01-01 UTC; negative before. Covers the years 1678 to 2262;
/// anything beyond is clamped.
#[derive(
    Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// From seconds and nanoseconds as in `struct timespec` (nanoseconds count forward, also
    /// before 1970). Clamped to the representable range.
    pub fn from_parts(secs: i64, nanos: u32) -> Timestamp {
        let wide = i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        Timestamp(wide.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
    }

    /// Whole seconds, rounded down.
    pub fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds within the second, 0..1e9.
    pub fn nanos(self) -> u32 {
        self.0.rem_euclid(1_000_000_000) as u32
    }

    /// As the standard library's type.
    pub fn to_system_time(self) -> SystemTime {
        if self.0 >= 0 {
            UNIX_EPOCH + Duration::from_nanos(self.0 as u64)
        } else {
            UNIX_EPOCH - Duration::from_nanos(self.0.unsigned_abs())
        }
    }

    /// From the standard library's type, clamped.
    pub fn from_system_time(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp(i64::try_from(after.as_nanos()).unwrap_or(i64::MAX)),
            Err(before) => {
                let nanos = i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX);
                Timestamp(-nanos)
            }
        }
    }

    /// RFC 3339 in UTC with nanoseconds, for people and JSON.
    pub fn to_rfc3339(self) -> String {
        time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0))
            .ok()
            .and_then(|t| {
                t.format(&time::format_description::well_known::Rfc3339)
                    .ok()
            })
            .unwrap_or_else(|| format!("{}ns", self.0))
    }

    /// The inverse of [`Timestamp::to_rfc3339`]; `None` when the text is no RFC 3339 time.
    pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
        let t = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        t.ok()
            .and_then(|t| i64::try_from(t.unix_timestamp_nanos()).ok())
            .map(Timestamp)
    }
}

/// One row of the `inode` table: all attributes of an inode.
///
/// `gone` rows are tombstones: they hide everything of that inode in lower layers, and their
/// other fields mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeRow {
    /// The inode's number.
    pub ino: Ino,
    /// The last operation that changed this row.
    pub xid: Xid,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, suid, sgid and sticky: the lower 12 bits of `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links (for a directory 2 plus its subdirectories).
    pub nlink: u32,
    /// Bytes. For a symlink the length of its target, for a directory the number of its entries
    /// (so that rmdir need not look), 0 for special files.
    pub size: u64,
    /// The smallest size within the range of the layer this row stands in: bytes past it read as
    /// zero in the layers below.
    pub min_size: u64,
    /// Device number as `st_rdev` (Linux encoding, 32 bit); 0 unless a device.
    pub rdev: u32,
    /// Last access (relatime).
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// A tombstone.
    pub gone: bool,
}

impl InodeRow {
    /// A tombstone for `ino`, made by `xid`.
    pub fn tombstone(ino: Ino, xid: Xid) -> InodeRow {
        InodeRow {
            ino,
            xid,
            kind: FileKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
            size: 0,
            min_size: 0,
            rdev: 0,
            atime: Timestamp(0),
            mtime: Timestamp(0),
            ctime: Timestamp(0),
            btime: Timestamp(0),
            gone: true,
        }
    }

    /// `st_mode`: kind and permission bits together.
    pub fn st_mode(&self) -> u32 {
        (self.kind.code() << 12) | u32::from(self.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_before_1970_keep_their_nanoseconds() {
        let t = Timestamp::from_parts(-2, 800_000_000);
        assert_eq!((t.secs(), t.nanos()), (-2, 800_000_000));
        assert_eq!(Timestamp::from_system_time(t.to_system_time()), t);
        assert_eq!(Timestamp::parse_rfc3339(&t.to_rfc3339()), Some(t));
    }

    #[test]
    fn timestamps_out_of_range_are_clamped() {
        assert_eq!(Timestamp::from_parts(i64::MAX, 0), Timestamp(i64::MAX));
        assert_eq!(Timestamp::from_parts(i64::MIN, 0), Timestamp(i64::MIN));
    }
}
