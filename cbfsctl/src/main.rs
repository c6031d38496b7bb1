//! The `cbfsctl` binary: see the library of the same name.

use std::process::ExitCode;

/// glibc keeps an arena per thread that a snapshot ever used; this one gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cbfsctl::run(std::env::args_os())
}
