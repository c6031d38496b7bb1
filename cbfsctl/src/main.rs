//! The `cbfsctl` binary: see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    cbfsctl::run(std::env::args_os())
}
