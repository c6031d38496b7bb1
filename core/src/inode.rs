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
        // By hand: the change log has several for every operation, and a library that takes any
        // format takes ten times as long.
        let (days, nanos) = (
            self.0.div_euclid(NANOS_PER_DAY),
            self.0.rem_euclid(NANOS_PER_DAY),
        );
        let (year, month, day) = civil_date(days);
        let (seconds, mut fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let mut text = [0u8; RFC3339_MAX];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            text[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&decimal::<4>(year));
        put(b"-");
        put(&decimal::<2>(month));
        put(b"-");
        put(&decimal::<2>(day));
        put(b"T");
        put(&decimal::<2>(seconds / 3600));
        put(b":");
        put(&decimal::<2>(seconds / 60 % 60));
        put(b":");
        put(&decimal::<2>(seconds % 60));
        if fraction > 0 {
            let mut digits = 9;
            while fraction % 10 == 0 {
                fraction /= 10;
                digits -= 1;
            }
            put(b".");
            put(&decimal::<9>(fraction)[9 - digits..]);
        }
        put(b"Z");
        String::from_utf8_lossy(&text[..at]).into_owned()
    }

    /// The inverse of [`Timestamp::to_rfc3339`]; `None` when the text is no RFC 3339 time.
    pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
        let t = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        t.ok()
            .and_then(|t| i64::try_from(t.unix_timestamp_nanos()).ok())
            .map(Timestamp)
    }
}

const NANOS_PER_DAY: i64 = 86_400 * 1_000_000_000;

/// Bytes of the longest RFC 3339 time: `1970-01-01T00:00:00.000000001Z`.
const RFC3339_MAX: usize = 30;

/// Year, month and day of a day since 1970 in the proleptic Gregorian calendar. The days of a
/// [`Timestamp`] lie between 1677 and 2262. (H. Hinnant, "chrono-compatible low-level date
/// algorithms": years begin in March, so that the leap day is the last one.)
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The last `N` decimal digits of a number that is not negative.
fn decimal<const N: usize>(mut value: i64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    digits
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
    fn times_are_written_as_a_library_writes_them() {
        let library = |t: Timestamp| {
            let t = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(t.0)).unwrap();
            t.format(&time::format_description::well_known::Rfc3339)
                .unwrap()
        };
        let mut times = vec![0, 1, -1, i64::MIN, i64::MAX, 1_600_000_000_120_000_000];
        // Every 17.3 days of the whole range, at odd times of the day.
        times.extend((-6_000..6_000).map(|i: i64| i * 1_494_720_007_000_301));
        // Around the leap days of a century that has none, and of one that has.
        times.extend((0..6).flat_map(|d| {
            [-2_203_977_600i64, 951_696_000].map(|s| (s + d * 86_400) * 1_000_000_000)
        }));
        for t in times.into_iter().map(Timestamp) {
            assert_eq!(t.to_rfc3339(), library(t));
            assert_eq!(Timestamp::parse_rfc3339(&t.to_rfc3339()), Some(t));
        }
    }

    #[test]
    fn timestamps_out_of_range_are_clamped() {
        assert_eq!(Timestamp::from_parts(i64::MAX, 0), Timestamp(i64::MAX));
        assert_eq!(Timestamp::from_parts(i64::MIN, 0), Timestamp(i64::MIN));
    }
}
