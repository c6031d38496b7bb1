//! `cbfsctl fs delete`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::client::DaemonClient;
use crate::confirmation::ConfirmOption;
use crate::output::{Outcome, Output, printable, to_the_second};
use crate::quantities;
use crate::target::{self, Located};
use cbfs_core::api::Role;
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog::{self, Deletion};
use cbfs_core::clock::{Clock, System};
use cbfs_core::format::mark::FsMark;
use cbfs_core::format::node::NodeSign;
use cbfs_core::{Error, ErrorKind, Result};

/// Delete a file system: all its snapshots, and all that is in them.
///
/// It is only marked: nothing can be mounted, published or promoted from it any more, `fs list` hides it, and its tag is free
/// for another. Every object stays until garbage collection, so `cbfsctl fs undelete` takes it back; config, manifests and
/// index stay as the record even after that. Refused (exit 11) while a snapshot is held, and while a master has it or gives
/// signs of life. No daemon is needed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl fs delete home --dry-run\n  cbfsctl fs delete home --reason 'moved to S3'\n  \
    cbfsctl fs delete home --confirm home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3"
)]
pub(crate) struct Args {
    /// TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    /// Why, for others to read.
    #[arg(long)]
    reason: Option<String>,
    /// Delete it although a master has it: that one publishes nothing any more, and what is written to its mount from
    /// now on stays on its disk alone.
    #[arg(long)]
    even_if_in_use: bool,
    #[command(flatten)]
    confirm: ConfirmOption,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let located = target::locate(&args.fs, &args.bucket, &client)?;
    let bucket = located.open_bucket_to_write(args.confirm.dry_run)?;
    let (bucket, fs) = (&*bucket, &located.fs);
    let next = catalog::fs_may_be_deleted(bucket, fs)?;
    let output = &mut context.output;
    let users = users(bucket, &located, &client)?;
    if let Some(master) = users.iter().find(|user| user.role == Role::Master) {
        if !args.even_if_in_use {
            return Err(in_use(&located, master).into());
        }
        output.warning(format_args!(
            "THE MASTER IS IN USE: {}. It publishes nothing any more, and what is written to it stays on its \
             disk alone",
            master.describe()
        ));
    }
    for slave in users.iter().filter(|user| user.role == Role::Slave) {
        output.message(format_args!(
            "{}: it shows what it shows until its objects are collected",
            slave.describe()
        ));
    }
    let what = format!("delete {fs} with {}", contents(bucket, &located)?);
    if args.confirm.dry_run {
        output.message(format_args!("would {what}"));
        if output.is_json() {
            let at = System.now().to_rfc3339();
            let mark = FsMark::new(fs.clone(), next.nth(), None, args.reason.clone(), at);
            output.json(&Deletion {
                mark,
                collected: false,
            })?;
        }
        return Ok(());
    }
    args.confirm.ask(&what, fs, output)?;
    // The answer may have taken a while.
    if !args.even_if_in_use
        && let Some(master) = self::users(bucket, &located, &client)?
            .iter()
            .find(|user| user.role == Role::Master)
    {
        return Err(in_use(&located, master).into());
    }
    let at = System.now().to_rfc3339();
    let deletion = catalog::delete_fs(bucket, fs, next, args.reason.clone(), &at)?;
    tell_master(&located, &client, output);
    if output.is_json() {
        return output.json(&deletion);
    }
    output.message(format_args!(
        "{fs} is deleted; until garbage collection has begun `cbfsctl fs undelete {fs} --bucket {}` takes it back",
        bucket.url()
    ));
    Ok(())
}

/// The master of this node looks at once. One elsewhere, or a daemon that does not answer, finds out by itself.
pub(super) fn tell_master(located: &Located, client: &DaemonClient, output: &mut Output) {
    let on_this_node = || client.instances().ok();
    let is_master = |i: &cbfs_core::api::InstanceInfo| i.fs == located.fs && i.role == Role::Master;
    if !on_this_node().iter().flatten().any(is_master) {
        return;
    }
    if let Err(e) = client.refresh_settings(&located.fs.to_string()) {
        output.message(format_args!(
            "the master notices within a minute (it could not be told: {e})"
        ));
    }
}

