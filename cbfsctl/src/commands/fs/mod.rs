//! `cbfsctl fs …`: file systems, straight in the bucket or in a state directory. No daemon is needed; where
//! one runs it is told of what concerns it.

mod check;
mod create;
mod delete;
mod list;
mod set;
mod show;
mod undelete;

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
    Delete(delete::Args),
    Undelete(undelete::Args),
    Check(check::Args),
}

/// Run it.
pub(crate) fn run(command: FsCommand, context: &mut Context) -> Outcome {
    match command {
        FsCommand::Create(args) => create::run(&args, context),
        FsCommand::List(args) => list::run(&args, context),
        FsCommand::Show(args) => show::run(&args, context),
        FsCommand::Set(args) => set::run(&args, context),
        FsCommand::Delete(args) => delete::run(&args, context),
        FsCommand::Undelete(args) => undelete::run(&args, context),
        FsCommand::Check(args) => check::run(&args, context),
    }
}
