//! The command line as a whole: global options and the list of commands.

#[cfg(test)]
mod prose;

use crate::commands::Command;
use clap::Parser;
use std::path::PathBuf;

/// CBFS: a POSIX file system that runs at local-disk speed and lives in a bucket.
#[derive(Debug, Parser)]
#[command(
    name = "cbfsctl",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "A first look (in a temporary directory, removed at the end):\n  cbfsctl demo\n\n\
        A file system of your own:\n  \
        mkdir -p /srv/bucket /mnt/home\n  \
        export CBFS_BUCKET=file:///srv/bucket\n  \
        cbfsctl fs create home\n  \
        cbfsctl mount home /mnt/home\n  \
        cbfsctl snapshot create home --wait\n\n\
        Exit codes: 0 ok, 1 failed, 2 usage, 3 partial or wait timed out, 4 daemon unreachable,\n\
        5 bucket unreachable, 10 not found, 11 conflict, 12 credentials, 13 format too new,\n\
        14 damage found, 130 interrupted."
)]
pub(crate) struct Cli {
    /// For all commands.
    #[command(flatten)]
    pub(crate) global: GlobalOptions,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GlobalOptions {
    /// Write JSON: data to stdout, the error to stderr.
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// No messages and no progress: only data, warnings and errors.
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// The daemon's socket [env: CBFS_SOCKET] [default: /run/cbfs/cbfsd.sock for root, else
    /// $XDG_RUNTIME_DIR/cbfs/cbfsd.sock].
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        help_heading = "Global options"
    )]
    pub(crate) socket: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} has no help");
                if sub.has_subcommands() {
                    walk(sub, &path);
                } else {
                    let after = sub
                        .get_after_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    assert!(after.contains(&path), "the help of `{path}` has no example");
                }
            }
        }
        walk(&Cli::command(), "cbfsctl");
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [
            "cbfsctl --json --socket /s status",
            "cbfsctl status --socket /s --json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.global.json && !cli.global.quiet);
            assert_eq!(cli.global.socket, [std::path::Path::new("/s")]);
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "cbfsctl",
            "cbfsctl fs",
            "cbfsctl fs create",
            "cbfsctl mount home",
            "cbfsctl snapshot create home --wait=sometime",
            "cbfsctl snapshot create home --wait=failed",
            "cbfsctl snapshot create home --timeout 5",
            "cbfsctl snapshot create home --wait --timeout -1",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