/// What goes, for people.
fn contents(bucket: &dyn Bucket, located: &Located) -> Result<String> {
    let (mut count, mut stored, mut latest) = (0_u64, 0_u64, None);
    for listed in catalog::all_manifests(bucket, &located.fs)? {
        // A damaged one is counted, and does not keep the file system from being deleted.
        if listed.deleted || listed.diverged {
            continue;
        }
        count += 1;
        if let Ok(manifest) = listed.manifest {
            stored += manifest.totals.stored_bytes;
            latest = Some(manifest);
        }
    }
    let Some(latest) = latest else {
        return Ok(quantities::plural(count, "snapshot", "snapshots"));
    };
    Ok(format!(
        "{} ({} stored), the latest of {} with {} and {}",
        quantities::plural(count, "snapshot", "snapshots"),
        quantities::bytes(stored),
        to_the_second(&latest.created_at),
        quantities::plural(latest.totals.inodes, "inode", "inodes"),
        quantities::bytes(latest.totals.logical_bytes),
    ))
}

/// An instance that somebody may be working with.
struct User {
    role: Role,
    node: String,
    host: String,
    mount_point: Option<String>,
    heard_of: Option<String>,
}

impl User {
    fn describe(&self) -> String {
        let what = match self.role {
            Role::Master => "master",
            Role::Slave => "slave",
        };
        let mounted = match &self.mount_point {
            Some(dir) => format!("mounted on {dir}"),
            None => "not mounted".to_owned(),
        };
        let heard_of = match &self.heard_of {
            Some(at) => format!(", last heard of {at}"),
            None => String::new(),
        };
        let (node, host) = (printable(&self.node), printable(&self.host));
        format!("a {what} on node {node} (host {host}), {mounted}{heard_of}")
    }
}

/// Instances of this node's daemon, and those that gave a sign of life a short while ago.
fn users(bucket: &dyn Bucket, located: &Located, client: &DaemonClient) -> Result<Vec<User>> {
    let mut users = Vec::new();
    let text = |path: std::path::PathBuf| printable(&path.to_string_lossy());
    let here = client.status().ok();
    if let Some(status) = &here {
        for i in status.instances.iter().filter(|i| i.fs == located.fs) {
            users.push(User {
                role: i.role,
                node: status.node.clone(),
                host: cbfs_core::environment::host_name(),
                mount_point: i.mount_point.clone().map(text),
                heard_of: None,
            });
        }
    }
    let (now, own) = (System.now(), here.map(|status| status.node));
    for (node, sign) in catalog::node_signs(bucket, &located.fs)? {
        // What this node's daemon says itself is truer than its last sign.
        if own.as_ref() == Some(&node) {
            continue;
        }
        // One that cannot be read may be of a master that lives: it speaks against deleting, as a person would want.
        let sign: NodeSign = sign.map_err(|e| {
            e.context(format!("whether node {node} is alive cannot be told"))
                .hint("look there, and remove the object when it is not")
        })?;
        if !sign.is_of_late(now) {
            continue;
        }
        for i in sign.instances {
            users.push(User {
                role: i.role,
                node: sign.node.clone(),
                host: sign.host.clone(),
                mount_point: i.mount_point.map(text),
                heard_of: Some(sign.written_at.clone()),
            });
        }
    }
    Ok(users)
}

fn in_use(located: &Located, master: &User) -> Error {
    let fs = &located.fs;
    let text = format!("{fs} is in use: {}", master.describe());
    Error::new(ErrorKind::Conflict, text).hint(format!(
        "end it there first: `cbfsctl umount {fs}`, `cbfsctl instance delete {fs}`; or add --even-if-in-use"
    ))
}
