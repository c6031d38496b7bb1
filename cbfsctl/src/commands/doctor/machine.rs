//! What the machine must have: FUSE, its helper, open files, a clock.

use super::Finding;
use crate::fuse_preflight;
use rustix::process::{Resource, geteuid, getrlimit};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Fewer open files get a busy master into trouble: each file above 16 KiB in use has one.
const OPEN_FILES: u64 = 8192;
/// 2024-01-01 as seconds since 1970: no machine of CBFS's time has a clock before it.
const YEAR_2024: i64 = 1_704_067_200;

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![fuse()];
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let helper_is = fuse_preflight::fusermount();
    findings.extend(helper(geteuid().is_root(), helper_is.as_deref(), &conf));
    findings.push(open_files(getrlimit(Resource::Nofile).maximum));
    findings.push(clock());
    findings
}

fn fuse() -> Finding {
    match fuse_preflight::check() {
        Ok(()) => Finding::ok("fuse", "/dev/fuse opens, and mounting is allowed"),
        Err(e) => Finding::of_error("fuse", &e),
    }
}

/// What users other than root need: the helper that mounts for them, and a line in fuse.conf.
fn helper(root: bool, fusermount: Option<&Path>, conf: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let install = "apt-get install fuse3 (or dnf install fuse3)";
    findings.push(match fusermount {
        Some(path) => Finding::ok("fusermount3", path.display().to_string()),
        None if root => Finding::ok("fusermount3", "not installed; root mounts without it"),
        None => Finding::problem("fusermount3", "not installed", install),
    });
    if !root {
        findings.push(if allows_other(conf) {
            Finding::ok("fuse.conf", "user_allow_other is set")
        } else {
            Finding::warning(
                "fuse.conf",
                "user_allow_other is not set: other users, root too, will not see your mounts",
                "have root add the line user_allow_other to /etc/fuse.conf, where that is wanted",
            )
        });
    }
    findings
}

fn allows_other(conf: &str) -> bool {
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

fn open_files(maximum: Option<u64>) -> Finding {
    match maximum {
        None => Finding::ok("open files", "no limit"),
        Some(n) if n >= OPEN_FILES => Finding::ok("open files", format!("up to {n}")),
        Some(n) => Finding::warning(
            "open files",
            format!("only {n} (the daemon takes what it may: ulimit -Hn)"),
            "raise the hard limit: `nofile` in /etc/security/limits.conf, or LimitNOFILE= of the unit",
        ),
    }
}

/// Whether the clock is set, and kept.
fn clock() -> Finding {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let remedy = "set the clock and keep it: timedatectl set-ntp true, or install chrony";
    if now.tv_sec < YEAR_2024 {
        let since = Duration::from_secs(now.tv_sec.unsigned_abs()).as_secs();
        return Finding::problem(
            "clock",
            format!("it says {since} seconds since 1970: it was never set"),
            remedy,
        );
    }
    // systemd-timesyncd, chrony and ntpd leave one of these.
    let kept = [
        "/run/systemd/timesync/synchronized",
        "/run/chrony",
        "/run/ntpd.pid",
        "/run/openntpd",
    ];
    if kept.iter().any(|path| Path::new(path).exists()) {
        Finding::ok("clock", "set, and a time service runs")
    } else {
        // In a container or a virtual machine the host may see to it.
        Finding::ok("clock", "set; no time service was found on this machine")
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_commented_line_allows_nothing() {
        assert!(!allows_other("#user_allow_other\nmount_max = 1000\n"));
        assert!(allows_other("# x\nuser_allow_other\n"));
    }

    #[test]
    fn a_missing_fusermount3_is_a_problem_of_users_only() {
        let of = |root, fusermount: Option<&str>| {
            let mut found = helper(root, fusermount.map(Path::new), "user_allow_other\n");
            found.remove(0)
        };
        assert_eq!(of(false, Some("/usr/bin/fusermount3")).status, Status::Ok);
        let missing = of(false, None);
        assert_eq!(missing.status, Status::Problem);
        assert!(missing.remedy.unwrap().contains("install fuse3"));
        assert_eq!(of(true, None).status, Status::Ok);
    }

    #[test]
    fn few_open_files_are_a_warning_with_a_remedy() {
        assert_eq!(open_files(Some(1024)).status, Status::Warning);
        assert!(open_files(Some(1024)).remedy.is_some());
        assert_eq!(open_files(Some(1 << 20)).status, Status::Ok);
        assert_eq!(open_files(None).status, Status::Ok);
    }
}
