//! `cbfsctl index rebuild`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, Output, Stop, printable};
use crate::quantities::{count, plural};
use crate::snapshot_in_bucket::{Wanted, Work};
use cbfs_core::bucket::Bucket;
use cbfs_core::cloud_snapshot::Scratch;
use cbfs_core::error::Context as _;
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::format::{keys, to_sealed_json};
use cbfs_core::handle::{Handle, SnapshotSelector};
use cbfs_core::rebuild::chain::{Link, chain, link};
use cbfs_core::rebuild::proof::{ObjectProof, Original, prove};
use cbfs_core::rebuild::rebuild;
use cbfs_core::{Error, ErrorKind, Result, catalog};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Make the layers and TOCs of a snapshot anew from its tarballs alone, and prove that they say
/// what the originals say, row by row.
///
/// All snapshots that it builds on are rebuilt too, as a mount needs them. Originals may be
/// missing or damaged; manifests too, as long as each snapshot left one attempt with a metadata
/// tarball. Nothing in the bucket is changed: below DIR come TAG-UUID/s/…/toc.sqlite.zst and
/// layer.sqlite.zst, and TAG-UUID/m/ with manifests that refer to them. Copied over a copy of
/// the bucket they make the snapshot mountable again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl index rebuild home@12 --to /srv/index\n  \
    cbfsctl index rebuild home@latest --to /srv/index --bucket file:///srv/bucket --json\n\n\
    Exit codes: 0 all is as it was (or the originals are missing), 14 an original is damaged or\n\
    says something else, or a tarball is damaged, 10 no such snapshot."
)]
pub(crate) struct Args {
    /// The snapshot: FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    /// Where the objects are made: a directory that is empty or does not exist.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Only this snapshot's own layer and TOC, not those of the snapshots it builds on; no manifest.
    #[arg(long)]
    only: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// A rebuilt snapshot, as JSON.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    snapshot: BaseSnapshot,
    /// Whether the bucket has its manifest.
    manifest: bool,
    /// Nothing when nothing changed in it.
    objects: Vec<ObjectProof>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let wanted = Wanted::find(&args.snapshot, &args.bucket, context)?;
    let (bucket, fs_handle) = (&*wanted.bucket, &wanted.fs);
    check_empty(&args.to)?;
    let scratch = Scratch::new()?;
    let rebuilt = Work::run(context, 0, |work| {
        let newest = newest(bucket, fs_handle, &wanted.snapshot)?;
        let links = if args.only {
            vec![newest]
        } else {
            chain(bucket, fs_handle, newest)?
        };
        rebuild_all(bucket, fs_handle, links, args, &scratch, work)
    });
    if matches!(rebuilt, Err(Stop::Interrupted)) {
        let dir = printable(&args.to.to_string_lossy());
        let text = format_args!("interrupted: {dir} holds a part of the objects only");
        context.output.message(text);
    }
    let shown = rebuilt?;
    let output = &mut context.output;
    if output.is_json() {
        output.json(&shown)?;
    } else {
        for snapshot in &shown {
            show(snapshot, output)?;
        }
    }
    let objects = || shown.iter().flat_map(|s| &s.objects);
    let bad = objects().filter(|proof| proof.contradicts()).count();
    if bad > 0 {
        let text = format!(
            "{} of the bucket not what the tarballs say",
            plural(bad as u64, "object is", "objects are")
        );
        return Err(Error::damage(text).into());
    }
    let equal = objects().filter(|proof| proof.original == Original::Equal);
    let equal = equal.count() as u64;
    let total = objects().count() as u64;
    context.output.message(format_args!(
        "{} made in {}; {} of them proved equal to the originals, {} without an original",
        plural(total, "object", "objects"),
        args.to.display(),
        count(equal),
        count(total - equal),
    ));
    Ok(())
}

