//! Stages: where a test happens, and what is left of it afterwards, which is nothing.

use crate::fingerprint::{Exactness, Fingerprint};
use crate::{Disk, Node, TestBucket};
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// A temporary directory in which a test happens.
#[derive(Debug, Clone)]
pub struct Stage {
    ground: Arc<Ground>,
}

/// The directory; goes when the last part of a stage does.
#[derive(Debug)]
pub(crate) struct Ground {
    dir: Option<TempDir>,
}

impl Stage {
    /// A fresh one.
    #[allow(clippy::new_without_default)] // it makes a directory
    pub fn new() -> Stage {
        let dir = tempfile::Builder::new()
            .prefix("cbfs-tests-")
            .tempdir()
            .expect("a temporary directory");
        Stage {
            ground: Arc::new(Ground { dir: Some(dir) }),
        }
    }

    /// A path on it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.ground.path().join(name)
    }

    /// A directory on it, created.
    pub fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a directory of the stage");
        path
    }

    /// A bucket of its own.
    pub fn bucket(&self) -> TestBucket {
        let unique = self.ground.path().file_name().expect("a name");
        TestBucket::new(&self.path("bucket"), &unique.to_string_lossy())
    }

    /// A bucket that is a directory of the stage, whatever the environment says: for tests that
    /// look at objects or damage them.
    pub fn directory_bucket(&self) -> TestBucket {
        TestBucket::directory(&self.path("bucket"))
    }

    /// A node whose daemon does not run yet.
    pub fn node(&self, name: &str) -> Node {
        Node::new(&self.ground, name)
    }
}

impl Ground {
    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.as_ref().expect("the stage stands").path()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        kill_daemons_below(dir.path());
        // Deepest first.
        for mount_point in mounts_below(dir.path()).into_iter().rev() {
            if let Err(e) = rustix::mount::unmount(&mount_point, UnmountFlags::DETACH) {
                let helper = Command::new("fusermount3")
                    .args(["-u", "-z", "--"])
                    .arg(&mount_point)
                    .status();
                if !helper.is_ok_and(|s| s.success()) {
                    eprintln!("{} stays mounted: {e}", mount_point.display());
                }
            }
        }
        if !mounts_below(dir.path()).is_empty() {
            // Never remove what may lie in a file system that is still served.
            eprintln!("{} is left", dir.keep().display());
        } else if let Err(e) = fs::remove_dir_all(dir.path()) {
            eprintln!("{} is left: {e}", dir.keep().display());
        }
    }
}

/// Daemons that no [`Node`] owns: `cbfsctl mount` starts one when none runs. Recognised by their
/// state directory.
fn kill_daemons_below(dir: &Path) {
    let mut wanted = b"CBFS_STATE_DIR=".to_vec();
    wanted.extend(dir.as_os_str().as_encoded_bytes());
    wanted.push(b'/');
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name();
        let pid = pid.to_str().and_then(|n| n.parse().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else {
            continue;
        };
        let Ok(environment) = fs::read(process.path().join("environ")) else {
            continue;
        };
        if environment
            .split(|b| *b == 0)
            .any(|v| v.starts_with(&wanted))
        {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Mount points below a directory, in the order of mounting.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescaped(field))))
        .filter(|path| path.starts_with(dir))
        .collect()
}

/// mountinfo writes blanks, tabs, newlines and backslashes as `\ooo`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let octal = octal.and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// The usual setting: a bucket with the file system `home`, its master mounted on a node.
#[derive(Debug)]
pub struct Master {
    /// The node with the master.
    pub node: Node,
    /// Full handle of the file system.
    pub fs: String,
    /// Where it is mounted.
    pub mnt: PathBuf,
    /// The bucket.
    pub bucket: TestBucket,
    /// All of it.
    pub stage: Stage,
}

impl Master {
    /// Set it up.
    #[allow(clippy::new_without_default)] // it starts a daemon
    pub fn new() -> Master {
        let stage = Stage::new();
        let bucket = stage.bucket();
        Master::on(stage, bucket, &[])
    }

