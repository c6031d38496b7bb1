//! `cbfsctl warm`.

use super::Context;
use crate::client::DaemonClient;
use crate::interrupt::{Interrupt, Unheard};
use crate::output::{Outcome, Output, printable};
use crate::progress::Progress;
use crate::{quantities, target};
use cbfs_core::api::{ErrorDetail, WarmRequest};
use cbfs_core::error::Context as _;
use cbfs_core::{Error, ErrorKind, Result};
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name in the root directory that is CBFS's own.
const RESERVED_NAME: &str = ".cbfs";
/// Bytes of files that are asked for together, but for the last of them: progress is told after each request.
const BATCH_BYTES: u64 = 64 << 20;

/// Fetch contents from the bucket in advance, to stay on this node.
///
/// What is read later from these files then needs no bucket: on a slave as long as the snapshots it shows have them
/// unchanged, and after a promotion of that slave too. On a master that was promoted it makes them independent of the bucket for good;
/// any other master has all its contents anyway. What is fetched takes as much room as in the bucket (compressed), in the
/// proxy cache of the instance; it goes with the mount. The last 256 MiB of the disk are left alone. It may be
/// interrupted and begun again: what is here is not fetched twice.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl warm home\n  cbfsctl warm /mnt/home projects/now etc\n  \
    cbfsctl warm home@12 --json | jq .fetched_bytes"
)]
pub(crate) struct Args {
    /// The file system (TAG, UUID prefix or full handle; FS@NUMBER for a slave), or its mount point.
    #[arg(value_name = "FS|DIR")]
    instance: String,
    /// Files and directories, relative to the mount point or below it; all of it when none is given.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Shown {
    id: String,
    files: u64,
    fetched_bytes: u64,
    kept_bytes: u64,
    failed: Vec<Failed>,
}

impl Shown {
    fn is_something(&self) -> bool {
        self.files > 0 || !self.failed.is_empty()
    }
}

/// A file that is not whole here.
#[derive(Debug, Serialize)]
struct Failed {
    path: String,
    error: ErrorDetail,
}

/// Files that are asked for together, and what came of those before.
struct Warming<'a> {
    client: &'a DaemonClient,
    interrupt: &'a Interrupt,
    device: u64,
    batch: Vec<(u64, PathBuf)>,
    batch_bytes: u64,
    /// Inodes of files with several names.
    seen: HashSet<u64>,
    shown: Shown,
    progress: Progress,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let instance = target::choose_instance(&args.instance, client.instances()?)?;
    let mount_point = instance.mount_point.clone().ok_or_else(|| {
        let text = format!("{} is not mounted", instance.id);
        Error::new(ErrorKind::Conflict, text).hint("`cbfsctl mount` mounts it")
    })?;
    let interrupt = Interrupt::install("interrupted; what is here is here", Unheard::End)?;
    let root = look_at(&mount_point)?;
    let mut warming = Warming {
        client: &client,
        interrupt: &interrupt,
        device: root.dev(),
        batch: Vec::new(),
        batch_bytes: 0,
        seen: HashSet::new(),
        shown: Shown {
            id: instance.id,
            ..Shown::default()
        },
        progress: Progress::new(&context.output, 0),
    };
    let tops = match args.paths.is_empty() {
        true => vec![mount_point.clone()],
        false => args.paths.iter().map(|p| mount_point.join(p)).collect(),
    };
    // A word that is misspelt is told before anything is fetched.
    for top in &tops {
        if look_at(top)?.dev() != warming.device {
            let (top, mount_point) = (top.display(), mount_point.display());
            let text = format!("{top} is not in the file system mounted on {mount_point}");
            return Err(Error::new(ErrorKind::Usage, text)
                .hint("paths are relative to the mount point, or below it")
                .into());
        }
    }
    let walked = interrupt.during(|| {
        for top in &tops {
            warming.walk(top, top == &mount_point)?;
        }
        warming.send()
    });
    let Warming {
        shown, progress, ..
    } = warming;
    progress.finish();
    // What was done before an error, or Ctrl-C, is done, and a damaged file that was met is damaged.
    if walked.is_ok() || shown.is_something() {
        tell(&shown, &mut context.output)?;
    }
    walked?;
    damage(&shown)
}

