//! `cbfsctl snapshot diff`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, Output};
use crate::path_text::path_text;
use crate::quantities::plural;
use crate::snapshot_in_bucket::{Wanted, Work};
use cbfs_core::cloud_snapshot::Scratch;
use cbfs_core::diff::{Aspect, Change, Entry, diff};
use cbfs_core::handle::SnapshotSelector;
use cbfs_core::ids::Ino;
use cbfs_core::inode::FileKind;
use cbfs_core::names::{JsonPath, to_hex};
use cbfs_core::{Error, ErrorKind};
use serde::Serialize;
use std::sync::Arc;

/// Show what differs between two snapshots of a file system.
///
/// One line per path, by the bytes of the paths: `+` added, `-` removed, `M` changed (contents),
/// `m` only attributes changed, `R` renamed; what differs stands behind. A renamed directory is
/// one line, and what lies in it is none. Only the index is read: a block that was written anew
/// with the same bytes counts as changed. Access times are not compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl snapshot diff home@5 home@9\n  \
    cbfsctl snapshot diff home@monday latest --bucket file:///srv/bucket\n  \
    cbfsctl snapshot diff home@5 9 --json | jq -r '.[] | select(.change == \"removed\").path'\n\n\
    With --json names that are not UTF-8 are `path_hex` (`from_hex`) instead of `path` (`from`).")]
pub(crate) struct Args {
    /// The first snapshot: FS@5, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    first: String,
    /// The second one: likewise, or without FS@: 9, NAME or latest.
    #[arg(value_name = "[FS@]SNAP")]
    second: String,
    #[command(flatten)]
    bucket: BucketOption,
}

/// An entry as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    change: Change,
    #[serde(flatten)]
    path: JsonPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_hex: Option<String>,
    kind: FileKind,
    ino: Ino,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    differs: &'a [Aspect],
}

impl<'a> Shown<'a> {
    fn of(entry: &'a Entry) -> Shown<'a> {
        let from = entry
            .from
            .as_deref()
            .map(|from| match std::str::from_utf8(from) {
                Ok(text) => (Some(text.to_owned()), None),
                Err(_) => (None, Some(to_hex(from))),
            });
        let (from, from_hex) = from.unwrap_or_default();
        Shown {
            change: entry.change,
            path: JsonPath::new(&entry.path),
            from,
            from_hex,
            kind: entry.kind,
            ino: entry.ino,
            old_size: entry.old_size,
            size: entry.size,
            differs: &entry.differs,
        }
    }
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let first = Wanted::find(&args.first, &args.bucket, context)?;
    let second = if args.second.contains('@') {
        Wanted::find(&args.second, &args.bucket, context)?
    } else {
        Wanted {
            bucket: Arc::clone(&first.bucket),
            fs: first.fs.clone(),
            snapshot: args.second.parse::<SnapshotSelector>()?,
        }
    };
    if first.fs != second.fs {
        let text = format!("{} and {} are different file systems", first.fs, second.fs);
        let error = Error::new(ErrorKind::Usage, text);
        return Err(error
            .hint("only snapshots of one file system can be compared")
            .into());
    }
    let scratch = Arc::new(Scratch::new()?);
    let entries = Work::run(context, 0, |_| {
        diff(&first.open(&scratch)?, &second.open(&scratch)?)
    })?;
    let output = &mut context.output;
    if output.is_json() {
        return output.json(&entries.iter().map(Shown::of).collect::<Vec<_>>());
    }
    for entry in &entries {
        show(entry, output)?;
    }
    let count = |change: Change| entries.iter().filter(|e| e.change == change).count();
    output.message(format_args!(
        "{}: {} added, {} removed, {} changed, {} renamed, {} in attributes only",
        plural(entries.len() as u64, "difference", "differences"),
        count(Change::Added),
        count(Change::Removed),
        count(Change::Changed),
        count(Change::Renamed),
        count(Change::Metadata),
    ));
    Ok(())
}

fn show(entry: &Entry, output: &mut Output) -> Outcome {
    let letter = match entry.change {
        Change::Added => "+",
        Change::Removed => "-",
        Change::Changed => "M",
        Change::Renamed => "R",
        Change::Metadata => "m",
    };
    let kind = match entry.kind {
        FileKind::File => "file",
        FileKind::Directory => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice | FileKind::BlockDevice => "device",
    };
    let path = path_text(&entry.path);
    let path = match &entry.from {
        Some(from) => format!("{} -> {path}", path_text(from)),
        None => path,
    };
    let differs: Vec<&str> = entry.differs.iter().map(|a| name_of(*a)).collect();
    let differs = match differs.is_empty() {
        true => String::new(),
        false => format!("  ({})", differs.join(", ")),
    };
    let differs = output.style().dim(differs);
    output.line(format_args!("{letter} {kind:<7} {path}{differs}"))
}

fn name_of(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Contents => "contents",
        Aspect::Mode => "mode",
        Aspect::Owner => "owner",
        Aspect::Xattrs => "xattrs",
        Aspect::Mtime => "mtime",
        Aspect::Ctime => "ctime",
        Aspect::Device => "device",
    }
}
