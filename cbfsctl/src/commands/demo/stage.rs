//! What the demo makes on this machine, and how it goes away again.
//!
//! Everything lies in one directory: `bucket/`, `node-a/` and `node-b/` with a state directory,
//! a socket and mount points each. Tearing down unmounts, stops both daemons, and removes the
//! directory only when nothing is mounted below it any more: deleting through a mount must not
//! happen. A demo that is killed with SIGKILL leaves all of it.

use crate::client::DaemonClient;
use crate::daemon_process::{DaemonPlace, StartedDaemon};
use crate::fuse_preflight;
use crate::interrupt::Interrupt;
use crate::output::Outcome;
use cbfs_core::api::{MountRequest, UmountRequest};
use cbfs_core::error::Context;
use cbfs_core::{Error, ErrorKind, Result};
use rustix::mount::{UnmountFlags, unmount};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a daemon may take to end by itself.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(15);
/// Longest path of a Unix socket, without the NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// What lies in the directory.
const PARTS: [&str; 3] = ["bucket", "node-a", "node-b"];

/// One node: a daemon of its own.
#[derive(Debug)]
pub(super) struct Node {
    /// Its directory.
    pub(super) dir: PathBuf,
    /// State directory and socket.
    pub(super) place: DaemonPlace,
    /// Its client.
    pub(super) client: DaemonClient,
    daemon: Option<StartedDaemon>,
}

impl Node {
    /// Start its daemon and wait until it answers.
    pub(super) fn start(&mut self, interrupt: &Interrupt) -> Outcome {
        // Kept before it is ready: whatever happens now, it will be stopped.
        let daemon = self.daemon.insert(StartedDaemon::spawn(&self.place)?);
        daemon.wait_until_ready(&self.client, interrupt)?;
        Ok(())
    }

    /// Process id of its daemon, once started.
    pub(super) fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(StartedDaemon::pid)
    }

    /// Make a mount point `name` in its directory and mount there.
    pub(super) fn mount(&self, name: &str, request: MountRequest) -> Result<PathBuf> {
        let mount_point = self.dir.join(name);
        fs::create_dir(&mount_point)
            .context(|| format!("{} could not be made", mount_point.display()))?;
        self.client.mount(&MountRequest {
            mount_point: mount_point.clone(),
            ..request
        })?;
        Ok(mount_point)
    }

    /// Unmount everything and stop the daemon; tells what did not go well.
    fn tear_down(&mut self, problems: &mut Vec<String>) {
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        for instance in self.client.instances().unwrap_or_default() {
            let Some(mount_point) = instance.mount_point else {
                continue;
            };
            let target = mount_point.to_string_lossy().into_owned();
            let umount = |lazy| {
                self.client.umount(&UmountRequest {
                    target: target.clone(),
                    lazy,
                })
            };
            if umount(false).is_err()
                && let Err(e) = umount(true)
            {
                problems.push(format!("{target} could not be unmounted: {e}"));
            }
        }
        if self.client.shutdown().is_err() {
            daemon.terminate();
        }
        match daemon.wait_for_end(SHUTDOWN_PATIENCE) {
            Ok(false) => {}
            Ok(true) => problems.push(format!("daemon {} had to be killed", daemon.pid())),
            Err(e) => problems.push(format!("daemon {} could not be stopped: {e}", daemon.pid())),
        }
        self.daemon = None;
    }
}

/// The directory and the nodes in it.
#[derive(Debug)]
pub(super) struct Stage {
    /// The directory; absolute, without symlinks.
    pub(super) dir: PathBuf,
    /// Whether it is ours to remove.
    made_dir: bool,
    /// The first machine.
    pub(super) node_a: Node,
    /// The second one.
    pub(super) node_b: Node,
    /// Whether all of it shall stay.
    keep: bool,
    is_torn_down: bool,
}

