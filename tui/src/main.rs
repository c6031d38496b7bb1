//! The `cbfs-tui` binary: see the library of the same name.

use cbfs_tui::Arguments;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(
    name = "cbfs-tui",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  cbfs-tui\n  cbfs-tui --socket /run/cbfs/cbfsd.sock --socket /tmp/other.sock\n  \
                  cbfs-tui --theme high-contrast"
)]
struct CommandLine {
    /// A daemon's socket; may be given several times [env: CBFS_SOCKET] [default:
    /// /run/cbfs/cbfsd.sock for root, else $XDG_RUNTIME_DIR/cbfs/cbfsd.sock].
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let shown =
        cbfs_core::configuration::load().and_then(|_| cbfs_tui::run(&line.socket, &line.arguments));
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.causes() {
                eprintln!("  because: {cause}");
            }
            if let Some(hint) = error.hint_text() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}
