//! `cbfsctl daemon …`: this node's daemon itself.

mod reload;
mod start;
mod stop;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// The daemon of this node: start it, let it read its settings, stop it in order.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    Start(start::Args),
    Reload(reload::Args),
    Stop(stop::Args),
}

/// Run it.
pub(crate) fn run(command: DaemonCommand, context: &mut Context) -> Outcome {
    match command {
        DaemonCommand::Start(args) => start::run(&args, context),
        DaemonCommand::Reload(args) => reload::run(&args, context),
        DaemonCommand::Stop(args) => stop::run(&args, context),
    }
}
