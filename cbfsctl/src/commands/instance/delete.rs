//! `cbfsctl instance delete`.

use super::super::Context;
use crate::confirmation::ConfirmOption;
use crate::output::Outcome;
use crate::target;
use cbfs_core::api::RetireRequest;

/// Forget an instance of this node: unmount it and remove its state directory.
///
/// What a master has that no complete snapshot has must be given up with `--discard`. What is in the bucket stays.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl instance delete home\n  cbfsctl instance delete home --discard --confirm HANDLE"
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
        let what = format!("delete {} and give up what only it has", instance.id);
        if args.confirm.dry_run {
            context.output.message(format_args!("would {what}"));
            return Ok(());
        }
        args.confirm.ask(&what, &instance.fs, &mut context.output)?;
    } else if args.confirm.dry_run {
        context
            .output
            .message(format_args!("would delete {}", instance.id));
        return Ok(());
    }
    let request = RetireRequest {
        discard: args.discard,
    };
    let gone = client.delete_instance(&instance.id, &request)?;
    if context.output.is_json() {
        return context.output.json(&gone);
    }
    context
        .output
        .message(format_args!("{} is gone from this node", gone.id));
    Ok(())
}
