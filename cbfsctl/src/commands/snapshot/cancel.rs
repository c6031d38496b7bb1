//! `cbfsctl snapshot cancel`.

use super::super::Context;
use super::request;
use crate::interrupt::Interrupt;
use crate::output::Outcome;
use cbfs_core::snapshot::SnapshotState;
use cbfs_core::{Error, ErrorKind};
use std::time::Duration;

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(100);

/// Withdraw a request for a snapshot that is not complete.
///
/// A queued one is withdrawn at once, one that is carried out at its next step: this command
/// waits for that. What it would have held is in the next snapshot. When its manifest exists
/// already it completes instead, and this command fails (exit 11).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl snapshot cancel home@12")]
pub(crate) struct Args {
    /// The request: FS@12 or FS@NAME.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let request = request::find(&args.snapshot, &client, |r| !r.state.is_final())?;
    let fs = request.fs.to_string();
    let mut info = client.cancel_snapshot(&fs, request.number)?;
    let interrupt = Interrupt::install("not waiting any longer; the request stays withdrawn")?;
    while !info.state.is_final() {
        interrupt.pause(INTERVAL)?;
        info = client.snapshot(&fs, request.number)?;
    }
    let number = info.number;
    if info.state != SnapshotState::Cancelled {
        let text = format!(
            "snapshot {number} of {fs} is {}: it was too late to cancel it",
            info.state.name()
        );
        let hint = format!("`cbfsctl snapshot show {fs}@{number}` tells more");
        return Err(Error::new(ErrorKind::Conflict, text).hint(hint).into());
    }
    let output = &mut context.output;
    if output.is_json() {
        return output.json(&info);
    }
    output.message(format_args!("snapshot {number} of {fs} is cancelled"));
    Ok(())
}
