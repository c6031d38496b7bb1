//! `cbfsctl daemon start`.

use crate::commands::Context;
use crate::daemon_process::{self, DaemonPlace};
use crate::interrupt::Interrupt;
use crate::output::{Outcome, printable};

/// Start the daemon when none runs, and wait until its mounts are back.
///
/// `cbfsctl mount` does this by itself; where systemd looks after the daemon, use `systemctl start cbfsd`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl daemon start")]
pub(crate) struct Args {}

/// Run it.
pub(crate) fn run(_: &Args, context: &mut Context) -> Outcome {
    let place = DaemonPlace::of_this_node(&context.socket)?;
    let client = context.client()?;
    // Not installed: Ctrl-C ends this command at once, the daemon goes on.
    let (status, started) = daemon_process::ensure_running(&place, &client, &Interrupt::default())?;
    if context.output.is_json() {
        return context.output.json(&status);
    }
    match started {
        Some(daemon) => context.output.message(format_args!(
            "started the daemon (pid {}, log {})",
            daemon.pid(),
            printable(&place.log().to_string_lossy())
        )),
        None => context
            .output
            .message(format_args!("the daemon runs already (pid {})", status.pid)),
    }
    Ok(())
}
