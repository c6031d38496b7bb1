//! `cbfsctl snapshot create`.

use super::super::Context;
use crate::client::DaemonClient;
use crate::interrupt::{Interrupt, Unheard};
use crate::output::{Outcome, Stop, printable};
use crate::quantities;
use crate::snapshot_watch::{self, Watch};
use crate::target;
use cbfs_core::api::{Role, SnapshotRequest};
use cbfs_core::handle::{Handle, validate_snapshot_name};
use cbfs_core::snapshot::{SnapshotKind, SnapshotState};
use serde::Serialize;
use std::time::Duration;

/// Ask for a snapshot of a file system mounted here, and print its number.
///
/// Returns as soon as the request is safe on disk. What the snapshot holds is the file system
/// as of its state `collected`: wait for that before changing things that must not be in it,
/// and for `complete` before relying on it when this machine is lost.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl snapshot create home\n  \
    cbfsctl snapshot create home --name before-upgrade --wait --timeout 600")]
pub(crate) struct Args {
    /// The file system: TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    /// A name, unique within the file system; FS@NAME then means this snapshot.
    #[arg(long)]
    name: Option<String>,
    /// Wait until it has come this far: queued, collected, writing, written, copying or complete.
    #[arg(long, value_name = "STATE", num_args = 0..=1, require_equals = true,
        default_missing_value = "complete", value_parser = state)]
    wait: Option<SnapshotState>,
    /// Wait at most so many seconds, then exit with 3; the snapshot goes on.
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Say what would be asked for, and ask for nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    if args.dry_run {
        return would(args, &client, context);
    }
    let request = SnapshotRequest {
        fs: args.fs.clone(),
        name: args.name.clone(),
        kind: SnapshotKind::User,
    };
    let interrupt =
        Interrupt::install("not waiting any longer; the snapshot goes on", Unheard::End)?;
    let asked = interrupt.during(|| client.create_snapshot(&request));
    if matches!(asked, Err(Stop::Interrupted)) {
        context.output.warning(format_args!(
            "the daemon may still take the request: `cbfsctl snapshot list {}` tells",
            printable(&args.fs)
        ));
    }
    let info = asked?;
    let output = &mut context.output;
    let Some(until) = args.wait else {
        return if output.is_json() {
            output.json(&info)
        } else {
            output.line(info.number)
        };
    };
    if !output.is_json() {
        output.line(info.number)?; // before waiting: a script may go on with it
    }
    let fs = info.fs.to_string();
    let (number, timeout) = (info.number, args.timeout);
    let watch = Watch {
        fs: &fs,
        number,
        until,
        timeout,
        stream: false,
    };
    let info = snapshot_watch::follow(watch, &client, &interrupt, output)?;
    if output.is_json() {
        output.json(&info)
    } else {
        Ok(())
    }
}

fn would(args: &Args, client: &DaemonClient, context: &mut Context) -> Outcome {
    if let Some(name) = &args.name {
        validate_snapshot_name(name)?;
    }
    let mut masters = client.instances()?;
    masters.retain(|i| i.role == Role::Master);
    let fs = target::handle_on_this_node(&args.fs, &masters)?;
    let queued = client.snapshots(&fs.to_string())?;
    let queued = queued.iter().filter(|r| !r.state.is_final()).count();
    let changes = masters
        .iter()
        .find(|i| i.fs == fs)
        .map_or(0, |i| i.unpublished);
    if context.output.is_json() {
        return context.output.json(&Plan {
            dry_run: true,
            fs,
            name: args.name.as_deref(),
            unpublished: changes,
            queued,
        });
    }
    let name = match &args.name {
        Some(name) => format!(" named {name:?}"),
        None => String::new(),
    };
    context.output.message(format_args!(
        "would ask for a snapshot of {fs}{name}: {} since the last, {} before it in the queue",
        quantities::plural(changes, "change", "changes"),
        quantities::count(queued as u64)
    ));
    Ok(())
}

/// What `--dry-run --json` tells.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    dry_run: bool,
    fs: Handle,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    unpublished: u64,
    queued: usize,
}

/// A state that can be waited for.
fn state(text: &str) -> Result<SnapshotState, String> {
    match SnapshotState::from_name(text) {
        Some(SnapshotState::Failed | SnapshotState::Cancelled) => {
            Err("waiting ends there in any case".to_owned())
        }
        Some(state) => Ok(state),
        None => Err(
            "the states are queued, collected, writing, written, copying and complete".to_owned(),
        ),
    }
}

/// A time in seconds, also with a fraction.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Args {
        Line::try_parse_from(["create"].into_iter().chain(line.split(' ')))
            .unwrap()
            .args
    }

    #[test]
    fn waiting_is_for_completion_unless_a_state_is_given() {
        assert_eq!(parsed("home").wait, None);
        assert_eq!(parsed("--wait home").wait, Some(SnapshotState::Complete));
        assert_eq!(
            parsed("home --wait=collected").wait,
            Some(SnapshotState::Collected)
        );
        assert_eq!(
            parsed("home --wait --timeout 0.5").timeout,
            Some(Duration::from_millis(500))
        );
    }
}
