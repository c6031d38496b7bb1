//! `cbfsd`: the daemon as a program of its own. `cbfsctl mount` runs the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    cbfsd::daemon::main(std::env::args_os())
}
