//! `cbfsctl slave list`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, printable, to_the_second};
use crate::table::{Align, Table};
use crate::target;
use cbfs_core::api::{InstanceInfo, Role};
use cbfs_core::catalog;
use cbfs_core::clock::{Clock, System};
use cbfs_core::format::node::NodeSign;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::inode::Timestamp;
use cbfs_core::schedule;
use serde::Serialize;
use std::path::PathBuf;

/// List the slaves: who shows which snapshot where, and how far behind it is.
///
/// Without FS those of this node. With FS also those of other nodes, as they last said in the bucket (at most every
/// few minutes, and only where they may write to it).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl slave list\n  cbfsctl slave list home")]
pub(crate) struct Args {
    /// TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: Option<String>,
    #[command(flatten)]
    bucket: BucketOption,
}

/// A slave, as this node's daemon or the bucket tells.
#[derive(Debug, Serialize)]
struct Slave {
    node: String,
    /// Told by this node's daemon, now; else by the bucket.
    here: bool,
    id: String,
    epoch: Epoch,
    snapshot: Option<SnapshotNumber>,
    follow: Option<u64>,
    mount_point: Option<PathBuf>,
    /// Snapshots it is behind the latest.
    behind: u64,
    /// Seconds since the latest was made, when it is behind.
    lag: Option<u64>,
    /// When this was so, RFC 3339.
    seen_at: String,
    /// Since when it has not reached the bucket, RFC 3339.
    unreachable_since: Option<String>,
    problems: Vec<String>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let now = System.now();
    let mut slaves = Vec::new();
    let status = match (client.status(), &args.fs) {
        (Ok(status), _) => Some(status),
        (Err(_), Some(_)) => None, // the bucket knows as well
        (Err(e), None) => return Err(e.into()),
    };
    let located = match &args.fs {
        Some(fs) => Some(target::locate(fs, &args.bucket, &client)?),
        None => None,
    };
    let own = status.as_ref().map(|s| s.node.as_str());
    if let Some(status) = &status {
        let ours = status
            .instances
            .iter()
            .filter(|i| i.role == Role::Slave && located.as_ref().is_none_or(|l| l.fs == i.fs));
        slaves.extend(ours.map(|i| of_instance(&status.node, i, now)));
    }
    if let Some(located) = &located {
        let bucket = located.open_bucket()?;
        let latest = catalog::latest_manifest(&*bucket, &located.fs)?;
        let latest = latest.map(|m| (m.number, m.created_at));
        for (node, sign) in catalog::node_signs(&*bucket, &located.fs)? {
            match sign {
                _ if Some(node.as_str()) == own => {}
                Ok(sign) => slaves.extend(of_sign(&sign, latest.as_ref(), now)),
                Err(e) => context
                    .output
                    .warning(format_args!("node {}: {e}", printable(&node))),
            }
        }
    }
    if context.output.is_json() {
        return context.output.json(&slaves);
    }
    if slaves.is_empty() {
        context
            .output
            .message("no slaves: `cbfsctl mount FS DIR --slave` makes one");
        return Ok(());
    }
    context.output.table(&table(&slaves))?;
    for slave in &slaves {
        for problem in &slave.problems {
            let id = printable(&slave.id);
            context
                .output
                .line(format_args!("⚠ {id}: {}", printable(problem)))?;
        }
    }
    Ok(())
}

fn of_instance(node: &str, instance: &InstanceInfo, now: Timestamp) -> Slave {
    let following = instance.following.as_ref();
    let since = following.and_then(|f| f.behind_since.as_deref());
    Slave {
        node: node.to_owned(),
        here: true,
        id: instance.id.clone(),
        epoch: instance.epoch,
        snapshot: instance.snapshot,
        follow: following.map(|f| f.interval),
        mount_point: instance.mount_point.clone(),
        behind: following.map_or(0, |f| f.behind),
        lag: since.and_then(|since| seconds_since(since, now)),
        seen_at: now.to_rfc3339(),
        unreachable_since: following.and_then(|f| f.unreachable_since.clone()),
        problems: instance.problems.clone(),
    }
}

fn of_sign<'a>(
    sign: &'a NodeSign,
    latest: Option<&'a (SnapshotNumber, String)>,
    now: Timestamp,
) -> impl Iterator<Item = Slave> + 'a {
    let slaves = sign.instances.iter().filter(|i| i.role == Role::Slave);
    slaves.map(move |instance| {
        let newer = latest.filter(|(latest, _)| {
            instance.follow.is_some() && instance.snapshot.is_some_and(|shown| *latest > shown)
        });
        let shown = instance.snapshot.map_or(0, |number| number.0);
        Slave {
            node: sign.node.clone(),
            here: false,
            id: instance.id.clone(),
            epoch: instance.epoch,
            snapshot: instance.snapshot,
            follow: instance.follow,
            mount_point: instance.mount_point.clone(),
            behind: newer.map_or(0, |(latest, _)| latest.0 - shown),
            lag: newer.and_then(|(_, since)| seconds_since(since, now)),
            seen_at: sign.written_at.clone(),
            unreachable_since: None,
            problems: Vec::new(),
        }
    })
}

fn seconds_since(rfc3339: &str, now: Timestamp) -> Option<u64> {
    let then = Timestamp::parse_rfc3339(rfc3339)?;
    u64::try_from(now.0.saturating_sub(then.0) / 1_000_000_000).ok()
}

fn table(slaves: &[Slave]) -> Table {
    let mut table = Table::new(&[
        ("INSTANCE", Align::Left),
        ("NODE", Align::Left),
        ("SNAPSHOT", Align::Right),
        ("FOLLOWS", Align::Left),
        ("BEHIND", Align::Left),
        ("SEEN", Align::Left),
        ("MOUNTED ON", Align::Left),
    ]);
    for slave in slaves {
        let behind = match (slave.follow, slave.behind, slave.lag) {
            (None, ..) => String::new(),
            (_, 0, _) => "no".to_owned(),
            (_, n, None) => n.to_string(),
            (_, n, Some(lag)) => format!("{n}, {}", schedule::format_duration(lag)),
        };
        table.row([
            printable(&slave.id),
            printable(&slave.node),
            slave.snapshot.map(|n| n.to_string()).unwrap_or_default(),
            slave
                .follow
                .map(|s| format!("every {}", schedule::format_duration(s)))
                .unwrap_or_default(),
            behind,
            if slave.here {
                "now".to_owned()
            } else {
                to_the_second(&slave.seen_at)
            },
            slave
                .mount_point
                .as_ref()
                .map(|p| printable(&p.to_string_lossy()))
                .unwrap_or_default(),
        ]);
    }
    table
}
