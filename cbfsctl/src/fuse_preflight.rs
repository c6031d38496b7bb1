//! Whether this machine can mount FUSE file systems at all, told before anything is made, with
//! what to do about it.

use cbfs_core::{Error, ErrorKind, Result};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

/// Bit of `CAP_SYS_ADMIN` in a capability mask (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;

/// Check `/dev/fuse` and the right to mount.
///
/// # Errors
/// [`ErrorKind::Failed`] with the remedy as hint.
pub(crate) fn check() -> Result<()> {
    let device = Path::new("/dev/fuse");
    if let Err(e) = OpenOptions::new().read(true).write(true).open(device) {
        return Err(no_device(&e));
    }
    let may_mount = effective_capabilities().is_none_or(|mask| mask & (1 << CAP_SYS_ADMIN) != 0);
    if may_mount || fusermount().is_some() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Failed,
        "this process may not mount, and there is no fusermount3 to help",
    )
    .hint(
        "install the FUSE helper: apt-get install fuse3 (or dnf install fuse3)\n\
             in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN …",
    ))
}

fn no_device(e: &io::Error) -> Error {
    let error = |text: &str| Error::failed(text).because(e.to_string());
    match e.kind() {
        io::ErrorKind::NotFound => error("there is no /dev/fuse").hint(
            "on a machine: modprobe fuse\n\
             in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN …\n\
             the helper for users: apt-get install fuse3 (or dnf install fuse3)",
        ),
        io::ErrorKind::PermissionDenied => error("/dev/fuse cannot be opened").hint(
            "run it as root, or let your user in: chmod 666 /dev/fuse, or the group that owns it \
             (ls -l /dev/fuse; usermod -aG GROUP USER)\n\
             in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN …",
        ),
        _ => error("/dev/fuse cannot be used").hint("load the kernel module: modprobe fuse"),
    }
}

/// `CapEff` of this process; `None` where `/proc` does not tell (then mounting is just tried).
fn effective_capabilities() -> Option<u64> {
    parse_capabilities(&fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_capabilities(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// The helper that mounts for users, where it is installed.
pub(crate) fn fusermount() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut dirs = std::env::split_paths(&path).collect::<Vec<_>>();
    dirs.extend(["/usr/bin", "/bin"].map(Into::into));
    dirs.iter()
        .map(|dir| dir.join("fusermount3"))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_proc() {
        let status = "Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        assert_eq!(parse_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(parse_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        for kind in [
            io::ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::Other,
        ] {
            assert!(no_device(&kind.into()).hint_text().is_some());
        }
    }
}
