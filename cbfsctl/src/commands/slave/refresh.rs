//! `cbfsctl slave refresh`.

use super::super::Context;
use crate::output::{Outcome, printable};
use cbfs_core::api::{InstanceInfo, Role};
use cbfs_core::handle::FsSelector;
use cbfs_core::{Error, ErrorKind, Result};
use std::path::PathBuf;

/// Let a slave that follows look for a new snapshot now, and wait until it shows the latest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl slave refresh /mnt/now\n  cbfsctl slave refresh home")]
pub(crate) struct Args {
    /// Its mount point, its instance id, or the file system (TAG, UUID prefix, full handle).
    #[arg(value_name = "DIR|FS")]
    target: String,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let instance = find(&args.target, client.instances()?)?;
    let refreshed = client.refresh_slave(&instance.id)?;
    if context.output.is_json() {
        return context.output.json(&refreshed);
    }
    let (before, now) = (instance.snapshot, refreshed.snapshot);
    let number = now.map(|n| n.to_string()).unwrap_or_default();
    let how = if before == now {
        "still shows"
    } else {
        "shows"
    };
    let id = printable(&refreshed.id);
    context
        .output
        .message(format_args!("{id} {how} snapshot {number}"));
    Ok(())
}

/// The follower that is meant.
fn find(target: &str, instances: Vec<InstanceInfo>) -> Result<InstanceInfo> {
    let path = std::path::absolute(PathBuf::from(target)).ok();
    let real = path.as_ref().and_then(|path| path.canonicalize().ok());
    let slaves: Vec<InstanceInfo> = instances
        .into_iter()
        .filter(|i| i.role == Role::Slave)
        .collect();
    let exact = slaves.iter().find(|i| {
        i.id == target
            || (i.mount_point.is_some() && (i.mount_point == path || i.mount_point == real))
    });
    if let Some(instance) = exact {
        return Ok(instance.clone());
    }
    let not_found = || {
        Error::new(
            ErrorKind::NotFound,
            format!("no slave on this node is {target}"),
        )
        .hint("see `cbfsctl slave list`")
    };
    let selector: FsSelector = target.parse().map_err(|_| not_found())?;
    let mut following = slaves
        .into_iter()
        .filter(|i| i.following.is_some() && selector.matches(&i.fs));
    let found = following.next().ok_or_else(not_found)?;
    match following.next() {
        None => Ok(found),
        Some(other) => {
            let text = format!("{target} may be {} or {}", found.id, other.id);
            Err(Error::new(ErrorKind::Conflict, text).hint("name the mount point"))
        }
    }
}
