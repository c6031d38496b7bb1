//! Between the crate's types and those of fuser.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::{Attributes, CachePolicy, DirectoryEntry, Errno, FileSystem, OpResult, Refusal};

/// Longest name the trait accepts. The kernel itself only refuses names beyond 1024 bytes.
const NAME_MAX: usize = 255;

/// A size the kernel refuses as invalid (it is beyond `i64::MAX`); see [`without_attributes`].
const INVALID_SIZE: u64 = u64::MAX;

/// Attributes in fuser's form, with the time they may be kept.
pub(super) struct Known {
    pub(super) attr: FileAttr,
    pub(super) policy: CachePolicy,
}

/// The answer to an operation that names an inode.
pub(super) enum Entry {
    Known(Known),
    /// No such name, to be remembered for this long.
    Negative(Duration),
}

/// `attributes` as an answer.
///
/// # Errors
/// `EIO` for a mode that has no known kind: the kernel would refuse it, too.
pub(super) fn known(fs: &dyn FileSystem, attributes: &Attributes) -> OpResult<Known> {
    let attr = file_attr(attributes).ok_or(Errno::EIO)?;
    Ok(Known {
        attr,
        policy: fs.cache_policy_of(attributes.ino),
    })
}

/// `attributes` as the answer to an operation that names an inode.
///
/// # Errors
/// As [`known`].
pub(super) fn entry(fs: &dyn FileSystem, attributes: &Attributes) -> OpResult<Entry> {
    known(fs, attributes).map(Entry::Known)
}

/// Refuses names the trait promises never to pass on.
///
/// # Errors
/// `ENAMETOOLONG` beyond 255 bytes, `EINVAL` for the empty name.
pub(super) fn checked(name: &[u8]) -> OpResult<&[u8]> {
    match name.len() {
        0 => Err(Refusal::Errno(Errno::EINVAL)),
        1..=NAME_MAX => Ok(name),
        _ => Err(Refusal::Errno(Errno::ENAMETOOLONG)),
    }
}

/// fuser's form of an error number; one that is not positive becomes `EIO`.
pub(super) fn fuser_errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

/// The file type for the top four bits of a mode, `None` when there is no such type.
pub(super) fn file_type(kind: u32) -> Option<FileType> {
    Some(match kind {
        0o01 => FileType::NamedPipe,
        0o02 => FileType::CharDevice,
        0o04 => FileType::Directory,
        0o06 => FileType::BlockDevice,
        0o10 => FileType::RegularFile,
        0o12 => FileType::Symlink,
        0o14 => FileType::Socket,
        _ => return None,
    })
}

/// fuser's form of attributes, `None` for a mode without a known kind.
pub(super) fn file_attr(attributes: &Attributes) -> Option<FileAttr> {
    Some(FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: system_time(attributes.btime),
        kind: file_type((attributes.mode >> 12) & 0xf)?,
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: attributes.blksize,
        flags: 0,
    })
}

/// Attributes that say nothing but inode number and kind. An inode number of 0 makes them a
/// negative entry, or a directory entry the kernel does not link.
pub(super) fn nameplate(ino: u64, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// How a readdirplus reply lists an entry whose attributes are not known.
///
/// The protocol's way is node id 0, but fuser writes one number both as node id and as the
/// `d_ino` that programs see, and `d_ino` 0 means "deleted entry" to many of them. So the entry
/// carries its number and a size the kernel refuses: the kernel lists it, does not link it
/// (`fuse_direntplus_link` answers EIO to itself, Linux 5.5 and later) and at once forgets the
/// one lookup it takes the entry for. [`super::listing::Unattributed`] swallows that forget.
pub(super) fn without_attributes(entry: &DirectoryEntry<'_>, kind: FileType) -> FileAttr {
    FileAttr {
        size: INVALID_SIZE,
        ..nameplate(entry.ino, kind)
    }
}

/// Nanoseconds since 1970 as a point in time; all of `i64` is representable.
fn system_time(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

/// Nanoseconds since 1970 of a time that came out of fuser's `setattr`.
///
/// Times outside of what nanoseconds in an `i64` can say (years 1677 to 2262) become the nearest
/// that can be said, as Linux does for file systems with a smaller range.
///
/// This needs the fuser of vendor/: the published 0.18 panics on the earliest times and turns
/// fractions of a second before 1970 around.
pub(super) fn nanos_from_fuser(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, i64::wrapping_neg)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time that fuser makes of the numbers the kernel sends.
    fn through_fuser(seconds: i64, nanos: u32) -> SystemTime {
        let fraction = Duration::from_nanos(nanos.into());
        if seconds >= 0 {
            UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()) + fraction
        } else {
            UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()) + fraction
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        assert_eq!(
            nanos_from_fuser(through_fuser(-2, 750_000_000)),
            -1_250_000_000
        );
        assert_eq!(nanos_from_fuser(through_fuser(-1, 999_999_999)), -1);
        assert_eq!(nanos_from_fuser(through_fuser(-1, 0)), -1_000_000_000);
        assert_eq!(nanos_from_fuser(through_fuser(0, 1)), 1);
        assert_eq!(nanos_from_fuser(through_fuser(3, 5)), 3_000_000_005);
    }

    #[test]
    fn times_out_of_range_become_the_nearest() {
        assert_eq!(
            nanos_from_fuser(through_fuser(253_402_300_800, 0)),
            i64::MAX
        );
        assert_eq!(
            nanos_from_fuser(through_fuser(-253_402_300_800, 0)),
            i64::MIN
        );
        assert_eq!(
            nanos_from_fuser(through_fuser(i64::MIN, 999_999_999)),
            i64::MIN
        );
        assert_eq!(
            nanos_from_fuser(through_fuser(i64::MAX, 999_999_999)),
            i64::MAX
        );
    }

    #[test]
    fn every_stored_time_can_be_told() {
        for nanos in [i64::MIN, -1_500_000_000, -1, 0, 1, i64::MAX] {
            let time = system_time(nanos);
            let back = match time.duration_since(UNIX_EPOCH) {
                Ok(d) => d.as_nanos().cast_signed(),
                Err(e) => -e.duration().as_nanos().cast_signed(),
            };
            assert_eq!(back, i128::from(nanos));
        }
    }

    #[test]
    fn names_are_checked() {
        assert!(checked(b"").is_err());
        assert!(checked(&[b'a'; 255]).is_ok());
        assert_eq!(
            checked(&[b'a'; 256]),
            Err(Refusal::Errno(Errno::ENAMETOOLONG))
        );
    }
}
