//! `cbfsctl snapshot …`: requests known to the daemon, and complete snapshots in the bucket.

mod cancel;
mod create;
mod delete;
mod diff;
mod export;
mod hold;
mod list;
mod marked;
mod record;
mod release;
mod request;
mod retry;
mod show;
mod verify;
mod watch;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// Snapshots: make them, follow them, look at them.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    Create(create::Args),
    List(list::Args),
    Show(show::Args),
    Diff(diff::Args),
    Export(export::Args),
    Verify(verify::Args),
    Watch(watch::Args),
    Cancel(cancel::Args),
    Retry(retry::Args),
    Delete(delete::Args),
    Hold(hold::Args),
    Release(release::Args),
}

/// Run it.
pub(crate) fn run(command: SnapshotCommand, context: &mut Context) -> Outcome {
    match command {
        SnapshotCommand::Create(args) => create::run(&args, context),
        SnapshotCommand::List(args) => list::run(&args, context),
        SnapshotCommand::Show(args) => show::run(&args, context),
        SnapshotCommand::Diff(args) => diff::run(&args, context),
        SnapshotCommand::Export(args) => export::run(&args, context),
        SnapshotCommand::Verify(args) => verify::run(&args, context),
        SnapshotCommand::Watch(args) => watch::run(&args, context),
        SnapshotCommand::Cancel(args) => cancel::run(&args, context),
        SnapshotCommand::Retry(args) => retry::run(&args, context),
        SnapshotCommand::Delete(args) => delete::run(&args, context),
        SnapshotCommand::Hold(args) => hold::run(&args, context),
        SnapshotCommand::Release(args) => release::run(&args, context),
    }
}
