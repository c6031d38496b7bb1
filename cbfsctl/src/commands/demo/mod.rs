//! `cbfsctl demo`: all of CBFS in one minute, on real files, and checked.

mod changes;
mod fingerprint;
mod narrator;
mod source_tree;
mod stage;
mod tour;

use super::Context;
use crate::bucket_option;
use crate::fuse_preflight;
use crate::interrupt::{Interrupt, Unheard};
use crate::output::{Outcome, Stop};
use crate::progress::Progress;
use crate::quantities::{bytes, count, per_second, plural};
use crate::snapshot_watch::{self, Watch};
use cbfs_core::api::{MountRequest, Role, SnapshotInfo, SnapshotRequest};
use cbfs_core::bucket::{self, Bucket, BucketUrl};
use cbfs_core::catalog;
use cbfs_core::clock::System;
use cbfs_core::handle::Handle;
use cbfs_core::snapshot::{SnapshotKind, SnapshotState};
use cbfs_core::{Error, ErrorKind};
use fingerprint::Fingerprint;
use narrator::Narrator;
use serde_json::json;
use source_tree::{Copied, Copier, Source};
use stage::{Node, Stage, shell_word};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long one snapshot may take before the demo gives up.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(600);
/// Differences shown when a snapshot is not exact.
const SHOWN_DIFFERENCES: usize = 10;

/// Show CBFS at work: mount, fill, snapshot, change, snapshot, and compare on a second node.
///
/// Makes a bucket and a file system in a temporary directory, runs a daemon of its own, copies a
/// real tree in, takes a snapshot, changes things, takes a second one. Then a second daemon, as
/// a second machine would, mounts both snapshots from the bucket, and every byte and attribute is
/// compared. At the end everything is removed, also after an error or Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl demo\n  cbfsctl demo --tree /usr/share/doc --keep")]
pub(crate) struct Args {
    /// Where to do it: an empty directory, or one to make [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What to copy in [default: the sources of the cargo workspace here, and /usr/include].
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Leave everything as it is at the end, and tell how to go on and how to clean up.
    #[arg(long)]
    keep: bool,
    /// Another bucket than a directory beside; the file system stays in it.
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    fuse_preflight::check()?;
    let sources = source_tree::choose(args.tree.as_deref())?;
    let own_bucket = args
        .bucket
        .as_deref()
        .map(bucket_option::parse)
        .transpose()?;
    let mut stage = Stage::set_up(args.dir.as_deref(), args.keep)?;
    let parting = format!(
        "stopped at once; what is left lies in {}",
        stage.dir.display()
    );
    let interrupt = Interrupt::install(&parting, Unheard::Wait)?;

    let mut narrator = Narrator::new(&mut context.output);
    let result = interrupt.during(|| {
        perform(
            &sources,
            own_bucket.as_ref(),
            &mut stage,
            &interrupt,
            &mut narrator,
        )
    });
    let total = narrator.total();
    let (steps, _) = narrator.into_steps();

    let output = &mut context.output;
    if args.keep {
        let style = output.style();
        for (text, is_heading) in how_to_go_on(&stage) {
            let line = if is_heading { style.bold(text) } else { text };
            if output.is_chatty() {
                output.line(line)?;
            }
        }
    } else {
        if matches!(result, Err(Stop::Interrupted)) {
            output.message("interrupted: cleaning up");
        }
        let problems = stage.tear_down();
        for problem in &problems {
            output.warning(problem);
        }
        if matches!(result, Err(Stop::Error(_))) {
            output.message("run it again with --keep to look at the daemons' logs");
        } else if problems.is_empty() && result.is_ok() {
            output.message(format_args!(
                "cleaned up: both daemons stopped, {} removed",
                stage.dir.display()
            ));
        }
    }
    let fs = result?;
    if output.is_json() {
        return output.json(&json!({
            "fs": fs, "dir": stage.dir, "kept": args.keep, "steps": steps,
            "seconds": total.as_secs_f64(),
        }));
    }
    if let (Some(url), false) = (own_bucket, args.keep) {
        output.message(format_args!("the file system {fs} stays in {url}"));
    }
    Ok(())
}

