//! `cbfsctl snapshot retry`.

use super::super::Context;
use super::request;
use crate::output::Outcome;
use cbfs_core::snapshot::SnapshotState;

/// Take a failed or cancelled request up again, under its number and name.
///
/// It goes back into the queue, and a new cut is made when its turn comes. When a later snapshot
/// has its changes already it is refused (exit 11): make a new one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl snapshot retry home@12\n  cbfsctl snapshot watch home@12"
)]
pub(crate) struct Args {
    /// The request: FS@12 or FS@NAME.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let given_up = [SnapshotState::Failed, SnapshotState::Cancelled];
    let request = request::find(&args.snapshot, &client, |r| given_up.contains(&r.state))?;
    let fs = request.fs.to_string();
    let info = client.retry_snapshot(&fs, request.number, args.dry_run)?;
    let output = &mut context.output;
    if output.is_json() {
        return output.json(&info);
    }
    let (number, fs) = (info.number, &info.fs);
    if args.dry_run {
        let state = info.state.name();
        output.message(format_args!(
            "would queue snapshot {number} of {fs} again, which is {state}"
        ));
    } else {
        output.message(format_args!("snapshot {number} of {fs} is queued again"));
    }
    Ok(())
}
