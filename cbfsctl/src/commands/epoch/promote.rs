//! `cbfsctl epoch promote`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::confirmation::ConfirmOption;
use crate::daemon_process::{self, DaemonPlace};
use crate::interrupt::{Interrupt, Unheard};
use crate::output::{Outcome, Output, Stop, printable};
use cbfs_core::api::{PromoteRequest, PromotionInfo, PromotionStep};
use cbfs_core::ids::Epoch;

/// Become master of a file system in the place of the present one.
///
/// For when the master's machine is lost. Says first who is master, when it was last heard of, and which snapshot this node
/// would go on from: what the former master did after that one is lost (or stays on its disk, for `instance export`).
/// Then it claims the next epoch, which fences the former master for good. Where a slave of the file system is mounted
/// on this node, that mount turns read-write, with all that is open in it; otherwise `cbfsctl mount` follows.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl epoch list home\n  cbfsctl epoch promote home --previous-epoch 3 --dry-run\n  \
    cbfsctl epoch promote home --previous-epoch 3"
)]
pub(crate) struct Args {
    /// TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    /// The epoch of the master that is lost, as `cbfsctl epoch list` shows it. Must be the latest: so nobody replaces one
    /// master and hits another.
    #[arg(long, value_name = "N")]
    previous_epoch: u16,
    /// Do not ask.
    #[arg(long, conflicts_with = "confirm")]
    yes: bool,
    #[command(flatten)]
    confirm: ConfirmOption,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let place = DaemonPlace::of_this_node(&context.socket)?;
    let client = context.client()?;
    let (_, started) = daemon_process::ensure_running(&place, &client, &Interrupt::default())?;
    if let Some(daemon) = started {
        let log = place.log();
        context.output.message(format_args!(
            "started the daemon (pid {}, log {})",
            daemon.pid(),
            printable(&log.to_string_lossy())
        ));
    }
    let mut request = PromoteRequest {
        bucket: args.bucket.url()?.map(|url| url.to_string()),
        previous_epoch: Epoch(args.previous_epoch),
        dry_run: true,
    };
    let plan = client.promote(&args.fs, &request)?;
    tell_plan(&plan, &mut context.output);
    if args.confirm.dry_run {
        return match context.output.is_json() {
            true => context.output.json(&plan),
            false => Ok(()),
        };
    }
    if !args.yes {
        let what = format!(
            "make this node the master of {} in epoch {}",
            plan.fs, plan.epoch
        );
        args.confirm.ask(&what, &plan.fs, &mut context.output)?;
    }
    request.dry_run = false;
    // From here on: at the question Ctrl-C ends the command at once.
    let interrupt = Interrupt::install("not waiting any longer", Unheard::End)?;
    let done = interrupt.during(|| client.promote(&plan.fs.to_string(), &request));
    if matches!(done, Err(Stop::Interrupted)) {
        context.output.warning(format_args!(
            "the daemon may go on with the promotion: `cbfsctl epoch list {}` tells who is the master",
            plan.fs
        ));
    }
    let done = done?;
    if context.output.is_json() {
        return context.output.json(&done);
    }
    match &done.mount_point {
        Some(mount_point) => context.output.message(format_args!(
            "this node is the master of {} in epoch {}: {} is read-write",
            done.fs,
            done.epoch,
            printable(&mount_point.to_string_lossy())
        )),
        None => context.output.message(format_args!(
            "this node is the master of {} in epoch {}; `cbfsctl mount {} DIR` mounts it",
            done.fs, done.epoch, done.fs
        )),
    }
    Ok(())
}

fn tell_plan(plan: &PromotionInfo, output: &mut Output) {
    let former = plan.former.as_ref();
    if plan.step == PromotionStep::Sealed {
        output.message(format_args!(
            "epoch {} of {} is this node's already; what is left of the promotion will be done",
            plan.epoch, plan.fs
        ));
    }
    if let Some(former) = former {
        output.message(format_args!(
            "the master is node {} (host {}), in epoch {} since {}",
            printable(&former.node),
            printable(&former.host),
            former.epoch,
            printable(&former.claimed_at)
        ));
    }
    if let Some(last_sign) = &plan.last_sign {
        output.message(format_args!(
            "it was last heard of {}",
            printable(last_sign)
        ));
    }
    if plan.looks_alive && plan.step == PromotionStep::Planned {
        output.message(format_args!(
            "WARNING: THE MASTER LOOKS ALIVE. It will be fenced: its programs get \"read-only file system\", and what it has \
             not yet published stays on its disk only. If you can reach it, stop it there instead: \
             `cbfsctl snapshot create {} --wait`, then umount",
            plan.fs
        ));
    }
    match (&plan.base, &plan.base_created_at) {
        (Some(base), Some(created_at)) => output.message(format_args!(
            "this node goes on from snapshot {} of {}: what was done after that is not in it",
            base.number,
            printable(created_at)
        )),
        _ => output.message(format_args!(
            "{} has no snapshot: this node begins with nothing",
            plan.fs
        )),
    }
    if let Some(mount_point) = &plan.mount_point {
        output.message(format_args!(
            "{} turns read-write",
            printable(&mount_point.to_string_lossy())
        ));
    }
}
