//! `cbfsctl bucket …`: buckets themselves, whatever lies in them. No daemon is needed or asked.

mod probe;

use super::Context;
use crate::output::Outcome;
use clap::Subcommand;

/// Buckets (no daemon needed).
#[derive(Debug, Subcommand)]
pub(crate) enum BucketCommand {
    Probe(probe::Args),
}

/// Run it.
pub(crate) fn run(command: BucketCommand, context: &mut Context) -> Outcome {
    match command {
        BucketCommand::Probe(args) => probe::run(&args, context),
    }
}
