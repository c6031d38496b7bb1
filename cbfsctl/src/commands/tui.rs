//! `cbfsctl tui`.

use super::Context;
use crate::output::Outcome;

/// Watch daemons live in the terminal, and act on what is seen.
///
/// Panes: file systems and instances, snapshots with their progress, KVS and proxy cache, throughput, epochs, events. `?`
/// shows all keys. State is told by sign and word, never by colour alone. What cannot be undone asks for a word to be
/// typed. It waits for a daemon that is away. See docs/tui.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl tui\n  \
    cbfsctl tui --socket /run/cbfs/cbfsd.sock --socket /tmp/second.sock\n  \
    cbfsctl tui --theme high-contrast\n  \
    NO_COLOR=1 cbfsctl tui --ascii")]
pub(crate) struct Args {
    #[command(flatten)]
    arguments: cbfs_tui::Arguments,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    cbfs_tui::run(&context.sockets, &args.arguments)?;
    Ok(())
}
