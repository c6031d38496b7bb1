//! `cbfsctl fs …`: file systems, straight in the bucket. No daemon is needed or asked.

mod create;
mod list;
mod set;
mod show;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// File systems in a bucket (no daemon needed).
#[derive(Debug, Subcommand)]
pub(crate) enum FsCommand {
    Create(create::Args),
    List(list::Args),
    Show(show::Args),
    Set(set::Args),
}

/// Run it.
pub(crate) fn run(command: FsCommand, context: &mut Context) -> Outcome {
    match command {
        FsCommand::Create(args) => create::run(&args, context),
        FsCommand::List(args) => list::run(&args, context),
        FsCommand::Show(args) => show::run(&args, context),
        FsCommand::Set(args) => set::run(&args, context),
    }
}
