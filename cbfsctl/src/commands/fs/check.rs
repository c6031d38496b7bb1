//! `cbfsctl fs check`.

use super::super::Context;
use crate::output::{Outcome, printable};
use crate::quantities;
use cbfs_core::error::Context as _;
use cbfs_core::handle::{self, FsAndSnapshot, Handle};
use cbfs_core::{Error, ErrorKind, Result, environment};
use cbfsd::check::{Checked, Report, Severity};
use std::path::{Path, PathBuf};

/// Check what this node holds of a file system: journal, key-value store, backing files.
///
/// Nothing is changed. The daemon must not run on it. Exit code 0: nothing is wrong; 14: damage was
/// found; 11: it is in use.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl fs check --local home\n  \
    cbfsctl fs check --local /var/lib/cbfs/instances/home-0f8b…\n\n\
    `note` is what a crash left behind and the next start deals with; `damage` is the rest.")]
pub(crate) struct Args {
    /// The state directory of an instance, or a file system of this node (TAG, UUID prefix or full handle;
    /// FS@NUMBER for a slave).
    #[arg(long, value_name = "DIR|FS")]
    local: String,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let dir = instance_dir(&args.local)?;
    let report = cbfsd::check::check(&dir)?;
    if context.output.is_json() {
        context.output.json(&report)?;
    } else {
        tell(&report, context)?;
    }
    match report.damage {
        0 => Ok(()),
        count => {
            let found = quantities::plural(count, "thing is", "things are");
            let text = format!("{found} wrong in {}", dir.display());
            Err(Error::damage(text)
                .hint("copy the directory aside before anything else; see docs/recovery.md")
                .into())
        }
    }
}

fn tell(report: &Report, context: &mut Context) -> Outcome {
    let output = &mut context.output;
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Damage => "damage",
            Severity::Note => "note  ",
        };
        output.line(format_args!(
            "{severity}  {}",
            printable(&finding.to_string())
        ))?;
        if let Some(file) = &finding.file {
            let file = file.strip_prefix(&report.dir).unwrap_or(file);
            output.line(format_args!(
                "        in    {}",
                printable(&file.to_string_lossy())
            ))?;
        }
        if finding.severity == Severity::Damage {
            output.line(format_args!("        hint  {}", finding.hint))?;
        }
    }
    let more: u64 = report.more.values().sum();
    if more > 0 {
        output.line(format_args!(
            "        and {} more of these kinds",
            quantities::count(more)
        ))?;
    }
    output.line(summary(&report.checked))?;
    let verdict = match (report.damage, report.complete) {
        (0, true) => "nothing is wrong",
        (0, false) | (_, true) => "damage was found",
        (_, false) => "damage was found; names and contents could not be checked",
    };
    output.line(verdict)
}

fn summary(checked: &Checked) -> String {
    format!(
        "checked {}, {}, {} in files, {}, {}",
        quantities::plural(checked.inodes, "inode", "inodes"),
        quantities::plural(checked.names, "name", "names"),
        quantities::bytes(checked.bytes),
        quantities::plural(checked.backing_files, "backing file", "backing files"),
        quantities::plural(checked.segments, "journal segment", "journal segments"),
    )
}

/// A path, or the instance on this node that the words mean: the master, else the only slave.
fn instance_dir(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    if text.contains('/') || path.join("instance.toml").exists() {
        return Ok(path.to_owned());
    }
    let wanted: FsAndSnapshot = text.parse()?;
    let dir = environment::state_dir().join("instances");
    let mut ids = Vec::new();
    let describe = || format!("{} could not be listed", dir.display());
    match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        listed => {
            for entry in listed.context(describe)? {
                let name = entry.context(describe)?.file_name();
                ids.extend(name.into_string().ok());
            }
        }
    }
    let handle_of = |id: &String| id.split('@').next()?.parse::<Handle>().ok();
    let mut handles: Vec<Handle> = ids.iter().filter_map(handle_of).collect();
    handles.dedup();
    let fs = handle::select(wanted.fs.as_str(), &handles).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::new(
            ErrorKind::NotFound,
            format!("there is no instance of {text:?} in {}", dir.display()),
        )
        .hint("set CBFS_STATE_DIR, or name its directory"),
        _ => e,
    })?;
    let master = fs.to_string();
    let id = match wanted.snapshot {
        Some(snapshot) => format!("{fs}@{snapshot}"),
        None if ids.contains(&master) => master,
        None => {
            let slaves: Vec<String> = ids
                .into_iter()
                .filter(|id| handle_of(id).as_ref() == Some(fs))
                .collect();
            match slaves.as_slice() {
                [only] => only.clone(),
                many => {
                    let text = format!("{text:?} is ambiguous: it may be {}", many.join(", "));
                    return Err(Error::new(ErrorKind::Conflict, text).hint("write one of these"));
                }
            }
        }
    };
    Ok(dir.join(id))
}
