//! `cbfsctl epoch …`: who was master when, straight from the bucket; and becoming master.

mod list;
mod promote;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// Epochs: the tenures of masters.
#[derive(Debug, Subcommand)]
pub(crate) enum EpochCommand {
    List(list::Args),
    Promote(promote::Args),
}

/// Run it.
pub(crate) fn run(command: EpochCommand, context: &mut Context) -> Outcome {
    match command {
        EpochCommand::List(args) => list::run(&args, context),
        EpochCommand::Promote(args) => promote::run(&args, context),
    }
}
