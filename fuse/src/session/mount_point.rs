//! Mounting, unmounting, and what is mounted where.
//!
//! fuser mounts and unmounts itself, but its unmount turns lazy when mount(2) is not permitted,
//! and goes by the path alone once the file system is gone. Here every unmount of a session
//! first looks whether what is mounted there is still its own.
//!
//! Nothing here asks the mounted file system anything, except [`is_stale`]: a path is made
//! canonical without a look at its last component, so that a dead mount does not get in the way.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

const DEV_FUSE: &str = "/dev/fuse";
const FUSERMOUNT: &str = "fusermount3";
/// File system type as mountinfo tells it: FUSE, subtype cbfs.
const FS_TYPE: &str = "fuse.cbfs";

/// How a file system is to be mounted.
pub(super) struct MountRequest<'a> {
    pub(super) source: &'a str,
    pub(super) allow_other: bool,
    pub(super) noatime: bool,
}

/// One line of /proc/self/mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct MountLine {
    /// `major:minor` of the file system.
    device: String,
    mount_point: PathBuf,
}

/// What is to be seen at a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The file system asked for, on top.
    OnTop,
    /// It is mounted, but another file system is mounted over it.
    Covered,
    /// It is not mounted there.
    Absent,
}

/// Whether something is mounted at `path` (symlinks in it are followed, but for the last
/// component). Does not touch the mounted file system.
///
/// # Errors
/// When the directory above `path` or /proc/self/mountinfo cannot be read.
pub fn is_mount_point(path: impl AsRef<Path>) -> io::Result<bool> {
    let path = canonical(path.as_ref())?;
    Ok(mount_lines()?.iter().any(|line| line.mount_point == path))
}

/// Whether a FUSE file system is mounted at `mount_point` whose daemon is gone (killed, say), so
/// that all use of it fails with ENOTCONN. While the daemon lives this waits for its answer to
/// statfs(2).
pub fn is_stale(mount_point: impl AsRef<Path>) -> bool {
    // Not stat(2): the kernel answers that from its cache, whether anybody serves or not.
    matches!(
        rustix::fs::statfs(mount_point.as_ref()),
        Err(Errno::NOTCONN | Errno::CONNABORTED)
    )
}

/// Take away a mount whose daemon is gone. Programs that still have files open there keep
/// getting ENOTCONN. No error when nothing is mounted there any more.
///
/// # Errors
/// `ResourceBusy` when the mount is not stale (see [`is_stale`]): it is left alone. Otherwise
/// what umount2(2) or fusermount3 says.
pub fn detach_stale(mount_point: impl AsRef<Path>) -> io::Result<()> {
    let mount_point = mount_point.as_ref();
    if !is_mount_point(mount_point)? {
        return Ok(());
    }
    if !is_stale(mount_point) {
        let message = format!("the mount at {} is being served", mount_point.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    unmount(&canonical(mount_point)?, true)
}

/// `path` without symlinks above its last component, made absolute.
///
/// # Errors
/// As realpath(3) of the directory above.
pub(super) fn canonical(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

/// Mount a FUSE file system and answer the device to serve it on. As root by mount(2), else by
/// fusermount3.
///
/// # Errors
/// `NotADirectory`, `NotConnected` for a stale mount (see [`detach_stale`]), `NotFound` when there
/// is no /dev/fuse, else what mount(2) or fusermount3 says.
pub(super) fn mount(mount_point: &Path, request: &MountRequest<'_>) -> io::Result<OwnedFd> {
    let stat = rustix::fs::stat(mount_point)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
        return Err(Errno::NOTDIR.into());
    }
    // Not as root: the device may be there for fusermount3 only.
    if !rustix::process::geteuid().is_root() {
        return mount_by_helper(mount_point, request);
    }
    let device = open_device()?;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        stat.st_mode & 0o170_000,
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if request.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::RELATIME;
    if request.noatime {
        flags = MountFlags::NOATIME;
    }
    let data = CString::new(data)?;
    match rustix::mount::mount(request.source, mount_point, FS_TYPE, flags, data.as_c_str()) {
        Ok(()) => Ok(device.into()),
        Err(Errno::PERM) => mount_by_helper(mount_point, request),
        Err(e) => Err(e.into()),
    }
}

/// Open /dev/fuse.
///
/// # Errors
/// As open(2), named.
pub(super) fn open_device() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEV_FUSE)
        .map_err(|e| named(&e, DEV_FUSE))
}

fn named(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Let fusermount3 mount: it opens the device with its own rights and hands it over through a
/// socket, here its standard input, so that no descriptor must be inherited otherwise.
fn mount_by_helper(mount_point: &Path, request: &MountRequest<'_>) -> io::Result<OwnedFd> {
    let mut options = String::from("default_permissions,subtype=cbfs,fsname=");
    for c in request.source.chars() {
        if matches!(c, ',' | '\\') {
            options.push('\\');
        }
        options.push(c);
    }
    if request.allow_other {
        options.push_str(",allow_other");
    }
    if request.noatime {
        options.push_str(",noatime");
    }
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new(FUSERMOUNT)
        .args(["-o", &options, "--"])
        .arg(mount_point)
        .env("_FUSE_COMMFD", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| named(&e, FUSERMOUNT))?;
    // Only the child has the other end now, so this ends when it does.
    let device = receive_device(&ours);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(helper_error(&output.stderr));
    }
    device
}

