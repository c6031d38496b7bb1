//! `cbfsctl util cbfsd`: the daemon, from this same binary. This is the one place where the
//! command line touches the daemon's crate.

use crate::output::Outcome;
use cbfs_core::error::Context;
use std::ffi::OsString;
use std::path::Path;
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

/// Whether the program was called as the daemon: a package installs `cbfsd` as another name of this program.
/// (`cbfsctl mount` starts it under that name too, but as `util cbfsd`.)
pub(crate) fn is_called(args: &[OsString]) -> bool {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == "cbfsd") && args.get(1).is_none_or(|word| word != "util")
}

/// Be the daemon; `args` begins with the program's name.
pub(crate) fn run_as_called(args: &[OsString]) -> ExitCode {
    cbfsd::daemon::main(args.iter().cloned())
}

/// The daemon's own command line, for its man page.
pub(crate) fn command() -> clap::Command {
    cbfsd::daemon::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_daemon_by_its_name() {
        let called = |line: &str| {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            is_called(&args)
        };
        assert!(called("/usr/bin/cbfsd") && called("cbfsd --log-json"));
        assert!(!called("cbfsd util cbfsd --detach") && !called("cbfsctl status"));
    }
}
