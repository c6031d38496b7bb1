//! `cbfsctl mount`.

use super::Context;
use crate::bucket_option::BucketOption;
use crate::client::DaemonClient;
use crate::daemon_process::{self, DaemonPlace};
use crate::interrupt::{Interrupt, Unheard};
use crate::output::{Outcome, Stop, printable};
use crate::quantities;
use crate::target;
use cbfs_core::api::{MountRequest, Role};
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog;
use cbfs_core::format::epoch::EpochClaim;
use cbfs_core::handle::{FsAndSnapshot, Handle, SnapshotSelector};
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::{Error, ErrorKind, Result, schedule};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Mount a file system read-write, or a snapshot of it read-only.
///
/// Starts the daemon when none runs, and makes the file system's master instance on this node
/// when there is none anywhere. The mount stays until `cbfsctl umount`; it comes back by itself
/// when the daemon is restarted.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl mount home /mnt/home --bucket file:///srv/bucket\n  \
    cbfsctl mount home@12 /mnt/then --slave\n  cbfsctl mount home@before-upgrade /mnt/then --slave\n  \
    cbfsctl mount home /mnt/now --slave --follow --poll-interval 1m"
)]
pub(crate) struct Args {
    /// The file system: TAG, UUID prefix or full handle; with a snapshot FS@12, FS@NAME or
    /// FS@latest.
    #[arg(value_name = "FS[@SNAP]")]
    target: String,
    /// Where to: an empty directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Mount a snapshot read-only (the latest when none is named).
    #[arg(long)]
    slave: bool,
    /// Move on to each new snapshot as it becomes complete.
    #[arg(long, requires = "slave")]
    follow: bool,
    /// With --follow: how often to look for a new snapshot (10s, 5m, 1h, ...); a look is one request.
    #[arg(long, value_name = "TIME", requires = "follow", default_value = "10s", value_parser = poll_interval)]
    poll_interval: Duration,
    /// Mount over a directory that is not empty.
    #[arg(long)]
    non_empty: bool,
    /// Never update access times.
    #[arg(long)]
    noatime: bool,
    /// Keep at most this much data on this node (512M, 10G, ...); writers get ENOSPC then. Stays
    /// until another is given; `none` lifts it.
    #[arg(long, value_name = "SIZE", value_parser = kvs_limit)]
    kvs_limit: Option<u64>,
    /// Become master although the store lets several creators of an object win. It is your word that there
    /// is never more than one master; without that snapshots overwrite each other.
    #[arg(long)]
    i_prevent_split_brain: bool,
    /// Say what would be mounted, and do nothing: no daemon is started, nobody becomes master.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let request = request(args)?;
    if args.dry_run {
        return would(args, &request, context);
    }
    let place = DaemonPlace::of_this_node(&context.socket)?;
    let client = context.client()?;
    // Not installed: Ctrl-C ends this command at once, the daemon starts all the same.
    let (_, started) = daemon_process::ensure_running(&place, &client, &Interrupt::default())?;
    if let Some(daemon) = started {
        let log = place.log();
        context.output.message(format_args!(
            "started the daemon (pid {}, log {})",
            daemon.pid(),
            printable(&log.to_string_lossy())
        ));
    }
    let interrupt = Interrupt::install("not waiting any longer", Unheard::End)?;
    let mounted = interrupt.during(|| client.mount(&request));
    if matches!(mounted, Err(Stop::Interrupted)) {
        let text = "the daemon may still mount it: `cbfsctl instance list` tells";
        context.output.warning(text);
    }
    let instance = mounted?;
    if context.output.is_json() {
        return context.output.json(&instance);
    }
    let dir = instance
        .mount_point
        .as_ref()
        .unwrap_or(&request.mount_point);
    let how = match instance.role {
        Role::Master => format!("read-write, master of epoch {}", instance.epoch),
        Role::Slave => match (instance.snapshot, &instance.following) {
            (Some(number), Some(_)) => {
                format!("read-only, snapshot {number} and those that follow")
            }
            _ => "read-only".to_owned(),
        },
    };
    context.output.message(format_args!(
        "{} is mounted on {} ({how})",
        instance.id,
        printable(&dir.to_string_lossy())
    ));
    Ok(())
}

