//! `cbfsctl util …`: what packages and CBFS itself need; hidden from the help.

mod daemon;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;
use std::process::ExitCode;

/// For packages and for CBFS itself.
#[derive(Debug, Subcommand)]
pub(crate) enum UtilCommand {
    Cbfsd(daemon::Args),
}

/// Run it.
pub(crate) fn run(command: UtilCommand, _: &mut Context) -> Outcome<ExitCode> {
    match command {
        UtilCommand::Cbfsd(args) => daemon::run(&args),
    }
}