    /// As [`Master::new`], with these variables in its daemon's environment.
    pub fn with_environment(environment: &[(&'static str, String)]) -> Master {
        let stage = Stage::new();
        let bucket = stage.bucket();
        Master::on(stage, bucket, environment)
    }

    /// As [`Master::new`], with a bucket in a directory for the test to look into.
    pub fn with_directory_bucket() -> Master {
        let stage = Stage::new();
        let bucket = stage.directory_bucket();
        Master::on(stage, bucket, &[])
    }

    /// As [`Master::new`], with the state directory on a small disk of its own.
    pub fn on_disk(disk: Disk, mib: u64) -> Master {
        let stage = Stage::new();
        let bucket = stage.bucket();
        let node = stage.node("a");
        fs::create_dir_all(node.state_dir()).expect("the state directory");
        disk.mount(&node.state_dir(), &stage.path("disk.img"), mib);
        Master::of(stage, bucket, node)
    }

    fn on(stage: Stage, bucket: TestBucket, environment: &[(&'static str, String)]) -> Master {
        let node = stage.node("a").with_environment(environment);
        Master::of(stage, bucket, node)
    }

    fn of(stage: Stage, bucket: TestBucket, node: Node) -> Master {
        node.start();
        let created = node.ctl(["fs", "create", "home", "--bucket", bucket.url()]);
        let fs = created.ok().trim_end().to_owned();
        let mnt = stage.dir("mnt");
        node.mount(&fs, &bucket, &mnt);
        Master {
            node,
            fs,
            mnt,
            bucket,
            stage,
        }
    }

    /// A path in the mount.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mnt.join(name)
    }

    /// A directory in the mount, created.
    pub fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(&path).expect("a directory in the mount");
        path
    }

    /// Unmount and mount again: nothing is in the kernel's caches then.
    pub fn remount(&self) {
        self.node.ctl(["umount", &self.fs]).ok();
        self.node.mount(&self.fs, &self.bucket, &self.mnt);
    }

    /// Take a snapshot to its end; answers its number.
    pub fn snapshot(&self) -> u64 {
        let args = ["snapshot", "create", &self.fs, "--wait", "--timeout", "300"];
        let number = self.node.ctl(args).ok();
        number.trim_end().parse().expect("a number")
    }

    /// Ask for a snapshot and wait until it has come to `state`; answers its number.
    pub fn snapshot_until(&self, state: &str) -> u64 {
        let wait = format!("--wait={state}");
        let args = ["snapshot", "create", &self.fs, &wait, "--timeout", "300"];
        let number = self.node.ctl(args).ok();
        number.trim_end().parse().expect("a number")
    }

    /// Wait until a snapshot is complete.
    pub fn wait_for(&self, number: u64) {
        let snapshot = format!("{}@{number}", self.fs);
        let args = ["snapshot", "watch", &snapshot, "--timeout", "300"];
        self.node.ctl(args).ok();
    }

    /// Where the daemon's status log of a snapshot is.
    pub fn status_log(&self, number: u64) -> PathBuf {
        self.instance_dir()
            .join(format!("status/{number:010}.jsonl"))
    }

    /// Its whole lines: the last one may be half written.
    pub fn status_lines(&self, number: u64) -> Vec<serde_json::Value> {
        let log = fs::read_to_string(self.status_log(number)).expect("the status log");
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("a JSON line"))
            .collect()
    }

    /// The state of a snapshot as the daemon's status log tells it, by name.
    pub fn states_of(&self, number: u64) -> Vec<String> {
        let lines = self.status_lines(number);
        let states = lines.iter().filter_map(|line| line["state"].as_str());
        states.map(str::to_owned).collect()
    }

    /// The master's own directory in the state directory.
    pub fn instance_dir(&self) -> PathBuf {
        self.node.state_dir().join("instances").join(&self.fs)
    }

    /// Mount a snapshot on a node of its own.
    pub fn slave(&self, number: u64) -> Slave {
        self.slave_of(&number.to_string())
    }

    /// Mount a snapshot by number, name or `latest` on a node of its own.
    pub fn slave_of(&self, snapshot: &str) -> Slave {
        let name = format!("slave-{}", next());
        let node = self.stage.node(&name);
        node.start();
        let mnt = self.stage.dir(format!("{name}-mnt"));
        let snapshot = format!("{}@{snapshot}", self.fs);
        let dir = mnt.to_str().expect("a plain path").to_owned();
        let args = ["mount", &snapshot, &dir, "--slave", "--bucket"];
        node.ctl(args.into_iter().chain([self.bucket.url()])).ok();
        Slave { node, mnt }
    }

    /// The fingerprint of the master's tree, with everything that a snapshot keeps.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::take(&self.mnt, Exactness::Snapshot)
    }

    /// Check that a snapshot holds exactly what `wanted` says, on a node that knows nothing.
    pub fn assert_snapshot_is(&self, number: u64, wanted: &Fingerprint) {
        let slave = self.slave(number);
        let found = Fingerprint::take(&slave.mnt, Exactness::Snapshot);
        crate::assert_same(&format!("snapshot {number}"), wanted, &found);
    }
}

/// A snapshot mounted on a second node.
#[derive(Debug)]
pub struct Slave {
    /// The node.
    pub node: Node,
    /// Where it is mounted.
    pub mnt: PathBuf,
}

/// A number that was not there before.
fn next() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