/// What the daemon looks at before it mounts, as far as it can be seen from here. Only reads the bucket.
fn would(args: &Args, request: &MountRequest, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let located = target::locate(&request.fs, &args.bucket, &client)?;
    let (bucket, fs) = (located.open_bucket()?, &located.fs);
    catalog::refuse_deleted(&*bucket, fs)?;
    let mut plan = Plan {
        dry_run: true,
        fs,
        bucket: located.bucket.to_string(),
        role: request.role,
        mount_point: &request.mount_point,
        epoch: None,
        snapshot: None,
        only_on_node: None,
    };
    let how = match &request.snapshot {
        Some(snapshot) => {
            let manifest = catalog::find_snapshot(&*bucket, fs, &snapshot.parse()?)?;
            plan.epoch = Some(manifest.epoch);
            plan.snapshot = Some(manifest.number);
            let following = match request.follow {
                Some(_) => " and those that follow",
                None => "",
            };
            format!("read-only, snapshot {}{following}", manifest.number)
        }
        None => match master_to_be(&*bucket, fs, &client)? {
            MasterToBe::First => "read-write, as its first master".to_owned(),
            MasterToBe::Again(epoch) => {
                plan.epoch = Some(epoch);
                format!("read-write, master of epoch {epoch}")
            }
            MasterToBe::If(claim) => {
                plan.epoch = Some(claim.epoch);
                let (node, host) = (printable(&claim.node), printable(&claim.host));
                plan.only_on_node = Some(claim.node);
                format!(
                    "read-write, if this node is {node} (host {host}), the master of epoch {}",
                    claim.epoch
                )
            }
        },
    };
    if context.output.is_json() {
        return context.output.json(&plan);
    }
    let dir = printable(&request.mount_point.to_string_lossy());
    context
        .output
        .message(format_args!("would mount {fs} on {dir} ({how})"));
    Ok(())
}

/// What `--dry-run --json` tells.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    dry_run: bool,
    fs: &'a Handle,
    bucket: String,
    role: Role,
    mount_point: &'a Path,
    /// That it has already.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    only_on_node: Option<String>,
}

/// How this node would be master.
enum MasterToBe {
    /// Nobody ever was.
    First,
    /// It is, in this epoch.
    Again(Epoch),
    /// If it is the one of this claim, which only its daemon knows, and that one does not run.
    If(EpochClaim),
}

fn master_to_be(bucket: &dyn Bucket, fs: &Handle, client: &DaemonClient) -> Result<MasterToBe> {
    let status = match client.status() {
        Ok(status) => Some(status),
        Err(e) if e.kind() == ErrorKind::DaemonUnreachable => None,
        Err(e) => return Err(e),
    };
    let mut instances = status.iter().flat_map(|s| &s.instances);
    if let Some(own) = instances.find(|i| i.fs == *fs && i.role == Role::Master) {
        let Some(dir) = &own.mount_point else {
            return Ok(MasterToBe::Again(own.epoch));
        };
        let dir = printable(&dir.to_string_lossy());
        let text = format!("{fs} is mounted already, at {dir}");
        return Err(Error::new(ErrorKind::Conflict, text).hint("umount it there first"));
    }
    let Some(claim) = catalog::current_epoch(bucket, fs)? else {
        return Ok(MasterToBe::First);
    };
    match status {
        // A claim of this node without an instance is one whose answer was lost, or whose instance was deleted: which of
        // these only its state directory tells.
        Some(status) if status.node != claim.node => {
            let (epoch, at) = (claim.epoch, printable(&claim.claimed_at));
            let (node, host) = (printable(&claim.node), printable(&claim.host));
            let text = format!("{fs} has a master: node {node} ({host}), epoch {epoch} since {at}");
            Err(Error::new(ErrorKind::Conflict, text).hint(format!(
                "mount a snapshot of it with --slave; to take over from a master that is lost: `cbfsctl epoch promote \
                 {fs} --previous-epoch {epoch}`"
            )))
        }
        _ => Ok(MasterToBe::If(claim)),
    }
}

