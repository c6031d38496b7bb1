//! `cbfsctl instance show`.

use super::super::Context;
use super::list::{health, role};
use crate::output::{Outcome, printable, to_the_second};
use crate::quantities;
use crate::target;
use cbfs_core::ErrorKind;
use cbfs_core::api::{Health, InstanceInfo, UnpublishedInfo};
use serde::Serialize;

/// Show one instance of this node's daemon.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl instance show home\n  cbfsctl instance show home@12\n  \
    cbfsctl instance show /mnt/home"
)]
pub(crate) struct Args {
    /// The file system (TAG, UUID prefix or full handle; FS@NUMBER for a slave) or its mount point.
    #[arg(value_name = "FS|DIR")]
    instance: String,
}

/// As JSON.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    instance: &'a InstanceInfo,
    /// What a fenced master has that no complete snapshot has.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<UnpublishedInfo>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let i = target::choose_instance(&args.instance, client.instances()?)?;
    let fenced = i.health == Health::Fenced;
    let kept = match fenced.then(|| client.unpublished(&i.id)) {
        Some(Ok(kept)) => Some(kept),
        // Others may see the instance, but not the names in it.
        Some(Err(e)) if e.kind() != ErrorKind::Credentials => return Err(e.into()),
        _ => None,
    };
    if context.output.is_json() {
        return context.output.json(&Shown { instance: &i, kept });
    }
    let mounted = match &i.mount_point {
        Some(path) => printable(&path.to_string_lossy()),
        None => "not mounted".to_owned(),
    };
    let number = |n: Option<cbfs_core::ids::SnapshotNumber>| match n {
        Some(n) => n.to_string(),
        None => "none".to_owned(),
    };
    let output = &mut context.output;
    output.line(format_args!("instance       {}", i.id))?;
    output.line(format_args!("bucket         {}", i.bucket))?;
    output.line(format_args!(
        "role           {}, epoch {}",
        role(i.role),
        i.epoch
    ))?;
    output.line(format_args!("mounted on     {mounted}"))?;
    output.line(format_args!("health         {}", health(i.health)))?;
    for problem in &i.problems {
        output.line(format_args!("               {}", printable(problem)))?;
    }
    if let Some(snapshot) = i.snapshot {
        output.line(format_args!("snapshot       {snapshot}"))?;
    } else {
        output.line(format_args!("last snapshot  {}", number(i.last_snapshot)))?;
        if let Some(next) = &i.next_periodic {
            output.line(format_args!("next periodic  {}", to_the_second(next)))?;
        }
        output.line(format_args!(
            "unpublished    {} transactions",
            quantities::count(i.unpublished)
        ))?;
    }
    if let Some(kept) = kept {
        output.line(format_args!(
            "kept           {} names changed, {} removed that no snapshot has",
            kept.changed, kept.removed
        ))?;
        for path in &kept.changed_paths {
            output.line(format_args!("               changed {}", printable(path)))?;
        }
        for path in &kept.removed_paths {
            output.line(format_args!("               removed {}", printable(path)))?;
        }
    }
    output.line(format_args!(
        "transaction    {} (durable: {})",
        i.xid, i.durable_xid
    ))?;
    output.line(format_args!(
        "inodes         {}",
        quantities::count(i.inodes)
    ))?;
    let limit = i.kvs_limit.map(|l| format!(" of {}", quantities::bytes(l)));
    output.line(format_args!(
        "local          {}{}",
        quantities::bytes(i.local_bytes),
        limit.unwrap_or_default()
    ))?;
    output.line(format_args!(
        "dirty          {}",
        quantities::bytes(i.dirty_bytes)
    ))
}
