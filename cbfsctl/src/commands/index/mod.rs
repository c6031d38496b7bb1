//! `cbfsctl index …`: the layers and TOCs of a snapshot.

mod rebuild;
mod show;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// The index of a snapshot: look at it, make it anew.
#[derive(Debug, Subcommand)]
pub(crate) enum IndexCommand {
    Show(show::Args),
    Rebuild(rebuild::Args),
}

/// Run it.
pub(crate) fn run(command: IndexCommand, context: &mut Context) -> Outcome {
    match command {
        IndexCommand::Show(args) => show::run(&args, context),
        IndexCommand::Rebuild(args) => rebuild::run(&args, context),
    }
}
