//! The subcommands, one file each.

mod bucket;
mod daemon;
mod demo;
mod doctor;
mod epoch;
mod fs;
mod index;
mod instance;
mod log;
mod mount;
mod slave;
mod snapshot;
mod status;
mod tui;
mod umount;
mod util;
mod warm;

pub(crate) use tui::{NAME as LIVE_VIEW, as_called as tui_as_called};
pub(crate) use util::{daemon_command, is_called_as_daemon, run_daemon};

use crate::cli::GlobalOptions;
use crate::client::DaemonClient;
use crate::output::{Outcome, Output};
use cbfs_core::{Error, ErrorKind, Result, environment};
use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

/// All commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(subcommand)]
    Fs(fs::FsCommand),
    Mount(mount::Args),
    Umount(umount::Args),
    #[command(subcommand)]
    Instance(instance::InstanceCommand),
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    #[command(subcommand)]
    Slave(slave::SlaveCommand),
    Log(log::Args),
    Warm(warm::Args),
    #[command(subcommand)]
    Index(index::IndexCommand),
    #[command(subcommand)]
    Epoch(epoch::EpochCommand),
    #[command(subcommand)]
    Bucket(bucket::BucketCommand),
    Status(status::Args),
    Tui(tui::Args),
    Doctor(doctor::Args),
    #[command(subcommand)]
    Daemon(daemon::DaemonCommand),
    Demo(demo::Args),
    #[command(subcommand, hide = true)]
    Util(util::UtilCommand),
}

impl Command {
    /// Whether it may be the daemon, which is known by the name of its first thread.
    pub(crate) fn is_daemon(&self) -> bool {
        matches!(self, Command::Util(_))
    }

    /// Whether it says itself what is wrong with the settings.
    pub(crate) fn looks_at_settings(&self) -> bool {
        matches!(self, Command::Doctor(_))
    }
}

/// What a command works with.
pub(crate) struct Context {
    /// Where its words go.
    pub(crate) output: Output,
    /// The daemon's socket.
    pub(crate) socket: PathBuf,
    /// All sockets that were given.
    pub(crate) sockets: Vec<PathBuf>,
}

impl Context {
    /// From the global options, the environment, and the settings that were loaded.
    pub(crate) fn new(output: Output, global: &GlobalOptions) -> Context {
        let sockets = global.socket.clone();
        let socket = sockets.first().cloned();
        let socket = socket.unwrap_or_else(environment::socket);
        Context {
            output,
            socket,
            sockets,
        }
    }

    /// A client of this node's daemon.
    pub(crate) fn client(&self) -> Result<DaemonClient> {
        DaemonClient::new(&self.socket)
    }
}

/// Run `command`; the exit code is 0 unless it is the daemon itself, or findings of `doctor`.
pub(crate) fn run(command: Command, context: &mut Context) -> Outcome<ExitCode> {
    if context.sockets.len() > 1 && !matches!(command, Command::Tui(_)) {
        let error = Error::new(ErrorKind::Usage, "more than one --socket was given");
        return Err(error
            .hint("only `cbfsctl tui` watches several daemons")
            .into());
    }
    match command {
        Command::Fs(command) => fs::run(command, context)?,
        Command::Mount(args) => mount::run(&args, context)?,
        Command::Umount(args) => umount::run(&args, context)?,
        Command::Instance(command) => instance::run(command, context)?,
        Command::Snapshot(command) => snapshot::run(command, context)?,
        Command::Slave(command) => slave::run(command, context)?,
        Command::Log(args) => log::run(&args, context)?,
        Command::Warm(args) => warm::run(&args, context)?,
        Command::Index(command) => index::run(command, context)?,
        Command::Epoch(command) => epoch::run(command, context)?,
        Command::Bucket(command) => bucket::run(command, context)?,
        Command::Status(args) => status::run(&args, context)?,
        Command::Tui(args) => tui::run(&args, context)?,
        Command::Doctor(args) => return doctor::run(&args, context),
        Command::Daemon(command) => daemon::run(command, context)?,
        Command::Demo(args) => demo::run(&args, context)?,
        Command::Util(command) => return util::run(command, context),
    }
    Ok(ExitCode::SUCCESS)
}
