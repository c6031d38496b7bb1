//! `cbfsctl instance …`: the instances of this node's daemon.

mod delete;
mod demote;
mod export;
mod list;
mod show;

pub(super) use list::{instance_table, problem_lines};

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// Instances: the file systems on this node.
#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    List(list::Args),
    Show(show::Args),
    Export(export::Args),
    Demote(demote::Args),
    Delete(delete::Args),
}

/// Run it.
pub(crate) fn run(command: InstanceCommand, context: &mut Context) -> Outcome {
    match command {
        InstanceCommand::List(args) => list::run(&args, context),
        InstanceCommand::Show(args) => show::run(&args, context),
        InstanceCommand::Export(args) => export::run(&args, context),
        InstanceCommand::Demote(args) => demote::run(&args, context),
        InstanceCommand::Delete(args) => delete::run(&args, context),
    }
}
