//! `cbfsctl snapshot cancel`.

use super::super::Context;
use super::request;
use crate::client::DaemonClient;
use crate::interrupt::{Interrupt, Unheard};
use crate::output::{Outcome, printable};
use cbfs_core::api::SnapshotInfo;
use cbfs_core::handle::Handle;
use cbfs_core::snapshot::SnapshotState;
use cbfs_core::{Error, ErrorKind};
use std::time::Duration;

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(100);

/// Withdraw a request for a snapshot that is not complete.
///
/// A queued one is withdrawn at once, one that is carried out at its next step: this command says so and
/// waits for that (`--no-wait`: returns, `snapshot watch` follows it). One whose manifest may have been created
/// can only be withdrawn once the bucket answers. What it would have held is in the next snapshot. When its manifest exists
/// already it completes instead, and this command fails (exit 11); when it fails meanwhile there is no such snapshot either, and
/// the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl snapshot cancel home@12")]
pub(crate) struct Args {
    /// The request: FS@12 or FS@NAME.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    /// Return as soon as the withdrawal is safe on disk.
    #[arg(long)]
    no_wait: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let request = request::find(&args.snapshot, &client, |r| !r.state.is_final())?;
    let fs = request.fs.to_string();
    if args.dry_run {
        return would(&request, context);
    }
    let mut info = client.cancel_snapshot(&fs, request.number)?;
    let parting = "not waiting any longer; the request stays withdrawn";
    let interrupt = Interrupt::install(parting, Unheard::End)?;
    if !info.state.is_final() {
        let why = waits_for(&info, &problems(&info.fs, &client));
        let output = &mut context.output;
        if args.no_wait {
            if output.is_json() {
                return output.json(&info);
            }
            output.message(format_args!(
                "snapshot {} of {fs} is being cancelled: {why}; `cbfsctl snapshot watch {fs}@{}` follows it",
                info.number, info.number
            ));
            return Ok(());
        }
        output.message(format_args!(
            "waiting for snapshot {} of {fs}: {why} (Ctrl-C: stop waiting)",
            info.number
        ));
    }
    while !info.state.is_final() {
        interrupt.pause(INTERVAL)?;
        info = interrupt.during(|| client.snapshot(&fs, request.number))?;
    }
    let number = info.number;
    if info.state != SnapshotState::Cancelled {
        return Err(not_cancelled(&info).into());
    }
    let output = &mut context.output;
    if output.is_json() {
        return output.json(&info);
    }
    output.message(format_args!("snapshot {number} of {fs} is cancelled"));
    Ok(())
}

/// How a request that was withdrawn ended instead.
fn not_cancelled(info: &SnapshotInfo) -> Error {
    let (number, fs) = (info.number, &info.fs);
    let error = match info.state {
        SnapshotState::Failed => {
            // As good as cancelled: there is no such snapshot, and what it held is in the next.
            let text = format!("snapshot {number} of {fs} failed before it could be cancelled");
            let error = Error::failed(text);
            match &info.reason {
                Some(reason) => error.because(reason.clone()),
                None => error,
            }
        }
        state => Error::new(
            ErrorKind::Conflict,
            format!(
                "snapshot {number} of {fs} is {}: it was too late to cancel it",
                state.name()
            ),
        ),
    };
    error.hint(format!("`cbfsctl snapshot show {fs}@{number}` tells more"))
}

/// What has to happen before a withdrawn request is over.
fn waits_for(info: &SnapshotInfo, problems: &[String]) -> String {
    let what = match info.state {
        SnapshotState::Copying => {
            "its manifest may have been created, so the bucket is asked for that first"
        }
        _ => "its attempt comes to the end of the step at hand",
    };
    let state = info.state.name();
    match problems {
        [] => format!("it is {state}; {what}"),
        problems => {
            let problems = printable(&problems.join("; "));
            format!("it is {state}; {what} (status: {problems})")
        }
    }
}

/// What this node's instances of a file system complain of; nothing where that cannot be had.
fn problems(fs: &Handle, client: &DaemonClient) -> Vec<String> {
    let instances = client.instances().unwrap_or_default();
    let of_fs = instances.into_iter().filter(|i| i.fs == *fs);
    of_fs.flat_map(|i| i.problems).collect()
}

fn would(request: &SnapshotInfo, context: &mut Context) -> Outcome {
    let (number, fs, state) = (request.number, &request.fs, request.state.name());
    if request.state.is_final() {
        let text = format!("snapshot {number} of {fs} is {state}: there is nothing to cancel");
        return Err(Error::new(ErrorKind::Conflict, text)
            .hint(format!("`cbfsctl snapshot show {fs}@{number}` tells more"))
            .into());
    }
    let output = &mut context.output;
    if output.is_json() {
        return output.json(request);
    }
    output.message(format_args!(
        "would cancel snapshot {number} of {fs}, which is {state}"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(state: &str) -> SnapshotInfo {
        serde_json::from_value(serde_json::json!({
            "fs": "home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3", "number": 3, "kind": "user", "state": state, "epoch": 1,
            "requested_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:01Z", "reason": "no room",
        }))
        .unwrap()
    }

    #[test]
    fn in_every_state_it_is_told_what_is_waited_for() {
        let states = ["queued", "collected", "writing", "written", "copying"];
        let told = states.map(|state| waits_for(&info(state), &[]));
        insta::assert_snapshot!(told.join("\n"), @r"
        it is queued; its attempt comes to the end of the step at hand
        it is collected; its attempt comes to the end of the step at hand
        it is writing; its attempt comes to the end of the step at hand
        it is written; its attempt comes to the end of the step at hand
        it is copying; its manifest may have been created, so the bucket is asked for that first
        ");
        let problems = ["no bucket".to_owned(), "no room".to_owned()];
        let told = waits_for(&info("writing"), &problems);
        assert!(told.ends_with(" (status: no bucket; no room)"), "{told}");
    }

    #[test]
    fn only_a_complete_one_was_withdrawn_too_late() {
        let ended = |state: &str| not_cancelled(&info(state));
        let complete = ended("complete");
        assert_eq!(complete.kind(), ErrorKind::Conflict);
        assert!(complete.to_string().contains("too late"), "{complete}");
        let failed = ended("failed");
        assert_eq!(failed.kind(), ErrorKind::Failed);
        assert!(!failed.to_string().contains("too late"), "{failed}");
        let why = std::error::Error::source(&failed).map(ToString::to_string);
        assert_eq!(why.as_deref(), Some("no room"));
    }
}