fn poll_interval(text: &str) -> Result<Duration, String> {
    match schedule::parse_duration(text) {
        Ok(interval) if interval.is_zero() => Err("at least 1s".to_owned()),
        Ok(interval) => Ok(interval),
        Err(e) => Err(format!("{e}: {}", e.hint_text().unwrap_or_default())),
    }
}

/// 0 stands for no limit.
fn kvs_limit(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        size => quantities::parse_bytes(size),
    }
}

/// The request that the arguments stand for. Whether the directory will do is the daemon's to
/// say: it may see another one than we do.
fn request(args: &Args) -> cbfs_core::Result<MountRequest> {
    let target: FsAndSnapshot = args.target.parse()?;
    let (role, snapshot) = match (args.slave, target.snapshot) {
        (false, None) => (Role::Master, None),
        (true, snapshot) => (
            Role::Slave,
            Some(snapshot.unwrap_or(SnapshotSelector::Latest)),
        ),
        (false, Some(_)) => {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} is a snapshot, and snapshots never change", args.target),
            )
            .hint("add --slave to mount it read-only"));
        }
    };
    Ok(MountRequest {
        fs: target.fs.to_string(),
        bucket: args.bucket.url()?.map(|u| u.to_string()),
        snapshot: snapshot.map(|s| s.to_string()),
        mount_point: target::directory(&args.dir)?,
        role,
        follow: args.follow.then_some(args.poll_interval.as_secs()),
        non_empty: args.non_empty,
        noatime: args.noatime,
        kvs_limit: args.kvs_limit,
        i_prevent_split_brain: args.i_prevent_split_brain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn requested(line: &str) -> cbfs_core::Result<MountRequest> {
        let words = ["mount"].into_iter().chain(line.split(' '));
        request(&Line::try_parse_from(words).unwrap().args)
    }

    #[test]
    fn a_mount_is_a_master_or_a_snapshot() {
        let master = requested("home /nonexistent --bucket file:///srv/b").unwrap();
        assert_eq!(
            (master.fs.as_str(), master.role, master.snapshot),
            ("home", Role::Master, None)
        );
        assert_eq!(master.bucket.as_deref(), Some("file:///srv/b"));

        let slave = requested("home@12 /nonexistent --slave").unwrap();
        assert_eq!(
            (slave.role, slave.snapshot.as_deref()),
            (Role::Slave, Some("12"))
        );
        let latest = requested("home /nonexistent --slave --noatime").unwrap();
        assert_eq!(latest.snapshot.as_deref(), Some("latest"));
        assert!(latest.noatime && !latest.non_empty && latest.follow.is_none());
        let follower = requested("home /nonexistent --slave --follow --poll-interval 5m").unwrap();
        assert_eq!(follower.follow, Some(300));

        let limits = ["10G", "none"].map(|limit| {
            let line = format!("home /nonexistent --kvs-limit {limit}");
            requested(&line).unwrap().kvs_limit
        });
        assert_eq!(limits, [Some(10 << 30), Some(0)]);
        assert_eq!(master.kvs_limit, None);

        let refused = requested("home@12 /nonexistent").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Usage);
        assert!(refused.hint_text().unwrap().contains("--slave"));
        assert_eq!(
            requested("home /x --bucket nowhere").unwrap_err().kind(),
            ErrorKind::Usage
        );
    }

    #[test]
    fn the_directory_is_made_absolute() {
        let request = requested("home some/dir").unwrap();
        assert_eq!(
            request.mount_point,
            std::env::current_dir().unwrap().join("some/dir")
        );
    }
}
