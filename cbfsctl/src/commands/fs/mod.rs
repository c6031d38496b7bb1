//! `cbfsctl fs …`: file systems, straight in the bucket or in a state directory. No daemon is needed or
//! asked.

mod check;
mod create;
mod list;
mod set;
mod show;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// File systems in a bucket, and what a node holds of them (no daemon needed).
#[derive(Debug, Subcommand)]
pub(crate) enum FsCommand {
    Create(create::Args),
    List(list::Args),
    Show(show::Args),
    Set(set::Args),
    Check(check::Args),
}

/// Run it.
pub(crate) fn run(command: FsCommand, context: &mut Context) -> Outcome {
    match command {
        FsCommand::Create(args) => create::run(&args, context),
        FsCommand::List(args) => list::run(&args, context),
        FsCommand::Show(args) => show::run(&args, context),
        FsCommand::Set(args) => set::run(&args, context),
        FsCommand::Check(args) => check::run(&args, context),
    }
}
