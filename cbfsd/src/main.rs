//! `cbfsd`: the daemon as a program of its own. `cbfsctl mount` runs the same code.

use std::process::ExitCode;

/// glibc keeps an arena per thread that a snapshot ever used; this one gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cbfsd::daemon::main(std::env::args_os())
}
