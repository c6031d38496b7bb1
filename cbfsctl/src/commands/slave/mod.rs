//! `cbfsctl slave …`: who shows which snapshot.

mod list;
mod refresh;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// Slaves: read-only mounts of snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SlaveCommand {
    List(list::Args),
    Refresh(refresh::Args),
}

/// Run it.
pub(crate) fn run(command: SlaveCommand, context: &mut Context) -> Outcome {
    match command {
        SlaveCommand::List(args) => list::run(&args, context),
        SlaveCommand::Refresh(args) => refresh::run(&args, context),
    }
}
