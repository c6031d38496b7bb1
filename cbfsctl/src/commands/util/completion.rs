//! `cbfsctl util completion`.

use crate::commands::Context;
use crate::completion;
use crate::output::Outcome;

/// Print the completion script of a shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl util completion bash > /etc/bash_completion.d/cbfsctl\n  \
    source <(cbfsctl util completion bash)"
)]
pub(crate) struct Args {
    /// bash, zsh or fish.
    #[arg(value_name = "SHELL", value_parser = completion::SHELLS.map(|(shell, _)| shell))]
    shell: String,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let script = completion::script(&args.shell)?;
    context.output.line(script.trim_end())
}