impl Stage {
    /// Make the directory (a temporary one when `dir` is none) with its parts.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it is not empty; [`ErrorKind::Usage`] when sockets below it
    /// would have too long a path.
    pub(super) fn set_up(dir: Option<&Path>, keep: bool) -> Result<Stage> {
        let (dir, made_dir) = match dir {
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("cbfs-demo-")
                    .tempdir()
                    .context(|| "a temporary directory could not be made".to_owned())?;
                (temporary.keep(), true)
            }
            Some(dir) => (dir.to_owned(), claim_directory(dir)?),
        };
        let unusable = || format!("{} could not be used", dir.display());
        let dir = fs::canonicalize(&dir).context(unusable)?;
        let node = |name: &str| -> Result<Node> {
            let dir = dir.join(name);
            let place = DaemonPlace {
                state_dir: dir.join("state"),
                socket: dir.join("cbfsd.sock"),
            };
            let client = DaemonClient::new(&place.socket)?;
            Ok(Node {
                dir,
                place,
                client,
                daemon: None,
            })
        };
        let stage = Stage {
            made_dir,
            node_a: node("node-a")?,
            node_b: node("node-b")?,
            keep,
            is_torn_down: false,
            dir,
        };
        if stage.node_a.place.socket.as_os_str().len() > SOCKET_PATH_MAX {
            let text = format!(
                "the path {} is too long for sockets below it",
                stage.dir.display()
            );
            return Err(
                Error::new(ErrorKind::Usage, text).hint("choose a shorter one with --dir DIR")
            );
        }
        for part in PARTS {
            let path = stage.dir.join(part);
            fs::create_dir(&path).context(|| format!("{} could not be made", path.display()))?;
        }
        Ok(stage)
    }

    /// Unmount, stop the daemons, remove the directory. Tells what did not go well.
    pub(super) fn tear_down(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        self.is_torn_down = true;
        self.node_b.tear_down(&mut problems);
        self.node_a.tear_down(&mut problems);
        match mounts_below(&self.dir) {
            Ok(mounts) => mounts.iter().for_each(|path| detach(path)),
            Err(e) => problems.push(format!("the mounts of this machine could not be read: {e}")),
        }
        match mounts_below(&self.dir) {
            Ok(mounts) if mounts.is_empty() => {
                if let Err(e) = self.remove() {
                    problems.push(format!("{} could not be removed: {e}", self.dir.display()));
                }
            }
            _ => problems.push(format!(
                "{} is left as it is: something is still mounted below it",
                self.dir.display()
            )),
        }
        problems
    }

    fn remove(&self) -> io::Result<()> {
        for part in PARTS {
            match fs::remove_dir_all(self.dir.join(part)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if self.made_dir {
            fs::remove_dir(&self.dir)
        } else {
            Ok(())
        }
    }
}

impl Drop for Stage {
    /// For panics and early returns; what went wrong then has no reader.
    fn drop(&mut self) {
        if !self.keep && !self.is_torn_down {
            self.tear_down();
        }
    }
}

/// Make `dir`, or find it empty. Tells whether it was made.
fn claim_directory(dir: &Path) -> Result<bool> {
    let unusable = || format!("{} could not be used", dir.display());
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(false),
            Some(_) => Err(Error::new(
                ErrorKind::Conflict,
                format!("{} is not empty", dir.display()),
            )
            .hint("the demo wants a directory of its own: name one that is empty or not there")),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).context(unusable)?;
            Ok(true)
        }
        Err(e) => Err(e).context(unusable),
    }
}

/// Mount points below `dir`, the last mounted first.
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mut mounts: Vec<PathBuf> = mount_points(&table)
        .into_iter()
        .filter(|path| path.starts_with(dir))
        .collect();
    mounts.reverse();
    Ok(mounts)
}

/// The mount points of a mountinfo table (proc(5)): the fifth field, blanks in octal.
fn mount_points(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .filter(|d| byte == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(digits) => {
                out.push(
                    digits
                        .iter()
                        .fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')),
                );
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// Detach a mount whose daemon is gone: directly, or with the helper for users. Whether it worked
/// shows in the mount table.
fn detach(path: &Path) {
    if unmount(path, UnmountFlags::DETACH).is_ok() {
        return;
    }
    if let Some(helper) = fuse_preflight::fusermount() {
        let quiet = (Stdio::null(), Stdio::null());
        let _ = Command::new(helper)
            .args(["-u", "-z"])
            .arg(path)
            .stdout(quiet.0)
            .stderr(quiet.1)
            .status();
    }
}

/// A path as a word of a shell command.
pub(super) fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+=:@%,".contains(b);
    if !text.is_empty() && path.as_os_str().as_bytes().iter().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_blanks() {
        let table =
            b"36 35 98:0 / /mnt/a\\040b rw - ext3 /dev/root rw\n37 36 0:1 / /x rw - fuse cbfs rw\n";
        assert_eq!(
            mount_points(table),
            [PathBuf::from("/mnt/a b"), PathBuf::from("/x")]
        );
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "").unwrap();
        let error = Stage::set_up(Some(dir.path()), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(dir.path().join("mine").exists());
    }

    #[test]
    fn tearing_down_removes_what_was_made_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().join("given");
        fs::create_dir(&given).unwrap();
        let mut stage = Stage::set_up(Some(&given), false).unwrap();
        fs::write(given.join("another"), "").unwrap();
        assert_eq!(stage.tear_down(), Vec::<String>::new());
        assert!(given.join("another").exists() && !given.join("bucket").exists());

        let made = dir.path().join("made");
        drop(Stage::set_up(Some(&made), false).unwrap());
        assert!(!made.exists());

        drop(Stage::set_up(Some(&made), true).unwrap());
        assert!(made.join("node-b").exists());
    }

    #[test]
    fn shell_words_are_quoted_where_they_must() {
        assert_eq!(shell_word(Path::new("/tmp/a-b_c.d")), "/tmp/a-b_c.d");
        assert_eq!(shell_word(Path::new("/it's here")), r"'/it'\''s here'");
    }
}