/// The snapshot that is meant, also when its manifest is lost.
fn newest(bucket: &dyn Bucket, fs: &Handle, selector: &SnapshotSelector) -> Result<Link> {
    match (catalog::find_snapshot_id(bucket, fs, selector)?, selector) {
        (Some(id), _) => link(bucket, fs, id.number, Some(id.epoch)),
        (None, SnapshotSelector::Number(number)) => link(bucket, fs, *number, None),
        (None, _) => {
            let text = format!("{fs} has no snapshot {selector}");
            let hint = format!("`cbfsctl snapshot list {fs}` shows all; name it by its number");
            Err(Error::new(ErrorKind::NotFound, text).hint(hint))
        }
    }
}

fn rebuild_all(
    bucket: &dyn Bucket,
    fs: &Handle,
    links: Vec<Link>,
    args: &Args,
    scratch: &Scratch,
    work: &mut Work,
) -> Result<Vec<Shown>> {
    let out = args.to.join(fs.to_string());
    let total = links.len() as u64;
    let mut shown = Vec::with_capacity(links.len());
    let mut parent: Option<Manifest> = None;
    for (done, link) in (0u64..).zip(links.into_iter().rev()) {
        work.tell(done, total, &format!("snapshot {}", link.id.number))?;
        let mut objects = Vec::new();
        let manifest = match &link.folder {
            Some(folder) => {
                let rebuilt = rebuild(bucket, fs, folder, scratch, &out)?;
                objects = prove(bucket, fs, &link, &rebuilt, scratch)?;
                rebuilt.remove_plain()?;
                Some(rebuilt.manifest(link.manifest.as_ref(), parent.as_ref()))
            }
            // Nothing changed: the layers are those of the parent.
            None => link.manifest.clone().map(|mut manifest| {
                manifest.layers = parent.map(|m| m.layers).unwrap_or_default();
                manifest
            }),
        };
        if let (Some(manifest), false) = (&manifest, args.only) {
            write_manifest(&out, manifest)?;
        }
        parent = manifest;
        shown.push(Shown {
            snapshot: link.id,
            manifest: link.manifest.is_some(),
            objects,
        });
    }
    Ok(shown)
}

fn write_manifest(out: &Path, manifest: &Manifest) -> Result<()> {
    let path = out.join(keys::manifest(manifest.number, manifest.epoch));
    let failed = || format!("{} could not be written", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).context(failed)?;
    }
    fs::write(&path, to_sealed_json(manifest)?).context(failed)
}

fn check_empty(dir: &Path) -> Result<()> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            let text = format!("{} is not empty", dir.display());
            let hint = "name a new or an empty directory";
            Err(Error::new(ErrorKind::Conflict, text).hint(hint))
        }
        Ok(false) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).context(|| format!("{} cannot be used", dir.display())),
    }
}

fn show(snapshot: &Shown, output: &mut Output) -> Outcome {
    let style = output.style();
    let number = snapshot.snapshot.number;
    if snapshot.objects.is_empty() {
        return output.line(format_args!("  snapshot {number}: nothing changed in it"));
    }
    for proof in &snapshot.objects {
        let rows = plural(proof.rows, "row", "rows");
        let (glyph, text) = match &proof.original {
            Original::Equal => (style.good("✔"), format!("{rows}, equal to the original")),
            Original::Missing => ("+".to_owned(), format!("{rows}; the original is missing")),
            Original::Damaged(why) => {
                let why = printable(why);
                (
                    style.bad("✖"),
                    format!("{rows}; the original is damaged: {why}"),
                )
            }
            Original::Different => (style.bad("✖"), format!("{rows}; the original differs")),
        };
        output.line(format_args!("{glyph} {}: {text}", proof.key))?;
        for table in proof.tables.iter().filter(|table| !table.is_equal()) {
            output.line(format_args!(
                "    {}: {} missing, {} extra, {} changed: {}",
                table.table,
                count(table.missing),
                count(table.extra),
                count(table.changed),
                printable(table.first.as_deref().unwrap_or_default())
            ))?;
        }
    }
    Ok(())
}
