//! Completion in shells. The scripts in `completions/` only ask this program, which answers what fits
//! on the command line so far: commands and options as clap knows them, and live what exists on this
//! node and in the bucket. So a new command or option is completed without any change here, and so
//! is an argument whose value name (`FS`, `FS@SNAP`, `DIR|FS`) says what it stands for.
//!
//! The protocol is that of clap_complete's engine, with [`VARIABLE`] in the place of `COMPLETE`. A
//! completion never fails and never waits long: what is not known within [`candidates::PATIENCE`] is not offered.

mod candidates;
mod scripts;

pub(crate) use scripts::{SHELLS, script};

use crate::cli::Cli;
use candidates::Candidates;
use clap::builder::ValueHint;
use clap::{Arg, Command, CommandFactory};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Set by the scripts to the name of the shell that asks.
const VARIABLE: &str = "CBFSCTL_COMPLETE";

/// Answer a shell; `None` when none asks and the command line is to be run.
pub(crate) fn answer(args: &[OsString]) -> Option<ExitCode> {
    std::env::var_os(VARIABLE).filter(|shell| !shell.is_empty())?;
    // Socket and bucket may stand there. A file that cannot be understood is told by the command itself.
    let _ = cbfs_core::configuration::load();
    let words = args.to_vec();
    let asked = CompleteEnv::with_factory(move || command(&words))
        .var(VARIABLE)
        .try_complete(
            args.iter().cloned(),
            std::env::current_dir().ok().as_deref(),
        );
    match asked {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(e) => {
            let _ = e.print(); // or nobody listens
            Some(ExitCode::FAILURE)
        }
    }
}

/// The command line, with completers where values are live. `words` is what stands on the line:
/// `--bucket` and `--socket` are taken from there.
fn command(words: &[OsString]) -> Command {
    with_completers(Cli::command(), &Candidates::of(words))
}

fn with_completers(command: Command, candidates: &Candidates) -> Command {
    command
        .mut_args(|arg| with_completer(arg, candidates))
        .mut_subcommands(|sub| with_completers(sub, candidates))
}

fn with_completer(arg: Arg, candidates: &Candidates) -> Arg {
    let names = arg.get_value_names().unwrap_or_default();
    let name = names.first().map(|n| n.as_str().to_owned());
    let Some(wanted) = name.as_deref().and_then(Wanted::by_value_name) else {
        return arg;
    };
    let candidates = candidates.clone();
    // Candidates of its own, so no files in the current directory.
    let arg = arg.value_hint(ValueHint::Other);
    arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
        candidates.for_value(wanted, &typed.to_string_lossy())
    }))
}

/// What an argument stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    FileSystem,
    Snapshot,
    FileSystemOrSnapshot,
    FileSystemOrMountPoint,
    Bucket,
    SnapshotState,
}

impl Wanted {
    fn by_value_name(name: &str) -> Option<Wanted> {
        match name {
            "URL" => return Some(Wanted::Bucket),
            "STATE" => return Some(Wanted::SnapshotState),
            _ => {}
        }
        let words: Vec<&str> = name.split(|c: char| !c.is_ascii_uppercase()).collect();
        let has = |word| words.contains(&word);
        match (has("FS") || has("HANDLE"), has("SNAP"), has("DIR")) {
            (true, false, false) => Some(Wanted::FileSystem),
            (true, false, true) => Some(Wanted::FileSystemOrMountPoint),
            (true, true, _) if name.contains("[@") => Some(Wanted::FileSystemOrSnapshot),
            (true, true, _) => Some(Wanted::Snapshot),
            (false, ..) => None,
        }
    }
}

/// A candidate with a word on what it is.
fn candidate(value: String, help: String) -> CompletionCandidate {
    CompletionCandidate::new(value).help((!help.is_empty()).then(|| help.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_names_say_what_is_completed() {
        for (name, wanted) in [
            ("FS", Some(Wanted::FileSystem)),
            ("HANDLE", Some(Wanted::FileSystem)),
            ("DIR|FS", Some(Wanted::FileSystemOrMountPoint)),
            ("FS|DIR", Some(Wanted::FileSystemOrMountPoint)),
            ("FS[@SNAP]", Some(Wanted::FileSystemOrSnapshot)),
            ("FS@SNAP", Some(Wanted::Snapshot)),
            ("[FS@]SNAP", Some(Wanted::Snapshot)),
            ("URL", Some(Wanted::Bucket)),
            ("STATE", Some(Wanted::SnapshotState)),
            ("DIR", None),
            ("FILE", None),
            ("SIZE", None),
        ] {
            assert_eq!(Wanted::by_value_name(name), wanted, "{name}");
        }
    }

    #[test]
    fn the_line_with_completers_is_still_the_line() {
        command(&[]).debug_assert();
    }
}
