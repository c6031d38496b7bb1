//! The command line of CBFS. One file per subcommand under `commands/`: its `Args`, whose doc is
//! the help, and its `run`. Everything else here serves several of them.
//!
//! Rules that all commands share: data goes to stdout, messages, progress and errors to stderr;
//! with `--json` both are JSON. The exit code is that of [`cbfs_core::ErrorKind`]; 130 after
//! Ctrl-C. No command undoes work on Ctrl-C, except `demo`, which removes what it made.

mod bucket_option;
mod bucket_traffic;
mod cli;
mod commands;
mod completion;
mod confirmation;
mod daemon_process;
mod error_report;
mod fuse_preflight;
mod interrupt;
mod log_text;
mod manual;
mod mount_helper;
mod output;
mod path_text;
mod progress;
mod published_history;
mod quantities;
mod snapshot_in_bucket;
mod snapshot_watch;
mod table;
mod target;

use cbfs_client as client;
use clap::Parser;
use cli::Cli;
use output::{Output, Stop};
use std::ffi::OsString;
use std::process::ExitCode;

/// Exit code after Ctrl-C: 128 + SIGINT, as shells tell it.
const EXIT_INTERRUPTED: u8 = 130;

/// Exit code after a panic, as Rust's own.
const EXIT_PANICKED: u8 = 101;

/// Stack of a command, in bytes: as the first thread has.
const STACK: usize = 8 << 20;

/// Run the command line `args` (the first is the program's name) and tell the exit code.
///
/// Errors are reported on stderr before it returns. A reader of stdout that went away
/// (`cbfsctl … | head`) is no error: the command ends quietly.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = commands::tui_as_called(args.into_iter().collect());
    if let Some(code) = completion::answer(&args) {
        return code;
    }
    if commands::is_called_as_daemon(&args) {
        return commands::run_daemon(&args);
    }
    if mount_helper::is_called(&args) {
        return mount_helper::run(&args);
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(refusal) => return error_report::usage(&refusal, &args),
    };
    if cli.command.is_daemon() {
        return command(cli);
    }
    // The kernel hands a signal to the first thread. One that hangs in a file system would never take it, and Ctrl-C
    // would be lost; so that thread does nothing but wait.
    let worker = std::thread::Builder::new()
        .name("command".to_owned())
        .stack_size(STACK)
        .spawn(move || command(cli));
    match worker.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        Ok(Err(_)) => ExitCode::from(EXIT_PANICKED), // it has said so
        Err(e) => {
            let error = cbfs_core::Error::failed("a thread could not be started").because(e);
            Output::standard(false, false).error(&error);
            ExitCode::FAILURE
        }
    }
}

fn command(cli: Cli) -> ExitCode {
    let mut output = Output::standard(cli.global.json, cli.global.quiet);
    // What `doctor` finds wrong with the settings is one of its findings.
    if let Err(error) = cbfs_core::configuration::load()
        && !cli.command.looks_at_settings()
    {
        output.error(&error);
        return ExitCode::from(error.kind().exit_code());
    }
    let mut context = commands::Context::new(output, &cli.global);
    match commands::run(cli.command, &mut context) {
        Ok(code) => code,
        Err(Stop::ClosedPipe) => ExitCode::SUCCESS,
        Err(Stop::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(Stop::Error(error)) => {
            let code = error.kind().exit_code();
            context
                .output
                .error(&error_report::with_general_hint(error));
            ExitCode::from(code)
        }
    }
}