fn look_at(path: &Path) -> Result<Metadata> {
    fs::symlink_metadata(path).map_err(|e| {
        let text = format!("{} could not be looked at", path.display());
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Failed,
        };
        let error = Error::new(kind, text).because(e);
        error.hint("paths are relative to the mount point, or below it")
    })
}

impl Warming<'_> {
    /// Without recursion: trees may be deep.
    fn walk(&mut self, top: &Path, is_root: bool) -> Outcome {
        let mut left = vec![top.to_owned()];
        while let Some(path) = left.pop() {
            self.interrupt.check()?;
            let found = match fs::symlink_metadata(&path) {
                // Somebody removed it meanwhile, or the slave moved on.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                found => found.context(|| format!("{} could not be looked at", path.display()))?,
            };
            if found.dev() != self.device {
                continue; // another file system, mounted in this one
            }
            if found.is_dir() {
                let entries = match fs::read_dir(&path) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    entries => entries,
                };
                let describe = || format!("{} could not be listed", path.display());
                for entry in entries.context(describe)? {
                    let entry = entry.context(describe)?;
                    if !(is_root && path == top && entry.file_name() == RESERVED_NAME) {
                        left.push(entry.path());
                    }
                }
            } else if found.is_file() && (found.nlink() == 1 || self.seen.insert(found.ino())) {
                self.batch.push((found.ino(), path));
                self.batch_bytes = self.batch_bytes.saturating_add(found.len());
                if self.batch.len() >= WarmRequest::MOST || self.batch_bytes >= BATCH_BYTES {
                    self.send()?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Outcome {
        self.interrupt.check()?;
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let inodes = batch.iter().map(|(ino, _)| *ino).collect();
        // A daemon whose client is gone gives up after the sections it is fetching.
        let done = self.client.warm(&self.shown.id, &WarmRequest { inodes })?;
        let shown = &mut self.shown;
        shown.files += done.files;
        shown.fetched_bytes += done.fetched_bytes;
        shown.kept_bytes += done.kept_bytes;
        for failure in done.failed {
            let path = batch.iter().find(|(ino, _)| *ino == failure.inode);
            let path = path.map(|(_, path)| path.to_string_lossy().into_owned());
            shown.failed.push(Failed {
                path: path.unwrap_or_default(),
                error: failure.error,
            });
        }
        let (files, fetched) = (shown.files, shown.fetched_bytes);
        self.progress.update(0, 0, || {
            let files = quantities::count(files);
            format!("{files} files, {} fetched", quantities::bytes(fetched))
        });
        Ok(())
    }
}

fn tell(shown: &Shown, output: &mut Output) -> Outcome {
    if output.is_json() {
        output.json(shown)?;
    } else {
        for failed in &shown.failed {
            let (path, why) = (printable(&failed.path), printable(&failed.error.message));
            output.warning(format_args!("{path}: {why}"));
        }
        output.message(format_args!(
            "{}: the contents of {} are on this node; {} fetched, {} were here",
            printable(&shown.id),
            quantities::plural(shown.files, "file", "files"),
            quantities::bytes(shown.fetched_bytes),
            quantities::bytes(shown.kept_bytes)
        ));
    }
    Ok(())
}

fn damage(shown: &Shown) -> Outcome {
    if shown.failed.is_empty() {
        return Ok(());
    }
    let count = shown.failed.len() as u64;
    let text = format!(
        "{} could not be fetched whole",
        quantities::plural(count, "file", "files")
    );
    let hint =
        "an object is damaged or missing: `cbfsctl snapshot verify FS@N --deep` tells all of it";
    Err(Error::damage(text).hint(hint).into())
}
