//! `cbfsctl instance demote`.

use super::super::Context;
use crate::confirmation::ConfirmOption;
use crate::output::{Outcome, printable};
use crate::target;
use cbfs_core::api::RetireRequest;

/// Turn a fenced master into a slave of the latest snapshot.
///
/// A mounted one goes on at its mount point, read-only. What it has that no complete snapshot has must be given up with
/// `--discard`, and `cbfsctl instance export` saves it first.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl instance demote home\n  cbfsctl instance demote home --discard --confirm HANDLE"
)]
pub(crate) struct Args {
    /// The instance: TAG, UUID prefix or full handle (FS@NUMBER for a slave), or its mount point.
    #[arg(value_name = "FS|DIR")]
    instance: String,
    /// Give up what no complete snapshot has.
    #[arg(long)]
    discard: bool,
    #[command(flatten)]
    confirm: ConfirmOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let instance = target::choose_instance(&args.instance, client.instances()?)?;
    if args.confirm.dry_run && context.output.is_json() {
        return context.output.json(&instance);
    }
    if args.discard {
        let what = format!("demote {} and give up what only it has", instance.id);
        if args.confirm.dry_run {
            context.output.message(format_args!("would {what}"));
            return Ok(());
        }
        args.confirm.ask(&what, &instance.fs, &mut context.output)?;
    } else if args.confirm.dry_run {
        context
            .output
            .message(format_args!("would demote {}", instance.id));
        return Ok(());
    }
    let request = RetireRequest {
        discard: args.discard,
    };
    let slave = client.demote(&instance.id, &request)?;
    if context.output.is_json() {
        return context.output.json(&slave);
    }
    match slave.and_then(|slave| Some((slave.id, slave.mount_point?))) {
        Some((id, at)) => context.output.message(format_args!(
            "{id} is mounted on {} (read-only)",
            printable(&at.to_string_lossy())
        )),
        None => context
            .output
            .message(format_args!("{} is no master here any more", instance.id)),
    }
    Ok(())
}
