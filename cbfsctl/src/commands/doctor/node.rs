//! The node: state directory, daemon, socket, instances, bucket.

use super::Finding;
use crate::bucket_option::{self, BucketOption};
use crate::commands::Context;
use crate::quantities;
use cbfs_core::api::{DaemonStatus, Health};
use cbfs_core::{ErrorKind, Result, bucket, catalog, configuration, environment};
use rustix::fs::{Access, access, statfs, statvfs};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Less room than this is told, in bytes.
const ROOM: u64 = 1 << 30;

/// A clock may differ so much from that of a bucket: seconds go by on the way.
const CLOCK: Duration = Duration::from_secs(60);

/// Magic numbers of statfs(2), and whether a state directory is safe there.
const KINDS: [(u32, &str, Option<&str>); 12] = [
    (0xef53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x9123_683e, "btrfs", None),
    (0x2fc1_2fc1, "zfs", None),
    (0xf2f5_2010, "f2fs", None),
    (
        0x0102_1994,
        "tmpfs",
        Some("it is gone with the next reboot"),
    ),
    (
        0x8584_58f6,
        "ramfs",
        Some("it is gone with the next reboot"),
    ),
    (
        0x794c_7630,
        "overlay",
        Some("it goes with the container, and it is slow"),
    ),
    (
        0x6969,
        "NFS",
        Some("the network is in the way of every operation"),
    ),
    (
        0xff53_4d42,
        "CIFS",
        Some("the network is in the way of every operation"),
    ),
    (
        0xfe53_4d42,
        "SMB",
        Some("the network is in the way of every operation"),
    ),
    (
        0x6573_5546,
        "FUSE",
        Some("sqlite3 and fsync promise there what that file system promises"),
    ),
];

pub(super) fn findings(option: &BucketOption, context: &Context) -> Result<Vec<Finding>> {
    let client = context.client()?;
    let mut buckets = BTreeSet::new();
    let mut findings = Vec::new();
    let status = client.status();
    let state_dir = match &status {
        Ok(status) => status.state_dir.clone(),
        Err(_) => environment::state_dir(),
    };
    findings.push(settings());
    findings.extend(state_directory(&state_dir));
    findings.extend(socket(&context.socket));
    match &status {
        Ok(status) => {
            findings.push(daemon(status));
            findings.extend(instances(status));
            buckets.extend(status.instances.iter().map(|i| i.bucket.clone()));
        }
        Err(e) if e.kind() == ErrorKind::DaemonUnreachable => findings.push(Finding::ok(
            "daemon",
            "does not run; `cbfsctl mount` or `systemctl start cbfsd` starts it",
        )),
        Err(e) => findings.push(Finding::of_error("daemon", e)),
    }
    buckets.extend(option.url()?.map(|url| url.to_string()));
    if buckets.is_empty() {
        findings.push(Finding::ok(
            "bucket",
            "none to check; name one with --bucket or CBFS_BUCKET",
        ));
    }
    findings.extend(buckets.iter().map(|url| one_bucket(url)));
    if let Ok(status) = &status {
        findings.extend(buckets.iter().filter_map(|url| bucket_clock(url, status)));
    }
    Ok(findings)
}

/// `cbfsd.toml`.
fn settings() -> Finding {
    match (configuration::load(), configuration::path()) {
        (Err(e), _) => Finding::of_error("settings", &e),
        (Ok(read), (path, _)) => match (&read.file, path) {
            (Some(file), _) => Finding::ok("settings", file.display().to_string()),
            (None, Some(path)) => {
                let text = format!("defaults; there is no {}", path.display());
                Finding::ok("settings", text)
            }
            (None, None) => Finding::ok("settings", "defaults"),
        },
    }
}

fn state_directory(dir: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let shown = dir.display();
    let exists = nearest(dir);
    let writable = access(&exists, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    findings.push(match fs::metadata(dir) {
        Err(_) if writable => Finding::ok(
            "state directory",
            format!("{shown}; made when it is needed"),
        ),
        Ok(meta) if writable && meta.mode() & 0o077 == 0 => {
            Finding::ok("state directory", shown.to_string())
        }
        Ok(_) if writable => Finding::warning(
            "state directory",
            format!("others may look into {shown}, where all contents lie"),
            format!("chmod 700 {shown}"),
        ),
        // Somebody else's daemon: only that must be able to write.
        _ => Finding::warning(
            "state directory",
            format!("{shown} is not yours to write"),
            "only the daemon needs it: run this as its user, or choose another CBFS_STATE_DIR",
        ),
    });
    if let Ok(room) = statvfs(&exists) {
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let text = format!("{} free", quantities::bytes(free));
        findings.push(if free < ROOM || room.f_bavail < room.f_blocks / 20 {
            Finding::warning(
                "disk",
                format!("only {text}"),
                "make room, move CBFS_STATE_DIR to a larger disk, or bound the instance with \
                 `cbfsctl mount … --kvs-limit`",
            )
        } else {
            Finding::ok("disk", text)
        });
    }
    if let Ok(about) = statfs(&exists) {
        findings.push(file_system(u32::try_from(about.f_type).unwrap_or_default()));
    }
    findings
}

fn file_system(magic: u32) -> Finding {
    match KINDS.iter().find(|(known, ..)| *known == magic) {
        Some((_, name, None)) => Finding::ok("disk type", *name),
        Some((_, name, Some(why))) => Finding::warning(
            "disk type",
            format!("{name}: {why}"),
            "keep the state directory on a local disk with ext4, XFS or btrfs: CBFS_STATE_DIR",
        ),
        None => Finding::ok("disk type", format!("unknown ({magic:#x})")),
    }
}

/// The directory itself, or the nearest above it that exists.
fn nearest(dir: &Path) -> PathBuf {
    let existing = dir.ancestors().find(|d| d.exists());
    existing.unwrap_or(Path::new("/")).to_owned()
}

fn socket(path: &Path) -> Option<Finding> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let shown = path.display();
    Some(if mode & 0o007 == 0 {
        Finding::ok("socket", format!("{shown}, mode {mode:04o}"))
    } else {
        Finding::warning(
            "socket",
            format!("everybody may talk to {shown} (mode {mode:04o})"),
            format!("chmod 660 {shown}; who may look is a matter of its group"),
        )
    })
}

