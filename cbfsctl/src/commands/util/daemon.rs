//! `cbfsctl util cbfsd`: the daemon, from this same binary. This is the one place where the
//! command line touches the daemon's crate.

use crate::output::Outcome;
use cbfs_core::error::Context;
use std::ffi::OsString;
use std::process::ExitCode;

/// Run the daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the session of the terminal first, so that neither Ctrl-C nor a closed terminal
    /// reaches the daemon.
    #[arg(long)]
    detach: bool,
    /// Arguments of `cbfsd`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Run it; returns when the daemon ends, with its exit code.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    if args.detach {
        match rustix::process::setsid() {
            // EPERM: it leads a session or process group already (started by setsid(1), say).
            Ok(_) | Err(rustix::io::Errno::PERM) => {}
            Err(e) => return Err(e).context(|| "the daemon could not detach".to_owned())?,
        }
    }
    let words = std::iter::once(OsString::from("cbfsd")).chain(args.args.iter().cloned());
    Ok(cbfsd::daemon::main(words))
}

/// The daemon's own command line, for its man page.
pub(crate) fn command() -> clap::Command {
    cbfsd::daemon::command()
}