fn receive_device(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    let mut iov = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("fusermount3 handed over no FUSE device"))
}

/// Unmount what is on top at `mount_point` (canonical).
///
/// # Errors
/// `ResourceBusy` when it is in use and `lazy` is not set, `InvalidInput` when it is no mount
/// point, else what umount2(2) or fusermount3 says.
pub(super) fn unmount(mount_point: &Path, lazy: bool) -> io::Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if lazy {
        flags |= UnmountFlags::DETACH;
    }
    match rustix::mount::unmount(mount_point, flags) {
        Err(Errno::PERM) => unmount_by_helper(mount_point, lazy),
        result => Ok(result?),
    }
}

/// Detach what is on top at `mount_point` and end its connection, so that whoever waits for an
/// answer gets an error. Without the right to do so it is only detached.
pub(super) fn abort(mount_point: &Path) -> io::Result<()> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE;
    match rustix::mount::unmount(mount_point, flags) {
        Err(Errno::PERM) => unmount_by_helper(mount_point, true),
        result => Ok(result?),
    }
}

fn unmount_by_helper(mount_point: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(FUSERMOUNT);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(mount_point)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| named(&e, FUSERMOUNT))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(helper_error(&output.stderr))
    }
}

/// fusermount3 tells errors in words only; those that are acted upon are recognised.
fn helper_error(stderr: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    if text.ends_with("Device or resource busy") {
        Errno::BUSY.into()
    } else if text.contains("user_allow_other")
        || text.ends_with("Operation not permitted")
        || text.ends_with("Permission denied")
    {
        io::Error::new(io::ErrorKind::PermissionDenied, text.to_owned())
    } else {
        io::Error::other(text.to_owned())
    }
}

/// `major:minor` of the file system on top at `mount_point` (canonical), if one is mounted there.
///
/// # Errors
/// When /proc/self/mountinfo cannot be read.
pub(super) fn device_at(mount_point: &Path) -> io::Result<Option<String>> {
    let lines = mount_lines()?;
    Ok(lines
        .into_iter()
        .rev()
        .find(|l| l.mount_point == mount_point)
        .map(|l| l.device))
}

/// Whether the file system `device` is what is mounted at `mount_point` (canonical).
///
/// # Errors
/// When /proc/self/mountinfo cannot be read.
pub(super) fn standing(mount_point: &Path, device: &str) -> io::Result<Standing> {
    let lines = mount_lines()?;
    let mut here = lines
        .iter()
        .rev()
        .filter(|line| line.mount_point == mount_point);
    Ok(match here.next() {
        Some(top) if top.device == device => Standing::OnTop,
        Some(_) if here.any(|line| line.device == device) => Standing::Covered,
        _ => Standing::Absent,
    })
}

/// Let the kernel read ahead `bytes` in the file system `device`; the FUSE handshake can only
/// lower its default of 128 KiB.
///
/// # Errors
/// When sysfs cannot be written (not root, in a container).
pub(super) fn set_readahead(device: &str, bytes: u32) -> io::Result<()> {
    fs::write(
        format!("/sys/class/bdi/{device}/read_ahead_kb"),
        format!("{}", bytes / 1024),
    )
}

fn mount_lines() -> io::Result<Vec<MountLine>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|&b| b == b'\n')
        .filter_map(parse_line)
        .collect())
}

/// `36 35 98:0 /root /mount\040point options ... - type source options`
fn parse_line(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|&b| b == b' ').skip(2);
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let mount_point = decode(fields.nth(1)?);
    Some(MountLine {
        device,
        mount_point: mount_point.into(),
    })
}

/// Blank, tab, newline and backslash are written as `\` and three octal digits.
fn decode(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            digits.iter().try_fold(0u32, |value, d| {
                matches!(d, b'0'..=b'7').then(|| value * 8 + u32::from(d - b'0'))
            })
        });
        match octal.and_then(|value| u8::try_from(value).ok()) {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mountinfo_lines_are_parsed() {
        let line = br"36 35 0:53 / /mnt/a\040b\134c rw,noatime shared:1 - fuse.cbfs home-1 rw";
        assert_eq!(
            parse_line(line),
            Some(MountLine {
                device: "0:53".into(),
                mount_point: r"/mnt/a b\c".into()
            })
        );
        assert_eq!(parse_line(b""), None);
    }

    #[test]
    fn escapes_are_decoded_and_all_else_is_kept() {
        assert_eq!(decode(br"a\011b\012\134"), OsStr::new("a\tb\n\\"));
        assert_eq!(decode(br"\99x\1"), OsStr::new(r"\99x\1"));
        assert_eq!(decode(br"\777"), OsStr::new(r"\777"));
        assert_eq!(decode(b"\xff"), OsStr::from_bytes(b"\xff"));
    }

    #[test]
    fn the_root_is_a_mount_point_and_a_new_directory_is_not() {
        assert!(is_mount_point("/").unwrap());
        assert!(is_mount_point("/proc/").unwrap());
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_mount_point(dir.path()).unwrap());
        assert!(!is_stale(dir.path()));
        detach_stale(dir.path()).unwrap();
    }

    #[test]
    fn what_fusermount_says_becomes_an_error_kind() {
        let busy = b"fusermount3: failed to unmount /mnt/x: Device or resource busy\n";
        assert_eq!(helper_error(busy).kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(
            helper_error(b"fusermount3: hm\n").to_string(),
            "fusermount3: hm"
        );
    }
}
