//! `cbfsctl daemon reload`.

use crate::commands::Context;
use crate::output::{Outcome, printable};

/// Let the daemon read its settings (cbfsd.toml) anew, as SIGHUP does.
///
/// A file that cannot be understood changes nothing and is told. Mounts and snapshots go on meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl daemon reload")]
pub(crate) struct Args {}

/// Run it.
pub(crate) fn run(_: &Args, context: &mut Context) -> Outcome {
    let reloaded = context.client()?.reload()?;
    let output = &mut context.output;
    if output.is_json() {
        return output.json(&reloaded);
    }
    match &reloaded.file {
        Some(file) => output.message(format_args!("read {}", printable(&file.to_string_lossy()))),
        None => output.message("there is no settings file: the defaults hold"),
    }
    for key in &reloaded.applied {
        output.line(format_args!("{} holds now", printable(key)))?;
    }
    for key in &reloaded.needs_restart {
        output.line(format_args!("{} holds after a restart", printable(key)))?;
    }
    Ok(())
}
