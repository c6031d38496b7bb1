//! `cbfsctl snapshot watch`.

use super::super::Context;
use super::create::seconds;
use crate::interrupt::{Interrupt, Unheard};
use crate::output::Outcome;
use crate::snapshot_watch::{self, Watch, in_words};
use crate::target;
use cbfs_core::handle::{FsAndSnapshot, SnapshotSelector};
use cbfs_core::snapshot::SnapshotState;
use cbfs_core::{Error, ErrorKind};
use std::time::Duration;

/// Follow a snapshot request until it is complete or has failed (then: exit 1).
///
/// On a terminal its progress is one live line, elsewhere every change of its state is a line.
/// With --json each change is a JSON line on stdout. Ctrl-C ends the watching (exit 130), not
/// the snapshot.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl snapshot watch home\n  cbfsctl snapshot watch home@12 --json"
)]
pub(crate) struct Args {
    /// The request: FS@12 or FS@NAME; FS alone or FS@latest: the last one.
    #[arg(value_name = "FS[@SNAP]")]
    snapshot: String,
    /// Watch at most so many seconds, then exit with 3; the snapshot goes on.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let target: FsAndSnapshot = args.snapshot.parse()?;
    let wanted = target.snapshot.unwrap_or(SnapshotSelector::Latest);
    let client = context.client()?;
    let fs = target::handle_on_this_node(target.fs.as_str(), &client.instances()?)?.to_string();
    let requests = client.snapshots(&fs)?;
    let request = if wanted == SnapshotSelector::Latest {
        requests.into_iter().max_by_key(|r| (r.epoch, r.number))
    } else {
        requests
            .into_iter()
            .filter(|r| target::is_request(r, &wanted))
            .max_by_key(|r| r.epoch)
    };
    let Some(request) = request else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("this node has no request {fs}@{wanted}"),
        )
        .hint(format!("`cbfsctl snapshot list {fs}` lists them"))
        .into());
    };
    let interrupt = Interrupt::install(
        "not watching any longer; the snapshot goes on",
        Unheard::End,
    )?;
    let watch = Watch {
        fs: &fs,
        number: request.number,
        until: SnapshotState::Complete,
        timeout: args.timeout,
        stream: context.output.is_json(),
    };
    let output = &mut context.output;
    let info = snapshot_watch::follow(watch, &client, &interrupt, output)?;
    if output.err_is_terminal() {
        output.message(in_words(&info, Duration::ZERO, ""));
    }
    Ok(())
}