/// The show itself; tells the file system.
fn perform(
    sources: &[Source],
    own_bucket: Option<&BucketUrl>,
    stage: &mut Stage,
    interrupt: &Interrupt,
    narrator: &mut Narrator<'_>,
) -> Outcome<Handle> {
    narrator.say(
        narrator
            .style()
            .bold("CBFS, a file system that lives in a bucket"),
    )?;

    let url = match own_bucket {
        Some(url) => url.clone(),
        None => BucketUrl::File {
            path: stage.dir.join("bucket"),
        },
    };
    let bucket = bucket::open(&url, false).map_err(Error::from)?;
    let fs = catalog::create_fs(bucket.as_ref(), "demo", &System, &System)?.fs;
    narrator.done(format!("created file system {fs}"))?;
    narrator.detail(format_args!("in the bucket {url}"))?;

    stage.node_a.start(interrupt)?;
    let mount = stage.node_a.mount("mnt", mount_request(&fs, &url, None))?;
    narrator.done("started a daemon and mounted it as master, read-write")?;
    narrator.detail(format_args!("on {}", mount.display()))?;

    copy_in(sources, stage, &mount, interrupt, narrator)?;

    let first = take_snapshot(&fs, Some("first"), &stage.node_a, interrupt, narrator)?;
    let before = fingerprint(&mount, interrupt, narrator)?;
    narrator.done(format!(
        "noted down what the mount holds: {}",
        size_of(&before)
    ))?;

    let changed = changes::change(&mount, &before, interrupt)?;
    narrator.done(format!("changed things: {}", changed.in_words()))?;

    let second = take_snapshot(&fs, None, &stage.node_a, interrupt, narrator)?;
    let after = fingerprint(&mount, interrupt, narrator)?;
    narrator.done(format!("noted down what it holds now: {}", size_of(&after)))?;

    stage.node_b.start(interrupt)?;
    let mut slaves = Vec::new();
    for snapshot in [&first, &second] {
        let request = mount_request(&fs, &url, Some(snapshot));
        slaves.push(
            stage
                .node_b
                .mount(&format!("mnt-{}", snapshot.number), request)?,
        );
    }
    narrator.done(format!(
        "a second node mounted snapshots {} and {} from the bucket, read-only",
        first.number, second.number
    ))?;

    for ((snapshot, noted), slave) in [(&first, &before), (&second, &after)]
        .into_iter()
        .zip(&slaves)
    {
        compare(snapshot, noted, slave, interrupt, narrator)?;
    }
    show_bucket(&fs, &bucket, stage, narrator)?;
    let total = crate::quantities::duration(narrator.total());
    narrator.say(
        narrator
            .style()
            .good(format_args!("\n✔ all of it exact, in {total}")),
    )?;
    Ok(fs)
}

/// A master, or a slave of `snapshot`. The mount point is filled in by the node.
fn mount_request(fs: &Handle, url: &BucketUrl, snapshot: Option<&SnapshotInfo>) -> MountRequest {
    MountRequest {
        fs: fs.to_string(),
        bucket: Some(url.to_string()),
        snapshot: snapshot.map(|s| s.number.to_string()),
        mount_point: PathBuf::new(),
        role: if snapshot.is_some() {
            Role::Slave
        } else {
            Role::Master
        },
        follow: None,
        non_empty: false,
        noatime: false,
        kvs_limit: None,
        i_prevent_split_brain: false,
    }
}