fn daemon(status: &DaemonStatus) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    let text = format!("cbfs {}, pid {}", status.version, status.pid);
    if status.version == own {
        Finding::ok("daemon", text)
    } else {
        Finding::warning(
            "daemon",
            format!("{text}, but this is cbfsctl {own}"),
            "restart the daemon: systemctl restart cbfsd (mounts come back by themselves)",
        )
    }
}

fn instances(status: &DaemonStatus) -> Vec<Finding> {
    let each = status.instances.iter().flat_map(|i| {
        let remedy = match i.health {
            Health::Fenced => "this node is not the master any more; what it has not published is kept",
            Health::Poisoned => "look into the daemon's log, then `cbfsctl fs check --local` with the daemon stopped",
            Health::Ok | Health::Degraded => "`cbfsctl status` and `cbfsctl snapshot list` tell more",
        };
        let id = &i.id;
        i.problems.iter().map(move |problem| {
            let text = format!("{id}: {problem}");
            if matches!(i.health, Health::Ok | Health::Degraded) {
                Finding::warning("instance", text, remedy)
            } else {
                Finding::problem("instance", text, remedy)
            }
        })
    });
    let problems: Vec<Finding> = each.collect();
    if problems.is_empty() && !status.instances.is_empty() {
        let text = format!("{} without problems", status.instances.len());
        return vec![Finding::ok("instance", text)];
    }
    problems
}

/// One listing: whether it answers and lets us in. What the store can do is `bucket probe`'s to say.
fn one_bucket(url: &str) -> Finding {
    let list = || {
        let bucket = bucket::open(&bucket_option::parse(url)?, true)?;
        catalog::list_fs(&*bucket)
    };
    match list() {
        Ok(found) => Finding::ok("bucket", format!("{url}: {} file systems", found.len())),
        Err(e) => Finding::of_error("bucket", &e.context(url)),
    }
}

/// The daemon's clock beside that of a bucket, as far as the daemon has left a sign there. A bucket that does not answer is
/// told already.
fn bucket_clock(url: &str, status: &DaemonStatus) -> Option<Finding> {
    let bucket = bucket::open(&bucket_option::parse(url).ok()?, true).ok()?;
    for here in status.instances.iter().filter(|i| i.bucket == url) {
        // One that does not answer is not waited for again.
        if let Some(ahead) = catalog::clock_ahead(&*bucket, &here.fs, &status.node).ok()? {
            return Some(clock_beside(url, ahead));
        }
    }
    None
}

/// `ahead`: nanoseconds.
fn clock_beside(url: &str, ahead: i64) -> Finding {
    let off = Duration::from_nanos(ahead.unsigned_abs());
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    if off <= CLOCK {
        return Finding::ok("clock", format!("that of {url}"));
    }
    let text = format!("{} {side} that of {url}", quantities::duration(off));
    Finding::warning(
        "clock",
        text,
        "set the clocks: timedatectl set-ntp true, or install chrony. Times in logs and schedules are wrong meanwhile, \
         and S3 stores refuse requests from 15 minutes on",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_state_directory_in_memory_is_a_warning() {
        assert_eq!(file_system(0x0102_1994).status, Status::Warning);
        assert_eq!(file_system(0xef53).status, Status::Ok);
        assert_eq!(file_system(1).status, Status::Ok);
    }

    #[test]
    fn a_daemon_of_another_version_is_a_warning_with_its_remedy() {
        let status = |version: &str| -> DaemonStatus {
            let value = serde_json::json!({
                "version": version, "node": "n", "pid": 17, "started_at": "2026-03-14T08:00:00Z",
                "state_dir": "/var/lib/cbfs", "instances": [], "snapshots": [],
            });
            serde_json::from_value(value).unwrap()
        };
        assert_eq!(
            daemon(&status(env!("CARGO_PKG_VERSION"))).status,
            Status::Ok
        );
        let other = daemon(&status("0.0.1"));
        assert_eq!(other.status, Status::Warning);
        assert!(other.message.contains("0.0.1"), "{}", other.message);
        assert!(other.remedy.unwrap().contains("restart the daemon"));
    }

    #[test]
    fn a_clock_that_is_minutes_off_is_a_warning() {
        let second = 1_000_000_000;
        assert_eq!(clock_beside("s3://b", -20 * second).status, Status::Ok);
        let off = clock_beside("s3://b", -7200 * second);
        assert_eq!(off.status, Status::Warning);
        assert!(
            off.message.contains("behind that of s3://b"),
            "{}",
            off.message
        );
        let off = clock_beside("s3://b", 90 * second);
        assert!(
            off.message.contains("ahead of that of s3://b"),
            "{}",
            off.message
        );
    }

    #[test]
    fn a_directory_that_does_not_exist_is_looked_at_where_it_will_be() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&dir.path().join("a/b")), dir.path());
    }
}
