//! `cbfsctl index show`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::Outcome;
use crate::quantities::{bytes, count};
use crate::snapshot_in_bucket::{Wanted, Work};
use crate::table::{Align, Table};
use cbfs_core::cloud_snapshot::{Scratch, Summary};
use serde::Serialize;
use std::sync::Arc;

/// Show what the index of a snapshot holds: layers with their rows, and how much of which
/// tarballs is still read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl index show home@12\n  \
    cbfsctl index show home@latest --json | jq '[.tocs[].live_bytes] | add'")]
pub(crate) struct Args {
    /// The snapshot: FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    #[command(flatten)]
    bucket: BucketOption,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Shown {
    fs: String,
    number: u64,
    #[serde(flatten)]
    summary: Summary,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let wanted = Wanted::find(&args.snapshot, &args.bucket, context)?;
    let scratch = Arc::new(Scratch::new()?);
    let shown = Work::run(context, 0, |_| {
        let snapshot = wanted.open(&scratch)?;
        Ok(Shown {
            fs: wanted.fs.to_string(),
            number: snapshot.manifest().number.0,
            summary: snapshot.summary()?,
        })
    })?;
    let output = &mut context.output;
    if output.is_json() {
        return output.json(&shown);
    }
    let right = Align::Right;
    let mut layers = Table::new(&[
        ("SNAPSHOTS", Align::Left),
        ("INODES", right),
        ("GONE", right),
        ("NAMES", right),
        ("GONE", right),
        ("SYMLINKS", right),
        ("XATTRS", right),
        ("EXTENTS", right),
        ("BLOCKS", right),
        ("HOLES", right),
        ("SIZE", right),
        ("LAYER", Align::Left),
    ]);
    for layer in &shown.summary.layers {
        let (of, rows) = (&layer.object, &layer.rows);
        layers.row([
            match of.from == of.to {
                true => of.to.to_string(),
                false => format!("{} to {}", of.from, of.to),
            },
            count(rows.inodes),
            count(rows.gone),
            count(rows.names),
            count(rows.names_gone),
            count(rows.links),
            count(rows.xattrs),
            count(rows.extents),
            count(rows.blocks),
            count(rows.holes),
            bytes(of.object.size),
            of.object.key.clone(),
        ]);
    }
    output.table(&layers)?;
    if shown.summary.tocs.is_empty() {
        return Ok(());
    }
    let mut tocs = Table::new(&[
        ("WRITTEN IN", Align::Left),
        ("TARBALLS", right),
        ("LIVE", right),
        ("SECTIONS", right),
        ("LIVE", right),
        ("STORED", right),
        ("LIVE", right),
        ("TOC", Align::Left),
    ]);
    for toc in &shown.summary.tocs {
        tocs.row([
            toc.snapshot.to_string(),
            count(toc.tarballs),
            count(toc.live_tarballs),
            count(toc.sections),
            count(toc.live_sections),
            bytes(toc.stored_bytes),
            bytes(toc.live_bytes),
            toc.object.key.clone(),
        ]);
    }
    output.line("")?;
    output.table(&tocs)
}