fn copy_in(
    sources: &[Source],
    stage: &Stage,
    mount: &Path,
    interrupt: &Interrupt,
    narrator: &mut Narrator<'_>,
) -> Outcome {
    let mut progress = Progress::new(narrator.output, 0);
    let mut tick = |c: &Copied| {
        progress.update(0, 0, || {
            format!(
                "copying: {}, {}",
                plural(c.files, "file", "files"),
                bytes(c.bytes)
            )
        });
    };
    let mut copier = Copier::new(&stage.dir, interrupt, &mut tick);
    for source in sources {
        copier.copy(&source.path, &mount.join(&source.name))?;
    }
    let copied = copier.copied;
    progress.finish();
    changes::make_odd_ones(mount)?;
    let took = narrator.elapsed();
    narrator.done_in(
        took,
        format!(
            "copied in {}, {}, {}: {} ({} files/s)",
            plural(copied.files, "file", "files"),
            plural(copied.directories, "directory", "directories"),
            plural(copied.symlinks + copied.hard_links, "link", "links"),
            bytes(copied.bytes),
            count(per_second(copied.files, took)),
        ),
    )?;
    for source in sources {
        narrator.detail(format_args!(
            "{}/ from {}",
            source.name,
            source.path.display()
        ))?;
    }
    narrator.detail("and some odd ones: sparse, hard-linked, tagged, named in Latin-1")?;
    if copied.skipped > 0 {
        narrator.detail(format_args!(
            "{} left out: unreadable or special",
            count(copied.skipped)
        ))?;
    }
    Ok(())
}

fn take_snapshot(
    fs: &Handle,
    name: Option<&str>,
    node: &Node,
    interrupt: &Interrupt,
    narrator: &mut Narrator<'_>,
) -> Outcome<SnapshotInfo> {
    let request = SnapshotRequest {
        fs: fs.to_string(),
        name: name.map(str::to_owned),
        kind: SnapshotKind::User,
    };
    let number = node.client.create_snapshot(&request)?.number;
    let watch = Watch {
        fs: &fs.to_string(),
        number,
        until: SnapshotState::Complete,
        timeout: Some(SNAPSHOT_PATIENCE),
        stream: false,
    };
    let info = snapshot_watch::follow(watch, &node.client, interrupt, narrator.output)?;
    let name = name.map(|n| format!(" ({n})")).unwrap_or_default();
    narrator.done(format!(
        "snapshot {number}{name} is complete in the bucket: {} from {}, {} in {}",
        bytes(info.bytes_total),
        plural(info.files_total, "file", "files"),
        bytes(info.sent_bytes),
        plural(info.objects_sent, "object", "objects"),
    ))?;
    Ok(info)
}

fn fingerprint(
    root: &Path,
    interrupt: &Interrupt,
    narrator: &mut Narrator<'_>,
) -> Outcome<Fingerprint> {
    let mut progress = Progress::new(narrator.output, 0);
    let mut tick = |entries, read| {
        progress.update(0, 0, || {
            format!(
                "reading: {}, {}",
                plural(entries, "entry", "entries"),
                bytes(read)
            )
        });
    };
    Fingerprint::take(root, interrupt, &mut tick)
}

fn size_of(fingerprint: &Fingerprint) -> String {
    let entries = fingerprint.entries.len() as u64;
    format!(
        "{}, {}",
        plural(entries, "entry", "entries"),
        bytes(fingerprint.bytes)
    )
}

/// The slave must hold exactly what was noted down, and refuse to be written to.
fn compare(
    snapshot: &SnapshotInfo,
    noted: &Fingerprint,
    slave: &Path,
    interrupt: &Interrupt,
    narrator: &mut Narrator<'_>,
) -> Outcome {
    let found = fingerprint(slave, interrupt, narrator)?;
    let differences = noted.differences(&found);
    if !differences.is_empty() {
        let shown = differences
            .iter()
            .take(SHOWN_DIFFERENCES)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        let text = format!(
            "snapshot {} differs from the mount at {}",
            snapshot.number,
            plural(differences.len() as u64, "path", "paths")
        );
        return Err(Error::new(ErrorKind::Damage, text)
            .because(shown)
            .hint("this is a bug in CBFS: please report it; --keep leaves all for a look")
            .into());
    }
    match fs::File::create_new(slave.join("must not appear")) {
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
        Ok(_) => return Err(Error::failed("a slave could be written to").into()),
        Err(e) => {
            return Err(Error::failed("a slave refused a write in a wrong way")
                .because(e)
                .into());
        }
    }
    narrator.done(format!(
        "snapshot {} is exact: {} compared",
        snapshot.number,
        size_of(&found)
    ))?;
    narrator
        .detail("contents, mode, owner, size, mtime to the ns, links, symlinks, xattrs; read-only")
}

