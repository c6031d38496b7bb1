//! `cbfsctl util …`: what packages and CBFS itself need; hidden from the help.

mod completion;
mod daemon;
mod dump;
mod man;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;
use std::process::ExitCode;

pub(crate) use daemon::{
    command as daemon_command, is_called as is_called_as_daemon, run_as_called as run_daemon,
};

/// For packages and for CBFS itself.
#[derive(Debug, Subcommand)]
pub(crate) enum UtilCommand {
    Cbfsd(daemon::Args),
    Completion(completion::Args),
    Man(man::Args),
    Dump(dump::Args),
}

/// Run it.
pub(crate) fn run(command: UtilCommand, context: &mut Context) -> Outcome<ExitCode> {
    match command {
        UtilCommand::Cbfsd(args) => return daemon::run(&args),
        UtilCommand::Completion(args) => completion::run(&args, context)?,
        UtilCommand::Man(args) => man::run(&args, context)?,
        UtilCommand::Dump(args) => dump::run(&args, context)?,
    }
    Ok(ExitCode::SUCCESS)
}
