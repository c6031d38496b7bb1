//! Error numbers of Linux, as FUSE answers carry them (errno(3)).

use rustix::io::Errno as Raw;

/// An error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $raw:ident),* $(,)?) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`.")]
            pub const $name: Errno = Errno(Raw::$raw.raw_os_error());)*
        }
    };
}

errnos! {
    EPERM = PERM, ENOENT = NOENT, EIO = IO, ENXIO = NXIO, EACCES = ACCESS, EBUSY = BUSY,
    EEXIST = EXIST, EXDEV = XDEV, ENOTDIR = NOTDIR, EISDIR = ISDIR, EINVAL = INVAL, EFBIG = FBIG,
    ENOSPC = NOSPC, EROFS = ROFS, EMLINK = MLINK, ERANGE = RANGE, ENAMETOOLONG = NAMETOOLONG,
    ENOSYS = NOSYS, ENOTEMPTY = NOTEMPTY, ENODATA = NODATA, EOVERFLOW = OVERFLOW,
    EOPNOTSUPP = OPNOTSUPP, ESTALE = STALE, EDQUOT = DQUOT, E2BIG = TOOBIG, EINTR = INTR,
}