fn show_bucket(
    fs: &Handle,
    bucket: &Arc<dyn Bucket>,
    stage: &Stage,
    narrator: &mut Narrator<'_>,
) -> Outcome {
    let listed = bucket.list(&fs.to_string()).map_err(Error::from)?;
    let objects: Vec<(String, u64)> = listed
        .into_iter()
        .map(|o| (o.key.as_str().to_owned(), o.size))
        .collect();
    let keys: Vec<String> = objects.iter().map(|(key, _)| key.clone()).collect();
    let manifests = catalog::manifests(bucket.as_ref(), fs)?;
    narrator.done(format!(
        "in the bucket lie {}, {}:",
        plural(objects.len() as u64, "object", "objects"),
        bytes(objects.iter().map(|(_, size)| size).sum())
    ))?;
    for line in tour::tree(&objects) {
        narrator.say(format_args!("      {line}"))?;
    }
    let recover = tour::recovery_script();
    let scratch = scratch_of(&stage.dir);
    let opening = tour::Opening {
        fs,
        bucket: bucket.url(),
        manifests: &manifests,
        keys: &keys,
        scratch: &scratch,
        recover: recover.as_deref(),
    };
    narrator.say(
        narrator
            .style()
            .bold("\nEvery object opens with tools that you have (with --keep it stays for that):"),
    )?;
    for (what, command) in tour::commands(&opening) {
        narrator.say(narrator.style().dim(format_args!("  # {what}")))?;
        narrator.say(format_args!("  {command}"))?;
    }
    Ok(())
}

/// Where the commands that the demo prints put their results: beside its directory, not in it.
fn scratch_of(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push("-look");
    PathBuf::from(name)
}

/// What to do with a demo that was kept; headings are marked.
fn how_to_go_on(stage: &Stage) -> Vec<(String, bool)> {
    let program = match std::env::current_exe() {
        Ok(path) => shell_word(&path),
        Err(_) => "cbfsctl".to_owned(),
    };
    let mut lines = vec![("\nKept for you:".to_owned(), true)];
    let nodes = [&stage.node_a, &stage.node_b];
    let running: Vec<(&Node, u32)> = nodes.iter().filter_map(|n| Some((*n, n.pid()?))).collect();
    for (node, _) in &running {
        lines.push((
            format!(
                "  {program} --socket {} status",
                shell_word(&node.place.socket)
            ),
            false,
        ));
    }
    lines.push((
        format!("  ls {}", shell_word(&stage.node_a.dir.join("mnt"))),
        false,
    ));
    for (node, _) in &running {
        lines.push((format!("  less {}", shell_word(&node.place.log())), false));
    }
    lines.push(("Clean up with:".to_owned(), true));
    for (node, _) in &running {
        for instance in node.client.instances().unwrap_or_default() {
            if let Some(mount_point) = instance.mount_point {
                let socket = shell_word(&node.place.socket);
                let mount_point = shell_word(&mount_point);
                lines.push((
                    format!("  {program} --socket {socket} umount {mount_point}"),
                    false,
                ));
            }
        }
    }
    for (_, pid) in &running {
        lines.push((format!("  kill {pid}"), false));
    }
    let (dir, scratch) = (shell_word(&stage.dir), shell_word(&scratch_of(&stage.dir)));
    lines.push((format!("  rm -rf {dir} {scratch}"), false));
    lines
}
