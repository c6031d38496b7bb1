//! Opening what lies below a directory, and nothing else.
//!
//! A bucket's directory may be shared with programs and people we do not control. Paths below it
//! are therefore resolved by the kernel with the promise that neither a symlink nor `..` is ever
//! followed (openat2(2)); where the kernel lacks that call, one component at a time.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result, retry_on_intr};

/// How a directory is opened so that it can be read and fsynced.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Which way paths are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolver {
    /// openat2(2), by the kernel.
    Kernel,
    /// openat(2) with `O_NOFOLLOW` per component: kernels before 5.6, sandboxes that forbid openat2.
    Components,
}

/// A directory, and the way to open what lies below it.
#[derive(Debug)]
pub(super) struct Beneath {
    root: OwnedFd,
    resolver: Resolver,
}

impl Beneath {
    /// Everything below `root`; finds out which way the kernel offers.
    pub(super) fn new(root: OwnedFd) -> Result<Beneath> {
        let kernel = Beneath {
            root,
            resolver: Resolver::Kernel,
        };
        match kernel.open("", OFlags::PATH | OFlags::CLOEXEC) {
            Ok(_) => Ok(kernel),
            // EPERM: old seccomp filters answer it for calls they do not know. The directory itself
            // is open already, so it cannot mean a missing permission.
            Err(Errno::NOSYS | Errno::PERM) => Ok(kernel.with_resolver(Resolver::Components)),
            Err(e) => Err(e),
        }
    }

    /// The same directory, resolved this way.
    pub(super) fn with_resolver(self, resolver: Resolver) -> Beneath {
        Beneath { resolver, ..self }
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Open what is there at `path`: segments joined by `/`, `""` for the directory itself. A
    /// symlink anywhere in it is [`Errno::LOOP`]. Creates nothing.
    pub(super) fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        match self.resolver {
            Resolver::Kernel => {
                let resolve =
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                retry_on_intr(|| fs::openat2(&self.root, path, flags, Mode::empty(), resolve))
            }
            Resolver::Components => self.open_by_components(path, flags),
        }
    }

    fn open_by_components(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        // Keys cannot hold `..`; this is the second lock on that door.
        if path.starts_with('/') || path.split('/').any(|segment| segment == "..") {
            return Err(Errno::XDEV);
        }
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        let mut dir = open_one(&self.root, ".", DIRECTORY | OFlags::PATH)?;
        for segment in folder.split('/').filter(|s| *s != ".") {
            dir = open_one(&dir, segment, DIRECTORY | OFlags::PATH)?;
        }
        open_one(&dir, name, flags)
    }
}

/// Open one name in a directory without following a symlink: that is [`Errno::LOOP`], also where
/// the kernel answers otherwise (`O_DIRECTORY` makes it ENOTDIR, `O_PATH` opens the link itself).
pub(super) fn open_one(dir: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd> {
    let is_symlink = || {
        let found = fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    };
    match retry_on_intr(|| fs::openat(&dir, name, flags | OFlags::NOFOLLOW, Mode::empty())) {
        Ok(fd) => {
            let opened_link = flags.contains(OFlags::PATH)
                && FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) == FileType::Symlink;
            if opened_link {
                Err(Errno::LOOP)
            } else {
                Ok(fd)
            }
        }
        Err(Errno::NOTDIR) if is_symlink() => Err(Errno::LOOP),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn resolvers(path: &std::path::Path) -> Vec<Beneath> {
        [Resolver::Kernel, Resolver::Components]
            .into_iter()
            .map(|resolver| {
                let root = fs::open(path, DIRECTORY, Mode::empty()).unwrap();
                Beneath::new(root).unwrap().with_resolver(resolver)
            })
            .collect()
    }

    #[test]
    fn neither_symlinks_nor_parent_segments_are_followed() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/file"), "y").unwrap();
        symlink(outside.path(), dir.path().join("a/out")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("secret")).unwrap();
        symlink("b/file", dir.path().join("a/inside")).unwrap();
        for beneath in resolvers(dir.path()) {
            for flags in [OFlags::RDONLY, OFlags::PATH] {
                let open = |path: &str| beneath.open(path, flags | OFlags::CLOEXEC).map(drop);
                assert_eq!(open("a/b/file"), Ok(()), "{beneath:?}");
                assert_eq!(open(""), Ok(()), "{beneath:?}");
                assert_eq!(
                    open("a/out/secret"),
                    Err(Errno::LOOP),
                    "{beneath:?} {flags:?}"
                );
                assert_eq!(open("secret"), Err(Errno::LOOP), "{beneath:?} {flags:?}");
                assert_eq!(open("a/inside"), Err(Errno::LOOP), "{beneath:?} {flags:?}");
                assert_eq!(open("../secret"), Err(Errno::XDEV), "{beneath:?} {flags:?}");
                assert_eq!(
                    open("a/../../secret"),
                    Err(Errno::XDEV),
                    "{beneath:?} {flags:?}"
                );
                assert_eq!(open("a/b/none"), Err(Errno::NOENT), "{beneath:?} {flags:?}");
                assert_eq!(open("none/b"), Err(Errno::NOENT), "{beneath:?} {flags:?}");
                assert_eq!(
                    open("a/b/file/x"),
                    Err(Errno::NOTDIR),
                    "{beneath:?} {flags:?}"
                );
            }
            assert_eq!(
                beneath.open("a/out", DIRECTORY).map(drop),
                Err(Errno::LOOP),
                "{beneath:?}"
            );
        }
    }
}
